package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	office      = "sweeper"
	sweepBatch  = 500
	minRest     = 5 * time.Millisecond
	housekeep   = 15 * time.Second // how often the slower duties come round
	reckonAnew  = 10 * time.Minute // how often it is looked whether schedules wait for what a wrong clock said
	probeWait   = 3 * time.Second
	purgeBatch  = 1000
	stuckOutbox = 10 * time.Second // a relay that took rows and died
)

// sweep does the sweeper's duties while it holds the office. They are all safe to do twice: the office only saves work.
func (d *Dispatcher) sweep(ctx context.Context) {
	defer d.resign(ctx)
	var kept, reckoned time.Time
	for {
		pause := d.cfg.Sweep
		leads, err := d.lead(ctx)
		if err == nil && leads {
			duties := d.duties()
			if time.Since(kept) > min(housekeep, d.cfg.RedispatchAfter) {
				duties = append(duties, d.housekeeping()...)
				kept = time.Now()
			}
			if reckoned.IsZero() || time.Since(reckoned) > reckonAnew {
				duties = append([]func(context.Context) error{d.reckonAnew}, duties...)
				reckoned = time.Now()
			}
			for _, duty := range duties {
				// One duty that fails does not keep the others from being done.
				if e := duty(ctx); e != nil {
					err = errors.Join(err, e)
				}
			}
			pause = d.untilNext(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			d.log.WarnContext(ctx, "jobs: sweep failed", "error", err)
			if !sleep(ctx, d.cfg.Sweep) {
				return
			}
			continue
		}
		if !d.rest(ctx, d.wakeSweep, pause) {
			return
		}
	}
}

func (d *Dispatcher) duties() []func(context.Context) error {
	return []func(context.Context) error{d.promoteDue, d.expireLeases, d.fireSchedules, d.suspectStreams}
}

func (d *Dispatcher) housekeeping() []func(context.Context) error {
	return []func(context.Context) error{d.freeOutbox, d.findForgotten, d.freeLocks, d.purge}
}

// lead takes or keeps the office, by the database's clock.
func (d *Dispatcher) lead(ctx context.Context) (bool, error) {
	var holder string
	err := d.cfg.Pool.QueryRow(ctx, `
		INSERT INTO jobs.leader AS l (office, holder, expires_at) VALUES ($1, $2, clock_timestamp() + $3::bigint * interval '1 microsecond')
		ON CONFLICT (office) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
			WHERE l.holder = excluded.holder OR l.expires_at < clock_timestamp()
		RETURNING holder`, office, d.cfg.Name, d.cfg.LeaderTTL.Microseconds()).Scan(&holder)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, pg.Classify(err)
}

func (d *Dispatcher) resign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// If it fails the office falls vacant by itself.
	_, _ = d.cfg.Pool.Exec(ctx, `DELETE FROM jobs.leader WHERE office = $1 AND holder = $2`, office, d.cfg.Name)
}

// untilNext is the pause until something is due, at most Sweep.
func (d *Dispatcher) untilNext(ctx context.Context) time.Duration {
	var micros *int64
	err := d.cfg.Pool.QueryRow(ctx, `
		SELECT (extract(epoch FROM least(
			(SELECT min(start_at) FROM jobs.jobs WHERE state = 'scheduled' AND start_at > now()),
			(SELECT min(next_at) FROM jobs.schedules WHERE next_at IS NOT NULL AND NOT paused AND next_at > now()),
			(SELECT min(expires_at) FROM jobs.leases WHERE expires_at > now())) - clock_timestamp()) * 1000000)::bigint`).Scan(&micros)
	if err != nil || micros == nil {
		return d.cfg.Sweep
	}
	return min(max(time.Duration(*micros)*time.Microsecond, minRest), d.cfg.Sweep)
}

