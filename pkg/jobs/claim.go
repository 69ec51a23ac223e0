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

// claimedRow is what a runner needs to know of the job it claimed.
type claimedRow struct {
	ID              uuid.UUID
	Seq             int64
	Kind            string
	ArgsType        string
	Args            []byte
	Priority        int16
	Namespace       string
	PrincipalName   string
	Principal       []byte
	Resource        string
	CoalesceKey     *string
	LockResources   []string
	Claim           int64
	Failures        int
	MaxFailures     int
	ScheduleID      *uuid.UUID
	Traceparent     string
	Tracestate      string
	QueuedFor       time.Duration
	ProgressDone    int64
	ProgressTotal   int64
	ProgressBytes   int64
	ProgressMessage string
}

// claimed says how a claim ended.
type claimed int

const (
	claimWon    claimed = iota
	claimStale          // nothing to do: somebody has it, or it has ended
	claimBusy           // somebody joins it right now: ask again in a moment
	claimParked         // its locks are taken: it waits, and is dispatched again when they are free
)

// claimSQL is the claim: one UPDATE that raises claim. Jobs with locks or a coalescing key take the longer way below,
// which sets $5.
var claimSQL = `
WITH j AS (
	UPDATE jobs.jobs SET state = 'running', claim = claim + 1, started_at = now(),
		dispatched_at = NULL, parked_at = NULL, max_failures = CASE WHEN max_failures = 0 THEN $2 ELSE max_failures END
	WHERE id = $1 AND ` + claimable() + ` AND ($5 OR (coalesce_key IS NULL AND lock_resources = '{}'))
	RETURNING *
), l AS (
	INSERT INTO jobs.leases (job, claim, kind, runner, expires_at, done, total, bytes, message)
	SELECT id, claim, kind, $3, coalesce($6::timestamptz, clock_timestamp()) + $4::bigint * interval '1 microsecond',
		progress_done, progress_total, progress_bytes, progress_message FROM j
	ON CONFLICT (job) DO UPDATE SET claim = excluded.claim, runner = excluded.runner, taken_at = now(), expires_at = excluded.expires_at
), d AS (
	DELETE FROM jobs.outbox WHERE job = $1 AND released_at IS NULL AND EXISTS (SELECT 1 FROM j)
)
SELECT id, seq, kind, args_type, args, priority, namespace, principal_name, principal, resource, coalesce_key,
	lock_resources, claim, failures, max_failures, schedule_id, traceparent, tracestate,
	now() - coalesce(queued_at, created_at) AS queued_for,
	progress_done, progress_total, progress_bytes, progress_message
FROM j`

// claimable is the condition under which a job can be claimed.
func claimable() string {
	if !guard.Claim {
		return "true"
	}
	return "state = 'queued'"
}

// claimer is who claims.
type claimer struct {
	runner string
	ttl    time.Duration
	// at is when the lease begins; nil means now, by the database's clock.
	at          *time.Time
	maxFailures int
}

func claim(ctx context.Context, db pg.DB, job uuid.UUID, by claimer) (claimedRow, claimed, error) {
	row, err := claimOnce(ctx, db, job, by, false)
	if err == nil {
		return row, claimWon, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return row, claimStale, fmt.Errorf("claim job %s: %w", job, pg.Classify(err))
	}
	var how claimed
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) (err error) {
		row, how, err = claimCarefully(ctx, tx, job, by)
		return err
	})
	if err != nil {
		return row, claimStale, fmt.Errorf("claim job %s: %w", job, pg.Classify(err))
	}
	return row, how, nil
}

func claimOnce(ctx context.Context, db pg.DB, job uuid.UUID, by claimer, keyed bool) (claimedRow, error) {
	rows, err := db.Query(ctx, claimSQL, job, by.maxFailures, by.runner, by.ttl.Microseconds(), keyed, by.at)
	if err != nil {
		return claimedRow{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[claimedRow])
}

// claimCarefully claims a job that may have locks or a key. A request that joins a queued job share-locks its row until
// the requester's transaction ends; claiming it earlier would lose the request, and waiting would cost a slot.
func claimCarefully(ctx context.Context, tx pgx.Tx, job uuid.UUID, by claimer) (row claimedRow, how claimed, err error) {
	var (
		seq       int64
		kind      string
		resources []string
		exclusive []bool
	)
	err = tx.QueryRow(ctx, `
		SELECT seq, kind, lock_resources, lock_exclusive FROM jobs.jobs
		WHERE id = $1 AND state = 'queued' FOR NO KEY UPDATE SKIP LOCKED`, job).Scan(&seq, &kind, &resources, &exclusive)
	if errors.Is(err, pgx.ErrNoRows) {
		var queued bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM jobs.jobs WHERE id = $1 AND state = 'queued')`, job).Scan(&queued); err != nil {
			return row, claimStale, err
		}
		if queued {
			return row, claimBusy, nil
		}
		return row, claimStale, nil
	}
	if err != nil {
		return row, claimStale, err
	}
	if len(resources) > 0 {
		ok, err := lock(ctx, tx, job, seq, kind, resources, exclusive)
		if err != nil {
			return row, claimStale, err
		}
		if !ok {
			_, err := tx.Exec(ctx, `
				WITH j AS (UPDATE jobs.jobs SET dispatched_at = NULL, parked_at = now() WHERE id = $1 RETURNING 1)
				SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM j`, job)
			return row, claimParked, err
		}
	}
	row, err = claimOnce(ctx, tx, job, by, true)
	return row, claimWon, err
}
