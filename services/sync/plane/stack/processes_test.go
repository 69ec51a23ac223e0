package stack_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// freeAddr returns an address that nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// several runs a platform with everything, a second gateway and a second sync, each with a directory of its own.
type several struct {
	first   *platformtest.Stack
	gateway string // URL of the second gateway
	stop    map[string]func()
}

func startSeveral(t *testing.T, opts ...platformtest.Option) *several {
	t.Helper()
	nats, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: t.TempDir(), NoSync: true, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	secret := config.NewSecret("a secret of the targets")
	planes := []string{freeAddr(t), freeAddr(t)}
	urls := []string{"http://" + planes[0], "http://" + planes[1]}
	shared := func(c *platform.Config) {
		brisk(c)
		c.NATSURL, c.TargetSecret, c.FetchURLs = config.NewSecret(nats.URL()), secret, urls
	}
	opts = append(opts, platformtest.WithConfig(func(c *platform.Config) { shared(c); c.DataAddr = planes[0] }))
	v := &several{first: platformtest.Start(t, opts...), stop: map[string]func(){}}
	services := map[string]string{}
	for _, name := range []string{"channels", "sync", "identity", "storage", "jobs", "metrics"} {
		services[name] = v.first.ServiceAddr
	}
	run := func(target string, change func(*platform.Config)) platform.Ready {
		cfg := platform.DefaultConfig()
		shared(&cfg)
		cfg.Target, cfg.DataDir, cfg.Services, cfg.Dev = []string{target}, t.TempDir(), services, true
		cfg.DatabaseURL, cfg.DatabaseConns, cfg.DataURL = config.NewSecret(v.first.DatabaseURL), 8, "http://"+v.first.DataAddr
		cfg.BlobURL = config.NewSecret(filepath.Join(v.first.DataDir, "blobs"))
		const free = "127.0.0.1:0"
		cfg.HTTPAddr, cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = free, free, free, free, free
		if change != nil {
			change(&cfg)
		}
		ready := make(chan platform.Ready, 1)
		p, err := platform.New(cfg, platform.Options{Version: "test", LogOutput: io.Discard, OnReady: func(r platform.Ready) { ready <- r }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		v.stop[target] = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s ended with %v", target, err)
			}
		})
		select {
		case r := <-ready:
			t.Cleanup(v.stop[target])
			return r
		case err := <-done:
			t.Fatalf("%s: %v", target, err)
		case <-time.After(time.Minute):
			t.Fatalf("%s is not ready", target)
		}
		panic("unreachable")
	}
	v.gateway = run("gateway", nil).URL
	run("sync", func(c *platform.Config) { c.DataAddr = planes[1] })
	return v
}

func TestSeveralProcesses(t *testing.T) {
	v := startSeveral(t)

	t.Run("readers of two gateways and two planes are one request", func(t *testing.T) {
		p := newProxy(t, v.first, "shared", nil)
		var paths []string
		data := map[string][]byte{}
		for i := range 8 {
			b := noise(byte(100+i), 300_000)
			path := p.ch.Add("noarch", "p"+string(rune('a'+i)), "1.0", b)
			paths, data[path] = append(paths, path), b
			p.up.Script("/"+path, fetchtest.Slow(100*time.Millisecond, fetchtest.File(b)))
		}
		var wg sync.WaitGroup
		for i := range 6 {
			for _, path := range paths {
				wg.Go(func() {
					base := []string{v.first.URL, v.gateway}[i%2]
					resp, err := http.Get(base + p.path(path))
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					b, err := io.ReadAll(resp.Body)
					if err != nil || string(b) != string(data[path]) {
						t.Errorf("%s: %d, %d bytes, %v", path, resp.StatusCode, len(b), err)
					}
				})
			}
		}
		wg.Wait()
		for _, path := range paths {
			p.wantAsked(path, 1)
		}
		p.wantAsked("noarch/repodata.json.zst", 1)
		if n := p.asked("noarch/repodata_shards.msgpack.zst"); n < 1 || n > 2 { // what is not there each process remembers for itself
			t.Errorf("shards were asked for %d times", n)
		}
	})

	t.Run("a lease of somebody who vanished ends soon", func(t *testing.T) {
		p := newProxy(t, v.first, "orphaned", nil)
		data := noise(1, 1234)
		path := p.ch.Add("noarch", "orphan", "1.0", data)
		p.get(200, "noarch/repodata.json")
		var ch struct{ ID string }
		p.admin().Must(200, "GET", "/entrepot/v1/channels/orphaned", nil).JSON(&ch)
		conn, err := pgx.Connect(t.Context(), v.first.DatabaseURL)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), `INSERT INTO sync.proxy_leases (channel_id, name, owner, expires_at)
			VALUES ($1, $2, $3, clock_timestamp() + interval '1 second')`, ch.ID, "file:"+path, uuid.New()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p.gets(path, data)
		if took := time.Since(began); took < 500*time.Millisecond || took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
		p.wantAsked(path, 1)
	})

	t.Run("a plane that is gone is passed over, and what is stored needs none", func(t *testing.T) {
		p := newProxy(t, v.first, "survivor", nil)
		v.stop["sync"]()
		var paths []string
		for i := range 8 { // about half of them were the other one's
			paths = append(paths, p.ch.Add("noarch", "q"+string(rune('a'+i)), "1.0", noise(byte(i), 2000)))
		}
		for i, path := range paths {
			p.gets(path, noise(byte(i), 2000))
		}
		p.up.Reset()
		for i, path := range paths {
			p.gets(path, noise(byte(i), 2000))
		}
		if n := len(p.up.Requests()); n != 0 {
			t.Errorf("upstream was asked %d times", n)
		}
	})
}

