package pack_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/pack"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

// condaPack finds a Python that has conda-pack, or skips the test.
func condaPack(t *testing.T) string {
	t.Helper()
	python := os.Getenv("ENTREPOT_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import conda_pack").Run(); err != nil {
		t.Skipf("no oracle: %s has no conda-pack (%v); pip install conda-pack==0.9.2 and set ENTREPOT_TEST_PYTHON", python, err)
	}
	return python
}

var listed = regexp.MustCompile(`(?m)^\s*\(u?'([^']*)', u?'([^']*)', u?'(text|binary)'\)`)

// records reads the list of a conda-unpack.
func records(t *testing.T, dir string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "bin", "conda-unpack"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range listed.FindAllStringSubmatch(string(data), -1) {
		out = append(out, strings.Join(m[1:], " "))
	}
	slices.Sort(out)
	return out
}

// theirPack runs conda-pack on a prefix.
func theirPack(t *testing.T, python, prefix, dest string) []byte {
	t.Helper()
	// Of no package, so conda-pack takes it for a text of the user's.
	if err := os.Remove(filepath.Join(prefix, "CACHEDIR.TAG")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "theirs.tar")
	script := fmt.Sprintf("import conda_pack; conda_pack.pack(prefix=%q, output=%q, dest_prefix=%q or None)", prefix, file, dest)
	if out, err := exec.Command(python, "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestLikeCondaPack packs what the installer made with conda-pack, and the same packages with ours. Files, links, modes,
// contents and the list of conda-unpack are the same; the programs that both add are each one's own.
func TestLikeCondaPack(t *testing.T) {
	python := condaPack(t)
	k := segmenttest.New(t)
	list := append(k.Environment()[:2],
		k.Package(archive.Index{Name: "tool", Noarch: archive.NoarchPython, Depends: archive.StringList{"python"}}, []archive.Input{
			segmenttest.Plain("site-packages/tool/__init__.py", "def main():\n    pass\n"),
			segmenttest.Text("python-scripts/tool-script", "#!"+segmenttest.Placeholder+"/bin/python -E\nprint(1)\n"),
			segmenttest.Text("python-scripts/tool-shell", "#!/bin/sh\necho "+segmenttest.Placeholder+"\n"),
			segmenttest.Text("site-packages/tool/where.py", "root = '"+segmenttest.Placeholder+"'\n"),
		}, "tool = tool:main"))
	prefix := filepath.Join(t.TempDir(), "env")
	if _, err := install.Install(t.Context(), prefix, slices.Clone(list), install.Options{Cache: k.Cache, Platform: "linux-64", NoSync: true}); err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{"", "/opt/env"} {
		theirs, dir := t.TempDir(), t.TempDir()
		unpackTar(t, theirPack(t, python, prefix, dest), pack.Tar, theirs)
		o := options(t, pack.Tar)
		o.Prefix = dest
		unpackTar(t, write(t, k.Fetch(list...), o), pack.Tar, dir)
		if dest == "" {
			if diff := cmp.Diff(records(t, theirs), records(t, dir)); diff != "" {
				t.Errorf("conda-unpack: theirs (-), ours (+):\n%s", diff)
			}
		}
		added := append([]string{"bin/conda_unpack_progress.py"}, programs...)
		if diff := cmp.Diff(without(tree(t, theirs), added...), without(tree(t, dir), added...)); diff != "" {
			t.Errorf("for %q: theirs (-), ours (+):\n%s", dest, diff)
		}
		meta := func(dir string) (names []string) {
			list, err := os.ReadDir(filepath.Join(dir, "conda-meta"))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range list {
				names = append(names, e.Name())
			}
			return names
		}
		if diff := cmp.Diff(meta(theirs), meta(dir)); diff != "" {
			t.Errorf("conda-meta: theirs (-), ours (+):\n%s", diff)
		}
	}
}
