package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// machine is what figures depend on beside the program.
type machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	MemoryMiB  int64  `json:"memory_mib"`
	Kernel     string `json:"kernel"`
	Filesystem string `json:"filesystem"`
	Device     string `json:"device"`
	Go         string `json:"go"`
}

func (m machine) String() string {
	return fmt.Sprintf("machine: %s, %d cores, %d MiB, Linux %s, %s\ndata directory: %s on %s", m.CPU, m.Cores, m.MemoryMiB, m.Kernel, m.Go, m.Filesystem, m.Device)
}

// Magic numbers of statfs(2) for file systems that live in memory, where a flush costs nothing.
const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
)

// describeMachine refuses a directory in memory: what is measured there is not what users get.
func describeMachine(dir string) (machine, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return machine{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	if magic := uint32(fs.Type); magic == tmpfsMagic || magic == ramfsMagic {
		return machine{}, fmt.Errorf("%s lies in memory; name a directory on a disk with --dir", dir)
	}
	m := machine{Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: "unknown CPU"}
	var err error
	if m.Filesystem, m.Device, err = mountOf(dir); err != nil {
		return m, err
	}
	if v, ok := field("/proc/cpuinfo", "model name"); ok {
		m.CPU = v
	}
	if v, ok := field("/proc/meminfo", "MemTotal"); ok {
		kib, err := strconv.ParseInt(strings.TrimSuffix(v, " kB"), 10, 64)
		if err != nil {
			return m, fmt.Errorf("/proc/meminfo: %w", err)
		}
		m.MemoryMiB = kib >> 10
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(release))
	return m, err
}

// mountOf returns type and device of the file system that holds dir, by the longest mount point above it.
func mountOf(dir string) (fsType, device string, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	best := -1
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 /root /mount/point options optional… - type source superoptions (proc_pid_mountinfo(5))
		left, right, ok := strings.Cut(lines.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		point := l[4]
		below := point == "/" || dir == point || strings.HasPrefix(dir, point+"/")
		if below && len(point) >= best { // a later mount hides an earlier one at the same point
			best, fsType, device = len(point), r[0]+" ("+l[5]+")", r[1]
		}
	}
	return fsType, device, lines.Err()
}

// field returns the value behind a name in a file of lines `name : value`.
func field(path, name string) (string, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(data)) {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// commit names what was measured; "unknown" outside of a repository.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(out))
	if dirty, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "proto", "pkg", "services", "gateway").Output(); err == nil && len(dirty) > 0 {
		name += " and changes"
	}
	return name
}
