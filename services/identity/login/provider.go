package login

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Flow is one login under way. All but RedirectURL is known to the browser that began it, and to us, alone.
type Flow struct {
	// State comes back in the query, Nonce in the ID token; both are random.
	State, Nonce string
	// Verifier is PKCE's, 43 characters and more.
	Verifier string
	// RedirectURL is where the provider sends the browser back to.
	RedirectURL string
}

// Answer is what the browser brought back.
type Answer struct {
	// State and Code are the query's.
	State, Code string
	// Issuer is the query's iss, if any.
	Issuer string
	// Error is the query's error, if any.
	Error string
}

// Provider is a server that says who somebody is. It is safe for concurrent use.
type Provider struct {
	// Name and Config are those of the configuration.
	Name   string
	Config ProviderConfig

	proto protocol
	http  *http.Client
	log   *slog.Logger
}

// protocol is what providers differ in.
type protocol interface {
	// begin returns the endpoints, the scopes, and more for the authorization request.
	begin(ctx context.Context, f Flow) (endpoint oauth2.Endpoint, scopes []string, more []oauth2.AuthCodeOption, err error)
	// issuer is what the query's iss must be, if there is one.
	issuer() string
	// who asks whose token it is.
	who(ctx context.Context, f Flow, token *oauth2.Token) (Person, error)
	// revokeURL is the page where a user takes back what was granted.
	revokeURL() string
}

// Deps are what providers work with.
type Deps struct {
	// Transport sends requests; it holds the egress policy.
	Transport http.RoundTripper
	// Now is the clock for the times in tokens; nil means time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

const (
	callTimeout = 15 * time.Second
	maxAnswer   = 1 << 20
)

// New returns the configured providers by name.
func New(c Config, deps Deps) (map[string]*Provider, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if len(c.Providers) > 0 && deps.Transport == nil {
		return nil, errors.New("login: Transport is needed")
	}
	out := make(map[string]*Provider, len(c.Providers))
	for name, conf := range c.Providers {
		p := &Provider{Name: name, Config: conf, log: deps.Log, http: &http.Client{
			Transport: capped{deps.Transport}, Timeout: callTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}
		switch conf.Kind {
		case "github":
			p.proto = newGitHub(conf, p.http)
		case "jupyterhub":
			p.proto = newJupyterHub(conf, p.http)
		default:
			p.proto = newOIDC(conf, p.http, deps.Now)
		}
		out[name] = p
	}
	return out, nil
}

// Title is what a button says.
func (p *Provider) Title() string {
	if p.Config.Title != "" {
		return p.Config.Title
	}
	return p.Name
}

// RevokeURL is the page where a user takes back what was granted to us; empty if there is none.
func (p *Provider) RevokeURL() string { return p.proto.revokeURL() }

// Begin returns where the browser goes.
func (p *Provider) Begin(ctx context.Context, f Flow) (string, error) {
	ctx = p.context(ctx)
	conf, more, err := p.oauth(ctx, f)
	if err != nil {
		return "", p.failed(ctx, "begin", err)
	}
	return conf.AuthCodeURL(f.State, append(more, oauth2.S256ChallengeOption(f.Verifier))...), nil
}

// Finish turns what came back into a person. Errors are Unauthenticated if the answer is not to be believed, Denied if the
// provider or its user said no, and Upstream if the provider does not work.
func (p *Provider) Finish(ctx context.Context, f Flow, a Answer) (Person, error) {
	ctx = p.context(ctx)
	switch {
	case subtle.ConstantTimeCompare([]byte(a.State), []byte(f.State)) != 1 || f.State == "":
		return Person{}, p.refused(ctx, "the state is another one")
	case a.Error != "":
		return Person{}, fault.New(fault.Denied, "login provider '%s' says: %s", p.Name, word(a.Error)).WithReason("PROVIDER_DENIED")
	case a.Code == "":
		return Person{}, p.refused(ctx, "there is no code")
	case a.Issuer != "" && a.Issuer != p.proto.issuer():
		return Person{}, p.refused(ctx, "the answer names another issuer")
	}
	conf, _, err := p.oauth(ctx, f)
	if err != nil {
		return Person{}, p.failed(ctx, "finish", err)
	}
	token, err := conf.Exchange(ctx, a.Code, oauth2.VerifierOption(f.Verifier))
	if err != nil {
		return Person{}, p.failed(ctx, "exchange the code", err)
	}
	person, err := p.proto.who(ctx, f, token)
	if err != nil {
		return Person{}, p.failed(ctx, "ask who it is", err)
	}
	if person.Subject == "" || len(person.Subject) > 255 || strings.ContainsRune(person.Subject, 0) {
		return Person{}, p.refused(ctx, "there is no usable subject")
	}
	return person, nil
}

func (p *Provider) oauth(ctx context.Context, f Flow) (*oauth2.Config, []oauth2.AuthCodeOption, error) {
	secret, err := p.Config.secret()
	if err != nil {
		return nil, nil, err
	}
	endpoint, scopes, more, err := p.proto.begin(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	return &oauth2.Config{
		ClientID: p.Config.ClientID, ClientSecret: secret, Endpoint: endpoint, RedirectURL: f.RedirectURL,
		Scopes: append(scopes, p.Config.Scopes...),
	}, more, nil
}

// context makes both libraries use our client.
func (p *Provider) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, p.http)
}

// distrust is an answer that is not to be believed. The reason is for the log.
type distrust string

func (d distrust) Error() string { return string(d) }

func (p *Provider) refused(ctx context.Context, why string) error {
	p.log.InfoContext(ctx, "a login is refused", "provider", p.Name, "reason", why)
	return fault.New(fault.Unauthenticated, "the answer of login provider '%s' does not belong to a login that this browser began; log in again", p.Name).WithReason("LOGIN_REFUSED")
}

// failed says what came of a request to the provider. What the provider answered is for the log, and there only its code:
// bodies may hold tokens.
func (p *Provider) failed(ctx context.Context, doing string, err error) error {
	var retrieve *oauth2.RetrieveError
	var no distrust
	switch {
	case errors.As(err, &no):
		return p.refused(ctx, no.Error())
	case errors.As(err, &retrieve) && (retrieve.ErrorCode == "invalid_grant" || retrieve.ErrorCode == "bad_verification_code"): // GitHub calls it so
		return p.refused(ctx, "the provider does not take the code")
	case errors.As(err, &retrieve):
		status := 0
		if retrieve.Response != nil {
			status = retrieve.Response.StatusCode
		}
		p.log.WarnContext(ctx, "a login provider refuses us", "provider", p.Name, "doing", doing, "code", word(retrieve.ErrorCode), "status", status)
	default:
		p.log.WarnContext(ctx, "a login provider does not work", "provider", p.Name, "doing", doing, "error", err)
	}
	return fault.New(fault.Upstream, "login provider '%s' does not work now; try again later or log in another way", p.Name).WithReason("LOGIN_PROVIDER")
}

// word keeps of a code what RFC 6749 lets it be, so that nobody writes into our answers and logs.
func word(s string) string {
	s = s[:min(len(s), 64)]
	if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return "error"
	}
	return s
}

// getJSON reads a document of an API with a token.
func getJSON(ctx context.Context, client *http.Client, u, token string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d", pathOf(u), resp.StatusCode)
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func pathOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "a URL"
	}
	return u.Path
}

// capped bounds answers: the libraries read them whole.
type capped struct{ next http.RoundTripper }

func (c capped) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	return resp, nil
}
