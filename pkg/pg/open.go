package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// openTimeout is how long Open waits for a server if its context has no deadline.
const openTimeout = 30 * time.Second

// DB is what a query needs: a pool or a transaction. Stores take it, so that their methods work in both.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	// Begin starts a transaction, in a transaction a savepoint.
	Begin(ctx context.Context) (pgx.Tx, error)
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

var (
	_ DB = (*pgxpool.Pool)(nil)
	_ DB = pgx.Tx(nil)
)

// PoolConfig says what a pool is like. What the connection string says itself (pool_max_conns, application_name) is
// overridden by the fields that are set.
type PoolConfig struct {
	// MaxConns bounds the connections; 0 leaves it to pgx: 4, or the number of CPUs if that is greater.
	MaxConns int32
	// AppName is shown in pg_stat_activity, such as "entrepot channels".
	AppName string
	// Tracer records an OpenTelemetry span per query.
	Tracer bool
}

// Open opens a pool and waits until the server answers: until ctx's deadline, or 30 s if it has none. A server that is
// absent, starting or full is waited for; a wrong password or database is an error at once.
// Sessions run in UTC, end when they idle inside a transaction for a minute, and statements are prepared once per connection and cached.
func Open(ctx context.Context, url string, cfg PoolConfig) (*pgxpool.Pool, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, badURL(err)
	}
	if cfg.MaxConns > 0 {
		pc.MaxConns = cfg.MaxConns
	}
	if cfg.AppName != "" {
		pc.ConnConfig.RuntimeParams["application_name"] = cfg.AppName
	}
	if cfg.Tracer {
		pc.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithDisableConnectionDetailsInAttributes())
	}
	if _, ok := pc.ConnConfig.RuntimeParams["timezone"]; !ok {
		pc.ConnConfig.RuntimeParams["timezone"] = "UTC"
	}
	if _, ok := pc.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"]; !ok {
		pc.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = strconv.FormatInt(idleLocked.Milliseconds(), 10)
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, openTimeout)
		defer cancel()
	}
	if err := waitPing(ctx, pool); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open database: %w", err)
	}
	return pool, nil
}

func waitPing(ctx context.Context, pool *pgxpool.Pool) error {
	for wait := startPoll; ; wait = min(2*wait, time.Second) {
		conn, err := pool.Acquire(ctx)
		if err == nil {
			defer conn.Release()
			return checkVersion(conn.Conn())
		}
		if !retryConnect(err) {
			return Classify(err)
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "the database does not answer: %w", err)
		case <-time.After(wait):
		}
	}
}

// badURL is what is wrong with a connection string. The message of pgx repeats all of it but the password, and takes the
// password for one only where it expects it.
func badURL(err error) error {
	if why := errors.Unwrap(err); why != nil {
		return fault.New(fault.Invalid, "the database URL cannot be used: %w", why)
	}
	return fault.New(fault.Invalid, "the database URL cannot be read as one")
}
