package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Hold ties what tx writes to the claim under which a worker runs: it share-locks the job's row until tx ends and
// returns fault.LostRace if the claim is not the current one, the job does not run any more, or its cancellation was
// asked for. Call it before the writes, in each transaction that writes for a job, in whichever service. Several
// transactions may hold one job at the same time; whoever would take the job away waits for them.
func Hold(ctx context.Context, tx pg.DB, job uuid.UUID, claim int64) error {
	if !guard.Hold {
		return nil
	}
	var one int
	err := tx.QueryRow(ctx, `
		SELECT 1 FROM jobs.jobs
		WHERE id = $1 AND claim = $2 AND state = 'running' AND NOT cancel_requested FOR SHARE`, job, claim).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return lostClaim(job, claim)
	}
	if err != nil {
		return fmt.Errorf("hold job %s: %w", job, pg.Classify(err))
	}
	return nil
}

// ReasonClaimLost is the reason of Hold's refusal.
const ReasonClaimLost = "JOB_CLAIM_LOST"

func lostClaim(job uuid.UUID, claim int64) error {
	return fault.New(fault.LostRace, "claim %d on job %s is not held any more", claim, job).WithReason(ReasonClaimLost)
}

const settleSQL = `
WITH j AS (
	UPDATE jobs.jobs j SET
		state = $3,
		failures = failures + $4,
		last_error = CASE WHEN $5 <> '' THEN $5 ELSE last_error END,
		result = coalesce($6, result),
		start_at = CASE WHEN $3 = 'scheduled' THEN now() + $7::bigint * interval '1 microsecond' ELSE start_at END,
		finished_at = CASE WHEN $3 <> 'scheduled' THEN now() END,
		dispatched_at = NULL,
		progress_done = coalesce($9, l.done, progress_done),
		progress_total = coalesce($10, l.total, progress_total),
		progress_bytes = coalesce($11, l.bytes, progress_bytes),
		progress_message = coalesce($12, l.message, progress_message)
	FROM (SELECT 1) one LEFT JOIN jobs.leases l ON l.job = $1 AND l.claim = $2
	WHERE j.id = $1 AND j.claim = $2 AND j.state = 'running' AND NOT ($8 AND j.cancel_requested)
	RETURNING j.lock_resources
), d AS (
	DELETE FROM jobs.leases WHERE job = $1 AND claim = $2 AND NOT $8
)
SELECT (SELECT lock_resources FROM j), EXISTS (SELECT 1 FROM j),
	CASE WHEN $3 = 'scheduled' AND $7 > 0 THEN pg_notify('` + channel + `', '` + wakeSweep + `')::text END`

// settle ends the attempt (job, claim) and gives its locks back; ok is false if the attempt is not the current one.
//
// inCaller means that db is the transaction of a worker that commits its effects together with the end of its job. A
// cancelled job is refused there, as Hold would. The lease is left to the runner: the caller's transaction may last, and
// a lease row it had locked would hold up the heartbeats of all the process's jobs.
func settle(ctx context.Context, db pg.DB, job uuid.UUID, claim int64, s settlement, inCaller bool) (ok bool, err error) {
	burned := 0
	if s.burn {
		burned = 1
	}
	var done, total, bytes *int64
	var message *string
	if p := s.progress; p != nil {
		done, total, bytes, message = &p.Done, &p.Total, &p.Bytes, &p.Message
	}
	one := func(db pg.DB) (resources []string, err error) {
		var ignore *string
		err = db.QueryRow(ctx, settleSQL, job, claim, string(s.state), burned, s.err, s.result, s.delay.Microseconds(), inCaller,
			done, total, bytes, message).
			Scan(&resources, &ok, &ignore)
		return resources, err
	}
	if s.lockless {
		_, err = one(db) // one statement needs no transaction of ours around it
	} else {
		err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			resources, err := one(tx)
			if err != nil || !ok {
				return err
			}
			return unlock(ctx, tx, job, resources)
		})
	}
	if err != nil {
		return false, fmt.Errorf("settle job %s as %s: %w", job, s.state, pg.Classify(err))
	}
	return ok, nil
}

