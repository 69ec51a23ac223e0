package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	jobSubmitters = 64
	jobSlots      = 16
	jobKind       = "bench.noop"
	// jobConns is how many connections submitters, workers and relay share, as many as a process opens by default.
	jobConns = 20
	// dequeueFor is how long PostgreSQL alone is asked for rows.
	dequeueFor = 2 * time.Second
	// jobPatience is how long the last jobs may take to end.
	jobPatience = time.Minute
)

// jobPlatform is what jobs need, and nothing else: a durable PostgreSQL, NATS that syncs every message, a dispatcher and
// a runner, in this process.
type jobPlatform struct {
	pool   *pgxpool.Pool
	client *jobs.Client
	bus    *bus.Bus
	closes []func() error

	mu    sync.Mutex
	ended map[uuid.UUID]time.Time
}

func (p *jobPlatform) close() (err error) {
	for _, c := range slices.Backward(p.closes) {
		err = errors.Join(err, c())
	}
	return err
}

// startJobs starts a platform in directories of its own.
func (b *bench) startJobs(ctx context.Context) (p *jobPlatform, err error) {
	p = &jobPlatform{ended: map[uuid.UUID]time.Time{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	dir, err := b.tempDir("jobs")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil { // PostgreSQL may run as another user
		return nil, err
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	server, err := pg.StartEmbedded(ctx, pg.EmbeddedConfig{DataDir: filepath.Join(dir, "postgres"), BinDir: os.Getenv("ENTREPOT_PG_BIN"), Durable: true})
	if err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { return server.Stop(context.WithoutCancel(ctx)) })
	if p.pool, err = pg.Open(ctx, server.URL(), pg.PoolConfig{MaxConns: jobConns}); err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { p.pool.Close(); return nil })
	if err := pg.MigrateAll(ctx, p.pool, jobs.Schema); err != nil {
		return nil, err
	}
	for _, setting := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		var on string
		if err := p.pool.QueryRow(ctx, "SHOW "+setting).Scan(&on); err != nil || on != "on" {
			return nil, errors.Join(err, fmt.Errorf("PostgreSQL runs with %s=%s", setting, on))
		}
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
	reg := jobs.NewRegistry()
	jobs.Register(reg, jobs.KindSpec{Kind: jobKind, Concurrency: jobSlots}, jobs.WorkFunc[*emptypb.Empty](
		func(context.Context, *jobs.Job[*emptypb.Empty]) (any, error) { return nil, nil }))
	p.client = jobs.NewClient(jobs.ClientConfig{Pool: p.pool, Bus: p.bus, Registry: reg})
	d, err := jobs.NewDispatcher(jobs.DispatcherConfig{Pool: p.pool, Bus: p.bus, Logger: quiet})
	if err != nil {
		return nil, err
	}
	r, err := jobs.NewRunner(jobs.RunnerConfig{Pool: p.pool, Bus: p.bus, Registry: reg, Logger: quiet})
	if err != nil {
		return nil, err
	}
	sub, err := p.bus.Subscribe(ctx, "events.job.*", p.onEvent)
	if err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { sub.Stop(); return nil })
	if err := d.Start(ctx); err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { d.Stop(context.WithoutCancel(ctx)); return nil })
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	p.closes = append(p.closes, func() error { r.Stop(context.WithoutCancel(ctx)); return nil })
	return p, nil
}

// onEvent notes when a job's end, which is committed by then, reaches whoever watches.
func (p *jobPlatform) onEvent(_ context.Context, msg *nats.Msg) {
	at := time.Now()
	var ev jobs.Event
	if json.Unmarshal(msg.Data, &ev) != nil || ev.State == nil || !ev.State.State.Terminal() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended[ev.Job] = at
}

// enqueue makes a job in a transaction of its own.
func (p *jobPlatform) enqueue(ctx context.Context) (id uuid.UUID, err error) {
	err = pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		r, err := p.client.Enqueue(ctx, tx, jobs.EnqueueParams{Kind: jobKind, Args: &emptypb.Empty{}})
		id = r.JobID
		return err
	})
	return id, err
}

// drained waits until no job is left, and returns the time at which the last one ended, by the database.
func (p *jobPlatform) drained(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, jobPatience)
	defer cancel()
	for {
		done, err := p.client.Count(ctx, jobs.Filter{States: []jobs.State{jobs.Succeeded}})
		if err != nil {
			return err
		}
		if done == n {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d jobs have succeeded: %w", done, n, err)
		}
	}
}

