package channels

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// A document is stored in several forms, each a rendition of its own: clients ask for `.zst` and `.bz2` by name, and
// `.zst` and `.gz` are what the edge sends with a Content-Encoding to those who ask for the plain name.
type form struct {
	suffix   string
	encoding repodata.Encoding
	coding   string // as HTTP's Content-Encoding names it; empty for those that are not sent so
	prompt   bool   // packed in a hurry
}

var (
	plainForm = form{"", repodata.Plain, "", false}
	zstdForm  = form{".zst", repodata.Zstd, "zstd", false}
	// promptZstdForm is for documents that are so large that packing takes longest of all.
	promptZstdForm = form{".zst", repodata.Zstd, "zstd", true}
	gzipForm       = form{".gz", repodata.Gzip, "gzip", false}
	bzip2Form      = form{".bz2", repodata.Bzip2, "", false} // slow to make: never on the way to what clients wait for

	indexForms = []form{plainForm, zstdForm, gzipForm}
	// promptForms are those that the build of a large index makes itself. gzip does about 100 MB/s, a third of what the
	// rest of the build does: clients that wait for .zst would wait for it.
	promptForms = []form{plainForm, promptZstdForm}
	extraForms  = []form{plainForm, zstdForm, gzipForm, bzip2Form}
)

// documentPaths lists the paths of documents in some forms.
func documentPaths(forms []form, documents ...string) (out []string) {
	for _, d := range documents {
		for _, f := range forms {
			out = append(out, d+f.suffix)
		}
	}
	return out
}

// storeDocument stores what write writes in each of the forms, in the order of these. Everything streams; the encoders
// run side by side.
func (s *Service) storeDocument(ctx context.Context, path string, forms []form, write func(io.Writer) error) ([]newRendition, error) {
	g, ctx := errgroup.WithContext(ctx)
	out := make([]newRendition, len(forms))
	inputs := make([]*io.PipeWriter, len(forms))
	writers := make([]io.Writer, len(forms))
	for i, f := range forms {
		stored, packed := io.Pipe()
		g.Go(func() error {
			info, err := s.blobs.Put(ctx, stored, blob.PutOptions{})
			_ = stored.CloseWithError(err) // a writer must not wait for a store that gave up
			out[i] = newRendition{path + f.suffix, info.Digest, info.Size}
			return err
		})
		if f.encoding == repodata.Plain {
			inputs[i], writers[i] = packed, packed
			continue
		}
		plain, input := io.Pipe()
		inputs[i], writers[i] = input, input
		g.Go(func() error {
			err := encode(packed, plain, f)
			_ = plain.CloseWithError(err)
			_ = packed.CloseWithError(err) // nil means: the end
			return err
		})
	}
	g.Go(func() error {
		err := write(io.MultiWriter(writers...))
		for _, w := range inputs {
			_ = w.CloseWithError(err)
		}
		return err
	})
	return out, g.Wait()
}

func encode(w io.Writer, r io.Reader, f form) error {
	var enc io.WriteCloser
	var err error
	if f.prompt {
		enc, err = repodata.NewPromptEncoder(w)
	} else {
		enc, err = repodata.NewEncoder(w, f.encoding)
	}
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{enc}, r, make([]byte, 256<<10))
	return errors.Join(err, enc.Close())
}

// built is index files that are stored but not yet served.
type built struct {
	revision int64
	records  int64
	bytes    int64
	files    []newRendition
	// spans are where the records lie in a repodata.json of the head, files[0].
	spans []repodata.Span
	// past marks files of a former revision, which are let go some time after they were asked for.
	past bool
}

// contentRow is a listed package file as index files want it.
type contentRow struct {
	bucket     repodata.Bucket
	filename   string
	record     []byte // valid until the next row
	runExports []byte // likewise; nil if unknown, or in the record
}