const promoteSQL = `
WITH j AS (
	UPDATE jobs.jobs j SET state = 'queued', queued_at = now(), dispatched_at = NULL, parked_at = NULL
	WHERE id = $1 AND state = 'scheduled' AND start_at <= now()
		AND (coalesce_key IS NULL OR NOT EXISTS (
			SELECT 1 FROM jobs.jobs q WHERE q.kind = j.kind AND q.coalesce_key = j.coalesce_key AND q.state = 'queued'))
	RETURNING id, kind, priority, namespace
), o AS (
	INSERT INTO jobs.outbox (job, kind, priority, namespace) SELECT id, kind, priority, namespace FROM j
)
SELECT pg_notify('` + channel + `', '` + wakeRelay + `')::text FROM j`

// promote queues a scheduled job that is due. One whose key is queued already stays scheduled: it waits until the other
// has been claimed, and then takes its place in the queue.
func promote(ctx context.Context, db pg.DB, job uuid.UUID) (ok bool, err error) {
	var ignore *string
	err = db.QueryRow(ctx, promoteSQL, job).Scan(&ignore)
	if errors.Is(err, pgx.ErrNoRows) || isUnique(err) { // unique: a request came first by a hair
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("queue job %s: %w", job, pg.Classify(err))
	}
	return true, nil
}

// promoteSibling queues the job that waited for the key which a claim has just freed, if there is one.
func promoteSibling(ctx context.Context, db pg.DB, kind, key string) (uuid.UUID, error) {
	var id uuid.UUID
	err := db.QueryRow(ctx, `
		SELECT id FROM jobs.jobs WHERE kind = $1 AND coalesce_key = $2 AND state = 'scheduled' AND start_at <= now()
		ORDER BY start_at LIMIT 1`, kind, key).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, nil
	}
	if err != nil {
		return uuid.Nil, pg.Classify(err)
	}
	if ok, err := promote(ctx, db, id); err != nil || !ok {
		return uuid.Nil, err
	}
	return id, nil
}

// expire takes a running job away from a worker whose lease has run out. That burns an attempt: a job that kills its
// worker must not do so for ever. It returns the job's new state, "" if there was nothing to do.
//
// A worker that stands still inside a transaction with a Hold keeps the row; it is skipped and met again next time.
func expire(ctx context.Context, db pg.DB, job uuid.UUID) (State, error) {
	if !guard.Lease {
		return "", nil
	}
	var state State
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var (
			claim                 int64
			failures, maxFailures int
			cancelRequested       bool
		)
		err := tx.QueryRow(ctx, `
			SELECT claim, failures, max_failures, cancel_requested FROM jobs.jobs
			WHERE id = $1 AND state = 'running' FOR NO KEY UPDATE SKIP LOCKED`, job).
			Scan(&claim, &failures, &maxFailures, &cancelRequested)
		if errors.Is(err, pgx.ErrNoRows) {
			// A lease whose job has ended: the worker died between its commit and the end of its lease.
			_, err := tx.Exec(ctx, `
				DELETE FROM jobs.leases l WHERE job = $1 AND expires_at < now()
					AND NOT EXISTS (SELECT 1 FROM jobs.jobs j WHERE j.id = l.job AND j.state = 'running')`, job)
			return err
		}
		if err != nil {
			return err
		}
		var runner string
		err = tx.QueryRow(ctx, `
			SELECT runner FROM jobs.leases WHERE job = $1 AND claim = $2 AND expires_at < now() FOR UPDATE SKIP LOCKED`, job, claim).
			Scan(&runner)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // it has just beaten
		}
		if err != nil {
			return err
		}
		s := settlement{state: Scheduled, burn: true, err: fmt.Sprintf("worker %s vanished: its lease ran out", runner)}
		switch {
		case cancelRequested:
			s.state, s.burn = Cancelled, false
		case maxFailures > 0 && failures+1 >= maxFailures:
			s.state = Dead
		}
		ok, err := settle(ctx, tx, job, claim, s, false)
		if ok {
			state = s.state
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("expire job %s: %w", job, pg.Classify(err))
	}
	if state != Scheduled {
		return state, nil
	}
	if ok, err := promote(ctx, db, job); err != nil || !ok {
		return state, err
	}
	return Queued, nil
}

func isUnique(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "23505"
}
