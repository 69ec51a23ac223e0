// Package seal encrypts the few secrets that the database has to keep: signing keys and upstream credentials.
//
// One master key, in a file that only the platform's account may read, seals them all with AES-256-GCM. Whoever has a
// copy of the database but not the file has nothing; whoever has lost the file has lost what was sealed with it, so it
// belongs in the backup, apart from the database.
//
// Each sealed value is bound to a purpose, such as "signing-key/7f3a": moved to another row it does not open.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// KeySize is the length of a master key in bytes.
	KeySize = 32
	// version leads each sealed value, so that another cipher can follow one day.
	version = 1
)

// Key seals and opens. It never shows itself: not in logs, not in JSON.
type Key struct {
	aead   cipher.AEAD
	secret []byte
}

// New returns the Key of 32 secret bytes.
func New(secret []byte) (*Key, error) {
	if len(secret) != KeySize {
		return nil, fault.New(fault.Invalid, "a master key has %d bytes, not %d", KeySize, len(secret))
	}
	sub, err := hkdf.Key(sha256.New, secret, nil, "entrepot seal", KeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(sub)
	if err != nil {
		return nil, err
	}
	// The nonce is random: GCM allows 2³² values under one key, and we seal a few thousand.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Key{aead: aead, secret: append([]byte(nil), secret...)}, nil
}

// String hides the key from %v and %s.
func (k *Key) String() string { return "[master key]" }

// GoString hides the key from %#v.
func (k *Key) GoString() string { return k.String() }

// Seal encrypts a secret for a purpose.
func (k *Key) Seal(plain []byte, purpose string) []byte {
	return k.aead.Seal([]byte{version}, nil, plain, []byte(purpose))
}

// Open decrypts what Seal made for the same purpose. Anything else is Precondition, with the reason SEAL_BROKEN.
func (k *Key) Open(sealed []byte, purpose string) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != version {
		return nil, broken(purpose)
	}
	plain, err := k.aead.Open(nil, nil, sealed[1:], []byte(purpose))
	if err != nil {
		return nil, broken(purpose)
	}
	return plain, nil
}

func broken(purpose string) error {
	return fault.New(fault.Precondition, "%s was sealed with another master key, or was changed", purpose).WithReason("SEAL_BROKEN")
}

// Derive returns 32 bytes for a use of their own, the same ones each time. They tell nothing about the key.
func (k *Key) Derive(purpose string) []byte {
	out, err := hkdf.Key(sha256.New, k.secret, nil, "entrepot derive "+purpose, KeySize)
	if err != nil {
		panic(err) // only for an absurd length
	}
	return out
}

// LoadOrCreate reads the master key of a file, 64 hexadecimal digits, and makes the file with mode 0600 if it is not
// there. Two processes that do so at once get the same key. A file that others may read is refused.
func LoadOrCreate(path string) (*Key, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the master key file %s: %w", path, err)
	}
	return Load(path)
}

// Load reads the master key of a file like LoadOrCreate, but makes none: a file that is not there is fs.ErrNotExist.
func Load(path string) (*Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	// The group may read it: that is how Kubernetes mounts a secret for a process that is not root.
	if info.Mode().Perm()&0o027 != 0 {
		return nil, fault.New(fault.Precondition, "the master key file %s is open to others (%v): chmod 600 it", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("master key: %w", err)
	}
	secret, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != KeySize {
		return nil, fault.New(fault.Precondition, "the master key file %s does not hold %d hexadecimal digits", path, 2*KeySize)
	}
	return New(secret)
}

// create links a complete file into place: link fails if another process was first, and nobody sees half a key.
func create(path string) (err error) {
	secret := make([]byte, KeySize)
	rand.Read(secret)                                              // never fails
	tmp, err := os.CreateTemp(filepath.Dir(path), ".master-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.WriteString(hex.EncodeToString(secret) + "\n"); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := errors.Join(tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
