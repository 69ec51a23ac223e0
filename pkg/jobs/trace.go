package jobs

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
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
