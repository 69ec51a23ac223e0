package repodata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

const sound = `{"build":"0","name":"a","version":"1"}`

func TestRead(t *testing.T) {
	t.Run("every part of a document arrives, in its order and bytes", func(t *testing.T) {
		in := `{
  "info": {"subdir": "linux-64", "base_url": "../files", "arch": "x86_64",
           "repodata_revisions": {"v3": {"n_packages": 1}}},
  "packages": {"a-1-0.tar.bz2": {"name":"a", "version":"1", "build":"0", "x" : 1.50e2, "\u0079":"\u00e9\n"}},
  "packages.conda": {"b-2!1.0+x-h_0.conda": ` + sound + `},
  "_mod": "Thu",
  "signatures": {"a-1-0.tar.bz2": {"k": {"signature": "00"}}},
  "removed": ["c-1-0.conda"],
  "v3": {"conda": {"d-1-0": ` + sound + `}, "whl": {"e-1.0-py3-none-any": {"name":"e","version":"1.0"}}},
  "repodata_version": 2
}
`
		got, problems := collect(t, []byte(in), false)
		diff(t, contents{
			Doc: Document{
				Info: Info{
					Subdir: "linux-64", BaseURL: "../files", RepodataRevisions: []byte(`{"v3": {"n_packages": 1}}`),
					Extra: []Member{{"arch", []byte(`"x86_64"`)}},
				},
				Version: 2,
				Extra:   []Member{{"_mod", []byte(`"Thu"`)}},
				Records: 4, Removed: 1, Size: int64(len(in) - 1),
			},
			Records: []record{
				{TarBz2, "a-1-0.tar.bz2", `{"name":"a", "version":"1", "build":"0", "x" : 1.50e2, "\u0079":"\u00e9\n"}`},
				{Conda, "b-2!1.0+x-h_0.conda", sound},
				{V3Conda, "d-1-0", sound},
				{V3Whl, "e-1.0-py3-none-any", `{"name":"e","version":"1.0"}`},
			},
			Removed: []string{"c-1-0.conda"},
		}, got)
		diff(t, []*Error(nil), problems)
	})

	t.Run("an empty file means an empty document", func(t *testing.T) {
		for _, in := range []string{"", " \n", "{}"} {
			got, _ := collect(t, []byte(in), false)
			if got.Doc.Records != 0 || got.Doc.Info.Subdir != "" {
				t.Errorf("%q: %+v", in, got)
			}
		}
	})

	t.Run("null parts are empty parts", func(t *testing.T) {
		got, problems := collect(t, []byte(`{"info":null,"packages":null,"packages.conda":null,"removed":null,"v3":null,"repodata_version":null}`), false)
		if got.Doc.Records != 0 || len(problems) != 0 {
			t.Errorf("%+v %v", got, problems)
		}
	})

	t.Run("unknown keys may have any shape", func(t *testing.T) {
		got, problems := collect(t, []byte(`{"x":{"name":7,"v":[{"name":null}]},"y":null,"z":[1.0]}`), false)
		diff(t, []Member{{"x", []byte(`{"name":7,"v":[{"name":null}]}`)}, {"y", []byte(`null`)}, {"z", []byte(`[1.0]`)}}, got.Doc.Extra)
		diff(t, []*Error(nil), problems)
	})

	t.Run("metadata stands in for info", func(t *testing.T) {
		got, _ := collect(t, []byte(`{"metadata":{"subdir":"noarch","base_url":"https://example.org/c"}}`), false)
		diff(t, Info{Subdir: "noarch", BaseURL: "https://example.org/c"}, got.Doc.Info)
	})

	t.Run("one byte at a time gives the same", func(t *testing.T) {
		in := generate(20)
		want, _ := collect(t, in, false)
		n := 0
		_, err := Read(iotest.OneByteReader(bytes.NewReader(in)), ReadOptions{Record: func(b Bucket, key string, raw []byte) error {
			diff(t, want.Records[n], record{b, key, string(raw)})
			n++
			return nil
		}})
		if err != nil || n != 40 {
			t.Errorf("%d records, %v", n, err)
		}
	})

	t.Run("the consumer's error ends the read and comes back as it is", func(t *testing.T) {
		enough := errors.New("enough")
		_, err := Read(bytes.NewReader(generate(5)), ReadOptions{Record: func(Bucket, string, []byte) error { return enough }})
		if err != enough {
			t.Errorf("got %v", err)
		}
	})

	t.Run("the iterator stops when its consumer does", func(t *testing.T) {
		n := 0
		for e, err := range Records(bytes.NewReader(generate(5)), ReadOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			if n++; e.Key == "package000002-1.2.0-h0000002_0.tar.bz2" {
				break
			}
		}
		if n != 3 {
			t.Errorf("%d steps", n)
		}
		for _, err := range Records(strings.NewReader(`{"packages":{]`), ReadOptions{}) {
			if err == nil {
				t.Error("no error for a broken document")
			}
		}
	})
}