// eachRecord calls fn for the records of a subdir, bucket by bucket in the order of file names. Revision 0 is the head.
func eachRecord(ctx context.Context, tx pgx.Tx, id uuid.UUID, subdir string, revision int64, runExports bool, fn func(contentRow) error) error {
	columns := `path, record, NULL::bytea`
	if runExports {
		columns = `path, record, run_exports`
	}
	// "/" and "0" are neighbours: the range is the subdir's part of the index on paths, in order.
	where := ` FROM channels.files WHERE channel_id = $1 AND path >= $2 || '/' AND path < $2 || '0' AND right(path, length($3)) = $3 AND `
	sql := `SELECT ` + columns + where + `removed_rev IS NULL ORDER BY path`
	args := []any{id, subdir, ""}
	if revision != 0 { // two branches, one for each partial index
		sql = `SELECT * FROM (SELECT ` + columns + where + `removed_rev IS NULL AND added_rev <= $4
			UNION ALL SELECT ` + columns + where + `removed_rev IS NOT NULL AND added_rev <= $4 AND removed_rev > $4) c ORDER BY path`
		args = append(args, revision)
	}
	for _, bucket := range []repodata.Bucket{repodata.TarBz2, repodata.Conda} {
		args[2] = bucket.Extension()
		rows, err := tx.Query(ctx, sql, args...)
		if err != nil {
			return pg.Classify(err)
		}
		for rows.Next() {
			var path string
			var record, exports pgtype.DriverBytes // valid until the next row: no copy
			if err := rows.Scan(&path, &record, &exports); err != nil {
				rows.Close()
				return pg.Classify(err)
			}
			if err := fn(contentRow{bucket, path[len(subdir)+1:], record, exports}); err != nil {
				rows.Close()
				return recordFault(subdir, path, err)
			}
		}
		if err := rows.Err(); err != nil {
			return pg.Classify(err)
		}
	}
	return nil
}

// putRenditions makes index files served as of their revision, all together. Building a revision's files anew replaces
// them: they can only differ if the former ones were wrong, or were packed by an older release. The caller holds the
// channel's lock.
func (s *Service) putRenditions(ctx context.Context, tx pgx.Tx, ch *channelRow, m built) error {
	now := s.now().UTC()
	var paths []string
	var digests []blob.Digest
	var sizes []int64
	for _, f := range m.files {
		paths, digests, sizes = append(paths, f.path), append(digests, f.digest), append(sizes, f.size)
	}
	var replaced *time.Time
	if m.past {
		replaced = &now
	}
	rows, err := tx.Query(ctx, `
		WITH n AS (SELECT * FROM unnest($3::text[], $4::bytea[], $5::bigint[]) u(path, digest, size)),
		old AS (SELECT r.digest FROM channels.renditions r JOIN n ON r.channel_id = $1 AND r.path = n.path AND r.revision = $2 WHERE r.digest <> n.digest),
		put AS (
			INSERT INTO channels.renditions AS r (channel_id, path, revision, digest, size, created_at, replaced_at)
			SELECT $1, path, $2, digest, size, $6, $7::timestamptz FROM n
			ON CONFLICT (channel_id, path, revision) DO UPDATE SET digest = excluded.digest, size = excluded.size, created_at = excluded.created_at,
				replaced_at = CASE WHEN r.replaced_at IS NOT NULL THEN excluded.replaced_at END)
		SELECT digest FROM old`, ch.ID, m.revision, nonNil(paths), nonNil(digests), nonNil(sizes), now, replaced)
	if err != nil {
		return pg.Classify(err)
	}
	old, err := pgx.CollectRows(rows, pgx.RowTo[blob.Digest])
	if err != nil {
		return pg.Classify(err)
	}
	if err := addRefs(ctx, tx, ch.ID, m.files); err != nil || len(old) == 0 {
		return err
	}
	return s.dropRenditionRefs(ctx, tx, ch.ID, old)
}

// dropRenditionRefs gives up the references to those of the digests that no index file of the channel has any more.
func (s *Service) dropRenditionRefs(ctx context.Context, tx pgx.Tx, id uuid.UUID, digests []blob.Digest) error {
	gone, err := unnamed(ctx, tx, `NOT EXISTS (SELECT 1 FROM channels.renditions r WHERE r.channel_id = $1 AND r.digest = d)`, id, digests)
	if err != nil {
		return err
	}
	return removeRefs(ctx, tx, id, gone)
}

// holder is a job's claim; *jobs.Job is one.
type holder interface {
	Hold(ctx context.Context, tx pg.DB) error
}

// serve makes built index files served, in one transaction under the channel's lock and, with a job, its claim. after
// does what else belongs into it; nil for nothing.
func (s *Service) serve(ctx context.Context, job holder, id uuid.UUID, b built, after func(tx pgx.Tx, ch *channelRow) error) error {
	var ch *channelRow
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		if ch, err = lockChannel(ctx, tx, id); err != nil { // retire must not race with a publisher that names the same bytes
			return err
		}
		if job != nil {
			if err := job.Hold(ctx, tx); err != nil {
				return err
			}
		}
		if err := s.putRenditions(ctx, tx, ch, b); err != nil {
			return err
		}
		if after == nil {
			return nil
		}
		return after(tx, ch)
	})
	if err != nil {
		if fault.Is(err, fault.NotFound) {
			return err
		}
		if _, rerr := s.revive(ctx, err); rerr != nil {
			return rerr
		}
		return pg.Classify(err)
	}
	s.announce(ctx, ch, false)
	return nil
}
