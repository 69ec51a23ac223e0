package apitest

import (
	"strings"
	"testing"
)

// TestQuetzOwnWrites: who has made a channel or been given a role finds it in the very next list. The server's owner sees in
// lists what they have a role on, like everybody, so that their right to all helps them nothing here.
func TestQuetzOwnWrites(t *testing.T) {
	w := newWorld(t)
	lists := func(t *testing.T, who, path, name string) {
		t.Helper()
		if body := string(w.User(who).In(t).Must(200, "GET", path, nil).Body); !strings.Contains(body, `"`+name+`"`) {
			t.Errorf("%s does not find %s in %s: %s", who, name, path, body)
		}
	}
	alice := w.Admin().In(t)
	for range 8 {
		name := w.name()
		alice.Must(201, "POST", "/api/channels", map[string]any{"name": name})
		lists(t, "alice", "/api/channels?q="+name, name)
		name = w.name()
		alice.Must(201, "POST", "/api/channels", map[string]any{"name": name})
		lists(t, "alice", "/api/paginated/channels?q="+name, name)
		alice.Must(201, "POST", "/api/channels/"+name+"/members", map[string]any{"username": "dave", "role": "member"})
		lists(t, "dave", "/api/channels?q="+name, name)
		alice.Must(201, "POST", "/api/channels/"+name+"/packages", map[string]any{"name": "p"})
		alice.Must(201, "POST", "/api/channels/"+name+"/packages/p/members", map[string]any{"username": "carol", "role": "member"})
		lists(t, "carol", "/api/users/carol/packages", name)
	}
}
