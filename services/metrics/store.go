package metrics

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// store is the SQL of this service's questions; db is a pool or a transaction.
type store struct{ db pg.DB }

// window says which points are asked for: those of a period that begin in [from, to).
type window struct {
	period   period
	from, to time.Time
}

// point is a number of downloads in a period.
type point struct {
	At time.Time
	N  int64
}

// fileSeries is a file with its points in order.
type fileSeries struct {
	path   string
	points []point
}

// bucket truncates to the period of parameter $2 in UTC. Rows of a longer period than that have no place in the answer.
const bucket = `date_trunc($2, s.at, 'UTC')`

// series returns the points and the total of one item; one that was never counted has none.
func (s store) series(ctx context.Context, channel uuid.UUID, path string, w window) (points []point, total int64, err error) {
	err = s.db.QueryRow(ctx, `SELECT total FROM metrics.items WHERE channel_id = $1 AND path = $2`, channel, path).Scan(&total)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("downloads: %w", pg.Classify(err))
	}
	rows, err := s.db.Query(ctx, `
		SELECT `+bucket+`, sum(s.n)::bigint FROM metrics.items i JOIN metrics.series s ON s.item_id = i.id
		WHERE i.channel_id = $1 AND i.path = $3 AND s.at >= $4 AND s.at < $5 AND s.period <= $6 GROUP BY 1 HAVING sum(s.n) > 0 ORDER BY 1`,
		channel, w.period.trunc(), path, w.from, w.to, w.period)
	if err != nil {
		return nil, 0, fmt.Errorf("downloads: %w", pg.Classify(err))
	}
	points, err = pgx.CollectRows(rows, pgx.RowToStructByPos[point])
	return points, total, pg.Classify(err)
}

// files returns at most limit files after a path that were downloaded in the window. lowest and highest bound the paths;
// an empty highest does not.
func (s store) files(ctx context.Context, channel uuid.UUID, after, lowest, highest string, limit int, w window) ([]fileSeries, error) {
	rows, err := s.db.Query(ctx, `
		WITH page AS (
			SELECT i.id, i.path FROM metrics.items i
			WHERE i.channel_id = $1 AND i.path > $3 AND i.path >= $4 AND ($5 = '' OR i.path < $5)
				AND EXISTS (SELECT FROM metrics.series s WHERE s.item_id = i.id AND s.at >= $6 AND s.at < $7 AND s.period <= $8)
			ORDER BY i.path LIMIT $9
		)
		SELECT page.path, `+bucket+`, sum(s.n)::bigint FROM page JOIN metrics.series s ON s.item_id = page.id
		WHERE s.at >= $6 AND s.at < $7 AND s.period <= $8 GROUP BY 1, 2 HAVING sum(s.n) > 0 ORDER BY 1, 2`,
		channel, w.period.trunc(), after, lowest, highest, w.from, w.to, w.period, limit)
	if err != nil {
		return nil, fmt.Errorf("downloads: %w", pg.Classify(err))
	}
	var out []fileSeries
	var path string
	var p point
	_, err = pgx.ForEachRow(rows, []any{&path, &p.At, &p.N}, func() error {
		if len(out) == 0 || out[len(out)-1].path != path {
			out = append(out, fileSeries{path: path})
		}
		f := &out[len(out)-1]
		f.points = append(f.points, p)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("downloads: %w", pg.Classify(err))
	}
	return out, nil
}

// named is something with its downloads.
type named struct {
	Name string
	N    int64
}

// top returns the files or packages with the most downloads in the window. Without bounds the totals say it.
func (s store) top(ctx context.Context, channel uuid.UUID, column string, limit int, w window) ([]named, error) {
	sql := `SELECT i.` + column + `, sum(i.total)::bigint FROM metrics.items i
		WHERE i.channel_id = $1 AND i.path <> '' AND i.` + column + ` <> '' GROUP BY 1 HAVING sum(i.total) > 0 ORDER BY 2 DESC, 1 LIMIT $2`
	args := []any{channel, limit}
	if w.bounded() {
		sql = `SELECT i.` + column + `, sum(s.n)::bigint FROM metrics.items i JOIN metrics.series s ON s.item_id = i.id
			WHERE i.channel_id = $1 AND i.path <> '' AND i.` + column + ` <> '' AND s.at >= $3 AND s.at < $4 AND s.period <= $5
			GROUP BY 1 HAVING sum(s.n) > 0 ORDER BY 2 DESC, 1 LIMIT $2`
		args = append(args, w.from, w.to, w.period)
	}
	rows, err := s.db.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("top downloads: %w", pg.Classify(err))
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[named])
	return all, pg.Classify(err)
}

// totals returns the downloads of files or packages; those without any are missing.
func (s store) totals(ctx context.Context, channel uuid.UUID, column string, names []string) ([]named, error) {
	if len(names) == 0 {
		return nil, nil
	}
	rows, err := s.db.Query(ctx, `SELECT `+column+`, sum(total)::bigint FROM metrics.items
		WHERE channel_id = $1 AND `+column+` = ANY ($2) AND path <> '' GROUP BY 1 HAVING sum(total) > 0 ORDER BY 1`, channel, names)
	if err != nil {
		return nil, fmt.Errorf("download totals: %w", pg.Classify(err))
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[named])
	return all, pg.Classify(err)
}

// columns that top and totals take.
const (
	columnPath    = "path"
	columnPackage = "package"
)
