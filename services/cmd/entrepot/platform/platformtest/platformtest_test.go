package platformtest_test

import (
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestStart(t *testing.T) {
	s := platformtest.Start(t)
	var me struct {
		User struct{ Username string }
	}
	s.User("bob").Must(200, "GET", "/api/me", nil).JSON(&me)
	if me.User.Username != "bob" {
		t.Errorf("bob's key belongs to %q", me.User.Username)
	}
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "kept"})
	url, key := s.URL, s.AdminKey

	s.Restart()
	if s.URL != url || s.AdminKey != key {
		t.Errorf("after a restart: %s, another key: %v; was %s", s.URL, s.AdminKey != key, url)
	}
	s.Admin().Must(200, "GET", "/api/channels/kept", nil)
	s.Stop()
	s.Stop()
}
