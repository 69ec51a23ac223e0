package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/<pid>/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpu is the processor time that a server has used so far, its own and that of its children.
type cpu struct{ self, children time.Duration }

func (c cpu) sub(o cpu) cpu { return cpu{c.self - o.self, c.children - o.children} }

// cpuOf adds up the processor time of a process, and of all that descends from it. Time of children that have ended is
// in their parent's account, so that none is lost or counted twice between two readings.
func cpuOf(pid int) (cpu, error) {
	own, reaped, err := times(pid)
	if err != nil {
		return cpu{}, err
	}
	sum := cpu{self: own, children: reaped}
	for _, child := range childrenOf(pid) {
		c, err := cpuOf(child)
		if err != nil {
			continue // it has ended since, and is in its parent's account at the next reading
		}
		sum.children += c.self + c.children
	}
	return sum, nil
}

// times returns what a process has used itself and what its reaped children had (proc_pid_stat(5), fields 14 to 17).
func times(pid int) (own, reaped time.Duration, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name in field 2 may hold spaces and parentheses; what follows its last parenthesis is numbers.
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(f) < 15 {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f)+2)
	}
	var ticks [4]int64
	for i := range ticks {
		if ticks[i], err = strconv.ParseInt(f[11+i], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	return time.Duration(ticks[0]+ticks[1]) * clockTick, time.Duration(ticks[2]+ticks[3]) * clockTick, nil
}

func childrenOf(pid int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is well-formed
	for _, t := range tasks {
		data, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		for _, s := range strings.Fields(string(data)) {
			if n, err := strconv.Atoi(s); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// descendants lists all processes below pid.
func descendants(pid int) (pids []int) {
	for _, c := range childrenOf(pid) {
		pids = append(append(pids, c), descendants(c)...)
	}
	return pids
}

// peakMiB returns the most memory that a process has had resident.
func peakMiB(pid int) (float64, error) {
	v, ok := field(fmt.Sprintf("/proc/%d/status", pid), "VmHWM")
	if !ok {
		return 0, fmt.Errorf("process %d has no VmHWM", pid)
	}
	kib, err := strconv.ParseFloat(strings.TrimSuffix(v, " kB"), 64)
	return kib / 1024, err
}

// sharedMiB returns the memory of several processes together, shared pages counted once (smaps_rollup, Pss). Processes
// that have ended meanwhile count nothing.
func sharedMiB(pids []int) (sum float64) {
	for _, pid := range pids {
		if v, ok := field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss"); ok {
			if kib, err := strconv.ParseFloat(strings.TrimSuffix(v, " kB"), 64); err == nil {
				sum += kib / 1024
			}
		}
	}
	return sum
}
