package lifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal records what happens, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// module takes a second to start and to stop.
func (j *journal) module(name string, needs ...string) lifecycle.Module {
	return lifecycle.Module{
		Name: name, Needs: needs,
		Start: func(context.Context) error { time.Sleep(time.Second); j.add("+%s", name); return nil },
		Stop:  func(context.Context) error { time.Sleep(time.Second); j.add("-%s", name); return nil },
	}
}

// bundle is a group of database, bus, and an api that needs both.
type bundle struct {
	g *lifecycle.Group
	j *journal
}

func setup(opts lifecycle.Options) bundle {
	b := bundle{lifecycle.New(opts), &journal{}}
	b.g.Add(b.j.module("api", "database", "bus"), b.j.module("database"))
	return b
}

func TestRun(t *testing.T) {
	t.Run("needs start first, independent modules together, and all stop in reverse", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(lifecycle.Options{})
			bus := b.j.module("bus")
			bus.Start = func(context.Context) error { time.Sleep(time.Second + 1); b.j.add("+bus"); return nil }
			bus.Stop = func(context.Context) error { time.Sleep(time.Second + 1); b.j.add("-bus"); return nil }
			b.g.Add(bus)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			began := time.Now()
			go func() { done <- b.g.Run(ctx) }()
			time.Sleep(1500 * time.Millisecond)
			if b.g.Ready() {
				t.Error("ready before all run")
			}
			time.Sleep(1500 * time.Millisecond)
			if !b.g.Ready() {
				t.Error("not ready although all run")
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"+database", "+bus", "+api", "-api", "-database", "-bus"}, b.j.lines); diff != "" {
				t.Error(diff)
			}
			if d := time.Since(began); d != 5*time.Second+1 {
				t.Errorf("it took %s, want two seconds up, one idle, two down", d)
			}
		})
	})

	t.Run("it is not ready for a while before anything stops", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(lifecycle.Options{DrainDelay: 5 * time.Second})
			b.g.Add(b.j.module("bus"))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- b.g.Run(ctx) }()
			time.Sleep(3 * time.Second)
			cancel()
			time.Sleep(4 * time.Second)
			if b.g.Ready() {
				t.Error("ready while draining")
			}
			for name, err := range b.g.Checks(t.Context()) {
				if err != nil {
					t.Errorf("%s stopped during the drain: %v", name, err)
				}
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	})

	t.Run("a failed start stops what runs and is returned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(lifecycle.Options{})
			boom := errors.New("boom")
			b.g.Add(lifecycle.Module{Name: "bus", Start: func(context.Context) error { time.Sleep(2 * time.Second); return boom }})
			err := b.g.Run(t.Context())
			if !errors.Is(err, boom) || !strings.Contains(err.Error(), "start bus") {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{"+database", "-database"}, b.j.lines); diff != "" {
				t.Error(diff)
			}
		})
	})

	t.Run("a start that hangs is abandoned when another fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := lifecycle.New(lifecycle.Options{})
			boom := errors.New("boom")
			g.Add(
				lifecycle.Module{Name: "slow", Start: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
				lifecycle.Module{Name: "broken", Start: func(context.Context) error { return boom }},
			)
			if err := g.Run(t.Context()); !errors.Is(err, boom) {
				t.Error(err)
			}
		})
	})

	t.Run("a later failure stops all, and only the first counts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(lifecycle.Options{})
			b.g.Add(b.j.module("bus"))
			boom := errors.New("boom")
			go func() {
				time.Sleep(10 * time.Second)
				b.g.Fail("database", boom)
				b.g.Fail("bus", errors.New("later"))
			}()
			err := b.g.Run(t.Context())
			if !errors.Is(err, boom) || err.Error() != "database: boom" {
				t.Error(err)
			}
			if len(b.j.lines) != 6 {
				t.Errorf("not all stopped: %v", b.j.lines)
			}
		})
	})

	t.Run("a start context lives until its module has stopped", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := lifecycle.New(lifecycle.Options{})
			var run context.Context
			g.Add(lifecycle.Module{
				Name:  "m",
				Start: func(ctx context.Context) error { run = ctx; return nil },
				Stop: func(context.Context) error {
					if run.Err() != nil {
						t.Error("ended before Stop")
					}
					return nil
				},
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := g.Run(ctx); err != nil {
				t.Error(err)
			}
			if run.Err() == nil {
				t.Error("alive after the group")
			}
		})
	})

	t.Run("a stop that overruns is reported, and the rest stop nevertheless", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(lifecycle.Options{})
			b.g.Add(b.j.module("bus"), lifecycle.Module{
				Name: "stuck", Needs: []string{"bus"}, StopTimeout: 3 * time.Second,
				Stop: func(context.Context) error { time.Sleep(time.Hour); return nil },
			})
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			err := b.g.Run(ctx)
			if !fault.Is(err, fault.Timeout) || !strings.Contains(err.Error(), "stop stuck: still running after 3s") {
				t.Error(err)
			}
			if len(b.j.lines) != 6 {
				t.Errorf("not all stopped: %v", b.j.lines)
			}
			time.Sleep(time.Hour) // the stuck one ends
		})
	})

	for _, c := range []struct {
		name    string
		modules []lifecycle.Module
		want    string
	}{
		{"a cycle", []lifecycle.Module{{Name: "a", Needs: []string{"b"}}, {Name: "b", Needs: []string{"c"}}, {Name: "c", Needs: []string{"b"}}}, "[b c b]"},
		{"an unknown need", []lifecycle.Module{{Name: "a", Needs: []string{"b"}}}, "a needs b"},
		{"a name used twice", []lifecycle.Module{{Name: "a"}, {Name: "a"}}, "called a"},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			g := lifecycle.New(lifecycle.Options{})
			g.Add(c.modules...)
			if err := g.Run(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sick := errors.New("sick")
		g := lifecycle.New(lifecycle.Options{})
		g.Add(
			lifecycle.Module{Name: "plain"},
			lifecycle.Module{Name: "sick", Check: func(context.Context) error { return sick }},
			lifecycle.Module{Name: "polite", Check: func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Nanosecond); return ctx.Err() }},
			lifecycle.Module{Name: "hung", Check: func(context.Context) error { time.Sleep(time.Minute); return nil }},
		)
		if err := g.Checks(t.Context())["plain"]; !fault.Is(err, fault.Unavailable) {
			t.Errorf("before the start: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		synctest.Wait()
		began := time.Now()
		first := g.Checks(t.Context())
		if d := time.Since(began); d != 1200*time.Millisecond {
			t.Errorf("the checks took %s", d)
		}
		if first["plain"] != nil || !errors.Is(first["sick"], sick) || !fault.Is(first["polite"], fault.Timeout) || !fault.Is(first["hung"], fault.Timeout) || len(first) != 4 {
			t.Errorf("answers %v", first)
		}
		time.Sleep(time.Millisecond)
		if err := g.Checks(t.Context())["hung"]; !fault.Is(err, fault.Unavailable) {
			t.Errorf("a second check beside a hung one: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // the hung one ends
	})
}

func TestChecksAtOnce(t *testing.T) {
	var runs atomic.Int64
	g := lifecycle.New(lifecycle.Options{})
	g.Add(lifecycle.Module{Name: "well", Check: func(context.Context) error { runs.Add(1); runtime.Gosched(); return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- g.Run(ctx) }()
	for !g.Ready() {
		runtime.Gosched()
	}
	var probes sync.WaitGroup
	for range 8 {
		probes.Go(func() {
			for range 500 {
				if err := g.Checks(ctx)["well"]; err != nil {
					t.Errorf("a probe beside others: %v", err)
					return
				}
			}
		})
	}
	probes.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if runs.Load() == 0 {
		t.Error("nothing was checked")
	}
}

func TestLockDir(t *testing.T) {
	t.Run("a second lock names the holder, and unlocking lets go", func(t *testing.T) {
		dir := t.TempDir()
		unlock, err := lifecycle.LockDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, err = lifecycle.LockDir(dir)
		if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d ", os.Getpid())) {
			t.Errorf("second lock: %v", err)
		}
		unlock()
		unlock()
		again, err := lifecycle.LockDir(dir)
		if err != nil {
			t.Fatalf("after unlock: %v", err)
		}
		again()
	})
	t.Run("an absent directory is an error", func(t *testing.T) {
		if _, err := lifecycle.LockDir(t.TempDir() + "/none"); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}
