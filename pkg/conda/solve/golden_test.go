package solve

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

var shared = filepath.Join("..", "..", "..", "..", "shared", "data")

// openShared opens a compressed file of the data folder beside the repository, which is large and optional: what must
// always hold is tested on channels made here.
func openShared(t testing.TB, path ...string) io.ReadCloser {
	t.Helper()
	name := filepath.Join(append([]string{shared}, path...)...)
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no data at %s; the other tests still run", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	dec, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	return dec.IOReadCloser()
}

// realRepos are the two subdirs of a real channel that the goldens were made on.
var realRepos = sync.OnceValues(func() ([]Repo, error) {
	repos, err := readReal("linux-64", "noarch")
	for i := range repos {
		repos[i] = Repo{Channel: repos[i].Channel, Subdir: repos[i].Subdir, Packages: repos[i].All()}
	}
	return repos, err
})

var realIndex = sync.OnceValues(func() (*Index, error) {
	repos, err := realRepos()
	if err != nil {
		return nil, err
	}
	return NewIndex(repos)
})

func readReal(subdirs ...string) ([]Repo, error) {
	var repos []Repo
	for _, subdir := range subdirs {
		f, err := os.Open(filepath.Join(shared, "01-harvested-channels", "conda-forge", subdir, "repodata.json.zst"))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		dec, err := zstd.NewReader(f)
		if err != nil {
			return nil, err
		}
		defer dec.Close()
		repo, err := ReadRepo("conda-forge", subdir, dec, nil)
		if err != nil {
			return nil, err
		}
		repos = append(repos, repo)
	}
	return repos, nil
}

