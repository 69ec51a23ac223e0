package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

type store struct{ pool *pgxpool.Pool }

// subdirState is what was last seen of an upstream subdir.
type subdirState struct {
	Subdir       string
	IndexPath    string // empty: upstream does not have the subdir
	ETag         string
	LastModified *time.Time
	IndexDigest  []byte
	IndexSize    int64 // bytes; 0 if the index was not received just now
	Records      int64 // in the index; with an empty IndexPath a mark that there was one
	// Content is a digest of what the index says, however it is packed and spelled around the records; nil if unknown.
	Content   []byte
	CheckedAt time.Time
}

// says is a digest that is equal for indexes of which the same plan is made.
func (s subdirState) says() []byte {
	if s.Content != nil {
		return s.Content
	}
	return s.IndexDigest
}

// known reports whether upstream has or had the subdir.
func (s subdirState) known() bool { return s.IndexPath != "" || s.Records > 0 }

// subdirs returns what is known of the upstream at url, by subdir name.
func (s store) subdirs(ctx context.Context, channel uuid.UUID, url string) ([]subdirState, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT subdir, index_path, etag, last_modified, index_digest, records, content, checked_at
		FROM sync.subdirs WHERE channel_id = $1 AND url = $2 ORDER BY subdir`, channel, url)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d subdirState, err error) {
		err = row.Scan(&d.Subdir, &d.IndexPath, &d.ETag, &d.LastModified, &d.IndexDigest, &d.Records, &d.Content, &d.CheckedAt)
		return d, err
	})
	return all, pg.Classify(err)
}

// refKind owns the blobs of indexes; the owner is channel and subdir.
const refKind = "sync.index"

func refOwner(channel uuid.UUID, subdir string) refs.Owner {
	return refs.Owner{Kind: refKind, ID: channel.String() + "/" + subdir}
}

// hold keeps a blob that was just put out of the hands of garbage collection for a while: equal bytes may have been stored
// long ago and be about to be deleted. If it is too late for that the job is tried again, and puts them anew.
func (s store) hold(ctx context.Context, b blob.Info) error {
	suspects, err := refs.Record(ctx, s.pool, refs.Blob{Digest: b.Digest, Size: b.Size})
	if err == nil && len(suspects) > 0 {
		err = fault.New(fault.LostRace, "blob %s was being garbage-collected, and is to be put again", b.Digest)
	}
	return err
}

// forget drops all that is known of a channel, and its hold on the blobs of indexes.
func (s store) forget(ctx context.Context, tx pgx.Tx, channel uuid.UUID) error {
	rows, err := tx.Query(ctx, `DELETE FROM sync.subdirs WHERE channel_id = $1 RETURNING subdir`, channel)
	if err != nil {
		return pg.Classify(err)
	}
	subdirs, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return pg.Classify(err)
	}
	var owners []refs.Owner
	for _, name := range subdirs {
		owners = append(owners, refOwner(channel, name))
	}
	if _, err := refs.RemoveOwner(ctx, tx, owners...); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `DELETE FROM sync.downloads WHERE job_id IN (SELECT job_id FROM sync.status WHERE channel_id = $1)`, channel); err != nil {
		return pg.Classify(err)
	}
	if err := s.deleteRemote(ctx, tx, channel); err != nil {
		return err
	}
	if err := forgetProxy(ctx, tx, channel); err != nil {
		return err
	}
	for _, table := range []string{"rejected", "polls"} {
		if _, err := tx.Exec(ctx, `DELETE FROM sync.`+table+` WHERE channel_id = $1`, channel); err != nil {
			return pg.Classify(err)
		}
	}
	_, err = tx.Exec(ctx, `DELETE FROM sync.status WHERE channel_id = $1`, channel)
	return pg.Classify(err)
}

// reject notes that an archive is not to be had for good.
func (s store) reject(ctx context.Context, channel uuid.UUID, digest []byte, why string) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO sync.rejected (channel_id, digest, error) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, channel, digest, why)
	return pg.Classify(err)
}

// rejected returns why archives were refused, by digest.
func (s store) rejected(ctx context.Context, channel uuid.UUID) (map[blob.Digest]string, error) {
	rows, err := s.pool.Query(ctx, `SELECT digest, error FROM sync.rejected WHERE channel_id = $1`, channel)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := map[blob.Digest]string{}
	var digest []byte
	var why string
	_, err = pgx.ForEachRow(rows, []any{&digest, &why}, func() error {
		out[blob.Digest(digest)] = why
		return nil
	})
	return out, pg.Classify(err)
}

// putSubdir notes what was seen, and holds on to the index's blob in place of the one before.
func (s store) putSubdir(ctx context.Context, channel uuid.UUID, url string, d subdirState) error {
	if d.IndexDigest != nil {
		if err := s.hold(ctx, blob.Info{Digest: blob.Digest(d.IndexDigest), Size: d.IndexSize}); err != nil {
			return err
		}
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		owner := refOwner(channel, d.Subdir)
		if _, err := refs.RemoveOwner(ctx, tx, owner); err != nil {
			return err
		}
		if d.IndexDigest != nil {
			if err := refs.Add(ctx, tx, refs.Ref{Digest: blob.Digest(d.IndexDigest), Size: d.IndexSize, Owner: owner}); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO sync.subdirs (channel_id, subdir, url, index_path, etag, last_modified, index_digest, records, content)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
			ON CONFLICT (channel_id, subdir) DO UPDATE SET url = $3, index_path = $4, etag = $5, last_modified = $6,
				index_digest = $7, records = $8, content = $9, checked_at = now()`,
			channel, d.Subdir, url, d.IndexPath, d.ETag, d.LastModified, d.IndexDigest, d.Records, d.Content)
		return pg.Classify(err)
	})
}

