package platform

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/access"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/channels"
	"github.com/entrepot-dev/entrepot/services/identity"
	"github.com/entrepot-dev/entrepot/services/storage"
	"github.com/entrepot-dev/entrepot/services/sync"
)

// modules is what runs in this process and what needs what.
func (p *Platform) modules() []lifecycle.Module {
	// The operations port comes first and goes last: it tells what the others are doing.
	all := []lifecycle.Module{
		p.opsModule(),
		p.databaseModule(),
		p.metricsModule(),
		p.busModule(),
		p.servicesModule(),
	}
	if p.cfg.stores() {
		all = append(all, p.blobsModule())
	}
	runs := []string{"services"}
	if p.cfg.Runs("storage") || p.cfg.Runs("sync") {
		all = append(all, p.dataModule())
		runs = append(runs, "data")
	}
	if p.cfg.Runs("jobs") {
		all = append(all, p.dispatcherModule())
		runs = append(runs, "dispatcher")
	}
	if p.cfg.Runs("sync-worker") || p.cfg.Runs("channels-worker") || p.cfg.Runs("storage-worker") {
		all = append(all, p.workersModule())
		runs = append(runs, "workers")
	}
	if p.cfg.Runs("gateway") {
		all = append(all, p.gatewayModule())
		runs = append(runs, "gateway")
	}
	return append(all, lifecycle.Module{Name: "ready", Needs: runs, Start: func(context.Context) error {
		if p.opts.OnReady != nil {
			p.opts.OnReady(p.ready)
		}
		return nil
	}})
}

func (p *Platform) databaseModule() lifecycle.Module {
	return lifecycle.Module{
		Name: "postgres", Needs: []string{"ops"}, StopTimeout: 20 * time.Second,
		Start: func(ctx context.Context) (err error) {
			url := p.cfg.DatabaseURL.Reveal()
			if url == "" {
				if p.embedded, err = startPostgres(ctx, p.embeddedConfig(), p.log, func(err error) { p.group.Fail("postgres", err) }); err != nil {
					return err
				}
				url = p.embedded.url
			}
			pool, err := pg.Open(ctx, url, pg.PoolConfig{MaxConns: int32(p.cfg.DatabaseConns), AppName: "entrepot " + p.name(), Tracer: p.cfg.OTLP.Endpoint != ""})
			if err != nil {
				return err
			}
			p.pool = pool
			if err := p.checkSchemas(ctx); err != nil {
				pool.Close()
				if p.embedded != nil {
					err = errors.Join(err, p.embedded.stop(ctx))
				}
				return err
			}
			return nil
		},
		Stop: func(ctx context.Context) error {
			p.pool.Close()
			if p.embedded != nil {
				return p.embedded.stop(ctx)
			}
			return nil
		},
		Check: p.checkDatabase,
	}
}

// checkSchemas brings the database up to date if this process runs everything, and refuses one that it does not work with.
func (p *Platform) checkSchemas(ctx context.Context) error {
	if slices.Contains(p.cfg.Target, All) {
		if err := pg.MigrateAll(ctx, p.pool, Schemas...); err != nil {
			return err
		}
	}
	newer, err := pg.CheckAll(ctx, p.pool, Schemas...)
	for _, st := range newer {
		p.log.Warn("a newer version of entrepot has migrated the database; this one still works with it: upgrade soon",
			"schema", st.Schema, "at", st.Applied, "known", st.Known, "min", st.Min)
	}
	return err
}

func (p *Platform) busModule() lifecycle.Module {
	return lifecycle.Module{
		Name: "nats", Needs: []string{"ops"},
		Start: func(context.Context) error {
			opts := bus.Options{Name: "entrepot " + p.name(), Log: p.log}
			if url := p.cfg.NATSURL.Reveal(); url != "" {
				nc, err := bus.Connect(url, opts)
				if err != nil {
					return err
				}
				p.bus, err = bus.New(nc)
				return err
			}
			server, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: filepath.Join(p.cfg.DataDir, "nats"), Log: p.log})
			if err != nil {
				return err
			}
			p.nats = server
			nc, err := server.Conn(opts)
			if err != nil {
				return err
			}
			p.bus, err = bus.New(nc)
			return err
		},
		Stop: func(context.Context) error {
			p.bus.Close()
			if p.nats != nil {
				p.nats.Stop()
			}
			return nil
		},
		Check: func(ctx context.Context) error { return p.bus.Probe(ctx) },
	}
}

