package authn

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// TokenLifetime is how long an internal token is good for. What it cannot cover, revocation, is up to the snapshot.
	TokenLifetime = 60 * time.Second
	// ClockSkew is how far the clocks of two nodes may differ.
	ClockSkew = 5 * time.Second

	issuer    = "entrepot"
	algorithm = "EdDSA"
)

// ReasonToken is the reason of the fault that refuses a token; a client that sees it asks for a new one.
const ReasonToken = "TOKEN_INVALID"

// claims is the payload of an internal token. Short names: it travels with every call.
type claims struct {
	jwt.RegisteredClaims
	Name   string      `json:"nam,omitempty"`
	KeyID  string      `json:"key,omitempty"`
	Scoped bool        `json:"scd,omitempty"`
	Scope  [][2]string `json:"scp,omitempty"`
	Target string      `json:"tgt,omitempty"`
	JobID  string      `json:"job,omitempty"`
	Claim  int64       `json:"clm,omitempty"`
}

func (c *claims) caller() Caller {
	out := Caller{
		UserID: c.Subject, Name: c.Name, KeyID: c.KeyID, Scoped: c.Scoped, Target: c.Target, JobID: c.JobID, Claim: c.Claim,
	}
	for _, g := range c.Scope {
		out.Scope = append(out.Scope, Grant{Role: g[0], Resource: g[1]})
	}
	return out
}

// Key is a private signing key with its id.
type Key struct {
	// ID is the `kid` of the tokens it signs.
	ID string
	// Private is the Ed25519 key.
	Private ed25519.PrivateKey
}

// Public returns the half that verifiers need.
func (k Key) Public() PublicKey {
	return PublicKey{ID: k.ID, Key: k.Private.Public().(ed25519.PublicKey)}
}

// PublicKey is a verification key with its id.
type PublicKey struct {
	// ID is the `kid` of the tokens it checks.
	ID string
	// Key is the Ed25519 key.
	Key ed25519.PublicKey
}

// Signer signs tokens. It is immutable: a rotation makes a new one.
type Signer struct {
	current  Key
	previous []Key
	now      func() time.Time
}

// NewSigner returns a Signer that signs with current. The previous key stays valid for verifiers until the last token
// it signed has ended. A nil now means time.Now.
func NewSigner(now func() time.Time, current Key, previous ...Key) (*Signer, error) {
	if now == nil {
		now = time.Now
	}
	for _, k := range append([]Key{current}, previous...) {
		if k.ID == "" || len(k.Private) != ed25519.PrivateKeySize {
			return nil, errors.New("authn: a signing key without an id or of the wrong size")
		}
	}
	return &Signer{current: current, previous: previous, now: now}, nil
}

// Sign returns a token for the caller that one audience takes, and when it ends.
func (s *Signer) Sign(caller Caller, audience string) (token string, expires time.Time, err error) {
	if audience == "" {
		return "", time.Time{}, fault.Field("audience", "audience should not be empty")
	}
	now := s.now()
	expires = now.Add(TokenLifetime)
	c := &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: caller.UserID, Audience: jwt.ClaimStrings{audience},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
		},
		Name: caller.Name, KeyID: caller.KeyID, Scoped: caller.Scoped, Target: caller.Target, JobID: caller.JobID, Claim: caller.Claim,
	}
	for _, g := range caller.Scope {
		c.Scope = append(c.Scope, [2]string{g.Role, g.Resource})
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = s.current.ID
	token, err = t.SignedString(s.current.Private)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign a token: %w", err)
	}
	return token, expires.Truncate(time.Second), nil
}

// PublicKeys returns the keys that verifiers shall take, the signing one first.
func (s *Signer) PublicKeys() []PublicKey {
	keys := []PublicKey{s.current.Public()}
	for _, k := range s.previous {
		keys = append(keys, k.Public())
	}
	return keys
}
