package channels

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// What channels asks of metrics is asked by jobs, in the transaction that gives the reason. The kinds, their arguments and
// the schedule's name are metrics' own.
const (
	kindPullCounts   = "metrics.pull"
	kindForgetCounts = "metrics.forget"
	actionPullCounts = "synchronize_metrics"
	// pullCountsEvery is the pause between pulls unless somebody sets another one. Each channel has its own
	// minute after the hour.
	pullCountsEvery = time.Hour
)

func pullCountsSchedule(c *channelRow) string {
	return "action/" + c.ID.String() + "/" + actionPullCounts
}

// pullsCounts reports whether the counts of a channel's mirrors are pulled already, or cannot be.
func (s *Service) pullsCounts(ctx context.Context, c *channelRow) (bool, error) {
	if c.kind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED { // only those have the action
		return true, nil
	}
	all, err := s.jobs.ListSchedules(ctx, c.Namespace)
	return slices.ContainsFunc(all, func(sc jobs.Schedule) bool { return sc.Name == pullCountsSchedule(c) }), err
}

// pullCounts has the counts of a channel's mirrors pulled from now on.
func (s *Service) pullCounts(ctx context.Context, tx pgx.Tx, c *channelRow) error {
	as := authn.Service("metrics")
	principal, err := as.Marshal()
	if err != nil {
		return err
	}
	minute := time.Duration(c.ID[15]%50+2) * time.Minute // not all channels at once
	_, err = s.jobs.UpsertSchedule(ctx, tx, jobs.Schedule{
		Namespace: c.Namespace, Name: pullCountsSchedule(c), RepeatEvery: pullCountsEvery,
		StartAt: s.now().UTC().Truncate(time.Hour).Add(time.Hour + minute),
		Job: jobs.EnqueueParams{
			Kind: kindPullCounts, Namespace: c.Namespace, Resource: resourceName(c), CoalesceKey: c.ID.String(), Coalesce: jobs.Join,
			Principal: jobs.Principal{Name: as.Actor(), Data: principal},
			Locks:     []jobs.Lock{{Resource: "metrics/" + c.ID.String(), Exclusive: true}},
			Args:      &metricsv1.PullJobArgs{ChannelId: c.ID.String(), Channel: c.Name, Action: actionPullCounts},
		},
	})
	return err
}

// forgetCounts has the counts of a deleted channel dropped, and ends the pulls.
func (s *Service) forgetCounts(ctx context.Context, tx pgx.Tx, c *channelRow) error {
	if err := s.jobs.DeleteSchedule(ctx, tx, c.Namespace, pullCountsSchedule(c)); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	as := authn.Service("metrics")
	principal, err := as.Marshal()
	if err != nil {
		return err
	}
	_, err = s.jobs.Enqueue(ctx, tx, jobs.EnqueueParams{
		Kind: kindForgetCounts, Namespace: c.Namespace, Resource: "channel/" + c.ID.String(), Priority: jobs.Low, Coalesce: jobs.None,
		Principal: jobs.Principal{Name: as.Actor(), Data: principal},
		Locks:     []jobs.Lock{{Resource: "metrics/" + c.ID.String(), Exclusive: true}},
		Args:      &metricsv1.ForgetJobArgs{ChannelId: c.ID.String()},
	})
	return err
}
