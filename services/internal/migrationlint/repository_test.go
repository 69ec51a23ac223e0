package migrationlint_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/internal/migrationlint"
)

const root = "../../.."

// migrations finds the SQL files of every schema, by directory, relative to the repository.
func migrations(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, pattern := range []string{"pkg/*/migrations/*.sql", "services/*/migrations/*.sql"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			out[filepath.Dir(rel)] = append(out[filepath.Dir(rel)], filepath.ToSlash(rel))
		}
	}
	if len(out) < 5 {
		t.Fatalf("only %d schemas found", len(out))
	}
	return out
}

// released lists the files of the last release; ok is false where there is none, as before the first or without git.
func released(t *testing.T) (tag string, files []string, ok bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", "-C", root, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*").Output()
	if err != nil {
		return "", nil, false
	}
	tag = strings.TrimSpace(string(out))
	out, err = exec.CommandContext(t.Context(), "git", "-C", root, "ls-tree", "-r", "--name-only", "--full-tree", tag).Output()
	if err != nil {
		t.Fatalf("files of %s: %v", tag, err)
	}
	return tag, strings.Fields(string(out)), true
}

func TestEverySchemaIsNumberedWithoutGaps(t *testing.T) {
	for dir, files := range migrations(t) {
		for _, problem := range migrationlint.CheckNames(files) {
			t.Errorf("%s: %s", dir, problem)
		}
	}
}

// Before the first release nobody runs N−1, and a schema that a release does not have yet is new as a whole.
func TestMigrationsSinceTheLastReleaseOnlyExpand(t *testing.T) {
	tag, old, ok := released(t)
	if !ok {
		t.Log("nothing has been released: no migration is held to the rule yet")
	}
	for dir, files := range migrations(t) {
		isNew := !slices.ContainsFunc(old, func(f string) bool { return strings.HasPrefix(f, dir+"/") })
		for _, f := range files {
			data, err := os.ReadFile(filepath.Join(root, f))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(data), "-- +goose Up") {
				t.Errorf("%s: has no '-- +goose Up'", f)
			}
			if !ok || isNew || slices.Contains(old, f) {
				continue
			}
			for _, finding := range migrationlint.Check(string(data)) {
				t.Errorf("%s (since %s): %s", f, tag, finding)
			}
		}
	}
}
