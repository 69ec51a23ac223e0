package synth

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

var machine = []virtual.Package{
	{Name: "__archspec", Version: "1", Build: "x86_64_v3"},
	{Name: "__glibc", Version: "2.39", Build: "0"},
	{Name: "__linux", Version: "6.8.0", Build: "0"},
	{Name: "__unix", Version: "0", Build: "0"},
}

func names(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("stub-%04d", i))
	}
	return out
}

func load(t *testing.T, dir string, roots []string) *solve.Index {
	t.Helper()
	src, err := gateway.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	res, err := gateway.Load(t.Context(), []gateway.Channel{{URL: "file:///synth", Source: src}}, gateway.Options{
		Subdirs: []string{"linux-64", "noarch"}, Names: roots, Problem: func(err error) { t.Error(err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ix, err := solve.NewIndex(res.Repos)
	if err != nil {
		t.Fatal(err)
	}
	return ix
}

func digest(records []Record) [32]byte {
	h := sha256.New()
	for i := range records {
		h.Write(records[i].JSON(nil))
	}
	return [32]byte(h.Sum(nil))
}

func TestAChannelFollowsFromItsSeed(t *testing.T) {
	o := Options{Seed: 1, Records: 5000, Names: names(200), Base: Made(1, 300)}
	one := Channel(o)
	if len(one) != 5000 || digest(one) != digest(Channel(o)) {
		t.Errorf("%d records, or others the second time", len(one))
	}
	o.Seed = 2
	if digest(one) == digest(Channel(o)) {
		t.Error("another seed makes the same channel")
	}
	real := 0
	for _, r := range one {
		if r.Generation == 0 {
			real++
		}
	}
	want := 0
	for _, repo := range o.Base {
		want += len(repo.Packages)
	}
	if real != want {
		t.Errorf("%d of %d true records are left", real, want)
	}
}

// TestEveryFormOfAChannelHasTheSameAnswers also shows that most copies can be installed; those for a Python that few have may not.
func TestEveryFormOfAChannelHasTheSameAnswers(t *testing.T) {
	records := Channel(Options{Seed: 3, Records: 3000, Names: names(100), Base: Made(3, 150)})
	dirs := map[string]Files{"json": {JSON: true}, "zst": {Zstd: true}, "shards": {Shards: true}}
	indexes := map[string]*solve.Index{}
	roots := []string{"lib0149", "lib0148", "lib0099", "stub-0007"}
	for name, files := range dirs {
		dir := t.TempDir()
		if err := Write(dir, records, files); err != nil {
			t.Fatal(err)
		}
		indexes[name] = load(t, dir, roots)
	}
	for _, root := range roots {
		want := ""
		for _, name := range []string{"json", "zst", "shards"} {
			sol, err := indexes[name].Solve(t.Context(), solve.Request{Specs: []matchspec.Spec{matchspec.MustParse(root)}, Virtual: machine})
			if err != nil {
				t.Fatalf("%s, %s: %v", name, root, err)
			}
			got := fmt.Sprint(sol.Packages)
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("%s, %s: %s, want %s", name, root, got, want)
			}
		}
	}
	solved, asked := 0, 0
	ix := indexes["json"]
	for i := range records {
		if r := &records[i]; r.Generation > 0 && i%17 == 0 {
			asked++
			spec := matchspec.MustParse(fmt.Sprintf("%s ==%s %s", r.Name, r.Version, r.Build))
			if _, err := ix.Solve(t.Context(), solve.Request{Specs: []matchspec.Spec{spec}, Virtual: machine}); err == nil {
				solved++
			}
		}
	}
	if asked < 50 || solved < asked/2 {
		t.Errorf("of %d copies %d can be installed", asked, solved)
	}
}

// TestARealBaseStaysAsHard compares conflicts and times of real problems on the true records and on a channel made of them.
func TestARealBaseStaysAsHard(t *testing.T) {
	shared := filepath.Join("..", "..", "..", "..", "..", "shared", "data", "01-harvested-channels", "conda-forge")
	var base []solve.Repo
	for _, subdir := range []string{"linux-64", "noarch"} {
		f, err := os.Open(filepath.Join(shared, subdir, "repodata.json.zst"))
		if errors.Is(err, fs.ErrNotExist) {
			t.Skipf("no true records: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		repo, err := solve.ReadRepo("real", subdir, dec, nil)
		dec.Close()
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		base = append(base, repo)
	}
	records := Channel(Options{Seed: 1, Records: 120_000, Base: base})
	var repos []solve.Repo
	for _, subdir := range []string{"linux-64", "noarch"} {
		var own []Record
		for _, r := range records {
			if r.Subdir == subdir {
				own = append(own, r)
			}
		}
		var buf bytes.Buffer
		if err := document(&buf, subdir, own); err != nil {
			t.Fatal(err)
		}
		repo, err := solve.ReadRepo("real", subdir, &buf, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		repos = append(repos, repo)
	}
	problems := [][]string{{"numpy"}, {"python=3.12", "pandas"}, {"scipy", "matplotlib-base"}, {"python=3.10", "numpy <2", "xarray"}, {"jupyterlab"}, {"gdal"}}
	run := func(repos []solve.Repo) (solved, conflicts int, p50 time.Duration) {
		ix, err := solve.NewIndex(repos)
		if err != nil {
			t.Fatal(err)
		}
		var took []time.Duration
		for _, specs := range problems {
			r := solve.Request{Virtual: machine}
			for _, s := range specs {
				r.Specs = append(r.Specs, matchspec.MustParse(s))
			}
			for range 2 { // the second time counts
				start := time.Now()
				sol, err := ix.Solve(t.Context(), r)
				took = append(took, time.Since(start))
				if err == nil {
					solved++
					conflicts += sol.Stats.Conflicts
				}
			}
		}
		slices.Sort(took)
		return solved, conflicts, took[len(took)/2]
	}
	s0, c0, t0 := run(base)
	s1, c1, t1 := run(repos)
	t.Logf("true records: %d solved, %d conflicts, p50 %v; %d records: %d solved, %d conflicts, p50 %v", s0, c0, t0, len(records), s1, c1, t1)
	if s1 != s0 || c1 > 20*c0+200 {
		t.Errorf("it is another kind of problem now: %d solved with %d conflicts, before %d with %d", s1, c1, s0, c0)
	}
}
