package login_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/identity/login"
	"github.com/entrepot-dev/entrepot/services/identity/login/logintest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // or they would look like leaks
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func TestSettings(t *testing.T) {
	good := login.ProviderConfig{Kind: "github", ClientID: "id", ClientSecret: config.NewSecret("s")}
	with := func(f func(*login.ProviderConfig)) login.ProviderConfig {
		c := good
		f(&c)
		return c
	}
	for name, c := range map[string]struct {
		conf login.ProviderConfig
		want string // part of the field
	}{
		"good":                         {good, ""},
		"no kind":                      {with(func(c *login.ProviderConfig) { c.Kind = "" }), ".kind"},
		"no client":                    {with(func(c *login.ProviderConfig) { c.ClientID = "" }), ".client_id"},
		"no secret":                    {with(func(c *login.ProviderConfig) { c.ClientSecret = config.Secret{} }), ".client_secret"},
		"two secrets":                  {with(func(c *login.ProviderConfig) { c.ClientSecretFile = "f" }), ".client_secret"},
		"oidc without issuer":          {with(func(c *login.ProviderConfig) { c.Kind = "oidc" }), ".url"},
		"http":                         {with(func(c *login.ProviderConfig) { c.URL = "http://git.example" }), ".url"},
		"http with leave":              {with(func(c *login.ProviderConfig) { c.URL, c.Insecure = "http://git.example", true }), ""},
		"http on loopback":             {with(func(c *login.ProviderConfig) { c.URL = "http://127.0.0.1:1" }), ""},
		"a password in the URL":        {with(func(c *login.ProviderConfig) { c.URL = "https://a:b@git.example" }), ".url"},
		"every directory of the world": {with(func(c *login.ProviderConfig) { c.Kind, c.Tenant = "azure", "common" }), ".tenant"},
		"one directory":                {with(func(c *login.ProviderConfig) { c.Kind, c.Tenant = "azure", "8a7b" }), ""},
		"groups of google":             {with(func(c *login.ProviderConfig) { c.Kind, c.AllowedGroups = "google", []string{"g"} }), ".allowed_groups"},
		"domains of github":            {with(func(c *login.ProviderConfig) { c.AllowedDomains = []string{"a.example"} }), ".allowed_domains"},
		"everybody an owner":           {with(func(c *login.ProviderConfig) { c.DefaultRole = "owner" }), ".default_role"},
		"no such role":                 {with(func(c *login.ProviderConfig) { c.DefaultRole = "king" }), ".default_role"},
		"a group that is not ours":     {with(func(c *login.ProviderConfig) { c.Groups = map[string]string{"a": "b@c"} }), ".groups"},
	} {
		conf := login.DefaultConfig()
		conf.Providers = map[string]login.ProviderConfig{"p": c.conf}
		err := conf.Validate()
		var f *fault.Error
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (!errors.As(err, &f) || len(f.Violations) != 1 || f.Violations[0].Field != "login.providers.p"+c.want):
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"local", "logout", "A", "a b", "a/b", "", "-a"} {
		conf := login.DefaultConfig()
		conf.Providers = map[string]login.ProviderConfig{name: good}
		if conf.Validate() == nil {
			t.Errorf("a provider can be called %q", name)
		}
	}
}

