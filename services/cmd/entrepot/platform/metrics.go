package platform

import (
	"context"

	"github.com/entrepot-dev/entrepot/pkg/access"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/metrics"
	"github.com/entrepot-dev/entrepot/services/storage"
)

// registerMetrics adds the service that counts downloads.
func (p *Platform) registerMetrics() error {
	conn, err := p.network.Dial("channels")
	if err != nil {
		return err
	}
	p.metrics, err = metrics.New(metrics.Deps{
		Pool: p.pool, Jobs: p.jobs, Channels: channelsv1.NewChannelServiceClient(conn), Bus: p.bus, Replicas: p.cfg.Jobs.StreamReplicas, Log: p.log, Now: p.opts.Clock,
	})
	if err != nil {
		return err
	}
	p.metrics.Register(p.server)
	return nil
}

// registerMetricsJobs adds the jobs of metrics to the pool of sync, which is the one that asks other servers.
func (p *Platform) registerMetricsJobs() error {
	conn, err := p.network.Dial("channels")
	if err != nil {
		return err
	}
	return metrics.RegisterJobs(p.registry, metrics.WorkerDeps{
		Pool: p.pool, Channels: channelsv1.NewChannelServiceClient(conn), Roles: p.roles, HTTP: p.strangers(), PublicURL: p.cfg.PublicURL, Log: p.log, Now: p.opts.Clock,
	})
}

// retainMetrics is what upkeep does for download counts.
func (p *Platform) retainMetrics() []storage.Retention {
	return []storage.Retention{
		{Name: "metrics", Purge: func(ctx context.Context, db pg.DB, dryRun bool) (int64, error) {
			return metrics.Fold(ctx, db, p.cfg.Metrics.Keep, dryRun)
		}},
		{Name: "metrics_batches", Purge: metrics.PurgeSources},
	}
}

// newDownloads returns what counts the downloads of this process's edge.
func (p *Platform) newDownloads() (*access.Counter, error) {
	return access.NewCounter(access.CounterConfig{
		Instance: p.instance, Publisher: access.NewBusPublisher(p.bus, p.cfg.Jobs.StreamReplicas), Log: p.log, Now: p.opts.Clock,
	})
}
