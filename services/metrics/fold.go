package metrics

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/access"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	// foldBatch bounds one transaction of upkeep.
	foldBatch = 5000
	// keepSources is how long the numbers of batches are remembered after the last one of a gateway's start: longer than
	// the stream can hold one, and than a gateway could have waited for the bus with it.
	keepSources = 3 * access.Keep
)

// Fold moves hours that are too old to be kept into their days, and days into their months; it returns how many rows went.
// With dryRun it only counts them. It is called by the upkeep job, in whichever process runs it.
func Fold(ctx context.Context, db pg.DB, keep Keep, dryRun bool) (int64, error) {
	var total int64
	for _, step := range []struct {
		from, to period
		keep     time.Duration
	}{{hour, day, keep.Hours}, {day, month, keep.Days}} {
		// A period goes as a whole: its rows are older than the one that is still kept.
		const before = `date_trunc($2, now() - $3::interval, 'UTC')`
		if dryRun {
			var n int64
			err := db.QueryRow(ctx, `SELECT count(*) FROM metrics.series WHERE period = $1 AND at < `+before, step.from, step.to.trunc(), step.keep).Scan(&n)
			if err != nil {
				return total, fmt.Errorf("count old downloads: %w", pg.Classify(err))
			}
			total += n
			continue
		}
		for {
			var n int64
			err := pg.Retry(ctx, func(ctx context.Context) error {
				return db.QueryRow(ctx, `
					WITH old AS (
						DELETE FROM metrics.series WHERE ctid = ANY (ARRAY(
							SELECT ctid FROM metrics.series WHERE period = $1 AND at < `+before+` ORDER BY period, at LIMIT $5 FOR UPDATE SKIP LOCKED))
						RETURNING item_id, source, at, n
					), moved AS (
						INSERT INTO metrics.series AS s (item_id, source, period, at, n)
						SELECT item_id, source, $4::smallint, date_trunc($2, at, 'UTC'), sum(n) FROM old GROUP BY 1, 2, 4 ORDER BY 1, 4
						ON CONFLICT (item_id, at, period, source) DO UPDATE SET n = s.n + excluded.n
					)
					SELECT count(*) FROM old`, step.from, step.to.trunc(), step.keep, step.to, foldBatch).Scan(&n)
			})
			if err != nil {
				return total, fmt.Errorf("fold old downloads: %w", err)
			}
			if total += n; n < foldBatch {
				break
			}
		}
	}
	return total, nil
}

// PurgeSources forgets the numbers of batches that cannot come any more, and channels that are long gone. What came in for
// a channel while its counts were dropped goes, too.
func PurgeSources(ctx context.Context, db pg.DB, dryRun bool) (int64, error) {
	var n int64
	sql := `WITH s AS (DELETE FROM metrics.sources WHERE updated_at < now() - $1::interval RETURNING 1),
		g AS (DELETE FROM metrics.gone WHERE at < now() - $1::interval RETURNING 1)
		SELECT (SELECT count(*) FROM s) + (SELECT count(*) FROM g)`
	if dryRun {
		sql = `SELECT (SELECT count(*) FROM metrics.sources WHERE updated_at < now() - $1::interval)
			+ (SELECT count(*) FROM metrics.gone WHERE at < now() - $1::interval)`
	} else if err := forgetAgain(ctx, db); err != nil {
		return 0, err
	}
	if err := db.QueryRow(ctx, sql, keepSources).Scan(&n); err != nil {
		return 0, fmt.Errorf("forget old batches: %w", pg.Classify(err))
	}
	return n, nil
}

func forgetAgain(ctx context.Context, db pg.DB) error {
	rows, err := db.Query(ctx, `SELECT channel_id FROM metrics.gone g WHERE EXISTS (SELECT FROM metrics.items i WHERE i.channel_id = g.channel_id)`)
	if err != nil {
		return fmt.Errorf("counts of deleted channels: %w", pg.Classify(err))
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	for _, channel := range gone {
		if err == nil {
			err = forget(ctx, db, channel)
		}
	}
	return pg.Classify(err)
}

// forget drops all counts of a channel, page by page, after noting that it is gone: what still comes is not added.
func forget(ctx context.Context, db pg.DB, channel uuid.UUID) error {
	return pg.Retry(ctx, func(ctx context.Context) error {
		if _, err := db.Exec(ctx, `INSERT INTO metrics.gone (channel_id) VALUES ($1) ON CONFLICT DO NOTHING`, channel); err != nil {
			return err
		}
		for n := int64(foldBatch); n == foldBatch; {
			// Items are locked first, and in order, as by those who add.
			err := db.QueryRow(ctx, `
				WITH page AS (SELECT id FROM metrics.items WHERE channel_id = $1 ORDER BY channel_id, path LIMIT $2 FOR UPDATE),
				points AS (DELETE FROM metrics.series WHERE item_id IN (SELECT id FROM page)),
				gone AS (DELETE FROM metrics.items WHERE id IN (SELECT id FROM page) RETURNING 1)
				SELECT count(*) FROM gone`, channel, foldBatch).Scan(&n)
			if err != nil {
				return err
			}
		}
		_, err := db.Exec(ctx, `DELETE FROM metrics.pulls WHERE channel_id = $1`, channel)
		return err
	})
}
