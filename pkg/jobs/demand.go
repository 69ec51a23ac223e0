package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Demand is what the workers of some kinds are asked for, and what they offer: enough to decide how many there should be.
type Demand struct {
	// Queued jobs could run now if there was a slot. Those of a paused kind could not, nor those that wait for a lock:
	// more workers would not help them.
	Queued int64
	// Running jobs have a worker, which should not be taken from them.
	Running int64
	// Slots of live workers.
	Slots int64
	// OldestAge is how long the first of the queued jobs has waited.
	OldestAge time.Duration
}

// DemandOf returns the demand for the kinds of some services, as "sync" for sync.channel and others. It is read from the
// database, which has the whole queue: a stream has only a window of it, and none at all of kinds without workers.
func DemandOf(ctx context.Context, db pg.DB, services ...string) (Demand, error) {
	rows, err := db.Query(ctx, `
		SELECT count(*) FILTER (WHERE ready) AS queued, count(*) FILTER (WHERE state = 'running') AS running,
			(SELECT coalesce(sum(slots), 0) FROM jobs.slots WHERE expires_at > now() AND split_part(kind, '.', 1) = ANY (@services))::bigint AS slots,
			coalesce(greatest(extract(epoch FROM now() - min(since) FILTER (WHERE ready)) * 1000000000, 0), 0)::bigint AS oldest_age
		FROM (
			SELECT state, coalesce(queued_at, created_at) AS since,
				state = 'queued' AND parked_at IS NULL AND NOT coalesce((SELECT paused FROM jobs.kinds k WHERE k.kind = j.kind), false) AS ready
			FROM jobs.jobs j WHERE state IN ('queued', 'running') AND split_part(kind, '.', 1) = ANY (@services)
		) live`, pgx.NamedArgs{"services": services})
	if err != nil {
		return Demand{}, fmt.Errorf("demand for %s jobs: %w", services, pg.Classify(err))
	}
	d, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Demand])
	if err != nil {
		return Demand{}, fmt.Errorf("demand for %s jobs: %w", services, pg.Classify(err))
	}
	return d, nil
}
