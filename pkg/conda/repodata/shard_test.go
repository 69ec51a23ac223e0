package repodata

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

func sampleShard() Shard {
	rec := func(version, more string) []byte {
		return []byte(`{"version":"` + version + `","name":"zlib","build":"0","sha256":"` + strings.Repeat("ab", 32) +
			`","md5":"` + strings.Repeat("cd", 16) + `"` + more + `}`)
	}
	return Shard{
		Records: []ShardRecord{
			{Bucket: Conda, Key: "zlib-1.2-0.conda", Raw: rec("1.2", `,"x":{"b":[1,-1,1.5,null,true,"\u00e9"],"a":{}}`), RunExports: []byte(`{"weak":["zlib >=1.2"]}`)},
			{Bucket: TarBz2, Key: "zlib-1.1-0.tar.bz2", Raw: rec("1.1", `,"run_exports":{}`)},
			{Bucket: V3Conda, Key: "zlib-1.3-0", Raw: rec("1.3", ``)},
			{Bucket: TarBz2, Key: "zlib-1.0-0.tar.bz2", Raw: rec("1.0", ``)},
		},
		Removed: []string{"zlib-0.9-0.conda", "zlib-0.8-0.conda"},
	}
}

func mustBuild(t testing.TB, s Shard) []byte {
	t.Helper()
	data, digest, err := BuildShard(s)
	if err != nil {
		t.Fatal(err)
	}
	if digest != sha256.Sum256(data) {
		t.Error("the digest is not that of the compressed bytes")
	}
	return data
}

// decoded is a shard's content as an independent msgpack reader sees it.
func decoded(t testing.TB, data []byte) map[string]any {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain, err := z.DecodeAll(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := msgpack.Unmarshal(plain, &out); err != nil {
		t.Fatal(err)
	}
	return oneWidth(out).(map[string]any)
}

// oneWidth makes all integers int64: the other reader gives each the type of its encoding.
func oneWidth(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = oneWidth(e)
		}
	case []any:
		for i, e := range v {
			v[i] = oneWidth(e)
		}
	}
	if r := reflect.ValueOf(v); r.CanInt() {
		return r.Int()
	} else if r.CanUint() {
		return int64(r.Uint())
	}
	return v
}

