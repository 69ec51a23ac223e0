// Package migratetest tries on whole platforms what brings content along from elsewhere, and the commands that look after it.
package migratetest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// outcome is what a command left behind.
type outcome struct {
	stdout, stderr string
	err            error
}

// run runs a command as the holder of a key.
func run(t *testing.T, s *platformtest.Stack, key string, args ...string) outcome {
	t.Helper()
	t.Setenv("ENTREPOT_SERVER", s.URL)
	t.Setenv("ENTREPOT_API_KEY", key)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	root := &cobra.Command{Use: "entrepot", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(client.Commands("test")...)
	var stdout, stderr bytes.Buffer
	root.SetIn(strings.NewReader(""))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return outcome{stdout.String(), stderr.String(), err}
}

// ok runs a command that must succeed, as the server's owner.
func ok(t *testing.T, s *platformtest.Stack, args ...string) outcome {
	t.Helper()
	o := run(t, s, s.AdminKey, args...)
	if o.err != nil {
		t.Fatalf("%v: %v\n%s%s", args, o.err, o.stdout, o.stderr)
	}
	return o
}

// report is what an import says with -o json.
type report struct {
	Found, Added, Present, Unlisted, Revisions int
	Bytes                                      int64
	Problems                                   []struct{ Path, Reason, Error string }
}

func (o outcome) report(t *testing.T) (r report) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("%v in %q (%v)\n%s", err, o.stdout, o.err, o.stderr)
	}
	return r
}

// query returns one value of the platform's database.
func query[T any](t *testing.T, s *platformtest.Stack, sql string, args ...any) (v T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// tree makes a small channel in a directory.
func tree(t *testing.T, packages int) *sample.Channel {
	t.Helper()
	ch, err := sample.Build(t.TempDir(), sample.Options{Packages: packages, Tiny: true})
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// edit changes a subdir's index.
func edit(t *testing.T, ch *sample.Channel, subdir string, change func(doc map[string]any)) {
	t.Helper()
	for _, name := range []string{"repodata.json.zst", "repodata.json.bz2"} {
		_ = os.Remove(filepath.Join(ch.Dir, subdir, name))
	}
	path := filepath.Join(ch.Dir, subdir, "repodata.json")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	change(doc)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false) // as those write it who make indexes
	if err := enc.Encode(doc); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recordOf returns a record of an edited index.
func recordOf(doc map[string]any, path string) map[string]any {
	return doc["packages.conda"].(map[string]any)[filepath.Base(path)].(map[string]any)
}

// inSubdir returns the paths of a channel's packages in a subdir.
func inSubdir(ch *sample.Channel, subdir string) (paths []string) {
	for _, f := range ch.Files {
		if strings.HasPrefix(f.Path, subdir+"/") {
			paths = append(paths, f.Path)
		}
	}
	return paths
}
