package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// proxyClients is how many clients fetch the files of a proxy at a time.
	proxyClients = 16
)

// nginxProxy caches an upstream as nginx does by its own documentation: one file each, kept alive to the upstream.
const nginxProxy = `
  proxy_cache_path %[1]s/cache levels=1:2 keys_zone=bench:16m max_size=4g inactive=1h use_temp_path=off;
  upstream origin { server %[2]s; keepalive 64; }
  server {
    listen %[3]s;
    location / {
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache bench;
      proxy_cache_valid 200 1h;
      proxy_cache_lock on;
    }
  }
`

// proxyPart measures proxy channels beside nginx with a cache, both before the same upstream.
func (b *bench) proxyPart(ctx context.Context) (r *report, err error) {
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r = &report{
		Title: "Proxying, beside nginx",
		Load: fmt.Sprintf("an upstream of %d packages of 2 to 3 kB on loopback in the benchmark's process, new bytes in every run, once behind a proxy channel and once behind nginx with proxy_cache, in turn; "+
			"cold: %d clients with keep-alive fetch every file once through GET /get/<channel>/…, each digest is checked, and the upstream must see one request for each; warm: once more; then wrk, %d threads, "+
			"%d connections, %v on one file; entrepot: public channel, index read before, every file compared with it and durable; nginx: no comparison, no flush, no access log",
			b.packages, proxyClients, wrkThreads, b.connections, b.duration),
	}
	if r.Durability, err = s.durability(); err != nil {
		return nil, err
	}
	rows := newRows(r)
	r.Runs = min(b.runs, fewRuns)
	for run := range r.Runs {
		fmt.Printf("run %d of %d\n", run+1, r.Runs)
		if err := b.proxyRun(ctx, s, run, r, rows); err != nil {
			return nil, fmt.Errorf("run %d: %w", run+1, err)
		}
	}
	return r, nil
}

// passed is what a set of files took to pass through a proxy.
type passed struct {
	rate, cpu float64 // files a second; ms of the proxy's processor time per file
}

func (b *bench) proxyRun(ctx context.Context, s *server, run int, r *report, rows *rowSet) (err error) {
	up, err := b.serveUpstream()
	if err != nil {
		return err
	}
	defer up.Close()
	n, err := startNginx(ctx, func(dir, addr string) string { return fmt.Sprintf(nginxProxy, dir, up.URL[len("http://"):], addr) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	if run == 0 {
		r.Notes = append(r.Notes, n.version+", worker_processes auto, sendfile on, proxy_cache on the same file system, proxy_cache_lock on")
	}
	channel := "proxy-" + strconv.Itoa(run)
	if err := s.createProxy(ctx, channel, up.URL); err != nil {
		return err
	}
	base := "/get/" + channel + "/"
	for _, dir := range up.Channel.Subdirs { // clients read the index first
		for _, t := range []struct {
			target
			path string
		}{{s.target, base}, {target{url: n.url}, "/"}} {
			resp, _, err := t.do(ctx, http.MethodGet, t.path+dir+"/repodata.json.zst", nil, nil)
			if err != nil {
				return err
			}
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s%s/repodata.json.zst: %s", t.path, dir, resp.Status)
			}
		}
	}
	both := map[string]func() (passed, error){
		"entrepot": func() (passed, error) { return b.through(ctx, s.target, s.pid(), base, up) },
		"nginx":    func() (passed, error) { return b.through(ctx, target{url: n.url}, n.cmd.Process.Pid, "/", up) },
	}
	order := []string{"entrepot", "nginx"}
	if run%2 == 1 {
		order = []string{"nginx", "entrepot"}
	}
	for _, what := range []string{"cold", "warm"} {
		got := map[string]passed{}
		for _, who := range order {
			before := up.fileRequests()
			if got[who], err = both[who](); err != nil {
				return fmt.Errorf("%s, %s: %w", who, what, err)
			}
			want := int64(0)
			if what == "cold" {
				want = int64(len(up.Channel.Files))
			}
			if n := up.fileRequests() - before; n != want {
				return fmt.Errorf("%s, %s: the upstream was asked %d times for %d files", who, what, n, want)
			}
			rows.add(what+", "+who, got[who].rate)
			rows.add("CPU per file, "+what+", "+who, got[who].cpu)
		}
		rows.add("ratio, "+what, got["entrepot"].rate/got["nginx"].rate)
	}
	f := up.Channel.Files[0]
	a, err := b.wrk(ctx, n.cmd.Process.Pid, n.url+"/"+f.Path, "", b.duration)
	if err != nil {
		return fmt.Errorf("nginx: %w", err)
	}
	e, err := b.wrk(ctx, s.pid(), s.url+base+f.Path, "", b.duration)
	if err != nil {
		return fmt.Errorf("entrepot: %w", err)
	}
	rows.add("one warm file, entrepot", e.rate)
	rows.add("one warm file, nginx", a.rate)
	rows.add("ratio, one warm file", e.rate/a.rate)
	rows.add("CPU per request, one warm file, entrepot", e.cpu)
	rows.add("CPU per request, one warm file, nginx", a.cpu)
	return nil
}

// through fetches every file of the upstream once.
func (b *bench) through(ctx context.Context, t target, pid int, base string, up *upstream) (p passed, err error) {
	before, err := cpuOf(pid)
	if err != nil {
		return p, err
	}
	var next atomic.Int64
	files := up.Channel.Files
	transport := &http.Transport{MaxIdleConnsPerHost: proxyClients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for range proxyClients {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(files)); i = next.Add(1) - 1 {
				if err := fetchFile(gctx, c, t.url+base+files[i].Path, files[i].SHA256); err != nil {
					return fmt.Errorf("%s: %w", files[i].Path, err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return p, err
	}
	took := time.Since(begin)
	after, err := cpuOf(pid)
	if err != nil {
		return p, err
	}
	used := after.sub(before)
	n := float64(len(files))
	return passed{n / took.Seconds(), float64((used.self + used.children).Microseconds()) / 1000 / n}, nil
}

func fetchFile(ctx context.Context, c *http.Client, url, digest string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("SHA-256 %s, upstream's is %s", got, digest)
	}
	return nil
}