func TestBuildShard(t *testing.T) {
	t.Run("another reader finds what CEP 16 asks for", func(t *testing.T) {
		sum, md := bytes.Repeat([]byte{0xab}, 32), bytes.Repeat([]byte{0xcd}, 16)
		rec := func(version string) map[string]any {
			return map[string]any{"build": "0", "name": "zlib", "version": version, "md5": md, "sha256": sum}
		}
		old, conda := rec("1.1"), rec("1.2")
		old["run_exports"] = map[string]any{}
		conda["run_exports"] = map[string]any{"weak": []any{"zlib >=1.2"}}
		conda["x"] = map[string]any{"a": map[string]any{}, "b": []any{int64(1), int64(-1), 1.5, nil, true, "é"}}
		diff(t, map[string]any{
			"packages":       map[string]any{"zlib-1.0-0.tar.bz2": rec("1.0"), "zlib-1.1-0.tar.bz2": old},
			"packages.conda": map[string]any{"zlib-1.2-0.conda": conda},
			"removed":        []any{"zlib-0.8-0.conda", "zlib-0.9-0.conda"},
			"v3":             map[string]any{"conda": map[string]any{"zlib-1.3-0": rec("1.3")}},
		}, decoded(t, mustBuild(t, sampleShard())))
	})
	t.Run("packages is there even when empty", func(t *testing.T) {
		diff(t, map[string]any{"packages": map[string]any{}, "packages.conda": map[string]any{}, "removed": []any{}},
			decoded(t, mustBuild(t, Shard{})))
	})
	t.Run("the order of records and keys does not matter", func(t *testing.T) {
		a := sampleShard()
		b := sampleShard()
		slices.Reverse(b.Records)
		slices.Reverse(b.Removed)
		for i := range b.Records {
			raw := b.Records[i].Raw
			for _, k := range []string{"name", "md5"} {
				v := Key(raw, k)
				without, err := DeleteKey(raw, k)
				if err != nil {
					t.Fatal(err)
				}
				raw = slices.Concat(without[:len(without)-1], []byte(`, "`+k+`": `), v, []byte(" }"))
			}
			b.Records[i].Raw = raw
		}
		if !bytes.Equal(mustBuild(t, a), mustBuild(t, b)) {
			t.Error("bytes differ")
		}
		diff(t, Conda, a.Records[0].Bucket) // the caller's slice keeps its order
	})
	t.Run("a reused encoder gives the bytes of a new one", func(t *testing.T) {
		want := mustBuild(t, sampleShard())
		for i := range 50 {
			mustBuild(t, Shard{Removed: []string{strings.Repeat("x", i*1000)}})
			if !bytes.Equal(want, mustBuild(t, sampleShard())) {
				t.Fatal("bytes differ")
			}
		}
	})
	t.Run("the bytes of a shard are what they were", func(t *testing.T) {
		// The address of every published shard depends on them. A change here is a change for all clients' caches.
		got := sha256.Sum256(mustBuild(t, sampleShard()))
		const want = "c21f5f6c3d4300c435035e07eb216a5c68fa0b8a5635c3b33f54c46284cb7b8b"
		diff(t, want, hex.EncodeToString(got[:]))
	})
	t.Run("one frame, its content size and a small window in the header", func(t *testing.T) {
		big := Shard{Removed: make([]string, 300_000)}
		for i := range big.Removed {
			big.Removed[i] = strings.Repeat("r", 25) + string(rune('a'+i%26)) + strings.Repeat("s", i%17) + hex.EncodeToString([]byte{byte(i >> 16), byte(i >> 8), byte(i)})
		}
		for _, s := range []Shard{{}, sampleShard(), big} {
			data := mustBuild(t, s)
			var h zstd.Header
			if err := h.Decode(data); err != nil {
				t.Fatal(err)
			}
			if !h.HasFCS || h.WindowSize > 16<<20 {
				t.Errorf("header %+v", h)
			}
			plain, err := decompressAll(data, MaxShard)
			if err != nil || uint64(len(plain)) != h.FrameContentSize {
				t.Errorf("%d bytes, header says %d, %v", len(plain), h.FrameContentSize, err)
			}
		}
	})
}

