package channels

import (
	"context"
	"errors"
	"fmt"
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

// The past. Who names a revision gets index files that show exactly that one. A subdir's files of revision r do so for
// revision n if nothing in the subdir changed in (r, n]; conda_changes knows. Where retention has taken them, repodata.json
// and the shards are built anew from the rows, once, as of the revision c ≤ n that last changed the subdir: all revisions
// from c to the next change share them. The other files are not: their readers fall back to repodata.json.
//
// A small subdir is built while its reader waits, a large one by a job, and the reader is asked to come again.

const (
	// pastRecords is how many records are built while a reader waits: about a second's work.
	pastRecords = 20_000
	pastTimeout = 30 * time.Second
	// pastParallel bounds the builds for readers in one process.
	pastParallel = 2
	// pastRetry is when a reader may come again for what a job builds.
	pastRetry = 5 * time.Second
)

// asked is the revision that a request names; 0 for the head. missing says why there is none.
func (s *Service) asked(ctx context.Context, ch *channelRow, req *channelsv1.ResolveRequest) (revision int64, missing string, err error) {
	revision = req.GetRevision()
	if at := req.GetAt(); at != nil {
		t := at.AsTime()
		if t.After(s.now()) {
			return 0, fmt.Sprintf("%s lies in the future", t.Format(time.RFC3339)), nil
		}
		err := s.pool.QueryRow(ctx, `SELECT coalesce((SELECT number FROM channels.revisions WHERE channel_id = $1 AND created_at <= $2
			ORDER BY created_at DESC, number DESC LIMIT 1), 0)`, ch.ID, t).Scan(&revision)
		if err != nil {
			return 0, "", pg.Classify(err)
		}
		if revision == 0 {
			return 0, fmt.Sprintf("channel %s did not exist on %s", ch.Name, t.Format(time.RFC3339)), nil
		}
	}
	switch {
	case revision > ch.Head:
		return 0, fmt.Sprintf("channel %s has no revision %d", ch.Name, revision), nil
	case revision != 0 && revision < ch.Floor:
		return 0, fmt.Sprintf("revision %d of channel %s is no longer kept: the oldest is %d", revision, ch.Name, ch.Floor), nil
	}
	return revision, "", nil
}

// pastRendition returns the index file that shows a path exactly as it was at a revision; nil if there is none.
func (s *Service) pastRendition(ctx context.Context, ch *channelRow, path string, revision int64) (*rendition, error) {
	r, err := newestRendition(ctx, s.pool, ch.ID, path, revision)
	if err != nil {
		return nil, err
	}
	subdir, name, ok := strings.Cut(path, "/")
	if !ok { // of the whole channel, in which each revision changes something
		if r != nil && r.Revision != revision {
			r = nil
		}
		return r, nil
	}
	shard := strings.HasPrefix(name, shardsDir)
	if shard && r != nil { // its name says what it is
		return r, nil
	}
	changed, err := changedAt(ctx, s.pool, ch.ID, subdir, revision)
	if err != nil || changed == 0 {
		return nil, err
	}
	if r != nil && r.Revision >= changed {
		return r, nil
	}
	shards := shard || name == fileShards
	if !shards && !isMonolith(name) {
		return nil, nil
	}
	if shard {
		// An index that is there has its shards; without one, a client may still hold one that we let go.
		ix, err := newestRendition(ctx, s.pool, ch.ID, subdir+"/"+fileShards, revision)
		if err != nil || ix != nil && ix.Revision >= changed {
			return nil, err
		}
	}
	if err := s.ensurePast(ctx, ch, subdir, revision, changed, shards); err != nil {
		return nil, err
	}
	return newestRendition(ctx, s.pool, ch.ID, path, revision)
}

func isMonolith(name string) bool {
	for _, p := range documentPaths(indexForms, fileRepodata) {
		if name == p {
			return true
		}
	}
	return false
}

// changedAt returns the last revision not newer than n that changed a subdir; 0 if none has.
func changedAt(ctx context.Context, db pg.DB, channel uuid.UUID, subdir string, n int64) (changed int64, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(max(revision), 0) FROM channels.conda_changes WHERE channel_id = $1 AND subdir = $2 AND revision <= $3`,
		channel, subdir, n).Scan(&changed)
	return changed, pg.Classify(err)
}

// ensurePast builds a revision's files, or has them built and says so by an error.
func (s *Service) ensurePast(ctx context.Context, ch *channelRow, subdir string, revision, changed int64, shards bool) error {
	var large bool
	err := s.pool.QueryRow(ctx, `
		SELECT count(*) > $4 FROM (
			(SELECT 1 FROM channels.files WHERE channel_id = $1 AND path >= $2 || '/' AND path < $2 || '0'
				AND removed_rev IS NULL AND added_rev <= $3 LIMIT $4 + 1)
			UNION ALL
			(SELECT 1 FROM channels.files WHERE channel_id = $1 AND path >= $2 || '/' AND path < $2 || '0'
				AND removed_rev IS NOT NULL AND added_rev <= $3 AND removed_rev > $3 LIMIT $4 + 1)) f`,
		ch.ID, subdir, changed, s.cfg.pastRecords).Scan(&large)
	if err != nil {
		return pg.Classify(err)
	}
	key := fmt.Sprintf("%s/%s/%d/%t", ch.ID, subdir, changed, shards)
	if large {
		_, err := s.jobs.Enqueue(ctx, s.pool, jobs.EnqueueParams{
			Kind: KindPast, Namespace: ch.Namespace, Resource: resourceName(ch), Priority: jobs.Low, Coalesce: jobs.Join, CoalesceKey: key,
			Args:      &channelsv1.PastJobArgs{ChannelId: ch.ID.String(), Subdir: subdir, Revision: revision, Shards: shards},
			Principal: jobs.Principal{Name: authn.Service("channels").Name},
		})
		if err != nil {
			return fmt.Errorf("enqueue %s: %w", KindPast, err)
		}
		return fault.New(fault.Unavailable, "the index of %s at revision %d is being built; try again", subdir, revision).
			WithReason("BUILDING").WithRetryAfter(pastRetry)
	}
	_, err, _ = s.pastFlights.Do(key, func() (any, error) {
		// Others wait for this build too, so it must not end with the request that asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pastTimeout)
		defer cancel()
		select {
		case s.pastSlots <- struct{}{}:
			defer func() { <-s.pastSlots }()
		case <-ctx.Done():
			return nil, fault.New(fault.Unavailable, "too many former revisions are being built; try again").WithRetryAfter(pastRetry)
		}
		for {
			_, err := s.buildPast(ctx, nil, ch.ID, subdir, revision, shards)
			if revived, rerr := s.revive(ctx, err); rerr != nil || !revived {
				return nil, errors.Join(err, rerr)
			}
		}
	})
	return err
}

// past is the worker of KindPast.
func (s *Service) past(ctx context.Context, job *jobs.Job[*channelsv1.PastJobArgs]) (any, error) {
	id, err := uuid.Parse(job.Args.GetChannelId())
	if err != nil {
		return nil, fault.Field("channel_id", "is no UUID")
	}
	m, err := s.buildPast(ctx, job, id, job.Args.GetSubdir(), job.Args.GetRevision(), job.Args.GetShards())
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err) // the channel or the revision is gone
	}
	if _, rerr := s.revive(ctx, err); rerr != nil {
		return nil, rerr
	}
	return m.result(), err
}

// buildPast builds a subdir's repodata.json, or its shards and their index, as of a revision, and serves them.
func (s *Service) buildPast(ctx context.Context, job holder, id uuid.UUID, subdir string, revision int64, shards bool) (m built, err error) {
	var kept []newRendition // the shards
	opts := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, s.pool, opts, func(tx pgx.Tx) error {
		if err := pg.WithoutLocks(ctx, tx); err != nil {
			return err
		}
		ch, err := channelByID(ctx, tx, id)
		if err != nil {
			return err
		}
		if revision < ch.Floor || revision > ch.Head {
			return fault.New(fault.NotFound, "channel %s has no revision %d", ch.Name, revision)
		}
		if m.revision, err = changedAt(ctx, tx, id, subdir, revision); err != nil {
			return err
		}
		var state subdirState
		var last int64
		err = tx.QueryRow(ctx, `SELECT revision, info, removed FROM channels.conda_subdirs WHERE channel_id = $1 AND subdir = $2`, id, subdir).
			Scan(&last, &state.info, &state.removed)
		if err != nil {
			return pg.Classify(err)
		}
		if last > m.revision {
			state.removed = nil // the list is of the last change; what it had then is not known
		}
		if !shards {
			return s.streamMonoliths(ctx, &m, subdir, indexForms, state, func(w *repodata.Writer) error { return writeRecords(ctx, tx, w, id, subdir, m.revision) })
		}
		m.files, kept, err = s.shardsAt(ctx, tx, id, subdir, state, m.revision)
		return err
	})
	if err != nil {
		return built{}, fmt.Errorf("build %s at revision %d: %w", subdir, revision, pg.Classify(err))
	}
	return m, s.servePast(ctx, job, id, subdir, m, kept)
}

// servePast makes the files of a former revision served. If an index of repodata.json turns out to be the newest there is,
// as its job has not come to it yet, it is that.
func (s *Service) servePast(ctx context.Context, job holder, id uuid.UUID, subdir string, m built, shards []newRendition) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		ch, err := lockChannel(ctx, tx, id)
		if err != nil {
			return err
		}
		if job != nil {
			if err := job.Hold(ctx, tx); err != nil {
				return err
			}
		}
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM channels.renditions WHERE channel_id = $1 AND path = $2 AND revision > $3)`,
			id, m.files[0].path, m.revision).Scan(&m.past)
		if err != nil {
			return pg.Classify(err)
		}
		if err := s.putRenditions(ctx, tx, ch, m); err != nil {
			return err
		}
		if err := s.putPastShards(ctx, tx, ch, shards, m.revision); err != nil {
			return err
		}
		if m.past {
			return nil
		}
		return s.enqueueExtras(ctx, tx, ch, subdir, false)
	})
	return pg.Classify(err)
}

