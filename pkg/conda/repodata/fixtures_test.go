package repodata

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sharedData is where real channels lie beside the repository, if they do.
const sharedData = "../../../../shared/data"

// indexFile is a repodata document on disk.
type indexFile struct {
	path string
	bare bool // only the map of records, without the document around it
}

// realIndexes lists every repodata file of the shared data.
func realIndexes(t testing.TB, under ...string) []indexFile {
	t.Helper()
	var out []indexFile
	for _, dir := range under {
		root := filepath.Join(sharedData, dir)
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil
			}
			name := d.Name()
			switch {
			case strings.HasPrefix(name, "conda-tests-index"):
				out = append(out, indexFile{p, true})
			case strings.Contains(name, "repodata.json"), strings.HasPrefix(name, "mamba-tests"), strings.HasPrefix(name, "pytorch"):
				out = append(out, indexFile{p, false})
			}
			return nil
		})
	}
	return out
}

func (f indexFile) load(t testing.TB) []byte {
	t.Helper()
	file, err := os.Open(f.path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d, err := NewDecoder(file, EncodingOf(f.path), DecodeLimits{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	data, err := io.ReadAll(d)
	if err != nil {
		t.Fatalf("%s: %v", f.path, err)
	}
	if f.bare {
		data = append(append([]byte(`{"packages":`), data...), '}')
	}
	return data
}

// generate makes a document of n records per classic bucket, in conda-index's shape but compact.
func generate(n int) []byte {
	var b bytes.Buffer
	w := NewWriter(&b, Info{Subdir: "linux-64"})
	for _, bucket := range []Bucket{TarBz2, Conda} {
		for i := range n {
			stem := fmt.Sprintf("package%06d-1.%d.0-h%07x_0", i, i%40, i)
			fn := stem + bucket.Extension()
			raw := fmt.Appendf(nil, `{"build":"h%07x_0","build_number":%d,"constrains":["other <2.0a0"],`+
				`"depends":["__glibc >=2.17,<3.0.a0","libgcc >=13","libstdcxx >=13","numpy >=1.21,<3","package%06d","python >=3.11,<3.12.0a0","python_abi 3.11.* *_cp311"],`+
				`"license":"BSD-3-Clause","license_family":"BSD","md5":"%x","name":"package%06d","sha256":"%x","size":%d,`+
				`"subdir":"linux-64","timestamp":%d,"version":"1.%d.0"}`,
				i, i%3, i/2, md5.Sum([]byte(fn)), i, sha256.Sum256([]byte(fn)), 1000+i*37, 1700000000000+int64(i)*1000, i%40)
			if err := w.Record(bucket, fn, raw); err != nil {
				panic(err)
			}
		}
	}
	if err := w.Removed("gone-1.0-0.conda"); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// contents is a document in memory, raw records as strings so that go-cmp prints them.
type contents struct {
	Doc     Document
	Records []record
	Removed []string
}

type record struct {
	Bucket Bucket
	Key    string
	Raw    string
}

// collect reads a document to the end; problems get their own list.
func collect(t testing.TB, data []byte, trusted bool) (contents, []*Error) {
	t.Helper()
	var c contents
	var problems []*Error
	doc, err := Read(bytes.NewReader(data), ReadOptions{
		Trusted: trusted,
		Record: func(b Bucket, key string, raw []byte) error {
			c.Records = append(c.Records, record{b, key, string(raw)})
			return nil
		},
		Removed: func(fn string) error {
			c.Removed = append(c.Removed, fn)
			return nil
		},
		Problem: func(e *Error) error {
			problems = append(problems, e)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Doc = *doc
	return c, problems
}

func diff(t testing.TB, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