func TestBuildShardRefuses(t *testing.T) {
	one := func(raw string) Shard {
		return Shard{Records: []ShardRecord{{Bucket: Conda, Key: "a-1-0.conda", Raw: []byte(raw)}}}
	}
	twice := one(sound)
	twice.Records = append(twice.Records, twice.Records[0])
	unknown := one(sound)
	unknown.Records[0].Bucket = "packages.zip"
	for name, s := range map[string]Shard{
		"a key twice":                   one(`{"a":1,"a":2}`),
		"a number beyond doubles":       one(`{"a":1e999}`),
		"deep nesting":                  one(`{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`),
		"no object":                     one(`[]`),
		"half a record":                 one(`{"a":`),
		"a file name twice":             twice,
		"a bucket nobody knows":         unknown,
		"an unknown key that is known":  {Extra: []Member{{"packages", []byte(`{}`)}}},
		"a broken value of unknown key": {Extra: []Member{{"x", []byte(`{`)}}},
	} {
		if _, _, err := BuildShard(s); err == nil {
			t.Errorf("%s: accepted", name)
		} else if e := (*Error)(nil); !errors.As(err, &e) || e.Path == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	huge := Shard{Removed: []string{strings.Repeat("x", MaxShard)}}
	var limit *LimitError
	if _, _, err := BuildShard(huge); !errors.As(err, &limit) {
		t.Errorf("larger than clients take: %v", err)
	}
}

func TestParseShard(t *testing.T) {
	t.Run("gives back what was built", func(t *testing.T) {
		s := sampleShard()
		s.Extra = []Member{{"signed", []byte(`{"a":[1.0,{"b":"\n"}]}`)}}
		got, err := ParseShard(mustBuild(t, s), ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		hash := `"md5":"` + strings.Repeat("cd", 16) + `","name":"zlib",`
		sum := `"sha256":"` + strings.Repeat("ab", 32) + `","version":`
		diff(t, &Shard{
			Records: []ShardRecord{
				{Bucket: TarBz2, Key: "zlib-1.0-0.tar.bz2", Raw: []byte(`{"build":"0",` + hash + sum + `"1.0"}`)},
				{Bucket: TarBz2, Key: "zlib-1.1-0.tar.bz2", Raw: []byte(`{"build":"0",` + hash + `"run_exports":{},` + sum + `"1.1"}`)},
				{Bucket: Conda, Key: "zlib-1.2-0.conda", Raw: []byte(`{"build":"0",` + hash + `"run_exports":{"weak":["zlib >=1.2"]},` + sum + `"1.2","x":{"a":{},"b":[1,-1,1.5,null,true,"é"]}}`)},
				{Bucket: V3Conda, Key: "zlib-1.3-0", Raw: []byte(`{"build":"0",` + hash + sum + `"1.3"}`)},
			},
			Removed: []string{"zlib-0.8-0.conda", "zlib-0.9-0.conda"},
			Extra:   s.Extra,
		}, got)
	})

	encode := func(v any) []byte {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return compressFrame(nil, b)
	}
	rec := map[string]any{
		"name": "a", "version": "1", "build": "0", "size": uint32(7), "f": float32(0.5), "n": int8(-100),
		"t": time.Unix(1700000000, 5).UTC(), "t4": time.Unix(1700000000, 0).UTC(), "t12": time.Unix(-5, 0).UTC(),
		"md5": strings.Repeat("cd", 16), "sha256": bytes.Repeat([]byte{0xab}, 32),
	}
	t.Run("reads other writers' widths and time stamps", func(t *testing.T) {
		got, err := ParseShard(encode(map[string]any{"packages": nil, "packages.conda": map[string]any{"a-1-0.conda": rec}}), ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		diff(t, Conda.Filename("a-1-0.conda"), got.Records[0].Bucket.Filename(got.Records[0].Key))
		for k, want := range map[string]string{
			"size": "7", "f": "0.5", "n": "-100", "t": `"2023-11-14T22:13:20.000000005Z"`,
			"t4": `"2023-11-14T22:13:20Z"`, "t12": `"1969-12-31T23:59:55Z"`,
			"md5": `"` + strings.Repeat("cd", 16) + `"`, "sha256": `"` + strings.Repeat("ab", 32) + `"`,
		} {
			diff(t, want, string(Key(got.Records[0].Raw, k)))
		}
	})
	t.Run("a bad record is a problem of its own", func(t *testing.T) {
		data := encode(map[string]any{"packages": map[string]any{}, "packages.conda": map[string]any{
			"a-1-0.conda": rec, "../b-1-0.conda": rec, "b-1-0.conda": map[string]any{"name": "b"}, "c-1-0.conda": "?",
		}})
		var paths []string
		got, err := ParseShard(data, ParseOptions{Problem: func(e *Error) error { paths = append(paths, e.Path); return nil }})
		if err != nil || len(got.Records) != 1 {
			t.Fatal(got, err)
		}
		slices.Sort(paths)
		diff(t, []string{"/packages.conda/..~1b-1-0.conda", "/packages.conda/b-1-0.conda", "/packages.conda/c-1-0.conda"}, paths)
		if _, err := ParseShard(data, ParseOptions{}); err == nil {
			t.Error("accepted without a listener")
		}
	})
	t.Run("removed names are checked one by one", func(t *testing.T) {
		n := 0
		got, err := ParseShard(encode(map[string]any{"removed": []any{"a-1-0.conda", "../x", "b c"}, "packages.conda": nil}),
			ParseOptions{Problem: func(*Error) error { n++; return nil }})
		if err != nil || n != 2 {
			t.Fatal(n, err)
		}
		diff(t, []string{"a-1-0.conda"}, got.Removed)
		if got, err := ParseShard(encode(map[string]any{"removed": nil}), ParseOptions{}); err != nil || got.Removed != nil {
			t.Error(got, err)
		}
	})
	t.Run("what is no shard is an error", func(t *testing.T) {
		for name, data := range map[string][]byte{
			"empty":                   {},
			"empty frame":             compressFrame(nil, nil),
			"not zstd":                []byte("<html>"),
			"a list":                  encode([]int{1}),
			"keys that are numbers":   encode(map[int]int{1: 2}),
			"data behind":             compressFrame(nil, append(appendMapHeader(nil, 0), 0)),
			"claims 4 G entries":      compressFrame(nil, []byte{0xdf, 0xff, 0xff, 0xff, 0xff}),
			"claims 4 GB of text":     compressFrame(nil, []byte{0x81, 0xdb, 0xff, 0xff, 0xff, 0xff}),
			"claims 4 G list":         compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xdd, 0xff, 0xff, 0xff, 0xff)),
			"a key twice":             compressFrame(nil, append(appendText(append(appendText([]byte{0x82}, "x"), 0xc0), "x"), 0xc0)),
			"a type that is none":     compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xc1)),
			"NaN":                     encode(map[string]any{"x": []any{nan()}}),
			"unknown extension":       compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xd4, 5, 0)),
			"text that is not UTF-8":  compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xa1, 0xff)),
			"removed is text":         encode(map[string]any{"removed": "x"}),
			"removed numbers":         encode(map[string]any{"removed": []int{1}}),
			"cut off time stamp":      compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xc7)),
			"cut off number":          compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xcf, 1)),
			"a time beyond calendars": compressFrame(nil, append(appendText([]byte{0x81}, "x"), 0xc7, 12, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0, 0, 0, 0)),
			"deep nesting":            compressFrame(nil, append(appendText([]byte{0x81}, "x"), bytes.Repeat([]byte{0x91}, 1<<20)...)),
		} {
			_, err := ParseShard(data, ParseOptions{})
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("a bomb is refused", func(t *testing.T) {
		var limit *LimitError
		if _, err := ParseShard(compressFrame(nil, make([]byte, 100<<20)), ParseOptions{}); !errors.As(err, &limit) {
			t.Errorf("got %v", err)
		}
		if _, err := ParseShard(mustBuild(t, sampleShard()), ParseOptions{Size: 100}); !errors.As(err, &limit) {
			t.Errorf("got %v", err)
		}
	})
}

