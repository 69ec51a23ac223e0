package edge

import (
	"context"
	"fmt"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// lookups counts how often a cache knew the answer. It is two numbers, since the path of a download has no time for more.
type lookups struct{ hits, misses atomic.Uint64 }

func (l *lookups) count(hit bool) {
	if hit {
		l.hits.Add(1)
	} else {
		l.misses.Add(1)
	}
}

// ObserveCaches reports the lookups of the edge's caches: what stands at a path (resolve), what a channel is (card), leave to read a blob (grant),
// who a credential belongs to (credential), and the bytes of small files (hot). Unregister ends it.
func ObserveCaches(p metric.MeterProvider, f *Files, a *Authenticator) (metric.Registration, error) {
	m := p.Meter("github.com/entrepot-dev/entrepot/gateway/edge")
	counter, err := m.Int64ObservableCounter("entrepot.edge.cache.lookups", metric.WithDescription("Lookups in the edge's caches, by cache and result."))
	if err != nil {
		return nil, fmt.Errorf("cache metrics: %w", err)
	}
	size, err := m.Int64ObservableGauge("entrepot.edge.cache.hot.size", metric.WithUnit("By"), metric.WithDescription("Memory that small files take in the edge's cache."))
	if err != nil {
		return nil, fmt.Errorf("cache metrics: %w", err)
	}
	set := func(cache, result string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("cache", cache), attribute.String("result", result)))
	}
	type source struct {
		hit, miss metric.MeasurementOption
		read      func() (hits, misses uint64)
	}
	of := func(cache string, read func() (uint64, uint64)) source {
		return source{set(cache, "hit"), set(cache, "miss"), read}
	}
	counts := func(l *lookups) func() (uint64, uint64) {
		return func() (uint64, uint64) { return l.hits.Load(), l.misses.Load() }
	}
	sources := []source{
		of("resolve", counts(&f.resolved)), of("card", counts(&f.cards.known)), of("grant", counts(&f.granted)), of("credential", counts(&a.known)),
		of("hot", func() (uint64, uint64) { s := f.deps.Data.HotStats(); return s.Hits, s.Misses }),
	}
	return m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, s := range sources {
			hits, misses := s.read()
			o.ObserveInt64(counter, int64(hits), s.hit)
			o.ObserveInt64(counter, int64(misses), s.miss)
		}
		o.ObserveInt64(size, f.deps.Data.HotStats().Bytes)
		return nil
	}, counter, size)
}
