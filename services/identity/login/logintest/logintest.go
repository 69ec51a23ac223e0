// Package logintest is a login provider inside a test: OpenID Connect with discovery, and the shapes of GitHub and of
// JupyterHub, on one loopback server. It is strict, so that what logs in here does PKCE, sends each code once, and names
// the redirect that was registered. Whoever comes to its authorization page is Person, without being asked.
package logintest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/entrepot-dev/entrepot/services/identity/login"
)

// Client is what every provider here gave us.
const (
	ClientID     = "entrepot"
	ClientSecret = "logintest-client-secret"
)

// Person is who comes to the authorization page.
type Person struct {
	// Subject is the OpenID Connect sub; Number is GitHub's id.
	Subject string
	Number  int64
	// Username is also JupyterHub's name.
	Username, Name, Email, Avatar string
	EmailVerified                 bool
	// Groups are claims, JupyterHub's groups, and GitHub's organisations; Teams are GitHub's, as org/slug.
	Groups, Teams []string
}

// Server is the provider. Its fields may be changed between logins, under Change.
type Server struct {
	URL string

	http *httptest.Server
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	state  State
	codes  map[string]*code
	tokens map[string]Person
	seen   []string
}

// State is what a test can change.
type State struct {
	Person Person
	// Claims changes an ID token's claims before it is signed.
	Claims func(jwt.MapClaims)
	// Sign replaces the signing of ID tokens.
	Sign func(jwt.MapClaims) string
	// UserInfo changes the answer of the userinfo endpoint.
	UserInfo func(map[string]any)
	// Down answers everything with 503.
	Down bool
	// Deny sends everybody back with access_denied.
	Deny bool
}

type code struct {
	person                     Person
	challenge, nonce, redirect string
	used                       bool
}

// Start runs a provider until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{key: key, codes: map[string]*code{}, tokens: map[string]Person{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", s.discovery)
	mux.HandleFunc("GET /keys", s.keys)
	mux.HandleFunc("GET /userinfo", s.userinfo)
	for _, p := range []string{"", "/login/oauth", "/hub/api/oauth2"} {
		mux.HandleFunc("GET "+p+"/authorize", s.authorize)
	}
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("POST /login/oauth/access_token", s.token)
	mux.HandleFunc("POST /hub/api/oauth2/token", s.token)
	mux.HandleFunc("GET /api/v3/user", s.gitHubUser)
	mux.HandleFunc("GET /api/v3/user/orgs", s.gitHubOrgs)
	mux.HandleFunc("GET /api/v3/user/teams", s.gitHubTeams)
	mux.HandleFunc("GET /hub/api/user", s.hubUser)
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, r.Method+" "+r.URL.Path)
		down := s.state.Down
		s.mu.Unlock()
		if down {
			http.Error(w, "down for maintenance", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	s.URL = s.http.URL
	t.Cleanup(s.http.Close)
	return s
}

// Change changes what the provider does from now on.
func (s *Server) Change(f func(*State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.state)
}

// Is says who comes to the authorization page from now on, and takes all other changes back.
func (s *Server) Is(p Person) { s.Change(func(st *State) { *st = State{Person: p} }) }

// Seen returns the requests so far, and forgets them.
func (s *Server) Seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.seen
	s.seen = nil
	return out
}

// Config is the configuration that leads here.
func (s *Server) Config(kind string) login.ProviderConfig {
	c := login.ProviderConfig{Kind: kind, ClientID: ClientID, URL: s.URL}
	if kind == "jupyterhub" {
		c.URL += "/hub"
	}
	_ = c.ClientSecret.UnmarshalText([]byte(ClientSecret)) // never fails
	return c
}

// SignES256 signs claims as the provider does.
func (s *Server) SignES256(c jwt.MapClaims) string {
	t := jwt.NewWithClaims(jwt.SigningMethodES256, c)
	t.Header["kid"] = "1"
	text, err := t.SignedString(s.key)
	if err != nil {
		panic(err) // a test's own mistake
	}
	return text
}

func (s *Server) discovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"issuer": s.URL, "authorization_endpoint": s.URL + "/authorize", "token_endpoint": s.URL + "/token", "jwks_uri": s.URL + "/keys",
		"userinfo_endpoint": s.URL + "/userinfo", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic"},
	})
}

