package platform

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/channels"
	"github.com/entrepot-dev/entrepot/services/identity"
	jobsservice "github.com/entrepot-dev/entrepot/services/jobs"
	"github.com/entrepot-dev/entrepot/services/storage"
	"github.com/entrepot-dev/entrepot/services/sync"
)

// grpcServices are the targets that are gRPC services, and so can be dialled.
var grpcServices = []string{"channels", "sync", "identity", "storage", "jobs", "metrics", "gateway"}

// servicesModule runs the gRPC services of this process on one server, in memory and on the service port, and makes all
// that calls between services need: tokens, roles, connections.
func (p *Platform) servicesModule() lifecycle.Module {
	var nudges *bus.Subscription
	needs := []string{"postgres", "nats"}
	if p.cfg.stores() {
		needs = append(needs, "blobs")
	}
	return lifecycle.Module{
		Name: "services", Needs: needs, StopTimeout: 20 * time.Second,
		Start: func(ctx context.Context) (err error) {
			l, err := listen(ctx, "service", p.cfg.ServiceAddr)
			if err != nil {
				return err
			}
			p.ready.ServiceAddr = l.Addr().String()
			defer func() {
				if err != nil {
					l.Close()
				}
			}()
			if err := p.startIdentityCore(ctx); err != nil {
				return err
			}
			if nudges, err = p.bus.Subscribe(ctx, authz.SubjectChanged, func(context.Context, *nats.Msg) { p.roles.Wake() }); err != nil {
				return err
			}
			p.registry = jobs.NewRegistry() // filled below; the client asks it what a kind's coalescing key means
			p.jobs = jobs.NewClient(jobs.ClientConfig{Pool: p.pool, Bus: p.bus, Registry: p.registry, Logger: p.log})
			if err := p.registerServices(ctx); err != nil {
				return err
			}
			if err := p.registerJobs(); err != nil {
				return err
			}
			if err := p.dataClient(); err != nil && p.cfg.Runs("gateway") {
				return err
			}
			if err := p.server.Check(); err != nil {
				return err
			}
			if err := p.serveServices(l); err != nil {
				return err
			}
			if p.identity != nil {
				if err := p.bootstrap(ctx); err != nil {
					return err
				}
				p.identity.Start(ctx)
			}
			if p.metrics != nil {
				p.metrics.Start()
			}
			p.roles.Start(ctx)
			if err := p.awaitRoles(ctx); err != nil {
				return err
			}
			return p.devChannels(ctx)
		},
		Stop: func(ctx context.Context) error {
			if p.jobsService != nil {
				p.jobsService.Drain()
			}
			p.server.Stop(ctx)
			nudges.Stop()
			if p.metrics != nil {
				p.metrics.Stop(ctx)
			}
			if p.channels != nil {
				p.channels.Stop()
			}
			p.roles.Stop()
			if p.storage != nil {
				p.storage.Stop()
			}
			var err error
			if p.identity != nil {
				err = p.identity.Stop(ctx)
			}
			if p.fetch != nil {
				p.remotes.Close()
				p.fetch.Close()
			}
			if cerr := p.network.Close(); err == nil {
				err = cerr
			}
			return err
		},
		Check: func(context.Context) error { return p.roles.Ready() },
	}
}

// local lists the services that run in this process.
func (p *Platform) local() []string {
	var out []string
	for _, s := range grpcServices {
		if p.cfg.Runs(s) {
			out = append(out, s)
		}
	}
	return out
}

