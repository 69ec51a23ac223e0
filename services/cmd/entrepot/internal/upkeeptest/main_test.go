// Package upkeeptest tries what looks after an installation on whole ones: garbage collection beside uploads, scrubs of
// damaged disks, backups and what is built from them.
package upkeeptest

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/cli"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { platformtest.Main(m, client.CloseIdleConnections) }

// file is a package that may be uploaded.
type file struct {
	path, name, sha256 string
	data               []byte
}

func files(t *testing.T) []file {
	t.Helper()
	all, err := sampleFiles()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

var sampleFiles = sync.OnceValues(func() ([]file, error) {
	dir, err := os.MkdirTemp("", "entrepot-upkeep-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ch, err := sample.Build(dir, sample.Options{Packages: 24, Tiny: true})
	if err != nil {
		return nil, err
	}
	var all []file
	for _, f := range ch.Files {
		data, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil {
			return nil, err
		}
		all = append(all, file{f.Path, filepath.Base(f.Path), f.SHA256, data})
	}
	return all, nil
})

// command runs a command line of the program in this process.
func command(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	root := cli.Root()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&errs)
	err = root.ExecuteContext(t.Context())
	return out.String(), errs.String(), err
}

// client decodes nothing, so that bytes are compared as they were sent.
var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8}}

// get returns status and body of a request with a key.
func get(t *testing.T, method, url, key string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", key)
	if bytes.HasPrefix(body, []byte("{")) {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, data
}

// serve runs an installation with all its embedded parts in dir, as `entrepot serve` does, until stop.
func serve(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	cfg := platform.DefaultConfig()
	cfg.DataDir = dir
	const free = "127.0.0.1:0"
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = free, free, free, free, free
	ready := make(chan platform.Ready, 1)
	logs := &syncBuffer{}
	p, err := platform.New(cfg, platform.Options{Version: "test", LogOutput: logs, OnReady: func(r platform.Ready) { ready <- r }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background()) // the test's ends before its cleanups
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			client.CloseIdleConnections()
			cancel()
			if err := <-done; err != nil {
				t.Errorf("the platform ended with %v\n%s", err, logs.String())
			}
		})
	}
	select {
	case r := <-ready:
		t.Cleanup(stop)
		return r.URL, stop
	case err := <-done:
		cancel()
		t.Fatalf("the platform ended at its start: %v\n%s", err, logs.String())
	case <-time.After(2 * time.Minute):
		cancel()
		t.Fatalf("not ready\n%s", logs.String())
	}
	return "", nil
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// place returns a directory whose parents PostgreSQL's account may pass.
func place(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "entrepot-upkeep-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// eventually waits for what another process of the platform does in its own time.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func trimmed(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}