var manyKeys = func() string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, `,"k%d":%d`, i, i)
	}
	return b.String()
}()

func TestOneBadRecordDoesNotPoisonItsNeighbours(t *testing.T) {
	for _, tc := range []struct {
		name, key, raw string
		path, msg      string
	}{
		{"not an object", "b-1-0.conda", `[1]`, "/packages.conda/b-1-0.conda", "record is not an object"},
		{"null", "b-1-0.conda", `null`, "/packages.conda/b-1-0.conda", "record is not an object"},
		{"no name", "b-1-0.conda", `{"version":"1","build":"0"}`, "/packages.conda/b-1-0.conda", "record has no name"},
		{"empty name", "b-1-0.conda", `{"name":"","version":"1","build":"0"}`, "/packages.conda/b-1-0.conda", "record has no name"},
		{"name is a number", "b-1-0.conda", `{"name":7,"version":"1","build":"0"}`, "/packages.conda/b-1-0.conda/name", "name is not a string"},
		{"no version", "b-1-0.conda", `{"name":"b","build":"0"}`, "/packages.conda/b-1-0.conda", "record has no version"},
		{"no build", "b-1-0.conda", `{"name":"b","version":"1"}`, "/packages.conda/b-1-0.conda", "record has no build"},
		{"key twice", "b-1-0.conda", `{"name":"b","version":"1","build":"0","name":"c"}`, "/packages.conda/b-1-0.conda/name", "key is there twice"},
		{"key twice, once escaped", "b-1-0.conda", `{"name":"b","version":"1","build":"0","n\u0061me":"c"}`, "/packages.conda/b-1-0.conda/name", "key is there twice"},
		{"key twice, deep", "b-1-0.conda", `{"name":"b","version":"1","build":"0","x":[{"y":1,"y":2}]}`, "/packages.conda/b-1-0.conda/x/0/y", "key is there twice"},
		{"key twice among many", "b-1-0.conda", `{"name":"b","version":"1","build":"0"` + manyKeys + `,"k7":0}`, "/packages.conda/b-1-0.conda/k7", "key is there twice"},
		{"bad UTF-8", "b-1-0.conda", "{\"name\":\"b\",\"version\":\"1\",\"build\":\"\xff\"}", "/packages.conda/b-1-0.conda", "record is not valid UTF-8"},
		{"half a surrogate pair", "b-1-0.conda", `{"name":"b","version":"1","build":"0","s":"\ud800"}`, "/packages.conda/b-1-0.conda/s", "invalid surrogate pair `\\ud800\"` in string"},
		{
			"deep nesting", "b-1-0.conda", `{"name":"b","version":"1","build":"0","x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`,
			"/packages.conda/b-1-0.conda/x" + strings.Repeat("/0", 31), "nested deeper than 32 levels",
		},
		{"name seen before", "a-1-0.conda", sound, "/packages.conda/a-1-0.conda", "file name is there twice"},
		{"walks up", "../../etc/passwd-1-0.conda", sound, "/packages.conda/..~1..~1etc~1passwd-1-0.conda", "name in file name: it must begin with a lower-case letter, a digit or an underscore"},
		{"still encoded", "x264-1%21164-0.conda", sound, "/packages.conda/x264-1%21164-0.conda", ""},
		{"no package", "b-1-0.zip", sound, "/packages.conda/b-1-0.zip", "filename in file name: it ends in neither .conda nor .tar.bz2"},
		{"two parts", "b-1.conda", sound, "/packages.conda/b-1.conda", "filename in file name: it is not of the form name-version-build"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			head := `{"packages.conda":{"a-1-0.conda":` + sound + `,"` + tc.key + `":`
			got, problems := collect(t, []byte(head+tc.raw+`,"z-1-0.conda":`+sound+`}}`), false)
			diff(t, []record{{Conda, "a-1-0.conda", sound}, {Conda, "z-1-0.conda", sound}}, got.Records)
			if len(problems) != 1 {
				t.Fatalf("%d problems: %v", len(problems), problems)
			}
			want := Error{Path: tc.path, Offset: int64(len(head)), Msg: tc.msg}
			if tc.msg == "" {
				want.Msg = problems[0].Msg
			}
			diff(t, want, *problems[0])

			// The same without a listener is an error.
			_, err := Read(strings.NewReader(head+tc.raw+`}}`), ReadOptions{})
			var e *Error
			if !errors.As(err, &e) || *e != want {
				t.Errorf("without Problem: %v", err)
			}
		})
	}

	t.Run("a part of the wrong type is a problem of that part", func(t *testing.T) {
		got, problems := collect(t, []byte(`{"info":[],"packages":[{"a":1}],"removed":{"x":[]},"repodata_version":"x","packages.conda":{"a-1-0.conda":`+sound+`}}`), false)
		if len(got.Records) != 1 || len(problems) != 4 {
			t.Errorf("%d records, problems %v", len(got.Records), problems)
		}
	})
	t.Run("a removed name that is none is a problem", func(t *testing.T) {
		got, problems := collect(t, []byte(`{"removed":["a-1-0.conda",7,"../b","c"]}`), false)
		diff(t, []string{"a-1-0.conda", "c"}, got.Removed)
		if len(problems) != 2 || problems[0].Path != "/removed/1" || problems[1].Path != "/removed/2" {
			t.Errorf("problems %v", problems)
		}
	})
}

