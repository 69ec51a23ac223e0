package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/guard"
)

// scenario is one fault, and the guard that it rests on.
type scenario struct {
	name, title string
	// guard is the name of a constant of package guard.
	guard string
	// symptom is the promise that is broken when the guard is missing: it must not fail for another reason.
	symptom string
	do      func(ctx context.Context, r *run) error
}

// result is what came of one run.
type result struct {
	Scenario string `json:"scenario"`
	Title    string `json:"title"`
	// Without names the guard that the program lacked; empty for the program as it is.
	Without string `json:"without,omitempty"`
	// OK: it passed, or, without its guard, failed.
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// Done says what was done, and what was seen.
	Done       []string `json:"done"`
	Queued     int      `json:"jobs"`
	Terminal   int      `json:"jobs_ended"`
	Lost       int      `json:"jobs_lost"`
	LedgerRows int      `json:"ledger_rows"`
	// Recover is the time from the fault (a kill) or its end (an outage) until work goes on, in seconds.
	Recover float64 `json:"recover_seconds"`
	Reader  reading `json:"reader"`
	Elapsed float64 `json:"elapsed_seconds"`
}

// run is one run of one scenario.
type run struct {
	opts    *options
	s       scenario
	program string // built without the guard; empty: the programs as they are
	result  *result

	mu      sync.Mutex
	closers []func() error
}

func (r *run) tag() string {
	if r.program != "" {
		return r.s.name + "-no" // short: sockets lie below
	}
	return r.s.name
}

// worker is the program that does ledger jobs.
func (r *run) worker() string {
	if r.program != "" {
		return r.program
	}
	return r.opts.self
}

// n is a number that depends on how long the run may take. Without a guard small is enough.
func (r *run) n(quick, full int) int {
	if r.opts.quick || r.program != "" {
		return quick
	}
	return full
}

// patience is how long to wait for what must come; a program without its guard is not given as much.
func (r *run) patience(guarded, without time.Duration) time.Duration {
	if r.program != "" {
		return without
	}
	return guarded
}

func (r *run) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Done = append(r.result.Done, fmt.Sprintf(format, args...))
}

func (r *run) onClose(f func() error) { r.closers = append(r.closers, f) }

// recovered notes how long it took until work went on.
func (r *run) recovered(d time.Duration) {
	r.result.Recover = max(r.result.Recover, d.Seconds())
}

// setupError is an error that says nothing about the platform's promises.
type setupError struct{ error }

func setup(err error) error {
	if err == nil {
		return nil
	}
	return &setupError{err}
}

func (e *setupError) Unwrap() error { return e.error }

const (
	quickLimit = 3 * time.Minute
	fullLimit  = 15 * time.Minute
)

// execute runs a scenario and judges it.
func execute(ctx context.Context, o *options, s scenario, program string) *result {
	r := &run{opts: o, s: s, program: program, result: &result{Scenario: s.name, Title: s.title, Done: []string{}}}
	limit := fullLimit
	if o.quick || program != "" {
		limit = quickLimit
	}
	began := time.Now()
	inner, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the scenario takes longer than %s", limit))
	err := s.do(inner, r)
	cancel()
	for i := len(r.closers) - 1; i >= 0; i-- {
		if cerr := r.closers[i](); cerr != nil {
			err = errors.Join(err, setup(fmt.Errorf("clean up: %w", cerr)))
		}
	}
	res := r.result
	res.Elapsed = time.Since(began).Seconds()
	if err != nil {
		res.Error = err.Error()
	}
	res.OK = err == nil
	if program == "" {
		return res
	}
	res.Without = s.guard
	var unable *setupError
	switch {
	case err == nil:
		res.OK, res.Error = false, "it passes without its guard: it proves nothing"
	case errors.As(err, &unable):
	default:
		res.OK = slices.Contains(allBroken(err), s.symptom)
		if !res.OK {
			res.Error = fmt.Sprintf("it should have failed because %s: %s", s.symptom, res.Error)
		}
	}
	return res
}

// runAll runs the scenarios, some at a time, each as it is and then without its guard.
func runAll(ctx context.Context, o *options, chosen []scenario, out io.Writer) []*result {
	slots := make(chan struct{}, o.parallel)
	if o.quick && o.unguard {
		// Sixteen programs would take as long to build as all the rest: one that can be told which guard to leave out.
		var err error
		if o.unguarded, err = build(ctx, o, "unguarded"); err != nil {
			return []*result{{Scenario: "build", Title: "a program without guards", Error: err.Error()}}
		}
	}
	var wg sync.WaitGroup
	results := make([]*result, 0, 2*len(chosen))
	var mu sync.Mutex
	// The long ones first, so that none is left alone at the end.
	chosen = slices.Clone(chosen)
	slices.SortStableFunc(chosen, func(a, b scenario) int { return cmp.Compare(slow[b.name], slow[a.name]) })
	start := func(s scenario, program string) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if ctx.Err() != nil {
				return
			}
			res := execute(ctx, o, s, program)
			mu.Lock()
			defer mu.Unlock()
			results = append(results, res)
			printResult(out, res)
		})
	}
	for _, s := range chosen {
		start(s, "")
	}
	if o.unguard {
		for _, s := range chosen {
			program, err := buildWithout(ctx, o, s.guard)
			if err != nil {
				mu.Lock()
				results = append(results, &result{Scenario: s.name, Title: s.title, Without: s.guard, Error: err.Error()})
				mu.Unlock()
				continue
			}
			start(s, program)
		}
	}
	wg.Wait()
	return results
}

// buildWithout returns this program without a guard.
func buildWithout(ctx context.Context, o *options, name string) (string, error) {
	if o.unguarded != "" {
		return o.unguarded, nil
	}
	for _, g := range guard.All {
		if g.Name == name {
			return build(ctx, o, g.Tag)
		}
	}
	return "", fmt.Errorf("there is no guard %s", name)
}

// build builds this program with a tag. The build cache makes all but the packages around the guards cheap.
func build(ctx context.Context, o *options, tag string) (string, error) {
	program := filepath.Join(o.root, "chaos-"+tag)
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-tags", tag, "-ldflags=-s -w", "-o", program, "./services/cmd/chaos")
	cmd.Dir, cmd.Env = o.source, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build with -tags %s: %w\n%s", tag, err, text)
	}
	return program, nil
}
