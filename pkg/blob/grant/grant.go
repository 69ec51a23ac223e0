// Package grant signs and checks the slips of paper that open the data plane.
//
// Knowing a digest gives nothing: to read or write a blob over HTTP one shows a grant. It says which blob (or: an
// upload, whose digest is not known yet), which methods, until when, how many bytes and for which audience, and is
// signed with HMAC-SHA256 by a key that only the storage service and the data planes hold. A service issues one after
// it has decided that the caller may; the data plane then needs to ask nobody.
//
//	token = base64url(payload) "." base64url(HMAC-SHA256(key, "entrepot-grant-v1\n" payload))
//	payload = {"k":"key id","d":"digest or empty","m":"r|w|rw","x":expiry in Unix seconds,"s":max bytes,"a":"audience"}
//
// Two keys are valid at once: a new key is given to all verifiers first, then signers change to it, and the old one is
// dropped when the last grant signed with it has expired.
package grant

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync/atomic"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// MinSecret is the length of the shortest key taken, in bytes; RFC 2104 wants at least the hash's output.
	MinSecret = 32
	// MaxTTL bounds how long a grant can live. Revocation waits for expiry, so ask for minutes.
	MaxTTL = 24 * time.Hour
	// Skew is how far verifiers let clocks differ.
	Skew = 5 * time.Second

	context  = "entrepot-grant-v1\n"
	maxToken = 1024 // longer ones are refused unread
)

// Methods is a set of what a grant allows.
type Methods uint8

// Read is GET and HEAD of one blob, Write is PUT and POST.
const (
	Read Methods = 1 << iota
	Write
)

// Grant is what its bearer may do.
type Grant struct {
	// Digest is the blob. The zero Digest is an upload of whatever it will turn out to be, and cannot be read.
	Digest  blob.Digest
	Methods Methods
	// Expires is rounded down to the second.
	Expires time.Time
	// MaxSize bounds an upload, in bytes; 0 means the data plane's own bound.
	MaxSize int64
	// Audience names the data plane (or group of them) that the grant is for.
	Audience string
}

// Key is an HMAC key with the name that grants refer to it by.
type Key struct {
	ID     string
	Secret []byte
}

// String keeps the secret out of logs.
func (k Key) String() string { return "grant key " + k.ID }

// GoString is String.
func (k Key) GoString() string { return k.String() }

func (k Key) validate() error {
	if k.ID == "" || len(k.ID) > 64 {
		return fault.New(fault.Internal, "a grant key needs an id of at most 64 bytes")
	}
	if len(k.Secret) < MinSecret {
		return fault.New(fault.Internal, "grant key %s has %d bytes, fewer than %d", k.ID, len(k.Secret), MinSecret)
	}
	return nil
}

type payload struct {
	Key      string `json:"k"`
	Digest   string `json:"d,omitempty"`
	Methods  string `json:"m"`
	Expires  int64  `json:"x"`
	MaxSize  int64  `json:"s,omitempty"`
	Audience string `json:"a,omitempty"`
}

func mac(secret []byte, body []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(context))
	h.Write(body)
	return h.Sum(nil)
}

// Signer issues grants. It may be used from many goroutines.
type Signer struct {
	key atomic.Pointer[Key]
	now func() time.Time
}

// NewSigner returns a signer; now nil means time.Now.
func NewSigner(key Key, now func() time.Time) (*Signer, error) {
	if now == nil {
		now = time.Now
	}
	s := &Signer{now: now}
	return s, s.SetKey(key)
}

// SetKey changes the key for the grants to come.
func (s *Signer) SetKey(key Key) error {
	if err := key.validate(); err != nil {
		return err
	}
	s.key.Store(&key)
	return nil
}

