package channels

import (
	"context"
	"errors"
	"math/bits"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// A namespace may have a limit on what its channels hold together, in logical bytes as theirs: what two channels share counts
// twice. The limit's row knows the sum, which the database keeps (migration 11), and is locked by whoever publishes more, so
// that publications in different channels of the namespace wait for each other, but only where there is a limit. Who
// publishes has the channel's lock already, and nobody takes the two the other way round.

// checkTenant refuses growth beyond the namespace's limit. The channel's row is locked, and not yet written.
func checkTenant(ctx context.Context, tx pgx.Tx, ch *channelRow, growth int64) error {
	if growth <= 0 {
		return nil
	}
	var limit, used int64
	err := tx.QueryRow(ctx, `SELECT size_limit, used FROM channels.namespace_limits WHERE namespace = $1 FOR UPDATE`, ch.Namespace).Scan(&limit, &used)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return pg.Classify(err)
	}
	if used+growth > limit {
		return overTenant(ch.Namespace)
	}
	return nil
}

// overTenant does not say the limit: whoever may upload to one channel is told nothing about the namespace's others.
func overTenant(namespace string) error {
	return fault.New(fault.Exhausted, "namespace %s is above its quota", namespace).WithReason(reasonQuota)
}

// tenantLeft returns how much may still come into a namespace, and its limit; -1 and -1 without one. It only looks: what
// comes meanwhile is counted when it is published.
func tenantLeft(ctx context.Context, db pg.DB, namespace string) (left, limit int64, err error) {
	err = db.QueryRow(ctx, `SELECT size_limit, greatest(size_limit - used, 0) FROM channels.namespace_limits WHERE namespace = $1`, namespace).Scan(&limit, &left)
	if errors.Is(err, pgx.ErrNoRows) {
		return -1, -1, nil
	}
	return left, limit, pg.Classify(err)
}

// roughly is what one who uploads is told of the room in a namespace: enough to stop what cannot fit, and not how much the
// channels hold that are none of their business. It is the next power of two, from a gibibyte on.
func roughly(left int64) int64 {
	const least, most = int64(1) << 30, int64(1) << 62
	if left > most {
		return left
	}
	return max(least, int64(1)<<bits.Len64(uint64(max(left, 1)-1)))
}

// ListNamespaceUsage says what the channels of each namespace hold and may hold: of those namespaces that have a channel or
// a limit.
func (s *Service) ListNamespaceUsage(ctx context.Context, _ *channelsv1.ListNamespaceUsageRequest) (*channelsv1.ListNamespaceUsageResponse, error) {
	usages, err := namespaceUsage(ctx, s.pool, "")
	if err != nil {
		return nil, err
	}
	return &channelsv1.ListNamespaceUsageResponse{Usages: usages}, nil
}

// SetNamespaceLimit sets or takes away a namespace's limit. What is there stays.
func (s *Service) SetNamespaceLimit(ctx context.Context, req *channelsv1.SetNamespaceLimitRequest) (*channelsv1.NamespaceUsage, error) {
	ns, err := names.ParseNamespace(req.GetNamespace())
	if err != nil {
		return nil, err
	}
	if err := s.checkNamespace(ctx, ns.String()); err != nil {
		return nil, err
	}
	if err := checkSizeLimit(req.GetSizeLimit()); err != nil {
		return nil, err
	}
	var out []*channelsv1.NamespaceUsage
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			details := map[string]any{"size_limit": nil}
			if req.SizeLimit == nil {
				_, err = tx.Exec(ctx, `DELETE FROM channels.namespace_limits WHERE namespace = $1`, ns.String())
			} else {
				details["size_limit"] = req.GetSizeLimit()
				err = putTenant(ctx, tx, ns.String(), req.GetSizeLimit())
			}
			if err != nil {
				return err
			}
			if err := audit.Record(ctx, tx, audit.Event{Action: "namespace.limit", Resource: "namespace/" + ns.String(), Details: details}); err != nil {
				return err
			}
			out, err = namespaceUsage(ctx, tx, ns.String())
			return err
		})
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	if len(out) == 0 {
		return &channelsv1.NamespaceUsage{Namespace: ns.String()}, nil
	}
	return out[0], nil
}

// putTenant sets a limit. Where there was none the sum is made, and nobody may write a channel until the row is there: the
// trigger of one who began before does not see it.
func putTenant(ctx context.Context, tx pgx.Tx, namespace string, limit int64) error {
	tag, err := tx.Exec(ctx, `UPDATE channels.namespace_limits SET size_limit = $2 WHERE namespace = $1`, namespace, limit)
	if err != nil || tag.RowsAffected() > 0 {
		return err
	}
	if _, err := tx.Exec(ctx, `LOCK TABLE channels.channels IN SHARE MODE`); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO channels.namespace_limits (namespace, size_limit, used)
		SELECT $1, $2, coalesce(sum(size), 0) FROM channels.channels WHERE namespace = $1
		ON CONFLICT (namespace) DO UPDATE SET size_limit = excluded.size_limit`, namespace, limit)
	return err
}

func namespaceUsage(ctx context.Context, db pg.DB, only string) (out []*channelsv1.NamespaceUsage, err error) {
	rows, err := db.Query(ctx, `
		SELECT namespace, l.size_limit, coalesce(c.size, 0)::bigint, coalesce(c.channels, 0)
		FROM channels.namespace_limits l FULL JOIN (SELECT namespace, sum(size) AS size, count(*) AS channels FROM channels.channels GROUP BY namespace) c USING (namespace)
		WHERE $1 IN ('', namespace) ORDER BY namespace`, only)
	if err != nil {
		return nil, pg.Classify(err)
	}
	var u channelsv1.NamespaceUsage
	_, err = pgx.ForEachRow(rows, []any{&u.Namespace, &u.SizeLimit, &u.Size, &u.ChannelCount}, func() error {
		one := &channelsv1.NamespaceUsage{Namespace: u.Namespace, Size: u.Size, ChannelCount: u.ChannelCount}
		if u.SizeLimit != nil {
			one.SizeLimit = new(*u.SizeLimit)
		}
		out = append(out, one)
		return nil
	})
	return out, pg.Classify(err)
}
