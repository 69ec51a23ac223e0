package apitest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestQuetzUsers: users, roles and what they have roles on; quetz.md §2.5.
func TestQuetzUsers(t *testing.T) {
	w := &world{Stack: platformtest.Start(t)}
	alice, bob := w.Admin().In(t), w.User("bob").In(t)
	var me struct {
		User struct{ ID string }
	}
	bob.Must(200, "GET", "/api/me", nil).JSON(&me)
	bobJSON := fmt.Sprintf(`{"id":%q,"username":"bob","profile":{"name":"Bob","avatar_url":"/avatar.jpg"}}`, me.User.ID)

	t.Run("the development users, in this order", func(t *testing.T) {
		var all []struct{ Username string }
		alice.In(t).Must(200, "GET", "/api/users", nil).JSON(&all)
		var names []string
		for _, u := range all {
			names = append(names, u.Username)
		}
		if diff := cmp.Diff([]string{"alice", "bob", "carol", "dave"}, names); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("others see themselves, and the count says so", func(t *testing.T) {
		if got := string(bob.In(t).Must(200, "GET", "/api/users", nil).Body); got != "["+bobJSON+"]" {
			t.Errorf("%s", got)
		}
		want := `{"pagination":{"skip":0,"limit":20,"all_records_count":1},"result":[` + bobJSON + `]}`
		if got := string(bob.In(t).Must(200, "GET", "/api/paginated/users?q=", nil).Body); got != want {
			t.Errorf("%s", got)
		}
	})
	t.Run("pages", func(t *testing.T) {
		for query, want := range map[string]string{
			"?skip=1&limit=1": `{"pagination":{"skip":1,"limit":1,"all_records_count":4},"result":[` + bobJSON + `]}`,
			"?q=BO&limit=-1":  `{"pagination":{"skip":0,"limit":-1,"all_records_count":1},"result":[` + bobJSON + `]}`,
			"?skip=9":         `{"pagination":{"skip":9,"limit":20,"all_records_count":4},"result":[]}`,
			"?limit=0":        `{"pagination":{"skip":0,"limit":0,"all_records_count":4},"result":[]}`,
		} {
			if got := string(alice.In(t).Must(200, "GET", "/api/paginated/users"+query, nil).Body); got != want {
				t.Errorf("%s: %s\nwant %s", query, got, want)
			}
		}
	})
	t.Run("one user: oneself, or as the server's", func(t *testing.T) {
		for _, c := range []*platformtest.Client{alice, bob} {
			if got := string(c.In(t).Must(200, "GET", "/api/users/bob/", nil).Body); got != bobJSON {
				t.Errorf("%s", got)
			}
		}
		const refusal = `["this operation requires owner or maintainer roles"]`
		for _, path := range []string{"/api/users/carol", "/api/users/nobody", "/api/users/nobody/role", "/api/users/nobody/channels", "/api/users/nobody/packages"} {
			if got := detail(t, bob.In(t).Must(403, "GET", path, nil)); got != refusal {
				t.Errorf("%s: %s", path, got) // the right comes before the user
			}
			if strings.Contains(path, "nobody") {
				if got := detail(t, alice.In(t).Must(404, "GET", path, nil)); got != "User nobody not found" {
					t.Errorf("%s: %s", path, got)
				}
			}
		}
	})
	t.Run("server roles", func(t *testing.T) {
		role := func(user string) string {
			return string(alice.In(t).Must(200, "GET", "/api/users/"+user+"/role", nil).Body)
		}
		put := func(c *platformtest.Client, status int, user string, role any) string {
			t.Helper()
			resp := c.In(t).Must(status, "PUT", "/api/users/"+user+"/role", map[string]any{"role": role})
			if status == 200 {
				if string(resp.Body) != "null" {
					t.Errorf("%s", resp.Body)
				}
				return ""
			}
			return detail(t, resp)
		}
		if got := role("alice"); got != `{"role":"owner"}` {
			t.Errorf("alice: %s", got)
		}
		put(alice, 200, "carol", "maintainer")
		carol := w.User("carol")
		put(carol, 200, "dave", "member")
		if got := put(carol, 403, "dave", "maintainer"); got != `["this operation requires owner roles"]` {
			t.Errorf("%s", got)
		}
		if got := put(carol, 403, "dave", nil); got != `["this operation requires owner roles"]` {
			t.Errorf("%s", got)
		}
		if got := put(bob, 403, "dave", "member"); got != `["this operation requires owner or maintainer roles"]` {
			t.Errorf("%s", got)
		}
		put(alice, 200, "dave", nil)
		if got := role("dave"); got != `{"role":null}` {
			t.Errorf("dave: %s", got)
		}
		if got := put(alice, 409, "alice", nil); got != "the last owner of the server stays" {
			t.Errorf("%s", got)
		}
		if got := put(alice, 422, "dave", "boss"); !strings.Contains(got, "owner|maintainer|member") {
			t.Errorf("%s", got)
		}
		put(alice, 422, "dave", "")
		put(alice, 422, "dave", 7)
		if got := put(alice, 404, "nobody", "member"); got != "User nobody not found" {
			t.Errorf("%s", got)
		}
		put(alice, 200, "dave", "member")
		put(alice, 200, "carol", "member")
	})
	t.Run("roles on channels and packages", func(t *testing.T) {
		p := packages(t)[0]
		for _, name := range []string{"zeta", "Beta"} {
			bob.In(t).Must(201, "POST", "/api/channels", map[string]any{"name": name})
		}
		alice.In(t).Must(201, "POST", "/api/channels/channel0/members", map[string]any{"username": "bob", "role": "member"})
		bob.In(t).Must(201, "POST", "/api/channels/beta/upload/"+p.filename+"?sha256=", p.data)
		bob.In(t).Must(201, "POST", "/api/channels/beta/packages", map[string]any{"name": "aaa"})
		const channels = `{"name":"Beta","role":"owner"},{"name":"channel0","role":"member"},{"name":"zeta","role":"owner"}`
		pkgs := fmt.Sprintf(`{"name":"aaa","channel_name":"Beta","role":"owner"},{"name":%q,"channel_name":"Beta","role":"owner"}`, p.name)
		for _, c := range []*platformtest.Client{alice, bob} {
			for path, want := range map[string]string{
				"/api/users/bob/channels": "[" + channels + "]", "/api/users/bob/packages": "[" + pkgs + "]",
				"/api/paginated/users/bob/channels":                `{"pagination":{"skip":0,"limit":20,"all_records_count":3},"result":[` + channels + `]}`,
				"/api/paginated/users/bob/packages":                `{"pagination":{"skip":0,"limit":20,"all_records_count":2},"result":[` + pkgs + `]}`,
				"/api/paginated/users/bob/channels?skip=1&limit=1": `{"pagination":{"skip":1,"limit":1,"all_records_count":3},"result":[{"name":"channel0","role":"member"}]}`,
				"/api/users/dave/channels":                         "",
			} {
				if want == "" {
					continue
				}
				if got := string(c.In(t).Must(200, "GET", path, nil).Body); got != want {
					t.Errorf("%s: %s\nwant %s", path, got, want)
				}
			}
		}
		if got := string(alice.In(t).Must(200, "GET", "/api/users/dave/channels", nil).Body); got != "[]" {
			t.Errorf("dave: %s", got)
		}
		bob.In(t).Must(200, "DELETE", "/api/channels/beta/packages/"+p.name, nil)
		if got := string(bob.In(t).Must(200, "GET", "/api/users/bob/packages", nil).Body); got != `[{"name":"aaa","channel_name":"Beta","role":"owner"}]` {
			t.Errorf("after the deletion: %s", got)
		}
		bob.In(t).Must(200, "DELETE", "/api/channels/beta", nil)
		if got := string(bob.In(t).Must(200, "GET", "/api/users/bob/packages", nil).Body); got != "[]" {
			t.Errorf("after the channel's deletion: %s", got)
		}
	})
	t.Run("a deleted user is gone, with keys and logins", func(t *testing.T) {
		dave := w.User("dave").In(t)
		cookie := w.Login("dave")
		if got := detail(t, bob.In(t).Must(403, "DELETE", "/api/users/dave", nil)); got != `["this operation requires owner or maintainer roles"]` {
			t.Errorf("%s", got)
		}
		if got := string(dave.Must(200, "DELETE", "/api/users/dave", nil).Body); got != "null" {
			t.Errorf("%s", got)
		}
		dave.Must(401, "GET", "/api/me", nil)
		w.Anonymous().In(t).Send(401, platformtest.Request{Method: "GET", Path: "/api/me", Header: map[string][]string{"Cookie": {cookie}}})
		if got := detail(t, alice.In(t).Must(404, "GET", "/api/users/dave", nil)); got != "User dave not found" {
			t.Errorf("%s", got)
		}
		if got := detail(t, alice.In(t).Must(404, "DELETE", "/api/users/dave", nil)); got != "User dave not found" {
			t.Errorf("%s", got)
		}
	})
	var errs map[string]json.RawMessage
	w.Anonymous().In(t).Must(401, "GET", "/api/users", nil).JSON(&errs)
}
