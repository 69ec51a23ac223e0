package channels

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// KindIndex builds the large index files of one subdir: repodata.json and repodata.json.zst, of the newest head.
const KindIndex = "channels.index"

// RegisterJobs adds the kinds that this service owns to a worker pool.
func (s *Service) RegisterJobs(reg *jobs.Registry) {
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindIndex, Timeout: 15 * time.Minute, MaxFailures: 8, Coalesce: jobs.QueueOne, Concurrency: 2,
		Backoff: jobs.Backoff{Initial: time.Second, Max: time.Minute},
	}, jobs.WorkFunc[*channelsv1.IndexJobArgs](s.index))
}

// enqueueIndex asks for the index files of a subdir. While one build runs, any number of requests make one more.
func (s *Service) enqueueIndex(ctx context.Context, tx pg.DB, c *channelRow, subdir string, force bool) (uuid.UUID, error) {
	p := jobs.EnqueueParams{
		Kind: KindIndex, Namespace: c.Namespace, Resource: resourceName(c),
		Args:        &channelsv1.IndexJobArgs{ChannelId: c.ID.String(), Subdir: subdir, Force: force},
		Principal:   jobs.Principal{Name: authn.Service("channels").Name},
		CoalesceKey: c.ID.String() + "/" + subdir,
	}
	if force { // not to be taken in by a build that may find nothing to do
		p.CoalesceKey += "!"
	}
	r, err := s.jobs.Enqueue(ctx, tx, p)
	if err != nil {
		return uuid.Nil, fmt.Errorf("enqueue %s: %w", KindIndex, err)
	}
	return r.JobID, nil
}

// index is the worker of KindIndex.
func (s *Service) index(ctx context.Context, job *jobs.Job[*channelsv1.IndexJobArgs]) (any, error) {
	id, err := uuid.Parse(job.Args.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "is no UUID")
	}
	built, err := s.buildMonoliths(ctx, id, job.Args.GetSubdir(), job.Args.GetForce())
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err) // the channel was deleted meanwhile
	}
	if err != nil || built.files == nil {
		return built.result(), err
	}
	var ch *channelRow
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var err error
		if ch, err = lockChannel(ctx, tx, id); err != nil { // retire must not race with a publisher that names the same bytes
			return err
		}
		if err := job.Hold(ctx, tx); err != nil {
			return err
		}
		if err := s.putRenditions(ctx, tx, ch, built); err != nil {
			return err
		}
		return s.retire(ctx, tx, ch, job.Args.GetSubdir())
	})
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err)
	}
	if err != nil {
		if _, rerr := s.revive(ctx, err); rerr != nil {
			return nil, rerr
		}
		return nil, pg.Classify(err)
	}
	s.announce(ctx, ch, false)
	return built.result(), nil
}

// monoliths are the large index files of a subdir, stored but not yet served.
type monoliths struct {
	revision int64
	records  int64
	bytes    int64
	files    []newRendition
}

func (m monoliths) result() *channelsv1.IndexJobResult {
	return &channelsv1.IndexJobResult{Revision: m.revision, Records: m.records, Bytes: m.bytes}
}

// buildMonoliths builds a subdir's repodata.json and its zstd form from one snapshot of the rows. If the newest files
// show the subdir as it is, and force is not set, it does nothing and returns their revision.
func (s *Service) buildMonoliths(ctx context.Context, id uuid.UUID, subdir string, force bool) (m monoliths, err error) {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		ch, err := channelByID(ctx, tx, id)
		if err != nil {
			return err
		}
		var changed int64
		var state subdirState
		err = tx.QueryRow(ctx, `SELECT revision, info, removed FROM channels.conda_subdirs WHERE channel_id = $1 AND subdir = $2`, id, subdir).
			Scan(&changed, &state.info, &state.removed)
		if err != nil {
			return pg.Classify(err) // NotFound: the subdir never had anything
		}
		newest, err := newestRendition(ctx, tx, id, subdir+"/"+fileRepodata, 0)
		if err != nil {
			return err
		}
		if newest != nil && newest.Revision >= changed && !force {
			m.revision = newest.Revision
			return nil
		}
		m.revision = ch.Head
		return s.streamMonoliths(ctx, &m, subdir, state, func(w *repodata.Writer) error { return writeRecords(ctx, tx, w, id, subdir) })
	})
	return m, pg.Classify(err)
}

