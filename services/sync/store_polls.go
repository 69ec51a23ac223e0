package sync

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// pollRow is a row of sync.polls; without one its times are nil.
type pollRow struct {
	PolledAt, ChangedAt, RetriedAt *time.Time
	Retried                        []byte // digests of the reasons of the last sync that a poll started
	Retries                        int    // syncs that were started for none but these
	Error                          string
	Now                            time.Time // by the database's clock, as the other times are
}

func (s store) pollOf(ctx context.Context, channel uuid.UUID) (p pollRow, err error) {
	err = s.pool.QueryRow(ctx, `SELECT polled_at, changed_at, retried_at, retried, retries, error, now() FROM sync.polls WHERE channel_id = $1`, channel).
		Scan(&p.PolledAt, &p.ChangedAt, &p.RetriedAt, &p.Retried, &p.Retries, &p.Error, &p.Now)
	if errors.Is(err, pgx.ErrNoRows) {
		return pollRow{}, nil
	}
	return p, pg.Classify(err)
}

// polled notes that an upstream was asked and whether it has changed, and if reasons are given that a sync is started.
func (s store) polled(ctx context.Context, tx pgx.Tx, channel uuid.UUID, changed bool, reasons []byte) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO sync.polls AS p (channel_id, polled_at, changed_at, retried_at, retried, retries)
		VALUES ($1, now(), CASE WHEN $2 THEN now() END, CASE WHEN $3::bytea IS NOT NULL THEN now() END, $3, CASE WHEN $3 IS NULL THEN 0 ELSE 1 END)
		ON CONFLICT (channel_id) DO UPDATE SET polled_at = now(), changed_at = coalesce(excluded.changed_at, p.changed_at),
			retried_at = coalesce(excluded.retried_at, p.retried_at), retried = coalesce(excluded.retried, p.retried),
			retries = CASE WHEN excluded.retried IS NULL THEN p.retries WHEN excluded.retried = p.retried THEN p.retries + 1 ELSE 1 END,
			error = '', failed_at = NULL`, channel, changed, reasons)
	return pg.Classify(err)
}

// pollFailed notes that an upstream could not be asked.
func (s store) pollFailed(ctx context.Context, tx pgx.Tx, channel uuid.UUID, why string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO sync.polls AS p (channel_id, polled_at, error, failed_at) VALUES ($1, now(), $2, now())
		ON CONFLICT (channel_id) DO UPDATE SET polled_at = now(), error = excluded.error, failed_at = coalesce(p.failed_at, now())`, channel, why)
	return pg.Classify(err)
}
