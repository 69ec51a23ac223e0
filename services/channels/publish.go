package channels

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// publication takes a channel from one revision to the next. Uploads, deletions and syncs differ only in what they stage.
type publication struct {
	channel uuid.UUID
	// cause is what the history calls it; author is who did it.
	cause, author string
	// expected is the head that the publication was worked out for; another one is a lost race. 0 takes any.
	expected int64
	// holds tie the effects to the claims of the jobs that publish; empty outside jobs.
	holds []claim
	// stage fills the staging tables. It is called again after a lost race and must then begin anew.
	stage func(ctx context.Context, s *staging) error
	// finish writes what else belongs into the transaction, after the head has moved; nil for nothing. It runs also if
	// nothing was changed.
	finish func(ctx context.Context, tx pgx.Tx, p *published) error
	// rebuilt are all shards, built anew beforehand: a revision of the same files, for which all subdirs have changed.
	rebuilt *rebuilt
	// texts are what is said of packages that the channel does not know yet.
	texts map[string]packageText
	// moved writes what belongs into the transaction if the head moves, such as audit events; nil for nothing.
	moved func(ctx context.Context, tx pgx.Tx, p *published) error
}

// claim names the attempt at a job on whose behalf something is written.
type claim struct {
	job   uuid.UUID
	claim int64
}

// hold refuses the publication if one of its claims is not the current one, and keeps them until the end of tx.
func (p *publication) hold(ctx context.Context, tx pgx.Tx) error {
	for _, c := range p.holds {
		if err := jobs.Hold(ctx, tx, c.job, c.claim); err != nil {
			return err
		}
	}
	return nil
}

// published says what came of a publication.
type published struct {
	channel *channelRow // as it is now
	summary
	// moved is false if there was nothing to publish.
	moved bool
	// subdirs have changed.
	subdirs []string
	// fresh are the package names that the channel did not know before.
	fresh []string
	// staged is the publication if it was staged in memory.
	staged *staging
}

const (
	causeCreate = "create"
	causeUpload = "upload"
	causeDelete = "delete"
	causeSync   = "sync"
	causeCopy   = "copy"
	// causeReindex: files came back from storage; causeValidate: files went that storage does not have.
	causeReindex  = "reindex"
	causeValidate = "validate"
	// causeGenerate: the same files, with index files that were made anew.
	causeGenerate = "generate"

	reasonHeadMoved   = "HEAD_MOVED"
	reasonRecord      = "RECORD_INVALID"
	reasonBlobMissing = "BLOB_MISSING"
	reasonSize        = "SIZE_MISMATCH"
	reasonQuota       = "QUOTA"

	publishAttempts = 64
	publishPause    = 10 * time.Millisecond
)

// publish publishes p, and rebases it on the new head as often as another one was faster, unless p expects a head.
//
// The order makes a crash harmless at any point: blobs are durable before the transaction that names them commits;
// they are named by rows that become visible with the head, all at once; and what listens is told after that. Readers
// see the revision before or the one after. The channel's row is locked only once everything has been worked out, so
// publishers of other processes wait for each other's writes, not for each other's compression and disks.
func (s *Service) publish(ctx context.Context, p publication) (*published, error) {
	unlock, err := s.gates.lock(ctx, p.channel)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for attempt := 1; ; attempt++ {
		out, err := s.publishOnce(ctx, p)
		if err == nil {
			if out.moved {
				if out.staged != nil {
					s.keepShards(out.staged, out.channel.Head)
				}
				s.announce(ctx, out.channel, false)
				s.analyze(ctx, out)
			}
			return out, nil
		}
		revived, rerr := s.revive(ctx, err)
		if rerr != nil {
			return nil, rerr
		}
		if revived && p.rebuilt != nil { // they are to be stored once more
			return nil, errRevived()
		}
		lost := revived || pg.IsLostRace(err) || (isHeadMoved(err) && p.expected == 0)
		if !lost || attempt == publishAttempts {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(rand.N(publishPause)):
		}
	}
}

// analyze gathers the planner's statistics after a publication that made them worthless. Until autovacuum comes round the
// planner would take the channel for one of a single file, and find each of some hundred staged paths by a walk through
// all of the channel's. It fails nobody.
func (s *Service) analyze(ctx context.Context, out *published) {
	if n := out.Put + out.Removed; n < analyzeFrom || n*10 < out.channel.FileCount {
		return
	}
	if _, err := s.pool.Exec(ctx, `ANALYZE channels.files (channel_id, path, added_rev, removed_rev, name, arch), channels.conda_shards, channels.packages (channel_id, name)`); err != nil {
		s.log.DebugContext(ctx, "statistics are left to autovacuum", "channel", out.channel.Name, "error", err)
	}
}

func isHeadMoved(err error) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Reason == reasonHeadMoved
}

func (s *Service) publishOnce(ctx context.Context, p publication) (out *published, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		out, err = s.publishTx(ctx, tx, p)
		return err
	})
	return out, pg.Classify(err)
}

