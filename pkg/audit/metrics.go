package audit

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// ObserveOutbox reports what waits to be moved into the log. Every replica of identity reports the same numbers: take
// their maximum. Unregister ends it.
func ObserveOutbox(p metric.MeterProvider, db pg.DB) (metric.Registration, error) {
	m := p.Meter("github.com/entrepot-dev/entrepot/pkg/audit")
	rows, err := m.Int64ObservableGauge("entrepot.audit.outbox.rows", metric.WithDescription("Audit events that are not in the log yet."))
	if err != nil {
		return nil, fmt.Errorf("audit metrics: %w", err)
	}
	lag, err := m.Float64ObservableGauge("entrepot.audit.outbox.lag", metric.WithUnit("s"), metric.WithDescription("Age of the oldest audit event that is not in the log yet."))
	if err != nil {
		return nil, fmt.Errorf("audit metrics: %w", err)
	}
	return m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		var (
			n       int64
			seconds float64
		)
		err := db.QueryRow(ctx, `SELECT count(*), coalesce(extract(epoch FROM now() - min(time)), 0)::float8 FROM outbox.audit`).Scan(&n, &seconds)
		if err != nil {
			return pg.Classify(err)
		}
		o.ObserveInt64(rows, n)
		o.ObserveFloat64(lag, max(seconds, 0))
		return nil
	}, rows, lag)
}
