package migratetest

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestAdministration(t *testing.T) {
	s := platformtest.Start(t)
	ok(t, s, "channel", "create", "tools", "--private")

	t.Run("members come and go", func(t *testing.T) {
		ok(t, s, "channel", "member", "add", "tools", "bob")
		ok(t, s, "channel", "member", "add", "tools", "bob", "--role", "maintainer")
		if o := ok(t, s, "channel", "member", "list", "tools"); !strings.Contains(o.stdout, "bob") || !strings.Contains(o.stdout, "maintainer") {
			t.Errorf("%s", o.stdout)
		}
		s.User("bob").Must(200, "GET", "/api/channels/tools", nil)
		ok(t, s, "channel", "member", "remove", "tools", "bob")
		s.User("bob").Must(403, "GET", "/api/channels/tools", nil)
		if o := run(t, s, s.AdminKey, "channel", "member", "add", "tools", "bob", "--role", "king"); o.err == nil {
			t.Error("a role that there is not was given")
		}
	})

	t.Run("roles on the server are given and taken", func(t *testing.T) {
		s.Admin().Must(200, "POST", "/entrepot/v1/users", map[string]any{"username": "frank"})
		ok(t, s, "admin", "role", "set", "frank", "maintainer")
		if o := ok(t, s, "admin", "role", "list", "-o", "json"); !strings.Contains(o.stdout, `"frank"`) {
			t.Errorf("%s", o.stdout)
		}
		if o := run(t, s, s.User("frank").Key, "admin", "role", "set", "bob", "owner"); o.err == nil {
			t.Error("a maintainer made an owner")
		}
		ok(t, s, "admin", "role", "set", "frank", "none")
		if o := run(t, s, s.User("frank").Key, "admin", "audit"); o.err == nil {
			t.Error("who has no role reads the audit log")
		}
	})

	t.Run("the audit log says who did what", func(t *testing.T) {
		o := ok(t, s, "admin", "audit", "--actor", "alice", "-o", "json")
		var events []struct {
			Action, Actor string
			Details       map[string]any
		}
		if err := json.Unmarshal([]byte(o.stdout), &events); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range events {
			found = found || e.Action == "channel.member.set" && e.Actor == "alice"
		}
		if !found {
			t.Errorf("%s", o.stdout)
		}
		if o := ok(t, s, "admin", "audit", "--limit", "1"); strings.Count(o.stdout, "\n") != 2 {
			t.Errorf("%s", o.stdout)
		}
	})

	t.Run("a quota is set, shown and taken away", func(t *testing.T) {
		ok(t, s, "admin", "quota", "set", "tools", "5GiB")
		if o := ok(t, s, "admin", "quota", "list"); !strings.Contains(o.stdout, "tools") || !strings.Contains(o.stdout, "(together)") {
			t.Errorf("%s", o.stdout)
		}
		if n := query[int64](t, s, `SELECT size_limit FROM channels.channels WHERE name = 'tools'`); n != 5<<30 {
			t.Errorf("the limit is %d", n)
		}
		ok(t, s, "admin", "quota", "set", "tools", "none")
		if o := ok(t, s, "admin", "quota", "set-namespace", "default", "5GiB"); !strings.Contains(o.stdout+o.stderr, "5") {
			t.Errorf("%+v", o)
		}
		if o := ok(t, s, "admin", "quota", "namespaces"); !strings.Contains(o.stdout, "default") || !strings.Contains(o.stdout, "GiB") && !strings.Contains(o.stdout, "GB") {
			t.Error(o.stdout)
		}
		ok(t, s, "admin", "quota", "set-namespace", "default", "none")
		if !query[bool](t, s, `SELECT size_limit IS NULL FROM channels.channels WHERE name = 'tools'`) {
			t.Error("the limit is still there")
		}
	})

	t.Run("a client is told what it needs, and no key", func(t *testing.T) {
		for client, wants := range map[string][]string{
			"conda": {"channels:\n  - " + s.URL + "/channels/tools\n", "/t/API_KEY/channels/tools"},
			"mamba": {"channels:\n  - " + s.URL + "/channels/tools\n", "CondaToken"},
			"pixi":  {`channels = ["` + s.URL + `/channels/tools"]`, "--conda-token"},
		} {
			o := ok(t, s, "channel", "config", "tools", "--for", client)
			for _, want := range wants {
				if !strings.Contains(o.stdout, want) {
					t.Errorf("%s: no %q in\n%s", client, want, o.stdout)
				}
			}
			if strings.Contains(o.stdout, s.AdminKey) {
				t.Errorf("%s: the key is printed", client)
			}
		}
		if o := run(t, s, s.AdminKey, "channel", "config", "tools", "--for", "pip"); o.err == nil {
			t.Error("pip is no client of ours")
		}
	})

	t.Run("mirrors are registered and forgotten", func(t *testing.T) {
		ok(t, s, "channel", "create", "origin")
		ok(t, s, "channel", "create", "copy", "--mirror", s.URL+"/channels/origin", "--no-sync")
		o := ok(t, s, "channel", "mirror", "add", "origin", s.URL+"/get/copy", "-o", "json")
		var m struct{ ID string }
		if err := json.Unmarshal([]byte(o.stdout), &m); err != nil || m.ID == "" {
			t.Fatalf("%v %s", err, o.stdout)
		}
		if o := ok(t, s, "channel", "mirror", "list", "origin"); !strings.Contains(o.stdout, m.ID) {
			t.Errorf("%s", o.stdout)
		}
		ok(t, s, "channel", "mirror", "remove", "origin", m.ID)
		if o := ok(t, s, "channel", "mirror", "list", "origin"); strings.Contains(o.stdout, m.ID) {
			t.Errorf("%s", o.stdout)
		}
	})
}
