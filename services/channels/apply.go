package channels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/plan"
)

// Diff and Apply are the two halves of an import: what has to be fetched, and, once it is stored, the next revision.

// stagePlan reads a plan blob into the staging tables and works out the changes. It returns the policy that applies.
func (s *Service) stagePlan(ctx context.Context, st *staging, digest blob.Digest, policy channelsv1.RemovalPolicy, uploader string) (channelsv1.RemovalPolicy, error) {
	if err := st.tables(ctx); err != nil {
		return policy, err
	}
	if policy == channelsv1.RemovalPolicy_REMOVAL_POLICY_UNSPECIFIED {
		m, err := st.channel.mirrorSettings()
		if err != nil {
			return policy, err
		}
		policy = m.GetRemovalPolicy()
	}
	done, err := s.stageChanges(ctx, st, digest, policy, uploader)
	if err == nil && !done {
		err = s.stageWhole(ctx, st, digest, policy, uploader)
	}
	return policy, err
}

// stageWhole stages all of a plan.
func (s *Service) stageWhole(ctx context.Context, st *staging, digest blob.Digest, policy channelsv1.RemovalPolicy, uploader string) error {
	r, err := plan.Open(ctx, s.blobs, digest, s.cfg.Plan)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := st.speaksOf(r.Header()); err != nil {
		return err
	}
	err = st.plan(ctx, func() (plannedFile, bool, error) {
		e, err := r.Next()
		if err == io.EOF {
			return plannedFile{}, false, nil
		}
		if err != nil {
			return plannedFile{}, false, err
		}
		f, err := planned(e, uploader)
		return f, err == nil, err
	})
	if err != nil {
		return err
	}
	if err := st.diff(ctx); err != nil {
		return err
	}
	if policy == channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE {
		return st.prune(ctx)
	}
	return nil
}

// speaksOf takes what a plan says of whole subdirs.
func (s *staging) speaksOf(h *channelsv1.PlanHeader) error {
	if f := h.GetFormat(); f != s.channel.Format {
		return fault.New(fault.Invalid, "the plan is for %s, channel %s holds %s", f, s.channel.Name, s.channel.Format).WithReason(plan.Reason)
	}
	s.subdirs = make(map[string]subdirState)
	for _, sub := range h.GetSubdirs() {
		if err := dist.CheckSubdir(sub.GetSubdir()); err != nil {
			return fault.New(fault.Invalid, "plan: %w", err).WithReason(plan.Reason)
		}
		removed := slices.Clone(sub.GetRemoved())
		slices.Sort(removed)
		removed = slices.Compact(removed)
		for _, filename := range removed {
			if _, err := names.CleanPath(filename); err != nil || strings.Contains(filename, "/") || !isText(filename) {
				return fault.New(fault.Invalid, "plan: the removed file %q is no file name", shown(filename)).WithReason(plan.Reason)
			}
		}
		if _, _, err := infoExtra(sub.GetInfo()); err != nil {
			return err
		}
		s.subdirs[sub.GetSubdir()] = subdirState{info: sub.GetInfo(), removed: removed}
	}
	return nil
}

// isText reports what PostgreSQL and a JSON index can hold.
func isText(s string) bool { return strings.ToValidUTF8(s, "") == s && !strings.Contains(s, "\x00") }

// planned checks what makes an entry one of conda's. Version and build need not be those of the file name: upstream's
// index says what it says, and clients believe the record.
func planned(e *channelsv1.PlanEntry, uploader string) (f plannedFile, err error) {
	bad := func(format string, args ...any) (plannedFile, error) {
		return plannedFile{}, fault.New(fault.Invalid, "plan: %s: %w", shown(e.GetPath()), fmt.Errorf(format, args...)).WithReason(plan.Reason)
	}
	subdir, filename, _ := strings.Cut(e.GetPath(), "/")
	if err := dist.CheckSubdir(subdir); err != nil {
		return bad("%w", err)
	}
	if _, err := dist.ParseFilename(filename); err != nil {
		return bad("%w", err)
	}
	if !e.GetKeep() {
		if e.GetArch() != subdir {
			return bad("its subdir is %q", shown(e.GetArch()))
		}
		if err := dist.CheckName(e.GetName()); err != nil {
			return bad("%w", err)
		}
		if !isText(e.GetVersion()) || !isText(e.GetBuild()) || !isText(e.GetUrl()) {
			return bad("a field is not text")
		}
		if len(e.GetRecord()) == 0 {
			return bad("it has no record")
		}
	}
	return plannedFile{
		path: e.GetPath(), digest: e.GetSha256(), md5: e.GetMd5(), size: e.GetSize(), name: e.GetName(), version: e.GetVersion(),
		build: e.GetBuild(), buildNumber: e.GetBuildNumber(), arch: subdir, record: e.GetRecord(), keep: e.GetKeep(),
		redirect: e.GetRedirect(), url: e.GetUrl(), uploader: uploader,
	}, nil
}

