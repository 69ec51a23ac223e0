package apitest

import (
	"encoding/json"
	"testing"
	"time"
)

// TestGroupsOverREST: a group's role is its members', as soon as they are in, until they are out.
func TestGroupsOverREST(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	admin, erin, bob := w.Admin().In(t), w.User("erin").In(t), w.User("bob").In(t)
	path := "/get/" + ch.name + "/noarch/repodata.json"
	erin.Must(403, "GET", path, nil)
	erin.Must(403, "POST", "/entrepot/v1/groups", map[string]any{"name": "mine"})
	admin.Must(400, "POST", "/entrepot/v1/groups", map[string]any{"name": "a@b"})
	admin.Must(200, "POST", "/entrepot/v1/groups", map[string]any{"name": "readers", "description": "who reads"})
	admin.Must(409, "POST", "/entrepot/v1/groups", map[string]any{"name": "readers"})
	admin.Must(200, "PUT", "/entrepot/v1/groups/readers/members/erin", nil)
	erin.Must(403, "POST", "/entrepot/v1/groups/readers/roles", map[string]any{"resource": "channel/" + ch.name, "role": "owner"})
	bob.Must(403, "POST", "/entrepot/v1/groups/readers/roles", map[string]any{"resource": "server", "role": "owner"})
	bob.Must(200, "POST", "/entrepot/v1/groups/readers/roles", map[string]any{"resource": "channel/" + ch.name, "role": "member"})
	ends(t, func() bool { return erin.Do("GET", path, nil).Status == 200 })
	erin.Must(403, "POST", "/api/channels/"+ch.name+"/packages", map[string]any{"name": "x"})
	var g struct {
		Group   struct{ Members_count json.Number } //nolint:revive // the API's own spelling
		Members []struct{ User struct{ Username string } }
		Roles   []struct{ Role, Resource string }
	}
	erin.Must(200, "GET", "/entrepot/v1/groups/readers", nil).JSON(&g)
	if len(g.Members) != 1 || g.Members[0].User.Username != "erin" || len(g.Roles) != 1 || g.Roles[0].Role != "member" || g.Group.Members_count != "1" {
		t.Errorf("%+v", g)
	}
	w.User("dave").In(t).Must(403, "GET", "/entrepot/v1/groups/readers", nil)
	w.User("dave").In(t).Must(403, "GET", "/entrepot/v1/groups/nosuch", nil)
	admin.Must(200, "DELETE", "/entrepot/v1/groups/readers/members/erin", nil)
	ends(t, func() bool { return erin.Do("GET", path, nil).Status == 403 })
	admin.Must(404, "DELETE", "/entrepot/v1/groups/readers/members/erin", nil)

	// A maintainer of the server manages groups, but does not become its owner by one.
	admin.Must(200, "PUT", "/entrepot/v1/users/carol/role", map[string]any{"role": "maintainer"})
	admin.Must(200, "POST", "/entrepot/v1/groups", map[string]any{"name": "owners"})
	admin.Must(200, "POST", "/entrepot/v1/groups/owners/roles", map[string]any{"resource": "server", "role": "owner"})
	carol := w.User("carol").In(t)
	ends(t, func() bool { return carol.Do("PUT", "/entrepot/v1/groups/readers/members/carol", nil).Status == 200 })
	carol.Must(403, "PUT", "/entrepot/v1/groups/owners/members/carol", nil)
	carol.Must(403, "DELETE", "/entrepot/v1/groups/owners", nil)
	admin.Must(200, "PUT", "/entrepot/v1/groups/owners/members/dave", nil)
	carol.Must(403, "PUT", "/entrepot/v1/users/dave/password", map[string]any{"new_password": "a password of carol's"})
	carol.Must(403, "PUT", "/entrepot/v1/users/dave/disabled", map[string]any{"disabled": true})
	carol.Must(403, "POST", "/entrepot/v1/users/dave/logins", map[string]any{"provider": "github", "subject": "1"})
	carol.Must(403, "DELETE", "/entrepot/v1/users/dave", nil)
	dave := w.User("dave").In(t)
	ends(t, func() bool {
		return dave.Do("PUT", "/entrepot/v1/users/erin/role", map[string]any{"role": "maintainer"}).Status == 200
	})
	admin.Must(200, "DELETE", "/entrepot/v1/groups/owners", nil)
	ends(t, func() bool {
		return dave.Do("PUT", "/entrepot/v1/users/erin/role", map[string]any{"role": "maintainer"}).Status == 403
	})
}

// ends waits for what takes effect within five seconds (design D13).
func ends(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("five seconds were not enough")
		}
	}
}
