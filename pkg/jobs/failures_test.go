package jobs_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/bus/bustest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	stream  = "JOBS_TEST_WORK"
	subject = "jobs.test_work.normal"
)

// deliver publishes a job's id as a relay that crashed and came back would, n times.
func (b *bundle) deliver(id string, n int) {
	b.t.Helper()
	for range n {
		if _, err := b.bus.JetStream().PublishMsg(b.t.Context(), &nats.Msg{Subject: subject, Data: []byte(id)}); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bundle) drained() {
	b.t.Helper()
	b.comes("the stream is empty", func() bool {
		s, err := b.bus.JetStream().Stream(b.t.Context(), stream)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
}

func TestFailures(t *testing.T) {
	t.Run("a message delivered five times runs the job once", func(t *testing.T) {
		b := setup(t)
		var runs atomic.Int32
		release := make(chan struct{})
		b.handle(jobs.KindSpec{Concurrency: 4}, func(context.Context, *jobs.Job[args]) (any, error) {
			runs.Add(1)
			<-release
			return nil, nil
		})
		b.start()
		res := b.enqueue("x")
		b.comes("it runs", func() bool { return b.get(res.JobID).State == jobs.Running })
		b.deliver(res.JobID.String(), 5)
		close(release)
		info := b.ends(res.JobID, jobs.Succeeded)
		b.deliver(res.JobID.String(), 1) // a day late
		b.drained()
		if runs.Load() != 1 || info.Claim != 1 {
			t.Errorf("%d runs, claim %d", runs.Load(), info.Claim)
		}
		if again := b.get(res.JobID); !cmp.Equal(info, again) {
			t.Errorf("a terminal state changed: %s", cmp.Diff(info, again))
		}
	})

	t.Run("five duplicates that arrive together are claimed once", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{Concurrency: 6}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			b.note(job.Args.GetValue())
			return nil, nil
		})
		res := b.enqueue("x")
		b.runner() // without a dispatcher nothing else is delivered
		b.comes("stream", func() bool { _, err := b.bus.JetStream().Stream(t.Context(), stream); return err == nil })
		b.deliver(res.JobID.String(), 5)
		b.ends(res.JobID, jobs.Succeeded)
		b.drained()
		if diff := cmp.Diff([]string{"x"}, b.noted()); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a malformed message is thrown away", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
		b.start()
		b.comes("stream", func() bool { _, err := b.bus.JetStream().Stream(t.Context(), stream); return err == nil })
		b.deliver("what?", 1)
		b.drained()
		b.ends(b.enqueue("x").JobID, jobs.Succeeded)
	})

	t.Run("a stream deleted under way costs delay, never a job", func(t *testing.T) {
		b := setup(t)
		release := make(chan struct{})
		b.handle(jobs.KindSpec{Concurrency: 2}, func(context.Context, *jobs.Job[args]) (any, error) {
			<-release
			return nil, nil
		})
		b.start()
		var all []jobs.EnqueueResult
		for range 10 {
			all = append(all, b.enqueue("x"))
		}
		b.comes("the window is full", func() bool {
			return b.count(`SELECT count(*) FROM jobs.jobs WHERE dispatched_at IS NOT NULL`) >= 2 && b.count(`SELECT count(*) FROM jobs.leases`) == 2
		})
		if err := b.bus.JetStream().DeleteStream(t.Context(), stream); err != nil {
			t.Fatal(err)
		}
		close(release)
		for _, r := range all {
			if info := b.ends(r.JobID, jobs.Succeeded); info.Failures != 0 {
				t.Errorf("job burned %d attempts", info.Failures)
			}
		}
	})

	t.Run("a server whose files were taken away is healed", func(t *testing.T) {
		b := setup(t)
		dir := t.TempDir()
		server, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: dir, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Stop)
		b.bus = bustest.Connect(t, server)
		b.client = jobs.NewClient(jobs.ClientConfig{Pool: b.pool, Bus: b.bus, Registry: b.reg, FollowPoll: 100 * time.Millisecond})
		release := make(chan struct{})
		b.handle(jobs.KindSpec{Concurrency: 2}, func(context.Context, *jobs.Job[args]) (any, error) {
			<-release
			return nil, nil
		})
		b.start()
		var all []jobs.EnqueueResult
		for range 10 {
			all = append(all, b.enqueue("before"))
		}
		b.comes("the window is full", func() bool {
			return b.count(`SELECT count(*) FROM jobs.jobs WHERE dispatched_at IS NOT NULL`) >= 2 && b.count(`SELECT count(*) FROM jobs.leases`) == 2
		})
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			all = append(all, b.enqueue("after"))
		}
		close(release)
		for _, r := range all {
			b.ends(r.JobID, jobs.Succeeded)
		}
	})

	t.Run("while NATS is away jobs are accepted, and run when it is back", func(t *testing.T) {
		b := setup(t)
		dir := t.TempDir()
		listen := "127.0.0.1:0"
		start := func() *bus.Server {
			s, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: dir, NoSync: true, Listen: listen})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		server := start()
		listen = strings.TrimPrefix(server.URL(), "nats://") // the same address again after the restart
		nc, err := bus.Connect(server.URL(), bus.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if b.bus, err = bus.New(nc); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.bus.Close)
		b.client = jobs.NewClient(jobs.ClientConfig{Pool: b.pool, Bus: b.bus, Registry: b.reg, FollowPoll: 100 * time.Millisecond})
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
		b.start()
		b.ends(b.enqueue("before").JobID, jobs.Succeeded)
		server.Stop()
		b.comes("disconnected", func() bool { return !nc.IsConnected() })
		var all []jobs.EnqueueResult
		for range 5 {
			all = append(all, b.enqueue("meanwhile"))
		}
		server = start()
		t.Cleanup(server.Stop)
		for _, r := range all {
			b.ends(r.JobID, jobs.Succeeded)
		}
	})

	t.Run("a worker that stands still too long loses the job, and its late writes are refused", func(t *testing.T) {
		b := setup(t)
		if _, err := b.pool.Exec(t.Context(), `CREATE TABLE effects (claim bigint)`); err != nil {
			t.Fatal(err)
		}
		stopped, goOn, refused := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		write := func(ctx context.Context, job *jobs.Job[args]) error {
			return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
				if err := job.Hold(ctx, tx); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `INSERT INTO effects VALUES ($1)`, job.Claim)
				return err
			})
		}
		b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
			if job.Claim == 1 {
				close(stopped)
				<-goOn
				refused <- write(context.WithoutCancel(ctx), job)
				return nil, nil // it believes that all went well
			}
			return nil, write(ctx, job)
		})
		b.dispatcher()
		// The first worker's heartbeats cease, as under SIGSTOP or when its machine is cut off.
		own, err := pg.Open(t.Context(), b.pool.Config().ConnString(), pg.PoolConfig{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(own.Close)
		b.runner(func(c *jobs.RunnerConfig) { c.Pool = own })
		res := b.enqueue("x")
		receive(t, stopped)
		own.Close()
		b.runner()
		b.comes("the second attempt", func() bool { return b.get(res.JobID).Claim == 2 })
		info := b.ends(res.JobID, jobs.Succeeded)
		close(goOn)
		if err := receive(t, refused); !fault.Is(err, fault.LostRace) {
			t.Errorf("late write: %v", err)
		}
		if info.Failures != 1 || info.LastError == "" {
			t.Errorf("failures %d, last error %q", info.Failures, info.LastError)
		}
		if n := b.count(`SELECT sum(claim) FROM effects`); n != 2 {
			t.Errorf("effects of claims summing up to %d, want 2 alone", n)
		}
		if again := b.get(res.JobID); !cmp.Equal(info, again) {
			t.Errorf("the late worker changed the job: %s", cmp.Diff(info, again))
		}
	})

	t.Run("a lost lease ends the worker's context with the cause", func(t *testing.T) {
		b := setup(t)
		cause := make(chan error, 1)
		b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
			if job.Claim == 1 {
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return nil, ctx.Err()
			}
			return nil, nil
		})
		b.start()
		res := b.enqueue("x")
		b.comes("it runs", func() bool { return b.get(res.JobID).State == jobs.Running })
		if _, err := b.pool.Exec(t.Context(), `DELETE FROM jobs.leases`); err != nil {
			t.Fatal(err)
		}
		if err := receive(t, cause); !errors.Is(err, jobs.ErrLeaseLost) {
			t.Errorf("cause: %v", err)
		}
	})

	t.Run("a worker that vanishes leaves its job to another", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return "done", nil })
		res := b.enqueue("x")
		// What a process leaves behind that was killed right after its claim.
		if _, err := b.pool.Exec(t.Context(), `
			WITH j AS (UPDATE jobs.jobs SET state = 'running', claim = 1, max_failures = 5),
				o AS (DELETE FROM jobs.outbox)
			INSERT INTO jobs.leases (job, claim, kind, runner, expires_at) VALUES ($1, 1, $2, 'killed', now() + interval '200 milliseconds')`, res.JobID, kind); err != nil {
			t.Fatal(err)
		}
		b.start()
		info := b.ends(res.JobID, jobs.Succeeded)
		if info.Claim != 2 || info.Failures != 1 || info.LastError != "worker killed vanished: its lease ran out" {
			t.Errorf("claim %d, failures %d, %q", info.Claim, info.Failures, info.LastError)
		}
	})

	t.Run("a job that kills its worker every time is dead in the end", func(t *testing.T) {
		b := setup(t)
		res := b.enqueue("x")
		if _, err := b.pool.Exec(t.Context(), `
			WITH j AS (UPDATE jobs.jobs SET state = 'running', claim = 3, failures = 2, max_failures = 3)
			INSERT INTO jobs.leases (job, claim, kind, runner, expires_at) VALUES ($1, 3, $2, 'killed', now())`, res.JobID, kind); err != nil {
			t.Fatal(err)
		}
		b.dispatcher()
		if info := b.ends(res.JobID, jobs.Dead); info.Failures != 3 {
			t.Errorf("failures %d", info.Failures)
		}
	})

	t.Run("a stopping runner releases its jobs without burning an attempt", func(t *testing.T) {
		b := setup(t)
		began := make(chan int64, 2)
		cause := make(chan error, 1)
		b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
			began <- job.Claim
			if job.Claim == 1 {
				<-ctx.Done()
				cause <- context.Cause(ctx)
				return nil, ctx.Err()
			}
			return nil, nil
		})
		b.dispatcher()
		first := b.runner()
		res := b.enqueue("x")
		receive(t, began)
		now, cancel := context.WithCancel(t.Context())
		cancel()
		first.Stop(now)
		first.Stop(now) // twice is fine
		if err := receive(t, cause); !errors.Is(err, jobs.ErrStopping) {
			t.Errorf("cause %v", err)
		}
		if info := b.get(res.JobID); info.State != jobs.Queued || info.Failures != 0 {
			t.Errorf("after stop: %s, %d failures", info.State, info.Failures)
		}
		if n := b.count(`SELECT count(*) FROM jobs.slots`); n != 0 {
			t.Errorf("%d announcements left", n)
		}
		b.runner()
		if info := b.ends(res.JobID, jobs.Succeeded); info.Failures != 0 || info.Claim != 2 {
			t.Errorf("failures %d, claim %d", info.Failures, info.Claim)
		}
	})

	t.Run("a stopping runner lets its jobs finish in time", func(t *testing.T) {
		b := setup(t)
		began, release := make(chan struct{}), make(chan struct{})
		b.handle(jobs.KindSpec{}, func(ctx context.Context, _ *jobs.Job[args]) (any, error) {
			close(began)
			<-release
			return nil, context.Cause(ctx)
		})
		b.dispatcher()
		r := b.runner()
		res := b.enqueue("x")
		receive(t, began)
		stopped := make(chan struct{})
		go func() { r.Stop(t.Context()); close(stopped) }()
		b.comes("no slots", func() bool { return b.count(`SELECT count(*) FROM jobs.slots`) == 0 })
		close(release)
		receive(t, stopped)
		if info := b.get(res.JobID); info.State != jobs.Succeeded {
			t.Errorf("state %s", info.State)
		}
	})

	t.Run("failures are tried again with backoff until the job is dead with the last error", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{MaxFailures: 3}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			b.note("try")
			return nil, errors.New("broken\x00 " + string(rune('a'+job.Failures)))
		})
		b.start()
		info := b.ends(b.enqueue("x").JobID, jobs.Dead)
		if info.Failures != 3 || info.LastError != "broken c" || info.MaxFailures != 3 || len(b.noted()) != 3 {
			t.Errorf("failures %d, last error %q, tries %d", info.Failures, info.LastError, len(b.noted()))
		}
	})

	t.Run("a panic is a failure", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{MaxFailures: 2}, func(_ context.Context, job *jobs.Job[args]) (any, error) { panic("oh") })
		b.start()
		if info := b.ends(b.enqueue("x").JobID, jobs.Dead); info.LastError != "panic: oh" {
			t.Errorf("last error %q", info.LastError)
		}
	})

	t.Run("an attempt that takes too long is a failure", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{MaxFailures: 1, Timeout: 30 * time.Millisecond}, func(ctx context.Context, _ *jobs.Job[args]) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		b.start()
		if info := b.ends(b.enqueue("x").JobID, jobs.Dead); info.LastError != "the job took longer than its kind allows (limit 30ms): context canceled" {
			t.Errorf("last error %q", info.LastError)
		}
	})

	t.Run("what another attempt would meet again is not tried again", func(t *testing.T) {
		for name, c := range map[string]struct {
			err  error
			want jobs.State
		}{
			"invalid":   {fault.New(fault.Invalid, "bad"), jobs.Dead},
			"not found": {fault.New(fault.NotFound, "gone"), jobs.Dead},
			"discarded": {jobs.Discard(errors.New("hopeless")), jobs.Dead},
			"cancelled": {jobs.Cancel(errors.New("pointless")), jobs.Cancelled},
		} {
			t.Run(name, func(t *testing.T) {
				b := setup(t)
				b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, c.err })
				b.start()
				if info := b.ends(b.enqueue("x").JobID, c.want); info.Claim != 1 || info.LastError != c.err.Error() {
					t.Errorf("claim %d, last error %q", info.Claim, info.LastError)
				}
			})
		}
	})

	t.Run("arguments of another type are not guessed at", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
		b.start()
		res := b.enqueue("", func(p *jobs.EnqueueParams) { p.Args = durationpb.New(time.Second) })
		b.ends(res.JobID, jobs.Dead)
	})

	t.Run("a snooze puts the job off and burns nothing", func(t *testing.T) {
		b := setup(t)
		var runs atomic.Int32
		b.handle(jobs.KindSpec{MaxFailures: 1}, func(context.Context, *jobs.Job[args]) (any, error) {
			if runs.Add(1) == 1 {
				return nil, jobs.Snooze(50 * time.Millisecond)
			}
			return nil, nil
		})
		b.start()
		if info := b.ends(b.enqueue("x").JobID, jobs.Succeeded); info.Failures != 0 || info.Claim != 2 || info.LastError != "" {
			t.Errorf("failures %d, claim %d, %q", info.Failures, info.Claim, info.LastError)
		}
	})

	t.Run("a retry after an upstream's wish waits at least as long", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) {
			return nil, fault.New(fault.Exhausted, "slow down").WithRetryAfter(time.Hour)
		})
		b.start()
		res := b.enqueue("x")
		b.comes("scheduled", func() bool { return b.get(res.JobID).State == jobs.Scheduled })
		if d := time.Until(b.get(res.JobID).StartAt); d < 59*time.Minute {
			t.Errorf("due in %s", d)
		}
	})

	t.Run("all connections to the database cut: every job ends once", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{Concurrency: 4}, func(ctx context.Context, job *jobs.Job[args]) (any, error) { return nil, nil })
		b.start()
		var all []jobs.EnqueueResult
		for i := range 60 {
			all = append(all, b.enqueue("x"))
			if i%20 == 10 {
				// From a connection that survives, as an administrator would.
				conn, err := pgx.ConnectConfig(t.Context(), b.pool.Config().ConnConfig)
				if err != nil {
					t.Fatal(err)
				}
				_, err = conn.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
				_ = conn.Close(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				b.comes("the pool works again", func() bool { return b.pool.Ping(t.Context()) == nil })
			}
		}
		for _, r := range all {
			b.comes("end", func() bool {
				info, err := b.client.Get(t.Context(), r.JobID)
				return err == nil && info.State == jobs.Succeeded
			})
		}
	})
}
