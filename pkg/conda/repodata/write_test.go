package repodata

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func sortRecords(records []record) {
	slices.SortStableFunc(records, func(a, b record) int {
		if a.Bucket != b.Bucket {
			if r := a.Bucket.rank() - b.Bucket.rank(); r != 0 {
				return r
			}
			return strings.Compare(string(a.Bucket), string(b.Bucket))
		}
		return strings.Compare(a.Key, b.Key)
	})
}

// rewrite writes what was read, sorted.
func rewrite(t testing.TB, c contents) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, c.Doc.Info, c.Doc.Extra...)
	records := slices.Clone(c.Records)
	sortRecords(records)
	for _, r := range records {
		if err := w.Record(r.Bucket, r.Key, []byte(r.Raw)); err != nil {
			t.Fatal(err)
		}
	}
	for _, fn := range slices.Compact(slices.Sorted(slices.Values(c.Removed))) {
		if err := w.Removed(fn); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !jsontext.Value(out.Bytes()).IsValid() {
		t.Fatal("what was written is not JSON")
	}
	return out.Bytes()
}

func TestWriter(t *testing.T) {
	t.Run("an empty document has its parts", func(t *testing.T) {
		var out strings.Builder
		w := NewWriter(&out, Info{Subdir: "noarch"})
		for range 2 { // the second Close changes nothing
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		diff(t, `{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{},"removed":[],"repodata_version":1}`, out.String())
	})
	t.Run("every part stands in its order", func(t *testing.T) {
		var out strings.Builder
		w := NewWriter(&out, Info{
			Subdir: "linux-64", BaseURL: "https://example.org/f", ChannelRelations: []byte(`{"a": 1}`),
			Extra: []Member{{"platform", []byte(`"linux"`)}},
		}, Member{"_mod", []byte(` "Thu" `)})
		for _, r := range []record{
			{TarBz2, "a-1-0.tar.bz2", `{ "odd":1.50 }`},
			{TarBz2, "b-1-0.tar.bz2", `{}`},
			{V3Conda, "a-1-0", `{}`},
			{V3Conda, "b-1-0", `{}`},
			{V3Whl, "a-1-0", `{}`},
		} {
			if err := w.Record(r.Bucket, r.Key, []byte(r.Raw)); err != nil {
				t.Fatal(err)
			}
		}
		for _, fn := range []string{"x", "y"} {
			if err := w.Removed(fn); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || w.Records() != 5 {
			t.Fatal(w.Records(), err)
		}
		diff(t, `{"info":{"base_url":"https://example.org/f","channel_relations":{"a": 1},"platform":"linux","subdir":"linux-64"},`+
			`"packages":{"a-1-0.tar.bz2":{ "odd":1.50 },"b-1-0.tar.bz2":{}},"packages.conda":{},`+
			`"v3":{"conda":{"a-1-0":{},"b-1-0":{}},"whl":{"a-1-0":{}}},"removed":["x","y"],"repodata_version":2,"_mod":"Thu"}`, out.String())
	})
	t.Run("equal contents give equal bytes", func(t *testing.T) {
		if !bytes.Equal(generate(50), generate(50)) {
			t.Error("two documents differ")
		}
	})
}

func TestWriterRefuses(t *testing.T) {
	type step struct {
		b   Bucket
		key string
		raw string
	}
	const removed = Bucket("removed")
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"names out of order", []step{{TarBz2, "b", `{}`}, {TarBz2, "a", `{}`}}},
		{"a name twice", []step{{Conda, "b", `{}`}, {Conda, "b", `{}`}}},
		{"buckets out of order", []step{{Conda, "b", `{}`}, {TarBz2, "a", `{}`}}},
		{"v3 buckets out of order", []step{{V3TarBz2, "b", `{}`}, {V3Conda, "a", `{}`}}},
		{"a classic bucket after v3", []step{{V3TarBz2, "b", `{}`}, {Conda, "a", `{}`}}},
		{"a bucket nobody knows", []step{{"packages.zip", "b", `{}`}}},
		{"a record that is no object", []step{{Conda, "b", `[]`}}},
		{"an empty record", []step{{Conda, "b", ``}}},
		{"a record after removed names", []step{{removed, "b", ``}, {Conda, "b", `{}`}}},
		{"removed names out of order", []step{{removed, "b", ``}, {removed, "a", ``}}},
		{"a name that is not UTF-8", []step{{Conda, "\xff", `{}`}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := NewWriter(io.Discard, Info{})
			for i, s := range tc.steps {
				var err error
				if s.b == removed {
					err = w.Removed(s.key)
				} else {
					err = w.Record(s.b, s.key, []byte(s.raw))
				}
				if last := i == len(tc.steps)-1; last != (err != nil) {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			var e *Error
			if err := w.Close(); !errors.As(err, &e) {
				t.Errorf("the error did not stick: %v", err)
			}
		})
	}
	t.Run("keys and values that would break the document", func(t *testing.T) {
		for _, w := range []*Writer{
			NewWriter(io.Discard, Info{}, Member{"packages", []byte(`{}`)}),
			NewWriter(io.Discard, Info{}, Member{"a", []byte(`1`)}, Member{"a", []byte(`1`)}),
			NewWriter(io.Discard, Info{}, Member{"a", []byte(`1,"packages":{}`)}),
			NewWriter(io.Discard, Info{Extra: []Member{{"subdir", []byte(`1`)}}}),
			NewWriter(io.Discard, Info{RepodataRevisions: []byte(`{`)}),
		} {
			if w.Close() == nil {
				t.Error("accepted")
			}
		}
	})
	t.Run("a full disk is reported", func(t *testing.T) {
		full := errors.New("no space left")
		r, wr := io.Pipe()
		r.CloseWithError(full)
		w := NewWriter(wr, Info{})
		if err := w.Close(); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing follows a closed document", func(t *testing.T) {
		w := NewWriter(io.Discard, Info{})
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if w.Record(Conda, "a", []byte(`{}`)) == nil || w.Removed("a") == nil {
			t.Error("accepted")
		}
	})
}
