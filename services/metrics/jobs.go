package metrics

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

// The kinds of jobs that this service owns.
const (
	// KindPull asks registered mirrors for their counts.
	KindPull = "metrics.pull"
	// KindForget drops the counts of a deleted channel.
	KindForget = "metrics.forget"
)

// Action is what the dialect calls a pull.
const Action = "synchronize_metrics"

// scheduleName is the name of a channel's repetition of pulls. Channels sets one when a mirror is registered, and ends it
// with the channel.
func scheduleName(channelID string) string { return "action/" + channelID + "/" + Action }

// pullJob is the request for a pull.
func pullJob(channelID, channel, namespace string, as authn.Caller) (jobs.EnqueueParams, error) {
	principal, err := as.Marshal()
	if err != nil {
		return jobs.EnqueueParams{}, err
	}
	return jobs.EnqueueParams{
		Kind: KindPull, Namespace: namespace, Resource: "channel/" + channel, CoalesceKey: channelID, Coalesce: jobs.Join,
		Principal: jobs.Principal{Name: as.Actor(), Data: principal},
		Locks:     []jobs.Lock{{Resource: "metrics/" + channelID, Exclusive: true}},
		Args:      &metricsv1.PullJobArgs{ChannelId: channelID, Channel: channel, Action: Action},
	}, nil
}

// Roles decides whether whoever asked for a job may still do so.
type Roles interface {
	Allow(ctx context.Context, c authn.Caller, permission authz.Permission, res authz.Resource) error
}

// WorkerDeps are what the jobs stand on.
type WorkerDeps struct {
	Pool     *pgxpool.Pool
	Channels channelsv1.ChannelServiceClient
	Roles    Roles
	// HTTP asks mirrors. It obeys the egress policy and follows no redirects.
	HTTP *http.Client
	// PublicURL is where this server is reached from outside: mirrors there are not asked over the network.
	PublicURL string
	Log       *slog.Logger
	// Meter counts; nil means the global one.
	Meter metric.MeterProvider
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

type worker struct {
	WorkerDeps
	store   store
	metrics *instruments
}

// RegisterJobs adds the kinds to a worker pool.
func RegisterJobs(reg *jobs.Registry, deps WorkerDeps) error {
	m, err := newInstruments(deps.Meter)
	if err != nil {
		return err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	w := &worker{WorkerDeps: deps, store: store{deps.Pool}, metrics: m}
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindPull, Timeout: time.Hour, MaxFailures: 4, Coalesce: jobs.Join, Concurrency: 2,
		Backoff: jobs.Backoff{Initial: 10 * time.Second, Max: 10 * time.Minute},
	}, jobs.WorkFunc[*metricsv1.PullJobArgs](w.pull))
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindForget, Timeout: time.Hour, MaxFailures: 20, Coalesce: jobs.None, Concurrency: 1,
		Backoff: jobs.Backoff{Initial: 10 * time.Second, Max: time.Hour},
	}, jobs.WorkFunc[*metricsv1.ForgetJobArgs](w.forget))
	return nil
}

func (w *worker) forget(ctx context.Context, job *jobs.Job[*metricsv1.ForgetJobArgs]) (any, error) {
	id, err := uuid.Parse(job.Args.GetChannelId())
	if err != nil {
		return nil, jobs.Discard(fault.Field("channel_id", "not a UUID"))
	}
	// Without a look at the claim: a channel that is gone does not come back.
	return nil, forget(ctx, w.Pool, id)
}
