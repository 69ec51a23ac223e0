package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/services/cmd/bench/synth"
)

const (
	hotRounds        = 4 // of each problem; the first does not count
	synthRecords     = 500_000
	solvePlatform    = "linux-64"
	coldProblem      = "python=3.12 pandas scipy"
	sharedDataFolder = "../shared/data"
)

// solveMachine is the machine that the problems were written for.
var solveMachine = [][3]string{{"__archspec", "1", "x86_64_v3"}, {"__glibc", "2.39", "0"}, {"__linux", "6.8.0", "0"}, {"__unix", "0", "0"}}

//go:embed solve_oracle.py
var rattlerSolves string

// solvePart times solves: of given problems with everything in memory, beside py-rattler, and of one in a fresh process.
func (b *bench) solvePart(ctx context.Context) (*report, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(root, sharedDataFolder)
	base, problems, names, err := realProblems(data)
	if err != nil {
		return nil, fmt.Errorf("%w (the true records and problems of %s are needed)", err, sharedDataFolder)
	}
	python := filepath.Join(root, ".venv", "bin", "python")
	if out, err := exec.CommandContext(ctx, python, "-c", "import rattler").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("py-rattler is needed: make e2e brings it (%w: %s)", err, out)
	}
	dir, err := b.tempDir("solve")
	if err != nil {
		return nil, err
	}
	channels := map[string]int{"35k": 0, "500k": synthRecords}
	for name, n := range channels {
		if err := writeChannels(filepath.Join(dir, name), synth.Options{Seed: 1, Records: n, Base: base, Names: names}); err != nil {
			return nil, err
		}
	}
	r := &report{
		Title: "Solving",
		Load: fmt.Sprintf("%d problems on %s + noarch of a real channel, %d times each with everything in memory, of which the first does not count and the best of the others does, in both "+
			"programs by turns of a run; then %q in a fresh process, no cache unless said so, on that channel and on one of %d records that was made of it (seed 1)",
			len(problems), solvePlatform, hotRounds, coldProblem, synthRecords),
		Durability: "none: nothing is written but caches",
		Notes:      []string{b.oracleVersion(ctx, python)},
	}
	r.Runs = min(b.runs, fewRuns)
	rows := newRows(r)
	rows.goals = solveGoals()
	for run := range r.Runs {
		fmt.Printf("run %d\n", run+1)
		if err := b.hotSolves(ctx, rows, python, filepath.Join(dir, "35k", "json"), problems); err != nil {
			return nil, err
		}
		for _, name := range []string{"35k", "500k"} {
			if err := b.coldSolves(ctx, rows, python, name, filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

func (b *bench) oracleVersion(ctx context.Context, python string) string {
	out, err := exec.CommandContext(ctx, python, "-c", "import importlib.metadata as m; print(m.version('py-rattler'))").Output()
	if err != nil {
		return "py-rattler of unknown version"
	}
	return "py-rattler " + strings.TrimSpace(string(out))
}

// realProblems reads the true records, the problems given for them, and the names of packages.
func realProblems(data string) (base []solve.Repo, problems [][]string, names []string, err error) {
	for _, subdir := range []string{solvePlatform, "noarch"} {
		err := readZstd(filepath.Join(data, "01-harvested-channels", "conda-forge", subdir, "repodata.json.zst"), func(r io.Reader) error {
			repo, err := solve.ReadRepo("real", subdir, r, nil)
			base = append(base, repo)
			return err
		})
		if err != nil {
			return nil, nil, nil, err
		}
	}
	err = readZstd(filepath.Join(data, "04-vectors", "solve_golden.rattler-wasm-0.3.5.linux-64.jsonl.zst"), func(r io.Reader) error {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, 8<<20)
		for sc.Scan() {
			var p struct{ Specs []string }
			if err := json.Unmarshal(sc.Bytes(), &p); err != nil {
				return err
			}
			problems = append(problems, p.Specs)
		}
		return sc.Err()
	})
	if err != nil {
		return nil, nil, nil, err
	}
	err = readZstd(filepath.Join(data, "07-names", "conda-forge-output-names.txt.zst"), func(r io.Reader) error {
		text, err := io.ReadAll(r)
		names = strings.Fields(string(text))
		return err
	})
	return base, problems, names, err
}

func readZstd(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	dec, err := zstd.NewReader(f)
	if err != nil {
		return err
	}
	defer dec.Close()
	return read(dec)
}

// writeChannels writes a channel three times: as a plain document, compressed, and as shards.
func writeChannels(dir string, o synth.Options) error {
	records := synth.Channel(o)
	for form, files := range map[string]synth.Files{"json": {JSON: true}, "zst": {Zstd: true}, "shards": {Shards: true}} {
		if err := synth.Write(filepath.Join(dir, form), records, files); err != nil {
			return err
		}
	}
	return nil
}

// hotSolves times the problems in a process of ours and in one of py-rattler.
func (b *bench) hotSolves(ctx context.Context, rows *rowSet, python, channel string, problems [][]string) error {
	ours, err := b.ourSolves(ctx, channel, problems)
	if err != nil {
		return err
	}
	theirs, err := rattlerTimes(ctx, python, "hot", channel, problems)
	if err != nil {
		return err
	}
	within, worst := 0, 0.0
	for i := range ours {
		ratio := ours[i] / theirs[i]
		if ratio <= 1 {
			within++
		}
		worst = max(worst, ratio)
	}
	for name, list := range map[string][]float64{"entrepot": ours, "py-rattler": theirs} {
		sorted := slices.Sorted(slices.Values(list))
		n := len(sorted)
		rows.add("solve: p50, "+name, sorted[n/2])
		rows.add("solve: p95, "+name, sorted[n*95/100])
		rows.add("solve: greatest, "+name, sorted[n-1])
	}
	rows.add("solve: problems at or under py-rattler's time", 100*float64(within)/float64(len(ours)))
	rows.add("solve: greatest share of py-rattler's time", worst)
	return nil
}

// solveArgs are those of a solve for the machine of the problems.
func solveArgs(channel string, more ...string) []string {
	args := []string{"conda", "solve", "--quiet", "--json", "--platform", solvePlatform, "-c", channel}
	for _, v := range solveMachine {
		args = append(args, "--virtual-package", v[0]+"="+v[1]+"="+v[2])
	}
	return append(args, more...)
}

// solveAnswer is what a solve prints, as far as it matters here.
type solveAnswer struct {
	Status  string `json:"status"`
	Error   string `json:"error"`
	Timings struct {
		Solve float64 `json:"solve"`
	} `json:"timings_ms"`
}

func (b *bench) ourSolves(ctx context.Context, channel string, problems [][]string) ([]float64, error) {
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	for range hotRounds {
		for _, specs := range problems {
			if err := enc.Encode(map[string][]string{"specs": specs}); err != nil {
				return nil, err
			}
		}
	}
	cmd := exec.CommandContext(ctx, b.binary, solveArgs(channel, "--batch")...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	best := make([]float64, len(problems))
	dec := json.NewDecoder(bytes.NewReader(out))
	for i := range hotRounds * len(problems) {
		var a solveAnswer
		if err := dec.Decode(&a); err != nil {
			return nil, err
		}
		if a.Status != "solved" && a.Status != "unsolvable" {
			return nil, fmt.Errorf("%v: %s %s", problems[i%len(problems)], a.Status, a.Error)
		}
		switch at := i % len(problems); {
		case i < len(problems):
		case i < 2*len(problems):
			best[at] = a.Timings.Solve
		default:
			best[at] = min(best[at], a.Timings.Solve)
		}
	}
	return best, nil
}

// rattlerTimes asks py-rattler the same in the same way.
func rattlerTimes(ctx context.Context, python, mode, channel string, problems [][]string) ([]float64, error) {
	question, err := json.Marshal(map[string]any{
		"mode": mode, "channel": channel, "platform": solvePlatform, "virtual": solveMachine, "problems": problems, "rounds": hotRounds,
	})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, "-B", "-c", rattlerSolves)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(question), &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var times []float64
	if err := json.Unmarshal(out, &times); err != nil {
		return nil, err
	}
	if len(times) != len(problems) {
		return nil, fmt.Errorf("py-rattler answered %d of %d problems", len(times), len(problems))
	}
	return times, nil
}

// coldSolves times fresh processes: on a directory and over HTTP, with each form of index, and from our own cache.
func (b *bench) coldSolves(ctx context.Context, rows *rowSet, python, name, dir string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	files := http.FileServer(http.Dir(dir))
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		files.ServeHTTP(w, r)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener) }()
	defer func() {
		srv.Close()
		<-done
	}()
	cache, err := b.tempDir("solve-cache")
	if err != nil {
		return err
	}
	url := "http://" + listener.Addr().String()
	for _, form := range []string{"json", "zst", "shards"} {
		specs := strings.Fields(coldProblem)
		for _, way := range []struct {
			name string
			args []string
		}{
			{form + " in a directory", solveArgs(filepath.Join(dir, form), specs...)},
			{form + " over HTTP", solveArgs(url+"/"+form, append([]string{"--no-cache"}, specs...)...)},
			{"", solveArgs(url+"/"+form, append([]string{"--cache-dir", cache}, specs...)...)}, // fills the cache
			{form + " over HTTP, cached", solveArgs(url+"/"+form, append([]string{"--cache-dir", cache}, specs...)...)},
		} {
			seconds, peak, err := freshProcess(ctx, b.binary, way.args...)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", name, way.name, err)
			}
			if way.name == "" {
				continue
			}
			rows.add("cold start, "+name+", "+way.name, seconds)
			rows.add("memory, cold start, "+name+", "+way.name, peak)
		}
	}
	question, err := json.Marshal(map[string]any{
		"mode": "cold", "channel": filepath.Join(dir, "json"), "platform": solvePlatform, "virtual": solveMachine, "problems": [][]string{strings.Fields(coldProblem)}, "rounds": 1,
	})
	if err != nil {
		return err
	}
	seconds, peak, err := freshProcess(ctx, python, "-B", "-c", rattlerSolves, string(question))
	if err != nil {
		return fmt.Errorf("py-rattler: %w", err)
	}
	rows.add("cold start, "+name+", py-rattler, json in a directory", seconds)
	rows.add("memory, cold start, "+name+", py-rattler, json in a directory", peak)
	return nil
}

