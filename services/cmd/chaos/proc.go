package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startPatience is how long a process may take until it says that it is ready.
const startPatience = 40 * time.Second

// proc is a process of a world. It dies with this program, however that ends.
type proc struct {
	name string
	argv []string
	log  string
	pid  int

	done  chan struct{} // closed when it has been waited for
	ready chan struct{} // closed when it has said that it is
	mu    sync.Mutex
	lines []string
	heard chan struct{} // closed and replaced with each line
}

// spawn starts a process, with env besides our own environment; awaitReady waits for it.
func spawn(name, dir string, env []string, argv ...string) (*proc, error) {
	p := &proc{
		name: name, argv: argv, log: filepath.Join(dir, name+".log"),
		done: make(chan struct{}), ready: make(chan struct{}), heard: make(chan struct{}),
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		log.Close()
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, w, log
	cmd.Env = append(os.Environ(), env...)
	// Its own group: Ctrl-C is for this program, which ends the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the death signal comes when the thread that forked ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		w.Close()
		started <- err
		if err == nil {
			_ = cmd.Wait() // most of them are killed
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		r.Close()
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.pid = cmd.Process.Pid
	go p.listen(r, log)
	return p, nil
}

// listen copies the process's output to its log, and keeps the lines.
func (p *proc) listen(r io.ReadCloser, log io.WriteCloser) {
	defer log.Close()
	defer r.Close()
	isReady := false
	for sc := bufio.NewScanner(r); sc.Scan(); {
		line := sc.Text()
		fmt.Fprintln(log, line)
		p.mu.Lock()
		p.lines = append(p.lines, line)
		close(p.heard)
		p.heard = make(chan struct{})
		p.mu.Unlock()
		if !isReady && strings.Contains(line, readyLine) {
			isReady = true
			close(p.ready)
		}
	}
}

func (p *proc) awaitReady(ctx context.Context) error {
	t := time.NewTimer(startPatience)
	defer t.Stop()
	select {
	case <-p.ready:
		return nil
	case <-p.done:
		return fmt.Errorf("%s ended at its start:\n%s", p.name, p.tail())
	case <-t.C:
		return fmt.Errorf("%s is not ready after %s:\n%s", p.name, startPatience, p.tail())
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// await waits for a line of which ok is true, among those of the past too.
func (p *proc) await(ctx context.Context, what string, ok func(line string) bool) error {
	for from := 0; ; {
		p.mu.Lock()
		lines, heard := p.lines, p.heard
		p.mu.Unlock()
		for ; from < len(lines); from++ {
			if ok(lines[from]) {
				return nil
			}
		}
		select {
		case <-heard:
		case <-p.done:
			return fmt.Errorf("%s ended before %s", p.name, what)
		case <-ctx.Done():
			return fmt.Errorf("%s: waiting for %s: %w", p.name, what, context.Cause(ctx))
		}
	}
}

// tail is the end of the log.
func (p *proc) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}

func (p *proc) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *proc) signal(sig syscall.Signal) error {
	if !p.running() {
		return fmt.Errorf("%s has ended by itself:\n%s", p.name, p.tail())
	}
	return syscall.Kill(p.pid, sig)
}

// kill ends the process with SIGKILL and waits for it.
func (p *proc) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// stop ends it in order, and with force if that takes too long.
func (p *proc) stop(patience time.Duration) {
	if !p.running() {
		return
	}
	_ = syscall.Kill(p.pid, syscall.SIGCONT) // one that stands still would not hear the rest
	_ = syscall.Kill(p.pid, syscall.SIGTERM)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.done
	}
}

// gone waits until a process that is not our child has ended.
func gone(pid int, patience time.Duration) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return nil
		}
	}
	return fmt.Errorf("process %d has not ended after %s", pid, patience)
}
