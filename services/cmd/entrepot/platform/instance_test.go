package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstance(t *testing.T) {
	name := func(t *testing.T, dir string) string {
		t.Helper()
		n, err := instance(dir)
		if err != nil {
			t.Fatal(err)
		}
		if n == "" || strings.Contains(n, "@") { // what a runner puts before it
			t.Errorf("the name is %q", n)
		}
		return n
	}

	t.Run("a directory keeps its name, and each has its own", func(t *testing.T) {
		a, b := t.TempDir(), t.TempDir()
		if first := name(t, a); first != name(t, a) || first == name(t, b) {
			t.Errorf("%s, then %s; the other is %s", first, name(t, a), name(t, b))
		}
	})

	t.Run("a name that a crash left half-written is replaced", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, instanceFile), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if first := name(t, dir); first != name(t, dir) {
			t.Error("the new name does not last")
		}
	})

	t.Run("a directory that cannot be written to is an error", func(t *testing.T) {
		if _, err := instance(filepath.Join(t.TempDir(), "none")); err == nil {
			t.Error("no error")
		}
	})
}
