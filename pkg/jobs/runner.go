package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// RunnerConfig says what a Runner does and how it lives.
type RunnerConfig struct {
	Pool     *pgxpool.Pool
	Bus      *bus.Bus
	Registry *Registry
	// Kinds narrows the registry; empty means all of it.
	Kinds []string
	// Slots overrides KindSpec.Concurrency per kind; 0 or less leaves the kind out.
	Slots map[string]int
	// Name is unique among runners; default host, process and a random part, and "@" and the instance if there is one.
	Name string
	// Instance names a place where at most one process lives at a time, such as a locked data directory. Whoever starts a
	// runner with it vouches that the one before is dead, and Start takes back at once what that one held: a restarted
	// process goes on without waiting for its leases. Empty means that nothing is known of earlier runners.
	Instance string
	// LeaseTTL is how long a vanished worker keeps its job. It beats three times as often; a worker that cannot reach
	// the database for this long gives up by itself. Default 30 s.
	LeaseTTL time.Duration
	// Poll is how often free slots ask the stream without having been woken. Default 2 s.
	Poll time.Duration
	// Replicas of the job streams: 1 with the embedded server, 3 in a cluster, the same as the dispatchers'. Default 1.
	Replicas int
	// CancelGrace is how long a job may take to return after its context has ended by Stop. Default 5 s.
	CancelGrace time.Duration
	Logger      *slog.Logger
	Tracer      trace.TracerProvider
	Meter       metric.MeterProvider
	// Now is this process's clock; nil means time.Now. Only durations are taken from it: what several processes compare
	// goes by the database's.
	Now func() time.Time
	// Rand returns numbers in [0, 1) that spread backoffs.
	Rand func() float64
}

