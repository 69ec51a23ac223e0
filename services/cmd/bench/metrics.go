package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/entrepot-dev/entrepot/pkg/access"
	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/metrics"
)

const (
	// metricsRate is what two gateways together are asked to count, in downloads a second.
	metricsRate  = 10_000
	metricsFiles = 100_000
	// metricsBacklog is how many seconds' worth of batches wait when adding begins.
	metricsBacklog = 20
)

// metricsPlatform is what counting needs, and nothing else: a durable PostgreSQL, NATS that syncs every batch, two
// gateways' counters and the service, in this process.
type metricsPlatform struct {
	pool   *pgxpool.Pool
	bus    *bus.Bus
	closes []func() error
}

func (p *metricsPlatform) close() (err error) {
	for _, c := range slices.Backward(p.closes) {
		err = errors.Join(err, c())
	}
	return err
}

func (b *bench) startMetrics(ctx context.Context) (p *metricsPlatform, err error) {
	p = &metricsPlatform{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	dir, err := b.tempDir("metrics")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	server, err := pg.StartEmbedded(ctx, pg.EmbeddedConfig{DataDir: filepath.Join(dir, "postgres"), BinDir: os.Getenv("ENTREPOT_PG_BIN"), Durable: true})
	if err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { return server.Stop(context.WithoutCancel(ctx)) })
	if p.pool, err = pg.Open(ctx, server.URL(), pg.PoolConfig{MaxConns: 8}); err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { p.pool.Close(); return nil })
	if err := pg.MigrateAll(ctx, p.pool, jobs.Schema, audit.Schema, metrics.Schema); err != nil {
		return nil, err
	}
	ns, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: filepath.Join(dir, "nats")})
	if err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { ns.Stop(); return nil })
	nc, err := ns.Conn(bus.Options{Name: "bench"})
	if err != nil {
		return nil, err
	}
	if p.bus, err = bus.New(nc); err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { p.bus.Close(); return nil })
	return p, nil
}

// serve runs the service until the function that it returns is called.
func (p *metricsPlatform) serve() (stop func(), err error) {
	svc, err := metrics.New(metrics.Deps{
		Pool: p.pool, Bus: p.bus, Jobs: jobs.NewClient(jobs.ClientConfig{Pool: p.pool}), Channels: channelsv1.NewChannelServiceClient(nil), // never asked
	})
	if err != nil {
		return nil, err
	}
	svc.Start()
	return func() { svc.Stop(context.Background()) }, nil
}

// counted returns what has been added for a channel: its total and the sum of its files' series, which must agree.
func (p *metricsPlatform) counted(ctx context.Context, channel uuid.UUID) (total, files int64, err error) {
	err = p.pool.QueryRow(ctx, `SELECT coalesce((SELECT total FROM metrics.items WHERE channel_id = $1 AND path = ''), 0),
		(SELECT coalesce(sum(s.n), 0) FROM metrics.items i JOIN metrics.series s ON s.item_id = i.id WHERE i.channel_id = $1 AND i.path <> '')`, channel).Scan(&total, &files)
	return total, files, err
}

// await waits until n downloads are added, and a moment more for those that should not be.
func (p *metricsPlatform) await(ctx context.Context, channel uuid.UUID, n int64) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		total, _, err := p.counted(ctx, channel)
		if err != nil {
			return at, err
		}
		if total >= n {
			break
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return at, fmt.Errorf("%d of %d downloads are counted: %w", total, n, err)
		}
	}
	at = time.Now()
	if err := sleep(ctx, 3*time.Second); err != nil {
		return at, err
	}
	total, files, err := p.counted(ctx, channel)
	if err == nil && (total != n || files != n) {
		err = fmt.Errorf("%d downloads are counted, and %d of files, of %d", total, files, n)
	}
	return at, err
}

// downloads picks files with the skew of real traffic.
func downloads(seed uint64) func() string {
	z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), 1.1, 8, metricsFiles-1)
	return func() string { return fmt.Sprintf("linux-64/package-%06d-1.0-0.conda", z.Uint64()) }
}

