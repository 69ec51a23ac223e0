package pg

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// listenPing is how long a listener trusts a silent connection; a peer that vanished says nothing.
	listenPing    = 30 * time.Second
	listenBackoff = 5 * time.Second
)

// Listen calls handle for every notification on the channel, one at a time, until ctx ends; it returns the cause.
// It holds one connection of its own, made from the pool's configuration, and reconnects by itself with a growing pause.
//
// After each connect, the first included, handle is called once with an empty payload: notifications of the time
// between were lost, so look at the tables. NOTIFY is a nudge, never the truth; pair it with a slow poll.
func Listen(ctx context.Context, pool *pgxpool.Pool, channel string, handle func(ctx context.Context, payload string)) error {
	cfg := pool.Config().ConnConfig
	// A listener's connection is idle for ever; a span for each wait would never end.
	cfg.Tracer = nil
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, listenBackoff) {
		began := time.Now()
		err := listenOnce(ctx, cfg, channel, handle)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil && time.Since(began) > listenBackoff {
			pause = 50 * time.Millisecond // it had worked
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

func listenOnce(ctx context.Context, cfg *pgx.ConnConfig, channel string, handle func(context.Context, string)) error {
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // a farewell to the server, also after ctx
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	handle(ctx, "")
	for {
		n, err := wait(ctx, conn)
		if err != nil {
			return err
		}
		if n != nil {
			handle(ctx, n.Payload)
		}
	}
}

// wait returns the next notification, or nil if the connection was silent for a while but is alive.
func wait(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, listenPing)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err == nil {
		return n, nil
	}
	if ctx.Err() != nil || !errors.Is(quiet.Err(), context.DeadlineExceeded) {
		return nil, err
	}
	ping, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return nil, conn.Ping(ping)
}