// startIdentityCore makes what every call between services rests on.
func (p *Platform) startIdentityCore(ctx context.Context) error {
	name := p.name()
	if p.cfg.Runs("identity") || p.cfg.Runs("storage") {
		master, err := seal.LoadOrCreate(p.cfg.MasterKeyFile)
		if err != nil {
			return err
		}
		p.master = master
	} else if err := p.sharedMasterKey(); err != nil {
		return err
	}
	secret := p.cfg.TargetSecret.Reveal()
	if secret == "" && p.master != nil {
		secret = identity.TargetSecret(p.master, name)
	}
	addresses := maps.Clone(p.cfg.Services)
	if p.cfg.DialTCP {
		if addresses == nil {
			addresses = map[string]string{}
		}
		for _, s := range p.local() {
			addresses[s] = p.ready.ServiceAddr
		}
	}
	p.network = rpc.NewNetwork(rpc.NetworkConfig{Target: name, Secret: secret, Addresses: addresses})
	if !p.cfg.DialTCP {
		p.memory = p.network.Local(p.local()...) // before anything is dialled
	}

	serverConfig := rpc.ServerConfig{Log: p.log}
	if p.cfg.Runs("identity") {
		p.roles = authz.NewRoles(identity.NewSource(p.pool), p.log, nil)
		conf := identity.Config{TargetSecrets: map[string]string{}, Login: p.cfg.Login}
		if s := p.cfg.TargetSecret.Reveal(); s != "" {
			for _, t := range identity.Targets {
				conf.TargetSecrets[t] = s
			}
		}
		conn, err := p.network.Dial("channels")
		if err != nil {
			return err
		}
		if _, err := p.upstreams(); err != nil { // for its client
			return err
		}
		svc, err := identity.New(ctx, conf, identity.Deps{
			Outgoing: p.fetch.RoundTripper(),
			Pool:     p.pool, Roles: p.roles, Master: p.master, Bus: p.bus, Log: p.log,
			Channels: identity.RemoteChannels(channelsv1.NewChannelServiceClient(conn)), Jobs: identity.HeldJobs(p.pool),
		})
		if err != nil {
			return err
		}
		p.identity = svc
		p.verifier = authn.NewVerifier(svc.KeySource(), p.opts.Clock)
		serverConfig.TargetVerifier = svc.TargetVerifier()
	} else {
		conn, err := p.network.Dial("identity")
		if err != nil {
			return err
		}
		client := identityv1.NewIdentityServiceClient(conn)
		p.roles = authz.NewRoles(authz.RemoteSource(client), p.log, nil)
		p.verifier = authn.NewVerifier(authn.RemoteKeys(client), p.opts.Clock)
	}
	serverConfig.Verifier, serverConfig.Roles = p.verifier, p.roles
	p.server = rpc.NewServer(serverConfig)
	return nil
}

// registerServices adds the services of this process to its server.
func (p *Platform) registerServices(ctx context.Context) error {
	dial := p.network.Dial
	if p.identity != nil {
		p.identity.Register(p.server)
	}
	if p.cfg.Runs("channels") || p.cfg.Runs("channels-worker") {
		conn, err := dial("identity")
		if err != nil {
			return err
		}
		var upstreams syncv1.SyncServiceClient
		if conn, err := dial("sync"); err == nil { // without its address, URLs of new mirrors must not bring credentials
			upstreams = syncv1.NewSyncServiceClient(conn)
		}
		remotes, err := p.upstreams()
		if err != nil {
			return err
		}
		p.channels, err = channels.New(channels.Config{
			PublicURL: p.cfg.PublicURL, PackageStore: p.cfg.PackageStore, DefaultQuota: int64(p.cfg.ChannelQuota),
		}, channels.Deps{
			HTTP: p.strangers(), Sources: remotes, Seal: p.master,
			Upstreams: upstreams, Pool: p.pool, Blobs: p.blobs, Jobs: p.jobs, Bus: p.bus, Identity: identityv1.NewIdentityServiceClient(conn), Roles: p.roles, Logger: p.log, Now: p.opts.Clock,
		})
		if err != nil {
			return err
		}
	}
	if p.cfg.Runs("channels") {
		p.channels.Register(p.server)
	} else {
		p.server.HandleResource(optionsv1.Resource_RESOURCE_CHANNEL, p.findChannel)
	}
	if p.cfg.Runs("sync") {
		conn, err := dial("channels")
		if err != nil {
			return err
		}
		syncv1.RegisterSyncServiceServer(p.server, sync.New(sync.Deps{Pool: p.pool, Jobs: p.jobs, Channels: channelsv1.NewChannelServiceClient(conn), Master: p.master, Log: p.log}))
		if err := p.newFetchPlane(); err != nil {
			return err
		}
	}
	if p.cfg.Runs("jobs") {
		p.jobsService = jobsservice.New(jobsservice.Deps{DB: p.pool, Jobs: p.jobs, Roles: p.roles, Channel: p.channelAndAge})
		jobsv1.RegisterJobServiceServer(p.server, p.jobsService)
	}
	if p.cfg.Runs("metrics") {
		if err := p.registerMetrics(); err != nil {
			return err
		}
	}
	if p.cfg.Runs("storage") {
		if err := p.registerStorage(ctx); err != nil {
			return err
		}
	}
	if p.cfg.Runs("gateway") {
		return gateway.Register(p.server, dial)
	}
	return nil
}

