package jobs

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// reclaim ends the leases of runners that lived in this instance before, and queues their jobs again. As with any lease
// that runs out this burns an attempt: a job may be what killed the process. A mistake costs work, not correctness: should
// the other runner live after all, its claim is not the current one any more.
func (r *Runner) reclaim(ctx context.Context) error {
	if r.cfg.Instance == "" || !guard.Reclaim {
		return nil
	}
	rows, err := r.cfg.Pool.Query(ctx, `
		WITH s AS (
			DELETE FROM jobs.slots WHERE split_part(runner, '@', 2) = $1 AND runner <> $2
		)
		UPDATE jobs.leases SET expires_at = '-infinity'
		WHERE split_part(runner, '@', 2) = $1 AND runner <> $2 RETURNING job`, r.cfg.Instance, r.cfg.Name)
	if err != nil {
		return fmt.Errorf("reclaim leases: %w", pg.Classify(err))
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("reclaim leases: %w", pg.Classify(err))
	}
	for _, job := range jobs {
		// One that is skipped now, because a transaction of the dead process still ends, is the sweeper's.
		state, err := expire(ctx, r.cfg.Pool, job)
		if err != nil {
			return err
		}
		r.log.InfoContext(ctx, "jobs: taken back from an earlier process in this place", "job", job, "state", string(state))
	}
	return nil
}