func TestWhoMayLogIn(t *testing.T) {
	zoe := login.Person{Subject: "7", Username: "Zoe", Email: "zoe@corp.example", Domain: "corp.example", Groups: []string{"a", "b/c"}}
	for name, c := range map[string]struct {
		conf login.ProviderConfig
		ok   bool
	}{
		"nothing is said":    {login.ProviderConfig{}, true},
		"a name":             {login.ProviderConfig{AllowedUsers: []string{"zoe"}}, true},
		"a subject":          {login.ProviderConfig{AllowedUsers: []string{"sub:7"}}, true},
		"another's subject":  {login.ProviderConfig{AllowedUsers: []string{"sub:8"}}, false},
		"a name as subject":  {login.ProviderConfig{AllowedUsers: []string{"7"}}, false},
		"a group":            {login.ProviderConfig{AllowedGroups: []string{"x", "b/c"}}, true},
		"a group, otherwise": {login.ProviderConfig{AllowedGroups: []string{"B/C"}}, false},
		"a domain":           {login.ProviderConfig{AllowedDomains: []string{"CORP.example"}}, true},
		"a part of a domain": {login.ProviderConfig{AllowedDomains: []string{"example"}}, false},
		"one of several":     {login.ProviderConfig{AllowedUsers: []string{"yan"}, AllowedGroups: []string{"a"}}, true},
		"an empty entry":     {login.ProviderConfig{AllowedUsers: []string{""}, AllowedDomains: []string{""}}, false},
	} {
		if got := c.conf.Allowed(zoe); got != c.ok {
			t.Errorf("%s: %v", name, got)
		}
	}
	if (login.ProviderConfig{AllowedUsers: []string{""}, AllowedDomains: []string{""}}).Allowed(login.Person{Subject: "1"}) {
		t.Error("who has no name is who is named by nothing")
	}
}

// TestSyncedGroupsAreTheirOwn: no name there becomes the name of another group here.
func TestSyncedGroupsAreTheirOwn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.StringMatching(`[a-c/=~@. 0-9\x00é]{0,6}`).Draw(t, "a"), rapid.StringMatching(`[a-c/=~@. 0-9\x00é]{0,6}`).Draw(t, "b")
		x, y := login.SyncedGroup("p", a), login.SyncedGroup("p", b)
		if (a == b) != (x == y) {
			t.Fatalf("%q and %q are %q and %q", a, b, x, y)
		}
		if !strings.HasSuffix(x, "@p") || strings.Count(x, "@") != 1 || strings.ContainsAny(x, "/ \x00:") {
			t.Fatalf("%q becomes %q", a, x)
		}
	})
}

func TestSuggestedNames(t *testing.T) {
	for want, p := range map[string]login.Person{
		"zoe": {Username: "zoe"}, "z-e": {Username: "z e"}, "upn": {Username: "upn@corp.example"}, "mail": {Email: "mail@a.example"},
		"user": {Username: "éé"}, "a": {Username: "..a.."}, strings.Repeat("x", 48): {Username: strings.Repeat("x", 300)},
	} {
		if got := p.Suggest(); got != want {
			t.Errorf("%+v: %q", p, got)
		}
	}
}

// TestOtherServersAreNotAsked: what the policy of the transport refuses fails the login, and redirects are not followed.
func TestOtherServersAreNotAsked(t *testing.T) {
	refuse := transport(func(*http.Request) (*http.Response, error) { return nil, fault.New(fault.Denied, "not there") })
	idp := logintest.Start(t)
	conf := login.DefaultConfig()
	conf.Providers = map[string]login.ProviderConfig{"corp": idp.Config("oidc")}
	ps, err := login.New(conf, login.Deps{Transport: refuse})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ps["corp"].Begin(t.Context(), login.Flow{State: "s", Nonce: "n", Verifier: strings.Repeat("v", 43)}); !fault.Is(err, fault.Upstream) {
		t.Error(err)
	}
	if seen := idp.Seen(); len(seen) != 0 {
		t.Errorf("asked %q", seen)
	}
	huge := transport(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: endless{}, Request: r}, nil
	})
	if ps, err = login.New(conf, login.Deps{Transport: huge}); err != nil {
		t.Fatal(err)
	}
	if _, err := ps["corp"].Begin(t.Context(), login.Flow{State: "s", Nonce: "n", Verifier: strings.Repeat("v", 43)}); !fault.Is(err, fault.Upstream) {
		t.Error(err)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// endless is an answer that would fill the memory.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func (endless) Close() error { return nil }