func TestABrokenDocumentIsRefusedAndThePlaceNamed(t *testing.T) {
	for _, tc := range []struct {
		name, in, path string
		cause          error
	}{
		{"NaN", `{"packages":{"a-1-0.tar.bz2":{"size":NaN}}}`, "/packages/a-1-0.tar.bz2/size", nil},
		{"cut off", `{"packages":{"a-1-0.tar.bz2":{"size":1`, "", io.ErrUnexpectedEOF},
		{"trailing comma", `{"packages":{"a-1-0.tar.bz2":` + sound + `,}}`, "/packages", nil},
		{"not an object", `[]`, "", nil},
		{"data behind", `{} {}`, "", nil},
		{"v3 bucket twice", `{"v3":{"conda":{},"conda":{}}}`, "/v3/conda", nil},
		{"unknown key with a key twice", `{"x":{"a":1,"a":2}}`, "/x", nil},
		{"unknown key that is not UTF-8", "{\"x\":\"\xff\"}", "/x", nil},
		{"bucket twice", `{"packages":{},"packages":{}}`, "/packages", nil},
		{"HTML", `<!DOCTYPE html>`, "", nil},
		{"control character", "{\"packages\":{\"a\n\":{}}}", "", nil},
		{"nesting that overflows stacks", `{"x":` + strings.Repeat("[", 20000), "", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tc.in), ReadOptions{Problem: func(e *Error) error { return nil }})
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v", err)
			}
			if tc.path != "" && e.Path != tc.path {
				t.Errorf("path %q, want %q (%v)", e.Path, tc.path, err)
			}
			if tc.cause != nil && !errors.Is(err, tc.cause) {
				t.Errorf("%v is no %v", err, tc.cause)
			}
		})
	}
}

// endless repeats a chunk between head and tail.
type endless struct {
	head  *strings.Reader
	chunk []byte
	left  int64
	read  int64
}

func (e *endless) Read(p []byte) (int, error) {
	if e.head.Len() > 0 {
		return e.head.Read(p)
	}
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := copy(p, e.chunk)
	e.left -= int64(n)
	e.read += int64(n)
	return n, nil
}

