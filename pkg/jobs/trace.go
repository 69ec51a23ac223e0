package jobs

import (
	"context"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/entrepot-dev/entrepot/pkg/jobs"

// The job's row carries W3C trace context, whatever propagator the process uses: it is read by another version.
var w3c propagation.TraceContext

func traceOf(ctx context.Context) (traceparent, tracestate string) {
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	return carrier["traceparent"], carrier["tracestate"]
}

func withTrace(ctx context.Context, traceparent, tracestate string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return w3c.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent, "tracestate": tracestate})
}

// enqueueSpan begins the span that a job's row remembers as what asked for it.
func (c *Client) enqueueSpan(ctx context.Context, kind string) (context.Context, trace.Span) {
	return c.tracer.Start(ctx, "jobs.enqueue "+kind, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(attribute.String("job.kind", kind)))
}

// publishSpan begins a span for the message of a job, as part of the trace that asked for the job, and writes it into the
// message's headers. It returns nil for a job whose trace nobody keeps.
func (d *Dispatcher) publishSpan(ctx context.Context, kind string, r release, msg *nats.Msg) trace.Span {
	ctx = withTrace(ctx, r.Traceparent, r.Tracestate)
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return nil
	}
	ctx, span := d.tracer.Start(ctx, "jobs.publish "+kind, trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("job.id", r.Job.String()), attribute.String("job.kind", kind)))
	carrier := propagation.MapCarrier{}
	w3c.Inject(ctx, carrier)
	for k, v := range carrier {
		msg.Header.Set(k, v)
	}
	return span
}

// deliveredTrace returns ctx as part of the trace that asked for the job, below the message's span if that is of the
// same trace: the row decides, a message may be as old as it likes.
func deliveredTrace(ctx context.Context, row claimedRow, h nats.Header) context.Context {
	asked := withTrace(ctx, row.Traceparent, row.Tracestate)
	sent := withTrace(ctx, h.Get("traceparent"), h.Get("tracestate"))
	if trace.SpanContextFromContext(sent).TraceID() == trace.SpanContextFromContext(asked).TraceID() {
		return sent
	}
	return asked
}