func (p *Platform) registerStorage(ctx context.Context) error {
	key := grant.Key{ID: "1", Secret: p.master.Derive("grants")}
	signer, err := grant.NewSigner(key, nil)
	if err != nil {
		return err
	}
	verifier, err := grant.NewVerifier(storage.Audience, nil, key)
	if err != nil {
		return err
	}
	if p.plane, err = dataplane.New(dataplane.Options{Store: p.blobs, Verifier: verifier, Ready: p.checkBlobs, MaxUpload: int64(p.cfg.MaxUpload), Log: p.log}); err != nil {
		return err
	}
	p.storage = storage.New(storage.Deps{DB: p.pool, Jobs: p.jobs, Grants: signer, MaxUpload: int64(p.cfg.MaxUpload), Upkeep: p.cfg.Upkeep})
	storagev1.RegisterStorageServiceServer(p.server, p.storage)
	return p.storage.Start(ctx)
}

// bootstrap makes the first users and the first administrator's key.
func (p *Platform) bootstrap(ctx context.Context) error {
	p.ready.AdminKeyFile = p.cfg.AdminKeyFile
	if p.ready.AdminKeyFile == "" {
		p.ready.AdminKeyFile = filepath.Join(p.cfg.DataDir, "admin-key")
	}
	made, err := p.identity.Bootstrap(ctx, identity.BootstrapConfig{AdminKeyFile: p.ready.AdminKeyFile, Dev: p.cfg.Dev})
	if err != nil {
		return err
	}
	p.ready.AdminKeyNew = made
	return nil
}

// devChannels makes the channels that the dialect's own development set-up has: public ones of alice's.
func (p *Platform) devChannels(ctx context.Context) error {
	if !p.cfg.Dev || !p.ready.AdminKeyNew || !p.cfg.Runs("channels") {
		return nil
	}
	conn, err := p.network.Dial("identity")
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.ready.AdminKeyFile)
	if err != nil {
		return err
	}
	alice, err := identityv1.NewIdentityServiceClient(conn).Authenticate(authn.WithSelf(ctx), &identityv1.AuthenticateRequest{ApiKey: strings.TrimSpace(string(key))})
	if err != nil {
		return fmt.Errorf("development users: %w", err)
	}
	if conn, err = p.network.Dial("channels"); err != nil {
		return err
	}
	ctx = authn.NewContext(ctx, authn.FromProto(alice.GetPrincipal()))
	for i := range 3 {
		public := false
		_, err := channelsv1.NewChannelServiceClient(conn).CreateChannel(ctx, &channelsv1.CreateChannelRequest{
			Name: fmt.Sprintf("channel%d", i), Description: fmt.Sprintf("Description of channel%d", i), Private: &public,
		})
		if err != nil && !fault.Is(err, fault.Conflict) {
			return fmt.Errorf("development channels: %w", err)
		}
	}
	return nil
}

// awaitRoles waits for the first role snapshot: without one nothing private can be decided.
func (p *Platform) awaitRoles(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := p.roles.Await(ctx, 0); err != nil {
		return fmt.Errorf("no role snapshot: %w", err)
	}
	return nil
}

// findChannel resolves a channel for services that do not run beside the channels service.
func (p *Platform) findChannel(ctx context.Context, name string) (authz.Resource, error) {
	res, _, err := p.channelAndAge(ctx, name)
	return res, err
}

// channelAndAge resolves a channel, and says when it was made.
func (p *Platform) channelAndAge(ctx context.Context, name string) (authz.Resource, time.Time, error) {
	conn, err := p.network.Dial("channels")
	if err != nil {
		return authz.Resource{}, time.Time{}, err
	}
	ch, err := channelsv1.NewChannelServiceClient(conn).GetChannel(authn.WithSelf(ctx), &channelsv1.GetChannelRequest{Channel: name})
	if err != nil {
		return authz.Resource{}, time.Time{}, err
	}
	return authz.Resource{
		Kind: authz.Channel, ID: ch.GetId(), Name: ch.GetName(), Namespace: ch.GetNamespace(), Public: !ch.GetPrivate(),
	}, ch.GetCreateTime().AsTime(), nil
}

// headHandler tells the edge's cache about publications.
func headHandler(files *edge.Files) func(context.Context, *nats.Msg) {
	return func(_ context.Context, msg *nats.Msg) { files.HeadChanged(msg.Data) }
}
