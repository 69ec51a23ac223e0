// Package gateway is the edge: one HTTP port with every REST dialect and all bytes, and one gRPC port. It holds nothing
// durable, dials the services wherever they run, and may be run as often as one likes.
//
//	edge/       what the dialects share: authentication, routes, bytes, errors
//	native/     /entrepot/v1, generated from the protos
//	quetz/      the dialect of the Quetz conda server
//	frontdoor/  the gRPC port
package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/gateway/frontdoor"
	"github.com/entrepot-dev/entrepot/gateway/native"
	"github.com/entrepot-dev/entrepot/gateway/quetz"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// Services are the domain services that the front door offers.
var Services = []protoreflect.FullName{
	"entrepot.channels.v1.ChannelService",
	"entrepot.identity.v1.IdentityService",
	"entrepot.identity.v1.LoginService",
	"entrepot.identity.v1.GroupService",
	"entrepot.jobs.v1.JobService",
	"entrepot.metrics.v1.MetricsService",
	"entrepot.storage.v1.StorageService",
	"entrepot.sync.v1.SyncService",
}

// Deps are what the gateway stands on.
type Deps struct {
	// Dial returns the connection to a service by its short name; `gateway` is the edge's own server for dialects.
	Dial func(service string) (*grpc.ClientConn, error)
	// Data reads and writes bytes.
	Data *dataplane.Client
	// Fetch asks the fetch planes for what proxy channels do not have yet.
	Fetch *fetchplane.Client
	// Roles decide who may read private channels' files.
	Roles *authz.Roles
	// Downloads counts what is downloaded; nil counts nothing.
	Downloads edge.DownloadCounter
	// CertFile and KeyFile turn TLS on at the front door.
	CertFile, KeyFile string
	// Dev turns on what must never be on in production: logging in as anyone.
	Dev bool
	// PublicURL is where the edge is reached from outside; empty: what a request came to.
	PublicURL string
	// TrustedProxies are our own reverse proxies, whose X-Forwarded-For says who tries to log in.
	TrustedProxies []netip.Prefix
	// Limiter holds back who asks too often; nil holds back nobody.
	Limiter *edge.Limiter
	// Version of the binary.
	Version string
	// Ready and Health say whether the process can do its work; Health has an error for each part that cannot.
	Ready  func() bool
	Health func(context.Context) map[string]error
	// Database counts this process's connections to the database: how many there may be, and are in use. Nil: it has none.
	Database func() (size, used int)
}

// Gateway is the edge.
type Gateway struct {
	// Files is told of publications.
	Files *edge.Files
	edge  *edge.Edge
	front *frontdoor.Server
	http  *http.Server

	caches metric.Registration

	drain     chan struct{}
	drainOnce sync.Once
}

// Register adds the services that the edge itself implements to a gRPC server, for its dialects to dial.
func Register(srv grpc.ServiceRegistrar, dial func(string) (*grpc.ClientConn, error)) error {
	channels, err := dial("channels")
	if err != nil {
		return err
	}
	syncs, err := dial("sync")
	if err != nil {
		return err
	}
	jobs, err := dial("jobs")
	if err != nil {
		return err
	}
	metrics, err := dial("metrics")
	if err != nil {
		return err
	}
	quetzv1.RegisterQuetzServiceServer(srv, &quetz.Service{
		Channels: channelsv1.NewChannelServiceClient(channels), Sync: syncv1.NewSyncServiceClient(syncs), Jobs: jobsv1.NewJobServiceClient(jobs),
		Metrics: metricsv1.NewMetricsServiceClient(metrics),
	})
	return nil
}

