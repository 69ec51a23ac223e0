package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLogLinesNameRequestAndTrace(t *testing.T) {
	var out bytes.Buffer
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "test", LogFormat: "json", LogOutput: &out})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := otel.Tracer("test").Start(telemetry.WithRequestID(t.Context(), "r-1"), "work")
	tel.Log.With("part", "x").InfoContext(ctx, "hello")
	tel.Log.DebugContext(ctx, "not shown")
	span.End()
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if line["request_id"] != "r-1" || line["part"] != "x" || line["trace_id"] != span.SpanContext().TraceID().String() || !span.SpanContext().HasTraceID() {
		t.Errorf("got %v", line)
	}
	for range 2 {
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestMetricsAreServed(t *testing.T) {
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "test", LogOutput: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	mine := prometheus.NewCounter(prometheus.CounterOpts{Name: "entrepot_tests_total", Help: "Tests."})
	tel.Registry.MustRegister(mine)
	mine.Inc()
	counter, err := otel.Meter("test").Int64Counter("things")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	rec := httptest.NewRecorder()
	tel.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"entrepot_tests_total 1", "things_total", "go_goroutines", "process_cpu_seconds_total"} {
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("no %s in %s", want, rec.Body.String())
		}
	}
}

func TestBadConfigurationIsNamed(t *testing.T) {
	for _, cfg := range []telemetry.Config{{LogLevel: "loud"}, {LogFormat: "xml"}} {
		if _, err := telemetry.Start(t.Context(), cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// collector is an OTLP receiver that takes whatever comes, as answer says.
func collector(t *testing.T, answer func(method string) error) (address string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, ss grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(ss)
		if err := ss.RecvMsg(&emptypb.Empty{}); err != nil {
			return err
		}
		if err := answer(method); err != nil {
			return err
		}
		return ss.SendMsg(&emptypb.Empty{})
	}))
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	t.Cleanup(func() {
		srv.GracefulStop() // what is under way gets its answer: a broken connection would be tried again
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String()
}

func TestSpansReachTheCollector(t *testing.T) {
	got := make(chan string, 1)
	address := collector(t, func(method string) error { got <- method; return nil })
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "test", OTLPEndpoint: address, LogOutput: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	_, span := otel.Tracer("test").Start(t.Context(), "work")
	span.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if method := <-got; method != "/opentelemetry.proto.collector.trace.v1.TraceService/Export" {
		t.Errorf("got %s", method)
	}
}

func TestACollectorThatHangsDoesNotHoldUpTheShutdown(t *testing.T) {
	release := make(chan struct{})
	address := collector(t, func(string) error {
		<-release
		return status.Error(codes.InvalidArgument, "no") // which is not retried
	})
	defer close(release)
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "test", OTLPEndpoint: address, LogOutput: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	_, span := otel.Tracer("test").Start(t.Context(), "work")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := tel.Shutdown(ctx); err == nil {
		t.Error("what could not be delivered should be told")
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}
