package metrics

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// instruments count what comes in. No label holds a name: their number is bounded.
type instruments struct {
	batches, downloads, lost, pulled metric.Int64Counter
	lag                              metric.Float64Histogram
}

func newInstruments(p metric.MeterProvider) (*instruments, error) {
	if p == nil {
		p = otel.GetMeterProvider()
	}
	m := p.Meter("github.com/entrepot-dev/entrepot/services/metrics")
	var r instruments
	for _, c := range []struct {
		to         *metric.Int64Counter
		name, what string
	}{
		{&r.batches, "batches", "Batches of download counts by outcome: added, repeated (was added before), malformed."},
		{&r.downloads, "downloads", "Downloads that were added."},
		{&r.lost, "lost", "Downloads that gateways said they could not count."},
		{&r.pulled, "pulled", "Downloads that registered mirrors have told of."},
	} {
		var err error
		if *c.to, err = m.Int64Counter("entrepot.metrics."+c.name, metric.WithDescription(c.what)); err != nil {
			return nil, fmt.Errorf("metrics of metrics: %w", err)
		}
	}
	// Shown from the start: a series that is absent proves nothing.
	for _, c := range []metric.Int64Counter{r.downloads, r.lost, r.pulled} {
		c.Add(context.Background(), 0)
	}
	for _, o := range []metric.MeasurementOption{outcomeAdded, outcomeRepeated, outcomeMalformed} {
		r.batches.Add(context.Background(), 0, o)
	}
	var err error
	r.lag, err = m.Float64Histogram("entrepot.metrics.lag", metric.WithUnit("s"),
		metric.WithDescription("Age of a batch when it was added."),
		metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400))
	if err != nil {
		return nil, fmt.Errorf("metrics of metrics: %w", err)
	}
	return &r, nil
}

var (
	outcomeAdded     = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "added")))
	outcomeRepeated  = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "repeated")))
	outcomeMalformed = metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", "malformed")))
)

func (m *instruments) added(ctx context.Context, a applied, now time.Time) {
	m.batches.Add(ctx, int64(len(a.added)), outcomeAdded)
	m.batches.Add(ctx, a.repeated, outcomeRepeated)
	m.downloads.Add(ctx, a.downloads)
	m.lost.Add(ctx, a.lost)
	for _, b := range a.added {
		m.lag.Record(ctx, max(now.Sub(time.UnixMilli(b.GetMadeMs())).Seconds(), 0))
	}
}
