// Package storage is the service that keeps blobs: it hands out the grants that open the data plane, says what is
// stored, and serves the data plane itself. The stores are pkg/blob, references to blobs pkg/refs.
package storage

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

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
	// Grants sign what CreateGrant gives.
	Grants *grant.Signer
	// MaxUpload bounds one upload, in bytes.
	MaxUpload int64
}

// Service implements storagev1.StorageServiceServer.
type Service struct {
	storagev1.UnimplementedStorageServiceServer
	deps Deps
}

var _ storagev1.StorageServiceServer = (*Service)(nil)

// New returns the service.
func New(deps Deps) *Service { return &Service{deps: deps} }

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
	return usage(ctx, s.deps.DB)
}
