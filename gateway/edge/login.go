package edge

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"net/http"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// Logins turns logins into cookies and back. Who somebody is identity decides; here is what only a browser's side knows.
//
// A login at a provider is bound to the browser that began it: a sealed cookie of ten minutes holds its state, nonce and
// PKCE verifier, and is taken away by the first answer. A login form is bound to the browser by a token that is in the
// form and in a cookie, so that no other page can log somebody in as somebody else.
type Logins struct {
	Login    identityv1.LoginServiceClient
	Identity identityv1.IdentityServiceClient
	Auth     *Authenticator
}

// visitor is what only logins need to know of a request; it comes no further than this package.
type visitor struct{ flow, form, address string }

type visitorKey struct{}

// withVisitor keeps it before the headers that say such things are taken off.
func withVisitor(ctx context.Context, s Site, r *http.Request) context.Context {
	return context.WithValue(ctx, visitorKey{}, visitor{flow: s.Cookie(r, flowCookie), form: s.Cookie(r, formCookie), address: s.clientAddress(r)})
}

func visitorOf(r *http.Request) visitor {
	v, _ := r.Context().Value(visitorKey{}).(visitor)
	return v
}

func (l *Logins) site() Site { return l.Auth.Site }

// flowLifetime is the cookie's; identity has the last word.
const flowLifetime = 10 * time.Minute

// Providers lists the ways to log in.
func (l *Logins) Providers(ctx context.Context) ([]*identityv1.LoginProvider, error) {
	resp, err := l.Login.ListLoginProviders(authn.WithSelf(ctx), &identityv1.ListLoginProvidersRequest{})
	return resp.GetProviders(), err
}

// Provider returns one way to log in, or NotFound.
func (l *Logins) Provider(ctx context.Context, name string) (*identityv1.LoginProvider, error) {
	all, err := l.Providers(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if p.GetName() == name {
			return p, nil
		}
	}
	return nil, fault.New(fault.NotFound, "login provider '%s' is not configured", printable(name))
}

// Begin sends the browser to a provider. With ?link=true it links the account there to the user who is logged in; ?next=
// is where to go afterwards.
func (l *Logins) Begin(w http.ResponseWriter, r *http.Request, provider string) error {
	next, err := LocalPath(r.URL.Query().Get("next"))
	if err != nil {
		return err
	}
	req := &identityv1.BeginLoginRequest{Provider: provider, RedirectUrl: l.site().Base(r) + "/auth/" + provider + "/authorize", Next: next}
	if r.URL.Query().Get("link") == "true" {
		if err := l.site().ownPage(r); err != nil {
			return err
		}
		caller := authn.FromContext(r.Context())
		if caller.UserID == "" || SessionFrom(r.Context()) == "" {
			return fault.New(fault.Unauthenticated, "Not logged in")
		}
		req.LinkUserId = caller.UserID
	}
	resp, err := l.Login.BeginLogin(authn.WithSelf(r.Context()), req)
	if err != nil {
		return err
	}
	l.site().SetCookie(w, flowCookie, resp.GetFlow(), time.Now().Add(flowLifetime))
	redirect(w, r, resp.GetUrl())
	return nil
}

// Finish takes what a provider sent the browser back with.
func (l *Logins) Finish(w http.ResponseWriter, r *http.Request, provider string) error {
	cookies := visitorOf(r)
	if cookies.flow != "" {
		l.site().SetCookie(w, flowCookie, "", time.Time{}) // an answer counts once
	}
	q := r.URL.Query()
	session := SessionFrom(r.Context())
	resp, err := l.Login.FinishLogin(authn.WithSelf(r.Context()), &identityv1.FinishLoginRequest{
		Provider: provider, Flow: cookies.flow, Code: q.Get("code"), State: q.Get("state"), Issuer: q.Get("iss"), Error: q.Get("error"),
		Client: clientOf(r), ReplaceSession: session, UserId: authn.FromContext(r.Context()).UserID,
	})
	if err != nil {
		return err
	}
	next, err := LocalPath(resp.GetNext())
	if err != nil {
		return err
	}
	l.loggedIn(w, session, resp)
	redirect(w, r, next)
	return nil
}

// Password logs in by name and password. It answers nothing but the cookie.
func (l *Logins) Password(w http.ResponseWriter, r *http.Request, username, password string) (*identityv1.LoginResponse, error) {
	if err := l.site().sameOrigin(r); err != nil {
		return nil, err
	}
	session := SessionFrom(r.Context())
	resp, err := l.Login.Login(authn.WithSelf(r.Context()), &identityv1.LoginRequest{
		Username: username, Password: password, Client: clientOf(r), ReplaceSession: session,
	})
	if err != nil {
		return nil, err
	}
	l.loggedIn(w, session, resp)
	return resp, nil
}

func (l *Logins) loggedIn(w http.ResponseWriter, old string, resp *identityv1.LoginResponse) {
	if old != "" {
		l.Auth.Forget(Credentials{Session: old})
	}
	l.site().SetCookie(w, SessionCookie, resp.GetSession(), resp.GetExpireTime().AsTime())
	w.Header().Set("Cache-Control", "no-store")
}

// Logout ends the login that the request came with, and with everywhere all of its user's.
func (l *Logins) Logout(w http.ResponseWriter, r *http.Request, everywhere bool) error {
	if err := l.site().ownPage(r); err != nil {
		return err
	}
	session := SessionFrom(r.Context())
	if caller := authn.FromContext(r.Context()); everywhere && caller.UserID != "" {
		if _, err := l.Login.RevokeSessions(r.Context(), &identityv1.RevokeSessionsRequest{Username: caller.Name}); err != nil {
			return err
		}
	}
	if session != "" {
		if _, err := l.Identity.DeleteSession(authn.WithSelf(r.Context()), &identityv1.DeleteSessionRequest{Session: session}); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		l.Auth.Forget(Credentials{Session: session})
	}
	l.site().SetCookie(w, SessionCookie, "", time.Time{})
	return nil
}

// FormToken makes a token for a login form, and gives the browser the cookie that goes with it.
func (l *Logins) FormToken(w http.ResponseWriter) string {
	token := rand.Text()
	l.site().SetCookie(w, formCookie, token, time.Now().Add(flowLifetime))
	return token
}

// CheckFormToken refuses a form that this browser was not shown.
func (l *Logins) CheckFormToken(r *http.Request, token string) error {
	cookies := visitorOf(r)
	if token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(cookies.form)) != 1 {
		return fault.New(fault.Denied, "the login form has expired; load it again, or log in with JSON at /entrepot/v1/login").WithReason("CROSS_SITE")
	}
	return nil
}

// clientOf says where a request comes from.
func clientOf(r *http.Request) *identityv1.Client {
	return &identityv1.Client{Address: visitorOf(r).address, Agent: printable(r.UserAgent())}
}

// redirect is 303 with nothing in it that a cache or a Referer could keep.
func redirect(w http.ResponseWriter, r *http.Request, to string) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, to, http.StatusSeeOther)
}