// promoteDue queues scheduled jobs whose time has come.
func (d *Dispatcher) promoteDue(ctx context.Context) error {
	rows, err := d.cfg.Pool.Query(ctx, `
		SELECT id FROM jobs.jobs j WHERE state = 'scheduled' AND start_at <= now()
			AND (coalesce_key IS NULL OR NOT EXISTS (
				SELECT 1 FROM jobs.jobs q WHERE q.kind = j.kind AND q.coalesce_key = j.coalesce_key AND q.state = 'queued'))
		ORDER BY start_at LIMIT $1 FOR NO KEY UPDATE OF j SKIP LOCKED`, sweepBatch) // one that somebody joins waits for the next look
	if err != nil {
		return fmt.Errorf("find due jobs: %w", pg.Classify(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("find due jobs: %w", pg.Classify(err))
	}
	for _, id := range ids {
		ok, err := promote(ctx, d.cfg.Pool, id)
		if err != nil {
			return err
		}
		if ok {
			d.events.state(id, StateEvent{State: Queued})
		}
	}
	if len(ids) == sweepBatch {
		poke(d.wakeSweep)
	}
	return nil
}

// expireLeases takes jobs from workers that vanished.
func (d *Dispatcher) expireLeases(ctx context.Context) error {
	rows, err := d.cfg.Pool.Query(ctx, `SELECT job FROM jobs.leases WHERE expires_at < now() ORDER BY expires_at LIMIT $1`, sweepBatch)
	if err != nil {
		return fmt.Errorf("find expired leases: %w", pg.Classify(err))
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("find expired leases: %w", pg.Classify(err))
	}
	for _, id := range ids {
		state, err := expire(ctx, d.cfg.Pool, id)
		if err != nil {
			return err
		}
		if state != "" {
			d.log.WarnContext(ctx, "jobs: lease expired", "job", id, "state", string(state))
			d.events.state(id, StateEvent{State: state})
		}
	}
	return nil
}

// fireSchedules makes the jobs of schedules that are due, each in a transaction with the reckoning of its next tick.
func (d *Dispatcher) fireSchedules(ctx context.Context) error {
	for {
		fired := false
		err := pgx.BeginFunc(ctx, d.cfg.Pool, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, scheduleSQL+`
				WHERE next_at IS NOT NULL AND NOT paused AND next_at <= now() ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED`)
			if err != nil {
				return err
			}
			s, err := pgx.CollectExactlyOneRow(rows, scanSchedule)
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			fired = true
			return d.fire(ctx, tx, s)
		})
		if err != nil {
			return fmt.Errorf("fire schedules: %w", pg.Classify(err))
		}
		if !fired {
			return nil
		}
	}
}

func (d *Dispatcher) fire(ctx context.Context, tx pgx.Tx, s Schedule) error {
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return err
	}
	var lastError string
	next, err := s.after(s.NextAt, now)
	switch {
	case err != nil && limited(s.Cron):
		next = time.Time{} // its last year is over
	case err != nil:
		// What a newer version saved, or a zone that this machine does not know: it says so where people look, and goes on
		// when somebody can reckon it.
		next, lastError = now.Add(retryReckoning), clean(err.Error())
	}
	if s.LastError != "" { // this was no tick
		_, err = tx.Exec(ctx, `UPDATE jobs.schedules SET next_at = $2, last_error = $3 WHERE id = $1`, s.ID, nullTime(next), lastError)
		return err
	}
	p := s.Job
	p.ScheduleID = s.ID
	if s.Jitter > 0 {
		p.StartAt = now.Add(time.Duration(d.cfg.Rand() * float64(s.Jitter)))
	}
	c := Client{}
	res, err := c.enqueue(ctx, tx, &p, c.coalesce(&p))
	if err != nil {
		return fmt.Errorf("schedule %s/%s: %w", s.Namespace, s.Name, err)
	}
	_, err = tx.Exec(ctx, `UPDATE jobs.schedules SET next_at = $2, last_at = now(), last_job = $3, last_error = $4 WHERE id = $1`,
		s.ID, nullTime(next), res.JobID, lastError)
	return err
}

// reckonAnew puts right what a clock has left behind that was ahead for a while, and what could not be reckoned before.
func (d *Dispatcher) reckonAnew(ctx context.Context) error {
	var now time.Time
	if err := d.cfg.Pool.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return fmt.Errorf("reckon schedules: %w", pg.Classify(err))
	}
	all, err := listSchedules(ctx, d.cfg.Pool, `WHERE NOT paused AND (next_at > $1 OR next_at IS NULL) AND (cron <> '' OR repeat_every IS NOT NULL)`, now)
	if err != nil {
		return err
	}
	for _, s := range all {
		next, err := s.due(now)
		if err != nil || next.Equal(s.NextAt) {
			continue
		}
		d.log.WarnContext(ctx, "jobs: a schedule is reckoned anew", "schedule", s.Namespace+"/"+s.Name, "was", s.NextAt, "is", next)
		// Whoever has touched it since has reckoned it as well.
		if _, err := d.cfg.Pool.Exec(ctx, `UPDATE jobs.schedules SET next_at = $2, last_error = '' WHERE id = $1 AND next_at IS NOT DISTINCT FROM $3 AND updated_at = $4`,
			s.ID, nullTime(next), nullTime(s.NextAt), s.UpdatedAt); err != nil {
			return fmt.Errorf("reckon schedule %s/%s: %w", s.Namespace, s.Name, pg.Classify(err))
		}
	}
	return nil
}

