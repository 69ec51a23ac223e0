package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/edgetest"
)

// loginSetup is a bundle without anything in the environment but a place for client.yaml.
func loginSetup(t *testing.T) (b *bundle, file string) {
	b = setup(t)
	delete(b.env, "ENTREPOT_SERVER")
	delete(b.env, "ENTREPOT_API_KEY")
	return b, filepath.Join(b.env["XDG_CONFIG_HOME"], "entrepot", "client.yaml")
}

func TestLoginKeepsAKeyThatTheServerKnows(t *testing.T) {
	b, file := loginSetup(t)
	b.in = edgetest.Key + "\n"
	o := b.run("login", "--server", b.edge.URL+"/")
	if o.code != 0 || !strings.Contains(o.stderr, "logged in to http://SERVER as alice; kept in "+file) || o.stdout != "" {
		t.Fatalf("%+v", o)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if dir, err := os.Stat(filepath.Dir(file)); err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", dir.Mode(), err)
	}
	b.ok("channel", "create", "tools") // server and key come from the login now
	b.ok("logout")
	if o := b.run("channel", "list", "--server", b.edge.URL); o.code != 3 {
		t.Errorf("after logout: %+v", o)
	}
	if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), edgetest.Key) {
		t.Errorf("after logout the key is still kept: %s %v", data, err)
	}
}

func TestLoginRefusesAKeyThatTheServerDoesNotKnow(t *testing.T) {
	b, file := loginSetup(t)
	for in, code := range map[string]int{"wrong": 3, "": 2, "two words": 2} {
		b.in = in
		if o := b.run("login", "--server", b.edge.URL); o.code != code {
			t.Errorf("%q: %+v", in, o)
		}
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("something was kept: %v", err)
	}
}

func TestTheKeyCanComeFromAFile(t *testing.T) {
	b, _ := loginSetup(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("  "+edgetest.Key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.ok("channel", "list", "--server", b.edge.URL, "--api-key-file", key)
	b.ok("login", "--server", b.edge.URL, "--key-file", key)
	b.ok("channel", "list")
	if o := b.run("login", "--server", b.edge.URL, "--key-file", key+"x"); o.code != 2 {
		t.Errorf("%+v", o)
	}
}

func TestSeveralServersAreKeptAndEachKeyGoesToItsOwn(t *testing.T) {
	b, _ := loginSetup(t)
	other := edgetest.New(t)
	b.in = edgetest.Key
	b.ok("login", "--server", b.edge.URL)
	b.ok("login", "--server", other.URL)
	b.ok("channel", "create", "second") // the last login is the current one
	b.ok("channel", "create", "first", "--server", b.edge.URL)
	if got := strings.Join(append(b.edge.Channels(), other.Channels()...), " "); got != "first second" {
		t.Errorf("made %s", got)
	}
	third := edgetest.New(t)
	if o := b.run("channel", "list", "--server", third.URL); o.code != 3 || !strings.Contains(o.err.Error(), "not logged in") {
		t.Errorf("a key was sent to a server that it is not for: %+v", o)
	}
	if o := b.run("logout", "--server", third.URL); o.code != 0 || !strings.Contains(o.stderr, "not logged in to") {
		t.Errorf("%+v", o)
	}
	b.ok("logout", "--all")
	if o := b.run("channel", "list", "--server", other.URL); o.code != 3 {
		t.Errorf("%+v", o)
	}
}

func TestABrokenConfigurationIsNamedAndNotQuoted(t *testing.T) {
	b, file := loginSetup(t)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"servers: [" + edgetest.Key, "keys: " + edgetest.Key} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if o := b.run("channel", "list"); o.code != 2 || !strings.Contains(o.err.Error(), file) || strings.Contains(o.err.Error(), edgetest.Key) {
			t.Errorf("%+v", o)
		}
	}
}
