package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startPatience = time.Minute
	stopPatience  = time.Minute
)

// server is a running `entrepot serve` with an empty data directory of its own.
type server struct {
	target
	ops string
	cmd *exec.Cmd
	log *bytes.Buffer
	out chan struct{} // closed when its output has been read to the end
}

// startServer starts a server with default settings apart from addresses and leave to mirror from loopback, and waits
// until it is ready.
func (b *bench) startServer(ctx context.Context) (*server, error) {
	dir, err := b.tempDir("data")
	if err != nil {
		return nil, err
	}
	// PostgreSQL may run as another user, which must be able to reach its directory.
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	s := &server{log: new(bytes.Buffer), out: make(chan struct{}), ops: "http://" + ports[1]}
	s.name, s.url = "entrepot", "http://"+ports[0]
	s.cmd = exec.Command(b.binary, "serve", "--data-dir", filepath.Join(dir, "data"), "--egress-allow", "127.0.0.0/8",
		"--http-addr", ports[0], "--ops-addr", ports[1], "--grpc-addr", "127.0.0.1:0", "--service-addr", "127.0.0.1:0", "--data-addr", "127.0.0.1:0")
	s.cmd.Env = environment()
	s.cmd.Stderr = s.log
	// A killed benchmark must not leave servers behind. Ctrl-C reaches only us; the server is stopped in order.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan struct{})
	go func() {
		defer close(s.out)
		lines := bufio.NewScanner(stdout)
		for first := true; lines.Scan(); {
			if first && strings.Contains(lines.Text(), s.url) {
				first = false
				close(ready)
			}
		}
	}()
	select {
	case <-ready:
	case <-s.out:
		err = errors.New("the server has ended")
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(startPatience):
		err = fmt.Errorf("the server was not ready within %v", startPatience)
	}
	if err == nil {
		var key []byte
		key, err = os.ReadFile(filepath.Join(dir, "data", "admin-key"))
		s.key = strings.TrimSpace(string(key))
	}
	if err != nil {
		serr := s.stop()
		return nil, errors.Join(fmt.Errorf("%w; its log:\n%s", err, s.log), serr)
	}
	return s, nil
}

// environment is ours without settings of the server, which would not be its defaults.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ENTREPOT_") || strings.HasPrefix(kv, "ENTREPOT_PG_BIN=") {
			env = append(env, kv)
		}
	}
	return env
}

// stop ends the server in order, else by force.
func (s *server) stop() error {
	var errs []error
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	kill := time.AfterFunc(stopPatience, func() { _ = s.cmd.Process.Kill() }) // it may have ended at last
	<-s.out
	err := s.cmd.Wait()
	kill.Stop()
	if err != nil {
		errs = append(errs, fmt.Errorf("the server ended with %w; its log:\n%s", err, s.log))
	}
	return errors.Join(errs...)
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// durability says what a commit waits for, as the running PostgreSQL was started.
func (s *server) durability() (string, error) {
	on := map[string]string{"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
	found := false
	for _, pid := range descendants(s.pid()) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !bytes.Contains(args, []byte("\x00-c\x00")) {
			continue // ended, or not the postmaster
		}
		found = true
		for _, arg := range strings.Split(string(args), "\x00") {
			if k, v, ok := strings.Cut(arg, "="); ok && on[k] != "" {
				on[k] = v
			}
		}
	}
	if !found {
		return "", errors.New("the server's PostgreSQL was not found among its processes")
	}
	for _, v := range on {
		if v != "on" {
			return "", fmt.Errorf("PostgreSQL runs with %v: that is not the default durability", on)
		}
	}
	return "PostgreSQL fsync=on synchronous_commit=on full_page_writes=on; blobs are flushed before a row names them", nil
}

// profile writes the server's CPU profile of the time until end is called.
func (s *server) profile(path string) (end func() error) {
	if path == "" {
		return func() error { return nil }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		// Go's pprof answers when its seconds are over, so they are few, and the last profile that is whole is kept.
		for n := 0; ; n++ {
			data, err := fetchProfile(ctx, s.ops)
			if ctx.Err() != nil {
				done <- nil
				return
			}
			if err == nil {
				err = os.WriteFile(fmt.Sprintf("%s.%d", path, n), data, 0o644)
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	return func() error {
		cancel()
		fmt.Printf("profiles: go tool pprof %s %s.*\n", s.cmd.Path, path)
		return <-done
	}
}

func fetchProfile(ctx context.Context, ops string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ops+"/debug/pprof/profile?seconds=1", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("profile: %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// freePorts finds addresses of loopback that nobody listens on now.
func freePorts(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at the end, so that they differ
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}
