package stack_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// binary returns the program: the one that ENTREPOT_TEST_BIN names, or one built here.
func binary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("ENTREPOT_TEST_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "entrepot")
	cmd := exec.Command("go", "build", "-o", bin, "github.com/entrepot-dev/entrepot/services/cmd/entrepot")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// dataDir is a directory that the account of PostgreSQL can pass through, unlike t.TempDir.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "entrepot-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// process is `entrepot serve --dev` with all that belongs to it, private PostgreSQL included.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	key  string
	dir  string
	logs bytes.Buffer
	took time.Duration // until it was ready
	done chan error
}

func serve(t *testing.T, bin, dir string) *process {
	t.Helper()
	const free = "127.0.0.1:0"
	p := &process{t: t, dir: dir, done: make(chan error, 1)}
	p.cmd = exec.Command(bin, "serve", "--dev", "--data-dir", dir, "--http-addr", free, "--grpc-addr", free, "--service-addr", free, "--data-addr", free, "--ops-addr", free)
	p.cmd.Env = append(os.Environ(), "ENTREPOT_JOBS__LEASE_TTL=2s", "ENTREPOT_DATABASE_CONNS=12")
	p.cmd.Stderr = &p.logs
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("the log of process %d:\n%s", p.cmd.Process.Pid, p.logs.String())
		}
	})
	ready := make(chan string, 1)
	go func() {
		r := bufio.NewScanner(out)
		for r.Scan() {
			if _, url, ok := strings.Cut(r.Text(), "ready at "); ok {
				ready <- url
			}
		}
		_, _ = io.Copy(io.Discard, out)
		p.done <- p.cmd.Wait()
		close(p.done)
	}()
	select {
	case p.url = <-ready:
		p.took = time.Since(began)
	case err := <-p.done:
		t.Fatalf("serve ended: %v\n%s", err, p.logs.String())
	case <-time.After(time.Minute):
		t.Fatalf("serve is not ready\n%s", p.logs.String())
	}
	key, err := os.ReadFile(filepath.Join(dir, "admin-key"))
	if err != nil {
		t.Fatal(err)
	}
	p.key = strings.TrimSpace(string(key))
	return p
}

func (p *process) call(method, path string, body, into any) {
	p.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	req, err := http.NewRequest(method, p.url+path, bytes.NewReader(data))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("X-API-Key", p.key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		p.t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, answer, err)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			p.t.Fatal(err)
		}
	}
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
}

// servers lists the processes that have the data directory in their command line.
func servers(t *testing.T, dir string) (out []string) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if line, err := os.ReadFile(f); err == nil && bytes.Contains(line, []byte(dir)) {
			out = append(out, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

// A process that is killed in the middle of a sync goes on with it after its restart, and asks upstream for nothing
// that it had but for what was under way.
func TestAKilledSyncGoesOn(t *testing.T) {
	bin, dir := binary(t), dataDir(t)
	ch, up := synctest.NewChannel(), fetchtest.New(t)
	up.Fallback(ch)
	const n, concurrency = 150, 24
	var all []string
	for i := range n {
		path := ch.Add("noarch", fmt.Sprintf("p%03d", i), "1.0", content(i, 2000))
		if i%3 == 0 {
			ch.Edit(path, "sha256", nil) // of these only our own notes say that they are had
		}
		up.Script("/"+path, fetchtest.Slow(150*time.Millisecond, ch.ServeHTTP))
		all = append(all, path)
	}
	p := serve(t, bin, dir)
	p.call("POST", "/api/channels", map[string]any{"name": "m", "private": false, "mirror_channel_url": up.URL, "mirror_mode": "mirror", "actions": []string{}}, nil)
	var j job
	p.call("POST", "/entrepot/v1/channels/m:sync", map[string]any{}, &j)
	waitFor(t, "half of the files are asked for", func() bool { return files(up) >= n/2+concurrency })
	p.kill()
	before := files(up)

	p = serve(t, bin, dir)
	restart := p.took
	waitFor(t, "the sync is done", func() bool {
		now := job{}
		p.call("GET", "/entrepot/v1/jobs/"+j.ID, nil, &now)
		j = now
		return j.State == "JOB_STATE_SUCCEEDED" || j.State == "JOB_STATE_DEAD"
	})
	if j.State != "JOB_STATE_SUCCEEDED" || j.Result.Failed != 0 || j.Result.Added != n {
		t.Fatalf("%+v", j)
	}
	if total := files(up); total > n+concurrency {
		t.Errorf("%d requests for %d files, %d of them before the kill", total, n, before)
	} else {
		t.Logf("%d requests for %d files, %d of them before the kill", total, n, before)
	}
	w := synctest.Watch(synctest.WatchConfig{URL: p.url + "/get/m"})
	time.Sleep(time.Second)
	if r := w.Stop(); len(r.Violations) > 0 || r.Files == 0 {
		t.Errorf("%d files, %v", r.Files, r.Violations)
	}
	for _, path := range all[:10] {
		resp, err := http.Get(p.url + "/get/m/" + path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, ch.File(path)) {
			t.Errorf("%s: %d, %v", path, resp.StatusCode, err)
		}
	}

	// Once more, on an idle platform: the shorter of both restarts is what the machine can do.
	p.kill()
	p = serve(t, bin, dir)
	t.Logf("restarts after a kill took %s and %s", restart, p.took)
	if min(restart, p.took) > 3*time.Second {
		t.Errorf("a restart after a kill took %s", min(restart, p.took))
	}

	// Ctrl-C ends it in order.
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status, _ := exit.Sys().(syscall.WaitStatus)
			t.Errorf("exit %d, signal %v", exit.ExitCode(), status.Signal())
		} else if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
	if left := servers(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
