package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// ObservePool reports how a pool's connections are used. A pool that is full shows as waiting: raise its size, or look
// for what holds connections. Unregister ends it.
func ObservePool(p metric.MeterProvider, pool *pgxpool.Pool) (metric.Registration, error) {
	m := p.Meter("github.com/entrepot-dev/entrepot/pkg/pg")
	var (
		conns, most                metric.Int64ObservableGauge
		acquired, empty, cancelled metric.Int64ObservableCounter
		waited                     metric.Float64ObservableCounter
		errs                       [6]error
	)
	conns, errs[0] = m.Int64ObservableGauge("entrepot.pg.pool.connections", metric.WithDescription("Connections to PostgreSQL, by state."))
	most, errs[1] = m.Int64ObservableGauge("entrepot.pg.pool.connections.max", metric.WithDescription("Connections that the process may open."))
	acquired, errs[2] = m.Int64ObservableCounter("entrepot.pg.pool.acquired", metric.WithDescription("Times a connection was taken from the pool."))
	empty, errs[3] = m.Int64ObservableCounter("entrepot.pg.pool.waited", metric.WithDescription("Times a connection had to be waited for, because none was idle."))
	waited, errs[4] = m.Float64ObservableCounter("entrepot.pg.pool.wait", metric.WithUnit("s"), metric.WithDescription("Time spent waiting for a connection while none was idle."))
	cancelled, errs[5] = m.Int64ObservableCounter("entrepot.pg.pool.gave_up", metric.WithDescription("Times who waited for a connection gave up."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("pool metrics: %w", err)
		}
	}
	state := func(s string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("state", s)))
	}
	idle, used, opening := state("idle"), state("used"), state("opening")
	return m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := pool.Stat()
		o.ObserveInt64(conns, int64(s.IdleConns()), idle)
		o.ObserveInt64(conns, int64(s.AcquiredConns()), used)
		o.ObserveInt64(conns, int64(s.ConstructingConns()), opening)
		o.ObserveInt64(most, int64(s.MaxConns()))
		o.ObserveInt64(acquired, s.AcquireCount())
		o.ObserveInt64(empty, s.EmptyAcquireCount())
		o.ObserveFloat64(waited, s.EmptyAcquireWaitTime().Seconds())
		o.ObserveInt64(cancelled, s.CanceledAcquireCount())
		return nil
	}, conns, most, acquired, empty, waited, cancelled)
}
