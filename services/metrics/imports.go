package metrics

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

// Counts that another server made before its channel moved here are a source like a mirror that was asked, except that
// nobody asks it again: what it says of a file is replaced when it says something else, and can be taken back as a whole.

const (
	// maxImportFiles and maxImportPoints bound a call.
	maxImportFiles  = 1000
	maxImportPoints = 200_000
	maxSource       = 300
)

// imported is a point of a file's series.
type imported struct {
	path   string
	period int16
	at     time.Time
	n      int64
}

// slot is a period of the channel's own series.
type slot struct {
	period int16
	at     int64 // Unix seconds
}

// ImportCounts adds download counts that another server made.
func (s *Service) ImportCounts(ctx context.Context, req *metricsv1.ImportCountsRequest) (*metricsv1.ImportCountsResponse, error) {
	source, err := uuid.Parse(req.GetSourceId())
	if err != nil {
		return nil, fault.Field("source_id", "source_id should be a UUID")
	}
	if u, err := url.Parse(req.GetSource()); req.GetSource() == "" || len(req.GetSource()) > maxSource || strings.ContainsRune(req.GetSource(), 0) || err == nil && u.User != nil {
		return nil, fault.Field("source", "source should be a name or a URL without credentials, of at most %d bytes", maxSource)
	}
	points, paths, err := importedPoints(req.GetFiles(), s.deps.Now())
	if err != nil {
		return nil, err
	}
	res, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	out := &metricsv1.ImportCountsResponse{}
	for _, p := range points {
		out.Downloads += p.n
	}
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
			return importCounts(ctx, tx, res.Name, id, source, req.GetSource(), points, paths)
		})
	})
	return out, err
}

// importedPoints checks what was sent.
func importedPoints(files []*metricsv1.ImportedCounts, now time.Time) (points []imported, paths []string, err error) {
	if n := len(files); n == 0 || n > maxImportFiles {
		return nil, nil, fault.Field("files", "a request has the counts of 1 to %d files", maxImportFiles)
	}
	for _, f := range files {
		path, err := names.CleanPath(f.GetPath())
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(paths, path) {
			return nil, nil, fault.Field("files", "%s is there twice", path)
		}
		paths = append(paths, path)
		period := int16(cmp.Or(f.GetInterval(), metricsv1.Interval_INTERVAL_DAY))
		if period < 1 || period > 4 {
			return nil, nil, fault.Field("interval", "interval is not known")
		}
		seen := map[int64]bool{}
		for _, p := range f.GetSeries() {
			at := floor(p.GetTime().AsTime().UTC(), metricsv1.Interval(period))
			switch {
			case p.GetTime().CheckValid() != nil || at.Unix() < 0 || at.After(now):
				return nil, nil, fault.Field("series", "a time of %s is none that has passed", path)
			case p.GetCount() < 0:
				return nil, nil, fault.Field("series", "a count of %s is negative", path)
			case seen[at.Unix()]:
				return nil, nil, fault.Field("series", "%s has a period twice", path)
			}
			seen[at.Unix()] = true
			if p.GetCount() > 0 {
				points = append(points, imported{path, period, at, p.GetCount()})
			}
		}
		if len(points) > maxImportPoints {
			return nil, nil, fault.Field("files", "a request has at most %d points", maxImportPoints)
		}
	}
	slices.Sort(paths)
	return points, paths, nil
}

