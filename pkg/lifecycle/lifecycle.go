// Package lifecycle starts the parts of a program in the order of their needs and stops them in reverse.
//
// A [Module] is one part with a name and what it needs. A [Group] of them
//
//   - starts every module as soon as what it needs runs, independent ones at the same time;
//   - is ready when all run, and no longer ready before the first one is stopped, so that balancers turn away in time;
//   - stops each module after everything that needs it, within its deadline;
//   - stops all when one fails, at its start or later (Fail), and returns that first failure.
//
// There is no registry and no injection: what a module hands to another is a variable in the function that makes both.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// checkTimeout is below the two seconds within which a part that stands still has to be named, with room for the way.
	checkTimeout = 1200 * time.Millisecond
	// defaultStopTimeout is what a module gets to stop if it does not say.
	defaultStopTimeout = 10 * time.Second
)

// Module is one part of a program.
type Module struct {
	// Name is unique in its group; health answers show it.
	Name string
	// Needs are the names of modules that run before this one starts and until it has stopped.
	Needs []string
	// Start returns when the module runs. Its context ends when the start is abandoned, else after Stop has returned, so
	// what the module keeps running may use it. nil does nothing.
	Start func(ctx context.Context) error
	// Stop ends what Start began, also when ctx (StopTimeout) ends first. It is called once, and only after a Start that
	// succeeded. nil does nothing.
	Stop func(ctx context.Context) error
	// StopTimeout bounds Stop; 0 means 10 s.
	StopTimeout time.Duration
	// Check says whether the module can do its work now; nil means that running is enough.
	Check func(ctx context.Context) error
}

// Options of a Group.
type Options struct {
	// Log is told what starts and stops, and how long it took; nil drops it.
	Log *slog.Logger
	// DrainDelay passes between not ready and the first Stop: the time that balancers take to notice.
	DrainDelay time.Duration
	// OnReady is told each time that readiness changes: once all run, and before the first one is stopped. It must not wait.
	OnReady func(ready bool)
}

// Group runs modules. Add them, then call Run once.
type Group struct {
	opts    Options
	modules []*part
	byName  map[string]*part

	ready atomic.Bool
	// failed holds the first failure; ended is closed with it.
	once   sync.Once
	failed error
	ended  chan struct{}
}

// part is a module with its progress.
type part struct {
	Module
	started chan struct{} // closed when Start has succeeded
	stopped chan struct{} // closed when it does not run (any more): its needs may stop
	running atomic.Bool
	users   []*part
	cancel  context.CancelCauseFunc

	mu       sync.Mutex
	checking *checking // that runs now
}

// checking is one run of a module's Check. Whoever asks meanwhile gets the same answer.
type checking struct {
	began time.Time
	done  chan struct{}
	err   error // once done is closed
}

// New returns an empty group.
func New(opts Options) *Group {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Group{opts: opts, byName: map[string]*part{}, ended: make(chan struct{})}
}

// Add adds modules; Run looks at their needs, so the order does not matter.
func (g *Group) Add(modules ...Module) {
	for _, m := range modules {
		g.modules = append(g.modules, &part{Module: m, started: make(chan struct{}), stopped: make(chan struct{})})
	}
}

// Ready reports whether all modules run and none is about to stop.
func (g *Group) Ready() bool { return g.ready.Load() }

func (g *Group) setReady(ready bool) (was bool) {
	if was = g.ready.Swap(ready); was != ready && g.opts.OnReady != nil {
		g.opts.OnReady(ready)
	}
	return was
}

// Fail reports that a module that runs has failed, which stops the group. Only the first failure counts.
func (g *Group) Fail(module string, err error) {
	g.fail(fmt.Errorf("%s: %w", module, err))
}

func (g *Group) fail(err error) {
	g.once.Do(func() {
		g.failed = err
		close(g.ended)
	})
}

// errStopping is the cause that modules see which were still starting.
var errStopping = errors.New("the program is stopping")

// Run starts the modules, waits until ctx ends or one fails, and stops them. It returns the first failure joined with
// what went wrong while stopping; nil if ctx ended and all stopped in time.
func (g *Group) Run(ctx context.Context) error {
	if err := g.resolve(); err != nil {
		return err
	}
	var starting sync.WaitGroup
	for _, p := range g.modules {
		// A module lives by its own context: ctx ends before the modules are stopped, in order.
		run, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		p.cancel = cancel
		starting.Go(func() {
			if err := g.start(ctx, run, p); err != nil {
				cancel(err)
				close(p.stopped)
				if !errors.Is(err, errStopping) {
					g.fail(fmt.Errorf("start %s: %w", p.Name, err))
				}
			}
		})
	}
	allRun := make(chan struct{})
	go func() { starting.Wait(); close(allRun) }()
	select {
	case <-allRun:
		select {
		case <-g.ended: // before it was ever ready
		default:
			if ctx.Err() == nil {
				g.setReady(true)
			}
		}
	case <-ctx.Done():
	case <-g.ended:
	}
	select {
	case <-ctx.Done():
	case <-g.ended:
	}
	wasReady := g.setReady(false)
	var first error
	select {
	case <-g.ended:
		first = g.failed
		g.opts.Log.Error("stopping after a failure", "error", first)
	default:
		g.opts.Log.Info("stopping", "cause", context.Cause(ctx))
		g.fail(errStopping) // lets go of modules that wait for their needs
	}
	if wasReady && g.opts.DrainDelay > 0 {
		time.Sleep(g.opts.DrainDelay)
	}
	return errors.Join(first, g.stop(allRun))
}

