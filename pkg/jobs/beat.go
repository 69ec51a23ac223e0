package jobs

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/guard"
)

// progressEvery is how often followers hear of progress: four times a second.
const progressEvery = 250 * time.Millisecond

// beatLoop keeps the leases of all running jobs, the announcement of our slots and the messages alive. One statement
// serves all jobs, so that a process with many slots does not beat the database to death.
func (r *Runner) beatLoop(ctx context.Context) {
	beat := time.NewTicker(r.cfg.LeaseTTL / 3)
	defer beat.Stop()
	// Between the beats progress is kept about once a second.
	keep := time.NewTicker(min(time.Second, r.cfg.LeaseTTL/3))
	defer keep.Stop()
	tell := time.NewTicker(progressEvery)
	defer tell.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tell.C:
			for _, t := range r.tasks() {
				t.tellProgress()
			}
		case <-keep.C:
			r.keepTasks(ctx, func(t *task) bool { t.mu.Lock(); defer t.mu.Unlock(); return !t.kept })
		case <-beat.C:
			r.keepTasks(ctx, nil)
			r.announce(ctx)
		case <-r.beatNow:
			r.keepTasks(ctx, nil)
		}
	}
}

// keepTasks beats for the tasks that want it (all if want is nil) and acts on what the database says about them.
func (r *Runner) keepTasks(ctx context.Context, want func(*task) bool) {
	var tasks []*task
	for _, t := range r.tasks() {
		if want == nil || want(t) {
			tasks = append(tasks, t)
		}
	}
	if len(tasks) == 0 {
		return
	}
	if want == nil {
		for _, t := range tasks {
			_ = t.keep() // the message comes again then, and finds the job claimed
		}
	}
	began := time.Now()
	alive, err := r.beat(ctx, tasks)
	now := time.Now()
	for _, t := range tasks {
		cancelled, held := alive[taskKey{t.row.ID, t.row.Claim}]
		switch {
		case err != nil:
			// We do not know. The lease holds as long as we are sure that it did not run out.
			t.mu.Lock()
			out := now.After(t.leaseUntil)
			t.mu.Unlock()
			if out {
				t.cancel(ErrLeaseLost)
			}
		case !held:
			t.cancel(ErrLeaseLost)
		case cancelled:
			t.cancel(ErrCancelled)
			fallthrough
		default:
			t.mu.Lock()
			t.leaseUntil = began.Add(r.cfg.LeaseTTL)
			t.mu.Unlock()
		}
	}
	if err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "jobs: heartbeat failed", "jobs", len(tasks), "error", err)
	}
}

// beat prolongs the leases and writes progress; it returns the tasks whose lease is held, and whether their cancellation
// was asked for.
func (r *Runner) beat(ctx context.Context, tasks []*task) (map[taskKey]bool, error) {
	n := len(tasks)
	var (
		ids              = make([]uuid.UUID, n)
		claims           = make([]int64, n)
		done, total, byt = make([]int64, n), make([]int64, n), make([]int64, n)
		messages         = make([]string, n)
	)
	for i, t := range tasks {
		t.mu.Lock()
		p := t.progress
		t.kept = true
		t.mu.Unlock()
		ids[i], claims[i], done[i], total[i], byt[i], messages[i] = t.row.ID, t.row.Claim, p.Done, p.Total, p.Bytes, p.Message
	}
	// A database that hangs must not keep us from noticing that our leases run out.
	ctx, cancel := context.WithTimeout(ctx, r.cfg.LeaseTTL/3)
	defer cancel()
	rows, err := r.cfg.Pool.Query(ctx, `
		UPDATE jobs.leases l SET expires_at = coalesce($8::timestamptz, clock_timestamp()) + $1::bigint * interval '1 microsecond',
			done = b.done, total = b.total, bytes = b.bytes, message = b.message
		FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[]) b(job, claim, done, total, bytes, message)
		WHERE l.job = b.job AND l.claim = b.claim
		RETURNING l.job, l.claim, coalesce((SELECT j.cancel_requested FROM jobs.jobs j WHERE j.id = l.job), false)`,
		r.cfg.LeaseTTL.Microseconds(), ids, claims, done, total, byt, messages, r.leaseStart())
	if err != nil {
		return nil, err
	}
	alive := make(map[taskKey]bool, n)
	var (
		key       taskKey
		cancelled bool
	)
	_, err = pgx.ForEachRow(rows, []any{&key.job, &key.claim, &cancelled}, func() error {
		alive[key] = cancelled
		return nil
	})
	return alive, err
}

// leaseStart is from when a lease is reckoned: nil, which means now by the database's clock. The clocks of two processes
// may be hours apart.
func (r *Runner) leaseStart() *time.Time {
	if guard.DatabaseTime {
		return nil
	}
	now := r.cfg.Now()
	return &now
}

// announce tells the relays how many slots we offer, for about as long as a lease.
func (r *Runner) announce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.LeaseTTL/3)
	defer cancel()
	if err := r.announceOnce(ctx); err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "jobs: announcing slots failed", "error", err)
	}
}

func (r *Runner) announceOnce(ctx context.Context) error {
	r.mu.Lock()
	stopping := r.stopping
	r.mu.Unlock()
	if stopping {
		return nil
	}
	n := len(r.pools)
	kinds, slots := make([]string, n), make([]int32, n)
	for i, p := range r.pools {
		kinds[i], slots[i] = p.spec.Kind, int32(p.slots)
	}
	_, err := r.cfg.Pool.Exec(ctx, `
		WITH s AS (
			INSERT INTO jobs.slots AS s (runner, kind, slots, expires_at)
			SELECT $1, kind, slots, clock_timestamp() + $4::bigint * interval '1 microsecond' FROM unnest($2::text[], $3::int[]) u(kind, slots)
			ON CONFLICT (runner, kind) DO UPDATE SET slots = excluded.slots, expires_at = excluded.expires_at
			RETURNING 1
		)
		SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM s LIMIT 1`,
		r.cfg.Name, kinds, slots, r.cfg.LeaseTTL.Microseconds())
	return err
}

// introduce tells what a relay has to know to make the streams of our kinds. Not with every beat: it would keep relays,
// which lock these rows, from their work.
func (r *Runner) introduce(ctx context.Context) error {
	n := len(r.pools)
	kinds, caps := make([]string, n), make([]int32, n)
	for i, p := range r.pools {
		kinds[i], caps[i] = p.spec.Kind, int32(p.spec.MaxAckPending)
	}
	_, err := r.cfg.Pool.Exec(ctx, `
		INSERT INTO jobs.kinds (kind, max_ack_pending, ack_wait_ms)
		SELECT kind, cap, $3 FROM unnest($1::text[], $2::int[]) s(kind, cap) ORDER BY 1
		ON CONFLICT (kind) DO UPDATE SET max_ack_pending = excluded.max_ack_pending, ack_wait_ms = excluded.ack_wait_ms`,
		kinds, caps, r.ackWait().Milliseconds())
	return err
}

// withdraw takes our slots back, so that nothing more is released for them.
func (r *Runner) withdraw(ctx context.Context) error {
	_, err := r.cfg.Pool.Exec(ctx, `DELETE FROM jobs.slots WHERE runner = $1`, r.cfg.Name)
	return err
}
