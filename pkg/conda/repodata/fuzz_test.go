package repodata

import (
	"encoding/json"
	"testing"
)

func FuzzParsePatch(f *testing.F) {
	f.Add([]byte(`{"patch_instructions_version":1,"packages":{"a-1-0.tar.bz2":{"depends":["b"],"x":null,"m":{"k":1}}},"revoke":["a-1-0.tar.bz2"],"remove":["c-1-0.conda"]}`), []byte(`{"name":"a","depends":[],"m":{"z":2}}`))
	f.Add([]byte(`{"patch_instructions_version":2,"packages.conda":{"a-1-0.conda":{"run_exports":{"weak":["x"]}}}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, raw, record []byte) {
		p, err := ParsePatch(raw)
		if err != nil {
			return
		}
		if !json.Valid(record) {
			return
		}
		for _, b := range []Bucket{TarBz2, Conda, V3Conda, V3TarBz2} {
			for _, key := range []string{"a-1-0.tar.bz2", "a-1-0.conda", "a-1-0"} {
				p.Removed(b, key)
				if out, err := p.Record(b, key, record); err == nil && !json.Valid(out) {
					t.Fatalf("%s makes %q of %q", raw, out, record)
				}
				if out, err := p.RunExports(b, key, record); err == nil && len(out) > 0 && !json.Valid(out) {
					t.Fatalf("%s makes run_exports %q of %q", raw, out, record)
				}
			}
		}
	})
}

func FuzzParseShardIndex(f *testing.F) {
	data, err := BuildIndex(ShardIndex{Subdir: "noarch", ShardsBaseURL: "./shards/", Shards: map[string][32]byte{"a": {1}, "b-c": {2}}})
	if err != nil {
		f.Fatal(err)
	}
	plain, err := decompressAll(data, MaxShard)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(func(t *testing.T, plain []byte) {
		ix := &ShardIndex{Shards: map[string][32]byte{}}
		p := &shardParser{u: unpacker{data: plain}, opts: ParseOptions{Problem: func(*Error) error { return nil }}}
		if p.index(ix) != nil {
			return
		}
		data, err := BuildIndex(*ix)
		if err != nil {
			return // it names what we would not write
		}
		again, err := ParseIndex(data, ParseOptions{})
		if err != nil || len(again.Shards) != len(ix.Shards) {
			t.Fatalf("%+v is written as %+v: %v", ix, again, err)
		}
	})
}

func FuzzNormalizeRunExports(f *testing.F) {
	for _, s := range []string{`["a >=1"]`, `{"weak":["a"],"strong":["b"]}`, `{"weak":"a"}`, `{}`, `null`, `{"noarch":[1]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		once, err := NormalizeRunExports(raw)
		if err != nil {
			return
		}
		if !json.Valid(once) {
			t.Fatalf("%q becomes %q", raw, once)
		}
		if twice, err := NormalizeRunExports(once); err != nil || string(twice) != string(once) {
			t.Fatalf("%q becomes %q, and that %q (%v)", raw, once, twice, err)
		}
	})
}