// start waits for the needs of a module and starts it.
func (g *Group) start(ctx, run context.Context, p *part) error {
	for _, need := range p.Needs {
		select {
		case <-g.byName[need].started:
		case <-g.ended:
			return errStopping
		case <-ctx.Done():
			return errStopping
		}
	}
	if ctx.Err() != nil {
		return errStopping
	}
	if p.Start != nil {
		began := time.Now()
		// While it starts, the end of the group ends it too.
		abandoned := make(chan struct{})
		go func() {
			select {
			case <-ctx.Done():
				p.cancel(errStopping)
			case <-g.ended:
				p.cancel(errStopping)
			case <-abandoned:
			}
		}()
		err := p.Start(run)
		close(abandoned)
		if err != nil {
			if errors.Is(context.Cause(run), errStopping) {
				return errStopping
			}
			return err
		}
		g.opts.Log.Info("started", "module", p.Name, "took", time.Since(began))
	}
	p.running.Store(true)
	close(p.started)
	return nil
}

// stop stops every module after its users, independent ones at the same time.
func (g *Group) stop(allRun <-chan struct{}) error {
	<-allRun // a Start that was abandoned returns first: then it is known whether there is something to stop
	errs := make([]error, len(g.modules))
	var stopping sync.WaitGroup
	for i, p := range g.modules {
		if !p.running.Load() {
			continue
		}
		stopping.Go(func() {
			for _, user := range p.users {
				<-user.stopped
			}
			errs[i] = g.stopOne(p)
			p.running.Store(false)
			p.cancel(errStopping)
			close(p.stopped)
		})
	}
	stopping.Wait()
	return errors.Join(errs...)
}

func (g *Group) stopOne(p *part) error {
	if p.Stop == nil {
		return nil
	}
	timeout := p.StopTimeout
	if timeout == 0 {
		timeout = defaultStopTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout) // the program's context has ended
	defer cancel()
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- p.Stop(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		// A moment for a Stop that heeds its context; one that does not is left behind, or nothing would ever end.
		select {
		case err = <-done:
		case <-time.After(time.Second):
			err = fault.New(fault.Timeout, "still running after %s", timeout)
		}
	}
	if err != nil {
		g.opts.Log.Error("stop failed", "module", p.Name, "error", err, "took", time.Since(began))
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	g.opts.Log.Info("stopped", "module", p.Name, "took", time.Since(began))
	return nil
}

// Checks asks all modules at the same time whether they can work, each for at most 1.2 s, and returns their answers by
// name; nil is health. While the group starts or stops, the modules that do not run answer so.
func (g *Group) Checks(ctx context.Context) map[string]error {
	answers := make([]error, len(g.modules))
	var asking sync.WaitGroup
	for i, p := range g.modules {
		asking.Go(func() { answers[i] = p.check(ctx) })
	}
	asking.Wait()
	all := make(map[string]error, len(g.modules))
	for i, p := range g.modules {
		all[p.Name] = answers[i]
	}
	return all
}

func (p *part) check(ctx context.Context) error {
	switch {
	case !p.running.Load():
		return fault.New(fault.Unavailable, "not running")
	case p.Check == nil:
		return nil
	}
	p.mu.Lock()
	c := p.checking
	if c == nil {
		c = &checking{began: time.Now(), done: make(chan struct{})}
		p.checking = c
		go p.runCheck(context.WithoutCancel(ctx), c) // others may wait for it when this one has gone
	}
	p.mu.Unlock()
	left := checkTimeout - time.Since(c.began)
	if left <= 0 {
		return fault.New(fault.Unavailable, "an earlier check still runs") // one at a time: probes must not pile up
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err
	case <-timer.C:
	case <-ctx.Done():
	}
	return fault.New(fault.Timeout, "no answer within %s", checkTimeout)
}

func (p *part) runCheck(ctx context.Context, c *checking) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	c.err = p.Check(ctx)
	p.mu.Lock()
	p.checking = nil // before anybody hears of it, so that who asks next asks anew
	p.mu.Unlock()
	close(c.done)
}

// resolve checks names and needs, and finds who uses whom.
func (g *Group) resolve() error {
	for _, p := range g.modules {
		if _, dup := g.byName[p.Name]; dup {
			return fault.New(fault.Internal, "two modules are called %s", p.Name)
		}
		g.byName[p.Name] = p
	}
	for _, p := range g.modules {
		for _, need := range p.Needs {
			used, ok := g.byName[need]
			if !ok {
				return fault.New(fault.Internal, "module %s needs %s, which does not exist", p.Name, need)
			}
			used.users = append(used.users, p)
		}
	}
	done := map[*part]bool{}
	for _, p := range g.modules {
		if err := g.cycle(p, nil, done); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) cycle(p *part, path []string, done map[*part]bool) error {
	if done[p] {
		return nil
	}
	if i := slices.Index(path, p.Name); i >= 0 {
		return fault.New(fault.Internal, "modules need each other: %v", append(path[i:], p.Name))
	}
	path = append(path, p.Name)
	for _, need := range p.Needs {
		if err := g.cycle(g.byName[need], path, done); err != nil {
			return err
		}
	}
	done[p] = true
	return nil
}
