package pack_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/pack"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment/segmenttest"
)

// TestRealPackages unpacks real programs at a place that nobody knew, and runs them.
func TestRealPackages(t *testing.T) {
	py := python(t)
	k := segmenttest.New(t)
	list := k.Real()
	if list == nil {
		t.Skip("the packages are not here")
	}
	dir := filepath.Join(t.TempDir(), "env")
	packages := k.Fetch(slices.Clone(list)...)
	unpackTar(t, write(t, packages, options(t, pack.TarGz)), pack.TarGz, dir)
	if out, err := exec.Command(py, filepath.Join(dir, "bin", "conda-unpack")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := installed(t, k, list, filepath.Join(t.TempDir(), "env"), dir)
	got := tree(t, dir)
	for name := range want {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if strings.HasPrefix(name, "bin/") && err == nil && strings.HasPrefix(string(data), "#!/usr/bin/env ") {
			delete(want, name) // its interpreter is found by PATH
			delete(got, name)
		}
	}
	if diff := cmp.Diff(without(want, programs...), without(got, programs...)); diff != "" {
		t.Errorf("installed (-), unpacked (+):\n%s", diff)
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return
	}
	for name, word := range map[string]string{"openssl version": "OpenSSL 1.0.2l", "curl --version": "curl 7.49.0", "sqlite3 --version": "3.13.0"} {
		args := strings.Fields(name)
		out, err := exec.Command(filepath.Join(dir, "bin", args[0]), args[1:]...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), word) {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

// TestRealPackagesLikeCondaPack packs an environment of real packages with both.
func TestRealPackagesLikeCondaPack(t *testing.T) {
	python := condaPack(t)
	k := segmenttest.New(t)
	list := k.Real()
	if list == nil {
		t.Skip("the packages are not here")
	}
	// It has files in a directory that conda-pack passes over, and then misses.
	list = slices.DeleteFunc(list, func(p install.Package) bool { return p.Name == "util-linux" })
	prefix := filepath.Join(t.TempDir(), "env")
	if _, err := install.Install(t.Context(), prefix, slices.Clone(list), install.Options{Cache: k.Cache, Platform: "linux-64", NoSync: true}); err != nil {
		t.Fatal(err)
	}
	theirs, dir := t.TempDir(), t.TempDir()
	unpackTar(t, theirPack(t, python, prefix, ""), pack.Tar, theirs)
	unpackTar(t, write(t, k.Fetch(list...), options(t, pack.Tar)), pack.Tar, dir)
	if diff := cmp.Diff(records(t, theirs), records(t, dir)); diff != "" {
		t.Errorf("conda-unpack: theirs (-), ours (+):\n%s", diff)
	}
	added := append([]string{"bin/conda_unpack_progress.py"}, programs...)
	if diff := cmp.Diff(without(tree(t, theirs), added...), without(tree(t, dir), added...)); diff != "" {
		t.Errorf("theirs (-), ours (+):\n%s", diff)
	}
}
