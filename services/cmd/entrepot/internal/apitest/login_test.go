package apitest

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/identity/login"
	"github.com/entrepot-dev/entrepot/services/identity/login/logintest"
)

// browser keeps cookies, and follows nothing by itself.
type browser struct {
	w       *platformtest.Stack
	t       *testing.T
	cookies map[string]string
}

func newBrowser(t *testing.T, w *platformtest.Stack) *browser {
	return &browser{w: w, t: t, cookies: map[string]string{}}
}

func (b *browser) send(want int, method, path string, body any, header http.Header) *platformtest.Response {
	b.t.Helper()
	h := http.Header{}
	for k, v := range header {
		h[k] = v
	}
	var pairs []string
	for k, v := range b.cookies {
		pairs = append(pairs, k+"="+v)
	}
	if len(pairs) > 0 {
		h.Set("Cookie", strings.Join(pairs, "; "))
	}
	resp := b.w.Anonymous().In(b.t).Send(want, platformtest.Request{Method: method, Path: path, Body: body, Header: h})
	for _, line := range resp.Header.Values("Set-Cookie") {
		c, err := http.ParseSetCookie(line)
		if err != nil {
			b.t.Fatal(err)
		}
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c.Value
		}
	}
	return resp
}

func (b *browser) get(want int, path string) *platformtest.Response {
	b.t.Helper()
	return b.send(want, "GET", path, nil, nil)
}

// begin goes to the provider and returns where that sends the browser back to, as a path of ours.
func (b *browser) begin(provider, query string) string {
	b.t.Helper()
	to := b.get(303, "/auth/"+provider+"/login"+query).Header.Get("Location")
	back := b.w.Anonymous().In(b.t).Must(302, "GET", to, nil).Header.Get("Location")
	if !strings.HasPrefix(back, b.w.URL+"/auth/"+provider+"/authorize?") {
		b.t.Fatalf("the provider sends the browser to %s", back)
	}
	return strings.TrimPrefix(back, b.w.URL)
}

// me returns the name of who is logged in, or nothing.
func (b *browser) me() string {
	b.t.Helper()
	resp := b.get(0, "/api/me")
	if resp.Status == 401 {
		return ""
	}
	var me struct{ User struct{ Username string } }
	resp.JSON(&me)
	return me.User.Username
}

func loginWorld(t *testing.T, idp *logintest.Server, change func(map[string]login.ProviderConfig)) *platformtest.Stack {
	return platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		c.Login.Providers = map[string]login.ProviderConfig{"corp": idp.Config("oidc"), "github": idp.Config("github"), "hub": idp.Config("jupyterhub")}
		if change != nil {
			change(c.Login.Providers)
		}
	}))
}

func auditActions(t *testing.T, w *platformtest.Stack, resource string) []string {
	t.Helper()
	var page struct {
		Events []struct{ Action, Actor string }
	}
	w.Admin().In(t).Must(200, "GET", "/entrepot/v1/audit?page_size=200&resource="+url.QueryEscape(resource), nil).JSON(&page)
	var out []string
	for _, e := range page.Events {
		out = append(out, e.Actor+" "+e.Action)
	}
	return out
}