// suspectStreams looks for kinds where a job waits although slots are free. If the kind's stream does not deliver what is
// published to it, it is replaced; what was in it is dispatched again.
func (d *Dispatcher) suspectStreams(ctx context.Context) error {
	kinds, err := d.suspects(ctx)
	if err != nil {
		return fmt.Errorf("find stalled kinds: %w", pg.Classify(err))
	}
	for _, k := range kinds {
		if !d.cfg.Bus.Conn().IsConnected() {
			return nil // nothing to heal: the server is away as a whole
		}
		if err := d.examine(ctx, k); err != nil {
			return fmt.Errorf("heal %s: %w", k.name(), err)
		}
	}
	return nil
}

// suspects are the kinds with free slots in which nothing moves: a job was released SuspectAfter ago and is not claimed, or
// a relay cannot release one, because a server that lost its files has stopped to acknowledge as well. A queue alone is no
// sign of the latter, since the outbox holds what is beyond the window, for as long as the work takes: it is one if for as
// long nothing was published (a message that is in the stream has no row in the outbox; one that a relay tries to publish
// still has) and nothing claimed.
func (d *Dispatcher) suspects(ctx context.Context) ([]kindStream, error) {
	rows, err := d.cfg.Pool.Query(ctx, `
		SELECT kind, max_ack_pending, ack_wait_ms FROM jobs.kinds k, (SELECT now() - $1::bigint * interval '1 microsecond' AS since) t
		WHERE NOT paused
			AND (EXISTS (SELECT 1 FROM jobs.jobs j WHERE j.kind = k.kind AND j.state = 'queued' AND j.dispatched_at < since)
				OR EXISTS (SELECT 1 FROM jobs.outbox o WHERE o.kind = k.kind AND o.created_at < since)
					AND NOT EXISTS (SELECT 1 FROM jobs.jobs j WHERE j.kind = k.kind AND j.state = 'queued' AND j.dispatched_at >= since
						AND NOT EXISTS (SELECT 1 FROM jobs.outbox o WHERE o.job = j.id))
					AND NOT EXISTS (SELECT 1 FROM jobs.leases l WHERE l.kind = k.kind AND l.taken_at >= since)
					AND NOT EXISTS (SELECT 1 FROM jobs.jobs j WHERE j.kind = k.kind AND j.finished_at >= since AND j.started_at >= since))
			AND (SELECT coalesce(sum(slots), 0) FROM jobs.slots s WHERE s.kind = k.kind AND s.expires_at > now())
				> (SELECT count(*) FROM jobs.leases l WHERE l.kind = k.kind)`, d.cfg.SuspectAfter.Microseconds())
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, d.scanKind)
}

func (d *Dispatcher) examine(ctx context.Context, k kindStream) error {
	probe, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	sick := k.probe(probe, d.cfg.Bus.JetStream())
	if ctx.Err() != nil {
		return nil
	}
	age := d.cfg.RedispatchAfter
	if guard.Heal && sick != nil {
		d.log.ErrorContext(ctx, "jobs: a stream does not deliver; replacing it", "stream", k.name(), "error", sick)
		heal, cancel := context.WithTimeout(ctx, 2*probeWait)
		defer cancel()
		if err := k.heal(heal, d.cfg.Bus); err != nil {
			return err
		}
		age = 0
		// It seldom is one stream alone. The events are told apart because healing forgets them.
		if err := d.examineEvents(ctx); err != nil {
			return err
		}
	}
	n, err := redispatch(ctx, d.cfg.Pool, k.kind, age)
	if n > 0 {
		d.log.WarnContext(ctx, "jobs: dispatched again", "kind", k.kind, "jobs", n)
	}
	return err
}

