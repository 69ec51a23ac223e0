package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
)

const (
	// isolated is set for the program inside its own mount namespace.
	isolated    = "CHAOS_ISOLATED"
	capSysAdmin = 21
)

// isolate runs this program again in a mount namespace of its own, in which it may mount small disks: they go with its
// last process, however that ends. It returns the program's exit code, or -1 if this is the inner one, or if the machine
// does not allow it: then only the scenario that needs a small disk fails, and says so.
func isolate(ctx context.Context) (code int, err error) {
	if os.Getenv(isolated) != "" {
		// What is mounted here stays here.
		if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
			return -1, fmt.Errorf("make the mount namespace private: %w", err)
		}
		return -1, nil
	}
	self, err := os.Executable()
	if err != nil {
		return -1, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolated+"=1")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if uid := os.Geteuid(); uid != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		attr.AmbientCaps = []uintptr{capSysAdmin}
	}
	cmd.SysProcAttr = attr
	runtime.LockOSThread() // the death signal comes when the thread that forked ends
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "chaos: no mount namespace of our own:", err)
		return -1, nil
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig) // an error means that it has just ended
		case err := <-done:
			var exit *exec.ExitError
			if err == nil || errors.As(err, &exit) {
				return max(cmd.ProcessState.ExitCode(), 0), killedBy(cmd.ProcessState)
			}
			return 1, err
		}
	}
}

// killedBy: a program that was killed has no exit code.
func killedBy(s *os.ProcessState) error {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Errorf("ended by %s", ws.Signal())
	}
	return nil
}

// mountSmall mounts a disk in memory that holds size bytes.
func mountSmall(dir string, size int64) (unmount func() error, err error) {
	if os.Getenv(isolated) == "" {
		return nil, errors.New("this scenario needs a small disk: run it as root, or where unprivileged user namespaces are allowed (kernel.unprivileged_userns_clone=1)")
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		return nil, fmt.Errorf("mount a small disk: %w", err)
	}
	return func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}
