package apitest

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/entrepot-dev/entrepot/services/identity/login/logintest"
)

// TestLoginAttacks: answers that are not what they seem.
func TestLoginAttacks(t *testing.T) {
	idp := logintest.Start(t)
	w := loginWorld(t, idp, nil)
	eve := logintest.Person{Subject: "s-eve", Username: "eve"}
	refused := func(t *testing.T, b *browser, status int, path string) {
		t.Helper()
		resp := b.get(status, path)
		if b.cookies["entrepot_session"] != "" {
			t.Errorf("there is a session: %s", resp.Body)
		}
	}
	t.Run("ID tokens", func(t *testing.T) {
		other := logintest.Start(t)
		for name, change := range map[string]func(*logintest.State){
			"another nonce":    func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { c["nonce"] = "x" } },
			"no nonce":         func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { delete(c, "nonce") } },
			"another audience": func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { c["aud"] = "other" } },
			"two audiences": func(s *logintest.State) {
				s.Claims = func(c jwt.MapClaims) { c["aud"] = []string{"other", logintest.ClientID} }
			},
			"another party":  func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { c["azp"] = "other" } },
			"another issuer": func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { c["iss"] = "https://evil.example" } },
			"expired": func(s *logintest.State) {
				s.Claims = func(c jwt.MapClaims) { c["exp"] = time.Now().Add(-time.Hour).Unix() }
			},
			"no expiry":           func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { delete(c, "exp") } },
			"no subject":          func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { delete(c, "sub") } },
			"another access hash": func(s *logintest.State) { s.Claims = func(c jwt.MapClaims) { c["at_hash"] = "AAAA" } },
			"signed by others":    func(s *logintest.State) { s.Sign = other.SignES256 },
			"alg none": func(s *logintest.State) {
				s.Sign = func(c jwt.MapClaims) string {
					text, err := jwt.NewWithClaims(jwt.SigningMethodNone, c).SignedString(jwt.UnsafeAllowNoneSignatureType)
					if err != nil {
						panic(err)
					}
					return text
				}
			},
			"HMAC with the client's secret": func(s *logintest.State) {
				s.Sign = func(c jwt.MapClaims) string {
					text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte(logintest.ClientSecret))
					if err != nil {
						panic(err)
					}
					return text
				}
			},
			"no ID token":                  func(s *logintest.State) { s.Sign = func(jwt.MapClaims) string { return "" } },
			"userinfo about somebody else": func(s *logintest.State) { s.UserInfo = func(m map[string]any) { m["sub"] = "s-other" } },
		} {
			t.Run(name, func(t *testing.T) {
				idp.Is(eve)
				idp.Change(change)
				b := newBrowser(t, w)
				refused(t, b, 401, b.begin("corp", ""))
			})
		}
	})
	t.Run("another state, and none", func(t *testing.T) {
		idp.Is(eve)
		for _, state := range []string{"x", ""} {
			b := newBrowser(t, w)
			u, err := url.Parse(b.begin("corp", ""))
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			q.Set("state", state)
			refused(t, b, 401, u.Path+"?"+q.Encode())
		}
	})
	t.Run("an answer that names another issuer", func(t *testing.T) {
		idp.Is(eve)
		b := newBrowser(t, w)
		refused(t, b, 401, b.begin("corp", "")+"&iss=https%3A%2F%2Fevil.example")
	})
	t.Run("another browser", func(t *testing.T) {
		idp.Is(eve)
		back := newBrowser(t, w).begin("corp", "")
		refused(t, newBrowser(t, w), 401, back) // which began nothing
		victim := newBrowser(t, w)
		victim.begin("corp", "")
		refused(t, victim, 401, back) // which began another one
	})
	t.Run("another provider's login", func(t *testing.T) {
		idp.Is(eve)
		b := newBrowser(t, w)
		back := b.begin("hub", "")
		refused(t, b, 401, strings.Replace(back, "/auth/hub/", "/auth/corp/", 1))
	})
	t.Run("a code that was stolen is useless without the verifier", func(t *testing.T) {
		idp.Is(logintest.Person{Subject: "s-victim", Username: "victim"})
		stolen, err := url.Parse(newBrowser(t, w).begin("corp", ""))
		if err != nil {
			t.Fatal(err)
		}
		thief := newBrowser(t, w)
		own, err := url.Parse(thief.begin("corp", ""))
		if err != nil {
			t.Fatal(err)
		}
		q := own.Query()
		q.Set("code", stolen.Query().Get("code"))
		refused(t, thief, 401, own.Path+"?"+q.Encode())
	})
	t.Run("a code counts once", func(t *testing.T) {
		idp.Is(eve)
		b := newBrowser(t, w)
		back := b.begin("corp", "")
		flow := b.cookies["entrepot_login"]
		b.get(303, back)
		if _, kept := b.cookies["entrepot_login"]; kept {
			t.Error("the browser keeps the login's cookie")
		}
		replay := newBrowser(t, w)
		replay.cookies["entrepot_login"] = flow
		refused(t, replay, 401, back)
	})
	t.Run("a forged flow", func(t *testing.T) {
		b := newBrowser(t, w)
		back := b.begin("corp", "")
		b.cookies["entrepot_login"] = "AAAA" + b.cookies["entrepot_login"][4:]
		refused(t, b, 401, back)
	})
	t.Run("who says no there is told so", func(t *testing.T) {
		idp.Is(eve)
		idp.Change(func(s *logintest.State) { s.Deny = true })
		b := newBrowser(t, w)
		back := b.begin("corp", "")
		if got := detail(t, b.get(403, back)); got != "login provider 'corp' says: access_denied" {
			t.Error(got)
		}
	})
	t.Run("a provider that is down fails the login, with words", func(t *testing.T) {
		idp.Is(eve)
		b := newBrowser(t, w)
		back := b.begin("corp", "")
		idp.Change(func(s *logintest.State) { s.Down = true })
		if got := detail(t, b.get(502, back)); !strings.Contains(got, "login provider 'corp' does not work now") {
			t.Error(got)
		}
		w.User("bob").In(t).Must(200, "GET", "/api/me", nil)
		idp.Is(eve)
	})
	t.Run("a provider that was never up", func(t *testing.T) {
		dead := logintest.Start(t)
		dead.Change(func(s *logintest.State) { s.Down = true })
		w := loginWorld(t, dead, nil)
		if got := detail(t, newBrowser(t, w).get(502, "/auth/corp/login")); !strings.Contains(got, "does not work now") {
			t.Error(got)
		}
		dead.Is(eve)
		b := newBrowser(t, w)
		b.get(303, b.begin("corp", ""))
		if b.me() != "eve" {
			t.Error("it does not recover")
		}
	})
	t.Run("attempts are in the audit log", func(t *testing.T) {
		if events := auditActions(t, w, "login/corp"); !holds(events, "anonymous login.failed") {
			t.Errorf("%q", events)
		}
	})
}
