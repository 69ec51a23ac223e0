package metrics

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

// pullRow is a row of metrics.pulls.
type pullRow struct {
	ID          int64
	MirrorID    uuid.UUID
	Endpoint    string
	PulledUntil *time.Time
	Total       int64
	AskedAt     *time.Time
	Error       string
}

func (p *pullRow) toProto() *metricsv1.Pull {
	return &metricsv1.Pull{
		MirrorId: p.MirrorID.String(), MetricsEndpoint: p.Endpoint, PulledUntil: stamp(p.PulledUntil), Total: p.Total, PullTime: stamp(p.AskedAt), Error: p.Error,
	}
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

const pullColumns = `id, mirror_id, endpoint, pulled_until, total, asked_at, error`

func (s store) pulls(ctx context.Context, channel uuid.UUID) ([]*pullRow, error) {
	rows, err := s.db.Query(ctx, `SELECT `+pullColumns+` FROM metrics.pulls WHERE channel_id = $1 ORDER BY id`, channel)
	if err != nil {
		return nil, fmt.Errorf("list pulls: %w", pg.Classify(err))
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[pullRow])
	return all, pg.Classify(err)
}

// pull returns the row of a mirror, which it makes if there is none.
func (s store) pull(ctx context.Context, channel, mirror uuid.UUID, endpoint string) (*pullRow, error) {
	rows, err := s.db.Query(ctx, `
		INSERT INTO metrics.pulls (channel_id, mirror_id, endpoint) VALUES ($1, $2, $3)
		ON CONFLICT (channel_id, mirror_id) DO UPDATE SET endpoint = excluded.endpoint RETURNING `+pullColumns, channel, mirror, endpoint)
	if err != nil {
		return nil, fmt.Errorf("begin pull: %w", pg.Classify(err))
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[pullRow])
	return p, pg.Classify(err)
}

// pullFailed notes why a mirror told nothing.
func (s store) pullFailed(ctx context.Context, id int64, why string) error {
	_, err := s.db.Exec(ctx, `UPDATE metrics.pulls SET asked_at = now(), error = $2 WHERE id = $1`, id, why)
	return pg.Classify(err)
}

// advance moves a pull's cursor; it fails if somebody else has moved or removed it since.
func (s store) advance(ctx context.Context, p *pullRow, until time.Time, downloads int64) error {
	tag, err := s.db.Exec(ctx, `
		UPDATE metrics.pulls SET pulled_until = $2, total = total + $3, asked_at = now(), error = ''
		WHERE id = $1 AND pulled_until IS NOT DISTINCT FROM $4`, p.ID, until, downloads, p.PulledUntil)
	if err == nil && tag.RowsAffected() == 0 {
		err = fault.New(fault.LostRace, "another pull was faster, or this one was taken back")
	}
	return pg.Classify(err)
}

// isGone reports whether the channel was deleted.
func (s store) isGone(ctx context.Context, channel uuid.UUID) (gone bool, err error) {
	err = s.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM metrics.gone WHERE channel_id = $1)`, channel).Scan(&gone)
	return gone, pg.Classify(err)
}

// known returns those of the paths that have been counted before.
func (s store) known(ctx context.Context, channel uuid.UUID, paths []string) (map[string]bool, error) {
	rows, err := s.db.Query(ctx, `SELECT path FROM metrics.items WHERE channel_id = $1 AND path = ANY ($2)`, channel, paths)
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := map[string]bool{}
	var path string
	_, err = pgx.ForEachRow(rows, []any{&path}, func() error {
		out[path] = true
		return nil
	})
	return out, pg.Classify(err)
}

// takeBack removes a pull with all that it has brought, and returns how much that was.
func takeBack(ctx context.Context, tx pgx.Tx, channel, mirror uuid.UUID) (total int64, found bool, err error) {
	var id int64
	err = tx.QueryRow(ctx, `DELETE FROM metrics.pulls WHERE channel_id = $1 AND mirror_id = $2 RETURNING id, total`, channel, mirror).Scan(&id, &total)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	// Items first and in order, as by those who add.
	if _, err := tx.Exec(ctx, `
		SELECT FROM metrics.items WHERE id IN (SELECT item_id FROM metrics.series WHERE source = $1) ORDER BY channel_id, path FOR UPDATE`, id); err != nil {
		return 0, false, err
	}
	_, err = tx.Exec(ctx, `
		WITH points AS (DELETE FROM metrics.series WHERE source = $1 RETURNING item_id, n)
		UPDATE metrics.items i SET total = i.total - p.n FROM (SELECT item_id, sum(n) AS n FROM points GROUP BY 1) p WHERE i.id = p.item_id`, id)
	return total, true, err
}
