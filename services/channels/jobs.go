package channels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// The kinds of jobs.
const (
	// KindIndex builds the large index files of one subdir, of the newest head: repodata.json, .zst, and .gz unless it is large.
	KindIndex = "channels.index"
	// KindExtras builds what few clients ask for, after KindIndex: of a subdir repodata.json.bz2 (and .gz), current_repodata.json and
	// run_exports.json, or a channel's channeldata.json.
	KindExtras = "channels.extras"
	// KindPast builds index files of a former revision that are too large to wait for.
	KindPast = "channels.past"
)

// RegisterJobs adds the kinds that this service owns to a worker pool.
func (s *Service) RegisterJobs(reg *jobs.Registry) {
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindIndex, Timeout: 15 * time.Minute, MaxFailures: 8, Coalesce: jobs.QueueOne, Concurrency: 2,
		Backoff: jobs.Backoff{Initial: time.Second, Max: time.Minute},
	}, jobs.WorkFunc[*channelsv1.IndexJobArgs](s.index))
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindExtras, Timeout: time.Hour, MaxFailures: 8, Coalesce: jobs.QueueOne, Concurrency: 1, // bzip2 takes a core for minutes
		Backoff: jobs.Backoff{Initial: 5 * time.Second, Max: 10 * time.Minute},
	}, jobs.WorkFunc[*channelsv1.ExtrasJobArgs](s.extras))
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindPast, Timeout: 15 * time.Minute, MaxFailures: 3, Coalesce: jobs.Join, Concurrency: 1,
		Backoff: jobs.Backoff{Initial: time.Second, Max: time.Minute},
	}, jobs.WorkFunc[*channelsv1.PastJobArgs](s.past))
	s.registerActions(reg)
}

// What is published after a rest is indexed at once. Of publications in quick succession, as when a build farm uploads, each
// build of the large index files but the last would be of no use before the next one: they wait until nothing was published
// for twice as long as it took from one to the next, within bounds, but not for longer than indexLag. The shards show every
// revision at once nevertheless.
const (
	indexRest      = 250 * time.Millisecond
	indexSettle    = 50 * time.Millisecond
	indexSettleMax = 300 * time.Millisecond
	indexLag       = 2 * time.Second
)

// settleAfter returns how long a build waits for further publications; 0 after a rest. gap is the time since the last one.
func settleAfter(gap time.Duration) time.Duration {
	if gap >= indexRest {
		return 0
	}
	return min(max(2*gap, indexSettle), indexSettleMax)
}

// settleOf is settleAfter for the publication at now that follows a revision. The channel's own time of change says nothing
// of that: it moves with its description, too.
func settleOf(ctx context.Context, db pg.DB, channel uuid.UUID, revision int64, now time.Time) (time.Duration, error) {
	var at time.Time
	err := db.QueryRow(ctx, `SELECT created_at FROM channels.revisions WHERE channel_id = $1 AND number = $2`, channel, revision).Scan(&at)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil // old enough to have been dropped
	}
	return settleAfter(now.Sub(at)), pg.Classify(err)
}

// enqueueIndex asks for the index files of a subdir. While one build runs, any number of requests make one more. settle is
// how long the build waits for what may follow; 0 is not at all.
func (s *Service) enqueueIndex(ctx context.Context, tx pg.DB, c *channelRow, subdir string, force bool, settle time.Duration) (uuid.UUID, error) {
	p := jobs.EnqueueParams{
		Kind: KindIndex, Namespace: c.Namespace, Resource: resourceName(c),
		Args:        &channelsv1.IndexJobArgs{ChannelId: c.ID.String(), Subdir: subdir, Force: force},
		Principal:   jobs.Principal{Name: authn.Service("channels").Name},
		CoalesceKey: c.ID.String() + "/" + subdir,
	}
	switch {
	case force: // not to be taken in by a build that may find nothing to do
		p.CoalesceKey += "!"
	case settle > 0:
		var now time.Time // jobs are due by the database's clock
		if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
			return uuid.Nil, pg.Classify(err)
		}
		p.StartAt, p.JoinPending, p.PutOff = now.Add(settle), true, indexLag
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
	leave := s.prompt.enter()
	m, err := s.buildMonoliths(ctx, id, job.Args.GetSubdir(), job.Args.GetForce())
	leave()
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err) // the channel was deleted meanwhile
	}
	if err != nil || m.files == nil {
		return m.result(), err
	}
	err = s.serve(ctx, job, id, m, func(tx pgx.Tx, ch *channelRow) error {
		if m.bytes >= s.cfg.spliceFrom {
			if err := putSpans(ctx, tx, id, job.Args.GetSubdir(), m.revision, m.files[0].digest, m.spans); err != nil {
				return err
			}
		}
		if err := s.enqueueExtras(ctx, tx, ch, job.Args.GetSubdir(), job.Args.GetForce()); err != nil {
			return err
		}
		return s.retire(ctx, tx, ch, job.Args.GetSubdir())
	})
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err)
	}
	return m.result(), err
}

