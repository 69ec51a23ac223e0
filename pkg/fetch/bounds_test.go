package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func TestSlowUpstreams(t *testing.T) {
	up := fetchtest.New(t)
	c := newClient(t, func(c *fetch.Config) {
		c.Timeouts = fetch.Timeouts{Header: 80 * time.Millisecond, Window: 80 * time.Millisecond, MinRate: 1000}
		c.Retry.Attempts = 1
	})
	for name, serve := range map[string]http.HandlerFunc{
		"no header":              fetchtest.Hang(),
		"header drip":            fetchtest.HeaderDrip(5 * time.Millisecond),
		"body drip":              fetchtest.Drip(noise(1, 100_000), 1, 10*time.Millisecond),
		"a body that just stops": fetchtest.Drip(noise(1, 100_000), 50_000, time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			up.Script("/f", serve)
			_, _, err := get(t, newRemote(t, c, up.URL), fetch.Request{Path: "f"})
			wantReason(t, err, fault.Upstream, fetch.ReasonTimeout)
		})
	}
	t.Run("a slow but steady one is fine", func(t *testing.T) {
		data := noise(1, 5000)
		up.Script("/f", fetchtest.Drip(data, 500, 15*time.Millisecond))
		if b, _, err := get(t, newRemote(t, c, up.URL), fetch.Request{Path: "f"}); err != nil || !bytes.Equal(b, data) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
	t.Run("a slow reader of ours is not the upstream's fault", func(t *testing.T) {
		data := noise(1, 5000)
		up.Script("/f", fetchtest.File(data))
		resp, err := newRemote(t, c, up.URL).Get(t.Context(), fetch.Request{Path: "f", MaxSize: 5000})
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		one := make([]byte, 100)
		if _, err := io.ReadFull(resp.Body, one); err != nil {
			t.Fatal(err)
		}
		<-time.After(200 * time.Millisecond) // longer than the window
		if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 4900 {
			t.Errorf("%d bytes, %v", len(rest), err)
		}
	})
	t.Run("other hosts are unharmed", func(t *testing.T) {
		good := fetchtest.New(t)
		good.Fallback(fetchtest.Body([]byte("ok")))
		c := newClient(t, func(c *fetch.Config) { c.PerHost = 2 })
		bad, fine := newRemote(t, c, up.URL), newRemote(t, c, good.URL)
		up.Script("/f", fetchtest.Hang())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		for range 4 { // two hold the slots, two queue
			go func() {
				_, err := bad.Get(ctx, fetch.Request{Path: "f", MaxSize: 1})
				done <- err
			}()
		}
		for range 100 {
			if _, _, err := get(t, fine, fetch.Request{Path: "x"}); err != nil {
				t.Error(err)
			}
		}
		cancel()
		for range 4 {
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

func TestBodiesAreCapped(t *testing.T) {
	up := fetchtest.New(t)
	r := newRemote(t, newClient(t), up.URL)
	data := noise(1, 1000)
	for name, tc := range map[string]struct {
		serve http.HandlerFunc
		limit int64
		ok    bool
	}{
		"exactly the cap":        {fetchtest.Body(data), 1000, true},
		"announced over the cap": {fetchtest.Body(data), 999, false},
		"endless chunks":         {fetchtest.Endless(data), 1 << 20, false},
		"close-delimited":        {fetchtest.Truncate(data, 1000, fetchtest.NoLength), 999, false},
	} {
		t.Run(name, func(t *testing.T) {
			up.Script("/f", tc.serve)
			b, _, err := get(t, r, fetch.Request{Path: "f", MaxSize: tc.limit})
			if tc.ok {
				if err != nil || len(b) != 1000 {
					t.Errorf("%d bytes, %v", len(b), err)
				}
				return
			}
			wantReason(t, err, fault.Upstream, fetch.ReasonTooLarge)
			if int64(len(b)) > tc.limit {
				t.Errorf("%d bytes came through", len(b))
			}
		})
	}
}

func TestContentEncoding(t *testing.T) {
	up := fetchtest.New(t)
	r := newRemote(t, newClient(t), up.URL)
	text := bytes.Repeat([]byte("all work and no play\n"), 1000)
	t.Run("gzip that nobody asked for is decoded", func(t *testing.T) {
		up.Script("/f.json", fetchtest.Gzip(text))
		b, resp, err := get(t, r, fetch.Request{Path: "f.json"})
		if err != nil || !bytes.Equal(b, text) || resp.Size != fetch.UnknownSize {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
	t.Run("but not on a file that is itself gzip", func(t *testing.T) {
		up.Script("/f.tar.gz", fetchtest.With(fetchtest.Body(text), "Content-Encoding", "x-gzip"))
		b, _, err := get(t, r, fetch.Request{Path: "f.tar.gz"})
		if err != nil || !bytes.Equal(b, text) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
	t.Run("others are refused", func(t *testing.T) {
		for _, enc := range []string{"br", "deflate", "zstd", "gzip, gzip", "x"} {
			up.Script("/f", fetchtest.With(fetchtest.Body(text), "Content-Encoding", enc))
			_, _, err := get(t, r, fetch.Request{Path: "f"})
			wantReason(t, err, fault.Upstream, fetch.ReasonEncoding)
		}
	})
	t.Run("broken gzip is a truncated body", func(t *testing.T) {
		up.Script("/f", fetchtest.With(fetchtest.Body(text), "Content-Encoding", "gzip"))
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonTruncated)
	})
	t.Run("a bomb is refused quickly and in little memory", func(t *testing.T) {
		up.Script("/f", fetchtest.GzipBomb(1<<30))
		for _, limit := range []int64{64 << 20, 1 << 40} { // by size, and by ratio
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			resp, err := r.Get(t.Context(), fetch.Request{Path: "f", MaxSize: limit})
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			wantReason(t, err, fault.Upstream, fetch.ReasonTooLarge)
			runtime.ReadMemStats(&after)
			if d := time.Since(began); d > 2*time.Second || n > 80<<20 || after.HeapSys > before.HeapSys+64<<20 {
				t.Errorf("%d bytes, %s, heap grew from %d to %d", n, d, before.HeapSys, after.HeapSys)
			}
		}
	})
}

func TestConnectionsAreReused(t *testing.T) {
	up := fetchtest.New(t)
	addrs := map[string]bool{}
	up.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addrs[r.RemoteAddr] = true // requests come one after the other
		switch r.URL.Path {
		case "/missing":
			http.Error(w, strings.Repeat("no ", 5000), 404)
		case "/moved":
			http.Redirect(w, r, "/f", http.StatusFound)
		default:
			_, _ = w.Write(noise(1, 20_000))
		}
	}))
	r := newRemote(t, newClient(t), up.URL)
	for range 20 {
		_, _, _ = get(t, r, fetch.Request{Path: "missing"})
		_, _, _ = get(t, r, fetch.Request{Path: "moved"})
		resp, err := r.Get(t.Context(), fetch.Request{Path: "f", MaxSize: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() // unread
	}
	if len(addrs) != 1 {
		t.Errorf("%d connections", len(addrs))
	}
}

func TestRates(t *testing.T) {
	up := fetchtest.New(t)
	data := noise(1, 1<<20)
	up.Fallback(fetchtest.File(data))
	t.Run("bytes", func(t *testing.T) {
		clk := &clock{}
		r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Clock = clk }), up.URL, func(c *fetch.RemoteConfig) { c.RateBytes = 100_000 })
		if b, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil || !bytes.Equal(b, data) {
			t.Fatal(err)
		}
		// 1 MiB at 100 kB/s, less the burst
		if got := clk.total(); got < 9*time.Second || got > 11*time.Second {
			t.Errorf("waited %s", got)
		}
	})
	t.Run("requests", func(t *testing.T) {
		clk := &clock{}
		r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Clock = clk }), up.URL, func(c *fetch.RemoteConfig) { c.RateRequests = 2 })
		for range 11 {
			if _, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil {
				t.Fatal(err)
			}
		}
		if got := clk.total(); got < 4*time.Second || got > 6*time.Second {
			t.Errorf("waited %s", got)
		}
	})
}