func TestStoredFilesNeedNoFetchPlane(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(brisk))
	p := newProxy(t, s, "offline", nil)
	path := p.ch.Add("noarch", "a", "1.0", []byte("stored"))
	other := p.ch.Add("noarch", "b", "1.0", []byte("not stored"))
	p.get(200, "noarch/repodata.json")
	p.gets(path, []byte("stored"))
	// A plane that nobody answers at.
	s.Restart(platformtest.WithConfig(func(c *platform.Config) {
		c.FetchURLs, c.Proxy.IndexTTL = []string{"http://" + freeAddr(t)}, time.Minute
	}))
	p.up.Reset()
	p.gets(path, []byte("stored"))
	p.get(200, "noarch/repodata.json")
	p.get(503, other)
	if n := len(p.up.Requests()); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

func TestTheFetchPlaneIsClosedToStrangers(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(brisk))
	p := newProxy(t, s, "closed", nil)
	path := p.ch.Add("noarch", "a", "1.0", []byte("a"))
	var ch struct{ ID string }
	p.admin().Must(200, "GET", "/entrepot/v1/channels/closed", nil).JSON(&ch)
	ask := "http://" + s.DataAddr + "/fetch?channel=closed&id=" + ch.ID + "&path=" + path
	for name, h := range map[string]http.Header{
		"nothing": {}, "a key": {"X-Api-Key": {s.AdminKey}, "Authorization": {"Bearer " + s.AdminKey}}, "a token of their own making": {"Entrepot-Token": {"e30.e30.e30"}},
	} {
		if r := p.anonymous().Send(0, platformtest.Request{Method: "GET", Path: ask, Header: h}); r.Status != 401 {
			t.Errorf("with %s: %d", name, r.Status)
		}
	}
	if n := len(p.up.Requests()); n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
}

// patterned yields bytes that are cheap to make, so that a body can be large.
type patterned struct{ at, size int64 }

func (r *patterned) Read(b []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), r.size-r.at))
	for i := range n {
		b[i] = byte((r.at + int64(i)) * 2654435761 >> 13)
	}
	r.at += int64(n)
	return n, nil
}

// TestMemoryDoesNotGrowWithTheFile fetches a file of 1.2 GB for three readers.
func TestMemoryDoesNotGrowWithTheFile(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 2.5 GB")
	}
	size := int64(1_200_000_000)
	s := platformtest.Start(t, platformtest.WithConfig(brisk))
	p := newProxy(t, s, "huge", nil)
	path := p.ch.Add("noarch", "huge", "1.0", []byte("stands for it"))
	digest := sumOf(t, size)
	p.ch.Edit(path, "sha256", digest)
	p.ch.Edit(path, "md5", nil)
	p.ch.Edit(path, "size", size)
	p.up.Script("/"+path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1200000000")
		_, _ = io.Copy(w, &patterned{size: size})
	})
	var peak uint64
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapInuse)
			case <-quit:
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			resp, err := http.Get(s.URL + p.path(path))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
	close(quit)
	<-done
	p.wantAsked(path, 1)
	if peak > 256<<20 {
		t.Errorf("the heap grew to %d MiB", peak>>20)
	}
	left, err := os.ReadDir(filepath.Join(s.DataDir, "spool"))
	if err != nil || len(left) != 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
	if diff := cmp.Diff("1200000000", p.send(200, "HEAD", path).Header.Get("Content-Length")); diff != "" {
		t.Error(diff)
	}
	t.Logf("heap at most %d MiB", peak>>20)
}
