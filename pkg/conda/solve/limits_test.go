package solve

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

// pigeons is a problem without an answer that learning alone cannot make short: n+1 packages want n places.
func pigeons(n int) Repo {
	var packages []*Package
	for p := range n + 1 {
		for h := range n {
			name := fmt.Sprintf("hole%d", h)
			packages = append(packages, pkg(fmt.Sprintf("pigeon%d %d", p, h), needs(fmt.Sprintf("%s %d", name, p))))
		}
	}
	for h := range n {
		for p := range n + 1 {
			packages = append(packages, pkg(fmt.Sprintf("hole%d %d", h, p), nil))
		}
	}
	var all []string
	for p := range n + 1 {
		all = append(all, fmt.Sprintf("pigeon%d", p))
	}
	return channel("c", append(packages, pkg("all 1", all))...)
}

func TestASmallPigeonholeProblemIsUnsolvable(t *testing.T) {
	_, err := index(t, pigeons(4)).Solve(t.Context(), Request{Specs: parseSpecs(t, "all")})
	var unsolvable *UnsolvableError
	if !errors.As(err, &unsolvable) || unsolvable.Stats.Conflicts == 0 {
		t.Errorf("got %v", err)
	}
}

// TestSudokuIsSolved solves a puzzle as a channel: a package for each cell, a version for each digit. Hardly any choice
// is right, and none because it is new.
func TestSudokuIsSolved(t *testing.T) {
	cell := func(y, x int) string { return fmt.Sprintf("cell_%d_%d", y, x) }
	var packages []*Package
	for i := range 81 * 9 {
		y, x, digit := i/81, i/9%9, i%9+1
		var depends []string
		for k := range 81 {
			v, u := k/9, k%9
			if (v == y || u == x || v/3 == y/3 && u/3 == x/3) && (v != y || u != x) {
				depends = append(depends, fmt.Sprintf("%s !=%d", cell(v, u), digit))
			}
		}
		packages = append(packages, pkg(fmt.Sprintf("%s %d", cell(y, x), digit), depends))
	}
	ix := index(t, channel("sudoku", packages...))
	given := []string{
		"53..7....", "6..195...", ".98....6.", "8...6...3", "4..8.3..1", "7...2...6", ".6....28.", "...419..5", "....8..79",
	}
	var specs []string
	for y, row := range given {
		for x, digit := range row {
			spec := cell(y, x)
			if digit != '.' {
				spec += fmt.Sprintf(" %c", digit)
			}
			specs = append(specs, spec)
		}
	}
	r := Request{Specs: parseSpecs(t, specs...)}
	sol, err := ix.Solve(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if problem := check(sol, &r); problem != "" {
		t.Error(problem)
	}
	var got strings.Builder
	for _, p := range sol.Packages { // sorted by name, that is, by row and column
		got.WriteString(p.Version)
	}
	want(t, got.String(), "534678912672195348198342567859761423426853791713924856961537284287419635345286179")
	t.Logf("%+v", sol.Stats)
}

func TestLimitsEndASolve(t *testing.T) {
	ix := index(t, pigeons(12))
	specs := parseSpecs(t, "all")
	start := time.Unix(1e9, 0)
	ticks := 0
	for what, r := range map[string]Request{
		"time": {Limits: Limits{Time: time.Second}, Now: func() time.Time {
			ticks++
			return start.Add(time.Duration(ticks) * 100 * time.Millisecond)
		}},
		"conflicts": {Limits: Limits{Conflicts: 100}},
		"memory":    {Limits: Limits{Memory: 50_000}},
	} {
		r.Specs = specs
		_, err := ix.Solve(t.Context(), r)
		var limit *LimitError
		if !errors.As(err, &limit) || limit.What != what {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func TestACancelIsHeardWithinMilliseconds(t *testing.T) {
	ix := index(t, pigeons(12))
	cause := errors.New("the user went away")
	ctx, cancel := context.WithCancelCause(context.Background())
	var cancelled time.Time
	var mu sync.Mutex
	calls := 0
	_, err := ix.Solve(ctx, Request{Specs: parseSpecs(t, "all"), Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == 50 { // well inside the search
			cancelled = time.Now()
			cancel(cause)
		}
		return time.Now()
	}})
	took := time.Since(cancelled)
	if !errors.Is(err, cause) {
		t.Fatalf("got %v", err)
	}
	// 10 ms is the promise; a loaded machine gets more.
	if took > 200*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	cancel(nil)
	if _, err := ix.Solve(ctx, Request{Specs: parseSpecs(t, "all")}); !errors.Is(err, cause) {
		t.Errorf("a solve began although its context had ended: %v", err)
	}
}

func TestOneIndexServesManySolvesAtOnce(t *testing.T) {
	setup := func() *Index {
		var packages []*Package
		for v := range 30 {
			packages = append(packages,
				pkg(fmt.Sprintf("a %d", v), needs(fmt.Sprintf("b <=%d", v), "c")), pkg(fmt.Sprintf("b %d", v), needs(fmt.Sprintf("c >=%d", v/2))),
				pkg(fmt.Sprintf("c %d", v), nil))
		}
		return index(t, channel("c", packages...))
	}
	request := func(i int) Request {
		r := Request{Specs: parseSpecs(t, "a", fmt.Sprintf("c <%d", 3+i%20)), Strategy: Strategy(i % 3)}
		if i%2 == 0 {
			r.Virtual = goldenMachine
		}
		return r
	}
	ix := setup()
	var wg sync.WaitGroup
	got := make([]*Solution, 60)
	for i := range got {
		wg.Go(func() {
			sol, err := ix.Solve(context.Background(), request(i))
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = sol
		})
	}
	wg.Wait()
	for i, sol := range got {
		alone, err := setup().Solve(t.Context(), request(i))
		if err != nil || sol == nil {
			t.Fatal(err)
		}
		if a, b := fmt.Sprint(files(sol)), fmt.Sprint(files(alone)); a != b {
			t.Errorf("request %d: %s together, %s alone", i, a, b)
		}
	}
}

func TestAnIndexKeepsNothingOfARequest(t *testing.T) {
	ix := index(t, channel("c", pkg("a 1", needs("b")), pkg("b 1", nil)))
	count := func() (n int) {
		n = len(ix.specs.byName)
		for _, v := range ix.views {
			for _, m := range []*sync.Map{&v.matches, &v.sorted, &v.bests, &v.ownDeps} {
				m.Range(func(any, any) bool { n++; return true })
			}
		}
		return n
	}
	solve(t, ix, Request{}, "a")
	before := count()
	for i := range 50 {
		solve(t, ix, Request{}, fmt.Sprintf("a <%d", i+2), fmt.Sprintf("b[when='a<%d']", i+2))
	}
	if after := count(); after != before {
		t.Errorf("%d things kept before, %d after", before, after)
	}
	for i := range 3 * maxViews {
		solve(t, ix, Request{Virtual: []virtual.Package{{Name: "__linux", Version: fmt.Sprint(i), Build: "0"}}}, "a")
	}
	if len(ix.views) > maxViews {
		t.Errorf("%d views", len(ix.views))
	}
}
