package platform

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
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
		p.busModule(),
		p.blobsModule(),
		p.servicesModule(),
	}
	runs := []string{"services"}
	if p.cfg.Runs("storage") {
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
			if slices.Contains(p.cfg.Target, All) {
				return pg.MigrateAll(ctx, pool, Schemas...)
			}
			return pg.CheckAll(ctx, pool, Schemas...)
		},
		Stop: func(ctx context.Context) error {
			p.pool.Close()
			if p.embedded != nil {
				return p.embedded.stop(ctx)
			}
			return nil
		},
		Check: func(ctx context.Context) error { return p.pool.Ping(ctx) },
	}
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
	var store blob.Closable
	return lifecycle.Module{
		Name: "blobs", Needs: []string{"ops"},
		Start: func(ctx context.Context) (err error) {
			if store, err = blob.Open(ctx, p.cfg.blobURL(), blob.OpenOptions{}); err != nil {
				return err
			}
			p.blobs = store
			return nil
		},
		Stop: func(context.Context) error { return store.Close() },
		Check: func(ctx context.Context) error {
			// No blob has this digest; a store that can say so can be reached.
			if _, err := store.Stat(ctx, blob.Digest{}); err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			return nil
		},
	}
}

func (p *Platform) dataModule() lifecycle.Module {
	var server *http.Server
	return lifecycle.Module{
		Name: "data", Needs: []string{"services"},
		Start: func(ctx context.Context) error {
			l, err := listen(ctx, "data", p.cfg.DataAddr)
			if err != nil {
				return err
			}
			p.ready.DataAddr = l.Addr().String()
			server = &http.Server{Handler: p.plane, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
			p.serve("data", func() error { return server.Serve(l) })
			return nil
		},
		Stop: func(ctx context.Context) error {
			if err := server.Shutdown(ctx); err != nil {
				return server.Close()
			}
			return nil
		},
	}
}

func (p *Platform) dispatcherModule() lifecycle.Module {
	var d *jobs.Dispatcher
	return lifecycle.Module{
		Name: "dispatcher", Needs: []string{"postgres", "nats"},
		Start: func(ctx context.Context) (err error) {
			d, err = jobs.NewDispatcher(jobs.DispatcherConfig{
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
		Name: "workers", Needs: []string{"services", "blobs"}, StopTimeout: 30 * time.Second,
		Start: func(ctx context.Context) (err error) {
			kinds := p.registry.Kinds()
			if len(p.cfg.Kinds) > 0 {
				kinds = p.cfg.Kinds
			}
			r, err = jobs.NewRunner(jobs.RunnerConfig{
				Pool: p.pool, Bus: p.bus, Registry: p.registry, Kinds: kinds, LeaseTTL: p.cfg.Jobs.LeaseTTL, Logger: p.log,
			})
			if err != nil {
				return err
			}
			return r.Start(ctx)
		},
		Stop: func(ctx context.Context) error { r.Stop(ctx); return nil },
	}
}

func (p *Platform) gatewayModule() lifecycle.Module {
	var heads *bus.Subscription
	return lifecycle.Module{
		Name: "gateway", Needs: []string{"services"}, StopTimeout: 20 * time.Second,
		Start: func(ctx context.Context) (err error) {
			p.gateway, err = gateway.New(ctx, gateway.Deps{
				Dial: p.network.Dial, Data: p.data, Roles: p.roles, CertFile: p.cfg.TLSCert, KeyFile: p.cfg.TLSKey,
				Dev: p.cfg.Dev, Version: p.opts.Version, Health: p.group.Checks, Ready: p.group.Ready,
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
			p.serve("gateway", func() error { return p.gateway.ServeHTTP(hl) })
			p.serve("gateway", func() error { return p.gateway.ServeGRPC(gl) })
			return nil
		},
		Stop: func(ctx context.Context) error {
			p.gateway.Stop(ctx)
			heads.Stop()
			return nil
		},
	}
}

// registerJobs fills the registry with the kinds that this process's worker pools do.
func (p *Platform) registerJobs() error {
	p.registry = jobs.NewRegistry()
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
	var err error
	if p.fetch, err = fetch.New(fetch.Config{Egress: p.egress(), PerHost: p.cfg.Sync.Downloads, UserAgent: "entrepot/" + p.opts.Version, Log: p.log}); err != nil {
		return err
	}
	conn, err := p.network.Dial("channels")
	if err != nil {
		return err
	}
	sync.Register(p.registry, sync.WorkerDeps{
		Deps:  sync.Deps{Pool: p.pool, Jobs: p.jobs, Channels: channelsv1.NewChannelServiceClient(conn), Log: p.log},
		Blobs: p.blobs, Fetch: p.fetch, Roles: p.roles, Config: p.cfg.Sync,
	})
	return nil
}

// upkeep is what the jobs that look after stored things stand on: each service says what it keeps for a time only.
func (p *Platform) upkeep() storage.WorkerDeps {
	deps := storage.WorkerDeps{DB: p.pool, Jobs: p.jobs, Blobs: p.blobs, Upkeep: p.cfg.Upkeep, JobRetention: p.cfg.Jobs.Retention, Log: p.log}
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
