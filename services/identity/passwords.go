package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"runtime"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Argon2 are the parameters of argon2id (RFC 9106). They stand in each hash, so they may change: a hash with others is
// made anew when its user logs in.
type Argon2 struct {
	// Memory is in KiB, Time counts passes, Threads lanes.
	Memory, Time uint32
	Threads      uint8
}

// defaultArgon2 is OWASP's recommendation of 19 MiB and two passes: about 30 ms of one core.
var defaultArgon2 = Argon2{Memory: 19 << 10, Time: 2, Threads: 1}

const (
	saltLength = 16
	hashLength = 32
	// minPassword characters, after NIST SP 800-63B's 8 and a little more; there are no rules about what they are.
	minPassword = 10
	// maxPassword bounds what is hashed, in bytes.
	maxPassword = 1024
)

// passwords makes and checks hashes, only so many at a time: each takes its memory, and strangers can ask for them.
type passwords struct {
	params Argon2
	random io.Reader
	slots  chan struct{}
	dummy  string // what is checked for those who have no password
}

func newPasswords(params Argon2, random io.Reader) (*passwords, error) {
	if params == (Argon2{}) {
		params = defaultArgon2
	}
	p := &passwords{params: params, random: random, slots: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)))}
	unguessable := rand.Text()
	dummy, err := p.hash(context.Background(), unguessable)
	p.dummy = dummy
	return p, err
}

func (p *passwords) key(ctx context.Context, password string, salt []byte, a Argon2, length uint32) ([]byte, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return argon2.IDKey([]byte(password), salt, a.Time, a.Memory, a.Threads, length), nil
}

// hash returns the password's hash in PHC form.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltLength)
	if _, err := io.ReadFull(p.random, salt); err != nil {
		return "", fmt.Errorf("read random bytes: %w", err)
	}
	sum, err := p.key(ctx, password, salt, p.params, hashLength)
	if err != nil {
		return "", err
	}
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.params.Memory, p.params.Time, p.params.Threads,
		b64.EncodeToString(salt), b64.EncodeToString(sum)), nil
}

// verify reports whether the password belongs to the hash, and whether the hash should be made anew. An empty hash takes
// as long as any, and fits nothing.
func (p *passwords) verify(ctx context.Context, password, hash string) (ok, stale bool, err error) {
	unknown := hash == ""
	if unknown {
		hash = p.dummy
	}
	a, salt, want, err := parseHash(hash)
	if err != nil {
		return false, false, err
	}
	got, err := p.key(ctx, password[:min(len(password), maxPassword)], salt, a, uint32(len(want)))
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(got, want) == 1 && !unknown && len(password) <= maxPassword
	return ok, a != p.params || len(want) != hashLength, nil
}

// parseHash reads what hash writes. Bounds keep a forged row from taking all memory.
func parseHash(hash string) (a Argon2, salt, sum []byte, err error) {
	bad := fault.New(fault.Internal, "a stored password hash cannot be read")
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return a, nil, nil, bad
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &a.Memory, &a.Time, &a.Threads); n != 3 || err != nil {
		return a, nil, nil, bad
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return a, nil, nil, bad
	}
	if sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return a, nil, nil, bad
	}
	if a.Memory < 8 || a.Memory > 1<<20 || a.Time < 1 || a.Time > 64 || a.Threads < 1 || len(salt) < 8 || len(sum) < 16 || len(sum) > 64 {
		return a, nil, nil, bad
	}
	return a, salt, sum, nil
}

// checkPassword says what is wrong with a new password.
func checkPassword(field, username, password string) error {
	switch {
	case !utf8.ValidString(password) || strings.ContainsRune(password, 0):
		return fault.Field(field, "a password must be text")
	case utf8.RuneCountInString(password) < minPassword:
		return fault.Field(field, "a password must have at least %d characters", minPassword)
	case len(password) > maxPassword:
		return fault.Field(field, "a password can have at most %d bytes", maxPassword)
	case strings.EqualFold(password, username):
		return fault.Field(field, "a password must not be the user's name")
	}
	return nil
}
