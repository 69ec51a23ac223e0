package apitest

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

type apiKeyJSON struct {
	Description, Key string
	TimeCreated      string  `json:"time_created"`
	ExpireAt         *string `json:"expire_at"`
	Roles            []struct {
		Channel string
		Package *string
		Role    string
	}
}

// TestKeys: a life of API keys; quetz.md §2.5.
func TestKeys(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob := w.User("bob")
	make := func(t *testing.T, body map[string]any) apiKeyJSON {
		t.Helper()
		var k apiKeyJSON
		bob.In(t).Must(201, "POST", "/api/api-keys", body).JSON(&k)
		return k
	}
	list := func(t *testing.T) map[string]apiKeyJSON {
		t.Helper()
		var all []apiKeyJSON
		bob.In(t).Must(200, "GET", "/api/api-keys", nil).JSON(&all)
		out := map[string]apiKeyJSON{}
		for _, k := range all {
			out[k.Key] = k
		}
		return out
	}

	t.Run("a key is shown once, and fits into a conda URL", func(t *testing.T) {
		k := make(t, map[string]any{"description": "once", "roles": []any{}})
		if len(k.Key) != authn.KeyLength || strings.Trim(k.Key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
			t.Errorf("%q does not match conda's /t/([a-zA-Z0-9-]*)", k.Key)
		}
		if k.Roles != nil || k.TimeCreated != time.Now().UTC().Format("2006-01-02") {
			t.Errorf("%+v", k)
		}
		all := list(t)
		if _, whole := all[k.Key]; whole {
			t.Error("the list shows the whole key")
		}
		if got, ok := all[k.Key[:authn.KeyIDLength]]; !ok || got.Description != "once" {
			t.Errorf("the list lacks its public id: %v", all)
		}
		if resp := w.Admin().In(t).Do("GET", "/api/api-keys", nil); strings.Contains(string(resp.Body), k.Key[:authn.KeyIDLength]) {
			t.Error("others see it in their list")
		}
		if strings.Contains(w.Logs(), k.Key) {
			t.Error("the key is in the log")
		}
	})
	t.Run("it is stored hashed", func(t *testing.T) {
		k := make(t, map[string]any{"description": "hashed"})
		conn, err := pgx.Connect(t.Context(), w.DatabaseURL)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		var row string
		if err := conn.QueryRow(t.Context(), "SELECT k::text FROM identity.api_keys k WHERE id = $1", k.Key[:authn.KeyIDLength]).Scan(&row); err != nil {
			t.Fatal(err)
		}
		if secret := k.Key[authn.KeyIDLength:]; strings.Contains(row, secret) || strings.Contains(row, secret[:8]) {
			t.Errorf("the row holds the secret: %s", row)
		}
	})
	t.Run("the id alone, and an id with another's secret, open nothing", func(t *testing.T) {
		a, b := make(t, map[string]any{"description": "a"}), make(t, map[string]any{"description": "b"})
		for _, key := range []string{a.Key[:authn.KeyIDLength], a.Key[:authn.KeyIDLength] + b.Key[authn.KeyIDLength:], a.Key + "x", a.Key[:len(a.Key)-1]} {
			w.As(key).In(t).Must(401, "GET", "/api/me", nil)
		}
	})
	t.Run("a revoked key ends at once, everywhere", func(t *testing.T) {
		for name, path := range map[string]func(apiKeyJSON) string{
			"by its id": func(k apiKeyJSON) string { return k.Key[:authn.KeyIDLength] }, "by itself": func(k apiKeyJSON) string { return k.Key },
		} {
			k := make(t, map[string]any{"description": name})
			c := w.As(k.Key).In(t)
			paths := []string{"/api/me", "/get/" + ch.name + "/noarch/repodata.json", "/entrepot/v1/channels/" + ch.name}
			for _, p := range paths {
				c.Must(200, "GET", p, nil)
			}
			bob.In(t).Must(200, "DELETE", "/api/api-keys/"+path(k), nil)
			for _, p := range paths {
				if resp := c.Do("GET", p, nil); resp.Status != 401 {
					t.Errorf("%s: %s still answers %d", name, p, resp.Status)
				}
			}
			bob.In(t).Must(404, "DELETE", "/api/api-keys/"+path(k), nil)
			if _, listed := list(t)[k.Key[:authn.KeyIDLength]]; listed {
				t.Errorf("%s: it is still listed", name)
			}
		}
	})
	t.Run("only its user and the server's people revoke it", func(t *testing.T) {
		k := make(t, map[string]any{"description": "mine"})
		w.User("dave").In(t).Must(403, "DELETE", "/api/api-keys/"+k.Key[:authn.KeyIDLength], nil)
		w.Anonymous().In(t).Must(401, "DELETE", "/api/api-keys/"+k.Key[:authn.KeyIDLength], nil)
		w.Admin().In(t).Must(200, "DELETE", "/api/api-keys/"+k.Key[:authn.KeyIDLength], nil)
		w.As(k.Key).In(t).Must(401, "GET", "/api/me", nil)
	})
	t.Run("it is valid through its whole last day", func(t *testing.T) {
		today := time.Now().UTC().Format("2006-01-02")
		k := make(t, map[string]any{"description": "today", "expire_at": today})
		if k.ExpireAt == nil || *k.ExpireAt != today {
			t.Errorf("expire_at %v", k.ExpireAt)
		}
		w.As(k.Key).In(t).Must(200, "GET", "/api/me", nil)
		// An hour into the next day it is over.
		w.exec(t, "UPDATE identity.api_keys SET expire_time = now() - interval '1 second' WHERE id = $1", k.Key[:authn.KeyIDLength])
		w.exec(t, "UPDATE identity.state SET version = version + 1")
		deadline := time.Now().Add(5 * time.Second) // what a revocation may take, D13
		for w.As(k.Key).In(t).Do("GET", "/api/me", nil).Status != 401 {
			if time.Now().After(deadline) {
				t.Fatal("an expired key is still taken")
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	t.Run("roles come back as they were asked for", func(t *testing.T) {
		k := make(t, map[string]any{"description": "r", "roles": []any{
			map[string]any{"channel": ch.name, "package": nil, "role": "member"},
			map[string]any{"channel": ch.name, "package": ch.pkg.name, "role": "maintainer"},
		}})
		if len(k.Roles) != 2 || k.Roles[0].Package != nil || k.Roles[1].Package == nil || *k.Roles[1].Package != ch.pkg.name || k.Roles[1].Channel != ch.name {
			t.Errorf("%+v", k.Roles)
		}
	})
	t.Run("a key's last use is noted", func(t *testing.T) {
		k := make(t, map[string]any{"description": "used"})
		w.As(k.Key).In(t).Must(200, "GET", "/api/me", nil)
		w.Restart() // notes are written in batches, at the latest at a stop
		var keys struct {
			APIKeys []struct {
				ID           string
				LastUsedTime *time.Time `json:"last_used_time"`
			} `json:"api_keys"`
		}
		bob.In(t).Must(200, "GET", "/entrepot/v1/api-keys", nil).JSON(&keys)
		for _, got := range keys.APIKeys {
			if got.ID == k.Key[:authn.KeyIDLength] && (got.LastUsedTime == nil || time.Since(*got.LastUsedTime) > 5*time.Minute) {
				t.Errorf("last used %v", got.LastUsedTime)
			}
		}
	})
}

// TestSecretsOnDisk: what is secret may be read by one account only.
func TestSecretsOnDisk(t *testing.T) {
	s := platformtest.Start(t)
	for _, name := range []string{"admin-key", "master-key"} {
		info, err := os.Stat(filepath.Join(s.DataDir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	info, err := os.Stat(s.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o711 {
		t.Errorf("the data directory has mode %o", info.Mode().Perm())
	}
	if strings.Contains(s.Logs(), s.AdminKey) {
		t.Error("the admin key is in the log")
	}
}

// TestAudit: every change leaves an event that says who, what and on what, and no secret.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	admin := w.Admin()
	p := packages(t)[0]
	type obj = map[string]any
	steps := []struct {
		action, resource string
		do               func()
	}{
		{"user.create", "user/frank", func() { admin.Must(200, "POST", "/entrepot/v1/users", obj{"username": "frank"}) }},
		{"user.role", "user/frank", func() { admin.Must(200, "PUT", "/entrepot/v1/users/frank/role", obj{"role": "member"}) }},
		{"namespace.create", "namespace/acme", func() { admin.Must(200, "POST", "/entrepot/v1/namespaces", obj{"name": "acme"}) }},
		{"channel.create", "channel/aud", func() { admin.Must(201, "POST", "/api/channels", obj{"name": "aud"}) }},
		{"channel.update", "channel/aud", func() { admin.Must(200, "PATCH", "/api/channels/aud", obj{"private": false}) }},
		{"channel.member.set", "channel/aud", func() {
			admin.Must(201, "POST", "/api/channels/aud/members", obj{"username": "bob", "role": "member"})
		}},
		{"channel.member.remove", "channel/aud", func() { admin.Must(200, "DELETE", "/api/channels/aud/members?username=bob", nil) }},
		{"file.upload", "channel/aud", func() { admin.Must(201, "POST", "/api/channels/aud/upload/"+p.filename+"?sha256=", p.data) }},
		{"file.delete", "channel/aud", func() {
			admin.Must(200, "DELETE", "/api/channels/aud/packages/"+p.name+"/versions/"+p.subdir+"/"+p.filename, nil)
		}},
		{"package.delete", "channel/aud", func() { admin.Must(200, "DELETE", "/api/channels/aud/packages/"+p.name, nil) }},
		{"api_key.create", "api-key/", func() { admin.Must(201, "POST", "/api/api-keys", obj{"description": "aud"}) }},
		{"api_key.revoke", "api-key/", func() {
			var k apiKeyJSON
			admin.Must(201, "POST", "/api/api-keys", obj{"description": "gone"}).JSON(&k)
			admin.Must(200, "DELETE", "/api/api-keys/"+k.Key[:authn.KeyIDLength], nil)
		}},
		{"session.create", "user/dave", func() { w.Login("dave") }},
		{"channel.delete", "channel/aud", func() { admin.Must(200, "DELETE", "/api/channels/aud", nil) }},
		{"user.delete", "user/frank", func() { admin.Must(200, "DELETE", "/entrepot/v1/users/frank", nil) }},
	}
	type auditEvent struct {
		ID                      float64
		Actor, Action, Resource string
		KeyID                   string `json:"key_id"`
		RequestID               string `json:"request_id"`
		Details                 map[string]any
	}
	read := func(t *testing.T) (events []auditEvent) {
		t.Helper()
		var page struct{ Events []auditEvent }
		resp := admin.In(t).Must(200, "GET", "/entrepot/v1/audit?page_size=1000", nil)
		resp.JSON(&page)
		if strings.Contains(string(resp.Body), w.AdminKey) {
			t.Error("a whole key is in the audit log")
		}
		return page.Events
	}
	for _, s := range steps {
		s.do()
	}
	for _, s := range steps {
		t.Run(s.action, func(t *testing.T) {
			deadline := time.Now().Add(10 * time.Second) // events travel from the outbox into the log
			for {
				for _, e := range read(t) {
					if e.Action != s.action || !strings.HasPrefix(e.Resource, s.resource) || (e.Actor != "alice" && s.action != "session.create") {
						continue
					}
					if e.Actor == "alice" && (e.KeyID != w.AdminKey[:authn.KeyIDLength] || e.RequestID == "") {
						t.Errorf("%+v", e)
					}
					return
				}
				if time.Now().After(deadline) {
					var got []string
					for _, e := range read(t) {
						got = append(got, e.Actor+" "+e.Action+" "+e.Resource)
					}
					t.Fatalf("no event; there are\n%s", strings.Join(got, "\n"))
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	t.Run("a request's own id is found again", func(t *testing.T) {
		admin.In(t).Send(201, platformtest.Request{
			Method: "POST", Path: "/api/channels", Body: obj{"name": "traced"}, Header: http.Header{"X-Request-Id": {"ci-run-4711"}},
		})
		deadline := time.Now().Add(10 * time.Second)
		for {
			for _, e := range read(t) {
				if e.Action == "channel.create" && e.Resource == "channel/traced" {
					if e.RequestID != "ci-run-4711" {
						t.Errorf("%+v", e)
					}
					return
				}
			}
			if time.Now().After(deadline) {
				t.Fatal("no event")
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}
