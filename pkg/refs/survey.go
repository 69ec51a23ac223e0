package refs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Garbage counts blobs that nobody refers to.
type Garbage struct {
	// Count and Bytes are of all that are known and not deleted.
	Count, Bytes int64
	// Markable is how many Mark would mark.
	Markable int64
	// Due and DueBytes are those that Sweep would delete.
	Due, DueBytes int64
}

// Survey says what garbage there is and what Mark and Sweep would do now, with the graces that they would be given. It
// changes nothing.
func Survey(ctx context.Context, db pg.DB, markGrace, sweepGrace time.Duration) (Garbage, error) {
	var g Garbage
	err := db.QueryRow(ctx, `
		SELECT count(*), coalesce(sum(size), 0)::bigint,
			count(*) FILTER (WHERE marked_at IS NULL AND condemned_at IS NULL AND seen_at <= now() - $1::interval),
			count(*) FILTER (WHERE due), coalesce(sum(size) FILTER (WHERE due), 0)::bigint
		FROM (SELECT *, condemned_at IS NOT NULL OR coalesce(marked_at <= now() - $2::interval, false) AS due FROM refs.blobs) b
		WHERE deleted_at IS NULL AND NOT EXISTS (SELECT FROM refs.refs r WHERE r.digest = b.digest)`, markGrace, sweepGrace).
		Scan(&g.Count, &g.Bytes, &g.Markable, &g.Due, &g.DueBytes)
	if err != nil {
		return g, fmt.Errorf("survey garbage: %w", pg.Classify(err))
	}
	return g, nil
}

// Unknown returns how many of the digests garbage collection has never heard of: those that Adopt would note.
func Unknown(ctx context.Context, db pg.DB, digests []blob.Digest) (int64, error) {
	var n int64
	err := db.QueryRow(ctx, `SELECT count(*) FROM unnest($1::bytea[]) AS u(d) WHERE NOT EXISTS (SELECT FROM refs.blobs b WHERE b.digest = u.d)`, raw(digests)).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("find unknown blobs: %w", pg.Classify(err))
	}
	return n, nil
}

// Tombstones returns those of the digests whose blobs Sweep has deleted and Forget not forgotten, in the order given. One
// that lies in the store all the same was put again by somebody who has not called Record.
func Tombstones(ctx context.Context, db pg.DB, digests []blob.Digest) ([]blob.Digest, error) {
	found, err := query(ctx, db, `SELECT u.d FROM unnest($1::bytea[]) WITH ORDINALITY AS u(d, n)
		JOIN refs.blobs b ON b.digest = u.d WHERE b.deleted_at IS NOT NULL ORDER BY u.n`, raw(digests))
	if err != nil {
		return nil, fmt.Errorf("find deleted blobs: %w", err)
	}
	return found, nil
}

// Referenced returns, in ascending order, at most limit blobs that something refers to, whose digests sort after one
// digest and not after another; the zero digest as the second one means no bound. A size is what whoever referred first
// said, and 0 if they did not know.
func Referenced(ctx context.Context, db pg.DB, after, upTo blob.Digest, limit int) ([]Blob, error) {
	rows, err := db.Query(ctx, `
		SELECT b.digest, b.size FROM refs.blobs b
		WHERE b.digest > $1 AND ($2 OR b.digest <= $3) AND EXISTS (SELECT FROM refs.refs r WHERE r.digest = b.digest)
		ORDER BY b.digest LIMIT $4`, after, upTo.IsZero(), upTo, limit)
	if err != nil {
		return nil, fmt.Errorf("list referenced blobs: %w", pg.Classify(err))
	}
	blobs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Blob])
	if err != nil {
		return nil, fmt.Errorf("list referenced blobs: %w", pg.Classify(err))
	}
	return blobs, nil
}

// Owners returns who refers to each of the digests, at most limit owners for one.
func Owners(ctx context.Context, db pg.DB, digests []blob.Digest, limit int) (map[blob.Digest][]Owner, error) {
	rows, err := db.Query(ctx, `
		SELECT u.d, r.owner_kind, r.owner_id FROM unnest($1::bytea[]) AS u(d)
		CROSS JOIN LATERAL (SELECT owner_kind, owner_id FROM refs.refs WHERE digest = u.d ORDER BY owner_kind, owner_id LIMIT $2) r`, raw(digests), limit)
	if err != nil {
		return nil, fmt.Errorf("list owners of blobs: %w", pg.Classify(err))
	}
	owners := map[blob.Digest][]Owner{}
	var (
		d blob.Digest
		o Owner
	)
	_, err = pgx.ForEachRow(rows, []any{&d, &o.Kind, &o.ID}, func() error {
		owners[d] = append(owners[d], o)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list owners of blobs: %w", pg.Classify(err))
	}
	return owners, nil
}
