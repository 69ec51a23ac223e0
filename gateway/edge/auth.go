package edge

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"time"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

const (
	// authFresh is how long an answer of identity is believed. Services check keys against their role snapshot
	// as well, so this bounds only what needs no service: package downloads, for which Files asks the snapshot too.
	authFresh = 2 * time.Second
	// authEntries bounds the memory that strangers' keys can take: about 300 bytes each.
	authEntries = 65536
)

// Authenticator turns credentials into callers by asking identity, and remembers the answers for a moment.
type Authenticator struct {
	// Site names the login cookie. Set it before the first request.
	Site Site

	identity identityv1.IdentityServiceClient
	cache    *lru.Cache[[32]byte, authEntry]
	flights  singleflight.Group
	now      func() time.Time
	known    lookups
}

type authEntry struct {
	caller  authn.Caller
	err     error
	expires time.Time // when the credential itself ends; zero means never
	asked   time.Time
}

// NewAuthenticator returns an Authenticator that asks identity as this part of the platform.
func NewAuthenticator(identity identityv1.IdentityServiceClient) *Authenticator {
	cache, err := lru.New[[32]byte, authEntry](authEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &Authenticator{identity: identity, cache: cache, now: time.Now}
}

// Caller returns who sent the credentials; the zero Caller for none. The error is Unauthenticated if they are
// worthless, and of another kind if identity could not say.
func (a *Authenticator) Caller(ctx context.Context, c Credentials) (authn.Caller, error) {
	if c == (Credentials{}) {
		return authn.Caller{}, nil
	}
	if !utf8.ValidString(c.APIKey) || !utf8.ValidString(c.Session) {
		return authn.Caller{}, fault.New(fault.Unauthenticated, "Not logged in") // no proto could carry it
	}
	// The cache never holds a secret, so a heap dump shows none.
	h := sha256.Sum256([]byte(c.APIKey + "\x00" + c.Session))
	now := a.now()
	e, ok := a.cache.Get(h)
	ok = ok && now.Sub(e.asked) < authFresh
	a.known.count(ok)
	if ok {
		if !e.expires.IsZero() && !now.Before(e.expires) {
			return authn.Caller{}, fault.New(fault.Unauthenticated, "the credentials have expired")
		}
		return e.caller, e.err
	}
	v, err, _ := a.flights.Do(string(h[:]), func() (any, error) { return a.ask(context.WithoutCancel(ctx), h, c) })
	if err != nil {
		return authn.Caller{}, err
	}
	e = v.(authEntry)
	return e.caller, e.err
}

func (a *Authenticator) ask(ctx context.Context, h [32]byte, c Credentials) (authEntry, error) {
	// Other requests wait for this answer too, so it must not end with the one that asked first.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := a.identity.Authenticate(authn.WithSelf(ctx), &identityv1.AuthenticateRequest{ApiKey: c.APIKey, Session: c.Session})
	if err != nil && !fault.Is(err, fault.Unauthenticated) {
		slog.WarnContext(ctx, "identity did not answer", "error", err)
		return authEntry{}, fault.New(fault.Unavailable, "identity cannot be asked who you are; try again").WithRetryAfter(time.Second)
	}
	e := authEntry{asked: a.now(), err: err}
	if err == nil {
		e.caller = authn.FromProto(resp.GetPrincipal())
		if t := resp.GetExpireTime(); t != nil {
			e.expires = t.AsTime()
		}
	}
	a.cache.Add(h, e)
	return e, nil
}

// Forget drops what is known of the credentials, so that a logout acts at once here.
func (a *Authenticator) Forget(c Credentials) {
	a.cache.Remove(sha256.Sum256([]byte(c.APIKey + "\x00" + c.Session)))
}