func (p *Platform) blobsModule() lifecycle.Module {
	return lifecycle.Module{
		Name: "blobs", Needs: []string{"ops"},
		Start: func(ctx context.Context) (err error) {
			store, err := blob.Open(ctx, p.cfg.blobURL(), blob.OpenOptions{})
			if err != nil {
				return err
			}
			p.blobs, err = blob.Observe(store, otel.GetMeterProvider())
			return err
		},
		Stop:  func(context.Context) error { return p.blobs.Close() },
		Check: p.checkBlobs,
	}
}

func (p *Platform) dataModule() lifecycle.Module {
	var server *http.Server
	return lifecycle.Module{
		Name: "data", Needs: []string{"services"}, StopTimeout: 20 * time.Second,
		Start: func(ctx context.Context) error {
			l, err := listen(ctx, "data", p.cfg.DataAddr)
			if err != nil {
				return err
			}
			p.ready.DataAddr = l.Addr().String()
			server = &http.Server{Handler: p.bytesHandler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
			p.serve("data", func() error { return server.Serve(l) })
			if p.fetchPlane != nil {
				p.fetchPlane.Start()
			}
			if p.fetchPlane != nil && p.cfg.Runs("gateway") {
				p.memoryPlane = p.startMemoryPlane()
			}
			return nil
		},
		Stop: func(ctx context.Context) error {
			if p.memoryPlane != nil { // its only client has stopped
				_ = p.memoryPlane.server.Close()
			}
			// Readers of files that are being fetched get most of the time that there is; then they are cut, and the rest is for
			// the flights to end.
			gentle := ctx
			if end, ok := ctx.Deadline(); ok {
				var cancel context.CancelFunc
				gentle, cancel = context.WithDeadline(ctx, end.Add(-time.Until(end)/4))
				defer cancel()
			}
			err := server.Shutdown(gentle)
			if err != nil {
				err = server.Close()
			}
			if p.fetchPlane != nil {
				p.fetchPlane.Stop(ctx)
			}
			return err
		},
	}
}

func (p *Platform) dispatcherModule() lifecycle.Module {
	var d *jobs.Dispatcher
	return lifecycle.Module{
		Name: "dispatcher", Needs: []string{"postgres", "nats"},
		Start: func(ctx context.Context) (err error) {
			d, err = jobs.NewDispatcher(jobs.DispatcherConfig{
				Name: p.instance, // whoever held the office under it is dead
				Pool: p.pool, Bus: p.bus, Retention: p.cfg.Jobs.Retention, Replicas: p.cfg.Jobs.StreamReplicas, Logger: p.log,
			})
			if err != nil {
				return err
			}
			return d.Start(ctx)
		},
		Stop: func(ctx context.Context) error { d.Stop(ctx); return nil },
	}
}

// workersModule runs jobs. It stops before the services that its jobs call.
func (p *Platform) workersModule() lifecycle.Module {
	var r *jobs.Runner
	return lifecycle.Module{
		// Besides the drain: what a job may take to return when its time is over, and what giving it back may take.
		Name: "workers", Needs: []string{"services"}, StopTimeout: p.cfg.Jobs.Drain + 15*time.Second,
		Start: func(ctx context.Context) (err error) {
			if err := p.registerMore(); err != nil {
				return err
			}
			kinds := p.registry.Kinds()
			if len(p.cfg.Kinds) > 0 {
				kinds = p.cfg.Kinds
			}
			r, err = jobs.NewRunner(jobs.RunnerConfig{
				Pool: p.pool, Bus: p.bus, Registry: p.registry, Kinds: kinds, LeaseTTL: p.cfg.Jobs.LeaseTTL, Logger: p.log,
				Instance: p.instance, Now: p.opts.Clock,
			})
			if err != nil {
				return err
			}
			return r.Start(ctx)
		},
		Stop: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, p.cfg.Jobs.Drain)
			defer cancel()
			r.Stop(ctx)
			return nil
		},
	}
}