// shardsAt builds and stores a subdir's shards and their index as of a revision.
func (s *Service) shardsAt(ctx context.Context, tx pgx.Tx, id uuid.UUID, subdir string, state subdirState, revision int64) (index, shards []newRendition, err error) {
	put := newPutter(s.blobs)
	defer put.abort()
	rows, err := tx.Query(ctx, `
		SELECT name, path, record, run_exports FROM (
			SELECT name, path, record, run_exports FROM channels.files WHERE channel_id = $1 AND path >= $2 || '/' AND path < $2 || '0'
				AND removed_rev IS NULL AND added_rev <= $3
			UNION ALL
			SELECT name, path, record, run_exports FROM channels.files WHERE channel_id = $1 AND path >= $2 || '/' AND path < $2 || '0'
				AND removed_rev IS NOT NULL AND added_rev <= $3 AND removed_rev > $3) c ORDER BY name, path`, id, subdir, revision)
	if err != nil {
		return nil, nil, pg.Classify(err)
	}
	ix := shardIndex(subdir)
	if ix.Extra, ix.ChannelRelations, err = infoExtra(state.info); err != nil {
		rows.Close()
		return nil, nil, err
	}
	var shard repodata.Shard
	var current string
	flush := func() error {
		if len(shard.Records) == 0 {
			return nil
		}
		data, _, err := repodata.BuildShard(shard)
		if err != nil {
			return recordFault(subdir, current, err)
		}
		shard = repodata.Shard{}
		d, err := put.add(ctx, data)
		if err != nil {
			return err
		}
		ix.Shards[current] = d
		shards = append(shards, newRendition{shardPath(subdir, d), d, int64(len(data))})
		return nil
	}
	var name, path string
	var record, runExports []byte
	_, err = pgx.ForEachRow(rows, []any{&name, &path, &record, &runExports}, func() error {
		if name != current {
			if err := flush(); err != nil {
				return err
			}
			current = name
		}
		bucket, filename, err := bucketOf(path)
		if err != nil {
			return err
		}
		shard.Records = append(shard.Records, repodata.ShardRecord{Bucket: bucket, Key: filename, Raw: record, RunExports: runExports})
		record, runExports = nil, nil
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return nil, nil, pg.Classify(err)
	}
	data, err := repodata.BuildIndex(ix)
	if err != nil {
		return nil, nil, recordFault(subdir, "", err)
	}
	d, err := put.add(ctx, data)
	if err != nil {
		return nil, nil, err
	}
	return []newRendition{{subdir + "/" + fileShards, d, int64(len(data))}}, shards, put.commit(ctx)
}

// putPastShards lets the shards of a former revision be found from it on, for as long as its index. Those that a newer
// index names stay for as long as that one.
func (s *Service) putPastShards(ctx context.Context, tx pgx.Tx, ch *channelRow, shards []newRendition, revision int64) error {
	if len(shards) == 0 {
		return nil
	}
	var paths []string
	var digests []blob.Digest
	var sizes []int64
	for _, f := range shards {
		paths, digests, sizes = append(paths, f.path), append(digests, f.digest), append(sizes, f.size)
	}
	now := s.now().UTC()
	b := &pgx.Batch{}
	b.Queue(`UPDATE channels.renditions SET replaced_at = $3 WHERE channel_id = $1 AND path = ANY($2) AND replaced_at IS NOT NULL`, ch.ID, paths, now)
	b.Queue(`
		INSERT INTO channels.renditions (channel_id, path, revision, digest, size, created_at, replaced_at)
		SELECT $1, path, $2, digest, size, $6, $6 FROM unnest($3::text[], $4::bytea[], $5::bigint[]) n(path, digest, size)
		WHERE NOT EXISTS (SELECT 1 FROM channels.renditions r WHERE r.channel_id = $1 AND r.path = n.path AND r.revision <= $2)`,
		ch.ID, revision, paths, digests, sizes, now)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return pg.Classify(err)
	}
	return addRefs(ctx, tx, ch.ID, shards)
}
