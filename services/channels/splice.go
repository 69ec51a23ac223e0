package channels

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// A large repodata.json is made from the one before: what has not changed is copied in spans, each checked by its sum, and
// only the rows that differ are read. The first one, one asked for by force, and one of which much has changed are written
// from the rows.
const (
	// spliceFrom is the size in bytes of a document from which that saves more than it costs.
	spliceFrom = 1 << 20
	// maxSplice is how many rows may differ.
	maxSplice = 20_000
)

// spliceBase is a document to make the next one from.
type spliceBase struct {
	rendition
	spans   []repodata.Span
	changes []repodata.Change
}

// spliceOf returns what the next document of a subdir can be made from; nil if from nothing.
func (s *Service) spliceOf(ctx context.Context, tx pgx.Tx, id uuid.UUID, subdir string, newest *rendition) (*spliceBase, error) {
	if newest == nil || newest.Size < s.cfg.spliceFrom {
		return nil, nil
	}
	var raw []byte
	err := tx.QueryRow(ctx, `SELECT spans FROM channels.conda_spans WHERE channel_id = $1 AND subdir = $2 AND revision = $3 AND digest = $4`,
		id, subdir, newest.Revision, newest.Digest).Scan(&raw)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, pg.Classify(err)
	}
	b := &spliceBase{rendition: *newest}
	if err := json.Unmarshal(raw, &b.spans); err != nil {
		return nil, fault.New(fault.Internal, "spans of %s: %w", newest.Path, err)
	}
	// The shards of the names that were touched since say where to look. Where a name's last file went, so did its shard.
	rows, err := tx.Query(ctx, `
		SELECT f.path, f.record FROM channels.conda_shards s
		JOIN channels.files f ON f.channel_id = s.channel_id AND f.name = s.name AND f.arch = s.subdir AND f.removed_rev IS NULL
		WHERE s.channel_id = $1 AND s.subdir = $2 AND s.revision > $3 AND f.added_rev > $3
		UNION ALL
		SELECT DISTINCT c.path, NULL::bytea FROM channels.files c
		WHERE c.channel_id = $1 AND c.path >= $2 || '/' AND c.path < $2 || '0' AND c.removed_rev > $3 AND c.added_rev <= $3
			AND NOT EXISTS (SELECT 1 FROM channels.files f WHERE f.channel_id = $1 AND f.path = c.path AND f.removed_rev IS NULL)
		LIMIT $4`, id, subdir, newest.Revision, maxSplice+1)
	if err != nil {
		return nil, pg.Classify(err)
	}
	var path string
	var record []byte
	if _, err := pgx.ForEachRow(rows, []any{&path, &record}, func() error {
		bucket, filename, err := bucketOf(path)
		b.changes = append(b.changes, repodata.Change{Bucket: bucket, Key: filename, Raw: record})
		record = nil
		return err
	}); err != nil {
		return nil, pg.Classify(err)
	}
	if len(b.changes) > maxSplice {
		return nil, nil
	}
	slices.SortFunc(b.changes, func(x, y repodata.Change) int {
		if x.Bucket != y.Bucket {
			if x.Bucket == repodata.TarBz2 { // which stand first in the document
				return -1
			}
			return 1
		}
		return strings.Compare(x.Key, y.Key)
	})
	return b, nil
}

// splice writes the records of the next document.
func (s *Service) splice(ctx context.Context, w *repodata.Writer, b *spliceBase) error {
	doc, err := s.openStream(ctx, b.Digest)
	if err != nil {
		return err
	}
	defer doc.Close()
	return repodata.Splice(w, doc, b.spans, b.changes)
}

// putSpans remembers where the records of a document lie, in the transaction that makes it served.
func putSpans(ctx context.Context, tx pgx.Tx, id uuid.UUID, subdir string, revision int64, doc blob.Digest, spans []repodata.Span) error {
	raw, err := json.Marshal(spans)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO channels.conda_spans (channel_id, subdir, revision, digest, spans) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (channel_id, subdir) DO UPDATE SET revision = excluded.revision, digest = excluded.digest, spans = excluded.spans`,
		id, subdir, revision, doc, raw)
	return pg.Classify(err)
}
