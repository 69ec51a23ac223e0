package apitest

import (
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestQuetzScopedKeys: a role on one package means something on that package only; quetz.md §10.
func TestQuetzScopedKeys(t *testing.T) {
	w := newWorld(t)
	ch, other := w.newChannel(t), w.newChannel(t)
	key := func(t *testing.T, role, pkg string) *platformtest.Client {
		grant := map[string]any{"channel": ch.name, "role": role}
		if pkg != "" {
			grant["package"] = pkg
		}
		var made struct{ Key string }
		w.User("bob").In(t).Must(201, "POST", "/api/api-keys", map[string]any{"description": "d", "roles": []any{grant}}).JSON(&made)
		return w.As(made.Key).In(t)
	}
	all := packages(t)
	same, foreign := all[1], firstOf(t, func(p *pkg) bool { return p.name != ch.pkg.name })
	upload := func(c *platformtest.Client, channel string, p *pkg) int {
		return c.Do("POST", "/api/channels/"+channel+"/upload/"+p.filename+"?sha256=", p.data).Status
	}

	t.Run("a package maintainer's key uploads that package and no other", func(t *testing.T) {
		k := key(t, "maintainer", ch.pkg.name)
		if got := upload(k, ch.name, same); got != 201 {
			t.Errorf("own package: %d", got)
		}
		if got := upload(k, ch.name, foreign); got != 403 {
			t.Errorf("another package: %d", got)
		}
		if got := upload(k, other.name, same); got != 403 {
			t.Errorf("another channel: %d", got)
		}
	})
	t.Run("a channel maintainer's key is one of that channel only", func(t *testing.T) {
		k := key(t, "maintainer", "")
		if got := upload(k, ch.name, foreign); got != 201 {
			t.Errorf("own channel: %d", got)
		}
		k.Must(403, "GET", "/api/channels/"+other.name, nil)
		k.Must(403, "POST", "/api/channels", map[string]any{"name": w.name()})
		k.Must(403, "POST", "/api/channels/"+ch.name+"/members", map[string]any{"username": "erin", "role": "member"})
	})
	t.Run("its uploads count as its owner's", func(t *testing.T) {
		var versions []struct {
			Filename string
			Uploader struct{ Name string }
		}
		w.User("bob").In(t).Must(200, "GET", "/api/channels/"+ch.name+"/packages/"+ch.pkg.name+"/versions", nil).JSON(&versions)
		for _, v := range versions {
			if v.Uploader.Name != "bob" && v.Uploader.Name != "Bob" {
				t.Errorf("%s was uploaded by %q", v.Filename, v.Uploader.Name)
			}
		}
	})
	t.Run("nobody makes a key for more than they have", func(t *testing.T) {
		for _, who := range []string{stranger, member} {
			resp := w.as(t, who, ch).Do("POST", "/api/api-keys", map[string]any{
				"description": "d", "roles": []any{map[string]any{"channel": ch.name, "role": "owner"}},
			})
			if resp.Status != 403 {
				t.Errorf("%s: %d %s", who, resp.Status, resp.Body)
			}
		}
	})
}

func firstOf(t *testing.T, want func(*pkg) bool) *pkg {
	t.Helper()
	for _, p := range packages(t) {
		if want(p) {
			return p
		}
	}
	t.Fatal("there is no such package")
	return nil
}
