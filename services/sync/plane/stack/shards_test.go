package stack_test

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// shards makes the upstream serve shards of what its index lists, in a directory of its own.
func (p *proxy) shards(subdir string) {
	p.t.Helper()
	var doc struct {
		Conda map[string]json.RawMessage `json:"packages.conda"`
	}
	if err := json.Unmarshal(p.ch.Index(subdir), &doc); err != nil {
		p.t.Fatal(err)
	}
	byName := map[string][]repodata.ShardRecord{}
	for filename, raw := range doc.Conda {
		d, err := dist.ParseFilename(filename)
		if err != nil {
			p.t.Fatal(err)
		}
		byName[d.Name] = append(byName[d.Name], repodata.ShardRecord{Bucket: repodata.Conda, Key: filename, Raw: raw})
	}
	ix := repodata.ShardIndex{Subdir: subdir, BaseURL: "", ShardsBaseURL: "../store/", Shards: map[string][32]byte{}}
	for name, records := range byName {
		data, digest, err := repodata.BuildShard(repodata.Shard{Records: records})
		if err != nil {
			p.t.Fatal(err)
		}
		ix.Shards[name] = digest
		p.ch.Put("store/"+repodata.ShardPath(digest), data)
	}
	data, err := repodata.BuildIndex(ix)
	if err != nil {
		p.t.Fatal(err)
	}
	p.ch.Put(subdir+"/repodata_shards.msgpack.zst", data)
}

// shardIndex returns the index of shards that the proxy serves.
func (p *proxy) shardIndex(subdir string) *repodata.ShardIndex {
	p.t.Helper()
	ix, err := repodata.ParseIndex(p.get(200, subdir+"/repodata_shards.msgpack.zst").Body, repodata.ParseOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return ix
}

// readShards reads all shards through the proxy, as a client does, and returns the file names.
func (p *proxy) readShards(subdir string) (names []string) {
	p.t.Helper()
	ix := p.shardIndex(subdir)
	if ix.BaseURL != "" || ix.ShardsBaseURL != "shards/" {
		p.t.Errorf("base_url %q and shards_base_url %q lead elsewhere", ix.BaseURL, ix.ShardsBaseURL)
	}
	for name, digest := range ix.Shards {
		r := p.get(200, subdir+"/"+ix.ShardsBaseURL+repodata.ShardPath(digest))
		if sha256.Sum256(r.Body) != digest {
			p.t.Errorf("the shard of %s is not what the index says", name)
		}
		if cc := r.Header.Get("Cache-Control"); !strings.Contains(cc, "immutable") && p.asked("store/"+repodata.ShardPath(digest)) > 0 {
			p.t.Errorf("Cache-Control %q", cc)
		}
		s, err := repodata.ParseShard(r.Body, repodata.ParseOptions{})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, rec := range s.Records {
			names = append(names, rec.Key)
		}
	}
	slices.Sort(names)
	return names
}

func TestShards(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(alwaysStale))

	t.Run("clients stay with us", func(t *testing.T) {
		p := newProxy(t, s, "sharded", nil)
		data := noise(1, 200_000)
		file := p.ch.Add("noarch", "a", "1.0", data)
		p.ch.Add("noarch", "b", "1.0", []byte("b"))
		p.shards("noarch")
		if diff := cmp.Diff([]string{"a-1.0-0.conda", "b-1.0-0.conda"}, p.readShards("noarch")); diff != "" {
			t.Error(diff)
		}
		p.gets(file, data)
		for _, r := range p.up.Requests() {
			if strings.Contains(r.Path, "repodata.json") {
				t.Errorf("the full index was asked for: %s", r.Path)
			}
		}
		p.get(404, "noarch/shards/"+strings.Repeat("0", 64)+".msgpack.zst")
		p.get(404, "noarch/c-1.0-0.conda")
	})

	t.Run("a lock's file needs one shard only", func(t *testing.T) {
		p := newProxy(t, s, "locked", nil)
		file := p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.ch.Add("noarch", "b", "1.0", []byte("b"))
		p.shards("noarch")
		p.gets(file, []byte("a"))
		if n := len(p.up.Requests()); n != 3 { // index, shard, file
			t.Errorf("%d requests: %v", n, p.up.Requests())
		}
	})

	t.Run("shards of the index before are still there", func(t *testing.T) {
		p := newProxy(t, s, "former", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.shards("noarch")
		before := p.shardIndex("noarch").Shards["a"]
		file := p.ch.Add("noarch", "a", "2.0", []byte("aa"))
		p.shards("noarch")
		moment()
		after := p.shardIndex("noarch").Shards["a"]
		if before == after {
			t.Fatal("the index has not changed")
		}
		p.get(200, "noarch/shards/"+repodata.ShardPath(before))
		p.get(200, "noarch/shards/"+repodata.ShardPath(after))
		p.gets(file, []byte("aa"))
	})

	t.Run("a stored file whose shard changed is looked up again", func(t *testing.T) {
		p := newProxy(t, s, "shard-renewed", nil)
		before, after := noise(1, 3000), noise(2, 3000)
		file := p.ch.Add("noarch", "a", "1.0", before)
		p.shards("noarch")
		p.shardIndex("noarch")
		p.gets(file, before)
		p.ch.Add("noarch", "a", "1.0", after)
		p.shards("noarch")
		moment()
		p.shardIndex("noarch")
		moment()
		p.gets(file, after)
		p.wantAsked(file, 2)
	})

	t.Run("a wrong shard is not passed on", func(t *testing.T) {
		p := newProxy(t, s, "shard-wrong", nil)
		p.ch.Add("noarch", "a", "1.0", noise(77, 100))
		p.shards("noarch")
		digest := p.shardIndex("noarch").Shards["a"]
		p.ch.Put("store/"+repodata.ShardPath(digest), []byte("something else"))
		p.get(502, "noarch/shards/"+repodata.ShardPath(digest))
	})

	t.Run("an upstream without shards says so", func(t *testing.T) {
		p := newProxy(t, s, "unsharded", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		for range 3 {
			p.get(404, "noarch/repodata_shards.msgpack.zst")
		}
		p.wantAsked("noarch/repodata_shards.msgpack.zst", 1)
	})
}
