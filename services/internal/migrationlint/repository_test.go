package migrationlint_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/pg"
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

// newestIn returns the highest version of a schema among files, 0 if it has none.
func newestIn(files []string, dir string) int64 {
	var newest int64
	for _, f := range files {
		if digits, _, ok := strings.Cut(filepath.Base(f), "_"); ok && strings.HasPrefix(f, dir+"/") && strings.HasSuffix(f, ".sql") {
			n, _ := strconv.ParseInt(digits, 10, 64) // a name without a number is found elsewhere
			newest = max(newest, n)
		}
	}
	return newest
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
			if _, err := pg.MinVersion(string(data)); err != nil {
				t.Errorf("%s: %v", f, err)
			}
			for _, problem := range migrationlint.CheckRange(f, string(data), newestIn(old, dir)) {
				t.Errorf("%s: %s", f, problem)
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