// freshProcess runs a command and returns its wall time in seconds and the most memory that it had resident, in MiB. What
// wait4(2) tells counts what this process has, too, of which the new one is a copy until it loads its program; so the peak
// is read while it runs, every few milliseconds.
func freshProcess(ctx context.Context, name string, args ...string) (seconds, peak float64, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			if mib, err := peakMiB(cmd.Process.Pid); err == nil {
				peak = max(peak, mib)
			}
		}
	}()
	err = cmd.Wait()
	seconds = time.Since(begin).Seconds()
	close(ended)
	<-watched
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return seconds, peak, nil
}

// solveGoals are the figures of this part.
func solveGoals() map[string]goal {
	g := map[string]goal{
		"solve: p50, entrepot":                          {unit: "ms", atMost: 20},
		"solve: p95, entrepot":                          {unit: "ms", atMost: 150},
		"solve: greatest, entrepot":                     {unit: "ms"},
		"solve: p50, py-rattler":                        {unit: "ms"},
		"solve: p95, py-rattler":                        {unit: "ms"},
		"solve: greatest, py-rattler":                   {unit: "ms"},
		"solve: problems at or under py-rattler's time": {unit: "%", atLeast: 100},
		"solve: greatest share of py-rattler's time":    {unit: "of it", atMost: 1},
	}
	for name, limit := range map[string][2]float64{"35k": {0.2, 0}, "500k": {1, 250}} {
		for _, form := range []string{"json", "zst", "shards"} {
			for _, way := range []string{" in a directory", " over HTTP", " over HTTP, cached"} {
				g["cold start, "+name+", "+form+way] = goal{unit: "s", atMost: limit[0]}
				g["memory, cold start, "+name+", "+form+way] = goal{unit: "MiB VmHWM", atMost: limit[1]}
			}
		}
		g["cold start, "+name+", py-rattler, json in a directory"] = goal{unit: "s"}
		g["memory, cold start, "+name+", py-rattler, json in a directory"] = goal{unit: "MiB VmHWM"}
	}
	return g
}
