package segment

import (
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestKeysNameTheLibraryThatIsBuiltIn(t *testing.T) {
	// What the build takes, which is not always what go.mod asks for. Test programs do not say it themselves.
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Version}}{{with .Replace}} but {{.}}{{end}}", library).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if version := strings.TrimSpace(string(out)); version != pinned {
		t.Errorf("%s is built in as %s; keys name %s where the program does not say it", library, version, pinned)
	}
	for _, f := range []Form{Raw, Gzip, Zstd} {
		if key := f.codec(); !strings.Contains(key, pinned) || !strings.Contains(key, runtime.Version()) {
			t.Errorf("%v: %q names neither %s %s nor %s", f, key, library, pinned, runtime.Version())
		}
	}
}

func TestAnotherLibraryIsAnotherKey(t *testing.T) {
	other := func(m ...*debug.Module) string { return toolsOf(&debug.BuildInfo{Deps: m}) }
	pin := &debug.Module{Path: library, Version: pinned}
	seen := map[string]int{}
	for i, key := range []string{
		other(pin), other(&debug.Module{Path: library, Version: "v1.99.0"}),
		other(&debug.Module{Path: library, Version: pinned, Replace: &debug.Module{Path: "example.org/fork", Version: pinned}}),
		other(&debug.Module{Path: library, Version: pinned, Replace: &debug.Module{Path: "../compress"}}),
	} {
		if j, ok := seen[key]; ok {
			t.Errorf("builds %d and %d have the key %q", i, j, key)
		}
		seen[key] = i
	}
	if other(&debug.Module{Path: "x", Version: "v9"}) != other(pin) {
		t.Error("a build that does not say it has the version that is pinned")
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*.a", "lib/libx.a", true},
		{"*.a", "lib/libx.a.b", false},
		{"lib/*", "lib/a/b", true},
		{"lib/?", "lib/ab", false},
		{"lib/?", "lib/a", true},
		{"*", "", true},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbY", false},
		{"**", "x", true},
		{"x", "x", true},
		{"x", "xy", false},
	} {
		if got := fits(c.pattern, c.name); got != c.want {
			t.Errorf("%s fits %s: %v", c.pattern, c.name, got)
		}
	}
}
