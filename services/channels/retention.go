package channels

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// keepRenditions is how many former versions of a subdir's index files stay for clients that look at the past. Any older
// revision's files can be built anew from the rows.
const keepRenditions = 10

// retire lets go of what nobody needs any more, a little after each build of an index: old index files, shards that no
// index has named for a while, and files that left the channel longer ago than its history is kept. The caller holds the
// channel's lock.
func (s *Service) retire(ctx context.Context, tx pgx.Tx, ch *channelRow, subdir string) error {
	now := s.now()
	paths := []string{subdir + "/" + fileRepodata, subdir + "/" + fileRepodataZst, subdir + "/" + fileShards}
	gone, err := deletedDigests(ctx, tx, `
		DELETE FROM channels.renditions r USING (
			SELECT path, revision, row_number() OVER (PARTITION BY path ORDER BY revision DESC) AS place
			FROM channels.renditions WHERE channel_id = $1 AND path = ANY($2)) o
		WHERE r.channel_id = $1 AND r.path = o.path AND r.revision = o.revision AND o.place > $3
		RETURNING r.digest`, ch.ID, paths, keepRenditions+1)
	if err != nil {
		return err
	}
	shards, err := deletedDigests(ctx, tx, `DELETE FROM channels.renditions WHERE channel_id = $1 AND replaced_at < $2 RETURNING digest`,
		ch.ID, now.Add(-s.cfg.KeepShards))
	if err != nil {
		return err
	}
	if gone = append(gone, shards...); len(gone) > 0 {
		gone, err = unnamed(ctx, tx, `NOT EXISTS (SELECT 1 FROM channels.renditions r WHERE r.channel_id = $1 AND r.digest = d)`, ch.ID, gone)
		if err != nil {
			return err
		}
	}
	files, err := deletedDigests(ctx, tx, `
		DELETE FROM channels.files WHERE channel_id = $1 AND removed_rev IS NOT NULL AND removed_at < $2 RETURNING digest`,
		ch.ID, now.Add(-s.cfg.KeepHistory))
	if err != nil {
		return err
	}
	if len(files) > 0 {
		files, err = unnamed(ctx, tx, `d NOT IN (SELECT digest FROM channels.files f WHERE f.channel_id = $1 AND digest IS NOT NULL)`, ch.ID, files)
		if err != nil {
			return err
		}
	}
	return removeRefs(ctx, tx, ch.ID, append(gone, files...))
}

func deletedDigests(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]blob.Digest, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[*blob.Digest])
	if err != nil {
		return nil, pg.Classify(err)
	}
	var out []blob.Digest
	for _, d := range all {
		if d != nil { // of a file that was never stored
			out = append(out, *d)
		}
	}
	return out, nil
}

// unnamed returns those of the digests for which a condition on the channel ($1) and the digest (d) holds.
func unnamed(ctx context.Context, tx pgx.Tx, where string, channel uuid.UUID, digests []blob.Digest) ([]blob.Digest, error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT d FROM unnest($2::bytea[]) d WHERE `+where, channel, digests)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[blob.Digest])
	return out, pg.Classify(err)
}