// errRollback ends a transaction that was only made to look.
var errRollback = errors.New("roll back")

// Diff compares a plan with what a channel has.
func (s *Service) Diff(ctx context.Context, req *channelsv1.DiffRequest) (*channelsv1.DiffResponse, error) {
	ch, digest, err := s.importTarget(ctx, req.GetChannel(), req.GetPlan())
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.DiffResponse)
	err = s.againWhole(ctx, ch.Name, func(whole bool) error { return s.compare(ctx, ch.ID, digest, req.GetRemovalPolicy(), whole, out) })
	if err != nil {
		return nil, fmt.Errorf("diff %s: %w", ch.Name, pg.Classify(err))
	}
	return out, nil
}

// compare fills in the answer of Diff, in a transaction that changes nothing.
func (s *Service) compare(ctx context.Context, id uuid.UUID, digest blob.Digest, policy channelsv1.RemovalPolicy, whole bool, out *channelsv1.DiffResponse) error {
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if err := pg.WithoutLocks(ctx, tx); err != nil {
			return err
		}
		ch, err := channelByID(ctx, tx, id)
		if err != nil {
			return err
		}
		st := newStaging(tx, ch, s.now())
		st.whole = whole
		if _, err := s.stagePlan(ctx, st, digest, policy, ""); err != nil {
			return err
		}
		sum, err := st.summarize(ctx)
		if err != nil {
			return err
		}
		out.Head, out.Changed, out.Removed = ch.Head, sum.Put, sum.Removed
		if out.Unchanged, err = st.unchanged(ctx); err != nil {
			return err
		}
		if out.MissingCount, out.MissingBytes, err = s.markMissing(ctx, st); err != nil {
			return err
		}
		info, err := s.missingPlan(ctx, st, out.MissingCount)
		if err != nil {
			return err
		}
		out.Missing = info.Digest[:]
		return errRollback
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// importTarget finds the channel of an import and checks that it is one that imports.
func (s *Service) importTarget(ctx context.Context, name string, digest []byte) (*channelRow, blob.Digest, error) {
	ch, err := channelByName(ctx, s.pool, name)
	if err != nil {
		return nil, blob.Digest{}, err
	}
	if err := mirrorOnly(ch); err != nil {
		return nil, blob.Digest{}, err
	}
	if len(digest) != len(blob.Digest{}) {
		return nil, blob.Digest{}, fault.Field("plan", "a SHA-256 has %d bytes", len(blob.Digest{}))
	}
	return ch, blob.Digest(digest), nil
}

func mirrorOnly(c *channelRow) error {
	switch c.kind() {
	case channelsv1.ChannelKind_CHANNEL_KIND_MIRROR:
		return nil
	case channelsv1.ChannelKind_CHANNEL_KIND_PROXY:
		return hostedOnly(c)
	}
	return fault.New(fault.Precondition, "This method is not implemented for local channels").WithReason("CHANNEL_KIND")
}

// unchanged counts the planned files that the channel has as they are; kept ones count if they are there.
func (s *staging) unchanged(ctx context.Context) (n int64, err error) {
	if s.planned == 0 {
		return s.same, nil
	}
	done, err := s.bulk(ctx)
	if err != nil {
		return 0, err
	}
	defer done(&err)
	err = s.tx.QueryRow(ctx, `
		SELECT count(*) FROM channels_plan p JOIN `+s.listed("p")+`
		WHERE NOT EXISTS (SELECT 1 FROM channels_change c WHERE c.path = p.path)`, s.channel.ID).Scan(&n)
	return n + s.same, pg.Classify(err)
}

// markMissing marks the staged files whose bytes are not stored, and adds them up.
func (s *Service) markMissing(ctx context.Context, st *staging) (count, size int64, err error) {
	err = st.eachDigest(ctx, func(page []stagedDigest) error {
		var missing []string
		if err := eachStored(ctx, s.blobs, page, func(i int, stored bool, _ int64) {
			if !stored || !guard.Stored {
				missing = append(missing, page[i].Path)
				size += max(page[i].Size, 0)
			}
		}); err != nil {
			return err
		}
		count += int64(len(missing))
		if len(missing) == 0 {
			return nil
		}
		_, err := st.tx.Exec(ctx, `UPDATE channels_change SET missing = true WHERE path = ANY($1)`, missing)
		return pg.Classify(err)
	})
	return count, size, err
}

// missingPlan writes the marked files as a plan.
func (s *Service) missingPlan(ctx context.Context, st *staging, count int64) (blob.Info, error) {
	h := &channelsv1.PlanHeader{Version: plan.Version, Format: st.channel.Format, Entries: count}
	return plan.Put(ctx, s.blobs, h, func(add func(*channelsv1.PlanEntry) error) error {
		rows, err := st.tx.Query(ctx, `
			SELECT path, digest, md5, size, name, version, build, build_number, arch, record, url FROM channels_change WHERE missing ORDER BY path`)
		if err != nil {
			return pg.Classify(err)
		}
		defer rows.Close()
		for rows.Next() {
			e := new(channelsv1.PlanEntry)
			if err := rows.Scan(&e.Path, &e.Sha256, &e.Md5, &e.Size, &e.Name, &e.Version, &e.Build, &e.BuildNumber, &e.Arch, &e.Record, &e.Url); err != nil {
				return pg.Classify(err)
			}
			if err := add(e); err != nil {
				return err
			}
		}
		return pg.Classify(rows.Err())
	})
}

// checkStored refuses changes whose bytes are not stored: nothing is listed that cannot be served.
func (s *Service) checkStored(ctx context.Context, st *staging) error {
	return st.eachDigest(ctx, func(page []stagedDigest) error {
		var bad error
		var paths []string
		var sizes []int64
		err := eachStored(ctx, s.blobs, page, func(i int, stored bool, size int64) {
			f := page[i]
			if bad != nil {
				return
			}
			if bad = checkOne(f, stored, size); bad == nil && f.Size < 0 {
				paths, sizes = append(paths, f.Path), append(sizes, size)
			}
		})
		if err != nil || bad != nil {
			return errors.Join(err, bad)
		}
		if len(paths) == 0 {
			return nil
		}
		_, err = st.tx.Exec(ctx, `
			UPDATE channels_change c SET size = u.size FROM unnest($1::text[], $2::bigint[]) u(path, size) WHERE c.path = u.path`, paths, sizes)
		return pg.Classify(err)
	})
}

// checkOne compares a staged file with what is stored. A size below zero is not known yet.
func checkOne(f stagedDigest, stored bool, size int64) error {
	switch {
	case f.Digest == nil:
		return fault.New(fault.Invalid, "the plan has no SHA-256 of %s", f.Path).WithReason(plan.Reason)
	case !stored:
		return fault.New(fault.Precondition, "the bytes of %s are not stored", f.Path).WithReason(reasonBlobMissing)
	case f.Size >= 0 && f.Size != size:
		return fault.New(fault.Invalid, "%s has %d bytes, the plan says %d", f.Path, size, f.Size).WithReason(reasonSize)
	}
	return nil
}

// Apply makes a plan the channel's next revision.
func (s *Service) Apply(ctx context.Context, req *channelsv1.ApplyRequest) (*channelsv1.ApplyResponse, error) {
	ch, digest, err := s.importTarget(ctx, req.GetChannel(), req.GetPlan())
	if err != nil {
		return nil, err
	}
	if req.GetExpectedHead() <= 0 {
		return nil, fault.Field("expected_head", "must be the head that the plan was compared with")
	}
	caller := authn.FromContext(ctx)
	holds, err := claimsOf(caller)
	if err != nil {
		return nil, err
	}
	var out *published
	var unchanged int64
	err = s.againWhole(ctx, ch.Name, func(whole bool) (err error) {
		out, unchanged, err = s.apply(ctx, ch.ID, digest, req, holds, whole)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("apply to %s: %w", ch.Name, err)
	}
	return &channelsv1.ApplyResponse{Revision: out.channel.Head, Added: out.Put, Unchanged: unchanged, Removed: out.Removed}, nil
}

// apply publishes a plan, by what it says otherwise than the one before unless whole is set.
func (s *Service) apply(ctx context.Context, id uuid.UUID, digest blob.Digest, req *channelsv1.ApplyRequest, holds []claim, whole bool) (out *published, unchanged int64, err error) {
	caller := authn.FromContext(ctx)
	var policy channelsv1.RemovalPolicy
	out, err = s.publish(ctx, publication{
		channel: id, cause: causeSync, author: caller.Actor(), expected: req.GetExpectedHead(), holds: holds,
		stage: func(ctx context.Context, st *staging) (err error) {
			if err := mirrorOnly(st.channel); err != nil {
				return err
			}
			st.whole = whole
			if policy, err = s.stagePlan(ctx, st, digest, req.GetRemovalPolicy(), caller.Actor()); err != nil {
				return err
			}
			if unchanged, err = st.unchanged(ctx); err != nil {
				return err
			}
			return s.checkStored(ctx, st)
		},
		moved: func(ctx context.Context, tx pgx.Tx, out *published) error {
			return s.record(ctx, tx, caller, "channel.sync", out.channel, map[string]any{
				"revision": out.channel.Head, "added": out.Put, "removed": out.Removed, "job": caller.JobID,
			})
		},
		finish: func(ctx context.Context, tx pgx.Tx, out *published) error {
			return s.noteApplied(ctx, tx, out.channel, appliedPlan{Plan: digest, Policy: int16(policy), Files: out.Put + unchanged})
		},
	})
	return out, unchanged, err
}