// publishTx runs under read committed: a channel's rows change only together with its head, so if the head under the
// lock is the one of the first query, all queries between saw that revision.
//
// Until it writes it holds no locks, and may take its time over the shards.
func (s *Service) publishTx(ctx context.Context, tx pgx.Tx, p publication) (*published, error) {
	if err := pg.WithoutLocks(ctx, tx); err != nil {
		return nil, err
	}
	ch, err := channelByID(ctx, tx, p.channel)
	if err != nil {
		return nil, err
	}
	if p.expected != 0 && ch.Head != p.expected {
		return nil, lostRace(ch.Name, p.expected)
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	if !now.After(ch.UpdatedAt) { // times within a channel never run backwards, whatever the clock does
		now = ch.UpdatedAt.Add(time.Microsecond)
	}
	st := newStaging(tx, ch, now)
	if err := p.stage(ctx, st); err != nil {
		return nil, err
	}
	out := &published{channel: ch}
	var build *shardBuild
	if st.adds != nil && p.rebuilt == nil {
		out.summary, out.staged = st.adds.summarize(), st
		build, err = s.buildFew(ctx, st)
	} else {
		if err := st.tables(ctx); err != nil {
			return nil, err
		}
		if out.summary, err = st.summarize(ctx); err != nil {
			return nil, err
		}
		build, err = s.buildShards(ctx, st, out.summary, p.rebuilt)
	}
	if err != nil {
		return nil, err
	}
	if err := pg.TakingLocks(ctx, tx); err != nil {
		return nil, err
	}
	out.moved = len(build.subdirs) > 0
	if out.moved {
		out.subdirs = slices.Sorted(maps.Keys(build.subdirs))
		if err := s.write(ctx, st, p, build, out); err != nil {
			return nil, err
		}
	} else if err := p.hold(ctx, tx); err != nil {
		return nil, err
	}
	if p.finish != nil {
		return out, p.finish(ctx, tx, out)
	}
	return out, nil
}

// write makes the staged changes the next revision. Nothing slow happens here: the channel is locked.
func (s *Service) write(ctx context.Context, st *staging, p publication, build *shardBuild, out *published) error {
	locked, err := lockChannel(ctx, st.tx, p.channel)
	if err != nil {
		return err
	}
	from := st.channel.Head
	if guard.Head && locked.Head != from {
		return lostRace(locked.Name, from)
	}
	if err := p.hold(ctx, st.tx); err != nil {
		return err
	}
	from = locked.Head
	locked.Head = from + 1
	locked.Size += out.NewBytes - out.OldBytes
	locked.FileCount += out.Fresh - out.Removed
	locked.UpdatedAt = st.now
	if err := checkQuota(locked, out.NewBytes-out.OldBytes); err != nil {
		return err
	}
	if err := checkTenant(ctx, st.tx, locked, out.NewBytes-out.OldBytes); err != nil {
		return err
	}
	delta, err := s.writeContent(ctx, st, build, p.texts, locked.Head)
	if err != nil {
		return err
	}
	locked.PackageCount += delta
	out.fresh = st.fresh
	if err := insertRevision(ctx, st.tx, locked.ID, revisionRow{
		Number: locked.Head, CreatedAt: st.now, Author: p.author, Added: out.Put, Removed: out.Removed, Cause: p.cause,
	}); err != nil {
		return err
	}
	if err := moveHead(ctx, st.tx, locked, from); err != nil {
		return err
	}
	out.channel = locked
	settle := time.Duration(0)
	if out.Put+out.Removed < analyzeFrom { // of more there is none in quick succession
		if settle, err = settleOf(ctx, st.tx, locked.ID, from, st.now); err != nil {
			return err
		}
	}
	for _, subdir := range out.subdirs {
		if _, err := s.enqueueIndex(ctx, st.tx, locked, subdir, false, settle); err != nil {
			return err
		}
	}
	if err := s.tellPublished(ctx, st.tx, p, out); err != nil {
		return err
	}
	if p.moved != nil {
		return p.moved(ctx, st.tx, out)
	}
	return nil
}

// writeContent writes what the channel lists from a revision on, and returns by how many the number of names with files grew.
func (s *Service) writeContent(ctx context.Context, st *staging, build *shardBuild, texts map[string]packageText, revision int64) (delta int64, err error) {
	if st.adds != nil {
		return s.writeFew(ctx, st, build, texts, revision)
	}
	if err := st.writeFiles(ctx, revision); err != nil {
		return 0, fmt.Errorf("write files: %w", err)
	}
	if err := s.writeShards(ctx, st, build, revision); err != nil {
		return 0, fmt.Errorf("write shards: %w", err)
	}
	if err := s.writeRefs(ctx, st, build); err != nil {
		return 0, fmt.Errorf("write references: %w", err)
	}
	if delta, err = writePackages(ctx, st, texts); err != nil {
		return 0, fmt.Errorf("write packages: %w", err)
	}
	return delta, nil
}

// checkQuota refuses growth beyond the limit. A channel that is above it already, because the limit was lowered, may
// still shrink and stay as it is.
func checkQuota(c *channelRow, growth int64) error {
	if c.SizeLimit == nil || growth <= 0 || c.Size <= *c.SizeLimit {
		return nil
	}
	return overQuota(c)
}

func overQuota(c *channelRow) error {
	return fault.New(fault.Exhausted, "%s is above quota of %d bytes", c.Name, *c.SizeLimit).WithReason(reasonQuota)
}

// hostedOnly refuses to change channels whose content comes from an upstream.
func hostedOnly(c *channelRow) error {
	var kind string
	switch c.kind() {
	case channelsv1.ChannelKind_CHANNEL_KIND_MIRROR:
		kind = "mirror"
	case channelsv1.ChannelKind_CHANNEL_KIND_PROXY:
		kind = "proxy"
	default:
		return nil
	}
	return fault.New(fault.Precondition, "This method is not implemented for %s channels", kind).WithReason("CHANNEL_KIND")
}
