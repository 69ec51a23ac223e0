package authn

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
)

const (
	// keyAlphabet is what conda's token pattern /t/([a-zA-Z0-9-]*) takes, without the dash that ends a word on double click.
	keyAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	// KeyIDLength is how many leading characters of a key are its public id.
	KeyIDLength = 12
	// keySecretLength characters of a 62-letter alphabet hold 34 × 5.95 = 202 bits; 192 are asked for.
	keySecretLength = 34
	// KeyLength is the length of a whole API key.
	KeyLength = KeyIDLength + keySecretLength
	// ImportedKeyLength is the length of keys that were given out by a Quetz server and moved here: behind the public id
	// they have 20 characters, 119 bits.
	ImportedKeyLength = 32
)

// KeyHash is the SHA-256 of a whole API key or session: all that is stored of it. A fast hash suffices, because what
// is hashed is random, not chosen by a person.
type KeyHash [sha256.Size]byte

// NewAPIKey makes a key from random (crypto/rand.Reader outside tests): the whole key, which is shown once, its public
// id, and the hash to store.
func NewAPIKey(random io.Reader) (full, id string, hash KeyHash, err error) {
	full, err = RandomString(random, KeyLength)
	if err != nil {
		return "", "", KeyHash{}, err
	}
	return full, full[:KeyIDLength], HashKey(full), nil
}

// RandomString returns n letters and digits, each equally likely.
func RandomString(random io.Reader, n int) (string, error) {
	out := make([]byte, 0, n)
	buf := make([]byte, n)
	for len(out) < n {
		if _, err := io.ReadFull(random, buf); err != nil {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
		for _, b := range buf {
			// 248 is the largest multiple of 62 in a byte: what lies above would favour the first letters.
			if b < 248 && len(out) < n {
				out = append(out, keyAlphabet[b%62])
			}
		}
	}
	return string(out), nil
}

// HashKey returns the hash of a key as the client sent it.
func HashKey(full string) KeyHash { return sha256.Sum256([]byte(full)) }

// Equal compares in constant time.
func (h KeyHash) Equal(other []byte) bool { return subtle.ConstantTimeCompare(h[:], other) == 1 }

// WholeKey reports whether s is as long as a whole key.
func WholeKey(s string) bool { return len(s) == KeyLength || len(s) == ImportedKeyLength }

// ParseKeyID returns the public id of a key: its first characters, whether the whole key or only the id was given.
// It reports false for what cannot be either.
func ParseKeyID(s string) (id string, ok bool) {
	if len(s) != KeyIDLength && !WholeKey(s) {
		return "", false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return "", false
		}
	}
	return s[:KeyIDLength], true
}
