package arena

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

var shared = filepath.Join("..", "..", "..", "..", "shared", "data", "01-harvested-channels", "conda-forge")

// realDocument is a real subdir's repodata, which may not be there: what must hold is tested on documents made here, too.
func realDocument(t testing.TB, subdir string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(shared, subdir, "repodata.json.zst"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no real channel: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	data, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// expect is what repodata's own readers make of a document: file names and records in the order of the index.
func expect(t testing.TB, data []byte, subdir string) (files []string, records []repodata.Record) {
	t.Helper()
	sparse, err := repodata.OpenSparse(data)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for name := range sparse.Names {
		err := sparse.Records(name, nil, func(e repodata.Entry) error {
			rec, err := repodata.ParseRecord(e.Raw)
			file := e.Bucket.Filename(e.Key)
			if err != nil || rec.Name != name || seen[file] {
				return nil
			}
			seen[file] = true
			if rec.Subdir == "" {
				rec.Subdir = subdir
			}
			files, records = append(files, file), append(records, rec)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files, records
}

func contents(t testing.TB, a *Arena) (files []string, records []repodata.Record) {
	t.Helper()
	for i := range a.All {
		r := a.Rec(i)
		rec, err := a.Record(r)
		if err != nil {
			t.Fatalf("%s: %v", a.FileName(r), err)
		}
		if rec.BuildNumber != a.BuildNumber(r) || rec.SHA256 != r.SHA256Hex() || rec.MD5 != r.MD5Hex() || rec.Name != a.Str(r.Name) ||
			rec.Timestamp != r.Timestamp || rec.Revoked != (r.Flags&Revoked != 0) || (len(rec.TrackFeatures) > 0) != (r.Flags&TrackFeatures != 0) {
			t.Fatalf("%s: the record and its fields differ: %+v %+v", a.FileName(r), rec, *r)
		}
		files, records = append(files, a.FileName(r)), append(records, rec)
	}
	return files, records
}

func compare(t *testing.T, a *Arena, data []byte) {
	t.Helper()
	wantFiles, want := expect(t, data, a.Subdir)
	files, got := contents(t, a)
	if diff := cmp.Diff(wantFiles, files); diff != "" {
		t.Fatalf("files (-want +got):\n%s", diff)
	}
	for i := range want {
		if diff := cmp.Diff(want[i], got[i], cmpopts.IgnoreFields(repodata.Record{}, "Raw"), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", files[i], diff)
		}
		if unknown(t, want[i].Raw) != unknown(t, got[i].Raw) {
			t.Fatalf("%s: unknown keys differ:\n%s\n%s", files[i], want[i].Raw, got[i].Raw)
		}
	}
}

// unknown prints the keys of a record that have no field.
func unknown(t testing.TB, raw []byte) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"name", "version", "build", "build_number", "depends", "constrains", "subdir", "noarch", "timestamp", "indexed_timestamp",
		"license", "md5", "sha256", "size",
	} {
		delete(m, key)
	}
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func read(t testing.TB, data []byte) *Arena {
	t.Helper()
	a, err := Read(bytes.NewReader(data), Options{Subdir: "linux-64", Size: int64(len(data))})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// oddities is a document of what real ones contain, and of what must be refused.
const oddities = `{
 "info": {"subdir": "linux-64", "base_url": "../pool", "x": [1]},
 "signatures": {"a": {"b": "}"}},
 "packages": {
  "a-1-0.tar.bz2": {"build":"0","build_number":0,"constrains":["z >1","y"],"depends":["b >=1","c"],"name":"a","subdir":"linux-64","version":"1","license":"MIT","size":12,"timestamp":1578324546067,"md5":"d7c89558ba9fa0495403155b64376d81","sha256":"fe51de6107f9edc7aa4f786a70f4a883943bc9d39b3bb7307c04c41410990726"},
  "a-1-1.tar.bz2": {"build":"1","build_number":1,"depends":["b >=1"],"constrains":["z >1"],"name":"a","version":"1","noarch":"python","timestamp":1578324546},
  "a-2-0.tar.bz2": {"build":"0","build_number":"7","depends":["b >=1"],"name":"a","version":"2","noarch":true,"subdir":"linux-32","license":["GPL", "x"]},
  "b-1-0.tar.bz2": {"build":"0","build_number":99999999999,"name":"b","version":"1","license":"Ünï","depends":null,"md5":null,"sha256":"","license_family":"BSD","track_features":"f g"},
  "b-2-0.tar.bz2": {"build":"0","name":"b","version":"2","track_features":[],"x":"a\"}{b","y":{"k":[1,{"l":null}]},"timestamp":1.5e12,"revoked":true},
  "b-3-0.tar.bz2": {"build":"0","name":"b","version":"3","url":"https://h/b.tar.bz2","features":"mkl","flags":["cuda"],"extra_depends":{"g":["q"]},"indexed_timestamp":1700000000000},
  "c-1-0.tar.bz2": {"build":"0","name":"c","version":"1","depends":[ "spaced" ],"noarch":"","zz":true,"aa":null,"n":17},
  "d-1-0.tar.bz2": {"build":"0","name":"other","version":"1"},
  "e-1-0.tar.bz2": {"build":"0","name":"e"},
  "f-1-0.tar.bz2": {"build":"0","name":"f","version":"1","version":"1"},
  "g-1-0.tar.bz2": {"build":"0","name":"g","version":"1","q":1,"q":2},
  "h/1-0.tar.bz2": {"build":"0","name":"h","version":"1"},
  "i-1-0.tar.bz2": {"build":"0","name":"i","version":"1","depends":["a",3]},
  "j-1-0.tar.bz2": {"build":"0","name":"j","version":"1","sha256":"12"},
  "k-1-0.tar.bz2": {"build":"0","name":"k","version":"1","noarch":"weird"},
  "l-1-0.tar.bz2": {"build":"0","name":"l","version":"1"},
  "M-1-0.tar.bz2": {"build":"0","name":"M","version":"1"},
  "n-1-0.tar.bz2": [],
  "o-1!2+x-0.tar.bz2": {"build":"0","name":"o","version":"1!2+x","size":18446744073709551615},
  "p-1-0.tar.bz2": {"build":"0","name":"p","version":"1","x":"tab	inside"},
  "q-1-0.tar.bz2": {"build":"0","name":"q","version":"1","n":01},
  "a-1-0.tar.bz2": {"build":"0","name":"a","version":"1","license":"second"}
 },
 "packages.conda": {
  "a-1-0.conda": {"build":"0","build_number":0,"depends":[],"name":"a","version":"1"},
  "a-9-0.tar.bz2": {"build":"0","build_number":0,"depends":[],"name":"a","version":"9"},
  "a-1.0-0.conda": {"build":"0","build_number":0,"depends":[],"name":"a","version":"1"}
 },
 "v3": {
  "conda": {"a-5-0": {"build":"0","build_number":0,"depends":["x[when='y']"],"name":"a","version":"5"}},
  "tar.bz2": {"a-4-0": {"build":"0","build_number":0,"depends":[],"name":"a","version":"4"}},
  "whl": {"w-4-0": {"name":"w","version":"4","build":"0","url":"w.whl"}},
  "new": {"x-4-0": {"name":"x","version":"4","build":"0"}}
 },
 "removed": ["l-1-0.tar.bz2", 3],
 "repodata_version": 1
}`

func TestADocumentIsReadAsItsOtherReadersDo(t *testing.T) {
	documents := map[string][]byte{"oddities": []byte(oddities), "nothing": nil, "{}": []byte("{}"), "space": []byte(" \n")}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(strings.ReplaceAll(strings.ReplaceAll(oddities, "	inside", "inside"), `:01`, `:1`))); err != nil {
		t.Fatal(err)
	}
	documents["compact"] = compact.Bytes()
	for name, data := range documents {
		t.Run(name, func(t *testing.T) {
			a := read(t, data)
			compare(t, a, data)
			one, err := Read(iotest.OneByteReader(bytes.NewReader(data)), Options{Subdir: "linux-64"})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, one, data)
			if name == "oddities" && (a.Info.BaseURL != "../pool" || len(a.Problems) < 12) {
				t.Errorf("info %+v, problems %q", a.Info, a.Problems)
			}
		})
	}
}

func TestRealChannelsAreReadAsTheirOtherReadersDo(t *testing.T) {
	for _, subdir := range []string{"linux-64", "noarch"} {
		data := realDocument(t, subdir)
		a, err := Read(iotest.HalfReader(bytes.NewReader(data)), Options{Subdir: subdir})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, a, data)
		var indented bytes.Buffer
		if err := json.Indent(&indented, data, "", "  "); err != nil {
			t.Fatal(err)
		}
		b, err := Read(&indented, Options{Subdir: subdir})
		if err != nil {
			t.Fatal(err)
		}
		x, _ := contents(t, a)
		y, _ := contents(t, b)
		if !slices.Equal(x, y) {
			t.Errorf("%s: indented it has %d records, compact %d", subdir, len(y), len(x))
		}
		t.Logf("%s: %d records, %d strings, %d bytes each", subdir, a.Len(), a.Strings(), a.Bytes()/a.Len())
	}
}

func TestBrokenDocumentsAreErrors(t *testing.T) {
	for _, text := range []string{
		`[]`, `{`, `{"packages":{`, `{"packages":{"a-1-0.tar.bz2":{"build":"0"`, `{} {}`, `{"info":{}`, `{"info" {}}`, `{"info":{},}`, `nul`,
		`{"packages":{},"packages":{}}`, `{"packages":[]}`, `{"packages":nope}`, `{"info":{"a":01}}`, `{"info":"x`, "{\"packages\":{\"a\\",
	} {
		if a, err := Read(strings.NewReader(text), Options{Subdir: "noarch"}); err == nil {
			t.Errorf("%s: read as %d records", text, a.Len())
		}
	}
	boom := errors.New("the line is dead")
	if _, err := Read(io.MultiReader(strings.NewReader(oddities[:900]), iotest.ErrReader(boom)), Options{}); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	long := `{"packages":{"a-1-0.tar.bz2":{"x":"` + strings.Repeat("y", 1000) + `"}}}`
	var limit *repodata.LimitError
	if _, err := Read(iotest.OneByteReader(strings.NewReader(long)), Options{MaxRecord: 200}); !errors.As(err, &limit) {
		t.Errorf("got %v", err)
	}
}

func TestSingleRecordsMakeAnArena(t *testing.T) {
	b := NewBuilder(Options{Subdir: "linux-64"})
	sparse, err := repodata.OpenSparse([]byte(oddities))
	if err != nil {
		t.Fatal(err)
	}
	for name := range sparse.Names {
		if err := sparse.Records(name, nil, func(e repodata.Entry) error { b.Add(e.Bucket, e.Key, e.Raw); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	a, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, a, []byte(oddities))
	if ids := a.Find("a"); len(ids) == 0 || a.Find("nope") != nil {
		t.Errorf("a has %v", ids)
	}
}

// TestAnyRecordIsReadTheSameByBothRoads makes records from what trips parsers.
func TestAnyRecordIsReadTheSameByBothRoads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := []string{
			`"x"`, `""`, `"a\"b"`, `"ü"`, `"a}b"`, `"{"`, `[]`, `["a"]`, `["a", "b"]`, `["a",1]`, `[["a"]]`, `{}`, `{"a":"b"}`, `0`, `1`, `01`, `-1`,
			`1.5`, `1e3`, `12345678901234567890`, `1578324546067`, `true`, `false`, `null`, `tru`, `"python"`, `"linux-64"`, "\"\x01\"", "\"\xff\"",
			`"d7c89558ba9fa0495403155b64376d81"`, `"fe51de6107f9edc7aa4f786a70f4a883943bc9d39b3bb7307c04c41410990726"`, ` "x" `, `"\ud800"`, `"a, b"`,
		}
		keys := []string{
			"depends", "constrains", "subdir", "timestamp", "indexed_timestamp", "license", "md5", "sha256", "size", "noarch", "track_features",
			"revoked", "url", "flags", "extra_depends", "build_number", "odd", "od\\u0064", "name", "license_family", "features",
		}
		var doc strings.Builder
		doc.WriteString(`{"packages":{`)
		for i := range rapid.IntRange(1, 4).Draw(t, "records") {
			if i > 0 {
				doc.WriteString(",")
			}
			fmt.Fprintf(&doc, `"a-%d-0.tar.bz2":{"name":"a","version":"%d","build":"0"`, i, i)
			for range rapid.IntRange(0, 5).Draw(t, "members") {
				fmt.Fprintf(&doc, `,"%s":%s`, rapid.SampledFrom(keys).Draw(t, "key"), rapid.SampledFrom(values).Draw(t, "value"))
			}
			doc.WriteString("}")
		}
		doc.WriteString("}}")
		a, err := Read(strings.NewReader(doc.String()), Options{Subdir: "linux-64"})
		if err != nil {
			t.Fatalf("%s: %v", doc.String(), err)
		}
		sparse, err := repodata.OpenSparse([]byte(doc.String()))
		if err != nil {
			t.Fatal(err)
		}
		var want []repodata.Record
		_ = sparse.Records("a", nil, func(e repodata.Entry) error {
			if rec, err := repodata.ParseRecord(e.Raw); err == nil && rec.Name == "a" {
				if rec.Subdir == "" {
					rec.Subdir = "linux-64"
				}
				want = append(want, rec)
			}
			return nil
		})
		var got []repodata.Record
		for i := range a.All {
			rec, err := a.Record(a.Rec(i))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rec)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(repodata.Record{}, "Raw", "RunExports"), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", doc.String(), diff)
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(oddities))
	f.Add([]byte(`{"packages":{"a-1-0.tar.bz2":{"name":"a","version":"1","build":"0","depends":["b"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Read(bytes.NewReader(data), Options{Subdir: "linux-64", MaxRecord: 1 << 16})
		if err != nil {
			return
		}
		b, err := Read(iotest.OneByteReader(bytes.NewReader(data)), Options{Subdir: "linux-64", MaxRecord: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		x, _ := contents(t, a)
		y, _ := contents(t, b)
		if !slices.Equal(x, y) {
			t.Fatalf("%q and, byte by byte, %q", x, y)
		}
	})
}

// large makes a document of about n bytes from real or made records.
func large(n int) []byte {
	var buf bytes.Buffer
	buf.WriteString(`{"info":{"subdir":"linux-64"},"packages":{},"packages.conda":{`)
	for i := 0; buf.Len() < n; i++ {
		if i > 0 {
			buf.WriteByte(',')
		}
		name, version, build := fmt.Sprintf("package-%05d", i/16), fmt.Sprintf("1.%d.%d", i/4%4, i/16%7), fmt.Sprintf("py3%dh%07x_%d", i%4, i*2654435761&0xfffffff, i%3)
		fmt.Fprintf(&buf, `"%s-%s-%s.conda":{"build":"%s","build_number":%d,"depends":[`, name, version, build, build, i%3)
		for d := range 7 {
			if d > 0 {
				buf.WriteByte(',')
			}
			fmt.Fprintf(&buf, `"package-%05d >=1.%d,<2.0a0"`, (i/16*7+d*131)%(i/16+1), (i/4+d)%40)
		}
		fmt.Fprintf(&buf, `],"license":"BSD-3-Clause","license_family":"BSD","md5":"%032x","name":"%s","sha256":"%064x","size":%d,"subdir":"linux-64","timestamp":%d,"version":"%s"}`,
			i, name, i, 1000*i, 1578324546067+int64(i)*1000, version)
	}
	buf.WriteString(`},"repodata_version":1}`)
	return buf.Bytes()
}

func BenchmarkRead(b *testing.B) {
	for _, size := range []int{16 << 20, 255 << 20} {
		b.Run(fmt.Sprintf("%dMB", size>>20), func(b *testing.B) {
			data := large(size)
			b.SetBytes(int64(len(data)))
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var a *Arena
			for b.Loop() {
				start := time.Now()
				var err error
				if a, err = Read(bytes.NewReader(data), Options{Subdir: "linux-64", Size: int64(len(data))}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/read")
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(a.Bytes())/1e6, "MB-arena")
			b.ReportMetric(float64(a.Len()), "records")
			runtime.KeepAlive(data)
			runtime.KeepAlive(a)
		})
	}
}
