package jobs

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/guard"
)

// Exclusion. Whoever reads or changes the locks of a resource first takes an advisory lock on its name, in the order of
// their hashes and after the row lock of his own job; so grant, wait and release of one resource happen one after the
// other, and no wake-up falls between a look and a sleep.

func serialize(ctx context.Context, tx pgx.Tx, resources []string) error {
	_, err := tx.Exec(ctx, `
		SELECT pg_advisory_xact_lock(h) FROM (
			SELECT DISTINCT hashtextextended('jobs.locks/' || r, 0) AS h FROM unnest($1::text[]) r ORDER BY 1) s`, resources)
	return err
}

// conflictSQL finds which of the resources a job cannot have: those another one holds in a way that excludes it, and
// those an older job waits for, so that a stream of shared holders does not starve an exclusive one. Waiters whose kind
// nobody runs at present do not count: they would stand in the way for nothing.
const conflictSQL = `
SELECT DISTINCT w.resource
FROM unnest($2::text[], $3::boolean[]) w(resource, exclusive)
JOIN jobs.locks h ON h.resource = w.resource AND h.job <> $1 AND (h.exclusive OR w.exclusive)
WHERE h.granted OR (h.seq < $4
	AND EXISTS (SELECT 1 FROM jobs.slots s WHERE s.kind = h.kind AND s.expires_at > now())
	AND NOT EXISTS (SELECT 1 FROM jobs.kinds k WHERE k.kind = h.kind AND k.paused))`

// lock takes the job's locks, all or none. If it cannot, the job is entered as waiting for those it misses.
func lock(ctx context.Context, tx pgx.Tx, job uuid.UUID, seq int64, kind string, resources []string, exclusive []bool) (ok bool, err error) {
	if err := serialize(ctx, tx, resources); err != nil {
		return false, fmt.Errorf("serialize locks: %w", err)
	}
	rows, err := tx.Query(ctx, `DELETE FROM jobs.locks WHERE job = $1 RETURNING resource`, job)
	if err != nil {
		return false, err
	}
	waited, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, err
	}
	if rows, err = tx.Query(ctx, conflictSQL, job, resources, exclusive, seq); err != nil {
		return false, err
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false, err
	}
	ok = len(missing) == 0 || !guard.Locks
	if _, err := tx.Exec(ctx, `
		INSERT INTO jobs.locks (resource, job, seq, kind, exclusive, granted)
		SELECT r, $1, $4, $5, bool_or(x), $6 FROM unnest($2::text[], $3::boolean[]) w(r, x)
		WHERE $6 OR r = ANY($7::text[]) GROUP BY r`, job, resources, exclusive, seq, kind, ok, missing); err != nil {
		return false, err
	}
	if !ok && len(waited) > 0 {
		// It was woken for one resource and now waits for another: the turn passes on.
		return false, wakeWaiters(ctx, tx, waited)
	}
	return ok, nil
}

// unlock removes the job's locks, held or waited for, and wakes those who wait for them.
func unlock(ctx context.Context, tx pgx.Tx, job uuid.UUID, resources []string) error {
	if len(resources) == 0 {
		return nil
	}
	if err := serialize(ctx, tx, resources); err != nil {
		return fmt.Errorf("serialize locks: %w", err)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM jobs.locks WHERE job = $1`, job); err != nil {
		return err
	}
	return wakeWaiters(ctx, tx, resources)
}

// wakeWaiters sends those to the queue again whose turn it may be: per resource and kind the oldest, and if it shares,
// all that share before the next exclusive one. Kinds are apart because one of them may have no worker just now.
func wakeWaiters(ctx context.Context, tx pgx.Tx, resources []string) error {
	_, err := tx.Exec(ctx, `
		WITH turn AS (
			SELECT job, exclusive,
				row_number() OVER w AS place,
				count(*) FILTER (WHERE exclusive) OVER w AS exclusives
			FROM jobs.locks WHERE resource = ANY($1) AND NOT granted
			WINDOW w AS (PARTITION BY resource, kind ORDER BY seq)
		), woken AS (
			INSERT INTO jobs.outbox (job, kind, priority, namespace)
			SELECT j.id, j.kind, j.priority, j.namespace FROM jobs.jobs j
			WHERE j.state = 'queued' AND j.id IN (SELECT job FROM turn WHERE exclusives = 0 OR (exclusive AND place = 1))
				AND NOT EXISTS (SELECT 1 FROM jobs.outbox o WHERE o.job = j.id AND o.released_at IS NULL)
			RETURNING 1
		)
		SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM woken LIMIT 1`, resources)
	if err != nil {
		return fmt.Errorf("wake waiting jobs: %w", err)
	}
	return nil
}
