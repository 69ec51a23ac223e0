// Package platform puts the parts together: which module starts when, and what each hands to the others.
//
// The map of what needs what is in modules(), to be read from top to bottom. With the target `all` every part runs in
// this process, over an embedded NATS server, a private PostgreSQL and a directory of blobs; with other targets only
// those, and the rest is reached by address. The code paths are the same: calls go through gRPC either way, in memory if
// the service is here.
package platform

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
	"github.com/entrepot-dev/entrepot/services/channels"
	"github.com/entrepot-dev/entrepot/services/identity"
	jobsservice "github.com/entrepot-dev/entrepot/services/jobs"
	"github.com/entrepot-dev/entrepot/services/metrics"
	"github.com/entrepot-dev/entrepot/services/storage"
	"github.com/entrepot-dev/entrepot/services/sync"
	"github.com/entrepot-dev/entrepot/services/sync/plane"
)

// Schemas are the parts of the database that this binary knows, in the order of their migration.
var Schemas = []pg.Schema{jobs.Schema, refs.Schema, audit.Schema, identity.Schema, channels.Schema, storage.Schema, sync.Schema, metrics.Schema}

// Options are what a configuration cannot say.
type Options struct {
	// Version of the binary.
	Version string
	// PGBin is where PostgreSQL's programs are; empty means they are looked for.
	PGBin string
	// LogOutput is where log lines go; nil means standard error.
	LogOutput io.Writer
	// GCPercent is how much a small heap may grow between collections, see pace; 0 leaves GOGC as it is.
	GCPercent int
	// Jobs registers further kinds of jobs in processes that have a worker pool; nil means there are none. The service
	// roles of the platform stay as they are: what such a job writes through them it writes under its claim.
	Jobs func(reg *jobs.Registry, deps JobDeps) error
	// Clock is this process's wall clock; nil means time.Now.
	Clock func() time.Time
	// OnReady is called once everything runs, with the addresses that were chosen.
	OnReady func(Ready)
}

// Ready says where a platform that runs is reached.
type Ready struct {
	// URL of the REST edge; empty without the target gateway.
	URL string
	// GRPCAddr, ServiceAddr, DataAddr and OpsAddr are `host:port`; empty for what does not run here.
	GRPCAddr, ServiceAddr, DataAddr, OpsAddr string
	// AdminKeyFile holds the first administrator's API key; AdminKeyNew is true if this start wrote it.
	AdminKeyFile string
	AdminKeyNew  bool
}

// Platform is one process of the platform.
type Platform struct {
	cfg  Config
	opts Options
	tel  *telemetry.Telemetry
	log  *slog.Logger

	instance string // of the data directory
	group    *lifecycle.Group
	ready    Ready

	embedded *privatePostgres
	pool     *pgxpool.Pool
	nats     *bus.Server
	bus      *bus.Bus
	blobs    blob.Closable

	master   *seal.Key
	network  *rpc.Network
	memory   net.Listener
	verifier *authn.Verifier
	roles    *authz.Roles
	server   *rpc.Server
	plane    *dataplane.Handler
	// fetchPlane is nil unless sync runs here, and memoryPlane its listener for this process's own gateway.
	fetchPlane  *plane.Plane
	memoryPlane *memoryPlane
	data        *dataplane.Client
	fetch       *fetch.Client
	remotes     *sync.Remotes
	registry    *jobs.Registry
	jobs        *jobs.Client
	identity    *identity.Service
	channels    *channels.Service
	storage     *storage.Service

	jobsService *jobsservice.Service
	metrics     *metrics.Service
	gateway     *gateway.Gateway
}

// New checks the configuration and prepares a process; Run runs it.
func New(cfg Config, opts Options) (*Platform, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
	}
	cfg.DataDir = dir
	if cfg.MasterKeyFile == "" {
		cfg.MasterKeyFile = filepath.Join(dir, "master-key")
	}
	return &Platform{cfg: cfg, opts: opts}, nil
}

// Run runs the process until ctx ends, and stops it in order. It returns the first failure.
func (p *Platform) Run(ctx context.Context) (err error) {
	p.tel, err = telemetry.Start(ctx, telemetry.Config{
		Service: p.name(), Version: p.opts.Version, OTLPEndpoint: p.cfg.OTLP.Endpoint,
		LogLevel: p.cfg.Log.Level, LogFormat: p.cfg.Log.Format, LogOutput: p.opts.LogOutput,
	})
	if err != nil {
		return err
	}
	p.log = p.tel.Log
	if p.opts.GCPercent > 0 {
		defer pace(p.opts.GCPercent)()
	}
	slog.SetDefault(p.log)
	defer func() {
		// What is left to send has a moment, also when ctx has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if serr := p.tel.Shutdown(ctx); serr != nil {
			p.log.Warn("telemetry was not delivered", "error", serr)
		}
	}()
	if err := p.makeDataDir(); err != nil {
		return err
	}
	unlock, err := lifecycle.LockDir(p.cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if p.instance, err = instance(p.cfg.DataDir); err != nil {
		return err
	}
	if p.cfg.Dev {
		p.log.Warn("development mode: anyone can log in as anyone, and upstreams on loopback are allowed")
	}
	p.group = lifecycle.New(lifecycle.Options{Log: p.log, DrainDelay: p.cfg.DrainDelay, OnReady: p.setReady})
	p.group.Add(p.modules()...)
	return p.group.Run(ctx)
}

// name is what this process calls itself in traces and toward other parts.
func (p *Platform) name() string {
	if slices.Contains(p.cfg.Target, All) {
		return All
	}
	return p.cfg.Target[0]
}

// makeDataDir makes the data directory such that PostgreSQL's account can pass through it, but not list it.
func (p *Platform) makeDataDir() error {
	if err := os.MkdirAll(p.cfg.DataDir, 0o711); err != nil {
		return fault.New(fault.Precondition, "the data directory %s cannot be made: %w; choose another with --data-dir", p.cfg.DataDir, err)
	}
	info, err := os.Stat(p.cfg.DataDir)
	if err != nil {
		return err
	}
	if want := os.FileMode(0o711); info.Mode().Perm()&0o044 != 0 || info.Mode().Perm()&0o111 != 0o111 {
		if err := os.Chmod(p.cfg.DataDir, want); err != nil {
			return fault.New(fault.Precondition, "the data directory %s must have mode 0711: %w", p.cfg.DataDir, err)
		}
	}
	return nil
}

// egress is what outgoing requests may reach.
func (p *Platform) egress() fetch.Policy {
	policy := fetch.Policy{AllowLoopback: p.cfg.Dev}
	for _, s := range p.cfg.EgressAllow {
		policy.AllowCIDRs = append(policy.AllowCIDRs, netip.MustParsePrefix(s)) // Validate has parsed it
	}
	return policy
}

// listen opens a TCP port, and says which part wanted it if it is taken.
func listen(ctx context.Context, what, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fault.New(fault.Precondition, "%s cannot listen on %s: %w; choose another address with --%s-addr", what, addr, err, what)
	}
	return l, nil
}

// serve runs a server in the background and fails the group if it ends by itself.
func (p *Platform) serve(module string, run func() error) {
	go func() {
		if err := run(); err != nil && !errors.Is(err, net.ErrClosed) {
			p.group.Fail(module, err)
		}
	}()
}

// blobURL returns where blobs are.
func (c Config) blobURL() string {
	if c.BlobURL.IsZero() {
		return filepath.Join(c.DataDir, "blobs")
	}
	return c.BlobURL.Reveal()
}
