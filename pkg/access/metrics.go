package access

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type counterMetrics struct {
	downloads, lost, batches metric.Int64Counter
	sent, failed             metric.MeasurementOption
	observed                 metric.Registration
}

func newCounterMetrics(p metric.MeterProvider, c *Counter) (*counterMetrics, error) {
	if p == nil {
		p = otel.GetMeterProvider()
	}
	m := p.Meter("github.com/entrepot-dev/entrepot/pkg/access")
	r := &counterMetrics{
		sent:   metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "sent"))),
		failed: metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "failed"))),
	}
	for _, i := range []struct {
		to         *metric.Int64Counter
		name, what string
	}{
		{&r.downloads, "downloads", "Downloads that this gateway counted."},
		{&r.lost, "lost", "Downloads that this gateway had no room to count while the bus was away."},
		{&r.batches, "batches", "Attempts to send a batch of counts, by outcome: sent, failed."},
	} {
		var err error
		if *i.to, err = m.Int64Counter("entrepot.access."+i.name, metric.WithDescription(i.what)); err != nil {
			return nil, fmt.Errorf("access metrics: %w", err)
		}
	}
	// Shown from the start: a series that is absent proves nothing.
	r.downloads.Add(context.Background(), 0)
	r.lost.Add(context.Background(), 0)
	r.batches.Add(context.Background(), 0, r.sent)
	r.batches.Add(context.Background(), 0, r.failed)
	waiting, err := m.Int64ObservableGauge("entrepot.access.waiting", metric.WithDescription("Files with downloads that are in no batch yet: many while the bus is away."))
	if err != nil {
		return nil, fmt.Errorf("access metrics: %w", err)
	}
	r.observed, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(waiting, int64(c.waiting()))
		return nil
	}, waiting)
	return r, err
}

func (m *counterMetrics) counted(lost bool) {
	if lost {
		m.lost.Add(context.Background(), 1)
		return
	}
	m.downloads.Add(context.Background(), 1)
}

func (m *counterMetrics) published(err error) {
	outcome := m.sent
	if err != nil {
		outcome = m.failed
	}
	m.batches.Add(context.Background(), 1, outcome)
}

func (m *counterMetrics) close() {
	_ = m.observed.Unregister() // the provider may have shut down before
}