// jobsPart measures how many durable jobs go through, and how long one takes at half of that.
func (b *bench) jobsPart(ctx context.Context) (r *report, err error) {
	r = &report{
		Title: "Jobs",
		Load: fmt.Sprintf("the packages pkg/jobs, pkg/pg and pkg/bus in the benchmark's own process, with a private PostgreSQL and an embedded NATS; %d submitters, one transaction for each job; "+
			"one runner with %d slots; the job does nothing; %d connections for all; first as fast as it goes for %v, and until the last job has ended; then at half of that rate, each job "+
			"at its fixed time whatever became of the others, from that time until the event of its end, which follows its commit; PostgreSQL alone: a row is deleted in a transaction of "+
			"its own, FOR UPDATE SKIP LOCKED", jobSubmitters, jobSlots, jobConns, b.duration),
		Durability: "PostgreSQL fsync=on synchronous_commit=on full_page_writes=on; JetStream sync_interval=always",
	}
	rows := newRows(r)
	r.Runs = min(b.runs, fewRuns)
	for range r.Runs {
		if err := b.jobsRun(ctx, rows); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (b *bench) jobsRun(ctx context.Context, rows *rowSet) (err error) {
	p, err := b.startJobs(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if _, err := p.enqueue(ctx); err != nil { // makes the streams
		return err
	}
	if err := p.drained(ctx, 1); err != nil {
		return err
	}
	before, err := cpuOf(os.Getpid())
	if err != nil {
		return err
	}
	if b.cpuProfile != "" {
		out, err := os.Create(b.cpuProfile)
		if err != nil {
			return err
		}
		defer out.Close()
		if err := pprof.StartCPUProfile(out); err != nil {
			return err
		}
	}
	n, rate, err := p.flood(ctx, b.duration)
	if b.cpuProfile != "" {
		pprof.StopCPUProfile()
	}
	if err != nil {
		return err
	}
	after, err := cpuOf(os.Getpid())
	if err != nil {
		return err
	}
	used := after.sub(before)
	rows.add("durable jobs", rate)
	rows.add("CPU per job, with its submitter", float64(used.self.Microseconds())/float64(n)/1000)
	rows.add("CPU per job, PostgreSQL", float64(used.children.Microseconds())/float64(n)/1000)
	if err := p.steady(ctx, rate/2, b.duration, n+1, rows); err != nil {
		return err
	}
	for name, conns := range map[string]int{"PostgreSQL alone, dequeue, 1 connection": 1, "PostgreSQL alone, dequeue, 16 connections": 16} {
		rate, err := p.dequeue(ctx, conns)
		if err != nil {
			return err
		}
		rows.add(name, rate)
	}
	return nil
}

// flood submits for a while as fast as it goes, and returns how many jobs and how many a second came to their end.
func (p *jobPlatform) flood(ctx context.Context, d time.Duration) (n int64, rate float64, err error) {
	g, gctx := errgroup.WithContext(ctx)
	counts := make([]int64, jobSubmitters)
	begin := time.Now()
	for i := range jobSubmitters {
		g.Go(func() error {
			for time.Since(begin) < d {
				if _, err := p.enqueue(gctx); err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, 0, err
	}
	for _, c := range counts {
		n += c
	}
	if err := p.drained(ctx, n+1); err != nil {
		return 0, 0, err
	}
	return n, float64(n) / time.Since(begin).Seconds(), nil
}

// steady submits at a fixed rate and measures how long each job takes from its time to its end.
func (p *jobPlatform) steady(ctx context.Context, rate float64, d time.Duration, had int64, rows *rowSet) error {
	n := int(rate * d.Seconds())
	due := make([]time.Time, n)
	ids := make([]uuid.UUID, n)
	work := make(chan int, n)
	g, gctx := errgroup.WithContext(ctx)
	for range jobSubmitters {
		g.Go(func() error {
			for i := range work {
				var err error
				if ids[i], err = p.enqueue(gctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	begin := time.Now()
	for i := range n {
		due[i] = begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if err := sleep(gctx, time.Until(due[i])); err != nil {
			break // of a submitter, whose error Wait returns
		}
		work <- i
	}
	close(work)
	if err := errors.Join(g.Wait(), p.drained(ctx, had+int64(n))); err != nil {
		return err
	}
	if err := sleep(ctx, 200*time.Millisecond); err != nil { // the last events
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var took []float64
	for i, id := range ids {
		at, ok := p.ended[id]
		if !ok {
			continue // an event may be lost; it is never the truth
		}
		took = append(took, float64(at.Sub(due[i]).Microseconds())/1000)
	}
	if len(took) < n*99/100 {
		return fmt.Errorf("only %d of %d jobs had an event of their end", len(took), n)
	}
	slices.Sort(took)
	rows.add("rate of the fixed load", rate)
	rows.add("enqueue until ended, p50", took[len(took)/2])
	rows.add("enqueue until ended, p99", took[len(took)*99/100])
	rows.add("enqueue until ended, greatest", took[len(took)-1])
	return nil
}

// dequeue measures how fast PostgreSQL by itself hands out rows, which bounds any queue in it that commits row by row.
func (p *jobPlatform) dequeue(ctx context.Context, conns int) (float64, error) {
	const table = "bench_queue"
	for _, sql := range []string{
		"DROP TABLE IF EXISTS " + table,
		"CREATE TABLE " + table + " AS SELECT id, repeat('x', 200) AS args FROM generate_series(1, 200000) id",
		"ALTER TABLE " + table + " ADD PRIMARY KEY (id)",
		"ANALYZE " + table,
	} {
		if _, err := p.pool.Exec(ctx, sql); err != nil {
			return 0, fmt.Errorf("%s: %w", strings.Fields(sql)[0], err)
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	counts := make([]int64, conns)
	begin := time.Now()
	for i := range conns {
		g.Go(func() error {
			for time.Since(begin) < dequeueFor {
				var id int64
				err := p.pool.QueryRow(gctx, `DELETE FROM `+table+` WHERE id = (SELECT id FROM `+table+` ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id`).Scan(&id)
				if err != nil {
					return err
				}
				counts[i]++
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	var n int64
	for _, c := range counts {
		n += c
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}
