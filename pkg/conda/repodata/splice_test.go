package repodata_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

type spliced map[[2]string][]byte // by bucket and key

// document writes records the plain way.
func (m spliced) document(t interface{ Fatal(...any) }) (doc []byte, spans []repodata.Span) {
	var out bytes.Buffer
	w := repodata.NewWriter(&out, repodata.Info{Subdir: "linux-64"})
	w.Mark()
	for _, k := range slices.SortedFunc(maps.Keys(m), func(a, b [2]string) int {
		return strings.Compare(order(a[0])+a[1], order(b[0])+b[1])
	}) {
		if err := w.Record(repodata.Bucket(k[0]), k[1], m[k]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Removed("gone-1-0.conda"), w.Close()); err != nil {
		t.Fatal(err)
	}
	if w.Records() != len(m) {
		t.Fatal(w.Records(), len(m))
	}
	return out.Bytes(), w.Spans()
}

func order(bucket string) string {
	return map[string]string{"packages": "0", "packages.conda": "1"}[bucket] + bucket + "/"
}

func splice(doc []byte, spans []repodata.Span, changes []repodata.Change) ([]byte, []repodata.Span, int, error) {
	var out bytes.Buffer
	w := repodata.NewWriter(&out, repodata.Info{Subdir: "linux-64"})
	w.Mark()
	err := repodata.Splice(w, bytes.NewReader(doc), spans, changes)
	if err == nil {
		err = errors.Join(w.Removed("gone-1-0.conda"), w.Close())
	}
	return out.Bytes(), w.Spans(), w.Records(), err
}

func TestASplicedDocumentIsTheOneWrittenAnew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		buckets := []string{"packages", "packages.conda", "v3/conda"}
		key := rapid.Custom(func(rt *rapid.T) [2]string {
			b := rapid.SampledFrom(buckets).Draw(rt, "bucket")
			name := fmt.Sprintf("p%02d-1-0", rapid.IntRange(0, 60).Draw(rt, "name"))
			return [2]string{b, name + map[string]string{"packages": ".tar.bz2", "packages.conda": ".conda"}[b]}
		})
		record := func(v int) []byte {
			// Long enough for several spans, with text that looks like the ends of records.
			return fmt.Appendf(nil, `{"name":"p","version":"%d","note":"\"},{%s"}`, v, strings.Repeat("x", rapid.SampledFrom([]int{0, 100, 30_000, 140_000}).Draw(rt, "size")))
		}
		now := spliced{}
		for _, k := range rapid.SliceOfN(key, 0, 10).Draw(rt, "first") {
			now[k] = record(0)
		}
		doc, spans := now.document(rt)
		for round := range rapid.IntRange(1, 3).Draw(rt, "rounds") {
			byKey := map[[2]string]repodata.Change{}
			for _, k := range rapid.SliceOfN(key, 0, 4).Draw(rt, "changed") {
				c := repodata.Change{Bucket: repodata.Bucket(k[0]), Key: k[1]}
				if rapid.Bool().Draw(rt, "put") {
					c.Raw = record(round + 1)
					now[k] = c.Raw
				} else {
					delete(now, k)
				}
				byKey[k] = c
			}
			changes := slices.SortedFunc(maps.Values(byKey), func(a, b repodata.Change) int {
				return strings.Compare(order(string(a.Bucket))+a.Key, order(string(b.Bucket))+b.Key)
			})
			got, next, n, err := splice(doc, spans, changes)
			if err != nil {
				rt.Fatal(err)
			}
			want, _ := now.document(rt)
			if !bytes.Equal(got, want) || n != len(now) {
				rt.Fatalf("%d records of %d\n%.2000s\nwant\n%.2000s", n, len(now), got, want)
			}
			for _, s := range next {
				if b := got[s.Offset]; b != '"' || got[s.Offset+s.Size-1] != '}' {
					rt.Fatalf("span %+v begins with %q", s, b)
				}
			}
			doc, spans = got, next
		}
	})
}

func TestSpansStayFew(t *testing.T) {
	now := spliced{}
	for i := range 2000 {
		now[[2]string{"packages.conda", fmt.Sprintf("p%05d-1-0.conda", i)}] = fmt.Appendf(nil, `{"name":"%s"}`, strings.Repeat("x", 500))
	}
	doc, spans := now.document(t)
	first := len(spans)
	for i := range 200 {
		var err error
		if doc, spans, _, err = splice(doc, spans, []repodata.Change{{
			Bucket: repodata.Conda, Key: fmt.Sprintf("p%05d-1-1.conda", (i*37)%2000), Raw: fmt.Appendf(nil, `{"name":"%s"}`, strings.Repeat("x", 500)),
		}}); err != nil {
			t.Fatal(err)
		}
	}
	if first < 5 || len(spans) > 3*first {
		t.Errorf("%d spans became %d", first, len(spans))
	}
}

func TestRottenBytesAreNotCopied(t *testing.T) {
	now := spliced{{"packages.conda", "a-1-0.conda"}: []byte(`{"name":"a"}`)}
	doc, spans := now.document(t)
	doc[spans[0].Offset+spans[0].Size-3] ^= 1
	var e *repodata.Error
	if _, _, _, err := splice(doc, spans, nil); !errors.As(err, &e) {
		t.Errorf("rotten bytes were copied: %v", err)
	}
	if _, _, _, err := splice(doc[:10], spans, nil); err == nil {
		t.Error("a document that is too short was copied")
	}
}
