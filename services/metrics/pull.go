package metrics

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

const (
	// settle is how long after an hour's end its last downloads may come in: gateways send each second, and metrics adds
	// at once.
	settle = 5 * time.Second
	// atOnce is how many mirrors are asked at the same time.
	atOnce = 4
	// addMost bounds one statement.
	addMost = 10_000
)

// pull is the worker of KindPull. A mirror that fails is named in the result and does not stop the others; only if all
// fail the job does, and is tried again.
func (w *worker) pull(ctx context.Context, job *jobs.Job[*metricsv1.PullJobArgs]) (any, error) {
	caller, err := authn.Unmarshal(job.Principal.Data)
	if err != nil {
		return nil, jobs.Discard(fmt.Errorf("the job's principal cannot be read: %w", err))
	}
	caller.JobID, caller.Claim = job.ID.String(), job.Claim
	ctx = authn.NewContext(ctx, caller)
	ch, err := w.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: job.Args.GetChannel()})
	if fault.Is(err, fault.NotFound) || (err == nil && ch.GetId() != job.Args.GetChannelId()) {
		return nil, jobs.Cancel(fault.New(fault.NotFound, "the channel was deleted"))
	}
	if err == nil {
		// Whoever asked may have lost the right since.
		err = w.Roles.Allow(ctx, caller, authz.ChannelSync, resourceOf(ch))
	}
	if fault.Is(err, fault.Denied) || fault.Is(err, fault.Unauthenticated) {
		return nil, jobs.Discard(err)
	}
	if err != nil {
		return nil, err
	}
	mirrors, err := w.Channels.ListMirrors(ctx, &channelsv1.ListMirrorsRequest{Channel: ch.GetName()})
	if err != nil {
		return nil, err
	}
	out := &metricsv1.PullJobResult{Mirrors: make([]*metricsv1.PulledMirror, len(mirrors.GetMirrors()))}
	until := w.Now().Add(-settle).UTC().Truncate(time.Hour)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, m := range mirrors.GetMirrors() {
		g.Go(func() error {
			r := &metricsv1.PulledMirror{Url: m.GetUrl()}
			out.Mirrors[i] = r
			err := w.pullFrom(ctx, job, ch, m, until, r)
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case fault.Is(err, fault.Upstream):
				r.Error = err.Error()
				job.Logf("%s: %v", m.GetUrl(), err)
				return nil
			}
			return err // our own trouble: the whole job comes again
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	failed := 0
	for _, r := range out.Mirrors {
		if r.Error != "" {
			failed++
		}
	}
	if failed > 0 && failed == len(out.Mirrors) {
		return nil, fault.New(fault.Upstream, "no mirror told its counts; %s: %s", out.Mirrors[0].GetUrl(), out.Mirrors[0].GetError())
	}
	return out, nil
}

func resourceOf(ch *channelsv1.Channel) authz.Resource {
	return authz.Resource{Kind: authz.Channel, ID: ch.GetId(), Name: ch.GetName(), Namespace: ch.GetNamespace(), Public: !ch.GetPrivate()}
}

// pullFrom asks one mirror for the whole hours since it was asked last, and adds them.
func (w *worker) pullFrom(ctx context.Context, job *jobs.Job[*metricsv1.PullJobArgs], ch *channelsv1.Channel, m *channelsv1.RegisteredMirror, until time.Time, r *metricsv1.PulledMirror) error {
	channel, err := uuid.Parse(ch.GetId())
	if err != nil {
		return err
	}
	mirror, err := uuid.Parse(m.GetId())
	if err != nil {
		return err
	}
	row, err := w.store.pull(ctx, channel, mirror, m.GetMetricsEndpoint())
	if err != nil {
		return err
	}
	if row.PulledUntil != nil && !row.PulledUntil.Before(until) {
		return nil
	}
	a := &answer{until: until, refused: &r.Refused}
	if row.PulledUntil != nil {
		a.from = row.PulledUntil.UTC()
	}
	if err := w.ask(ctx, ch, m.GetMetricsEndpoint(), a); err != nil {
		return errors.Join(err, w.store.pullFailed(ctx, row.ID, err.Error()))
	}
	if !a.until.After(a.from) {
		return nil // its clock is behind, and by its own account there is no further whole hour
	}
	counts, err := w.listed(ctx, ch, channel, a)
	if err != nil {
		return err
	}
	var downloads, points int64
	for _, c := range counts {
		downloads, points = downloads+c.n, points+1
	}
	counts = append(counts, perChannel(channel, counts)...)
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, w.Pool, func(tx pgx.Tx) error {
			if err := job.Hold(ctx, tx); err != nil {
				return err
			}
			if gone, err := (store{tx}).isGone(ctx, channel); err != nil || gone {
				return errors.Join(err, fault.New(fault.NotFound, "the channel was deleted"))
			}
			if err := (store{tx}).advance(ctx, row, a.until, downloads); err != nil {
				return err
			}
			for some := range slices.Chunk(counts, addMost) {
				if err := add(ctx, tx, row.ID, some); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	r.Points, r.Downloads = points, downloads
	w.metrics.pulled.Add(ctx, downloads)
	return nil
}

// perChannel sums counts hour by hour.
func perChannel(channel uuid.UUID, counts []count) (out []count) {
	sums := map[time.Time]int64{}
	for _, c := range counts {
		sums[c.at] += c.n
	}
	for at, n := range sums {
		out = append(out, count{channel, "", at, n})
	}
	return out
}

// listed returns what an answer says of files that the channel has, or had when they were counted here.
func (w *worker) listed(ctx context.Context, ch *channelsv1.Channel, channel uuid.UUID, a *answer) ([]count, error) {
	has := map[string]bool{}
	var unknown []string
	for some := range slices.Chunk(a.paths, maxNames) {
		known, err := w.store.known(ctx, channel, some)
		if err != nil {
			return nil, err
		}
		for _, p := range some {
			if has[p] = known[p]; !known[p] {
				unknown = append(unknown, p)
			}
		}
	}
	found := make([]bool, len(unknown))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, p := range unknown {
		g.Go(func() error {
			got, err := w.Channels.Resolve(gctx, &channelsv1.ResolveRequest{Channel: ch.GetName(), Path: p})
			found[i] = err == nil && got.GetFound() && !got.GetIndex()
			if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
				err = nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, p := range unknown {
		has[p] = found[i]
	}
	var out []count
	type hourOf struct {
		path string
		at   int64
	}
	seen := make(map[hourOf]bool, len(a.counts))
	for _, c := range a.counts {
		key := hourOf{c.path, c.at.Unix()}
		if !has[c.path] || seen[key] { // an hour has one count
			*a.refused++
			continue
		}
		seen[key], c.channel = true, channel
		out = append(out, c)
	}
	return out, nil
}