func holds(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

// TestLoginAtProviders: the whole way, over HTTP, with cookies.
func TestLoginAtProviders(t *testing.T) {
	idp := logintest.Start(t)
	w := loginWorld(t, idp, func(p map[string]login.ProviderConfig) {
		c := p["corp"]
		c.Groups, c.Admins = map[string]string{"release": "releasers"}, []string{"sub:boss"}
		c.SyncGroups, c.DefaultRole = true, "member"
		p["corp"] = c
		g := p["github"]
		g.AllowedGroups = []string{"entrepot-org/core"}
		p["github"] = g
	})
	zoe := logintest.Person{Subject: "s-zoe", Username: "zoe", Name: "Zoe Z", Email: "zoe@corp.example", EmailVerified: true, Avatar: "https://a.example/z.png", Groups: []string{"release", "a/b"}}

	t.Run("a first login makes a user with profile, role and groups", func(t *testing.T) {
		idp.Is(zoe)
		b := newBrowser(t, w)
		if resp := b.get(303, b.begin("corp", "?next=/channels/channel0")); resp.Header.Get("Location") != "/channels/channel0" {
			t.Errorf("after the login: %s", resp.Header.Get("Location"))
		}
		var me struct {
			Name, Avatar_url string //nolint:revive // the dialect's own spelling
			User             struct{ Username string }
		}
		b.get(200, "/api/me").JSON(&me)
		if me.User.Username != "zoe" || me.Name != "Zoe Z" || me.Avatar_url != zoe.Avatar {
			t.Errorf("%+v", me)
		}
		var groups struct{ Groups []struct{ Name string } }
		b.get(200, "/entrepot/v1/groups").JSON(&groups)
		var names []string
		for _, g := range groups.Groups {
			names = append(names, g.Name)
		}
		if got := strings.Join(names, " "); got != "a~b@corp release@corp releasers" {
			t.Errorf("groups %q", got)
		}
		b.send(201, "POST", "/api/channels", map[string]any{"name": "zoes"}, http.Header{"Origin": {w.URL}, "Sec-Fetch-Site": {"same-origin"}})
		events := auditActions(t, w, "user/zoe")
		for _, want := range []string{"zoe user.create", "zoe login.link", "zoe login"} {
			if !holds(events, want) {
				t.Errorf("the audit log lacks %q: %q", want, events)
			}
		}
	})
	t.Run("the second login is the same user, and follows the claims", func(t *testing.T) {
		again := zoe
		again.Username, again.Groups = "renamed", []string{"other"}
		idp.Is(again)
		b := newBrowser(t, w)
		b.get(303, b.begin("corp", ""))
		if b.me() != "zoe" {
			t.Errorf("logged in as %q", b.me())
		}
		var groups struct{ Groups []struct{ Name string } }
		b.get(200, "/entrepot/v1/groups").JSON(&groups)
		if len(groups.Groups) != 1 || groups.Groups[0].Name != "other@corp" {
			t.Errorf("%+v", groups)
		}
	})
	t.Run("a name that is taken gets the provider's behind it", func(t *testing.T) {
		idp.Is(logintest.Person{Subject: "s-alice", Username: "alice", Email: "alice@corp.example", EmailVerified: true})
		b := newBrowser(t, w)
		b.get(303, b.begin("corp", ""))
		if b.me() != "alice-corp" {
			t.Errorf("logged in as %q: never as somebody who only has the same name", b.me())
		}
	})
	t.Run("an address makes nobody somebody else", func(t *testing.T) {
		idp.Is(logintest.Person{Subject: "s-mallory", Username: "mallory", Email: zoe.Email, EmailVerified: true})
		b := newBrowser(t, w)
		b.get(303, b.begin("corp", ""))
		if b.me() != "mallory" {
			t.Errorf("logged in as %q", b.me())
		}
	})
	t.Run("who is named an administrator becomes one", func(t *testing.T) {
		idp.Is(logintest.Person{Subject: "boss", Username: "boss"})
		b := newBrowser(t, w)
		b.get(303, b.begin("corp", ""))
		b.get(200, "/entrepot/v1/audit")
	})
	t.Run("GitHub, by organisation and team", func(t *testing.T) {
		idp.Is(logintest.Person{Number: 7, Username: "octo", Groups: []string{"other"}})
		b := newBrowser(t, w)
		if got := detail(t, b.get(403, b.begin("github", ""))); !strings.Contains(got, "not among those") {
			t.Error(got)
		}
		idp.Is(logintest.Person{Number: 7, Username: "octo", Name: "Octo", Groups: []string{"entrepot-org"}, Teams: []string{"entrepot-org/core"}})
		b.get(303, b.begin("github", ""))
		if b.me() != "octo" {
			t.Errorf("logged in as %q", b.me())
		}
		if to := b.get(303, "/auth/github/revoke").Header.Get("Location"); to != idp.URL+"/settings/connections/applications/"+logintest.ClientID {
			t.Error(to)
		}
	})
	t.Run("JupyterHub", func(t *testing.T) {
		idp.Is(logintest.Person{Username: "juno"})
		b := newBrowser(t, w)
		b.get(303, b.begin("hub", ""))
		if b.me() != "juno" {
			t.Errorf("logged in as %q", b.me())
		}
	})
	t.Run("linking gives a user a second way in", func(t *testing.T) {
		b := newBrowser(t, w)
		b.cookies["entrepot_session"] = strings.TrimPrefix(w.Login("bob"), "entrepot_session=")
		idp.Is(logintest.Person{Subject: "s-bob", Username: "robert"})
		b.get(303, b.begin("corp", "?link=true"))
		if b.me() != "bob" {
			t.Errorf("logged in as %q", b.me())
		}
		other := newBrowser(t, w)
		other.get(303, other.begin("corp", ""))
		if other.me() != "bob" {
			t.Errorf("logged in as %q", other.me())
		}
		// What dave began, bob does not end; and what is bob's is not linked to dave.
		dave := newBrowser(t, w)
		dave.cookies["entrepot_session"] = strings.TrimPrefix(w.Login("dave"), "entrepot_session=")
		back := dave.begin("corp", "?link=true")
		dave.cookies["entrepot_session"] = b.cookies["entrepot_session"]
		dave.get(401, back)
		dave.cookies["entrepot_session"] = strings.TrimPrefix(w.Login("dave"), "entrepot_session=")
		dave.get(409, dave.begin("corp", "?link=true"))
		newBrowser(t, w).get(401, "/auth/corp/login?link=true")
		b.send(403, "GET", "/auth/corp/login?link=true", nil, http.Header{"Sec-Fetch-Site": {"cross-site"}})
	})
	t.Run("a login replaces the browser's session", func(t *testing.T) {
		idp.Is(zoe)
		b := newBrowser(t, w)
		b.get(303, b.begin("corp", ""))
		old := b.cookies["entrepot_session"]
		b.get(303, b.begin("corp", ""))
		if b.cookies["entrepot_session"] == old {
			t.Error("the session is the old one")
		}
		stale := newBrowser(t, w)
		stale.cookies["entrepot_session"] = old
		if stale.me() != "" {
			t.Error("the old session still works")
		}
	})
	t.Run("what is enabled", func(t *testing.T) {
		a := w.Anonymous().In(t)
		if got := string(a.Must(200, "GET", "/auth/corp/enabled", nil).Body); strings.TrimSpace(got) != "true" {
			t.Error(got)
		}
		a.Must(404, "GET", "/auth/gitlab/enabled", nil)
		a.Must(404, "GET", "/auth/corp/revoke", nil)
		var ways struct {
			Providers []struct{ Name, Login_url string }
		} //nolint:revive // the API's own spelling
		a.Must(200, "GET", "/entrepot/v1/login", nil).JSON(&ways)
		if len(ways.Providers) != 4 || ways.Providers[0].Name != "local" || ways.Providers[1].Login_url != "/auth/corp/login" {
			t.Errorf("%+v", ways)
		}
	})
	t.Run("nowhere else is gone to afterwards", func(t *testing.T) {
		for _, next := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "/\t/evil.example", "/a\r\nSet-Cookie: x=y", "evil", "/%5cevil.example", "/%2fevil.example"} {
			for _, path := range []string{"/auth/corp/login?next=", "/auth/local/login?next="} {
				if resp := w.Anonymous().In(t).Do("GET", path+url.QueryEscape(next), nil); resp.Status != 422 {
					t.Errorf("%q: %d %s", next, resp.Status, resp.Header.Get("Location"))
				}
			}
		}
	})
	t.Run("no secret is in the log", func(t *testing.T) {
		logs := w.Logs()
		if strings.Contains(logs, logintest.ClientSecret) || strings.Contains(logs, "code_verifier") || strings.Contains(logs, "eyJ") {
			t.Error("the log holds a secret")
		}
	})
}

// TestLoginSettingsOfTheDocs: what operations.md says to copy can be used as it stands.
func TestLoginSettingsOfTheDocs(t *testing.T) {
	page := string(readFile(t, filepath.Join(repository(t), "docs", "operations.md")))
	_, section, ok := strings.Cut(page, "\n## Login\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := strings.Split(section, "```yaml\n")
	if !ok || len(blocks) != 3 {
		t.Fatalf("the page has %d blocks of settings about logins", len(blocks)-1)
	}
	for _, b := range blocks[1:] {
		text, _, _ := strings.Cut(b, "```")
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, _, err := config.Load(platform.DefaultConfig(), config.Sources{File: file})
		if err == nil {
			err = cfg.Validate()
		}
		if err != nil {
			t.Errorf("%v\n%s", err, text)
		}
		if n := len(cfg.Login.Providers); n != 0 && n != len(login.Kinds) {
			t.Errorf("%d kinds of providers have an example, there are %d", n, len(login.Kinds))
		}
	}
}
