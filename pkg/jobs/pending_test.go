package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

func TestARequestJoinsAJobThatIsDueBefore(t *testing.T) {
	b := setup(t)
	b.handle(jobs.KindSpec{Concurrency: 1}, func(_ context.Context, j *jobs.Job[args]) (any, error) {
		b.note(j.Args.GetValue())
		return nil, nil
	})
	ask := func(tx pgx.Tx, value string, in time.Duration) jobs.EnqueueResult {
		t.Helper()
		r, err := b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{
			Kind: kind, Args: wrapperspb.String(value), CoalesceKey: "k", StartAt: time.Now().Add(in), JoinPending: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	in := func(fn func(pgx.Tx)) {
		t.Helper()
		if err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error { fn(tx); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var first uuid.UUID
	in(func(tx pgx.Tx) { first = ask(tx, "one", 500*time.Millisecond).JobID })
	in(func(tx pgx.Tx) {
		if r := ask(tx, "two", time.Second); !r.Joined || r.JobID != first {
			t.Errorf("a request for later made a job of its own: %+v", r)
		}
	})
	in(func(tx pgx.Tx) {
		if r := ask(tx, "sooner", 100*time.Millisecond); r.Joined {
			t.Errorf("a request for sooner waits for a later job: %+v", r)
		}
	})

	// Whoever joins keeps the job from starting until its transaction ends, and nobody else.
	tx, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask(tx, "three", time.Second) // locks the earliest or the first; neither may be lost
	b.dispatcher()
	b.runner()
	other, err := b.client.Enqueue(t.Context(), b.pool, jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String("other"), StartAt: time.Now().Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	b.ends(other.JobID, jobs.Succeeded)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.ends(first, jobs.Succeeded)
	seen := map[string]int{}
	for _, v := range b.noted() {
		seen[v]++
	}
	if seen["one"] != 1 || seen["sooner"] != 1 || seen["two"] != 0 || seen["three"] != 0 || seen["other"] != 1 {
		t.Errorf("%v", seen)
	}
	in(func(tx pgx.Tx) {
		if r := ask(tx, "after", 0); r.Joined {
			t.Errorf("a request joined a job that has ended: %+v", r)
		}
	})
}

// Of requests in quick succession one job is left, some time after the last and not too long after the first.
func TestRequestsPutAJobOff(t *testing.T) {
	b := setup(t)
	ask := func(in, putOff time.Duration) jobs.EnqueueResult {
		t.Helper()
		var r jobs.EnqueueResult
		err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) (err error) {
			var now time.Time
			if err := tx.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil {
				return err
			}
			r, err = b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{
				Kind: kind, Args: wrapperspb.String("x"), CoalesceKey: "k", StartAt: now.Add(in), JoinPending: true, PutOff: putOff,
			})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	due := func(id uuid.UUID) (in, age time.Duration) {
		t.Helper()
		var start, created, now time.Time
		if err := b.pool.QueryRow(t.Context(), `SELECT start_at, created_at, clock_timestamp() FROM jobs.jobs WHERE id = $1`, id).Scan(&start, &created, &now); err != nil {
			t.Fatal(err)
		}
		return start.Sub(now), start.Sub(created)
	}
	first := ask(time.Minute, time.Hour)
	same := func(r jobs.EnqueueResult) {
		t.Helper()
		if !r.Joined || r.JobID != first.JobID {
			t.Errorf("a job of its own: %+v", r)
		}
	}
	same(ask(time.Minute, time.Hour)) // far enough away already
	if in, _ := due(first.JobID); in > time.Minute {
		t.Errorf("due in %v: written to without need", in)
	}
	same(ask(10*time.Minute, time.Hour))
	if in, _ := due(first.JobID); in < 9*time.Minute || in > 10*time.Minute {
		t.Errorf("due in %v after a request for ten minutes", in)
	}
	same(ask(10*time.Hour, time.Hour))
	if _, age := due(first.JobID); age < 59*time.Minute || age > time.Hour+time.Second {
		t.Errorf("due %v after it was asked for, more than an hour", age)
	}
	same(ask(time.Second, time.Hour)) // sooner: it is taken in, and changes nothing
	if _, age := due(first.JobID); age < 59*time.Minute {
		t.Errorf("due %v after it was asked for", age)
	}

	// What is due takes a request in until it starts, and then the next one makes another job.
	if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.jobs SET start_at = clock_timestamp() + interval '300 milliseconds'`); err != nil {
		t.Fatal(err)
	}
	b.handle(jobs.KindSpec{Concurrency: 1}, func(_ context.Context, j *jobs.Job[args]) (any, error) { return nil, nil })
	tx, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var now time.Time
	if err := tx.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	r, err := b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{
		Kind: kind, Args: wrapperspb.String("x"), CoalesceKey: "k", StartAt: now.Add(400 * time.Millisecond), JoinPending: true, PutOff: 2 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	same(r)
	b.dispatcher()
	b.runner()
	other, err := b.client.Enqueue(t.Context(), b.pool, jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String("other"), StartAt: time.Now().Add(800 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	b.ends(other.JobID, jobs.Succeeded)
	if j, err := b.client.Get(t.Context(), first.JobID); err != nil || j.State != jobs.Scheduled {
		t.Errorf("it started before the transaction that joined it ended: %v, %v", j, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.ends(first.JobID, jobs.Succeeded)
	if r := ask(time.Minute, time.Hour); r.Joined {
		t.Errorf("a request joined a job that has ended: %+v", r)
	}
}

// A job that has failed before takes nothing in: its pause was not made for the request, and its last attempt may be near.
func TestARequestDoesNotJoinWhatWaitsForAnotherAttempt(t *testing.T) {
	b := setup(t)
	for name, putOff := range map[string]time.Duration{"put off": 2 * time.Second, "joined": 0} {
		ask := func() jobs.EnqueueResult {
			t.Helper()
			var r jobs.EnqueueResult
			err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) (err error) {
				r, err = b.client.Enqueue(t.Context(), tx, jobs.EnqueueParams{
					Kind: kind, Args: wrapperspb.String("x"), CoalesceKey: name, StartAt: time.Now().Add(10 * time.Second), JoinPending: true, PutOff: putOff,
				})
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		set := func(id uuid.UUID, what string) {
			t.Helper()
			if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.jobs SET `+what+` WHERE id = $1`, id); err != nil {
				t.Fatal(err)
			}
		}
		first := ask()
		if r := ask(); r.JobID != first.JobID {
			t.Errorf("%s: %+v beside %+v", name, r, first)
		}
		set(first.JobID, `failures = 7`)
		second := ask()
		if second.Joined {
			t.Errorf("%s: joined a job before its last attempt", name)
		}
		set(first.JobID, `state = 'queued', start_at = NULL`)
		if r := ask(); r.JobID != second.JobID {
			t.Errorf("%s: %+v beside %+v", name, r, second)
		}
		set(second.JobID, `start_at = now() + interval '15 seconds'`)
		if r := ask(); r.JobID == second.JobID {
			t.Errorf("%s: waits %s longer than it may", name, 5*time.Second-putOff)
		}
	}
}
