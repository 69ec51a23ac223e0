package stack_test

import (
	"bytes"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// forms of the full index.
var forms = []string{"repodata.json", "repodata.json.zst", "repodata.json.bz2", "repodata.json.gz"}

// index returns the file names that each form lists; they must be the same.
func (p *proxy) index(subdir string) []string {
	p.t.Helper()
	var first []string
	for i, form := range forms {
		names := listed(p.t, bytes.NewReader(p.get(200, subdir+"/"+form).Body), form)
		if i > 0 && !slices.Equal(names, first) {
			p.t.Fatalf("%s lists %v, and %s %v", form, names, forms[0], first)
		}
		first = names
	}
	return first
}

func TestIndexesWhileFresh(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(brisk))

	t.Run("all forms come from one read", func(t *testing.T) {
		p := newProxy(t, s, "forms", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.ch.Add("noarch", "b", "1.0", []byte("b"))
		if diff := cmp.Diff([]string{"a-1.0-0.conda", "b-1.0-0.conda"}, p.index("noarch")); diff != "" {
			t.Error(diff)
		}
		p.get(200, "noarch/current_repodata.json")
		got := 0
		for _, r := range p.up.Requests() {
			if strings.Contains(r.Path, "repodata.json") {
				got++
			}
		}
		if got != 1 {
			t.Errorf("%d requests for forms of the index", got)
		}
		r := p.get(200, "noarch/repodata.json.zst")
		if !bytes.Equal(r.Body, synctest.Zstd(p.ch.Index("noarch"))) {
			t.Error("the index is not what upstream sent")
		}
		if cc := r.Header.Get("Cache-Control"); cc != "public, max-age=60" {
			t.Errorf("Cache-Control %q", cc)
		}
		p.send(304, "GET", "noarch/repodata.json.zst", "If-None-Match", r.Header.Get("ETag"))
		p.send(200, "HEAD", "noarch/repodata.json.zst")
		p.send(206, "GET", "noarch/repodata.json", "Range", "bytes=0-9")
		if enc := p.get(200, "noarch/repodata.json", "Accept-Encoding", "zstd").Header.Get("Content-Encoding"); enc != "zstd" {
			t.Errorf("Content-Encoding %q", enc)
		}
	})

	t.Run("many first readers are one request", func(t *testing.T) {
		p := newProxy(t, s, "index-crowd", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.up.Script("/noarch/repodata.json.zst", fetchtest.Slow(100*time.Millisecond, p.ch.ServeHTTP))
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() { p.get(200, "noarch/"+forms[i%len(forms)]) })
		}
		wg.Wait()
		p.wantAsked("noarch/repodata.json.zst", 1)
		p.wantAsked("noarch/repodata.json", 0)
	})

	t.Run("any form of upstream's will do", func(t *testing.T) {
		for _, only := range []string{"repodata.json", "repodata.json.bz2"} {
			p := newProxy(t, s, "only"+strings.ReplaceAll(strings.TrimPrefix(only, "repodata"), ".", "-"), nil)
			src := synctest.NewChannel()
			data := noise(1, 100)
			file := src.Add("noarch", "a", "1.0", data)
			doc := src.Index("noarch")
			if path.Ext(only) == ".bz2" {
				var b bytes.Buffer
				w, err := repodata.NewEncoder(&b, repodata.Bzip2)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = w.Write(doc)
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				doc = b.Bytes()
			}
			p.ch.Put("noarch/"+only, doc)
			p.ch.Put(file, data)
			if diff := cmp.Diff([]string{"a-1.0-0.conda"}, p.index("noarch")); diff != "" {
				t.Errorf("%s: %s", only, diff)
			}
			p.gets(file, data)
		}
	})

	t.Run("several frames become one", func(t *testing.T) {
		p := newProxy(t, s, "frames", nil)
		src := synctest.NewChannel()
		src.Add("noarch", "a", "1.0", []byte("a"))
		doc := src.Index("noarch")
		p.ch.Put("noarch/repodata.json.zst", append(synctest.Zstd(doc[:20]), synctest.Zstd(doc[20:])...))
		got := p.get(200, "noarch/repodata.json.zst").Body
		var h zstd.Header
		if err := h.Decode(got); err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		defer dec.Close()
		var out bytes.Buffer
		if _, err := dec.WriteTo(&out); err != nil || !bytes.Equal(out.Bytes(), doc) {
			t.Errorf("unpacked: %d bytes, %v", out.Len(), err)
		}
		if bytes.Count(got, []byte{0x28, 0xb5, 0x2f, 0xfd}) != 1 {
			t.Error("more than one frame")
		}
	})

	t.Run("base_url leads to us", func(t *testing.T) {
		p := newProxy(t, s, "based", nil)
		data := noise(2, 1000)
		file := p.ch.Add("noarch", "a", "1.0", data)
		p.ch.Info("noarch", "base_url", "../elsewhere/")
		p.ch.Put("elsewhere/a-1.0-0.conda", data)
		if doc := p.get(200, "noarch/repodata.json").Body; bytes.Contains(doc, []byte("base_url")) {
			t.Errorf("%s", doc)
		}
		p.gets(file, data)
		p.wantAsked(file, 0)
		p.wantAsked("elsewhere/a-1.0-0.conda", 1)
	})

	t.Run("lists narrow the index", func(t *testing.T) {
		for name, c := range map[string]struct {
			lists map[string]any
			want  []string
		}{
			"include": {map[string]any{"includelist": []string{"num"}}, []string{"numpy-1.0-0.conda", "numpy-2.0-0.conda"}},
			"exclude": {map[string]any{"excludelist": []string{"numpy-1", "b-"}}, []string{"a-1.0-0.conda", "numpy-2.0-0.conda"}},
		} {
			for _, sharded := range []bool{false, true} {
				suffix := map[bool]string{false: "-full", true: "-shards"}[sharded]
				p := newProxy(t, s, name+suffix, map[string]any{"metadata": c.lists})
				var all []string
				for _, f := range [][2]string{{"a", "1.0"}, {"b", "1.0"}, {"numpy", "1.0"}, {"numpy", "2.0"}} {
					all = append(all, path.Base(p.ch.Add("noarch", f[0], f[1], []byte(f[0]+f[1]))))
				}
				var got []string
				if sharded {
					p.shards("noarch")
					got = p.readShards("noarch")
				} else {
					got = p.index("noarch")
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s: %s", name+suffix, diff)
				}
				for _, f := range all {
					if slices.Contains(c.want, f) {
						p.get(200, "noarch/"+f)
					} else {
						p.get(404, "noarch/"+f)
						p.wantAsked("noarch/"+f, 0)
					}
				}
			}
		}
	})

	t.Run("what proxylist names is upstream's to send", func(t *testing.T) {
		p := newProxy(t, s, "listed", map[string]any{"metadata": map[string]any{"proxylist": []string{"mkl"}}})
		file := p.ch.Add("noarch", "mkl", "1.0", []byte("mkl"))
		other := p.ch.Add("noarch", "mkl-devel", "1.0", []byte("other"))
		if diff := cmp.Diff([]string{"mkl-1.0-0.conda", "mkl-devel-1.0-0.conda"}, p.index("noarch")); diff != "" {
			t.Error(diff)
		}
		if loc := p.get(307, file).Header.Get("Location"); loc != p.up.URL+"/"+file {
			t.Errorf("Location %q", loc)
		}
		p.wantAsked(file, 0)
		p.get(200, other)
	})

	t.Run("changed settings drop the cache", func(t *testing.T) {
		p := newProxy(t, s, "settings", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		b := p.ch.Add("noarch", "b", "1.0", []byte("b"))
		p.index("noarch")
		p.get(200, b)
		p.admin().Must(200, "PATCH", "/api/channels/settings", map[string]any{"metadata": map[string]any{"excludelist": []string{"b"}}})
		p.get(404, b)
		if diff := cmp.Diff([]string{"a-1.0-0.conda"}, p.index("noarch")); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a deleted channel leaves nothing behind", func(t *testing.T) {
		p := newProxy(t, s, "deleted", nil)
		a := p.ch.Add("noarch", "a", "1.0", []byte("deleted channel"))
		p.index("noarch")
		p.get(200, a)
		p.admin().Must(200, "DELETE", "/api/channels/deleted", nil)
		p.get(404, a)
		p.up.Reset()
		q := newProxy(t, s, "deleted", nil)
		q.get(404, "noarch/repodata.json")
		if n := len(p.up.Requests()); n != 0 {
			t.Errorf("the former upstream was asked %d times", n)
		}
	})

	t.Run("a private channel's upstream is not asked for strangers", func(t *testing.T) {
		p := newProxy(t, s, "hidden", map[string]any{"private": true})
		a := p.ch.Add("noarch", "a", "1.0", []byte("a"))
		for _, path := range []string{a, "noarch/repodata.json", "noarch/repodata_shards.msgpack.zst", "x.txt"} {
			p.get(401, path)
			if r := s.User("bob").Do("GET", p.path(path), nil); r.Status != 403 {
				t.Errorf("bob's %s: %d", path, r.Status)
			}
		}
		if n := len(p.up.Requests()); n != 0 {
			t.Errorf("upstream was asked %d times", n)
		}
		p.admin().Must(200, "GET", p.path(a), nil)
		p.get(401, a)
		if cc := p.admin().Must(200, "GET", p.path("noarch/repodata.json"), nil).Header.Get("Cache-Control"); !strings.HasPrefix(cc, "private") {
			t.Errorf("Cache-Control %q", cc)
		}
	})
}

func TestIndexesThatAreStale(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(alwaysStale))

	t.Run("an index that has not changed is asked for with its ETag", func(t *testing.T) {
		p := newProxy(t, s, "revalidated", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		before := p.get(200, "noarch/repodata.json.zst")
		etag := fetchtest.ETag(synctest.Zstd(p.ch.Index("noarch")))
		p.up.Reset()
		moment()
		after := p.get(200, "noarch/repodata.json.zst")
		if !bytes.Equal(before.Body, after.Body) || after.Header.Get("Warning") != "" {
			t.Errorf("header %v", after.Header)
		}
		reqs := p.up.Requests()
		if len(reqs) != 1 || reqs[0].Header.Get("If-None-Match") != etag {
			t.Errorf("%d requests, %v", len(reqs), reqs)
		}
	})

	t.Run("a change shows in all forms at once", func(t *testing.T) {
		p := newProxy(t, s, "changed", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.index("noarch")
		p.ch.Add("noarch", "b", "1.0", []byte("b"))
		moment()
		if diff := cmp.Diff([]string{"a-1.0-0.conda", "b-1.0-0.conda"}, p.index("noarch")); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a stored file that was replaced upstream is fetched anew", func(t *testing.T) {
		p := newProxy(t, s, "renewed", nil)
		before, after := noise(1, 5000), noise(2, 5000)
		file := p.ch.Add("noarch", "a", "1.0", before)
		kept := p.ch.Add("noarch", "b", "1.0", before[:100])
		p.get(200, "noarch/repodata.json")
		p.gets(file, before)
		p.gets(kept, before[:100])
		p.ch.Add("noarch", "a", "1.0", after)
		moment()
		p.get(200, "noarch/repodata.json")
		moment()
		p.up.Reset()
		p.gets(file, after)
		p.gets(kept, before[:100])
		p.wantAsked(kept, 0)
	})

	t.Run("the copy is served while upstream fails, and the new one afterwards", func(t *testing.T) {
		p := newProxy(t, s, "failing", nil)
		file := p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.get(200, "noarch/repodata.json")
		p.gets(file, []byte("a"))
		p.ch.Add("noarch", "b", "1.0", []byte("b"))
		for _, status := range []int{500, 404} {
			p.up.Fallback(fetchtest.Status(status))
			moment()
			r := p.get(200, "noarch/repodata.json")
			if !strings.HasPrefix(r.Header.Get("Warning"), "111 ") || r.Header.Get("Age") == "" {
				t.Errorf("header %v", r.Header)
			}
			if diff := cmp.Diff([]string{"a-1.0-0.conda"}, listed(t, bytes.NewReader(r.Body), "repodata.json")); diff != "" {
				t.Error(diff)
			}
			p.gets(file, []byte("a"))
		}
		p.up.Fallback(p.ch)
		moment()
		if r := p.get(200, "noarch/repodata.json"); r.Header.Get("Warning") != "" {
			t.Errorf("header %v", r.Header)
		}
		if diff := cmp.Diff([]string{"a-1.0-0.conda", "b-1.0-0.conda"}, p.index("noarch")); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("an index that is broken is not taken", func(t *testing.T) {
		p := newProxy(t, s, "garbled", nil)
		p.ch.Add("noarch", "a", "1.0", []byte("a"))
		p.get(200, "noarch/repodata.json")
		for _, name := range forms[:3] {
			p.ch.Put("noarch/"+name, []byte(`{"packages":{"a-1.0-0.tar.bz2":`))
		}
		moment()
		if r := p.get(200, "noarch/repodata.json"); r.Header.Get("Warning") == "" {
			t.Errorf("header %v", r.Header)
		}
	})

	t.Run("a document changes when its ETag does", func(t *testing.T) {
		p := newProxy(t, s, "notices", nil)
		p.ch.Put("notices.json", []byte(`{"notices":[]}`))
		p.gets("notices.json", []byte(`{"notices":[]}`))
		moment()
		p.gets("notices.json", []byte(`{"notices":[]}`))
		p.ch.Put("notices.json", []byte(`{"notices":[1]}`))
		moment()
		p.gets("notices.json", []byte(`{"notices":[1]}`))
	})
}

func TestASlowUpstreamDoesNotMakeReadersWait(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		alwaysStale(c)
		c.Proxy.RevalidateWait = 50 * time.Millisecond
		c.Sync.HeaderTimeout = 30 * time.Second
	}))
	p := newProxy(t, s, "slow", nil)
	p.ch.Add("noarch", "a", "1.0", []byte("a"))
	p.get(200, "noarch/repodata.json")
	open := make(chan struct{})
	p.up.Script("/noarch/repodata.json.zst", fetchtest.Gate(open, http.HandlerFunc(p.ch.ServeHTTP)))
	p.ch.Add("noarch", "b", "1.0", []byte("b"))
	moment()
	r := p.get(200, "noarch/repodata.json")
	if !strings.HasPrefix(r.Header.Get("Warning"), "110 ") {
		t.Errorf("header %v", r.Header)
	}
	close(open)
	moment()
	deadline := time.Now().Add(20 * time.Second)
	for len(p.index("noarch")) != 2 {
		if time.Now().After(deadline) {
			t.Fatal("the new index never came")
		}
		moment()
	}
}
