package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

func linkTo(name, target string) rawEntry {
	return rawEntry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}, ""}
}

// small keeps a fuzzer from spending its time on large results.
var small = Limits{MaxUnpacked: 4 << 20, RatioFloor: 1 << 20, MaxEntries: 1000, MaxWindow: 8 << 20}

func FuzzConda(f *testing.F) {
	_, data := create(f, dist.Conda)
	f.Add(data)
	f.Add(zipOf(metaMember(), pkgZst(f, file("a", "b")), infoZst(f)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, name := range []string{demoConda, "demo-1.0-py_0.conda"} {
			fuzzExtract(t, name, data)
		}
	})
}

func FuzzTarBz2(f *testing.F) {
	_, data := create(f, dist.TarBz2)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) { fuzzExtract(t, "demo-1.0-py_0.tar.bz2", data) })
}

// FuzzTar skips compression, so that mutations reach the entries.
func FuzzTar(f *testing.F) {
	f.Add(tarOf(f, file("info/index.json", demoIndex), file("a/b", "c"), symlink("d", "a"), linkTo("e", "a/b")))
	for _, h := range hostile {
		f.Add(tarOf(f, h.entries...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		outer := t.TempDir()
		inner := filepath.Join(outer, "root")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(inner)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		x := extractor{root: root, dirs: map[string]bool{}}
		defer x.leave()
		lim := small.withDefaults()
		s := &scanner{ctx: t.Context(), lim: lim, tree: newTree(lim), visit: x.write}
		err = s.tar("tar", bytes.NewReader(data), both, lim.MaxUnpacked)
		if err == nil {
			err = s.tree.finish("linux-64")
		}
		contained(t, outer, err == nil)
	})
}

func fuzzExtract(t *testing.T, name string, data []byte) {
	quick, quickErr := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), name, small)
	full, err := Walk(t.Context(), bytes.NewReader(data), int64(len(data)), name, small, func(e *Entry, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err == nil && (quickErr != nil || !bytes.Equal(quick.IndexJSON, full.IndexJSON)) {
		t.Fatalf("the quick look differs: %v", quickErr)
	}
}

// contained checks that only root was written, and that an accepted tree has
// no link that leaves it.
func contained(t *testing.T, outer string, accepted bool) {
	inner := filepath.Join(outer, "root")
	entries, err := os.ReadDir(outer)
	if err != nil || len(entries) != 1 {
		t.Fatalf("written outside: %v %v", entries, err)
	}
	if !accepted {
		return
	}
	_ = filepath.WalkDir(inner, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink == 0 {
			return err
		}
		if to, err := filepath.EvalSymlinks(path); err == nil && to != inner && !filepath.IsLocal(mustRel(inner, to)) {
			t.Fatalf("%s leads to %s", path, to)
		}
		return nil
	})
}

func mustRel(base, path string) string {
	rel, err := filepath.Rel(base, path)
	if err != nil {
		return ".."
	}
	return rel
}

func FuzzParsePaths(f *testing.F) {
	f.Add([]byte(`{"paths_version":1,"paths":[{"_path":"a","sha256":"","size_in_bytes":3}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		paths, err := ParsePaths(data, small)
		if err != nil {
			return
		}
		for _, p := range paths {
			if !filepath.IsLocal(p.Path) {
				t.Fatalf("%q is not local", p.Path)
			}
		}
	})
}

func FuzzParseEntryPoint(f *testing.F) {
	f.Add("demo = demo.cli:main")
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := ParseEntryPoint(s); err == nil && (!filepath.IsLocal(e.Command) || filepath.Base(e.Command) != e.Command) {
			t.Fatalf("%q", e.Command)
		}
	})
}
