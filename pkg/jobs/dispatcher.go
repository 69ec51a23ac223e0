package jobs

import (
	"context"
	"log/slog"
	"math/rand/v2"
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

// DispatcherConfig says what a Dispatcher does.
type DispatcherConfig struct {
	Pool *pgxpool.Pool
	Bus  *bus.Bus
	// Poll is how often the relay looks without having been notified. Default 1 s.
	Poll time.Duration
	// Sweep is how often the sweeper looks without having been notified or having something due. Default 1 s.
	Sweep time.Duration
	// SuspectAfter is how long a released job may wait beside a free slot before its stream is probed. Default 5 s.
	SuspectAfter time.Duration
	// RedispatchAfter is how long such a job waits before it gets another message though the stream is well. Default 30 s.
	RedispatchAfter time.Duration
	// LeaderTTL is how long a vanished sweeper keeps the office. Default 10 s.
	LeaderTTL time.Duration
	// Retention is how long jobs that have ended stay in the database. Default 14 days, negative for ever.
	Retention time.Duration
	// Replicas of the job streams: 1 with the embedded server, 3 in a cluster. Default 1.
	Replicas int
	// Name is unique among dispatchers; default random.
	Name string
	// Rand draws the jitter of schedules, from [0, 1); nil means chance.
	Rand   func() float64
	Logger *slog.Logger
	Tracer trace.TracerProvider
	Meter  metric.MeterProvider
}

func (c *DispatcherConfig) defaults() {
	for _, d := range []struct {
		to  *time.Duration
		def time.Duration
	}{
		{&c.Poll, time.Second},
		{&c.Sweep, time.Second},
		{&c.SuspectAfter, 5 * time.Second},
		{&c.RedispatchAfter, 30 * time.Second},
		{&c.LeaderTTL, 10 * time.Second},
		{&c.Retention, 14 * 24 * time.Hour},
	} {
		if *d.to == 0 {
			*d.to = d.def
		}
	}
	if c.Replicas <= 0 {
		c.Replicas = 1
	}
	if c.Name == "" {
		c.Name = uuid.NewString()
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
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
}

// Dispatcher is the relay and the sweeper. Any process may have one, several together are as right as one: relays share
// the kinds by row locks, and one sweeper at a time holds the office.
type Dispatcher struct {
	cfg    DispatcherConfig
	log    *slog.Logger
	events *events
	tracer trace.Tracer

	wakeRelay, wakeSweep chan struct{}

	mu       sync.Mutex
	started  bool
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	observed metric.Registration
	room     *bus.Subscription // runners tell that they have some; nil if that failed
}

// NewDispatcher returns a dispatcher that has not started.
func NewDispatcher(cfg DispatcherConfig) (*Dispatcher, error) {
	cfg.defaults()
	if cfg.Pool == nil || cfg.Bus == nil {
		return nil, fault.New(fault.Internal, "a dispatcher needs a pool and a bus")
	}
	return &Dispatcher{
		cfg: cfg, log: cfg.Logger.With("dispatcher", cfg.Name), events: &events{bus: cfg.Bus}, tracer: cfg.Tracer.Tracer(scope),
		wakeRelay: make(chan struct{}, 1), wakeSweep: make(chan struct{}, 1),
	}, nil
}

// Start begins to dispatch; database and bus may be away. It goes on after ctx has ended, until Stop.
func (d *Dispatcher) Start(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.started {
		return fault.New(fault.Internal, "the dispatcher has been started before")
	}
	d.started = true
	var err error
	if d.observed, err = queueMetrics(d.cfg.Meter, d.cfg.Pool); err != nil {
		return err
	}
	ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if d.room, err = d.cfg.Bus.Subscribe(ctx, subjectRelay, func(context.Context, *nats.Msg) { poke(d.wakeRelay) }); err != nil {
		d.log.WarnContext(ctx, "jobs: the relay hears of free slots by its poll only", "error", err)
	}
	d.wg.Go(func() { d.listen(ctx) })
	d.wg.Go(func() { d.relay(ctx) })
	d.wg.Go(func() { d.sweep(ctx) })
	return nil
}

// Stop ends relay and sweeper and waits for them. It may be called twice.
func (d *Dispatcher) Stop(context.Context) {
	d.mu.Lock()
	cancel, observed, room := d.cancel, d.observed, d.room
	d.observed, d.room = nil, nil
	d.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	d.wg.Wait()
	if room != nil {
		room.Stop()
	}
	if observed != nil {
		_ = observed.Unregister() // the provider may have shut down before
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a look is due already
	}
}

// listen turns notifications of the database into looks.
func (d *Dispatcher) listen(ctx context.Context) {
	_ = pg.Listen(ctx, d.cfg.Pool, channel, func(_ context.Context, payload string) {
		if payload != wakeSweep {
			poke(d.wakeRelay)
		}
		if payload != wakeRelay {
			poke(d.wakeSweep)
		}
	}) // it returns only when ctx ends
}

// relay releases jobs whenever something may have changed.
func (d *Dispatcher) relay(ctx context.Context) {
	trouble := 0
	for {
		n, err := d.relayOnce(ctx)
		pause := d.cfg.Poll
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if trouble++; trouble == 1 || trouble%60 == 0 {
				d.log.WarnContext(ctx, "jobs: relay failed; jobs wait in the outbox", "error", err, "times", trouble)
			}
			// Not on the next notification: a busy platform would hammer a server that is away.
			if !sleep(ctx, min(pause, 50*time.Millisecond<<min(trouble, 10))) {
				return
			}
			continue
		case n > 0:
			trouble = 0
			continue // there may be more, and it is cheap to ask
		}
		trouble = 0
		if !d.rest(ctx, d.wakeRelay, pause) {
			return
		}
	}
}

func (d *Dispatcher) rest(ctx context.Context, wake chan struct{}, pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return true
}
