package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

func TestCancel(t *testing.T) {
	t.Run("a queued job is cancelled at once", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { b.note("ran"); return nil, nil })
		res := b.enqueue("x")
		info, err := b.client.Cancel(t.Context(), res.JobID)
		if err != nil || info.State != jobs.Cancelled {
			t.Fatalf("%s %v", info.State, err)
		}
		b.start()
		b.ends(b.enqueue("y").JobID, jobs.Succeeded)
		if diff := cmp.Diff([]string{"ran"}, b.noted()); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a cancelled job whose message is under way does not run", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { b.note("ran"); return nil, nil })
		res := b.enqueue("x")
		if _, err := b.client.Cancel(t.Context(), res.JobID); err != nil {
			t.Fatal(err)
		}
		b.runner()
		b.comes("stream", func() bool { _, err := b.bus.JetStream().Stream(t.Context(), stream); return err == nil })
		b.deliver(res.JobID.String(), 2)
		b.drained()
		if b.noted() != nil || b.get(res.JobID).State != jobs.Cancelled {
			t.Errorf("ran %v", b.noted())
		}
	})

	t.Run("a scheduled job is cancelled at once", func(t *testing.T) {
		b := setup(t)
		res := b.enqueue("x", func(p *jobs.EnqueueParams) { p.StartAt = time.Now().Add(time.Hour) })
		info, err := b.client.Cancel(t.Context(), res.JobID)
		if err != nil || info.State != jobs.Cancelled {
			t.Fatalf("%s %v", info.State, err)
		}
	})

	for name, nudged := range map[string]bool{"a running job is told at once": true, "a lost nudge costs one heartbeat": false} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			began, cause := make(chan struct{}), make(chan error, 2)
			b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
				close(began)
				<-ctx.Done()
				cause <- context.Cause(ctx)
				cause <- job.Hold(context.WithoutCancel(ctx), b.pool)
				return nil, ctx.Err()
			})
			b.dispatcher()
			b.runner(func(c *jobs.RunnerConfig) {
				if nudged {
					c.LeaseTTL = time.Hour // no beat would come in time
				}
			})
			res := b.enqueue("x")
			receive(t, began)
			client := b.client
			if !nudged {
				client = jobs.NewClient(jobs.ClientConfig{Pool: b.pool})
			}
			info, err := client.Cancel(t.Context(), res.JobID)
			if err != nil || !info.CancelRequested || (info.State != jobs.Running && info.State != jobs.Cancelled) { // it may be quick
				t.Fatalf("%s %v", info.State, err)
			}
			if err := receive(t, cause); !errors.Is(err, jobs.ErrCancelled) {
				t.Errorf("cause %v", err)
			}
			if err := receive(t, cause); !fault.Is(err, fault.LostRace) {
				t.Errorf("Hold after the cancellation: %v", err)
			}
			b.ends(res.JobID, jobs.Cancelled)
			if _, err := b.client.Cancel(t.Context(), res.JobID); !fault.Is(err, fault.Precondition) {
				t.Errorf("cancelled twice: %v", err)
			}
		})
	}

	t.Run("a cancelled or dead job can be retried", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{MaxFailures: 1}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			if job.Claim == 1 {
				return nil, errors.New("first")
			}
			return nil, nil
		})
		b.start()
		res := b.enqueue("x")
		b.ends(res.JobID, jobs.Dead)
		if info, err := b.client.Retry(t.Context(), res.JobID); err != nil || info.Failures != 0 {
			t.Fatalf("%+v %v", info, err)
		}
		b.ends(res.JobID, jobs.Succeeded)
		if _, err := b.client.Retry(t.Context(), res.JobID); !fault.Is(err, fault.Precondition) {
			t.Errorf("retry of a success: %v", err)
		}
		if _, err := b.client.Retry(t.Context(), uuid.New()); !fault.Is(err, fault.NotFound) {
			t.Errorf("retry of nothing: %v", err)
		}
	})

	t.Run("a paused kind stays queued until it is resumed", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { b.note("x"); return nil, nil })
		b.handle(jobs.KindSpec{Kind: "test.other"}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
		b.start()
		if err := b.client.Pause(t.Context(), kind); err != nil {
			t.Fatal(err)
		}
		res := b.enqueue("x")
		other := b.enqueue("y", func(p *jobs.EnqueueParams) { p.Kind = "test.other" })
		b.ends(other.JobID, jobs.Succeeded)
		if b.get(res.JobID).State != jobs.Queued {
			t.Error("it was released")
		}
		if err := b.client.Resume(t.Context(), kind); err != nil {
			t.Fatal(err)
		}
		b.ends(res.JobID, jobs.Succeeded)
	})
}

