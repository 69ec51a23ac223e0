package platform

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// stores reports whether the process reads or writes blobs itself. The others reach them through the data plane, or not
// at all, and stay ready when the store is away.
func (c Config) stores() bool {
	for _, t := range []string{"channels", "sync", "storage", "sync-worker", "channels-worker", "storage-worker"} {
		if c.Runs(t) {
			return true
		}
	}
	return false
}

// checkDatabase asks over a connection of the pool and over a new one. Those of the pool go on working when the server
// takes no more connections, for a while; and a pool that is used up says nothing about the server.
func (p *Platform) checkDatabase(ctx context.Context) error {
	conn, err := pgx.ConnectConfig(ctx, p.pool.Config().ConnConfig)
	var refused *pgconn.PgError
	switch {
	case err == nil:
		defer func() {
			// A farewell of one message. It must not wait for a server that stands still since a moment ago.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 100*time.Millisecond)
			defer cancel()
			_ = conn.Close(ctx)
		}()
	case errors.As(err, &refused) && refused.Code == "53300": // too many connections: it is busy, not away
	default:
		return fault.New(fault.Unavailable, "PostgreSQL does not answer: %w", err)
	}
	return p.pool.Ping(ctx)
}

// checkBlobs asks for a blob that nobody has: a store that can say so can be reached.
func (p *Platform) checkBlobs(ctx context.Context) error {
	if _, err := p.blobs.Stat(ctx, blob.Digest{}); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// setReady tells the health services of gRPC, whose watchers are load balancers, before anything is stopped.
func (p *Platform) setReady(ready bool) {
	if p.server != nil {
		p.server.SetServing(ready)
	}
	if p.gateway != nil {
		p.gateway.SetReady(ready)
	}
}
