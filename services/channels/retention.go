package channels

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// How many former versions of an index file stay, beside the one that is served. What a revision shows can be built anew
// from its rows, so these only spare the work for those who read the recent past, and let finish who began to read when
// the next version came:
//
//	shard indexes                     10   small, and their shards stay for KeepShards anyway
//	repodata.json, .zst, .gz           2   up to some hundred megabytes together
//	.bz2, current_repodata.json, …     1
//
// Files that were built for a reader of the past (replaced_at is set) stay for KeepShards after that. Rows of files that
// left the channel stay for KeepHistory; then they are deleted, and the channel's floor rises: revisions below it can no
// longer be read, as they could only be shown in part.
const (
	keepShardIndexes = 10
	keepMonoliths    = 2
	keepExtras       = 1
)

// retire lets go of what nobody needs any more, a little after each build of an index: old index files, shards that no
// index has named for a while, and files that left the channel longer ago than its history is kept. The caller holds the
// channel's lock.
func (s *Service) retire(ctx context.Context, tx pgx.Tx, ch *channelRow, subdir string) error {
	now := s.now()
	gone, err := deletedDigests(ctx, tx, retireSQL, ch.ID, documentPaths(indexForms, subdir+"/"+fileRepodata), keepMonoliths+1)
	if err != nil {
		return err
	}
	// An index is let go at the latest with the first of its shards, so that one that is there can be followed.
	indexes, err := deletedDigests(ctx, tx, `
		DELETE FROM channels.renditions r USING (
			SELECT revision, row_number() OVER (ORDER BY revision DESC) AS place, lead(created_at) OVER (ORDER BY revision) AS next
			FROM channels.renditions WHERE channel_id = $1 AND path = $2 AND replaced_at IS NULL) o
		WHERE r.channel_id = $1 AND r.path = $2 AND r.revision = o.revision AND (o.place > $3 OR o.next < $4)
		RETURNING r.digest`, ch.ID, subdir+"/"+fileShards, keepShardIndexes+1, now.Add(-s.cfg.KeepShards))
	if err != nil {
		return err
	}
	gone = append(gone, indexes...)
	shards, err := deletedDigests(ctx, tx, `DELETE FROM channels.renditions WHERE channel_id = $1 AND replaced_at < $2 RETURNING digest`,
		ch.ID, now.Add(-s.cfg.KeepShards))
	if err != nil {
		return err
	}
	if err := s.dropRenditionRefs(ctx, tx, ch.ID, append(gone, shards...)); err != nil {
		return err
	}
	files, err := deletedDigests(ctx, tx, `
		WITH gone AS (
			DELETE FROM channels.files WHERE channel_id = $1 AND removed_rev IS NOT NULL AND removed_at < $2 RETURNING digest, removed_rev
		), floor AS (
			UPDATE channels.channels SET floor = greatest(floor, (SELECT max(removed_rev) FROM gone)) WHERE id = $1 AND EXISTS (SELECT 1 FROM gone)
		)
		SELECT digest FROM gone`, ch.ID, now.Add(-s.cfg.KeepHistory))
	if err != nil {
		return err
	}
	// What changed before the floor is never asked for, but for the last change: the floor itself shows it.
	_, err = tx.Exec(ctx, `
		DELETE FROM channels.conda_changes WHERE channel_id = $1 AND subdir = $2 AND revision < (
			SELECT max(revision) FROM channels.conda_changes WHERE channel_id = $1 AND subdir = $2
				AND revision <= (SELECT floor FROM channels.channels WHERE id = $1))`, ch.ID, subdir)
	if err != nil {
		return pg.Classify(err)
	}
	if len(files) > 0 {
		files, err = unnamed(ctx, tx, `d NOT IN (SELECT digest FROM channels.files f WHERE f.channel_id = $1 AND digest IS NOT NULL)`, ch.ID, files)
		if err != nil {
			return err
		}
	}
	if err := dropFacts(ctx, tx, ch.ID, files); err != nil {
		return err
	}
	return removeRefs(ctx, tx, ch.ID, files)
}

// retireSQL deletes all but the newest $3 versions of each of the paths $2.
const retireSQL = `
DELETE FROM channels.renditions r USING (
	SELECT path, revision, row_number() OVER (PARTITION BY path ORDER BY revision DESC) AS place
	FROM channels.renditions WHERE channel_id = $1 AND path = ANY($2) AND replaced_at IS NULL) o
WHERE r.channel_id = $1 AND r.path = o.path AND r.revision = o.revision AND o.place > $3
RETURNING r.digest`

// retireExtras is retire for the files that KindExtras builds.
func (s *Service) retireExtras(ctx context.Context, tx pgx.Tx, ch *channelRow, subdir string) error {
	paths := append(documentPaths(extraForms, fileChannelData), fileCatalog)
	if subdir != "" {
		paths = documentPaths(extraForms, subdir+"/"+fileCurrent, subdir+"/"+fileRunExports)
		paths = append(paths, subdir+"/"+fileRepodata+bzip2Form.suffix)
	}
	gone, err := deletedDigests(ctx, tx, retireSQL, ch.ID, paths, keepExtras+1)
	if err != nil {
		return err
	}
	return s.dropRenditionRefs(ctx, tx, ch.ID, gone)
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
