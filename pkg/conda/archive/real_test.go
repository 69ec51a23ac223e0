package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
)

// realData is a folder of published packages beside the repository. It is
// large and optional: the other tests make their own packages.
const realData = "../../../../shared/data/03-packages"

func realPackages(t testing.TB) []string {
	t.Helper()
	if _, err := os.Stat(realData); errors.Is(err, fs.ErrNotExist) {
		t.Skipf("no packages at %s; the generated ones still run", realData)
	}
	var found []string
	err := filepath.WalkDir(realData, func(path string, d fs.DirEntry, err error) error {
		if _, _, ok := dist.SplitExtension(path); ok && err == nil && !d.IsDir() {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// knownBroken returns why a published package is refused.
func knownBroken(path string) string {
	switch {
	case strings.Contains(path, "ca-certificates-2024.7.4"):
		return "the ZIP has 4 members" // zipped by hand, in a folder, compressed
	case strings.Contains(path, "conda_format_repo") && strings.HasSuffix(path, ".conda") && !strings.Contains(path, "/win-"):
		return "its target is empty" // lost its links in conversion: libz.so points to ""
	}
	return ""
}

func TestEveryRealPackageIsRead(t *testing.T) {
	paths := realPackages(t)
	read := 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		full, err := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{}, Full(), KeepPaths(), Lenient())
		if want := knownBroken(path); want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want a refusal with %q", path, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		read++
		if len(data) > 300_000 { // bzip2 decodes 20 MB/s
			continue
		}
		fast, err := Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{}, Lenient())
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		ignore := cmp.FilterPath(func(p cmp.Path) bool {
			switch p.String() {
			case "Complete", "Entries", "UnpackedSize", "PathsJSON", "Files", "HasPrefix", "NoLink":
				return true
			}
			return false
		}, cmp.Ignore())
		if diff := cmp.Diff(full, fast, ignore); diff != "" {
			t.Errorf("%s: the quick look sees something else:\n%s", path, diff)
		}
		if !full.Complete {
			t.Errorf("%s: not complete", name)
		}
		list, err := full.Paths(Limits{})
		if err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if len(list) == 0 && full.HasPaths && full.Entries > 30 {
			t.Errorf("%s: no paths", path)
		}
		_, err = Inspect(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{})
		if strict := !strings.Contains(path, "/sparse/"); strict != (err == nil) {
			t.Errorf("%s: strict reading says %v", name, err)
		}
	}
	t.Logf("%d of %d packages read", read, len(paths))
	if read < 200 {
		t.Fatalf("only %d packages", read)
	}
}

func TestRealPackagesSurviveTransmutation(t *testing.T) {
	for _, path := range realPackages(t) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 120_000 || knownBroken(path) != "" {
			continue
		}
		want := listing(t, filepath.Base(path), data)
		var out bytes.Buffer
		_, d, err := Transmute(t.Context(), bytes.NewReader(data), int64(len(data)), filepath.Base(path), &out, Limits{})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if diff := cmp.Diff(want, listing(t, d.Filename(), out.Bytes())); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
}

// listing maps each path to its kind, mode and content or target.
func listing(t testing.TB, name string, data []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	_, err := Walk(t.Context(), bytes.NewReader(data), int64(len(data)), name, Limits{}, func(e *Entry, r io.Reader) error {
		b, err := io.ReadAll(r)
		out[e.Path] = e.Kind.String() + " " + e.Mode.String() + " " + e.Link + string(b)
		return err
	}, Lenient())
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return out
}

// The tars of conda's own traversal tests, put into the member of a package.
func TestKnownTraversalTarsAreRefused(t *testing.T) {
	files, _ := filepath.Glob(filepath.Join(realData, "conda-test-recipes", "tar_traversal", "*.tar"))
	if len(files) == 0 {
		t.Skip("no traversal fixtures; attack_test.go makes the same archives")
	}
	for _, f := range files {
		file, err := os.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		s := &scanner{ctx: context.Background(), lim: Limits{}.withDefaults(), visit: func(*Entry, io.Reader) error { return nil }}
		s.tree = newTree(s.lim)
		err = s.tar(filepath.Base(f), file, pkgOnly, 1<<20)
		if err == nil {
			err = s.tree.finish("linux-64")
		}
		file.Close()
		var e *Error
		if !errors.As(err, &e) || e.Field != "path" && e.Field != "link" {
			t.Errorf("%s: %v", filepath.Base(f), err)
		}
		if errors.Is(err, tar.ErrHeader) {
			t.Errorf("%s is no tar", f)
		}
	}
}