// touch notes that the subdirs were found unchanged.
func (s store) touch(ctx context.Context, channel uuid.UUID, subdirs []string) error {
	_, err := s.pool.Exec(ctx, `UPDATE sync.subdirs SET checked_at = now() WHERE channel_id = $1 AND subdir = ANY($2)`, channel, subdirs)
	return pg.Classify(err)
}

type runStatus struct {
	JobID       uuid.UUID
	URL         string
	Result      Result
	FinishedAt  time.Time
	Fingerprint []byte
}

// status returns the last run that ended; pgx.ErrNoRows if there was none.
func (s store) status(ctx context.Context, channel uuid.UUID) (st runStatus, err error) {
	var raw []byte
	err = s.pool.QueryRow(ctx, `SELECT job_id, url, result, finished_at, fingerprint FROM sync.status WHERE channel_id = $1`, channel).
		Scan(&st.JobID, &st.URL, &raw, &st.FinishedAt, &st.Fingerprint)
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(raw, &st.Result); err != nil {
		return st, fmt.Errorf("sync status of %s: %w", channel, err)
	}
	return st, nil
}

// finish notes a run's result and forgets its downloads, in the transaction that ends the job.
func (s store) finish(ctx context.Context, tx pg.DB, channel, job uuid.UUID, url string, r Result, fingerprint []byte) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// With those of jobs that died or were cancelled, and will not come back for them.
	if _, err = tx.Exec(ctx, `DELETE FROM sync.downloads WHERE job_id = $1 OR noted_at < now() - interval '30 days'`, job); err != nil {
		return pg.Classify(err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO sync.status (channel_id, url, job_id, result, fingerprint) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (channel_id) DO UPDATE SET url = $2, job_id = $3, result = $4, fingerprint = $5, finished_at = now()`,
		channel, url, job, raw, fingerprint)
	return pg.Classify(err)
}

// stored is a file that a job has downloaded.
type stored struct {
	Path   string
	Want   []byte // what the index said that it must be: SHA-256, else MD5, else nothing
	Digest blob.Digest
	Size   int64
}

// is reports whether the file is what a plan entry asks for.
func (f stored) is(e *channelsv1.PlanEntry) bool {
	if len(e.GetSha256()) > 0 {
		return bytes.Equal(f.Digest[:], e.GetSha256())
	}
	return bytes.Equal(f.Want, wantOf(e))
}

func wantOf(e *channelsv1.PlanEntry) []byte {
	if len(e.GetSha256()) > 0 {
		return e.GetSha256()
	}
	return e.GetMd5()
}

// addDownloads notes what a job has stored. A file that was noted before is noted again without harm.
func (s store) addDownloads(ctx context.Context, job uuid.UUID, files []stored) error {
	paths, wants, digests, sizes := make([]string, len(files)), make([][]byte, len(files)), make([][]byte, len(files)), make([]int64, len(files))
	for i, f := range files {
		paths[i], wants[i], digests[i], sizes[i] = f.Path, append([]byte{}, f.Want...), f.Digest[:], f.Size
	}
	_, err := s.pool.Exec(ctx, `
		INSERT INTO sync.downloads (job_id, path, want, digest, size)
		SELECT $1, p, w, d, s FROM unnest($2::text[], $3::bytea[], $4::bytea[], $5::bigint[]) AS t(p, w, d, s)
		ON CONFLICT (job_id, path) DO UPDATE SET want = excluded.want, digest = excluded.digest, size = excluded.size`,
		job, paths, wants, digests, sizes)
	return pg.Classify(err)
}

// downloads returns what a job has stored, by path.
func (s store) downloads(ctx context.Context, job uuid.UUID) (map[string]stored, error) {
	rows, err := s.pool.Query(ctx, `SELECT path, want, digest, size FROM sync.downloads WHERE job_id = $1`, job)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := map[string]stored{}
	var f stored
	var digest []byte
	_, err = pgx.ForEachRow(rows, []any{&f.Path, &f.Want, &digest, &f.Size}, func() error {
		f.Digest = blob.Digest(digest)
		out[f.Path] = f
		f.Want = nil
		return nil
	})
	return out, pg.Classify(err)
}
