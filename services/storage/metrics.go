package storage

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

const scope = "github.com/entrepot-dev/entrepot/services/storage"

func meter(p metric.MeterProvider) metric.Meter {
	if p == nil {
		p = otel.GetMeterProvider()
	}
	return p.Meter(scope)
}

// metrics count what upkeep does; dry runs do not count.
type metrics struct {
	adopted, marked, deleted, deletedBytes metric.Int64Counter
	stored, storedBytes                    metric.Int64Gauge
	expired                                metric.Int64Counter
	checked, checkedBytes, found           metric.Int64Counter
	scrubbedAt                             metric.Int64Gauge
}

func newMetrics(p metric.MeterProvider) (*metrics, error) {
	m := meter(p)
	var r metrics
	for _, c := range []struct {
		to         *metric.Int64Counter
		name, unit string
		what       string
	}{
		{&r.adopted, "gc.adopted", "", "Blobs that garbage collection found in the store and the database did not know."},
		{&r.marked, "gc.marked", "", "Blobs found without a reference."},
		{&r.deleted, "gc.deleted", "", "Blobs deleted."},
		{&r.deletedBytes, "gc.deleted.size", "By", "Bytes deleted."},
		{&r.expired, "expired", "", "Rows removed because their retention was over."},
		{&r.checked, "scrub.checked", "", "Blobs read and hashed."},
		{&r.checkedBytes, "scrub.checked.size", "By", "Bytes read and hashed."},
		{&r.found, "scrub.found", "", "Damaged blobs found, by problem."},
	} {
		var err error
		if *c.to, err = m.Int64Counter("entrepot.storage."+c.name, metric.WithUnit(c.unit), metric.WithDescription(c.what)); err != nil {
			return nil, fmt.Errorf("storage metrics: %w", err)
		}
	}
	for _, g := range []struct {
		to         *metric.Int64Gauge
		name, unit string
		what       string
	}{
		{&r.stored, "blobs", "", "Blobs in the store at the last garbage collection."},
		{&r.storedBytes, "blobs.size", "By", "Bytes in the store at the last garbage collection."},
		{&r.scrubbedAt, "scrub.finished", "s", "When the last scrub came to its end, in seconds since 1970."},
	} {
		var err error
		if *g.to, err = m.Int64Gauge("entrepot.storage."+g.name, metric.WithUnit(g.unit), metric.WithDescription(g.what)); err != nil {
			return nil, fmt.Errorf("storage metrics: %w", err)
		}
	}
	return &r, nil
}

func (m *metrics) collected(ctx context.Context, r *storagev1.GarbageCollectionResult) {
	m.adopted.Add(ctx, r.GetAdopted())
	m.marked.Add(ctx, r.GetMarked())
	m.deleted.Add(ctx, r.GetDeleted())
	m.deletedBytes.Add(ctx, r.GetDeletedBytes())
	m.stored.Record(ctx, r.GetStored()-r.GetDeleted())
	m.storedBytes.Record(ctx, r.GetStoredBytes()-r.GetDeletedBytes())
	for kind, n := range r.GetExpired() {
		if kind != "jobs" { // which the dispatcher removes
			m.expired.Add(ctx, n, metric.WithAttributes(attribute.String("kind", kind)))
		}
	}
}

func (m *metrics) scrubbed(ctx context.Context, blobs, bytes int64, found []finding) {
	m.checked.Add(ctx, blobs)
	m.checkedBytes.Add(ctx, bytes)
	for _, f := range found {
		m.found.Add(ctx, 1, metric.WithAttributes(attribute.String("problem", f.Problem)))
	}
}

// observeFindings reports how many findings are open, by problem: what an alert should look at.
func observeFindings(p metric.MeterProvider, s store) (metric.Registration, error) {
	m := meter(p)
	open, err := m.Int64ObservableGauge("entrepot.storage.findings", metric.WithDescription("Damaged blobs that are not resolved, by problem."))
	if err != nil {
		return nil, fmt.Errorf("storage metrics: %w", err)
	}
	return m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		counts, err := s.openFindings(ctx)
		if err != nil {
			return err
		}
		for problem, n := range counts {
			o.ObserveInt64(open, n, metric.WithAttributes(attribute.String("problem", problem)))
		}
		return nil
	}, open)
}
