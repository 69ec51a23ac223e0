package authn

import (
	"context"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	// renewBefore leaves a token enough life to cross the network and to wait for a slow server.
	renewBefore = 15 * time.Second
	// tokenCacheSize bounds the tokens kept: one for each pair of caller and audience that was seen lately.
	tokenCacheSize = 4096
	// mintTimeout bounds one request for a token; it outlives the call that happened to start it.
	mintTimeout = 10 * time.Second
)

// Minter asks for a new token.
type Minter func(ctx context.Context, caller Caller, audience string) (token string, expires time.Time, err error)

// TokenSource keeps the tokens of a client. It is safe for concurrent use.
type TokenSource struct {
	mint   Minter
	now    func() time.Time
	cache  *lru.Cache[string, minted]
	flight singleflight.Group
}

type minted struct {
	token string
	renew time.Time
}

// NewTokenSource returns a source that mints with mint and renews a token fifteen seconds before it ends. A nil now
// means time.Now.
func NewTokenSource(mint Minter, now func() time.Time) *TokenSource {
	if now == nil {
		now = time.Now
	}
	cache, err := lru.New[string, minted](tokenCacheSize)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &TokenSource{mint: mint, now: now, cache: cache}
}

// Token returns a token of the caller for the audience. Calls that miss together share one request.
func (s *TokenSource) Token(ctx context.Context, caller Caller, audience string) (string, error) {
	key := cacheKey(caller, audience)
	if m, ok := s.cache.Get(key); ok && s.now().Before(m.renew) {
		return m.token, nil
	}
	ch := s.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintTimeout) // shared by all who wait
		defer cancel()
		token, expires, err := s.mint(ctx, caller, audience)
		if err != nil {
			return nil, err
		}
		s.cache.Add(key, minted{token: token, renew: expires.Add(-renewBefore)})
		return token, nil
	})
	select {
	case res := <-ch:
		if res.Err != nil {
			return "", res.Err
		}
		return res.Val.(string), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// Forget drops a token that was refused, so that the next call asks for a new one.
func (s *TokenSource) Forget(caller Caller, audience string) {
	s.cache.Remove(cacheKey(caller, audience))
}

// cacheKey spells caller and audience unambiguously: no field may hold the separator, so lengths go before the parts
// that strangers had a hand in.
func cacheKey(c Caller, audience string) string {
	var b strings.Builder
	b.Grow(128)
	part := func(s string) {
		b.WriteString(strconv.Itoa(len(s)))
		b.WriteByte(':')
		b.WriteString(s)
	}
	for _, s := range []string{audience, c.UserID, c.Name, c.KeyID, c.Target, c.JobID} {
		part(s)
	}
	b.WriteString(strconv.FormatInt(c.Claim, 10))
	if c.Scoped {
		b.WriteByte('s')
		for _, g := range c.Scope {
			part(g.Role)
			part(g.Resource)
		}
	}
	return b.String()
}
