package repodata

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// all reads a document by name and returns its records as Read orders them.
func sparseAll(t testing.TB, doc []byte) (entries []Entry, problems []string) {
	t.Helper()
	s, err := OpenSparse(doc)
	if err != nil {
		t.Fatal(err)
	}
	for name := range s.Names {
		err := s.Records(name, func(e *Error) error { problems = append(problems, e.Path+": "+e.Msg); return nil }, func(e Entry) error {
			entries = append(entries, e)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return entries, problems
}

func readAll(t testing.TB, doc []byte) (entries []Entry, problems []string) {
	t.Helper()
	removed := map[string]bool{}
	_, err := Read(bytes.NewReader(doc), ReadOptions{
		Record: func(b Bucket, key string, raw []byte) error {
			entries = append(entries, Entry{b, key, bytes.Clone(raw)})
			return nil
		},
		Removed: func(name string) error { removed[name] = true; return nil },
		Problem: func(e *Error) error { problems = append(problems, e.Path+": "+e.Msg); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return removed[e.Bucket.Filename(e.Key)] })
	return entries, problems
}

func sortEntries(entries []Entry) {
	slices.SortStableFunc(entries, func(a, b Entry) int {
		return strings.Compare(nameOfKey(a.Bucket, a.Key), nameOfKey(b.Bucket, b.Key))
	})
}

func TestSparseReadsWhatReadReads(t *testing.T) {
	record := func(name string) string {
		return `{"build":"0","build_number":0,"depends":["x {odd} \" }"],"name":"` + name + `","version":"1"}`
	}
	for name, doc := range map[string]string{
		"empty":     ``,
		"object":    `{}`,
		"one":       `{"packages":{"a-1-0.tar.bz2":` + record("a") + `}}`,
		"spaced":    "\n{ \"packages\" : {\n \"a-1-0.tar.bz2\" : " + record("a") + " ,\n\"a-b-1-0.tar.bz2\":" + record("a-b") + "\n} }\n",
		"unsorted":  `{"packages":{"b-1-0.tar.bz2":` + record("b") + `,"a-1-0.tar.bz2":` + record("a") + `,"b-1-1.tar.bz2":` + record("b") + `}}`,
		"order":     `{"v3":{"conda":{"a-1-0":` + record("a") + `}},"packages.conda":{"a-1-0.conda":` + record("a") + `},"packages":{"a-1-0.tar.bz2":` + record("a") + `}}`,
		"removed":   `{"removed":["a-1-0.conda"],"packages.conda":{"a-1-0.conda":` + record("a") + `,"a-2-0.conda":` + record("a") + `}}`,
		"nested":    `{"packages":{"a-1-0.tar.bz2":{"build":"0","name":"a","version":"1","run_exports":{"weak":["b}"]}}}}`,
		"defects":   `{"packages":{"a-1-0.tar.bz2":{"name":"a"},"../a-1-0.tar.bz2":` + record("a") + `,"c-1-0.tar.bz2":` + record("c") + `,"d-1-0.tar.bz2":7}}`,
		"escaped":   `{"packages":{"\u0061-1-0.tar.bz2":` + record("a") + `}}`,
		"null":      `{"packages":null,"info":null,"v3":null,"removed":null}`,
		"extra":     `{"info":{"subdir":"noarch","base_url":"x"},"x":[1,{"packages":{}}],"packages":{}}`,
		"brace key": `{"packages":{"}-1-0.tar.bz2":` + record("a") + `,"a-1-0.tar.bz2":` + record("a") + `}}`,
	} {
		want, wantProblems := readAll(t, []byte(doc))
		got, problems := sparseAll(t, []byte(doc))
		if name == "order" { // Read keeps the document's order of buckets, which only odd writers choose
			slices.Reverse(want)
		}
		sortEntries(want)
		sortEntries(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: records differ (-Read +Sparse):\n%s", name, diff)
		}
		slices.Sort(wantProblems)
		slices.Sort(problems)
		if diff := cmp.Diff(wantProblems, problems); diff != "" {
			t.Errorf("%s: problems differ (-Read +Sparse):\n%s", name, diff)
		}
	}
}

func TestSparseRefusesBrokenDocuments(t *testing.T) {
	for _, doc := range []string{
		`[`, `{`, `{"packages"`, `{"packages":`, `{"packages":{`, `{"packages":{"a-1-0.tar.bz2":{`, `{"packages":{"a-1-0.tar.bz2":{}`,
		`{"packages":{"a-1-0.tar.bz2":{}}`, `{"packages":{}}x`, `{"packages":{} "info":{}}`, `{"packages":{},"packages":{}}`, `{"info":7}`,
		`{"info":{"a":}}`, `{"packages":[]}`, `{"packages":{"a`,
	} {
		_, err := OpenSparse([]byte(doc))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("OpenSparse(%s) = %v, want an *Error", doc, err)
		}
	}
}

func FuzzSparse(f *testing.F) {
	f.Add([]byte(`{"packages":{"a-1-0.tar.bz2":{"build":"0","name":"a","version":"1"}},"removed":["x"]}`))
	f.Add([]byte(`{"v3":{"conda":{"a-1-0":{"n":"}"}}},"info":{"subdir":"noarch"}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		s, err := OpenSparse(doc)
		if err != nil {
			return
		}
		if _, err := Read(bytes.NewReader(doc), ReadOptions{Problem: func(*Error) error { return nil }}); err != nil {
			return // Read sees into every record; Sparse only into those that are asked for
		}
		want, _ := readAll(t, doc)
		got, _ := sparseAll(t, doc)
		if len(got) < len(want) { // a file name that is there twice counts once for Read
			t.Fatalf("%d records, Read finds %d", len(got), len(want))
		}
		if s.Len() < len(got) {
			t.Fatalf("Len is %d, but %d were read", s.Len(), len(got))
		}
	})
}

// realDocument is a large document of the data folder beside the repository, decompressed.
func realDocument(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "shared", "data", "01-harvested-channels", "conda-forge", "linux-64", "repodata.json.zst"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("no data folder; the other tests still run")
	}
	if err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	doc, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestSparseReadsARealChannelAsReadDoes(t *testing.T) {
	doc := realDocument(t)
	want, _ := readAll(t, doc)
	got, _ := sparseAll(t, doc)
	sortEntries(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkOpenSparse(b *testing.B) {
	doc := realDocument(b)
	b.SetBytes(int64(len(doc)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenSparse(doc); err != nil {
			b.Fatal(err)
		}
	}
}
