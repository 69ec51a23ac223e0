package plane

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	// pollFirst and pollMost are how often one who waits for a lease looks whether there is news.
	pollFirst = 20 * time.Millisecond
	pollMost  = 300 * time.Millisecond
)

// leases settle between processes who asks an upstream. All times are the database's, so clocks do not matter. A lease is
// a courtesy and not a lock: what is fetched is stored by its digest, so two holders would waste a request, no more.
type leases struct {
	pool *pgxpool.Pool
	ttl  time.Duration
}

// with calls work under the lease, unless done says that there is nothing to do any more. done is asked when the lease
// is there and while somebody else has it.
func (l leases) with(ctx context.Context, channel uuid.UUID, name string, done func(context.Context) (bool, error), work func(context.Context) error) error {
	owner := uuid.New()
	for wait := pollFirst; ; wait = min(2*wait, pollMost) {
		got, err := l.acquire(ctx, channel, name, owner)
		if err != nil {
			return err
		}
		if got {
			break
		}
		if over, err := done(ctx); over || err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	stop := l.keep(ctx, channel, name, owner)
	defer stop()
	if over, err := done(ctx); over || err != nil {
		return err
	}
	return work(ctx)
}

func (l leases) acquire(ctx context.Context, channel uuid.UUID, name string, owner uuid.UUID) (bool, error) {
	tag, err := l.pool.Exec(ctx, `
		INSERT INTO sync.proxy_leases AS l (channel_id, name, owner, expires_at) VALUES ($1, $2, $3, clock_timestamp() + make_interval(secs => $4))
		ON CONFLICT (channel_id, name) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
		WHERE l.expires_at < clock_timestamp() OR l.owner = excluded.owner`, channel, name, owner, l.ttl.Seconds())
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, pg.Classify(err))
	}
	return tag.RowsAffected() == 1, nil
}

// keep renews the lease until stop is called, which gives it back and waits.
func (l leases) keep(ctx context.Context, channel uuid.UUID, name string, owner uuid.UUID) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(l.ttl / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				// A failure is not told: the next tick tries again, and a lease that is lost harms nobody.
				// One that hangs must not hinder that.
				ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
				_, _ = l.pool.Exec(ctx, `UPDATE sync.proxy_leases SET expires_at = clock_timestamp() + make_interval(secs => $4)
					WHERE channel_id = $1 AND name = $2 AND owner = $3`, channel, name, owner, l.ttl.Seconds())
				cancel()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		// Also when the work was cancelled; should it fail, the lease expires.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		_, _ = l.pool.Exec(ctx, `DELETE FROM sync.proxy_leases WHERE channel_id = $1 AND name = $2 AND owner = $3`, channel, name, owner)
	}
}

// sweep drops leases of holders that vanished.
func (l leases) sweep(ctx context.Context) error {
	_, err := l.pool.Exec(ctx, `DELETE FROM sync.proxy_leases WHERE expires_at < clock_timestamp() - interval '1 minute'`)
	return pg.Classify(err)
}
