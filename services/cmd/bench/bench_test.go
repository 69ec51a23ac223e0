package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const wrkAnswer = `Running 5s test @ http://127.0.0.1:8000/
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.52ms    3.17ms  59.30ms   93.11%
    Req/Sec    10.96k     1.61k   14.50k    70.00%
  Latency Distribution
     50%    0.98ms
     75%    1.56ms
     90%    2.61ms
     99%    1.50s 
  109280 requests in 5.00s, 145.70MB read
Requests/sec:  21856.01
Transfer/sec:     29.14MB
`

func TestParseWrk(t *testing.T) {
	used := cpu{self: 5 * time.Second, children: 464 * time.Millisecond}
	got, err := parseWrk(wrkAnswer, used)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(load{rate: 21856.01, p99: 1500, cpu: 50}, got, cmp.AllowUnexported(load{})); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{
		wrkAnswer + "  Non-2xx or 3xx responses: 3\n",
		strings.Replace(wrkAnswer, "Requests/sec", "  Socket errors: connect 0, read 1, write 0, timeout 0\nRequests/sec", 1),
		strings.Replace(wrkAnswer, "109280 requests", "0 requests", 1),
		"",
	} {
		if l, err := parseWrk(bad, used); err == nil {
			t.Errorf("took %v from a run that failed:\n%s", l, bad)
		}
	}
}

func TestRowsKeepMedianAndAim(t *testing.T) {
	r := &report{}
	rows := newRows(r)
	for _, v := range []float64{1600, 1400, 1700, 1650} {
		rows.add("first sync", v)
	}
	rows.add("re-sync", 51)
	yes, no := true, false
	want := []*row{
		{Name: "first sync", Unit: "packages/s", Values: []float64{1600, 1400, 1700, 1650}, Median: 1625, Min: 1400, Max: 1700, Aim: "≥ 1,500", Met: &yes, Beside: "Quetz 6–14"},
		{Name: "re-sync", Unit: "ms", Values: []float64{51}, Median: 51, Min: 51, Max: 51, Aim: "≤ 50", Met: &no, Beside: "Quetz 35,000"},
	}
	if diff := cmp.Diff(want, r.Rows); diff != "" {
		t.Error(diff)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{1234567.8: "1,234,568", 1000: "1,000", 999.6: "1000", 12.34: "12.3", 50: "50", 0.5: "0.5", 0.123: "0.12", 3: "3"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestRenderTakesTheNewestReportOfEachPart(t *testing.T) {
	docs := t.TempDir()
	for day, load := range map[int]string{3: "the old load", 21: "the new load"} {
		r := &report{Part: "sync", Title: "Mirroring", Time: time.Date(2026, 11, day, 0, 0, 0, 0, time.UTC), Load: load}
		newRows(r).add("re-sync", float64(day))
		if _, err := r.write(filepath.Join(docs, "benchmarks")); err != nil {
			t.Fatal(err)
		}
	}
	if err := render(docs); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(docs, "benchmarks.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| re-sync | ms | 21 | 21 … 21 | 1 | ≤ 50, met | Quetz 35,000 |", "the new load", "(benchmarks/2026-11-21-sync.json)"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(string(page), "the old load") {
		t.Error("the page has a report that a newer one replaces")
	}
}

func TestMemoryIsNoDisk(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip("no /dev/shm here")
	}
	if fsType, _, err := mountOf("/dev/shm"); err != nil || !strings.HasPrefix(fsType, "tmpfs") {
		t.Skipf("/dev/shm is %s: %v", fsType, err)
	}
	if m, err := describeMachine("/dev/shm"); err == nil {
		t.Errorf("took %v for a disk", m)
	}
}

func TestProcessorTimeOfChildrenCounts(t *testing.T) {
	if _, err := os.Stat("/proc/self/task"); err != nil {
		t.Skip("needs /proc")
	}
	before, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	// The shell works itself and in a child, and both have ended when the second reading is made.
	if out, err := exec.Command("sh", "-c", "n=0; while [ $n -lt 200000 ]; do n=$((n+1)); done; sh -c 'n=0; while [ $n -lt 200000 ]; do n=$((n+1)); done'").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	after, err := cpuOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used := after.sub(before); used.children <= 0 {
		t.Errorf("children used %v", used)
	}
}

func TestPackagesHaveAboutTheSizeAskedFor(t *testing.T) {
	for _, size := range sizes[:2] {
		p, err := makeSized("file", newRand(), size.bytes)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(p.data); n < size.bytes*95/100 || n > size.bytes*105/100 {
			t.Errorf("%s has %d bytes", size.name, n)
		}
	}
}
