package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// sizes of the files that are served, and how much of nginx's rate is aimed at.
var sizes = []struct {
	name  string
	bytes int
	aim   float64
	quetz string
}{
	{"1 kB", 1 << 10, 0.5, "Quetz 63–101 requests/s"},
	{"100 kB", 100 << 10, 0.7, ""},
	{"10 MB", 10 << 20, 0.9, ""},
}

// wrkThreads is how many threads wrk uses: they share the processors with the servers.
const wrkThreads = 2

// serve measures downloads from a private channel beside nginx with the same bytes.
func (b *bench) serve(ctx context.Context) (r *report, err error) {
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r = &report{
		Title: "Serving packages, beside nginx",
		Load: fmt.Sprintf("wrk, %d threads, %d connections with keep-alive, %v for each measurement, on the same machine; one file at a time, warm; nginx and entrepot in turn; "+
			"entrepot: private channel, X-API-Key on every request, metrics and traces as by default; nginx: static file, no authentication, no access log", wrkThreads, b.connections, b.duration),
	}
	if r.Durability, err = s.durability(); err != nil {
		return nil, err
	}
	rows := newRows(r)
	rows.goals = map[string]goal{}
	const channel = "private"
	if err := s.createHosted(ctx, channel, true); err != nil {
		return nil, err
	}
	root, err := b.tempDir("nginx")
	if err != nil {
		return nil, err
	}
	rng := newRand()
	files := make([]pkg, len(sizes))
	for i, size := range sizes {
		if files[i], err = makeSized(fmt.Sprintf("file-%d", size.bytes), rng, size.bytes); err != nil {
			return nil, err
		}
		if err := s.upload(ctx, channel, files[i]); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(root, files[i].filename), files[i].data, 0o644); err != nil {
			return nil, err
		}
		r.Notes = append(r.Notes, fmt.Sprintf("%s: %d bytes", size.name, len(files[i].data)))
	}
	n, err := startNginx(ctx, static(root))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	r.Notes = append(r.Notes, n.version+", worker_processes auto, sendfile and tcp_nopush on, keepalive_requests unlimited")

	end := s.profile(b.cpuProfile)
	for i, size := range sizes {
		f := files[i]
		if err := s.served(ctx, "/channels/"+channel+"/"+f.subdir+"/"+f.filename, n.url+"/"+f.filename, f.sha256); err != nil {
			return nil, err
		}
		rows.goals["nginx, "+size.name] = goal{unit: "requests/s"}
		rows.goals["entrepot, "+size.name] = goal{unit: "requests/s", beside: size.quetz}
		rows.goals["ratio, "+size.name] = goal{unit: "of nginx", atLeast: size.aim}
		rows.goals["p99, nginx, "+size.name] = goal{unit: "ms"}
		rows.goals["p99, entrepot, "+size.name] = goal{unit: "ms"}
		rows.goals["CPU per request, nginx, "+size.name] = goal{unit: "µs"}
		rows.goals["CPU per request, entrepot, "+size.name] = goal{unit: "µs"}
		// The first round warms both; it is not counted.
		for run := -1; run < b.runs; run++ {
			duration := b.duration
			if run < 0 {
				duration = time.Second
			}
			a, err := b.wrk(ctx, n.cmd.Process.Pid, n.url+"/"+f.filename, "", duration)
			if err != nil {
				return nil, fmt.Errorf("nginx: %w", err)
			}
			e, err := b.wrk(ctx, s.pid(), s.url+"/channels/"+channel+"/"+f.subdir+"/"+f.filename, s.key, duration)
			if err != nil {
				return nil, fmt.Errorf("entrepot: %w", err)
			}
			if run < 0 {
				continue
			}
			rows.add("ratio, "+size.name, e.rate/a.rate)
			rows.add("entrepot, "+size.name, e.rate)
			rows.add("nginx, "+size.name, a.rate)
			rows.add("p99, entrepot, "+size.name, e.p99)
			rows.add("p99, nginx, "+size.name, a.p99)
			rows.add("CPU per request, entrepot, "+size.name, e.cpu)
			rows.add("CPU per request, nginx, "+size.name, a.cpu)
		}
	}
	return r, end()
}

