package cluster

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// fastStop is how long a fast shutdown may take before the server is told to quit at once.
	fastStop = 10 * time.Second
	poll     = 10 * time.Millisecond
)

// readPid returns the process that postmaster.pid names, 0 if there is no such file.
func readPid(data string) (int, error) {
	f, err := os.Open(filepath.Join(data, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	if !s.Scan() {
		return 0, s.Err() // empty: PostgreSQL itself reports it
	}
	pid, err := strconv.Atoi(strings.TrimSpace(s.Text()))
	if err != nil {
		return 0, fault.New(fault.Internal, "%s/postmaster.pid does not begin with a process id", data)
	}
	return pid, nil
}

// clearOrphan stops a server that still runs on the cluster, because its program was killed where the death signal did
// not reach it. Starting beside it would fail while its socket still answers, so a naive program would believe it had
// started its own. We stop rather than adopt: the orphan would not die with us, and has another run's settings.
//
// The caller holds the lock of the data directory, so the orphan has no living owner.
func clearOrphan(ctx context.Context, data string) error {
	pid, err := readPid(data)
	if err != nil || pid == 0 {
		return err
	}
	if !alive(pid) {
		return nil // PostgreSQL removes the stale file itself, after checking shared memory for stray backends
	}
	if !worksIn(pid, data) {
		// The number was given to another process, as happens when a container restarts. PostgreSQL would refuse
		// to start; it is right to if one of its backends is left, so look for those before removing the file.
		if stray := anyoneIn(data); stray != 0 {
			return fault.New(fault.Unavailable, "process %d still works in %s", stray, data)
		}
		return os.Remove(filepath.Join(data, "postmaster.pid"))
	}
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGINT, fastStop}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := syscall.Kill(pid, step.sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fault.New(fault.Precondition, "another PostgreSQL (process %d) runs on %s and cannot be stopped: %w", pid, data, err)
		}
		for end := time.Now().Add(step.wait); time.Now().Before(end); {
			if !alive(pid) {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(poll):
			}
		}
	}
	return fault.New(fault.Unavailable, "PostgreSQL (process %d) left on %s by an earlier run does not stop", pid, data)
}

// alive reports whether a process exists. A zombie counts: PostgreSQL takes it for a living postmaster as well.
func alive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// worksIn reports whether the process has the directory as its working directory, which every PostgreSQL process has.
func worksIn(pid int, data string) bool {
	cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	if err != nil {
		return false
	}
	real, err := filepath.EvalSymlinks(data)
	return err == nil && cwd == real
}

// anyoneIn returns some process that works in the directory, 0 if none does.
func anyoneIn(data string) int {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && worksIn(pid, data) {
			return pid
		}
	}
	return 0
}
