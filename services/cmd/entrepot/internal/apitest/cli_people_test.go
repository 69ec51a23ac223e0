package apitest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestPeopleByCommand: users, passwords and groups from the command line, and a login with a password that ends in a key.
func TestPeopleByCommand(t *testing.T) {
	w := platformtest.Start(t)
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("ENTREPOT_SERVER", w.URL)
	t.Setenv("ENTREPOT_API_KEY", w.AdminKey)
	run := func(stdin string, args ...string) (string, error) {
		root := &cobra.Command{Use: "entrepot"}
		root.AddCommand(client.Commands("test")...)
		var out bytes.Buffer
		root.SetArgs(args)
		root.SetIn(strings.NewReader(stdin))
		root.SetOut(&out)
		root.SetErr(&out)
		err := root.ExecuteContext(t.Context())
		return out.String(), err
	}
	ok := func(stdin string, args ...string) string {
		t.Helper()
		out, err := run(stdin, args...)
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return out
	}
	const password = "a password of frank's"
	ok(password+"\n", "admin", "user", "create", "frank", "--name", "Frank F.", "--role", "member", "--password")
	if out := ok("", "admin", "user", "list", "--query", "fra"); !strings.Contains(out, "Frank F.") || !strings.Contains(out, "active") {
		t.Error(out)
	}
	if _, err := run("short\n", "admin", "user", "password", "frank"); err == nil {
		t.Error("a short password is taken")
	}
	file := filepath.Join(home, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := ok("", "login", "--username", "frank", "--password-file", file); !strings.Contains(out, "as frank") || strings.Contains(out, password) {
		t.Error(out)
	}
	kept, err := os.ReadFile(filepath.Join(home, "entrepot", "client.yaml"))
	if err != nil || strings.Contains(string(kept), password) || !strings.Contains(string(kept), "frank") {
		t.Errorf("%s %v", kept, err)
	}
	if _, err := run("wrong\n", "login", "--username", "frank"); err == nil || !strings.Contains(err.Error(), "wrong name or password") {
		t.Error(err)
	}
	if out := string(w.Admin().In(t).Must(200, "GET", "/entrepot/v1/users/frank/sessions", nil).Body); strings.Contains(out, "provider") {
		t.Errorf("the login left a session: %s", out)
	}
	ok("", "admin", "group", "create", "builders", "--description", "who builds")
	ok("", "admin", "group", "add", "builders", "frank")
	ok("", "admin", "group", "role", "builders", "channel/channel0", "maintainer")
	if out := ok("", "admin", "group", "show", "builders"); !strings.Contains(out, "frank") || !strings.Contains(out, "maintainer on channel/") {
		t.Error(out)
	}
	ok("", "admin", "group", "remove", "builders", "frank")
	ok("", "admin", "group", "role", "builders", "channel/channel0", "none")
	ok("", "admin", "group", "delete", "builders")
	ok("", "admin", "user", "disable", "frank")
	if out := ok("", "admin", "user", "list", "--query", "frank"); !strings.Contains(out, "disabled") {
		t.Error(out)
	}
	if _, err := run(password+"\n", "login", "--username", "frank"); err == nil {
		t.Error("a disabled user logs in")
	}
	ok("", "admin", "user", "enable", "frank")
	ok("", "admin", "user", "link", "frank", "github", "583231")
	if _, err := run("", "admin", "user", "link", "bob", "github", "583231"); err == nil {
		t.Error("one account is two users'")
	}
	ok("", "admin", "user", "link", "frank", "github", "583231", "--unlink")
}