// floor returns the beginning of the period that t lies in.
func floor(t time.Time, interval metricsv1.Interval) time.Time {
	switch interval {
	case metricsv1.Interval_INTERVAL_HOUR:
		return t.Truncate(time.Hour)
	case metricsv1.Interval_INTERVAL_MONTH:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	case metricsv1.Interval_INTERVAL_YEAR:
		return time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
}

// importCounts replaces what the source said of the paths.
func importCounts(ctx context.Context, tx pgx.Tx, name string, channel, source uuid.UUID, shown string, points []imported, paths []string) error {
	st := store{tx}
	if gone, err := st.isGone(ctx, channel); err != nil || gone {
		return cmp.Or(err, error(fault.New(fault.NotFound, "the channel was deleted")))
	}
	row, err := st.pull(ctx, channel, source, shown) // its row is locked from here on: one import at a time
	if err != nil {
		return err
	}
	delta, err := dropImported(ctx, tx, channel, row.ID, paths)
	if err != nil {
		return err
	}
	for _, p := range points {
		delta[slot{p.period, p.at.Unix()}] += p.n
	}
	var grown int64
	for k, n := range delta {
		if grown += n; n != 0 {
			points = append(points, imported{"", k.period, time.Unix(k.at, 0).UTC(), n})
		}
	}
	for some := range slices.Chunk(points, addMost) {
		if err := addPeriods(ctx, tx, channel, row.ID, some); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE metrics.pulls SET total = total + $2, asked_at = now(), error = '' WHERE id = $1`, row.ID, grown); err != nil {
		return err
	}
	if grown == 0 {
		return nil
	}
	return audit.Record(ctx, tx, audit.Event{
		Action: "channel.metrics.import", Resource: "channel/" + name, Details: map[string]any{"source": shown, "files": len(paths), "downloads": grown},
	})
}

// dropImported removes what a source said of some files and returns, with a minus, what the channel's own series loses.
func dropImported(ctx context.Context, tx pgx.Tx, channel uuid.UUID, source int64, paths []string) (map[slot]int64, error) {
	// In order, as by those who add; the channel's own item, whose path is empty, comes first.
	if _, err := tx.Exec(ctx, `SELECT FROM metrics.items WHERE channel_id = $1 AND path = ANY ($2) ORDER BY path FOR UPDATE`, channel, append([]string{""}, paths...)); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		WITH old AS (
			DELETE FROM metrics.series s USING metrics.items i
			WHERE s.item_id = i.id AND i.channel_id = $1 AND i.path = ANY ($2) AND s.source = $3 RETURNING s.item_id, s.period, s.at, s.n
		), totals AS (
			UPDATE metrics.items i SET total = i.total - o.n FROM (SELECT item_id, sum(n) AS n FROM old GROUP BY 1) o WHERE i.id = o.item_id
		)
		SELECT period, at, sum(n)::bigint FROM old GROUP BY 1, 2`, channel, paths, source)
	if err != nil {
		return nil, err
	}
	lost := map[slot]int64{}
	var period int16
	var at time.Time
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&period, &at, &n}, func() error {
		lost[slot{period, at.Unix()}] -= n
		return nil
	})
	return lost, err
}

// addPeriods adds points of any period. Those of the channel itself may be negative; where nothing is left, no row is.
func addPeriods(ctx context.Context, tx pgx.Tx, channel uuid.UUID, source int64, points []imported) error {
	paths, packages := make([]string, len(points)), make([]string, len(points))
	periods, ats, ns := make([]int16, len(points)), make([]time.Time, len(points)), make([]int64, len(points))
	for i, p := range points {
		paths[i], packages[i], periods[i], ats[i], ns[i] = p.path, packageName(p.path), p.period, p.at, p.n
	}
	_, err := tx.Exec(ctx, `
		WITH t AS (SELECT * FROM unnest($2::text[], $3::text[], $4::smallint[], $5::timestamptz[], $6::bigint[]) AS t(path, package, period, at, n)),
		i AS (
			INSERT INTO metrics.items AS i (channel_id, path, package, total)
			SELECT $1, path COLLATE "C", min(package), sum(n) FROM t GROUP BY 2 ORDER BY 2
			ON CONFLICT (channel_id, path) DO UPDATE SET total = i.total + excluded.total
			RETURNING id, path
		)
		INSERT INTO metrics.series AS s (item_id, source, period, at, n)
		SELECT i.id, $7, t.period, t.at, t.n FROM t JOIN i ON i.path = t.path ORDER BY 1, 4
		ON CONFLICT (item_id, at, period, source) DO UPDATE SET n = s.n + excluded.n`, channel, paths, packages, periods, ats, ns, source)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		DELETE FROM metrics.series s USING metrics.items i WHERE s.item_id = i.id AND i.channel_id = $1 AND i.path = '' AND s.source = $2 AND s.n = 0`, channel, source)
	return err
}