func TestCoalescing(t *testing.T) {
	key := func(p *jobs.EnqueueParams) { p.CoalesceKey = "channel/1" }

	t.Run("requests join a queued job, and its priority rises to theirs", func(t *testing.T) {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
		first := b.enqueue("a", key)
		second := b.enqueue("b", key, func(p *jobs.EnqueueParams) { p.Priority = jobs.High })
		third := b.enqueue("c", key, func(p *jobs.EnqueueParams) { p.Priority = jobs.Low })
		if second.JobID != first.JobID || !second.Joined || third.Seq != first.Seq || first.Joined {
			t.Errorf("%+v %+v %+v", first, second, third)
		}
		if p := b.get(first.JobID).Priority; p != jobs.High {
			t.Errorf("priority %s", p)
		}
		b.start()
		b.ends(first.JobID, jobs.Succeeded)
	})

	t.Run("while one runs, QueueOne queues exactly one more", func(t *testing.T) {
		b := setup(t)
		began, release := make(chan string, 3), make(chan struct{})
		b.handle(jobs.KindSpec{Concurrency: 1}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			began <- job.Args.GetValue()
			<-release
			return nil, nil
		})
		b.start()
		first := b.enqueue("a", key)
		receive(t, began)
		second, third := b.enqueue("b", key), b.enqueue("c", key)
		if second.JobID == first.JobID || second.Joined || third.JobID != second.JobID || !third.Joined {
			t.Errorf("%+v %+v %+v", first, second, third)
		}
		close(release)
		b.ends(first.JobID, jobs.Succeeded)
		b.ends(second.JobID, jobs.Succeeded)
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 2 {
			t.Errorf("%d jobs", n)
		}
	})

	t.Run("while one runs, Join takes its outcome", func(t *testing.T) {
		b := setup(t)
		began, release := make(chan struct{}), make(chan struct{})
		b.handle(jobs.KindSpec{Coalesce: jobs.Join}, func(context.Context, *jobs.Job[args]) (any, error) {
			close(began)
			<-release
			return nil, nil
		})
		b.start()
		first := b.enqueue("a", key)
		receive(t, began)
		second := b.enqueue("b", key)
		if second.JobID != first.JobID || !second.Joined {
			t.Errorf("%+v %+v", first, second)
		}
		apart := b.enqueue("c", key, func(p *jobs.EnqueueParams) { p.Coalesce = jobs.None })
		if apart.JobID == first.JobID {
			t.Error("None joined")
		}
		if _, err := b.client.Cancel(t.Context(), apart.JobID); err != nil {
			t.Fatal(err)
		}
		close(release)
		b.ends(first.JobID, jobs.Succeeded)
	})

	t.Run("a job does not start while a transaction that joined it is open", func(t *testing.T) {
		b := setup(t)
		if _, err := b.pool.Exec(t.Context(), `CREATE TABLE uploads (name text)`); err != nil {
			t.Fatal(err)
		}
		seen := make(chan int, 1)
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) {
			seen <- b.count(`SELECT count(*) FROM uploads`)
			return nil, nil
		})
		first := b.enqueue("a", key)
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `INSERT INTO uploads VALUES ('late')`); err != nil {
			t.Fatal(err)
		}
		second, err := b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String("b"), CoalesceKey: "channel/1"})
		if err != nil || second.JobID != first.JobID {
			t.Fatalf("%+v %v", second, err)
		}
		b.start()
		b.comes("stream", func() bool { _, err := b.bus.JetStream().Stream(t.Context(), stream); return err == nil })
		b.deliver(first.JobID.String(), 1)                                                                   // the relay passes it over: a message from before
		b.ends(b.enqueue("other", func(p *jobs.EnqueueParams) { p.CoalesceKey = "" }).JobID, jobs.Succeeded) // meanwhile others run
		if n := receive(t, seen); n != 0 {
			t.Fatalf("the other job saw %d uploads", n)
		}
		if s := b.get(first.JobID).State; s != jobs.Queued {
			t.Errorf("it is %s", s)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := receive(t, seen); n != 1 {
			t.Errorf("the job saw %d uploads, want 1", n)
		}
		b.ends(first.JobID, jobs.Succeeded)
	})

	t.Run("a job that comes back waits behind a queued one with its key", func(t *testing.T) {
		b := setup(t)
		began, release := make(chan string, 3), make(chan struct{})
		b.handle(jobs.KindSpec{Concurrency: 1}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			began <- fmt.Sprint(job.Args.GetValue(), job.Claim)
			<-release
			if job.Args.GetValue() == "a" && job.Claim == 1 {
				return nil, jobs.Snooze(0)
			}
			return nil, nil
		})
		b.start()
		first := b.enqueue("a", key)
		order := []string{receive(t, began)}
		second := b.enqueue("b", key)
		close(release)
		order = append(order, receive(t, began), receive(t, began))
		b.ends(first.JobID, jobs.Succeeded)
		b.ends(second.JobID, jobs.Succeeded)
		if diff := cmp.Diff([]string{"a1", "b1", "a2"}, order); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("many requests at once for one key become one job", func(t *testing.T) {
		b := setup(t)
		ids := make(chan uuid.UUID, 20)
		for range 20 {
			go func() {
				var id uuid.UUID
				_ = pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
					res, err := b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String(""), CoalesceKey: "k"})
					id = res.JobID
					return err
				})
				ids <- id
			}()
		}
		first := receive(t, ids)
		for range 19 {
			if id := receive(t, ids); id != first || id == uuid.Nil {
				t.Errorf("%s and %s", first, id)
			}
		}
	})
}

