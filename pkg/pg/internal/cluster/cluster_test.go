package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// install makes a directory that looks like a server's binaries.
func install(t *testing.T, root, version string) string {
	t.Helper()
	dir := filepath.Join(root, version, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFindBinaries(t *testing.T) {
	root := t.TempDir()
	old, v15, v17 := install(t, root, "9"), install(t, root, "15"), install(t, root, "17")
	onPath := install(t, t.TempDir(), "x")
	pattern := filepath.Join(root, "*", "bin")
	ancient := t.TempDir()
	install(t, ancient, "13")
	for _, c := range []struct {
		name            string
		bin             string
		major           int
		path, pattern   string
		want, wantError string
	}{
		{"the given directory wins", old, 0, onPath, pattern, old, ""},
		{"a given directory without a server is an error", ancient, 0, onPath, pattern, "", "ENTREPOT_PG_BIN"},
		{"PATH comes before Debian's", "", 0, "relative::/nonexistent:" + onPath, pattern, onPath, ""},
		{"the newest is taken, by number", "", 0, "", pattern, v17, ""},
		{"an existing cluster wants its own version", "", 15, "", pattern, v15, ""},
		{"a version that is gone is named", "", 16, "", pattern, "", "postgresql-16"},
		{"none at all names the package", "", 0, "", filepath.Join(t.TempDir(), "*"), "", "install the Debian package postgresql"},
		{"one too old names the package", "", 0, "", filepath.Join(ancient, "*", "bin"), "", "install the Debian package postgresql-15"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := findBinaries(c.bin, c.major, c.path, c.pattern)
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if c.wantError != "" && (!fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), c.wantError)) {
				t.Errorf("error %v, want %q", err, c.wantError)
			}
			if c.wantError == "" && err != nil {
				t.Error(err)
			}
		})
	}
}

func TestChooseAccount(t *testing.T) {
	t.Run("a uid without a passwd entry is sent to --database-url", func(t *testing.T) {
		_, err := chooseAccount(1_234_567_890)
		if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), "--database-url") {
			t.Error(err)
		}
	})
	t.Run("root switches to an account that is not root", func(t *testing.T) {
		a, err := chooseAccount(0)
		if err != nil || !a.Switch || a.UID == 0 || a.Credential() == nil {
			t.Errorf("%+v, %v", a, err)
		}
	})
}

func TestURL(t *testing.T) {
	c := &Cluster{Run: "/srv/a b+c/run?"}
	cfg, err := pgx.ParseConfig(c.URL("entrepot"))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.Host, cfg.User, cfg.Database}
	if diff := cmp.Diff([]string{"/srv/a b+c/run?", "entrepot", "entrepot"}, got); diff != "" {
		t.Error(diff)
	}
}
