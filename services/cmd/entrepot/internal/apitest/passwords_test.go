package apitest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestPasswords: names and passwords that are kept here.
func TestPasswords(t *testing.T) {
	w := platformtest.Start(t)
	const password = "correct horse battery"
	admin := w.Admin().In(t)
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": "priv", "private": true})
	admin.Must(200, "PUT", "/entrepot/v1/users/bob/password", map[string]any{"new_password": password})
	admin.Must(400, "PUT", "/entrepot/v1/users/bob/password", map[string]any{"password": "of another field"}) // and bob has his still
	in := func(t *testing.T, want int, name, password string) *browser {
		t.Helper()
		b := newBrowser(t, w)
		b.send(want, "POST", "/entrepot/v1/login", map[string]any{"username": name, "password": password}, nil)
		return b
	}
	t.Run("by JSON", func(t *testing.T) {
		b := in(t, 200, "BOB", password)
		if b.me() != "bob" {
			t.Errorf("logged in as %q", b.me())
		}
	})
	t.Run("wrong ones all look alike", func(t *testing.T) {
		var bodies []string
		for _, try := range [][2]string{{"bob", "wrong"}, {"nobody", password}, {"carol", ""}, {"", ""}} {
			var problem struct{ Detail string }
			b := newBrowser(t, w)
			b.send(401, "POST", "/entrepot/v1/login", map[string]any{"username": try[0], "password": try[1]}, nil).JSON(&problem)
			bodies = append(bodies, problem.Detail)
			if len(b.cookies) != 0 {
				t.Errorf("%v: cookies %v", try, b.cookies)
			}
		}
		for _, body := range bodies {
			if body != "wrong name or password" {
				t.Error(body)
			}
		}
	})
	t.Run("by form, in the browser that was shown it", func(t *testing.T) {
		b := newBrowser(t, w)
		page := string(b.get(200, "/auth/local/login?next=/docs").Body)
		_, rest, _ := strings.Cut(page, `name="token" value="`)
		token, _, _ := strings.Cut(rest, `"`)
		form := func(token, password string) string {
			return url.Values{"token": {token}, "next": {"/docs"}, "username": {"bob"}, "password": {password}}.Encode()
		}
		header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
		stranger := newBrowser(t, w)
		stranger.send(403, "POST", "/auth/local/authorize", form(token, password), header)
		b.send(403, "POST", "/auth/local/authorize", form("", password), header)
		evil := header.Clone()
		evil.Set("Origin", "https://evil.example")
		b.send(403, "POST", "/auth/local/authorize", form(token, password), evil)
		if resp := b.send(401, "POST", "/auth/local/authorize", form(token, "wrong"), header); !strings.Contains(string(resp.Body), "wrong name or password") {
			t.Errorf("%s", resp.Body)
		}
		token = b.cookies["entrepot_form"]
		if resp := b.send(303, "POST", "/auth/local/authorize", form(token, password), header); resp.Header.Get("Location") != "/docs" {
			t.Error(resp.Header)
		}
		if b.me() != "bob" {
			t.Errorf("logged in as %q", b.me())
		}
	})
	t.Run("another page cannot log somebody in", func(t *testing.T) {
		b := newBrowser(t, w)
		b.send(403, "POST", "/entrepot/v1/login", map[string]any{"username": "bob", "password": password}, http.Header{"Origin": {"https://evil.example"}})
		b.send(403, "POST", "/entrepot/v1/login", `{"username":"bob","password":"`+password+`"}`, http.Header{"Content-Type": {"text/plain"}})
		if len(b.cookies) != 0 {
			t.Errorf("%v", b.cookies)
		}
	})
	t.Run("a stale cookie does not keep anybody out", func(t *testing.T) {
		b := newBrowser(t, w)
		b.cookies["entrepot_session"] = "gone"
		b.send(200, "POST", "/entrepot/v1/login", map[string]any{"username": "bob", "password": password}, nil)
		if b.me() != "bob" {
			t.Errorf("logged in as %q", b.me())
		}
	})
	t.Run("a worthless key never falls back to the cookie", func(t *testing.T) {
		b := in(t, 200, "bob", password)
		b.send(401, "GET", "/api/me", nil, http.Header{"X-Api-Key": {"worthless"}})
		b.send(401, "GET", "/api/me", nil, http.Header{"Authorization": {"Bearer worthless"}})
		b.get(401, "/t/worthless/api/me")
	})
	t.Run("by cookie the native API takes JSON from our pages only", func(t *testing.T) {
		b := in(t, 200, "bob", password)
		body := `{"description":"x"}`
		for _, ct := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""} {
			b.send(403, "POST", "/entrepot/v1/api-keys", body, http.Header{"Content-Type": {ct}})
		}
		b.send(403, "POST", "/entrepot/v1/api-keys", body, http.Header{"Content-Type": {"application/json"}, "Origin": {"https://evil.example"}})
		b.send(200, "POST", "/entrepot/v1/api-keys", body, http.Header{"Content-Type": {"application/json"}, "Origin": {w.URL}})
		w.User("bob").In(t).Send(200, platformtest.Request{Method: "POST", Path: "/entrepot/v1/api-keys", Body: body, Header: http.Header{"Origin": {"https://ci.example"}}})
	})
	t.Run("logins are listed, and end one by one or all at once", func(t *testing.T) {
		one, two := in(t, 200, "bob", password), in(t, 200, "bob", password)
		var list struct {
			Sessions []struct {
				ID       json.Number
				Provider string
				Client   struct{ Address string }
			}
		}
		one.get(200, "/entrepot/v1/users/bob/sessions").JSON(&list)
		if len(list.Sessions) < 2 || list.Sessions[0].Provider != "local" || list.Sessions[0].Client.Address != "127.0.0.1" {
			t.Fatalf("%+v", list)
		}
		w.User("dave").In(t).Must(403, "GET", "/entrepot/v1/users/bob/sessions", nil)
		w.User("dave").In(t).Must(403, "DELETE", "/entrepot/v1/users/bob/sessions", nil)
		two.send(200, "POST", "/entrepot/v1/logout", map[string]any{}, nil)
		if two.me() != "" || one.me() != "bob" {
			t.Errorf("%q %q", two.me(), one.me())
		}
		one.send(200, "POST", "/entrepot/v1/logout", map[string]any{"everywhere": true}, nil)
		one.get(200, "/entrepot/v1/login")
		w.User("bob").In(t).Must(200, "GET", "/entrepot/v1/users/bob/sessions", nil).JSON(&list)
		if len(list.Sessions) != 0 {
			t.Errorf("%+v", list)
		}
		if events := auditActions(t, w, "user/bob"); !holds(events, "bob logout") || !holds(events, "bob login") || !holds(events, "anonymous login.failed") || !holds(events, "alice user.password") {
			t.Errorf("%q", events)
		}
	})
	t.Run("a new password needs the old one, and ends all logins", func(t *testing.T) {
		b := in(t, 200, "bob", password)
		b.send(400, "PUT", "/entrepot/v1/users/bob/password", map[string]any{"old_password": "wrong", "new_password": "another long one"}, nil)
		b.send(400, "PUT", "/entrepot/v1/users/bob/password", map[string]any{"old_password": password, "new_password": "short"}, nil)
		b.send(403, "PUT", "/entrepot/v1/users/carol/password", map[string]any{"new_password": "another long one"}, nil)
		b.send(200, "PUT", "/entrepot/v1/users/bob/password", map[string]any{"old_password": password, "new_password": "another long one"}, nil)
		ends(t, func() bool { return b.me() == "" })
		in(t, 401, "bob", password)
		in(t, 200, "bob", "another long one")
		admin.Must(200, "PUT", "/entrepot/v1/users/bob/password", map[string]any{"new_password": password})
	})
	t.Run("who is shut out is out, with every key and login", func(t *testing.T) {
		b, key := in(t, 200, "bob", password), w.User("bob").In(t)
		key.Must(200, "GET", "/api/me", nil)
		b.send(403, "PUT", "/entrepot/v1/users/carol/disabled", map[string]any{"disabled": true}, nil)
		admin.Must(409, "PUT", "/entrepot/v1/users/alice/disabled", map[string]any{"disabled": true})
		admin.Must(200, "PUT", "/entrepot/v1/users/bob/disabled", map[string]any{"disabled": true})
		ends(t, func() bool { return key.Do("GET", "/api/me", nil).Status == 401 && b.me() == "" })
		in(t, 401, "bob", password)
		admin.Must(200, "PUT", "/entrepot/v1/users/bob/disabled", map[string]any{"disabled": false})
		ends(t, func() bool { return key.Do("GET", "/api/me", nil).Status == 200 })
		in(t, 200, "bob", password)
	})
	t.Run("nobody tries for ever", func(t *testing.T) {
		for range 10 {
			in(t, 401, "dave", "wrong")
		}
		resp := newBrowser(t, w).send(429, "POST", "/entrepot/v1/login", map[string]any{"username": "Dave", "password": "wrong"}, nil)
		if resp.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		in(t, 200, "bob", password) // others go on
	})
	t.Run("nothing of it is in the log or the database", func(t *testing.T) {
		if strings.Contains(w.Logs(), password) || strings.Contains(w.Logs(), "another long one") {
			t.Error("the log holds a password")
		}
	})
}