func (s *Server) keys(w http.ResponseWriter, _ *http.Request) {
	coordinate := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
	answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
		"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1", "x": coordinate(s.key.X), "y": coordinate(s.key.Y),
	}}})
}

func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != ClientID || q.Get("response_type") != "code" || q.Get("redirect_uri") == "" || q.Get("state") == "" ||
		q.Get("code_challenge") == "" || q.Get("code_challenge_method") != "S256" {
		http.Error(w, "the authorization request lacks something: "+r.URL.RawQuery, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	back := url.Values{"state": {q.Get("state")}}
	if s.state.Deny {
		back.Set("error", "access_denied")
	} else {
		id := rand.Text()
		s.codes[id] = &code{person: s.state.Person, challenge: q.Get("code_challenge"), nonce: q.Get("nonce"), redirect: q.Get("redirect_uri")}
		back.Set("code", id)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	if id != ClientID || secret != ClientSecret {
		answer(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[r.PostForm.Get("code")]
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if c == nil || c.used || c.redirect != r.PostForm.Get("redirect_uri") || c.challenge != base64.RawURLEncoding.EncodeToString(sum[:]) {
		answer(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
		return
	}
	c.used = true
	access := rand.Text()
	s.tokens[access] = c.person
	out := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 60}
	if c.nonce != "" { // OpenID Connect
		now := time.Now()
		claims := jwt.MapClaims{
			"iss": s.URL, "sub": c.person.Subject, "aud": ClientID, "nonce": c.nonce, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
			"preferred_username": c.person.Username, "groups": c.person.Groups,
		}
		if s.state.Claims != nil {
			s.state.Claims(claims)
		}
		sign := s.SignES256
		if s.state.Sign != nil {
			sign = s.state.Sign
		}
		out["id_token"] = sign(claims)
	}
	answer(w, http.StatusOK, out)
}

// bearer returns whose token a request shows.
func (s *Server) bearer(w http.ResponseWriter, r *http.Request) (Person, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const scheme = "Bearer "
	auth := r.Header.Get("Authorization")
	if len(auth) < len(scheme) {
		auth = scheme
	}
	p, ok := s.tokens[auth[len(scheme):]]
	if !ok {
		answer(w, http.StatusUnauthorized, map[string]string{"message": "Bad credentials"})
	}
	return p, ok
}

func (s *Server) userinfo(w http.ResponseWriter, r *http.Request) {
	p, ok := s.bearer(w, r)
	if !ok {
		return
	}
	info := map[string]any{"sub": p.Subject, "name": p.Name, "email": p.Email, "email_verified": p.EmailVerified, "picture": p.Avatar}
	s.mu.Lock()
	change := s.state.UserInfo
	s.mu.Unlock()
	if change != nil {
		change(info)
	}
	answer(w, http.StatusOK, info)
}

func (s *Server) gitHubUser(w http.ResponseWriter, r *http.Request) {
	if p, ok := s.bearer(w, r); ok {
		answer(w, http.StatusOK, map[string]any{"id": p.Number, "login": p.Username, "name": p.Name, "avatar_url": p.Avatar})
	}
}

func (s *Server) gitHubOrgs(w http.ResponseWriter, r *http.Request) {
	if p, ok := s.bearer(w, r); ok {
		orgs := []any{}
		for _, g := range p.Groups {
			orgs = append(orgs, map[string]any{"login": g})
		}
		answer(w, http.StatusOK, orgs)
	}
}

func (s *Server) gitHubTeams(w http.ResponseWriter, r *http.Request) {
	if p, ok := s.bearer(w, r); ok {
		teams := []any{}
		for _, t := range p.Teams {
			org, slug, _ := strings.Cut(t, "/")
			teams = append(teams, map[string]any{"slug": slug, "organization": map[string]any{"login": org}})
		}
		answer(w, http.StatusOK, teams)
	}
}

func (s *Server) hubUser(w http.ResponseWriter, r *http.Request) {
	if p, ok := s.bearer(w, r); ok {
		answer(w, http.StatusOK, map[string]any{"kind": "user", "name": p.Username, "groups": p.Groups})
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
