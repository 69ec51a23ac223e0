package stack_test

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// begun starts a request and returns when upstream was asked; the reader leaves with cancel.
func (p *proxy) begun(path string, h http.HandlerFunc) (cancel func(), ended <-chan struct{}) {
	p.t.Helper()
	began, over := make(chan struct{}), make(chan struct{})
	p.up.Script("/"+path, func(w http.ResponseWriter, r *http.Request) {
		close(began)
		defer close(over)
		h(w, r)
	})
	ctx, stop := context.WithCancel(context.Background())
	left := make(chan struct{})
	go func() {
		defer close(left)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.stack.URL+p.path(path), nil)
		if err != nil {
			p.t.Error(err)
			return
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	select {
	case <-began:
	case <-left:
		p.t.Fatalf("upstream was not asked for %s", path)
	}
	return func() { stop(); <-left }, over
}

func TestOneUpstreamLeavesRoomForOthers(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		brisk(c)
		c.Proxy.Flights, c.Proxy.Linger = 4, 200*time.Millisecond // one for each channel
		c.Sync.HeaderTimeout, c.Sync.StallTimeout = time.Minute, time.Minute
	}))
	slow, other := newProxy(t, s, "slow", nil), newProxy(t, s, "other", nil)
	first := slow.ch.Add("noarch", "first", "1.0", noise(1, 1000))
	second := slow.ch.Add("noarch", "second", "1.0", noise(2, 1000))
	slow.ch.Put("a.txt", []byte("a document"))
	path := other.ch.Add("noarch", "a", "1.0", noise(3, 1000))
	slow.get(200, "noarch/repodata.json")
	leave, ended := slow.begun(first, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	slow.get(503, second)
	slow.get(503, "a.txt")
	other.gets(path, noise(3, 1000))

	leave()
	select {
	case <-ended: // nobody waits for it
	case <-time.After(20 * time.Second):
		t.Fatal("the flight goes on without readers")
	}
	slow.up.Script("/"+first, fetchtest.File(noise(1, 1000)))
	moment()
	slow.gets(first, noise(1, 1000))
	slow.gets(second, noise(2, 1000))
}

func TestANarrowedShardThatStorageLostIsMadeAgain(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		alwaysStale(c)
		c.HotCache = 0
	}))
	p := newProxy(t, s, "narrowed-lost", map[string]any{"metadata": map[string]any{"includelist": []string{"a-1"}}})
	p.ch.Add("noarch", "a", "1.0", []byte("a1"))
	p.ch.Add("noarch", "a", "2.0", []byte("a2"))
	p.shards("noarch")
	digest := p.shardIndex("noarch").Shards["a"]
	path := "noarch/shards/" + repodata.ShardPath(digest)
	want := p.get(200, path).Body
	var found []string
	err := filepath.WalkDir(filepath.Join(s.DataDir, "blobs"), func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Base(name) == hex.EncodeToString(digest[:]) {
			found = append(found, name)
		}
		return err
	})
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
	moment()
	p.gets(path, want)
	p.gets(path, want)
}
