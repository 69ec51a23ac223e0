package pg

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestARunningServerIsFoundByItsPidFile(t *testing.T) {
	dir := t.TempDir()
	if _, err := RunningURL(dir); !fault.Is(err, fault.NotFound) {
		t.Errorf("without a server: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("4711\n")
	if _, err := RunningURL(dir); !fault.Is(err, fault.Unavailable) {
		t.Errorf("of a server that starts: %v", err)
	}
	write("4711\n/x/data\n1700000000\n5432\n/tmp/a b\n\n  1 2\nready\n")
	got, err := RunningURL(dir)
	if want := "postgres://entrepot@/entrepot?host=%2Ftmp%2Fa%20b&port=5432"; err != nil || got != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestPasswordsStayOffCommandLines(t *testing.T) {
	for raw, want := range map[string]string{
		"postgres://u:pw@db:5433/x?sslmode=disable&pool_max_conns=4": "postgres://u@db:5433/x?sslmode=disable",
		"postgres://u@db/x?password=pw":                              "postgres://u@db/x",
	} {
		got, env, err := LibpqURL(raw)
		if err != nil || got != want || !slices.Contains(env, "PGPASSWORD=pw") {
			t.Errorf("%s became %s with %q, %v; want %s", raw, got, env, err, want)
		}
	}
	if got, _, err := LibpqURL("host=/run dbname=x"); err != nil || got != "host=/run dbname=x" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, _, err := LibpqURL("host=db password=pw"); !fault.Is(err, fault.Invalid) {
		t.Errorf("a password that would be seen: %v", err)
	}
}

func TestToolsAreFoundBesideTheServer(t *testing.T) {
	if path, err := Tool("pg_dump", "", 0); err != nil || filepath.Base(path) != "pg_dump" {
		t.Errorf("got %q, %v", path, err)
	}
	if _, err := Tool("pg_dump", t.TempDir(), 0); !fault.Is(err, fault.Precondition) {
		t.Errorf("where there is none: %v", err)
	}
}
