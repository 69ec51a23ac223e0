// Package storage is the service that keeps blobs: it hands out the grants that open the data plane, says what is
// stored, serves the data plane itself, and looks after what lies there. The stores are pkg/blob, references to blobs
// pkg/refs.
//
// # Upkeep
//
// Two kinds of jobs run by themselves, and when somebody asks:
//
//	storage.gc     hourly   adopts what lies in the store and the database does not know, marks what nothing refers to,
//	                        deletes what was marked for the grace period and still has no reference, and removes rows
//	                        whose retention is over
//	storage.scrub  weekly   reads every blob and compares it with its digest; rotten bytes are taken out of service, and
//	                        blobs that something refers to and that are not there are reported
//
// Uploads that were never published, plans, diffs and the like are put by parts that tell nobody. Garbage collection
// finds them by listing the store. It may run beside anything: refs.Sweep and refs.Add lock each other out, and who comes
// late to refer to a blob is told so and puts it again.
package storage

import (
	"context"
	"embed"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the PostgreSQL schema of this service. Only this package writes to it.
var Schema = pg.Schema{Name: "storage", FS: migrations}

const (
	// Audience names the data planes of one installation, which share a grant key.
	Audience = "data"
	// readFor is how long a grant to read lives: the longest time between an edge's question and its client's last range.
	readFor = 10 * time.Minute
	// uploadFor is how long a grant to upload lives; it is checked when the upload begins.
	uploadFor = time.Minute
)

// Deps are what the service stands on.
type Deps struct {
	DB pg.DB
	// Jobs queues upkeep.
	Jobs *jobs.Client
	// Grants sign what CreateGrant gives.
	Grants *grant.Signer
	// MaxUpload bounds one upload, in bytes.
	MaxUpload int64
	// Upkeep says when upkeep runs by itself.
	Upkeep Upkeep
	// Meter counts open findings; nil means the global one.
	Meter metric.MeterProvider
}

// Service implements storagev1.StorageServiceServer.
type Service struct {
	storagev1.UnimplementedStorageServiceServer
	deps     Deps
	store    store
	observed metric.Registration
}

var _ storagev1.StorageServiceServer = (*Service)(nil)

// New returns the service.
func New(deps Deps) *Service { return &Service{deps: deps, store: store{deps.DB}} }

// Start sets the schedules of upkeep and begins to report findings.
func (s *Service) Start(ctx context.Context) (err error) {
	if err := s.schedule(ctx); err != nil {
		return err
	}
	s.observed, err = observeFindings(s.deps.Meter, s.store)
	return err
}

// Stop ends what Start began. It may be called twice, and without Start.
func (s *Service) Stop() {
	if s.observed != nil {
		_ = s.observed.Unregister() // the provider may have shut down before
		s.observed = nil
	}
}

// CreateGrant gives leave to read one blob or to upload one. Only parts of the platform ask, after they have decided.
func (s *Service) CreateGrant(_ context.Context, req *storagev1.CreateGrantRequest) (*storagev1.CreateGrantResponse, error) {
	g := grant.Grant{Audience: Audience}
	switch len(req.GetSha256()) {
	case 0:
		g.Methods, g.Expires, g.MaxSize = grant.Write, time.Now().Add(uploadFor), s.deps.MaxUpload
		if n := req.GetMaxSize(); n > 0 && (g.MaxSize == 0 || n < g.MaxSize) {
			g.MaxSize = n
		}
	case len(blob.Digest{}):
		g.Digest, g.Methods, g.Expires = blob.Digest(req.GetSha256()), grant.Read, time.Now().Add(readFor)
	default:
		return nil, fault.Field("sha256", "a SHA-256 has 32 bytes, not %d", len(req.GetSha256()))
	}
	token, err := s.deps.Grants.Sign(g)
	if err != nil {
		return nil, err
	}
	return &storagev1.CreateGrantResponse{Grant: token, ExpireTime: timestamppb.New(g.Expires)}, nil
}

// GetUsage says what is stored.
func (s *Service) GetUsage(ctx context.Context, _ *storagev1.GetUsageRequest) (*storagev1.GetUsageResponse, error) {
	return s.store.usage(ctx)
}
