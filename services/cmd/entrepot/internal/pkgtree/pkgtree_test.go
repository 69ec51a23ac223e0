package pkgtree_test

import (
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/pkgtree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// content is a small channel below the prefix lab.
var content = map[string]string{
	"lab/noarch/a-1-0.conda":          "aaa",
	"lab/noarch/repodata.json":        `{"packages":{"b-1-0.tar.bz2":{"name":"b","version":"1","build":"0","build_number":0,"depends":[]}},"packages.conda":{"a-1-0.conda":{"name":"a","version":"1","build":"0","build_number":0,"depends":["x >=1"]}},"removed":["c-1-0.conda"]}`,
	"lab/linux-64/d-1-0.conda":        "dd",
	"lab/linux-64/nested/e-1-0.conda": "e",
	"lab/notes/readme.txt":            "no subdir",
	"other/noarch/z-1-0.conda":        "z",
}

// fakeS3 is as much of S3 as a tree needs, in a bucket called packages.
func fakeS3(t *testing.T) string {
	type object struct {
		Key, LastModified string
		Size              int
	}
	type prefix struct{ Prefix string }
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := strings.CutPrefix(r.URL.Path, "/packages/")
		switch {
		case !ok && r.URL.Path != "/packages":
			w.WriteHeader(404)
		case key == "" && r.Method == http.MethodHead:
		case key == "":
			q := r.URL.Query()
			var out struct {
				XMLName        xml.Name `xml:"ListBucketResult"`
				Contents       []object
				CommonPrefixes []prefix
			}
			seen := map[string]bool{}
			for k, v := range content {
				rest, ok := strings.CutPrefix(k, q.Get("prefix"))
				if dir, _, deep := strings.Cut(rest, "/"); ok && deep && !seen[dir] {
					seen[dir] = true
					out.CommonPrefixes = append(out.CommonPrefixes, prefix{q.Get("prefix") + dir + "/"})
				} else if ok && !deep {
					out.Contents = append(out.Contents, object{k, "2026-01-02T03:04:05Z", len(v)})
				}
			}
			slices.SortFunc(out.CommonPrefixes, func(a, b prefix) int { return strings.Compare(a.Prefix, b.Prefix) })
			slices.SortFunc(out.Contents, func(a, b object) int { return strings.Compare(a.Key, b.Key) })
			w.Header().Set("Content-Type", "application/xml")
			_ = xml.NewEncoder(w).Encode(out)
		case content[key] == "":
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(404)
			_, _ = io.WriteString(w, `<Error><Code>NoSuchKey</Code></Error>`)
		default:
			w.Header().Set("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
			w.Header().Set("Etag", `"x"`)
			_, _ = io.WriteString(w, content[key])
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func dir(t *testing.T) string {
	root := t.TempDir()
	for name, data := range content {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestATreeIsTheSameInADirectoryAndInABucket(t *testing.T) {
	for name, place := range map[string]string{
		"directory": filepath.Join(dir(t), "lab"), "bucket": "s3://packages/lab?path_style=1&region=us-east-1&endpoint=" + fakeS3(t),
	} {
		t.Run(name, func(t *testing.T) {
			tree, err := pkgtree.Open(t.Context(), place, func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			subdirs, err := pkgtree.Subdirs(t.Context(), tree, "")
			if d := cmp.Diff([]string{"linux-64", "noarch"}, subdirs); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			files, err := tree.Files(t.Context(), "linux-64")
			if d := cmp.Diff([]pkgtree.File{{Name: "d-1-0.conda", Size: 2}}, files); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			r, err := tree.Open(t.Context(), "noarch/a-1-0.conda")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if data, err := io.ReadAll(r); err != nil || string(data) != "aaa" {
				t.Errorf("%q %v", data, err)
			}
			if _, err := tree.Open(t.Context(), "noarch/none"); !fault.Is(err, fault.NotFound) {
				t.Errorf("what is not there: %v", err)
			}
			ix, err := pkgtree.ReadIndex(t.Context(), tree, "noarch")
			if err != nil || len(ix.Records) != 2 || !ix.Removed["c-1-0.conda"] || !strings.Contains(string(ix.Records["a-1-0.conda"]), "x >=1") {
				t.Errorf("%+v %v", ix, err)
			}
			if ix, err := pkgtree.ReadIndex(t.Context(), tree, "linux-64"); ix != nil || err != nil {
				t.Errorf("no index: %+v %v", ix, err)
			}
		})
	}
}

func TestADirectoryIsNotLeft(t *testing.T) {
	root := dir(t)
	lab := filepath.Join(root, "lab")
	if err := os.Symlink(filepath.Join(root, "other", "noarch", "z-1-0.conda"), filepath.Join(lab, "noarch", "z-1-0.conda")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a-1-0.conda", filepath.Join(lab, "noarch", "same-1-0.conda")); err != nil {
		t.Fatal(err)
	}
	tree, err := pkgtree.Open(t.Context(), lab, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	files, err := tree.Files(t.Context(), "noarch")
	if err != nil {
		t.Fatal(err)
	}
	want := []pkgtree.File{{Name: "a-1-0.conda", Size: 3}, {Name: "repodata.json", Size: int64(len(content["lab/noarch/repodata.json"]))}, {Name: "same-1-0.conda", Size: 3}}
	if d := cmp.Diff(want, files); d != "" {
		t.Error(d)
	}
	for _, name := range []string{"noarch/z-1-0.conda", "../other/noarch/z-1-0.conda"} {
		if f, err := tree.Open(t.Context(), name); err == nil {
			f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

func TestPlacesThatAreNoneAreRefusedWithoutTheirSecrets(t *testing.T) {
	for _, place := range []string{"ftp://example.org/x", "s3://", "s3://key:hunter2@bucket/?colour=red", "s3://key:hunter2@%zz"} {
		if _, err := pkgtree.Open(t.Context(), place, os.Getenv); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", place, err)
		}
	}
	if _, err := pkgtree.Open(t.Context(), filepath.Join(t.TempDir(), "none"), os.Getenv); !fault.Is(err, fault.NotFound) {
		t.Errorf("no directory: %v", err)
	}
}
