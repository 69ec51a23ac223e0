package refs

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Blob is a stored blob as garbage collection sees it.
type Blob struct {
	Digest blob.Digest
	Size   int64
}

// Record notes blobs that were just put, and takes them out of the collector's hands for a grace period. It returns those
// that had been condemned: their bytes may be deleted already, so look with Stat, and put them again if they are gone.
// Call it outside the transaction that will Add, so that it commits at once.
func Record(ctx context.Context, db pg.DB, blobs ...Blob) (suspects []blob.Digest, err error) {
	for part := range slices.Chunk(sorted(blobs), chunk) {
		digests, sizes := arrays(part)
		// The old row is read under lock first: RETURNING sees only the new one.
		found, err := query(ctx, db, `
			WITH known AS (SELECT digest, condemned_at FROM refs.blobs WHERE digest = ANY ($1) ORDER BY digest FOR UPDATE),
			put AS (
				INSERT INTO refs.blobs (digest, size) SELECT DISTINCT ON (d) d, s FROM unnest($1::bytea[], $2::bigint[]) AS u(d, s) ORDER BY d
				ON CONFLICT (digest) DO UPDATE SET seen_at = now(), marked_at = NULL, condemned_at = NULL, deleted_at = NULL, size = excluded.size
				WHERE (SELECT count(*) FROM known) >= 0 -- makes the lock come first
				RETURNING 1
			)
			SELECT digest FROM known WHERE condemned_at IS NOT NULL ORDER BY digest`, digests, sizes)
		if err != nil {
			return nil, fmt.Errorf("record blobs: %w", err)
		}
		suspects = append(suspects, found...)
	}
	return suspects, nil
}

// Adopt notes blobs that were found in the store and are perhaps known to nobody. Known ones are left as they are.
func Adopt(ctx context.Context, db pg.DB, blobs ...Blob) (int64, error) {
	var n int64
	for part := range slices.Chunk(sorted(blobs), chunk) {
		digests, sizes := arrays(part)
		tag, err := db.Exec(ctx, `INSERT INTO refs.blobs (digest, size) SELECT DISTINCT ON (d) d, s FROM unnest($1::bytea[], $2::bigint[]) AS u(d, s) ORDER BY d
			ON CONFLICT DO NOTHING`, digests, sizes)
		if err != nil {
			return n, fmt.Errorf("adopt blobs: %w", pg.Classify(err))
		}
		n += tag.RowsAffected()
	}
	return n, nil
}

// Mark is the first pass: it marks at most limit blobs that nobody refers to and that were not seen for the grace period.
func Mark(ctx context.Context, db pg.DB, grace time.Duration, limit int) (int64, error) {
	tag, err := db.Exec(ctx, `UPDATE refs.blobs SET marked_at = now() WHERE digest IN (
		SELECT b.digest FROM refs.blobs b
		WHERE b.marked_at IS NULL AND b.condemned_at IS NULL AND b.seen_at <= now() - $1::interval
			AND NOT EXISTS (SELECT FROM refs.refs r WHERE r.digest = b.digest)
		ORDER BY b.digest LIMIT $2 FOR UPDATE SKIP LOCKED)`, grace, limit)
	if err != nil {
		return 0, fmt.Errorf("mark blobs: %w", pg.Classify(err))
	}
	return tag.RowsAffected(), nil
}

// Sweep is the second pass: of the blobs marked for at least the grace period it condemns at most limit that are still
// unreferenced, and calls del for each condemned one, those of a sweep that died included. del must delete the bytes
// and may be called twice for one blob. It returns how many are gone.
//
// Condemning commits before the first byte is deleted, so a crash in between leaves a blob that nobody can refer to rather
// than a reference to a blob that is not there.
func Sweep(ctx context.Context, db pg.DB, grace time.Duration, limit int, del func(context.Context, blob.Digest) error) (int, error) {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		locked, err := query(ctx, tx, `SELECT digest FROM refs.blobs WHERE marked_at <= now() - $1::interval AND condemned_at IS NULL
			ORDER BY digest LIMIT $2 FOR UPDATE SKIP LOCKED`, grace, limit)
		if err != nil {
			return err
		}
		// A statement of its own, whose snapshot is younger than the locks: it sees every reference that was added under a
		// share lock before them.
		_, err = tx.Exec(ctx, `UPDATE refs.blobs b SET
				condemned_at = CASE WHEN r.used THEN NULL ELSE now() END,
				marked_at = NULL,
				seen_at = CASE WHEN r.used THEN now() ELSE b.seen_at END
			FROM (SELECT d, EXISTS (SELECT FROM refs.refs WHERE digest = d) AS used FROM unnest($1::bytea[]) AS u(d)) r
			WHERE b.digest = r.d`, raw(locked))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("condemn blobs: %w", pg.Classify(err))
	}
	n := 0
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		// Record waits for this lock: it either takes a blob back before, or learns of its end after.
		doomed, err := query(ctx, tx, `SELECT digest FROM refs.blobs WHERE condemned_at IS NOT NULL AND deleted_at IS NULL
			ORDER BY digest LIMIT $1 FOR UPDATE SKIP LOCKED`, limit)
		if err != nil {
			return err
		}
		var deleted []blob.Digest
		for _, d := range doomed {
			if err = del(ctx, d); err != nil {
				break
			}
			deleted = append(deleted, d)
		}
		if _, uerr := tx.Exec(ctx, `UPDATE refs.blobs SET deleted_at = now() WHERE digest = ANY ($1)`, raw(deleted)); uerr != nil {
			return uerr
		}
		n = len(deleted)
		if err != nil && n > 0 {
			err = nil // the rest keeps for the next sweep, which meets the error again
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("sweep blobs: %w", pg.Classify(err))
	}
	return n, nil
}

// Forget removes tombstones older than keep. Until then they refuse references by whoever put the blob before it was deleted
// and is late to refer to it: a day is plenty.
func Forget(ctx context.Context, db pg.DB, keep time.Duration) (int64, error) {
	tag, err := db.Exec(ctx, `DELETE FROM refs.blobs WHERE condemned_at IS NOT NULL AND deleted_at <= now() - $1::interval`, keep)
	if err != nil {
		return 0, fmt.Errorf("forget blobs: %w", pg.Classify(err))
	}
	return tag.RowsAffected(), nil
}

// sorted returns the blobs in the order that all locks are taken in.
func sorted(blobs []Blob) []Blob {
	blobs = slices.Clone(blobs)
	slices.SortFunc(blobs, func(a, b Blob) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	return blobs
}

func arrays(blobs []Blob) (digests [][]byte, sizes []int64) {
	for i := range blobs {
		digests = append(digests, blobs[i].Digest[:])
		sizes = append(sizes, blobs[i].Size)
	}
	return digests, sizes
}