func (d *Dispatcher) examineEvents(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*probeWait)
	defer cancel()
	wait, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	if probe(wait, d.cfg.Bus.JetStream(), streamEvents, subjectEvents+probeToken) == nil {
		return nil
	}
	return d.cfg.Bus.Heal(ctx, eventsConfig())
}

// freeOutbox hands rows out again that a relay took and did not publish before it died.
func (d *Dispatcher) freeOutbox(ctx context.Context) error {
	_, err := d.cfg.Pool.Exec(ctx, `
		WITH o AS (
			UPDATE jobs.outbox SET released_at = NULL WHERE released_at < now() - $1::bigint * interval '1 microsecond' RETURNING job
		)
		SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM o LIMIT 1`, stuckOutbox.Microseconds())
	return pg.Classify(err)
}

// findForgotten gives an outbox row to queued jobs that have neither that nor a message: those that have waited long for
// a lock, in case a wake-up was lost, and whatever else should not happen. Rows whose job has moved on are removed.
func (d *Dispatcher) findForgotten(ctx context.Context) error {
	_, err := d.cfg.Pool.Exec(ctx, `
		WITH j AS (
			UPDATE jobs.jobs j SET parked_at = CASE WHEN parked_at IS NULL THEN NULL ELSE now() END
			WHERE state = 'queued' AND dispatched_at IS NULL
				AND coalesce(parked_at, queued_at, created_at) < now() - $1::bigint * interval '1 microsecond'
				AND NOT EXISTS (SELECT 1 FROM jobs.outbox o WHERE o.job = j.id)
			RETURNING id, kind, priority, namespace
		), o AS (
			INSERT INTO jobs.outbox (job, kind, priority, namespace) SELECT id, kind, priority, namespace FROM j RETURNING 1
		), d AS (
			DELETE FROM jobs.outbox o USING jobs.jobs j WHERE j.id = o.job AND j.state <> 'queued' AND o.released_at IS NULL
		)
		SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM o LIMIT 1`, d.cfg.RedispatchAfter.Microseconds())
	return pg.Classify(err)
}

// freeLocks removes locks whose job is not in a state to have them; there should be none.
func (d *Dispatcher) freeLocks(ctx context.Context) error {
	rows, err := d.cfg.Pool.Query(ctx, `
		SELECT DISTINCT l.job FROM jobs.locks l LEFT JOIN jobs.jobs j ON j.id = l.job
		WHERE j.id IS NULL OR j.state <> CASE WHEN l.granted THEN 'running' ELSE 'queued' END LIMIT $1`, sweepBatch)
	if err != nil {
		return pg.Classify(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return pg.Classify(err)
	}
	for _, id := range ids {
		if err := d.freeLock(ctx, id); err != nil {
			return fmt.Errorf("free the locks of job %s: %w", id, pg.Classify(err))
		}
	}
	return nil
}

// freeLock looks again with the job's row locked: between the two looks it may have started.
func (d *Dispatcher) freeLock(ctx context.Context, id uuid.UUID) error {
	return pgx.BeginFunc(ctx, d.cfg.Pool, func(tx pgx.Tx) error {
		var state string
		err := tx.QueryRow(ctx, `SELECT state FROM jobs.jobs WHERE id = $1 FOR NO KEY UPDATE`, id).Scan(&state)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT resource FROM jobs.locks WHERE job = $1 AND $2 <> CASE WHEN granted THEN 'running' ELSE 'queued' END`, id, state)
		if err != nil {
			return err
		}
		resources, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		return unlock(ctx, tx, id, resources)
	})
}

// purge removes jobs that ended long ago, runners that are gone and schedules' memory of nothing.
func (d *Dispatcher) purge(ctx context.Context) error {
	if _, err := d.cfg.Pool.Exec(ctx, `DELETE FROM jobs.slots WHERE expires_at < now() - interval '1 minute'`); err != nil {
		return pg.Classify(err)
	}
	if d.cfg.Retention < 0 {
		return nil
	}
	for {
		tag, err := d.cfg.Pool.Exec(ctx, `
			DELETE FROM jobs.jobs WHERE id IN (
				SELECT id FROM jobs.jobs WHERE finished_at < now() - $1::bigint * interval '1 microsecond' LIMIT $2)`,
			d.cfg.Retention.Microseconds(), purgeBatch)
		if err != nil || tag.RowsAffected() < purgeBatch {
			return pg.Classify(err)
		}
	}
}