func (c *RunnerConfig) defaults() {
	if c.Name == "" {
		host, _ := os.Hostname() // only a label: the random part makes it unique
		c.Name = fmt.Sprintf("%s/%d/%s", host, os.Getpid(), uuid.NewString()[:8])
		if c.Instance != "" {
			c.Name += "@" + c.Instance
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.LeaseTTL <= 0 {
		c.LeaseTTL = 30 * time.Second
	}
	if c.Poll <= 0 {
		c.Poll = 2 * time.Second
	}
	if c.CancelGrace <= 0 {
		c.CancelGrace = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Tracer == nil {
		c.Tracer = otel.GetTracerProvider()
	}
	if c.Meter == nil {
		c.Meter = otel.GetMeterProvider()
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
}

// Runner is a pool of slots in which jobs run.
type Runner struct {
	cfg     RunnerConfig
	log     *slog.Logger
	events  *events
	tracer  trace.Tracer
	metrics *runMetrics
	pools   []*slotPool
	beatNow chan struct{}

	mu       sync.Mutex
	running  map[taskKey]*task
	started  bool
	stopping bool
	stopOnce sync.Once
	stopped  chan struct{}

	fetchers  sync.WaitGroup // end when fetching stops
	workers   sync.WaitGroup // one per job in hand
	beats     sync.WaitGroup
	work      context.Context // of all jobs
	stopWork  context.CancelCauseFunc
	stopFetch context.CancelFunc
	stopBeats context.CancelFunc
	subs      []*bus.Subscription
}

type taskKey struct {
	job   uuid.UUID
	claim int64
}

// NewRunner checks the configuration and returns a runner that has not started.
func NewRunner(cfg RunnerConfig) (*Runner, error) {
	cfg.defaults()
	if cfg.Pool == nil || cfg.Bus == nil || cfg.Registry == nil {
		return nil, fault.New(fault.Internal, "a runner needs a pool, a bus and a registry")
	}
	kinds := cfg.Kinds
	if len(kinds) == 0 {
		kinds = cfg.Registry.Kinds()
	}
	metrics, err := newRunMetrics(cfg.Meter)
	if err != nil {
		return nil, err
	}
	r := &Runner{
		cfg: cfg, log: cfg.Logger.With("runner", cfg.Name), events: &events{bus: cfg.Bus}, metrics: metrics,
		tracer:  cfg.Tracer.Tracer(scope),
		beatNow: make(chan struct{}, 1), running: make(map[taskKey]*task), stopped: make(chan struct{}),
	}
	for _, kind := range kinds {
		k, ok := cfg.Registry.get(kind)
		if !ok {
			return nil, fault.New(fault.Invalid, "job kind %s is not known here", kind)
		}
		slots := k.spec.Concurrency
		if n, ok := cfg.Slots[kind]; ok {
			slots = n
		}
		if slots > 0 {
			r.pools = append(r.pools, newSlotPool(r, k, slots))
		}
	}
	return r, nil
}

// ackWait is when JetStream gives a message to somebody else. Later than the lease, or it would come for nothing.
func (r *Runner) ackWait() time.Duration { return r.cfg.LeaseTTL + r.cfg.LeaseTTL/2 }

// Start begins to fetch and run jobs; it returns at once if the database answers. JetStream may still be away. The
// runner goes on after ctx has ended, until Stop.
func (r *Runner) Start(ctx context.Context) error {
	r.mu.Lock()
	if r.started {
		r.mu.Unlock()
		return fault.New(fault.Internal, "runner %s has been started before", r.cfg.Name)
	}
	r.started = true
	r.mu.Unlock()
	base := context.WithoutCancel(ctx)
	r.work, r.stopWork = context.WithCancelCause(base)
	var fetch, beats context.Context
	fetch, r.stopFetch = context.WithCancel(base)
	beats, r.stopBeats = context.WithCancel(base)
	if err := errors.Join(r.introduce(ctx), r.reclaim(ctx), r.announceOnce(ctx)); err != nil {
		r.Stop(ctx)
		return fmt.Errorf("announce slots: %w", pg.Classify(err))
	}
	for _, s := range []struct {
		subject string
		handle  func(context.Context, *nats.Msg)
	}{{subjectWake + "*", r.onWake}, {subjectCancel + "*", r.onCancel}} {
		sub, err := r.cfg.Bus.Subscribe(base, s.subject, s.handle)
		if err != nil {
			r.Stop(ctx)
			return err
		}
		r.subs = append(r.subs, sub)
	}
	r.beats.Go(func() { r.beatLoop(beats) })
	for _, p := range r.pools {
		r.fetchers.Go(func() { p.loop(fetch) })
	}
	return nil
}

func (r *Runner) onWake(_ context.Context, msg *nats.Msg) {
	kind := strings.TrimPrefix(msg.Subject, subjectWake)
	for _, p := range r.pools {
		if token(p.spec.Kind) == kind {
			p.wakeUp()
		}
	}
}

// onCancel only makes the next beat come at once: the flag is in the database, and anybody can send a message.
func (r *Runner) onCancel(_ context.Context, msg *nats.Msg) {
	id, err := uuid.Parse(strings.TrimPrefix(msg.Subject, subjectCancel))
	if err != nil {
		return
	}
	for _, t := range r.tasks() {
		if t.row.ID == id {
			select {
			case r.beatNow <- struct{}{}:
			default: // one is due already
			}
			return
		}
	}
}

func (r *Runner) tasks() []*task {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*task, 0, len(r.running))
	for _, t := range r.running {
		all = append(all, t)
	}
	return all
}

// Running returns how many jobs are in hand.
func (r *Runner) Running() int { return len(r.tasks()) }

// Stop stops fetching and waits for the jobs in hand until ctx ends; then their contexts end with ErrStopping, and those
// that return go back to the queue without a burned attempt. It may be called twice, and waits both times.
func (r *Runner) Stop(ctx context.Context) {
	r.stopOnce.Do(func() {
		defer close(r.stopped)
		r.mu.Lock()
		started := r.stopFetch != nil
		r.stopping = true
		r.mu.Unlock()
		if started {
			r.stop(ctx)
		}
	})
	<-r.stopped
}

func (r *Runner) stop(ctx context.Context) {
	quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.CancelGrace) // also if ctx has ended already
	defer cancel()
	if err := r.withdraw(quick); err != nil {
		r.log.WarnContext(ctx, "jobs: withdrawing slots failed; they expire", "error", err)
	}
	r.stopFetch()
	r.fetchers.Wait()
	idle := make(chan struct{})
	go func() { r.workers.Wait(); close(idle) }() // outlives us only with a worker that ignores its context
	select {
	case <-idle:
	case <-ctx.Done():
		r.stopWork(ErrStopping)
		grace := time.NewTimer(r.cfg.CancelGrace)
		defer grace.Stop()
		select {
		case <-idle:
		case <-grace.C:
			r.abandon(ctx)
		}
	}
	r.stopWork(ErrStopping)
	r.stopBeats()
	r.beats.Wait()
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.CancelGrace)
	defer cancel()
	_ = r.withdraw(again) // the last beat may have crossed the first
	for _, s := range r.subs {
		s.Stop()
	}
}

// abandon releases the jobs of workers that do not listen. Their claim protects what the next worker does.
func (r *Runner) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.CancelGrace)
	defer cancel()
	for _, t := range r.tasks() {
		r.log.ErrorContext(ctx, "jobs: a worker ignores the end of its context", "job", t.row.ID, "kind", t.row.Kind)
		t.cancel(ErrLeaseLost)
		if _, err := r.settleTask(ctx, t, settlement{state: Scheduled}); err != nil {
			r.log.WarnContext(ctx, "jobs: release failed; the lease expires", "job", t.row.ID, "error", err)
		}
	}
}

var errNoMessage = errors.New("no message")
