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
