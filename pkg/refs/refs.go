package refs

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the schema "refs".
var Schema = pg.Schema{Name: "refs", FS: migrations}

// chunk bounds the parameters of one statement.
const chunk = 10_000

// Owner is what refers to a blob.
type Owner struct {
	// Kind says what ID is the id of, as <service>.<thing>: "channels.file", "environments.artifact".
	Kind string
	ID   string
}

// Ref is one reference.
type Ref struct {
	Digest blob.Digest
	// Size is the blob's, in bytes; Add remembers it for blobs not known yet.
	Size  int64
	Owner Owner
}

// GoneError says that blobs were condemned by garbage collection before the reference to them came. It is a fault of kind
// LostRace: put the bytes again, call Record, retry.
type GoneError struct{ Digests []blob.Digest }

// Error names the first blob and how many there are.
func (e *GoneError) Error() string {
	return fmt.Sprintf("blob %s (of %d) was garbage-collected before it was referred to", e.Digests[0], len(e.Digests))
}

// Unwrap gives the error its kind.
func (e *GoneError) Unwrap() error {
	return fault.New(fault.LostRace, "%s", e.Error()).WithReason("BLOB_GONE")
}

// Add inserts references in the caller's transaction; those that exist are left alone. It fails with *GoneError if a blob was
// condemned meanwhile, and the transaction must then be rolled back. The blobs' rows stay share-locked until the transaction
// ends, which keeps garbage collection away and hinders no other Add.
func Add(ctx context.Context, tx pgx.Tx, refs ...Ref) error {
	// All callers lock in the same order, or two of them could wait for each other.
	refs = slices.Clone(refs)
	slices.SortFunc(refs, func(a, b Ref) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	var gone []blob.Digest
	for part := range slices.Chunk(refs, chunk) {
		c := split(part)
		var b pgx.Batch
		b.Queue(`INSERT INTO refs.blobs (digest, size) SELECT DISTINCT ON (d) d, s FROM unnest($1::bytea[], $2::bigint[]) AS u(d, s) ORDER BY d
			ON CONFLICT DO NOTHING`, c.digests, c.sizes)
		b.Queue(`WITH locked AS (SELECT digest, condemned_at FROM refs.blobs WHERE digest = ANY ($1) ORDER BY digest FOR SHARE)
			SELECT digest FROM locked WHERE condemned_at IS NOT NULL`, c.digests).Query(func(rows pgx.Rows) (err error) {
			found, err := pgx.CollectRows(rows, pgx.RowTo[blob.Digest])
			gone = append(gone, found...)
			return err
		})
		b.Queue(`UPDATE refs.blobs SET marked_at = NULL, seen_at = now() WHERE digest = ANY ($1) AND marked_at IS NOT NULL AND condemned_at IS NULL`, c.digests)
		b.Queue(`INSERT INTO refs.refs (digest, owner_kind, owner_id) SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[])
			ON CONFLICT DO NOTHING`, c.digests, c.kinds, c.ids)
		if err := tx.SendBatch(ctx, &b).Close(); err != nil {
			return fmt.Errorf("add references: %w", pg.Classify(err))
		}
	}
	if len(gone) > 0 {
		return &GoneError{gone}
	}
	return nil
}

// Remove deletes references, ignoring their Size. Those that do not exist are no error.
func Remove(ctx context.Context, db pg.DB, refs ...Ref) error {
	for part := range slices.Chunk(refs, chunk) {
		c := split(part)
		_, err := db.Exec(ctx, `DELETE FROM refs.refs r USING unnest($1::bytea[], $2::text[], $3::text[]) AS u(d, k, i)
			WHERE r.digest = u.d AND r.owner_kind = u.k AND r.owner_id = u.i`, c.digests, c.kinds, c.ids)
		if err != nil {
			return fmt.Errorf("remove references: %w", pg.Classify(err))
		}
	}
	return nil
}

// RemoveOwner deletes all references of the owners and says how many there were.
func RemoveOwner(ctx context.Context, db pg.DB, owners ...Owner) (int64, error) {
	var n int64
	for part := range slices.Chunk(owners, chunk) {
		kinds, ids := make([]string, len(part)), make([]string, len(part))
		for i, o := range part {
			kinds[i], ids[i] = o.Kind, o.ID
		}
		tag, err := db.Exec(ctx, `DELETE FROM refs.refs r USING unnest($1::text[], $2::text[]) AS u(k, i)
			WHERE r.owner_kind = u.k AND r.owner_id = u.i`, kinds, ids)
		if err != nil {
			return n, fmt.Errorf("remove references: %w", pg.Classify(err))
		}
		n += tag.RowsAffected()
	}
	return n, nil
}

// Unreferenced returns those of the digests that nobody refers to, in the order given. It is a report, not a promise:
// only Sweep may act on it.
func Unreferenced(ctx context.Context, db pg.DB, digests []blob.Digest) ([]blob.Digest, error) {
	var free []blob.Digest
	for part := range slices.Chunk(digests, chunk) {
		found, err := query(ctx, db, `SELECT u.d FROM unnest($1::bytea[]) WITH ORDINALITY AS u(d, n)
			WHERE NOT EXISTS (SELECT FROM refs.refs r WHERE r.digest = u.d) ORDER BY u.n`, raw(part))
		if err != nil {
			return nil, fmt.Errorf("find unreferenced blobs: %w", err)
		}
		free = append(free, found...)
	}
	return free, nil
}

// columns are refs as the arrays that unnest takes.
type columns struct {
	digests    [][]byte
	sizes      []int64
	kinds, ids []string
}

func split(refs []Ref) columns {
	var c columns
	for i := range refs {
		c.digests = append(c.digests, refs[i].Digest[:])
		c.sizes = append(c.sizes, refs[i].Size)
		c.kinds = append(c.kinds, refs[i].Owner.Kind)
		c.ids = append(c.ids, refs[i].Owner.ID)
	}
	return c
}

func raw(digests []blob.Digest) [][]byte {
	r := make([][]byte, len(digests))
	for i := range digests {
		r[i] = digests[i][:]
	}
	return r
}

// query returns the digests in the only column.
func query(ctx context.Context, db pg.DB, sql string, args ...any) ([]blob.Digest, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, pg.Classify(err)
	}
	digests, err := pgx.CollectRows(rows, pgx.RowTo[blob.Digest])
	return digests, pg.Classify(err)
}
