package jobs

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

// A queue that is longer than the window holds old rows of the outbox all the time. The stream is only suspected if
// nothing is published and claimed meanwhile.
func TestOnlyAQueueInWhichNothingMovesIsSuspected(t *testing.T) {
	const (
		job = `INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, principal_name, principal, resource,
			lock_resources, lock_exclusive, max_failures, dispatched_at, started_at, finished_at)
			VALUES ($1, 'baker.bread', '', '', $2, 1, 'default', '', '', '', '{}', '{}', 1,
				now() - $3::bigint * interval '1 second', now() - $4::bigint * interval '1 second', now() - $5::bigint * interval '1 second')`
		outbox = `INSERT INTO jobs.outbox (job, kind, priority, namespace, created_at, released_at)
			VALUES ($1, 'baker.bread', 1, 'default', now() - $2::bigint * interval '1 second', CASE WHEN $3 THEN now() END)`
		lease = `INSERT INTO jobs.leases (job, claim, kind, runner, taken_at, expires_at)
			VALUES ($1, 1, 'baker.bread', 'a', now() - $2::bigint * interval '1 second', now() + interval '1 minute')`
	)
	type bundle struct {
		exec func(sql string, args ...any)
		d    *Dispatcher
	}
	for _, row := range []struct {
		name  string
		slots int
		more  func(b bundle)
		want  int
	}{
		{"a queue that does not move", 4, func(bundle) {}, 1},
		{"no slot is free", 0, func(bundle) {}, 0},
		{"a job was claimed lately", 4, func(b bundle) {
			id := uuid.New()
			b.exec(job, id, "running", nil, 1, nil)
			b.exec(lease, id, 1)
		}, 0},
		{"a job was claimed long ago, and runs", 4, func(b bundle) {
			id := uuid.New()
			b.exec(job, id, "running", nil, 60, nil)
			b.exec(lease, id, 60)
		}, 1},
		{"a job was done lately", 4, func(b bundle) { b.exec(job, uuid.New(), "succeeded", nil, 2, 1) }, 0},
		{"a long job has ended lately", 4, func(b bundle) { b.exec(job, uuid.New(), "succeeded", nil, 60, 1) }, 1},
		{"a message was published lately", 4, func(b bundle) { b.exec(job, uuid.New(), "queued", 1, nil, nil) }, 0},
		{"a relay tries to publish a message in vain", 4, func(b bundle) {
			id := uuid.New()
			b.exec(job, id, "queued", 1, nil, nil)
			b.exec(outbox, id, 60, true)
		}, 1},
		{"a message was published long ago, and others are claimed", 4, func(b bundle) {
			b.exec(job, uuid.New(), "queued", 60, nil, nil)
			b.exec(job, uuid.New(), "succeeded", nil, 2, 1)
		}, 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			pool := pgtest.New(t, Schema)
			cfg := DispatcherConfig{Pool: pool}
			cfg.defaults()
			b := bundle{d: &Dispatcher{cfg: cfg}, exec: func(sql string, args ...any) {
				if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
					t.Fatal(err)
				}
			}}
			b.exec(`INSERT INTO jobs.kinds (kind, max_ack_pending, ack_wait_ms) VALUES ('baker.bread', 8, 1000)`)
			b.exec(`INSERT INTO jobs.slots (runner, kind, slots, expires_at) VALUES ('a', 'baker.bread', $1, now() + interval '1 minute')`, row.slots)
			waiting := uuid.New()
			b.exec(job, waiting, "queued", nil, nil, nil)
			b.exec(outbox, waiting, int(time.Minute.Seconds()), false)
			row.more(b)
			got, err := b.d.suspects(t.Context())
			if err != nil || len(got) != row.want {
				t.Errorf("%d kinds are suspected, want %d: %v", len(got), row.want, err)
			}
		})
	}
}
