package guard_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/guard"
)

func TestAProgramHasAllItsGuards(t *testing.T) {
	for _, g := range guard.All {
		if !g.On {
			t.Errorf("%s is off", g.Name)
		}
		if g.Without == "" {
			t.Errorf("%s does not say what it is good for", g.Name)
		}
	}
}

// Each tag removes its guard and no other.
func TestATagRemovesItsGuard(t *testing.T) {
	for _, g := range guard.All {
		out, err := exec.Command("go", "list", "-tags", g.Tag, "-f", "{{range .GoFiles}}{{.}} {{end}}", ".").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var removed []string
		for _, f := range strings.Fields(string(out)) {
			if strings.HasSuffix(f, "_removed.go") {
				removed = append(removed, f)
			}
		}
		want := strings.TrimPrefix(g.Tag, "unguarded_") + "_removed.go"
		if len(removed) != 1 || removed[0] != want {
			t.Errorf("-tags %s builds %q, want %q", g.Tag, removed, want)
		}
	}
}

// With the tag for all of them each is a variable: none is forgotten.
func TestOneBuildCanRemoveAny(t *testing.T) {
	data, err := os.ReadFile("unguarded.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range guard.All {
		if !strings.Contains(string(data), `left("`+g.Name+`")`) {
			t.Errorf("unguarded.go lacks %s", g.Name)
		}
	}
	if out, err := exec.Command("go", "vet", "-tags", "unguarded", ".").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A guard that nothing asks for protects nothing, and one that is asked for in two places is two guards.
func TestEachGuardStandsInOnePlace(t *testing.T) {
	uses := map[string][]string{}
	for _, root := range []string{"..", "../../services", "../../gateway"} {
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "../guard/") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, g := range guard.All {
				for range strings.Count(string(data), "guard."+g.Name) {
					uses[g.Name] = append(uses[g.Name], path)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range guard.All {
		if len(uses[g.Name]) != 1 {
			t.Errorf("guard.%s is used in %v; want one place", g.Name, uses[g.Name])
		}
	}
}
