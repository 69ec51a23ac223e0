package plane

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/entrepot-dev/entrepot/services/sync/plane"

// Outcomes of a request; the only label there is.
const (
	outcomeHit      = "hit"      // stored meanwhile
	outcomeMiss     = "miss"     // fetched, or followed while it was
	outcomeStale    = "stale"    // an old copy
	outcomeNegative = "negative" // not there
	outcomeRedirect = "redirect"
	outcomeError    = "error"
)

type instruments struct {
	tracer   trace.Tracer
	requests metric.Int64Counter
	flights  metric.Int64Counter
	indexes  metric.Int64Counter
	bytes    metric.Int64Counter
}

func newInstruments(mp metric.MeterProvider) (*instruments, error) {
	if mp == nil {
		mp = otel.GetMeterProvider()
	}
	m := mp.Meter(scope)
	t := &instruments{tracer: otel.Tracer(scope)}
	var err error
	counter := func(name, unit, what string) (c metric.Int64Counter) {
		if err == nil {
			c, err = m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		}
		return c
	}
	t.requests = counter("entrepot.proxy.plane.requests", "{request}", "Requests to the fetch plane by outcome: hit, miss, stale, negative, redirect, error.")
	t.flights = counter("entrepot.proxy.flights", "{flight}", "Files fetched by outcome: fetched, stored (it was in storage already), followed (another process fetched it), error.")
	t.indexes = counter("entrepot.proxy.indexes", "{index}", "Indexes asked for by outcome: changed, unchanged, error.")
	t.bytes = counter("entrepot.proxy.size", "By", "Bytes stored of files that were fetched.")
	if err != nil {
		return nil, fmt.Errorf("create instruments: %w", err)
	}
	return t, nil
}

func outcome(s string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", s)))
}

func (t *instruments) request(ctx context.Context, s string) { t.requests.Add(ctx, 1, outcome(s)) }
