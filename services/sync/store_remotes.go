package sync

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// remote returns the version of a channel's settings, and the settings themselves unless known is their version. Without
// settings the version is 0.
func (s store) remote(ctx context.Context, channel uuid.UUID, known int64) (version int64, sealed []byte, err error) {
	err = s.pool.QueryRow(ctx, `SELECT version, CASE WHEN version <> $2 THEN sealed END FROM sync.remotes WHERE channel_id = $1`, channel, known).
		Scan(&version, &sealed)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil, nil
	}
	return version, sealed, pg.Classify(err)
}

type remoteRow struct {
	Sealed    []byte
	UpdatedAt time.Time
}

// lockRemote returns a channel's settings, nil if there are none; nobody else changes them before tx ends.
func (s store) lockRemote(ctx context.Context, tx pgx.Tx, channel uuid.UUID) (*remoteRow, error) {
	// A row that is not there cannot be locked, and two first settings must not overwrite each other's fields.
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('sync.remotes/' || $1, 0))`, channel.String()); err != nil {
		return nil, pg.Classify(err)
	}
	return s.remoteRow(ctx, tx, channel)
}

func (s store) remoteRow(ctx context.Context, db pg.DB, channel uuid.UUID) (*remoteRow, error) {
	var row remoteRow
	err := db.QueryRow(ctx, `SELECT sealed, updated_at FROM sync.remotes WHERE channel_id = $1`, channel).Scan(&row.Sealed, &row.UpdatedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return &row, pg.Classify(err)
}

// putRemote keeps a channel's settings under a new version. reserved names a channel that is about to be made.
func (s store) putRemote(ctx context.Context, db pg.DB, channel uuid.UUID, sealed []byte, reserved string) (at time.Time, err error) {
	err = db.QueryRow(ctx, `
		INSERT INTO sync.remotes (channel_id, sealed, reserved_at, reserved_as)
		VALUES ($1, $2, CASE WHEN $3 <> '' THEN now() END, $3)
		ON CONFLICT (channel_id) DO UPDATE SET sealed = excluded.sealed, version = nextval('sync.remote_versions'), updated_at = now(),
			reserved_at = excluded.reserved_at, reserved_as = excluded.reserved_as
		RETURNING updated_at`, channel, sealed, reserved).Scan(&at)
	return at, pg.Classify(err)
}

func (s store) deleteRemote(ctx context.Context, db pg.DB, channel uuid.UUID) error {
	_, err := db.Exec(ctx, `DELETE FROM sync.remotes WHERE channel_id = $1`, channel)
	return pg.Classify(err)
}

type reservation struct {
	ChannelID uuid.UUID
	Name      string
}

// reservations returns some rows whose channel was about to be made longer ago than age.
func (s store) reservations(ctx context.Context, age time.Duration, limit int) ([]reservation, error) {
	rows, err := s.pool.Query(ctx, `SELECT channel_id, reserved_as FROM sync.remotes WHERE reserved_at < now() - $1::interval ORDER BY reserved_at LIMIT $2`, age, limit)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[reservation])
	return out, pg.Classify(err)
}

// confirm notes that a channel was made.
func (s store) confirm(ctx context.Context, channel uuid.UUID) error {
	_, err := s.pool.Exec(ctx, `UPDATE sync.remotes SET reserved_at = NULL, reserved_as = '' WHERE channel_id = $1`, channel)
	return pg.Classify(err)
}
