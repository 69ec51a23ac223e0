package repodata

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/vmihailenco/msgpack/v5"
)

func TestShardIndex(t *testing.T) {
	ix := ShardIndex{
		Subdir: "linux-64", BaseURL: "", ShardsBaseURL: "./shards/", CreatedAt: time.Date(2026, 11, 21, 1, 2, 3, 0, time.UTC),
		RepodataRevisions: []byte(`{"v3":{"n_packages":1}}`), Extra: []Member{{"vendor", []byte(`"x"`)}},
		Shards: map[string][32]byte{"zlib": {1}, "_libgcc_mutex": {2}},
	}
	data, err := BuildIndex(ix)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("another reader finds what CEP 16 asks for", func(t *testing.T) {
		one, two := [32]byte{1}, [32]byte{2}
		diff(t, map[string]any{
			"version": int64(1),
			"info": map[string]any{
				"subdir": "linux-64", "base_url": "", "shards_base_url": "./shards/", "created_at": "2026-11-21T01:02:03Z",
				"repodata_revisions": map[string]any{"v3": map[string]any{"n_packages": int64(1)}}, "vendor": "x",
			},
			"shards": map[string]any{"zlib": one[:], "_libgcc_mutex": two[:]},
		}, decoded(t, data))
	})
	t.Run("gives back what was built, in equal bytes", func(t *testing.T) {
		got, err := ParseIndex(data, ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		diff(t, &ix, got)
		again, err := BuildIndex(*got)
		if err != nil || !bytes.Equal(again, data) {
			t.Error("bytes differ", err)
		}
	})
	t.Run("an empty index has all its parts", func(t *testing.T) {
		data, err := BuildIndex(ShardIndex{Subdir: "noarch"})
		if err != nil {
			t.Fatal(err)
		}
		diff(t, map[string]any{
			"version": int64(1), "shards": map[string]any{},
			"info": map[string]any{"subdir": "noarch", "base_url": "", "shards_base_url": ""},
		}, decoded(t, data))
		var h zstd.Header
		if err := h.Decode(data); err != nil || !h.HasFCS {
			t.Errorf("%+v %v", h, err)
		}
	})
	t.Run("a large index has its size in the header and a window clients allow", func(t *testing.T) {
		big := ShardIndex{Shards: map[string][32]byte{}}
		for i := range 200_000 {
			d := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
			big.Shards["name-of-a-package-"+hex.EncodeToString(d[:8])] = d
		}
		data, err := BuildIndex(big)
		if err != nil {
			t.Fatal(err)
		}
		var h zstd.Header
		if err := h.Decode(data); err != nil || !h.HasFCS || h.FrameContentSize < singleSegmentMax || h.WindowSize > 16<<20 {
			t.Errorf("%+v %v", h, err)
		}
		got, err := ParseIndex(data, ParseOptions{})
		if err != nil || len(got.Shards) != len(big.Shards) {
			t.Error(err)
		}
	})

	encode := func(v any) []byte {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return compressFrame(nil, b)
	}
	t.Run("older spellings are read", func(t *testing.T) {
		d := sha256.Sum256(nil)
		for _, in := range []map[string]any{
			{"repodata_version": 1, "info": map[string]any{"subdir": "noarch"}, "shards": map[string]any{"a": hex.EncodeToString(d[:])}},
			{"info": map[string]any{"subdir": "noarch", "version": 1}, "shards": map[string]any{"a": d[:]}, "future": []int{1}},
		} {
			got, err := ParseIndex(encode(in), ParseOptions{})
			if err != nil {
				t.Fatal(err)
			}
			diff(t, &ShardIndex{Subdir: "noarch", Shards: map[string][32]byte{"a": d}}, got)
		}
	})
	t.Run("a bad entry is a problem of its own", func(t *testing.T) {
		d := make([]byte, 32)
		data := encode(map[string]any{"info": map[string]any{}, "shards": map[string]any{"a": d, "b": d[:31], "c": strings.Repeat("z", 64), "../d": d, "e": nil}})
		n := 0
		got, err := ParseIndex(data, ParseOptions{Problem: func(*Error) error { n++; return nil }})
		if err != nil || len(got.Shards) != 1 || n != 4 {
			t.Errorf("%v %v, %d problems", got, err, n)
		}
		if _, err := ParseIndex(data, ParseOptions{}); err == nil {
			t.Error("accepted without a listener")
		}
	})
	t.Run("what is no index is an error", func(t *testing.T) {
		for name, in := range map[string][]byte{
			"empty": {}, "no info": encode(map[string]any{"shards": map[string]any{}}),
			"unknown version":     encode(map[string]any{"version": 2, "info": map[string]any{}}),
			"digest is a list":    encode(map[string]any{"info": map[string]any{}, "shards": map[string]any{"a": []int{1}}}),
			"info is a list":      encode(map[string]any{"info": []int{1}}),
			"data behind the map": compressFrame(nil, []byte{0x80, 0x80}),
		} {
			var e *Error
			if _, err := ParseIndex(in, ParseOptions{}); !errors.As(err, &e) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("what would not be an index is not built", func(t *testing.T) {
		for _, bad := range []ShardIndex{
			{Shards: map[string][32]byte{"../a": {}}},
			{Extra: []Member{{"subdir", []byte(`""`)}}},
			{Extra: []Member{{"shards_base_url", []byte(`""`)}}},
			{ChannelRelations: []byte(`{`)},
		} {
			if _, err := BuildIndex(bad); err == nil {
				t.Errorf("built %+v", bad)
			}
		}
	})
}

func TestNamesInOrderSpareTheSorting(t *testing.T) {
	ix := ShardIndex{Subdir: "noarch", Shards: map[string][32]byte{"b": {2}, "a": {1}, "c": {3}}}
	want, err := BuildIndex(ix)
	if err != nil {
		t.Fatal(err)
	}
	ix.Names = []string{"a", "b", "c"}
	got, err := BuildIndex(ix)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("other bytes with the names in order (%v)", err)
	}
	for _, names := range [][]string{{}, {"a", "b"}, {"a", "c", "b"}, {"a", "a", "c"}, {"a", "b", "d"}, {"a", "b", "c", "d"}} {
		ix.Names = names
		if _, err := BuildIndex(ix); err == nil {
			t.Errorf("%v was taken", names)
		}
	}
}
