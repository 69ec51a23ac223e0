package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Config says where telemetry goes.
type Config struct {
	// Service is the name of the process in traces: its target.
	Service string
	// Version is the program's version.
	Version string
	// OTLPEndpoint receives traces: `http://host:4317`, `https://host:4317` or `host:4317` (plain). Empty means nowhere;
	// trace ids then still connect log lines.
	OTLPEndpoint string
	// LogLevel is debug, info, warn or error; default info.
	LogLevel string
	// LogFormat is text or json; default text.
	LogFormat string
	// LogOutput is where lines go; nil means standard error.
	LogOutput io.Writer
}

// Telemetry is what Start set up.
type Telemetry struct {
	// Log writes to the configured output.
	Log *slog.Logger
	// Registry holds the metrics; packages register their own collectors here.
	Registry *prometheus.Registry

	shutdown []func(context.Context) error
}

// Start sets up logging, tracing and metrics, and makes tracer, meter and propagator OpenTelemetry's global ones, which
// libraries look for. It does not change slog's default logger.
func Start(ctx context.Context, cfg Config) (*Telemetry, error) {
	out := cfg.LogOutput
	if out == nil {
		out = os.Stderr
	}
	log, err := NewLogger(out, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{Log: log, Registry: prometheus.NewRegistry()}
	res := resource.NewSchemaless(attribute.String("service.name", cfg.Service), attribute.String("service.version", cfg.Version))

	traces := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if cfg.OTLPEndpoint != "" {
		endpoint := cfg.OTLPEndpoint
		if !strings.Contains(endpoint, "://") {
			endpoint = "http://" + endpoint
		}
		exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(endpoint))
		if err != nil {
			return nil, fmt.Errorf("trace exporter for %s: %w", cfg.OTLPEndpoint, err)
		}
		traces = append(traces, sdktrace.WithBatcher(exporter))
	} else {
		// Ids without spans: nobody would look at what is recorded.
		traces = append(traces, sdktrace.WithSampler(sdktrace.NeverSample()))
	}
	tracer := sdktrace.NewTracerProvider(traces...)
	t.shutdown = append(t.shutdown, tracer.Shutdown)

	t.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprom.New(otelprom.WithRegisterer(t.Registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("metrics exporter: %w", err), t.Shutdown(ctx))
	}
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(reader), sdkmetric.WithView(noAddresses))
	t.shutdown = append(t.shutdown, meter.Shutdown)

	otel.SetTracerProvider(tracer)
	otel.SetMeterProvider(meter)
	// Without baggage: nothing here reads it, and what a stranger put into it would travel to every service.
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("telemetry could not be delivered", "error", err) }))
	return t, nil
}

// noAddresses keeps the addresses of services out of the metrics of calls to them: each new pod would be new series.
var noAddresses = sdkmetric.NewView(sdkmetric.Instrument{Name: "rpc.client.*"}, sdkmetric.Stream{
	AttributeFilter: attribute.NewDenyKeysFilter("server.address", "server.port", "network.peer.address", "network.peer.port"),
})

// Handler serves the metrics in Prometheus' format, for the operations address.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.Registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Shutdown sends what is left, until ctx ends. It may be called twice.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, f := range t.shutdown {
		errs = append(errs, f(ctx))
	}
	t.shutdown = nil
	return errors.Join(errs...)
}
