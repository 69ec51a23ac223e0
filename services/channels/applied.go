package channels

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/plan"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

// A mirror's content follows from the plan that was applied last. The plan of the next day has the same two hundred
// thousand entries but for some hundreds, so the two plans are compared as they lie in storage, which takes a few tenths
// of a second, and only what differs is staged. The rows are compared with all of a plan if that cannot be said: the first
// time, after a change of the removal policy, if the plan speaks of further subdirs, or if the former plan is lost.

// appliedPlan is a row of channels.applied.
type appliedPlan struct {
	Revision int64
	Plan     blob.Digest
	Policy   int16
	Files    int64
}

// planOwner holds on to the applied plan of a channel.
func planOwner(channel uuid.UUID) refs.Owner {
	return refs.Owner{Kind: "channels.plan", ID: channel.String()}
}

// applied returns the plan that the channel's head was made of; nil if it is not known.
func applied(ctx context.Context, tx pgx.Tx, c *channelRow) (*appliedPlan, error) {
	rows, err := tx.Query(ctx, `SELECT revision, plan, policy, files FROM channels.applied WHERE channel_id = $1 AND revision = $2`, c.ID, c.Head)
	if err != nil {
		return nil, pg.Classify(err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByName[appliedPlan])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return a, pg.Classify(err)
}

// noteApplied remembers the plan of which the head was made, in the transaction that made it.
func (s *Service) noteApplied(ctx context.Context, tx pgx.Tx, c *channelRow, a appliedPlan) error {
	tag, err := tx.Exec(ctx, `
		INSERT INTO channels.applied AS a (channel_id, revision, plan, policy, files) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (channel_id) DO UPDATE SET revision = excluded.revision, plan = excluded.plan, policy = excluded.policy, files = excluded.files
			WHERE (a.revision, a.plan, a.policy, a.files) IS DISTINCT FROM (excluded.revision, excluded.plan, excluded.policy, excluded.files)`,
		c.ID, c.Head, a.Plan, a.Policy, a.Files)
	if err != nil || tag.RowsAffected() == 0 {
		return pg.Classify(err)
	}
	st, err := s.blobs.Stat(ctx, a.Plan)
	if err != nil {
		return err
	}
	if _, err := refs.RemoveOwner(ctx, tx, planOwner(c.ID)); err != nil {
		return err
	}
	return refs.Add(ctx, tx, refs.Ref{Digest: a.Plan, Size: st.Size, Owner: planOwner(c.ID)})
}

// stageChanges stages what a plan says otherwise than the one that the head was made of. It returns false, and has staged
// nothing, if the two cannot be compared.
func (s *Service) stageChanges(ctx context.Context, st *staging, digest blob.Digest, policy channelsv1.RemovalPolicy, uploader string) (bool, error) {
	if st.whole {
		return false, nil
	}
	base, err := applied(ctx, st.tx, st.channel)
	if err != nil || base == nil || base.Policy != int16(policy) {
		return false, err
	}
	if base.Plan == digest {
		r, err := plan.Open(ctx, s.blobs, digest, s.cfg.Plan)
		if err != nil {
			return false, err
		}
		defer r.Close()
		st.same = base.Files
		return true, st.speaksOf(r.Header())
	}
	c, err := plan.Compare(ctx, s.blobs, base.Plan, digest, s.cfg.Plan)
	if err != nil {
		return false, err
	}
	defer c.Close()
	if err := st.speaksOf(c.Header()); err != nil {
		return false, err
	}
	var gone []string
	err = st.plan(ctx, func() (plannedFile, bool, error) {
		for {
			e, path, err := c.Next()
			switch {
			case err == io.EOF:
				return plannedFile{}, false, nil
			case err != nil:
				return plannedFile{}, false, err
			case e != nil:
				f, err := planned(e, uploader)
				return f, err == nil, err
			}
			gone = append(gone, path)
		}
	})
	if err != nil {
		return false, err
	}
	st.same = c.Same()
	if err := st.diff(ctx); err != nil {
		return false, err
	}
	if policy != channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE {
		return true, nil
	}
	before, now := speaksOf(c.Base(), c.BaseDirs()), speaksOf(c.Header(), c.Dirs())
	for subdir := range now {
		if !before[subdir] { // it may have files of plans before the former one
			return false, errWhole
		}
	}
	gone = slices.DeleteFunc(gone, func(path string) bool {
		subdir, _, _ := strings.Cut(path, "/")
		return !now[subdir]
	})
	for paths := range slices.Chunk(gone, digestPage) {
		if err := st.remove(ctx, `f.path = ANY($2)`, paths); err != nil {
			return false, err
		}
	}
	return true, nil
}

// speaksOf returns the subdirs that a plan speaks of.
func speaksOf(h *channelsv1.PlanHeader, dirs []string) map[string]bool {
	out := make(map[string]bool)
	for _, sub := range h.GetSubdirs() {
		out[sub.GetSubdir()] = true
	}
	for _, dir := range dirs {
		out[dir] = true
	}
	return out
}

// errWhole says that a plan has to be compared as a whole.
var errWhole = errors.New("the plans cannot be compared")

// againWhole calls fn a second time, for all of a plan, if it does not compare with the former one or that could not be
// read: it was lost, or its bytes have rotted. Whatever fn had done is rolled back by then.
func (s *Service) againWhole(ctx context.Context, channel string, fn func(whole bool) error) error {
	err := fn(false)
	if errors.Is(err, errWhole) {
		return fn(true)
	}
	var base *plan.BaseError
	if !errors.As(err, &base) || fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
		return err
	}
	s.log.WarnContext(ctx, "the plan applied last cannot be read: all of the new one is compared", "channel", channel, "error", base.Err)
	return fn(true)
}