// Sign returns the grant's token. A grant that opens nothing, reads without a digest or lives too long is a programmer's
// mistake and Internal.
func (s *Signer) Sign(g Grant) (string, error) {
	ttl := g.Expires.Sub(s.now())
	switch {
	case g.Methods == 0 || g.Methods&^(Read|Write) != 0:
		return "", fault.New(fault.Internal, "sign grant: no valid method")
	case g.Methods&Read != 0 && g.Digest.IsZero():
		return "", fault.New(fault.Internal, "sign grant: reading needs a digest")
	case ttl <= 0 || ttl > MaxTTL || g.MaxSize < 0:
		return "", fault.New(fault.Internal, "sign grant: lifetime %v or size %d out of bounds", ttl, g.MaxSize)
	}
	key := s.key.Load()
	p := payload{Key: key.ID, Expires: g.Expires.Unix(), MaxSize: g.MaxSize, Audience: g.Audience}
	if !g.Digest.IsZero() {
		p.Digest = g.Digest.String()
	}
	if g.Methods&Read != 0 {
		p.Methods = "r"
	}
	if g.Methods&Write != 0 {
		p.Methods += "w"
	}
	body, err := json.Marshal(p)
	if err != nil {
		return "", fault.New(fault.Internal, "sign grant: %w", err)
	}
	token := base64.RawURLEncoding.AppendEncode(nil, body)
	token = append(token, '.')
	token = base64.RawURLEncoding.AppendEncode(token, mac(key.Secret, body))
	if len(token) > maxToken {
		return "", fault.New(fault.Internal, "sign grant: the audience is too long")
	}
	return string(token), nil
}

// Verifier checks grants for one audience. It may be used from many goroutines.
type Verifier struct {
	audience string
	now      func() time.Time
	keys     atomic.Pointer[[]Key]
}

// NewVerifier returns a verifier that takes grants for exactly this audience; now nil means time.Now.
func NewVerifier(audience string, now func() time.Time, keys ...Key) (*Verifier, error) {
	if now == nil {
		now = time.Now
	}
	v := &Verifier{audience: audience, now: now}
	return v, v.SetKeys(keys...)
}

// SetKeys replaces the keys: the current one and, while keys rotate, its neighbour. Without keys nothing verifies.
func (v *Verifier) SetKeys(keys ...Key) error {
	for _, k := range keys {
		if err := k.validate(); err != nil {
			return err
		}
	}
	v.keys.Store(&keys)
	return nil
}

var (
	errMissing = fault.New(fault.Unauthenticated, "a grant is needed").WithReason("GRANT_MISSING")
	errInvalid = fault.New(fault.Unauthenticated, "the grant is not valid").WithReason("GRANT_INVALID")
	errExpired = fault.New(fault.Unauthenticated, "the grant has expired").WithReason("GRANT_EXPIRED")
)

// Verify checks the token's signature, time and audience. The error is Unauthenticated and does not say which part of a
// forged token was wrong.
func (v *Verifier) Verify(token string) (Grant, error) {
	if token == "" {
		return Grant{}, errMissing
	}
	body64, mac64, ok := strings.Cut(token, ".")
	if !ok || len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // base64 would skip line ends
		return Grant{}, errInvalid
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(body64)
	if err != nil {
		return Grant{}, errInvalid
	}
	sum, err := base64.RawURLEncoding.Strict().DecodeString(mac64)
	if err != nil {
		return Grant{}, errInvalid
	}
	signed := ""
	for _, k := range *v.keys.Load() {
		if hmac.Equal(sum, mac(k.Secret, body)) {
			signed = k.ID
		}
	}
	var p payload
	if signed == "" || json.Unmarshal(body, &p) != nil || p.Key != signed || p.Audience != v.audience {
		return Grant{}, errInvalid
	}
	if expires := time.Unix(p.Expires, 0); v.now().After(expires.Add(Skew)) {
		return Grant{}, errExpired
	}
	return p.grant()
}

func (p payload) grant() (Grant, error) {
	g := Grant{Expires: time.Unix(p.Expires, 0), MaxSize: p.MaxSize, Audience: p.Audience}
	switch p.Methods {
	case "r":
		g.Methods = Read
	case "w":
		g.Methods = Write
	case "rw":
		g.Methods = Read | Write
	default:
		return Grant{}, errInvalid
	}
	if p.Digest != "" {
		d, err := blob.ParseDigest(p.Digest)
		if err != nil {
			return Grant{}, errInvalid
		}
		g.Digest = d
	}
	return g, nil
}

// Allows reports whether the grant opens the blob for the method, as a Denied error if not.
func (g Grant) Allows(m Methods, d blob.Digest) error {
	if g.Methods&m != m || m&Read != 0 && (g.Digest.IsZero() || g.Digest != d) || m&Write != 0 && !g.Digest.IsZero() && !d.IsZero() && g.Digest != d {
		return fault.New(fault.Denied, "the grant is for something else").WithReason("GRANT_DENIED")
	}
	return nil
}