func TestAValueWithoutEndIsCutOffEarly(t *testing.T) {
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	for _, tc := range []struct{ name, head, chunk string }{
		{"string in a record", `{"packages":{"a-1-0.tar.bz2":{"name":"`, ""},
		{"file name", `{"packages":{"`, ""},
		{"unknown key", `{"junk":"`, ""},
		{"top-level key", `{"`, ""},
		{"signature", `{"signatures":{"a":"`, ""},
		{"removed name", `{"removed":["`, ""},
		{"white space", `{"packages":{`, " "},
		{"number", `{"packages":{"a-1-0.tar.bz2":{"size":1`, "0"},
		{"list of empty lists", `{"packages":{"a-1-0.tar.bz2":{"size":[[]`, ",[]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := chunk
			if tc.chunk != "" {
				c = []byte(strings.Repeat(tc.chunk, 3<<10))
			}
			in := &endless{head: strings.NewReader(tc.head), chunk: c, left: 1 << 30}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(in, ReadOptions{Limits: ReadLimits{Record: 1 << 20, Extra: 1 << 20}})
			runtime.ReadMemStats(&after)
			var limit *LimitError
			var e *Error
			if !errors.As(err, &e) || !errors.As(err, &limit) {
				t.Fatalf("got %v", err)
			}
			if in.read > 2<<20 {
				t.Errorf("read %d bytes of it", in.read)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
				t.Errorf("allocated %d bytes", got)
			}
		})
	}
	t.Run("signatures of any size pass in little memory", func(t *testing.T) {
		entry := strings.Repeat(`,"k":"0123456789"`, 1000)
		parts := []io.Reader{strings.NewReader(`{"signatures":{"a":""`)}
		for range 2000 { // 34 MB
			parts = append(parts, strings.NewReader(entry))
		}
		parts = append(parts, strings.NewReader(`}}`))
		in := io.MultiReader(parts...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Read(in, ReadOptions{Limits: ReadLimits{Record: 1 << 10, Extra: 1 << 10}}); err != nil {
			t.Error(err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
			t.Errorf("allocated %d bytes", got)
		}
	})
}

func TestTheNumberOfRecordsIsBounded(t *testing.T) {
	_, err := Read(bytes.NewReader(generate(10)), ReadOptions{Limits: ReadLimits{Records: 15}})
	var limit *LimitError
	if !errors.As(err, &limit) || limit.Limit != 15 {
		t.Errorf("got %v", err)
	}
}

func TestRealIndexesSurviveReadWriteRead(t *testing.T) {
	files := realIndexes(t, "02-real-repodata", "01-harvested-channels", "03-packages")
	sources := map[string][]byte{"generated": generate(100)}
	for _, f := range files {
		if testing.Short() && len(sources) > 10 {
			break
		}
		sources[f.path] = f.load(t)
	}
	records := 0
	for name, data := range sources {
		first, problems := collect(t, data, false)
		for _, p := range problems {
			t.Logf("%s: %v", name, p)
		}
		if first.Doc.Records == 0 && len(problems) > 0 {
			t.Errorf("%s: nothing but problems", name)
		}
		for _, r := range first.Records {
			// One fixture is there to fail: "noarch": "notempty-this-should-fail".
			_, err := ParseRecord([]byte(r.Raw))
			if fails := strings.Contains(r.Raw, "this-should-fail"); fails != (err != nil) {
				t.Errorf("%s: %s: %v", name, r.Key, err)
			}
		}
		second, _ := collect(t, rewrite(t, first), true)
		sortRecords(first.Records)
		diff(t, first.Records, second.Records)
		diff(t, first.Doc.Extra, second.Doc.Extra)
		records += len(first.Records)
	}
	t.Logf("%d documents, %d records", len(sources), records)
}

func TestErrorsNameThePlaceOnOneLine(t *testing.T) {
	e := &Error{Path: "/packages/a\nb", Offset: 7, Msg: "is odd"}
	if got, want := e.Error(), `repodata: /packages/a\nb (byte 7) is odd`; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	long := &Error{Path: strings.Repeat("x", 100000), Msg: "m"}
	if n := len(long.Error()); n > 1000 {
		t.Errorf("%d bytes of message", n)
	}
}
