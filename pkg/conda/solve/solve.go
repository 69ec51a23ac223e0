package solve

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Solution is a set of packages that meets a request.
type Solution struct {
	Packages []*Package          // sorted by name; virtual packages are not listed
	Extras   map[string][]string // groups of optional dependencies that were asked for, by package
	Stats    Stats
}

// Stats tell what a solve cost.
type Stats struct {
	Variables int
	Clauses   int
	Decisions int
	Conflicts int
	Rounds    int // more than one if conditions came true
}

// Solve finds the packages for a request. It is safe to call from many goroutines on one index.
//
// Errors: *[UnsolvableError] if there is no solution; *[LimitError] if a limit was reached; the cause of the context's
// end, within a few milliseconds; anything else is a request that makes no sense.
func (ix *Index) Solve(ctx context.Context, r Request) (*Solution, error) {
	if r.Now == nil {
		r.Now = time.Now
	}
	defer runtime.KeepAlive(ix) // its strings may lie in a mapped file
	b := newBudget(ctx, r.Limits, r.Now)
	if err := b.look(); err != nil {
		return nil, err
	}
	v, c, err := ix.compile(&r)
	if err != nil {
		return nil, err
	}
	if r.Encoding == Auto {
		b.patience = patience
		sol, err := ix.search(v, c, b, Plain)
		if !errors.Is(err, errImpatient) {
			return sol, err
		}
		b.patience, b.bytes = 0, 0
		r.Encoding = Shared
	}
	return ix.search(v, c, b, r.Encoding)
}

// search looks for a solution with one encoding.
func (ix *Index) search(v *view, c *compiled, b *budget, encoding Encoding) (*Solution, error) {
	e := newEncoder(v, c, b)
	defer ix.release(e.arrays)
	e.shared = encoding == Shared
	if err := e.encodeRoot(); err != nil {
		return nil, err
	}
	for {
		e.stats.Rounds++
		conflict, err := e.search()
		if err != nil {
			return nil, err
		}
		e.stats.Variables, e.stats.Clauses = len(e.value), len(e.clauses)
		if conflict >= 0 {
			return nil, e.explain(conflict)
		}
		more, err := e.encodeDeferred()
		if err != nil {
			return nil, err
		}
		if !more {
			return e.solution(), nil
		}
	}
}

func (e *encoder) solution() *Solution {
	out := &Solution{Stats: e.stats}
	for _, v := range e.trail {
		if id := e.candidates[v]; e.value[v] > 0 && id >= 0 {
			if c := e.view.cand(id); !c.virtual {
				out.Packages = append(out.Packages, e.request.file(c))
			}
		}
	}
	slices.SortFunc(out.Packages, func(a, b *Package) int { return strings.Compare(a.Name, b.Name) })
	for _, pseudo := range sortedKeys(e.extraIDs) {
		if e.value[e.extraIDs[pseudo]] > 0 {
			name, extra, _ := strings.Cut(strings.TrimSuffix(pseudo, "]"), "[")
			if out.Extras == nil {
				out.Extras = map[string][]string{}
			}
			out.Extras[name] = append(out.Extras[name], extra)
		}
	}
	return out
}