func (p *Platform) gatewayModule() lifecycle.Module {
	var heads *bus.Subscription
	var fetch *fetchplane.Client
	var downloads *access.Counter
	needs := []string{"services"}
	if p.cfg.Runs("sync") {
		needs = append(needs, "data") // the fetch plane
	}
	return lifecycle.Module{
		Name: "gateway", Needs: needs, StopTimeout: 20 * time.Second,
		Start: func(ctx context.Context) (err error) {
			if fetch, err = p.fetchClient(); err != nil {
				return err
			}
			if downloads, err = p.newDownloads(); err != nil {
				return err
			}
			limiter, err := edge.NewLimiter(p.cfg.RateLimit)
			if err != nil {
				return err
			}
			p.gateway, err = gateway.New(ctx, gateway.Deps{
				Limiter: limiter,
				Dial:    p.network.Dial, Data: p.data, Fetch: fetch, Roles: p.roles, Downloads: downloads, CertFile: p.cfg.TLSCert, KeyFile: p.cfg.TLSKey,
				Dev: p.cfg.Dev, PublicURL: p.cfg.PublicURL, TrustedProxies: p.cfg.trustedProxies(), Version: p.opts.Version, Health: p.group.Checks, Ready: p.group.Ready, Database: p.connections(),
			})
			if err != nil {
				return err
			}
			heads, err = p.bus.Subscribe(ctx, channels.SubjectHead, headHandler(p.gateway.Files))
			if err != nil {
				return err
			}
			hl, err := listen(ctx, "http", p.cfg.HTTPAddr)
			if err != nil {
				return err
			}
			gl, err := listen(ctx, "grpc", p.cfg.GRPCAddr)
			if err != nil {
				hl.Close()
				return err
			}
			p.ready.URL, p.ready.GRPCAddr = "http://"+hl.Addr().String(), gl.Addr().String()
			downloads.Start()
			p.serve("gateway", func() error { return p.gateway.ServeHTTP(hl) })
			p.serve("gateway", func() error { return p.gateway.ServeGRPC(gl) })
			return nil
		},
		Stop: func(ctx context.Context) error {
			p.gateway.Stop(ctx)
			downloads.Stop(ctx)
			fetch.Close()
			heads.Stop()
			return nil
		},
		Check: func(ctx context.Context) error { return p.data.Check(ctx) }, // an edge without bytes is none
	}
}

// connections counts those to the database; nil if this process has none.
func (p *Platform) connections() func() (size, used int) {
	if p.pool == nil {
		return nil
	}
	return func() (size, used int) {
		s := p.pool.Stat()
		return int(s.MaxConns()), int(s.AcquiredConns())
	}
}

// registerJobs fills the registry with the kinds that this process's worker pools do.
func (p *Platform) registerJobs() error {
	if p.cfg.Runs("channels-worker") && p.channels != nil {
		p.channels.RegisterJobs(p.registry)
	}
	if p.cfg.Runs("storage-worker") {
		if err := storage.Register(p.registry, p.upkeep()); err != nil {
			return err
		}
	}
	if !p.cfg.Runs("sync-worker") {
		return nil
	}
	remotes, err := p.upstreams()
	if err != nil {
		return err
	}
	conn, err := p.network.Dial("channels")
	if err != nil {
		return err
	}
	sync.Register(p.registry, sync.WorkerDeps{
		Deps:  sync.Deps{Pool: p.pool, Jobs: p.jobs, Channels: channelsv1.NewChannelServiceClient(conn), Master: p.master, Log: p.log},
		Blobs: p.blobs, Remotes: remotes, Roles: p.roles, Config: p.cfg.Sync,
	})
	return p.registerMetricsJobs()
}

// upkeep is what the jobs that look after stored things stand on: each service says what it keeps for a time only.
func (p *Platform) upkeep() storage.WorkerDeps {
	deps := storage.WorkerDeps{Retain: p.retainMetrics(), DB: p.pool, Jobs: p.jobs, Blobs: p.blobs, Upkeep: p.cfg.Upkeep, JobRetention: p.cfg.Jobs.Retention, Log: p.log}
	if keep := p.cfg.Proxy.Keep; keep > 0 {
		deps.Retain = append(deps.Retain,
			storage.Retention{Name: "proxied_files", Purge: func(ctx context.Context, db pg.DB, dryRun bool) (int64, error) {
				return channels.PurgeProxied(ctx, db, keep, dryRun)
			}},
			storage.Retention{Name: "proxied_documents", Purge: func(ctx context.Context, db pg.DB, dryRun bool) (int64, error) {
				return sync.PurgeDocuments(ctx, db, keep, dryRun)
			}})
	}
	if keep := p.cfg.Upkeep.AuditRetention; keep > 0 {
		deps.Retain = append(deps.Retain, storage.Retention{Name: "audit", Purge: func(ctx context.Context, db pg.DB, dryRun bool) (int64, error) {
			return identity.PurgeAudit(ctx, db, keep, dryRun)
		}})
	}
	return deps
}

// dataClient reaches the data plane: in memory if storage runs here, else over HTTP.
func (p *Platform) dataClient() (err error) {
	opts := dataplane.ClientOptions{Local: p.plane, BaseURL: p.cfg.DataURL}
	if p.cfg.HotCache > 0 {
		opts.Hot = blob.NewHot(int64(p.cfg.HotCache), 0)
	}
	if p.plane == nil && p.cfg.DataURL == "" {
		return fmt.Errorf("data_url: the data plane's address is needed, since storage does not run in this process")
	}
	p.data, err = dataplane.NewClient(opts)
	return err
}