func nan() float64 { var zero float64; return zero / zero }

func TestShardsOfAnotherIndexerAreRead(t *testing.T) {
	dir := filepath.Join(sharedData, "03-packages/conda-test-recipes/conda_format_repo/linux-64")
	data, err := os.ReadFile(filepath.Join(dir, "repodata_shards.msgpack.zst"))
	if err != nil {
		t.Skip("the shared data is not here")
	}
	ix, err := ParseIndex(data, ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "linux-64", ix.Subdir)
	var got contents
	for name, digest := range ix.Shards {
		file, err := os.ReadFile(filepath.Join(dir, ShardPath(digest)))
		if err != nil {
			t.Fatal(err)
		}
		if sha256.Sum256(file) != digest {
			t.Errorf("%s: the file is not what the index says", name)
		}
		s, err := ParseShard(file, ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range s.Records {
			got.Records = append(got.Records, record{r.Bucket, r.Key, string(r.Raw)})
		}
	}
	want, _ := collect(t, indexFile{path: filepath.Join(dir, "repodata.json")}.load(t), false)
	for i, r := range want.Records {
		compact, err := Compact([]byte(r.Raw))
		if err != nil {
			t.Fatal(err)
		}
		want.Records[i].Raw = string(compact)
	}
	sortRecords(got.Records)
	diff(t, want.Records, got.Records)
}
