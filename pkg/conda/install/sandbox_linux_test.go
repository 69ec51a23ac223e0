package install

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func init() { probe = probeSockets }

func probeSockets(name string) {
	say := func(what string, err error) { fmt.Printf("%s: %v\n", what, err == nil) }
	c, err := net.Dial("unix", name)
	say("stream", err)
	if err == nil {
		c.Close()
	}
	_, err = net.Dial("unixgram", name+".dgram")
	say("datagram", err)
	_, err = net.Dial("tcp", "127.0.0.1:1")
	say("tcp refused by the kernel's network", map[bool]error{false: err}[errors.Is(err, syscall.ECONNREFUSED)])
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err == nil {
		err = syscall.Sendto(fds[0], []byte("x"), 0, &syscall.SockaddrUnix{Name: name + ".dgram"})
	}
	say("pair of datagrams", err)
	_, err = syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	say("pair of streams", err)
}

func TestTheSandboxHidesSocketsInTheFileSystem(t *testing.T) {
	needSandbox(t)
	dir, err := os.MkdirTemp("/tmp", "sock") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "s")
	l, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := net.ListenPacket("unixgram", name+".dgram")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(s Sandbox) string {
		t.Helper()
		p := &program{
			args: []string{exe}, dir: "/", pkg: "probe", env: []string{probeEnv + "=" + name, "GOTRACEBACK=none"},
			readable: []string{filepath.Dir(exe)}, writable: []string{dir},
		}
		out, err := s.run(t.Context(), p, func(string, string) {})
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return out
	}
	const line = "stream: %v\ndatagram: %v\ntcp refused by the kernel's network: %v\npair of datagrams: %v\npair of streams: true\n"
	if d := cmp.Diff(fmt.Sprintf(line, true, true, true, true), run(Sandbox{Off: true})); d != "" {
		t.Errorf("without a sandbox all of it works, else nothing is shown: %s", d)
	}
	if d := cmp.Diff(fmt.Sprintf(line, false, false, false, false), run(Sandbox{})); d != "" {
		t.Error(d)
	}
}

func TestWithoutAFullSandboxNothingRuns(t *testing.T) {
	// A rule for what may not be opened fails, as does the kernel that has no Landlock.
	mark := filepath.Join(t.TempDir(), "ran")
	s := Sandbox{}
	_, err := s.run(t.Context(), &program{
		args: []string{"/bin/sh", "-c", "echo > " + mark}, dir: "/", readable: []string{"/dev/null/no-directory"},
	}, func(string, string) {})
	if !errors.As(err, new(*SandboxError)) {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(mark); err == nil {
		t.Error("it ran")
	}
}

func TestWhatAProgramLeavesRunningEndsWithIt(t *testing.T) {
	for _, tc := range []struct{ name, text string }{
		{"when it ends", "sleep 300 & echo $! > %s\n"},
		{"when its time is over", "sleep 300 & echo $! > %s; sleep 300\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			note := filepath.Join(t.TempDir(), "pid")
			s := Sandbox{Off: true, Timeout: 500 * time.Millisecond}
			start := time.Now()
			_, _ = s.run(t.Context(), &program{args: []string{"/bin/sh", "-c", fmt.Sprintf(tc.text, note)}, dir: "/"}, func(string, string) {})
			if d := time.Since(start); d > 4*time.Second {
				t.Errorf("it took %v: the output was held open", d)
			}
			var pid int
			if _, err := fmt.Sscan(read(t, note), &pid); err != nil {
				t.Fatal(err)
			}
			for range 100 { // whoever adopts it must wait for it before its number is gone
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if err != nil || strings.Contains(string(stat), ") Z ") {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Error("it is still running")
		})
	}
}
