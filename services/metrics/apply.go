package metrics

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

// applied is what became of some batches.
type applied struct {
	added           []*metricsv1.AccessBatch
	repeated        int64
	downloads, lost int64
}

// batchKey is a batch's number.
type batchKey struct {
	instance   string
	epoch, seq int64
}

// count is a number of downloads of a file in an hour; the channel itself has an empty path.
type count struct {
	channel uuid.UUID
	path    string
	at      time.Time
	n       int64
}

// apply adds the batches that were not added before and remembers their numbers, in one transaction.
func apply(ctx context.Context, pool *pgxpool.Pool, batches []*metricsv1.AccessBatch, now time.Time) (out applied, err error) {
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
			out = applied{}
			fresh, err := remember(ctx, tx, batches)
			if err != nil {
				return err
			}
			out.added, out.repeated = fresh, int64(len(batches)-len(fresh))
			for _, b := range fresh {
				out.lost += b.GetLost()
			}
			counts, err := sum(ctx, tx, fresh, now)
			if err != nil {
				return err
			}
			for _, c := range counts {
				if c.path == "" {
					out.downloads += c.n
				}
			}
			return add(ctx, tx, ownSource, counts)
		})
	})
	if err != nil {
		return applied{}, fmt.Errorf("add download counts: %w", err)
	}
	return out, nil
}

// remember notes the numbers of batches and returns those that were not noted before. The rows of their gateways stay
// locked, in order, until the transaction ends: another replica with the same batch waits and then finds it.
func remember(ctx context.Context, tx pgx.Tx, batches []*metricsv1.AccessBatch) ([]*metricsv1.AccessBatch, error) {
	byKey := make(map[batchKey]*metricsv1.AccessBatch, len(batches))
	for _, b := range batches {
		byKey[batchKey{b.GetInstance(), b.GetEpoch(), b.GetSeq()}] = b
	}
	keys := slices.SortedFunc(maps.Keys(byKey), func(a, b batchKey) int {
		return cmp.Or(strings.Compare(a.instance, b.instance), cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.seq, b.seq))
	})
	instances, epochs, seqs := make([]string, len(keys)), make([]int64, len(keys)), make([]int64, len(keys))
	for i, k := range keys {
		instances[i], epochs[i], seqs[i] = k.instance, k.epoch, k.seq
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO metrics.sources (instance, epoch) SELECT DISTINCT * FROM unnest($1::text[], $2::bigint[]) ORDER BY 1, 2
		ON CONFLICT (instance, epoch) DO NOTHING`, instances, epochs); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `
		SELECT FROM metrics.sources WHERE (instance, epoch) IN (SELECT * FROM unnest($1::text[], $2::bigint[])) ORDER BY instance, epoch FOR UPDATE`,
		instances, epochs); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, `
		WITH t AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS t(instance, epoch, seq)),
		fresh AS (SELECT t.* FROM t JOIN metrics.sources s USING (instance, epoch) WHERE NOT s.seen @> t.seq),
		noted AS (
			UPDATE metrics.sources s SET seen = seen + f.add, updated_at = now()
			FROM (SELECT instance, epoch, range_agg(int8range(seq, seq + 1)) AS add FROM fresh GROUP BY 1, 2) f
			WHERE (s.instance, s.epoch) = (f.instance, f.epoch)
		)
		SELECT instance, epoch, seq FROM fresh`, instances, epochs, seqs)
	if err != nil {
		return nil, err
	}
	var fresh []*metricsv1.AccessBatch
	var k batchKey
	_, err = pgx.ForEachRow(rows, []any{&k.instance, &k.epoch, &k.seq}, func() error {
		fresh = append(fresh, byKey[k])
		return nil
	})
	return fresh, err
}

// maxAhead is how far a gateway's clock may be ahead.
const maxAhead = time.Hour

// sum brings batches together, file by file and channel by channel, without the channels that are deleted.
func sum(ctx context.Context, tx pgx.Tx, batches []*metricsv1.AccessBatch, now time.Time) ([]count, error) {
	type key struct {
		channel uuid.UUID
		path    string
		at      int64
	}
	sums := map[key]int64{}
	channels := map[uuid.UUID]bool{}
	for _, b := range batches {
		at := b.GetHour() - b.GetHour()%3600
		if limit := now.Add(maxAhead).Unix(); at > limit {
			at = now.Unix() - now.Unix()%3600
		}
		for _, ch := range b.GetChannels() {
			id := uuid.UUID(ch.GetChannelId())
			channels[id] = true
			for i, path := range ch.GetPaths() {
				if n := ch.GetCounts()[i]; n > 0 && path != "" {
					sums[key{id, path, at}] += n
					sums[key{id, "", at}] += n
				}
			}
		}
	}
	rows, err := tx.Query(ctx, `SELECT channel_id FROM metrics.gone WHERE channel_id = ANY ($1)`, slices.Collect(maps.Keys(channels)))
	if err != nil {
		return nil, err
	}
	gone, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, err
	}
	out := make([]count, 0, len(sums))
	for k, n := range sums {
		if !slices.Contains(gone, k.channel) {
			out = append(out, count{k.channel, k.path, time.Unix(k.at, 0).UTC(), n})
		}
	}
	return out, nil
}

// ownSource is the source of what was downloaded here.
const ownSource = 0

// add adds hourly counts to the series and totals of their items. Rows are taken in one order, so that two who add the
// same files wait for each other and do not deadlock.
func add(ctx context.Context, tx pgx.Tx, source int64, counts []count) error {
	if len(counts) == 0 {
		return nil
	}
	channels, paths, packages := make([]uuid.UUID, len(counts)), make([]string, len(counts)), make([]string, len(counts))
	ats, ns := make([]time.Time, len(counts)), make([]int64, len(counts))
	for i, c := range counts {
		channels[i], paths[i], packages[i], ats[i], ns[i] = c.channel, c.path, packageName(c.path), c.at, c.n
	}
	_, err := tx.Exec(ctx, `
		WITH t AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[]) AS t(channel_id, path, package, at, n)),
		i AS (
			INSERT INTO metrics.items AS i (channel_id, path, package, total)
			SELECT channel_id, path COLLATE "C", min(package), sum(n) FROM t GROUP BY 1, 2 ORDER BY 1, 2
			ON CONFLICT (channel_id, path) DO UPDATE SET total = i.total + excluded.total
			RETURNING id, channel_id, path
		)
		INSERT INTO metrics.series AS s (item_id, source, period, at, n)
		SELECT i.id, $6, 1, t.at, t.n FROM t JOIN i ON i.channel_id = t.channel_id AND i.path = t.path ORDER BY 1, 4
		ON CONFLICT (item_id, at, period, source) DO UPDATE SET n = s.n + excluded.n`, channels, paths, packages, ats, ns, source)
	return err
}

// packageName is the package that a file belongs to by its name; empty if that tells none.
func packageName(path string) string {
	d, err := dist.ParseFilename(path[strings.LastIndexByte(path, '/')+1:])
	if err != nil {
		return ""
	}
	return d.Name
}