// TestSecureCookies: behind https a cookie is ours alone.
func TestSecureCookies(t *testing.T) {
	w := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) { c.PublicURL = "https://conda.example.org" }))
	set := w.Anonymous().Must(307, "GET", "/api/dummylogin/alice", nil).Header.Get("Set-Cookie")
	for _, want := range []string{"__Host-entrepot_session=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(set, want) {
			t.Errorf("no %s: %s", want, set)
		}
	}
	if strings.Contains(set, "Domain") {
		t.Error(set)
	}
	cookie, _, _ := strings.Cut(set, ";")
	send := func(want int, method, cookie string, header http.Header) {
		t.Helper()
		h := http.Header{"Cookie": {cookie}}
		for k, v := range header {
			h[k] = v
		}
		path, body := "/api/me", any(nil)
		if method == "POST" {
			path, body = "/api/api-keys", map[string]any{"description": "x"}
		}
		w.Anonymous().In(t).Send(want, platformtest.Request{Method: method, Path: path, Body: body, Header: h})
	}
	send(200, "GET", cookie, nil)
	// A sibling host or a page over http can plant the unprefixed name: it is not looked at.
	send(401, "GET", strings.TrimPrefix(cookie, "__Host-"), nil)
	send(201, "POST", cookie, http.Header{"Origin": {"https://conda.example.org"}})
	send(403, "POST", cookie, http.Header{"Origin": {"http://conda.example.org"}})
	send(403, "POST", cookie, http.Header{"Origin": {w.URL}})
}
