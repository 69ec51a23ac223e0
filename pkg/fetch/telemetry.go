package fetch

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/entrepot-dev/entrepot/pkg/fetch"

// telemetry has the instruments. Their labels are the remote's kind and the outcome (ok, not_modified or a reason):
// both from fixed lists, so no stranger's host name can grow a time series.
type telemetry struct {
	clock    Clock
	tracer   trace.Tracer
	requests metric.Int64Counter
	retries  metric.Int64Counter
	bytes    metric.Int64Counter
	seconds  metric.Float64Histogram
	labels   *sync.Map // [2]string → metric.MeasurementOption; building one costs more than a small request may
}

func newTelemetry(cfg Config) (t telemetry, err error) {
	m := cfg.MeterProvider.Meter(scope)
	t = telemetry{clock: cfg.Clock, tracer: cfg.TracerProvider.Tracer(scope), labels: new(sync.Map)}
	counter := func(name, unit, what string) (c metric.Int64Counter) {
		if err == nil {
			c, err = m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		}
		return c
	}
	t.requests = counter("entrepot.fetch.requests", "{request}", "Requests to upstreams by outcome; retries and redirects are part of one.")
	t.retries = counter("entrepot.fetch.retries", "{retry}", "Attempts after the first, by what the one before failed with.")
	t.bytes = counter("entrepot.fetch.body.size", "By", "Bytes received in bodies, decoded.")
	if err == nil {
		t.seconds, err = m.Float64Histogram("entrepot.fetch.duration", metric.WithUnit("s"),
			metric.WithDescription("From the call to the end of the body."))
	}
	if err != nil {
		return t, fmt.Errorf("create instruments: %w", err)
	}
	return t, nil
}

func (t *telemetry) label(kind, outcome string) metric.MeasurementOption {
	key := [2]string{kind, outcome}
	if v, ok := t.labels.Load(key); ok {
		return v.(metric.MeasurementOption)
	}
	o := metric.WithAttributeSet(attribute.NewSet(attribute.String("remote.kind", kind), attribute.String("outcome", outcome)))
	t.labels.Store(key, o)
	return o
}

// operation is one Get or Download under observation.
type operation struct {
	t       *telemetry
	ctx     context.Context
	kind    string
	span    trace.Span
	began   time.Time
	outcome string
}

func (t *telemetry) start(ctx context.Context, r *Remote, method string, u *url.URL) (context.Context, *operation) {
	ctx, span := t.tracer.Start(ctx, "fetch "+method, trace.WithSpanKind(trace.SpanKindClient))
	if span.IsRecording() {
		span.SetAttributes(attribute.String("http.request.method", method), attribute.String("server.address", u.Hostname()),
			attribute.String("url.full", redactURL(u)), attribute.String("entrepot.remote.kind", r.kind))
	}
	return ctx, &operation{t: t, ctx: ctx, kind: r.kind, span: span, began: t.clock.Now(), outcome: reasonOK}
}

func (o *operation) status(resp *Response) {
	if resp.NotModified {
		o.outcome = reasonNotChanged
	}
	if o.span.IsRecording() {
		o.span.SetAttributes(attribute.Int("http.response.status_code", resp.Status))
	}
}

func (o *operation) retry(err error) {
	reason := reasonOf(err)
	o.t.retries.Add(o.ctx, 1, o.t.label(o.kind, reason))
	if o.span.IsRecording() {
		o.span.AddEvent("retry", trace.WithAttributes(attribute.String("reason", reason)))
	}
}

func (o *operation) end(err error, n int64) {
	if err != nil {
		o.outcome = reasonOf(err)
		o.span.SetStatus(codes.Error, o.outcome)
		if s := StatusOf(err); s != 0 && o.span.IsRecording() {
			o.span.SetAttributes(attribute.Int("http.response.status_code", s))
		}
	}
	l := o.t.label(o.kind, o.outcome)
	o.t.requests.Add(o.ctx, 1, l)
	o.t.bytes.Add(o.ctx, n, l)
	o.t.seconds.Record(o.ctx, o.t.clock.Now().Sub(o.began).Seconds(), l)
	o.span.End()
}