// metricsPart measures whether two gateways' downloads are counted as fast as they happen, each once.
func (b *bench) metricsPart(ctx context.Context) (r *report, err error) {
	r = &report{
		Title: "Metrics",
		Load: fmt.Sprintf("the packages pkg/access and services/metrics in the benchmark's own process, with a private PostgreSQL and an embedded NATS; two gateways' counters are told of "+
			"%d downloads a second together, of %d files with the skew of real traffic, for %v; every batch is sent a second time by somebody else; then the batches of %d such seconds wait in "+
			"the stream and are added as fast as it goes; the part fails if one download is missing or counted twice", metricsRate, metricsFiles, b.duration, metricsBacklog),
		Durability: "PostgreSQL fsync=on synchronous_commit=on full_page_writes=on; JetStream sync_interval=always",
	}
	rows := newRows(r)
	r.Runs = min(b.runs, fewRuns)
	for range r.Runs {
		if err := b.metricsRun(ctx, rows); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (b *bench) metricsRun(ctx context.Context, rows *rowSet) (err error) {
	p, err := b.startMetrics(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	stop, err := p.serve()
	if err != nil {
		return err
	}
	if err := p.fixed(ctx, b.duration, rows); err != nil {
		stop()
		return err
	}
	stop()
	return p.backlog(ctx, rows)
}

// fixed offers downloads at the fixed rate.
func (p *metricsPlatform) fixed(ctx context.Context, d time.Duration, rows *rowSet) error {
	channel := uuid.New()
	var mu sync.Mutex
	again := map[string]bool{}
	sub, err := p.bus.Subscribe(ctx, access.Subject, func(ctx context.Context, msg *nats.Msg) {
		mu.Lock()
		seen := again[string(msg.Data)]
		again[string(msg.Data)] = true
		mu.Unlock()
		if !seen {
			_ = p.bus.Conn().Publish(access.Subject, msg.Data) // without the number that JetStream knows it by
		}
	})
	if err != nil {
		return err
	}
	defer sub.Stop()
	before, err := cpuOf(os.Getpid())
	if err != nil {
		return err
	}
	var counters []*access.Counter
	for i := range 2 {
		c, err := access.NewCounter(access.CounterConfig{Instance: fmt.Sprint("gateway-", i), Publisher: access.NewBusPublisher(p.bus, 1)})
		if err != nil {
			return err
		}
		c.Start()
		counters = append(counters, c)
	}
	pick, begin, n := downloads(uint64(len(channel))), time.Now(), int64(0)
	for time.Since(begin) < d {
		for due := int64(time.Since(begin).Seconds() * metricsRate); n < due; n++ {
			counters[n%2].Count(channel.String(), pick())
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	last := time.Now()
	at, err := p.await(ctx, channel, n)
	for _, c := range counters {
		c.Stop(ctx)
	}
	if err != nil {
		return err
	}
	after, err := cpuOf(os.Getpid())
	if err != nil {
		return err
	}
	used := after.sub(before)
	rows.add("metrics: rate of the fixed load", float64(n)/last.Sub(begin).Seconds())
	rows.add("metrics: from the last download until all are counted", float64(at.Sub(last).Milliseconds()))
	rows.add("CPU per 1,000 downloads, gateways and metrics", float64(used.self.Microseconds())/float64(n))
	rows.add("CPU per 1,000 downloads, PostgreSQL", float64(used.children.Microseconds())/float64(n))
	return nil
}

// backlog lets batches wait, and then adds them.
func (p *metricsPlatform) backlog(ctx context.Context, rows *rowSet) error {
	channel := uuid.New()
	pick := downloads(7)
	for i := range metricsBacklog {
		c, err := access.NewCounter(access.CounterConfig{Instance: fmt.Sprint("backlog-", i), Publisher: access.NewBusPublisher(p.bus, 1)})
		if err != nil {
			return err
		}
		for range metricsRate {
			c.Count(channel.String(), pick())
		}
		c.Start()
		c.Stop(ctx) // sends
	}
	stop, err := p.serve()
	if err != nil {
		return err
	}
	defer stop()
	from := time.Now()
	at, err := p.await(ctx, channel, metricsBacklog*metricsRate)
	if err != nil {
		return err
	}
	rows.add("metrics: adding what waited", metricsBacklog*metricsRate/at.Sub(from).Seconds())
	return nil
}