func (m built) result() *channelsv1.IndexJobResult {
	return &channelsv1.IndexJobResult{Revision: m.revision, Records: m.records, Bytes: m.bytes}
}

// buildMonoliths builds a subdir's repodata.json and its packed forms from one snapshot of the rows. If the newest files
// show the subdir as it is, and force is not set, it does nothing and returns their revision.
func (s *Service) buildMonoliths(ctx context.Context, id uuid.UUID, subdir string, force bool) (m built, err error) {
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		if err := pg.WithoutLocks(ctx, tx); err != nil {
			return err
		}
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
		forms := indexForms
		if newest != nil && newest.Size > s.cfg.gzipWithIndex {
			forms = promptForms
		}
		if !force {
			base, err := s.spliceOf(ctx, tx, id, subdir, newest)
			if err != nil {
				return err
			}
			if base != nil {
				err := s.streamMonoliths(ctx, &m, subdir, forms, state, func(w *repodata.Writer) error { return s.splice(ctx, w, base) })
				if err == nil || ctx.Err() != nil {
					return err
				}
				s.log.WarnContext(ctx, "an index cannot be made from the one before, and is made from the rows", "channel", ch.Name, "index", newest.Path, "error", err)
			}
		}
		return s.streamMonoliths(ctx, &m, subdir, forms, state, func(w *repodata.Writer) error { return writeRecords(ctx, tx, w, id, subdir, 0) })
	})
	return m, pg.Classify(err)
}

// streamMonoliths writes the document once and stores it in several forms. Nothing is held in memory.
func (s *Service) streamMonoliths(ctx context.Context, m *built, subdir string, forms []form, state subdirState, records func(*repodata.Writer) error) error {
	info, err := subdirInfo(subdir, state)
	if err != nil {
		return err
	}
	m.files, err = s.storeDocument(ctx, subdir+"/"+fileRepodata, forms, func(out io.Writer) error {
		w := repodata.NewWriter(out, info)
		w.Mark()
		if err := records(w); err != nil {
			return err
		}
		for _, filename := range state.removed {
			if err := w.Removed(filename); err != nil {
				return recordFault(subdir, filename, err)
			}
		}
		m.records = int64(w.Records())
		err := w.Close()
		m.spans = w.Spans()
		return err
	})
	if err != nil {
		return err
	}
	m.bytes = m.files[0].size
	return nil
}

// subdirInfo is what a subdir's documents say under "info".
func subdirInfo(subdir string, state subdirState) (info repodata.Info, err error) {
	info.Subdir = subdir
	info.Extra, info.ChannelRelations, err = infoExtra(state.info)
	return info, err
}

// emptyIndex stores the index files of a subdir without packages.
func (s *Service) emptyIndex(ctx context.Context, subdir string) ([]newRendition, error) {
	var m built
	if err := s.streamMonoliths(ctx, &m, subdir, indexForms, subdirState{}, func(*repodata.Writer) error { return nil }); err != nil {
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

// writeRecords splices the records of a subdir into w. Revision 0 is the head.
func writeRecords(ctx context.Context, tx pgx.Tx, w *repodata.Writer, id uuid.UUID, subdir string, revision int64) error {
	return eachRecord(ctx, tx, id, subdir, revision, false, func(r contentRow) error { return w.Record(r.bucket, r.filename, r.record) })
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
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return s.rebuild(ctx, tx, ch, out) })
	})
	return out, err
}

// rebuild asks for all index files of a channel.
func (s *Service) rebuild(ctx context.Context, tx pgx.Tx, ch *channelRow, out *channelsv1.RebuildIndexResponse) error {
	subdirs, err := subdirsOf(ctx, tx, ch.ID)
	if err != nil {
		return err
	}
	if err := s.record(ctx, tx, authn.FromContext(ctx), "channel.reindex", ch, nil); err != nil {
		return err
	}
	out.JobId = ""
	// In order, for two requests must not wait for each other's jobs.
	for _, subdir := range slices.Sorted(maps.Keys(subdirs)) {
		id, err := s.enqueueIndex(ctx, tx, ch, subdir, true, 0)
		if err != nil {
			return err
		}
		// The answer has room for one job: that of the subdir that every client reads.
		if out.JobId == "" || strings.EqualFold(subdir, "noarch") {
			out.JobId = id.String()
		}
	}
	return nil
}