func realChannel(t testing.TB) *Index {
	t.Helper()
	ix, err := realIndex()
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no real channel: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

// goldenMachine is the machine that the goldens were made for.
var goldenMachine = []virtual.Package{
	{Name: "__archspec", Version: "1", Build: "x86_64_v3"},
	{Name: "__glibc", Version: "2.39", Build: "0"},
	{Name: "__linux", Version: "6.8.0", Build: "0"},
	{Name: "__unix", Version: "0", Build: "0"},
}

type golden struct {
	Specs    []string `json:"specs"`
	Packages []string `json:"packages"`
	Error    any      `json:"error"` // text or a list
}

const rattlerGoldens = "solve_golden.rattler-wasm-0.3.5.linux-64.jsonl.zst"

func goldens(t testing.TB, name string) []golden {
	sc := bufio.NewScanner(openShared(t, "04-vectors", name))
	sc.Buffer(nil, 8<<20)
	var out []golden
	for sc.Scan() {
		var g golden
		if err := json.Unmarshal(sc.Bytes(), &g); err != nil {
			t.Fatal(err)
		}
		out = append(out, g)
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func parseSpecs(t testing.TB, texts ...string) []matchspec.Spec {
	t.Helper()
	out := make([]matchspec.Spec, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = matchspec.Parse(text, matchspec.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func files(s *Solution) []string {
	out := make([]string, 0, len(s.Packages))
	for _, p := range s.Packages {
		out = append(out, p.Subdir+"/"+p.FileName)
	}
	slices.Sort(out)
	return out
}

func TestRealProblemsAreSolvedAsRattlerDoes(t *testing.T) {
	ix := realChannel(t)
	repos, err := realRepos()
	if err != nil {
		t.Fatal(err)
	}
	judge := newValidator(repos...)
	all := goldens(t, rattlerGoldens)
	for _, encoding := range []Encoding{Auto, Shared} {
		same, found := 0, map[string]bool{}
		for _, g := range all {
			r := Request{Specs: parseSpecs(t, g.Specs...), Virtual: goldenMachine, Encoding: encoding}
			sol, err := ix.Solve(t.Context(), r)
			var unsolvable *UnsolvableError
			if err != nil && !errors.As(err, &unsolvable) {
				t.Errorf("%v: %v", g.Specs, err)
				continue
			}
			if (err == nil) != (g.Error == nil) {
				t.Errorf("%v: solved is %v, the oracle says %v", g.Specs, err == nil, g.Error == nil)
				continue
			}
			if err != nil {
				same++
				continue
			}
			if problem := judge.judge(sol, &r); problem != "" {
				t.Errorf("%v: not valid: %s", g.Specs, problem)
			}
			if slices.Equal(files(sol), g.Packages) {
				same++
				continue
			}
			key := strings.Join(g.Specs, " ")
			found[key] = true
			if problem := explained(repos, key, encoding, sol, g.Packages); problem != "" {
				t.Errorf("%v: %s\n  ours    %v\n  theirs  %v", g.Specs, problem, except(files(sol), g.Packages), except(g.Packages, files(sol)))
			}
		}
		for key, d := range differences {
			if d.under(encoding) && !found[key] {
				t.Errorf("%v: equal by now, so the list of differences is out of date", key)
			}
		}
		t.Logf("%v: %d of %d problems have the same records as rattler 0.3.5", encoding, same, len(all))
	}
}

func except(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// versionIn finds the version of a name in a list of files.
func versionIn(list []string, name string) string {
	for _, f := range list {
		_, f, _ = strings.Cut(f, "/")
		stem, _ := splitFile(f)
		parts := strings.Split(stem, "-")
		if n := len(parts); n > 2 && strings.Join(parts[:n-2], "-") == name {
			return parts[n-2]
		}
	}
	return ""
}

// TestRealProblemsAreSolvedLikeLibmambaDoes is a sanity check: another solver with another idea of the best. It must
// agree on what can be solved, and nearly always on the versions of what was asked for.
func TestRealProblemsAreSolvedLikeLibmambaDoes(t *testing.T) {
	ix := realChannel(t)
	status, solved, sameRoots, sameVersions, sameRecords := 0, 0, 0, 0, 0
	all := goldens(t, "solve_golden.libmamba-2.8.1.linux-64.jsonl.zst")
	for _, g := range all {
		r := Request{Specs: parseSpecs(t, g.Specs...), Virtual: goldenMachine}
		sol, err := ix.Solve(t.Context(), r)
		if (err == nil) != (g.Error == nil) {
			t.Errorf("%v: solved is %v, libmamba says %v (%v)", g.Specs, err == nil, g.Error == "", err)
			continue
		}
		status++
		if err != nil {
			continue
		}
		solved++
		ours := files(sol)
		roots := true
		for _, spec := range r.Specs {
			name, _ := spec.ExactName()
			if a, b := versionIn(ours, name), versionIn(g.Packages, name); a != b {
				roots = false
				t.Logf("%v: %s is %s, libmamba's %s", g.Specs, name, a, b)
			}
		}
		versions := true
		for _, p := range sol.Packages {
			versions = versions && versionIn(g.Packages, p.Name) == p.Version
		}
		for n, ok := range map[*int]bool{&sameRoots: roots, &sameVersions: versions, &sameRecords: slices.Equal(ours, g.Packages)} {
			if ok {
				*n++
			}
		}
	}
	t.Logf("%d problems: status alike %d; of %d solved: requested versions alike %d, all of our versions %d, records %d",
		len(all), status, solved, sameRoots, sameVersions, sameRecords)
	if status != len(all) || sameRoots < solved-2 {
		t.Errorf("too many differences")
	}
}

func BenchmarkRealProblems(b *testing.B) {
	repos, err := readReal("linux-64", "noarch")
	if err != nil {
		b.Skip(err)
	}
	ix := index(b, repos...)
	var requests []Request
	for _, g := range goldens(b, rattlerGoldens) {
		requests = append(requests, Request{Specs: parseSpecs(b, g.Specs...), Virtual: goldenMachine})
	}
	var took []time.Duration
	for b.Loop() {
		for _, r := range requests {
			start := time.Now()
			ix.Solve(context.Background(), r)
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}

func BenchmarkNewIndex(b *testing.B) {
	if _, err := realIndex(); err != nil {
		b.Skip(err)
	}
	for b.Loop() {
		repos, err := readReal("linux-64", "noarch")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := NewIndex(repos); err != nil {
			b.Fatal(err)
		}
	}
}
