package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A target that is not played would go untested, and nothing would say so.
func TestEveryTargetHasAProcess(t *testing.T) {
	have := map[string]int{}
	for _, n := range targets {
		have[n.target]++
	}
	for _, target := range platform.Targets {
		want := 1
		if target == "gateway" || target == "sync" || target == "sync-worker" {
			want = 2
		}
		if have[target] != want {
			t.Errorf("the target %s has %d processes, not %d", target, have[target], want)
		}
	}
}

func TestMetricsAreAddedUpByLabels(t *testing.T) {
	m, err := parseMetrics(strings.NewReader(`# HELP x_total what it counts
# TYPE x_total counter
x_total{kind="sync.channel",state="succeeded"} 2
x_total{kind="sync.channel",state="dead"} 1
x_total{kind="channels.index",state="succeeded"} 4e+00
x_total_other 9
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		labels []string
		want   float64
		found  bool
	}{
		{nil, 7, true},
		{[]string{`kind="sync.channel"`}, 3, true},
		{[]string{`kind="sync.`, `state="succeeded"`}, 2, true},
		{[]string{`kind="storage.`}, 0, false},
	} {
		if got, found := m.sum("x_total", c.labels...); got != c.want || found != c.found {
			t.Errorf("%v: %v %v, want %v %v", c.labels, got, found, c.want, c.found)
		}
	}
	if _, err := parseMetrics(strings.NewReader("x_total many\n")); err == nil {
		t.Error("a value that is no number is taken")
	}
}

func TestOnlySmallFilesThatAreExpectedMayStay(t *testing.T) {
	for name, c := range map[string]struct {
		target, file string
		size         int
		ok           bool
	}{
		"a lock":                         {"channels", "data/entrepot.lock", 10, true},
		"the administrator's key":        {"identity", "data/admin-key", 47, true},
		"somebody else's key":            {"channels", "data/admin-key", 47, false},
		"a blob":                         {"storage", "data/blobs/sha256/ab/abcd", 10, false},
		"a spool file":                   {"sync", "data/spool/1", 10, false},
		"a large lock":                   {"channels", "data/entrepot.lock", 1 << 20, false},
		"something left to work with":    {"sync-worker", "work/tmp/x", 1, false},
		"a lock in the wrong directory":  {"channels", "work/entrepot.lock", 1, false},
		"a key below another directory":  {"identity", "data/x/admin-key", 1, false},
		"a directory that nothing is in": {"sync", "data/spool/", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := newPlace(t.TempDir(), "n")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(filepath.Dir(p.data), c.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(c.file, "/") {
				err = os.MkdirAll(path, 0o755)
			} else {
				err = os.WriteFile(path, make([]byte, c.size), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := leftovers(&node{name: "n", target: c.target, place: p}); (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTheBalancerGoesOnToTheNextGateway(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer up.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	b, err := balance(ctx, down, strings.TrimPrefix(up.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			resp, err := client.Post(b.url(), "text/plain", strings.NewReader("hello"))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			if string(data) != "hello" {
				t.Errorf("%q", data)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	cancel()
	b.open.Wait()
}

func TestAProcessIsStoppedAndKilledByItsID(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := newLauncher(ctx)
	at, err := newPlace(t.TempDir(), "sleep")
	if err != nil {
		t.Fatal(err)
	}
	start := func(script string) *process {
		p, err := l.start(command{name: "sleep", args: []string{"/bin/sh", "-c", script}, dir: at.work, env: at.env(), log: filepath.Join(at.work, "log")})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	awaits := func(p *process) { // until its handler is in place
		for !strings.Contains(tail(p.log, 10), "up") {
			time.Sleep(5 * time.Millisecond)
		}
	}
	orderly := start(`trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done`)
	awaits(orderly)
	if _, err := orderly.stop(5 * time.Second); err != nil || !strings.Contains(tail(orderly.log, 1), "bye") {
		t.Errorf("%v, %q", err, tail(orderly.log, 1))
	}
	rude := start(`exec sleep 60`)
	if _, err := rude.stop(5 * time.Second); err == nil || !strings.Contains(err.Error(), "code -15") {
		t.Errorf("an end by a signal is taken for an orderly one: %v", err)
	}
	frozen := start(`exec sleep 60`)
	frozen.signal(syscall.SIGSTOP)
	if _, err := frozen.wait(50 * time.Millisecond); err == nil || !frozen.running() {
		t.Errorf("%v", err)
	}
	l.killAll()
	if code, err := frozen.wait(time.Second); err != nil || code != -int(syscall.SIGKILL) {
		t.Errorf("%d, %v", code, err)
	}
	if _, err := l.start(command{name: "none", args: []string{"/nowhere/at/all"}, dir: at.work, log: filepath.Join(at.work, "log")}); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestTailShowsTheLastLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	var all bytes.Buffer
	for range 20000 {
		all.WriteString("a line that is not the last one\n")
	}
	all.WriteString("one\ntwo\n")
	if err := os.WriteFile(file, all.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(file, 2); got != "one\ntwo" {
		t.Errorf("%q", got)
	}
}
