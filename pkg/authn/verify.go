package authn

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/guard"
)

const (
	// keySetAge is when a key set is fetched again although every token found its key: a key that identity withdrew
	// must not live on here.
	keySetAge = time.Minute
	// keyRetry bounds how often tokens with unknown key ids can make us ask identity.
	keyRetry = time.Second
	// keyTimeout bounds one fetch; it outlives the call that happened to start it.
	keyTimeout = 10 * time.Second
	// verifiedCacheSize tokens are remembered: about 600 bytes each. A signature check costs some 50 µs, as much as a
	// whole call over an in-memory connection.
	verifiedCacheSize = 8192
	// maxTokenSize bounds what is parsed: a key scoped to a hundred channels needs about 8 KiB.
	maxTokenSize = 32 << 10
)

// KeySource fetches the keys that are valid now.
type KeySource func(ctx context.Context) ([]PublicKey, error)

// StaticKeys is a KeySource of fixed keys; identity itself and tests use it.
func StaticKeys(keys ...PublicKey) KeySource {
	return func(context.Context) ([]PublicKey, error) { return keys, nil }
}

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	source KeySource
	now    func() time.Time
	flight singleflight.Group
	keys   atomic.Pointer[keySet]

	mu       sync.Mutex
	verified *lru.Cache[string, verified]
}

type keySet struct {
	byID    map[string]ed25519.PublicKey
	fetched time.Time
}

type verified struct {
	caller   Caller
	audience string
	expires  time.Time
}

// NewVerifier returns a Verifier that fetches its keys when the first token arrives, when a token names an unknown key,
// and once a minute. A nil now means time.Now.
func NewVerifier(source KeySource, now func() time.Time) *Verifier {
	if now == nil {
		now = time.Now
	}
	cache, err := lru.New[string, verified](verifiedCacheSize)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Verifier{source: source, now: now, verified: cache}
}

// Verify returns the caller that the token names. A token that is malformed, forged, expired, of another algorithm or
// for another audience is Unauthenticated; if no keys can be had it is Unavailable.
func (v *Verifier) Verify(ctx context.Context, token, audience string) (Caller, error) {
	set, err := v.keySet(ctx, "")
	if err != nil {
		return Caller{}, err
	}
	if hit, ok := v.verified.Get(token); ok {
		if hit.audience != audience || !v.now().Before(hit.expires.Add(ClockSkew)) {
			return Caller{}, refuse()
		}
		return hit.caller, nil
	}
	if len(token) > maxTokenSize {
		return Caller{}, refuse()
	}
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{algorithm}), jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway()), jwt.WithTimeFunc(v.now), jwt.WithStrictDecoding(),
	)
	var c claims
	_, err = parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		if id == "" {
			return nil, errors.New("no key id")
		}
		if key, ok := set.byID[id]; ok {
			return key, nil
		}
		fresh, err := v.keySet(ctx, id)
		if err != nil {
			return nil, err
		}
		set = fresh
		if key, ok := set.byID[id]; ok {
			return key, nil
		}
		return nil, errors.New("unknown key id")
	})
	if err != nil {
		if fault.Is(err, fault.Unavailable) {
			return Caller{}, err
		}
		return Caller{}, refuse()
	}
	// Nobody but us may stretch a token's life: the signer is trusted, a bug in it need not be.
	if len(c.Audience) != 1 || c.IssuedAt == nil || c.ExpiresAt.Sub(c.IssuedAt.Time) > TokenLifetime {
		return Caller{}, refuse()
	}
	hit := verified{caller: c.caller(), audience: audience, expires: c.ExpiresAt.Time}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys.Load() == set { // else its key may have been withdrawn while we looked at it
		v.verified.Add(token, hit)
	}
	return hit.caller, nil
}

// refuse tells a stranger nothing about what was wrong.
func refuse() error {
	return fault.New(fault.Unauthenticated, "the internal token is missing or not valid").WithReason(ReasonToken)
}

// keySet returns the keys, fetching them if there are none, if they are old, or if want is not among them.
func (v *Verifier) keySet(ctx context.Context, want string) (*keySet, error) {
	set := v.keys.Load()
	if set != nil {
		age := v.now().Sub(set.fetched)
		if (want == "" && age < keySetAge) || (want != "" && age < keyRetry) {
			return set, nil
		}
	}
	ch := v.flight.DoChan("keys", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTimeout) // shared by all who wait
		defer cancel()
		return v.fetch(ctx)
	})
	select {
	case res := <-ch:
		if res.Err == nil {
			return res.Val.(*keySet), nil
		}
		if set != nil && want == "" && v.now().Sub(set.fetched) < keySetAge+TokenLifetime {
			return set, nil // identity may restart without stopping everybody else
		}
		return nil, fault.New(fault.Unavailable, "the verification keys cannot be fetched: %w", res.Err)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (v *Verifier) fetch(ctx context.Context) (*keySet, error) {
	asked := v.now()
	keys, err := v.source(ctx)
	if err != nil {
		return nil, err
	}
	set := &keySet{byID: make(map[string]ed25519.PublicKey, len(keys)), fetched: asked}
	for _, k := range keys {
		if len(k.Key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("verification key %q has %d bytes, want %d", k.ID, len(k.Key), ed25519.PublicKeySize)
		}
		set.byID[k.ID] = k.Key
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.keys.Swap(set); old != nil {
		for id, key := range old.byID {
			if now, ok := set.byID[id]; !ok || !key.Equal(now) {
				v.verified.Purge()
				break
			}
		}
	}
	return set, nil
}

// leeway is how far a token's times may be off.
func leeway() time.Duration {
	if !guard.ClockSkew {
		return 0
	}
	return ClockSkew
}
