package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// hold makes a queued job one that a runner holds for an hour.
func (b *bundle) hold(id uuid.UUID, runner string) {
	b.t.Helper()
	for _, sql := range []string{
		`DELETE FROM jobs.outbox WHERE job = $1 AND $2 <> ''`,
		`UPDATE jobs.jobs SET state = 'running', claim = 1, max_failures = 5, dispatched_at = NULL WHERE id = $1 AND $2 <> ''`,
		`INSERT INTO jobs.leases (job, claim, kind, runner, expires_at) SELECT id, 1, kind, $2, now() + interval '1 hour' FROM jobs.jobs WHERE id = $1`,
	} {
		if _, err := b.pool.Exec(b.t.Context(), sql, id, runner); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestReclaim(t *testing.T) {
	instance := func(name string) func(*jobs.RunnerConfig) {
		return func(c *jobs.RunnerConfig) { c.Instance = name }
	}
	worker := func(b *bundle) {
		b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
	}

	t.Run("a runner goes on at once with what a dead one of its instance held", func(t *testing.T) {
		b := setup(t)
		worker(b)
		mine, other := b.enqueue("mine"), b.enqueue("other")
		b.hold(mine.JobID, "host/1/abc@here")
		b.hold(other.JobID, "host/1/abc@there")
		b.dispatcher()
		b.runner(instance("here"))
		if info := b.ends(mine.JobID, jobs.Succeeded); info.Claim != 2 || info.Failures != 1 {
			t.Errorf("claim %d, %d failures; want 2, 1: a job may be what killed the process", info.Claim, info.Failures)
		}
		if info := b.get(other.JobID); info.State != jobs.Running || info.Claim != 1 || time.Until(info.LeaseExpires) < 50*time.Minute {
			t.Errorf("the other instance's job is %s, claim %d, lease until %s", info.State, info.Claim, info.LeaseExpires)
		}
	})

	t.Run("without an instance nobody's leases are touched", func(t *testing.T) {
		b := setup(t)
		worker(b)
		held := b.enqueue("held")
		b.hold(held.JobID, "host/1/abc")
		b.dispatcher()
		b.runner()
		b.ends(b.enqueue("next").JobID, jobs.Succeeded)
		if info := b.get(held.JobID); info.State != jobs.Running || info.Claim != 1 {
			t.Errorf("the job is %s, claim %d", info.State, info.Claim)
		}
	})

	t.Run("a runner keeps its own leases when it is told to start twice", func(t *testing.T) {
		b := setup(t)
		worker(b)
		r := b.runner(instance("here"))
		if err := r.Start(t.Context()); err == nil {
			t.Error("it started twice")
		}
	})
}
