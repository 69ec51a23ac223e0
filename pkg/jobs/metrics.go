package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Labels are the kind and the state only: both sets are small and ours.

type runMetrics struct {
	runs     metric.Int64Counter
	duration metric.Float64Histogram
	wait     metric.Float64Histogram
	active   metric.Int64UpDownCounter
}

func newRunMetrics(p metric.MeterProvider) (*runMetrics, error) {
	m := p.Meter(scope)
	var (
		r    runMetrics
		errs [4]error
	)
	buckets := metric.WithExplicitBucketBoundaries(.005, .02, .1, .5, 2, 10, 60, 300, 1800, 7200)
	r.runs, errs[0] = m.Int64Counter("entrepot.jobs.attempts", metric.WithDescription("Attempts by how they ended; scheduled means that the job runs again, lost that somebody else has it."))
	r.duration, errs[1] = m.Float64Histogram("entrepot.jobs.attempt.duration", metric.WithUnit("s"), buckets, metric.WithDescription("How long attempts took."))
	r.wait, errs[2] = m.Float64Histogram("entrepot.jobs.wait", metric.WithUnit("s"), buckets, metric.WithDescription("How long jobs were queued before they started."))
	r.active, errs[3] = m.Int64UpDownCounter("entrepot.jobs.active", metric.WithDescription("Jobs in hand in this process."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("job metrics: %w", err)
		}
	}
	return &r, nil
}

func kindLabel(kind string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("kind", kind)))
}

func (m *runMetrics) started(ctx context.Context, kind string, waited time.Duration) {
	m.wait.Record(ctx, max(waited, 0).Seconds(), kindLabel(kind))
	m.active.Add(ctx, 1, kindLabel(kind))
}

func (m *runMetrics) ended(ctx context.Context, kind string, state State, took time.Duration) {
	set := metric.WithAttributeSet(attribute.NewSet(attribute.String("kind", kind), attribute.String("state", string(state))))
	m.runs.Add(ctx, 1, set)
	m.duration.Record(ctx, took.Seconds(), set)
	m.active.Add(ctx, -1, kindLabel(kind))
}

// queueMetrics observes the queue in the database. Every dispatcher reports the same numbers: take their maximum.
func queueMetrics(p metric.MeterProvider, pool *pgxpool.Pool) (metric.Registration, error) {
	m := p.Meter(scope)
	var (
		jobs, slots, rows metric.Int64ObservableGauge
		age, lag          metric.Float64ObservableGauge
		errs              [5]error
	)
	jobs, errs[0] = m.Int64ObservableGauge("entrepot.jobs.count", metric.WithDescription("Jobs that have not ended, by state."))
	slots, errs[1] = m.Int64ObservableGauge("entrepot.jobs.slots", metric.WithDescription("Slots of live workers."))
	age, errs[2] = m.Float64ObservableGauge("entrepot.jobs.oldest.age", metric.WithUnit("s"), metric.WithDescription("How long the oldest queued job has waited."))
	rows, errs[3] = m.Int64ObservableGauge("entrepot.jobs.outbox.rows", metric.WithDescription("Rows a relay is publishing, or failed to."))
	lag, errs[4] = m.Float64ObservableGauge("entrepot.jobs.outbox.lag", metric.WithUnit("s"), metric.WithDescription("Age of the oldest row a relay took and has not published."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("job metrics: %w", err)
		}
	}
	return m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		all, err := depth(ctx, pool)
		if err != nil {
			return err
		}
		for _, d := range all {
			for _, s := range []struct {
				state State
				n     int64
			}{{Queued, d.Queued}, {Scheduled, d.Scheduled}, {Running, d.Running}} {
				o.ObserveInt64(jobs, s.n, metric.WithAttributes(attribute.String("kind", d.Kind), attribute.String("state", string(s.state))))
			}
			o.ObserveInt64(slots, d.Slots, kindLabel(d.Kind))
			o.ObserveFloat64(age, d.OldestQueued.Seconds(), kindLabel(d.Kind))
		}
		var (
			n       int64
			seconds float64
		)
		err = pool.QueryRow(ctx, `
			SELECT count(*), coalesce(extract(epoch FROM now() - min(released_at)), 0)::float8 FROM jobs.outbox WHERE released_at IS NOT NULL`).
			Scan(&n, &seconds)
		if err != nil {
			return err
		}
		o.ObserveInt64(rows, n)
		o.ObserveFloat64(lag, max(seconds, 0))
		return nil
	}, jobs, slots, age, rows, lag)
}