// streamMonoliths writes the document once, into blob storage twice: as it is and through zstd. Nothing is held in memory.
func (s *Service) streamMonoliths(ctx context.Context, m *monoliths, subdir string, state subdirState, records func(*repodata.Writer) error) error {
	info := repodata.Info{Subdir: subdir}
	var err error
	if info.Extra, info.ChannelRelations, err = infoExtra(state.info); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	var stored [2]blob.Info
	put := func(i int) *io.PipeWriter {
		pr, pw := io.Pipe()
		g.Go(func() (err error) {
			defer func() { _ = pr.CloseWithError(err) }() // a writer must not wait for a store that gave up
			stored[i], err = s.blobs.Put(ctx, pr, blob.PutOptions{})
			return err
		})
		return pw
	}
	plain, packed := put(0), put(1)
	g.Go(func() (err error) {
		defer func() {
			_ = plain.CloseWithError(err) // nil means: the end
			_ = packed.CloseWithError(err)
		}()
		// One frame: some clients stop after the first.
		enc, err := zstd.NewWriter(packed, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return err
		}
		w := repodata.NewWriter(io.MultiWriter(plain, enc), info)
		if err := records(w); err != nil {
			return err
		}
		for _, filename := range state.removed {
			if err := w.Removed(filename); err != nil {
				return recordFault(subdir, filename, err)
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		m.records = int64(w.Records())
		return enc.Close()
	})
	if err := g.Wait(); err != nil {
		return err
	}
	m.bytes = stored[0].Size
	for i, name := range []string{fileRepodata, fileRepodataZst} {
		m.files = append(m.files, newRendition{subdir + "/" + name, stored[i].Digest, stored[i].Size})
	}
	return nil
}

// emptyIndex stores the index files of a subdir without packages.
func (s *Service) emptyIndex(ctx context.Context, subdir string) ([]newRendition, error) {
	var m monoliths
	if err := s.streamMonoliths(ctx, &m, subdir, subdirState{}, func(*repodata.Writer) error { return nil }); err != nil {
		return nil, err
	}
	data, err := repodata.BuildIndex(shardIndex(subdir))
	if err != nil {
		return nil, err
	}
	info, err := s.blobs.Put(ctx, bytes.NewReader(data), blob.PutOptions{})
	if err != nil {
		return nil, err
	}
	return append(m.files, newRendition{subdir + "/" + fileShards, info.Digest, info.Size}), nil
}

// writeRecords splices the records of a subdir into w, bucket by bucket in the order of file names.
func writeRecords(ctx context.Context, tx pgx.Tx, w *repodata.Writer, id uuid.UUID, subdir string) error {
	for _, bucket := range []repodata.Bucket{repodata.TarBz2, repodata.Conda} {
		// "/" and "0" are neighbours: the range is the subdir's part of the index on paths, in order.
		rows, err := tx.Query(ctx, `
			SELECT path, record FROM channels.files
			WHERE channel_id = $1 AND removed_rev IS NULL AND path >= $2 || '/' AND path < $2 || '0' AND right(path, length($3)) = $3
			ORDER BY path`, id, subdir, bucket.Extension())
		if err != nil {
			return pg.Classify(err)
		}
		for rows.Next() {
			var path string
			var record pgtype.DriverBytes // valid until the next row: no copy
			if err := rows.Scan(&path, &record); err != nil {
				rows.Close()
				return pg.Classify(err)
			}
			if err := w.Record(bucket, path[len(subdir)+1:], record); err != nil {
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

// putRenditions makes index files served as of their revision. Both switch together. Building a revision's files anew
// replaces them: they can only differ if the former ones were wrong.
func (s *Service) putRenditions(ctx context.Context, tx pgx.Tx, ch *channelRow, m monoliths) error {
	b := &pgx.Batch{}
	for _, f := range m.files {
		b.Queue(`
			INSERT INTO channels.renditions (channel_id, path, revision, digest, size, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (channel_id, path, revision) DO UPDATE SET digest = excluded.digest, size = excluded.size, created_at = excluded.created_at`,
			ch.ID, f.path, m.revision, f.digest, f.size, s.now().UTC())
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return pg.Classify(err)
	}
	return addRefs(ctx, tx, ch.ID, m.files)
}

// RebuildIndex makes the index files anew from the database.
func (s *Service) RebuildIndex(ctx context.Context, req *channelsv1.RebuildIndexRequest) (*channelsv1.RebuildIndexResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	if ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return nil, hostedOnly(ch)
	}
	out := new(channelsv1.RebuildIndexResponse)
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		subdirs, err := subdirsOf(ctx, tx, ch.ID)
		if err != nil {
			return err
		}
		for subdir := range subdirs {
			id, err := s.enqueueIndex(ctx, tx, ch, subdir, true)
			if err != nil {
				return err
			}
			// The answer has room for one job: that of the subdir that every client reads.
			if out.JobId == "" || strings.EqualFold(subdir, "noarch") {
				out.JobId = id.String()
			}
		}
		return nil
	})
	return out, pg.Classify(err)
}