// New builds the gateway.
func New(ctx context.Context, deps Deps) (*Gateway, error) {
	conns := map[string]*grpc.ClientConn{}
	for _, name := range []string{"channels", "sync", "jobs", "identity", "storage", "metrics", "gateway"} {
		conn, err := deps.Dial(name)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", name, err)
		}
		conns[name] = conn
	}
	identity := identityv1.NewIdentityServiceClient(conns["identity"])
	storage := storagev1.NewStorageServiceClient(conns["storage"])
	channels := channelsv1.NewChannelServiceClient(conns["channels"])
	auth := edge.NewAuthenticator(identity)
	auth.Site = edge.Site{PublicURL: deps.PublicURL, TrustedProxies: deps.TrustedProxies}
	logins := &edge.Logins{Login: identityv1.NewLoginServiceClient(conns["identity"]), Identity: identity, Auth: auth}
	files := edge.NewFiles(edge.FilesDeps{Channels: channels, Storage: storage, Data: deps.Data, Fetch: deps.Fetch, Roles: deps.Roles, Downloads: deps.Downloads})
	uploads := edge.NewUploads(storage, deps.Data)

	nativeAPI, err := native.New(ctx, native.Deps{Dial: deps.Dial, Logins: logins, Uploads: uploads, Files: files, Version: deps.Version})
	if err != nil {
		return nil, fmt.Errorf("native API: %w", err)
	}
	quetzAPI, err := quetz.New(ctx, quetz.Deps{
		Channels: channels, Sync: syncv1.NewSyncServiceClient(conns["sync"]), Jobs: jobsv1.NewJobServiceClient(conns["jobs"]),
		Metrics: metricsv1.NewMetricsServiceClient(conns["metrics"]), Identity: identity, Self: conns["gateway"], Files: files, Uploads: uploads, Logins: logins, Dev: deps.Dev, PublicURL: deps.PublicURL,
		Ready: newReadiness(deps).ask, Database: deps.Database,
	})
	if err != nil {
		return nil, fmt.Errorf("dialect of Quetz: %w", err)
	}
	whole, err := native.Describe(deps.Version, quetzAPI)
	if err != nil {
		return nil, err
	}
	for i, r := range nativeAPI.Routes {
		if r.Pattern == "/openapi.json" {
			nativeAPI.Routes[i].Handler = whole
		}
	}
	e, err := edge.New(auth, nativeAPI, quetzAPI)
	if err != nil {
		return nil, err
	}
	e.Limit(deps.Limiter)
	e.Remembers(files)
	front, err := frontdoor.New(frontdoor.Deps{Dial: deps.Dial, Services: Services, Auth: auth, Limiter: deps.Limiter, Wrote: files.ForgetCards, CertFile: deps.CertFile, KeyFile: deps.KeyFile})
	if err != nil {
		return nil, err
	}
	caches, err := edge.ObserveCaches(otel.GetMeterProvider(), files, auth)
	if err != nil {
		return nil, err
	}
	drain := make(chan struct{})
	quiet := new(silent)
	g := &Gateway{Files: files, edge: e, front: front, caches: caches, drain: drain, http: &http.Server{
		Handler:     e,
		BaseContext: func(net.Listener) context.Context { return edge.WithDrain(context.Background(), drain) },
		// Bodies and answers may take hours; headers may not, and idle connections cost memory.
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ConnState: quiet.track,
	}}
	g.http.RegisterOnShutdown(quiet.close)
	return g, nil
}

// Handler is the edge's HTTP handler.
func (g *Gateway) Handler() http.Handler { return g.edge }

// Routes lists every REST route by dialect.
func (g *Gateway) Routes() []*edge.Dialect { return g.edge.Routes() }

// ServeHTTP answers REST on l until Stop.
func (g *Gateway) ServeHTTP(l net.Listener) error {
	if err := g.http.Serve(l); err != nil && err != http.ErrServerClosed {
		return err
	}
	return nil
}

// ServeGRPC answers gRPC on l until Stop.
func (g *Gateway) ServeGRPC(l net.Listener) error { return g.front.Serve(l) }

// SetReady sets what the front door's health says.
func (g *Gateway) SetReady(ready bool) { g.front.SetReady(ready) }

// Stop lets requests end until ctx does, then cuts them.
func (g *Gateway) Stop(ctx context.Context) {
	g.drainOnce.Do(func() {
		close(g.drain)
		_ = g.caches.Unregister() // the provider may have shut down before
	})
	done := make(chan struct{})
	go func() { g.front.Stop(ctx); close(done) }()
	if err := g.http.Shutdown(ctx); err != nil {
		_ = g.http.Close()
	}
	<-done
}