// served compares answers before times: both servers must hand out the same bytes, and ours only with a key.
func (t target) served(ctx context.Context, path, nginxURL, digest string) error {
	resp, data, err := t.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	if got := describe("", "", "", data).sha256; resp.StatusCode != http.StatusOK || got != digest {
		return fmt.Errorf("entrepot: %s: %s, SHA-256 %s, want %s", path, resp.Status, got, digest)
	}
	resp, _, err = target{url: t.url, key: "nobody"}.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("entrepot: %s: %s for a stranger", path, resp.Status)
	}
	resp, data, err = target{url: nginxURL}.do(ctx, http.MethodGet, "", nil, nil)
	if err != nil {
		return err
	}
	if got := describe("", "", "", data).sha256; resp.StatusCode != http.StatusOK || got != digest {
		return fmt.Errorf("nginx: %s: %s, SHA-256 %s, want %s", nginxURL, resp.Status, got, digest)
	}
	return nil
}

// load is what one run of wrk saw.
type load struct {
	rate float64 // requests per second
	p99  float64 // ms
	cpu  float64 // µs of the server's processor time per request
}

var (
	wrkRequests = regexp.MustCompile(`(?m)^\s*(\d+) requests in`)
	wrkRate     = regexp.MustCompile(`(?m)^Requests/sec:\s*([0-9.]+)`)
	wrkP99      = regexp.MustCompile(`(?m)^\s*99%\s*([0-9.]+)(us|ms|s|m)\s*$`)
	wrkBad      = regexp.MustCompile(`(?m)^\s*(Non-2xx or 3xx responses:.*|Socket errors:.*)$`)
)

func (b *bench) wrk(ctx context.Context, pid int, url, key string, duration time.Duration) (load, error) {
	return wrkRun(ctx, pid, url, map[string]string{"X-API-Key": key}, b.connections, duration)
}

// wrkRun sends requests with the headers that are not empty.
func wrkRun(ctx context.Context, pid int, url string, headers map[string]string, connections int, duration time.Duration) (load, error) {
	args := []string{
		"-t", strconv.Itoa(wrkThreads), "-c", strconv.Itoa(connections), "-d", strconv.Itoa(max(1, int(duration.Seconds()))) + "s",
		"--timeout", "30s", "--latency",
	}
	for name, value := range headers {
		if value != "" {
			args = append(args, "-H", name+": "+value)
		}
	}
	before, err := cpuOf(pid)
	if err != nil {
		return load{}, err
	}
	out, err := exec.CommandContext(ctx, "wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		return load{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := cpuOf(pid)
	if err != nil {
		return load{}, err
	}
	return parseWrk(string(out), after.sub(before))
}

// parseWrk reads wrk's answer. A run in which any request failed counts for nothing.
func parseWrk(out string, used cpu) (l load, err error) {
	if bad := wrkBad.FindString(out); bad != "" {
		return l, fmt.Errorf("wrk: %s", strings.TrimSpace(bad))
	}
	requests, rate, p99 := wrkRequests.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out), wrkP99.FindStringSubmatch(out)
	if requests == nil || rate == nil || p99 == nil {
		return l, fmt.Errorf("wrk: its answer cannot be read: %s", out)
	}
	n, err := strconv.ParseFloat(requests[1], 64)
	if err != nil || n == 0 {
		return l, fmt.Errorf("wrk: no requests: %s", out)
	}
	if l.rate, err = strconv.ParseFloat(rate[1], 64); err != nil {
		return l, err
	}
	if l.p99, err = strconv.ParseFloat(p99[1], 64); err != nil {
		return l, err
	}
	unit := map[string]time.Duration{"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "m": time.Minute}[p99[2]]
	l.p99 *= float64(unit) / float64(time.Millisecond)
	l.cpu = float64((used.self + used.children).Microseconds()) / n
	return l, nil
}
