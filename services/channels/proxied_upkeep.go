package channels

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// purgeProxiedBatch bounds how many rows go in one transaction, which holds the channel's lock.
const purgeProxiedBatch = 1000

// unwantedProxied are files of proxy channels that nobody has asked for: packages, shards and documents, but not the
// families of index files, of which there is one generation only.
const unwantedProxied = `(family = '' OR family LIKE 'file:%') AND used_at < clock_timestamp() - $1::interval`

// touchProxied notes that a file was asked for. Once a day will do, so that reading does not mean writing.
func (s *Service) touchProxied(ctx context.Context, id uuid.UUID, path string) error {
	_, err := s.pool.Exec(ctx, `UPDATE channels.proxied SET used_at = clock_timestamp()
		WHERE channel_id = $1 AND path = $2 AND used_at < clock_timestamp() - interval '1 day'`, id, path)
	return pg.Classify(err)
}

// PurgeProxied lets go of what proxy channels have stored and nobody has asked for since keep. It is fetched again when
// somebody does. It returns how many files there were; with dryRun it only counts them.
func PurgeProxied(ctx context.Context, db pg.DB, keep time.Duration, dryRun bool) (int64, error) {
	rows, err := db.Query(ctx, `SELECT channel_id, count(*) FROM channels.proxied WHERE `+unwantedProxied+` GROUP BY channel_id`, keep)
	if err != nil {
		return 0, pg.Classify(err)
	}
	var ids []uuid.UUID
	var id uuid.UUID
	var n, total int64
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { ids = append(ids, id); total += n; return nil }); err != nil {
		return 0, pg.Classify(err)
	}
	if dryRun {
		return total, nil
	}
	total = 0
	for _, id := range ids {
		for {
			n, err := purgeProxied(ctx, db, id, keep)
			if err != nil && !fault.Is(err, fault.NotFound) { // a channel that was deleted meanwhile takes its rows along
				return total, fmt.Errorf("remove unused files of proxy %s: %w", id, err)
			}
			if total += n; n < purgeProxiedBatch {
				break
			}
		}
	}
	return total, nil
}

func purgeProxied(ctx context.Context, db pg.DB, id uuid.UUID, keep time.Duration) (n int64, err error) {
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			if _, err := lockChannel(ctx, tx, id); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, `DELETE FROM channels.proxied WHERE channel_id = $2 AND path IN (
				SELECT path FROM channels.proxied WHERE channel_id = $2 AND `+unwantedProxied+` LIMIT $3) RETURNING digest`, keep, id, purgeProxiedBatch)
			if err != nil {
				return pg.Classify(err)
			}
			gone, err := pgx.CollectRows(rows, pgx.RowTo[blob.Digest])
			if err != nil {
				return pg.Classify(err)
			}
			n = int64(len(gone))
			return dropProxiedRefs(ctx, tx, id, gone)
		})
	})
	return n, err
}
