package main

import (
	"bytes"
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

// process is a program that the test has started.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string // file
	done chan struct{}

	mu    sync.Mutex
	state *os.ProcessState
	ended time.Time
}

// command says what to run.
type command struct {
	name string
	args []string
	dir  string   // working directory
	env  []string // all of it
	log  string
}

// launcher starts processes on one thread that lasts: the kernel sends the signal for a parent's death when the thread
// that forked ends.
type launcher struct {
	requests chan func()

	mu  sync.Mutex
	all []*process
}

func newLauncher(ctx context.Context) *launcher {
	l := &launcher{requests: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for {
			select {
			case f := <-l.requests:
				f()
			case <-ctx.Done():
				return
			}
		}
	}()
	return l
}

// start runs a command. Its log is appended to, so that a restart does not lose what the first one said.
func (l *launcher) start(c command) (*process, error) {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{name: c.name, log: c.log, done: make(chan struct{})}
	p.cmd = exec.Command(c.args[0], c.args[1:]...)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = c.dir, c.env, log, log
	// Its own group: Ctrl-C is ours alone to hear.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	l.requests <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells
		p.mu.Lock()
		p.state, p.ended = p.cmd.ProcessState, time.Now()
		p.mu.Unlock()
		close(p.done)
	}()
	l.mu.Lock()
	l.all = append(l.all, p)
	l.mu.Unlock()
	return p, nil
}

// killAll ends whatever still runs.
func (l *launcher) killAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.all {
		p.kill()
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends a signal; a process that has ended does not mind.
func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// kill ends the process with SIGKILL and waits for it.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.signal(syscall.SIGCONT)
	<-p.done
}

// wait waits for the end, and returns the exit code; a signal's number is negative.
func (p *process) wait(within time.Duration) (code int, err error) {
	select {
	case <-p.done:
	case <-time.After(within):
		return 0, fmt.Errorf("%s (process %d) still runs after %s", p.name, p.pid(), within)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ws, ok := p.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return -int(ws.Signal()), nil
	}
	return p.state.ExitCode(), nil
}

// stop sends SIGTERM and wants a clean end.
func (p *process) stop(within time.Duration) (took time.Duration, err error) {
	began := time.Now()
	p.signal(syscall.SIGTERM)
	code, err := p.wait(within)
	if err != nil {
		return 0, err
	}
	if code != 0 {
		return 0, fmt.Errorf("%s ended with code %d after SIGTERM, not 0", p.name, code)
	}
	return p.ended.Sub(began), nil
}

// tail returns the last lines of a log.
func tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > 64<<10 {
		if _, err := f.Seek(-64<<10, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(bytes.ToValidUTF8(data, nil)), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// place is the pair of directories that a process has for itself.
type place struct{ data, work string }

func newPlace(root, name string) (place, error) {
	p := place{filepath.Join(root, name, "data"), filepath.Join(root, name, "work")}
	return p, errors.Join(os.MkdirAll(p.data, 0o711), os.MkdirAll(filepath.Join(p.work, "tmp"), 0o700))
}

// env is what a process gets to know of its surroundings: nothing that leads out of its directories.
func (p place) env(more ...string) []string {
	return append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + p.work, "TMPDIR=" + filepath.Join(p.work, "tmp")}, more...)
}
