package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// A process that is frozen inside a transaction keeps its row locks, and whoever waits for these waits with it. So the
// server ends a transaction that is left alone. How soon depends on what it holds.
const (
	// idleLocked is how long a transaction may be left alone by default: it may hold locks.
	idleLocked = 10 * time.Second
	// idleFree is the same for one that has said that it holds none: it may build a large document between two statements.
	idleFree = time.Minute
)

// WithoutLocks tells the server that a transaction holds no locks for now, so that it may be left alone for long. What
// takes locks later calls TakingLocks first.
func WithoutLocks(ctx context.Context, tx pgx.Tx) error { return setIdle(ctx, tx, idleFree) }

// TakingLocks takes WithoutLocks back.
func TakingLocks(ctx context.Context, tx pgx.Tx) error { return setIdle(ctx, tx, idleLocked) }

func setIdle(ctx context.Context, tx pgx.Tx, d time.Duration) error {
	_, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL idle_in_transaction_session_timeout = %d", d.Milliseconds()))
	return Classify(err)
}