func TestExclusion(t *testing.T) {
	lock := func(resource string, exclusive bool) func(*jobs.EnqueueParams) {
		return func(p *jobs.EnqueueParams) {
			p.Locks = append(p.Locks, jobs.Lock{Resource: resource, Exclusive: exclusive})
		}
	}
	type controlled struct {
		*bundle
		began   chan string
		release map[string]chan struct{}
	}
	setup := func(t *testing.T, names ...string) controlled {
		c := controlled{bundle: setup(t), began: make(chan string, 10), release: map[string]chan struct{}{}}
		for _, n := range names {
			c.release[n] = make(chan struct{})
		}
		c.handle(jobs.KindSpec{Concurrency: 6}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			c.began <- job.Args.GetValue()
			<-c.release[job.Args.GetValue()]
			return nil, nil
		})
		c.start()
		return c
	}
	parked := func(c controlled, n int) {
		c.comes(fmt.Sprintf("%d wait", n), func() bool {
			return c.count(`SELECT count(*) FROM jobs.jobs WHERE state = 'queued' AND parked_at IS NOT NULL AND claim = 0`) == n
		})
	}

	t.Run("shared holders run together, an exclusive one alone and in its turn", func(t *testing.T) {
		c := setup(t, "s1", "s2", "x", "s3")
		var all []jobs.EnqueueResult
		all = append(all, c.enqueue("s1", lock("r", false)), c.enqueue("s2", lock("r", false)))
		first := []string{receive(t, c.began), receive(t, c.began)}
		slices.Sort(first)
		if diff := cmp.Diff([]string{"s1", "s2"}, first); diff != "" {
			t.Error(diff)
		}
		all = append(all, c.enqueue("x", lock("r", true)))
		parked(c, 1)
		all = append(all, c.enqueue("s3", lock("r", false))) // would fit beside s1 and s2, but x was there before
		parked(c, 2)
		close(c.release["s1"])
		close(c.release["s2"])
		if got := receive(t, c.began); got != "x" {
			t.Errorf("%s began, want x", got)
		}
		close(c.release["x"])
		if got := receive(t, c.began); got != "s3" {
			t.Errorf("%s began, want s3", got)
		}
		close(c.release["s3"])
		for _, r := range all {
			if info := c.ends(r.JobID, jobs.Succeeded); info.Failures != 0 || info.Claim != 1 {
				t.Errorf("failures %d, claim %d", info.Failures, info.Claim)
			}
		}
		if n := c.count(`SELECT count(*) FROM jobs.locks`); n != 0 {
			t.Errorf("%d locks left", n)
		}
	})

	t.Run("a waiting job that is cancelled lets the next one pass", func(t *testing.T) {
		c := setup(t, "s1", "x", "s2")
		a := c.enqueue("s1", lock("r", false))
		receive(t, c.began)
		x := c.enqueue("x", lock("r", true))
		parked(c, 1)
		s2 := c.enqueue("s2", lock("r", false))
		parked(c, 2)
		if _, err := c.client.Cancel(t.Context(), x.JobID); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, c.began); got != "s2" {
			t.Errorf("%s began", got)
		}
		close(c.release["s1"])
		close(c.release["s2"])
		c.ends(a.JobID, jobs.Succeeded)
		c.ends(s2.JobID, jobs.Succeeded)
	})

	t.Run("who waits for another resource passes the turn on", func(t *testing.T) {
		c := setup(t, "a", "b", "ab", "a2")
		all := []jobs.EnqueueResult{c.enqueue("a", lock("A", true)), c.enqueue("b", lock("B", true))}
		receive(t, c.began)
		receive(t, c.began)
		all = append(all, c.enqueue("ab", lock("A", true), lock("B", true)))
		parked(c, 1)
		all = append(all, c.enqueue("a2", lock("A", true)))
		parked(c, 2)
		close(c.release["a"]) // ab is woken, still misses B; A must not stand idle
		if got := receive(t, c.began); got != "a2" {
			t.Errorf("%s began", got)
		}
		close(c.release["a2"])
		close(c.release["b"])
		if got := receive(t, c.began); got != "ab" {
			t.Errorf("%s began", got)
		}
		close(c.release["ab"])
		for _, r := range all {
			c.ends(r.JobID, jobs.Succeeded)
		}
	})

	t.Run("a vanished worker's locks are freed", func(t *testing.T) {
		c := setup(t, "x")
		close(c.release["x"])
		gone := uuid.New()
		if _, err := c.pool.Exec(t.Context(), `INSERT INTO jobs.locks VALUES ('r', $1, 0, $2, true, true)`, gone, kind); err != nil {
			t.Fatal(err)
		}
		c.ends(c.enqueue("x", lock("r", true)).JobID, jobs.Succeeded)
	})
}
