package platform

import (
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/pkg/blob"
)

// JobDeps is what kinds of jobs from outside the platform stand on.
type JobDeps struct {
	Pool  *pgxpool.Pool
	Blobs blob.Store
	// Dial connects to a service, wherever it runs. Calls made under a job's claim carry it.
	Dial func(service string) (*grpc.ClientConn, error)
	Log  *slog.Logger
}

// registerMore adds the kinds that the program brings along itself.
func (p *Platform) registerMore() error {
	if p.opts.Jobs == nil {
		return nil
	}
	return p.opts.Jobs(p.registry, JobDeps{Pool: p.pool, Blobs: p.blobs, Dial: p.network.Dial, Log: p.log})
}
