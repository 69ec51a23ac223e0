package teletest

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// receiver is an OTLP collector that keeps what it gets.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	spans []*tracev1.Span
	raw   []byte // all requests as JSON, resources included
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{addr: l.Addr().String()}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	collector.RegisterTraceServiceServer(srv, r)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.GracefulStop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// Export implements collector.TraceServiceServer.
func (r *receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	text, err := protojson.Marshal(req)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = append(append(r.raw, text...), '\n')
	for _, res := range req.GetResourceSpans() {
		for _, scope := range res.GetScopeSpans() {
			r.spans = append(r.spans, scope.GetSpans()...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *receiver) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.raw)
}

// span is what tests look at.
type span struct {
	name, trace, id, parent string
	kind                    tracev1.Span_SpanKind
	links                   []string // trace ids
	attrs                   map[string]string
	begin, end              uint64
}

// all returns the spans by id.
func (r *receiver) all() map[string]span {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]span{}
	for _, s := range r.spans {
		one := span{
			name: s.GetName(), trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
			kind: s.GetKind(), attrs: map[string]string{}, begin: s.GetStartTimeUnixNano(), end: s.GetEndTimeUnixNano(),
		}
		for _, l := range s.GetLinks() {
			one.links = append(one.links, hex.EncodeToString(l.GetTraceId()))
		}
		for _, a := range s.GetAttributes() {
			one.attrs[a.GetKey()] = strings.Trim(strings.TrimPrefix(fmt.Sprint(a.GetValue()), "string_value:"), `"`)
		}
		out[one.id] = one
	}
	return out
}

// traced runs a platform whose spans go to a receiver.
func traced(t *testing.T, opts ...platformtest.Option) (*platformtest.Stack, *receiver) {
	t.Helper()
	r := newReceiver(t)
	opts = append([]platformtest.Option{platformtest.WithConfig(func(c *platform.Config) {
		c.OTLP.Endpoint, c.Log.Level = "http://"+r.addr, "debug"
	})}, opts...)
	return platformtest.Start(t, opts...), r
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// names counts the spans by name.
func names(all map[string]span) map[string]int {
	out := map[string]int{}
	for _, s := range all {
		out[s.name]++
	}
	return out
}

// invoker calls methods by name.
type invoker struct{ conn *grpc.ClientConn }

func (i invoker) Invoke(ctx context.Context, method string, in, out any) error {
	return i.conn.Invoke(ctx, method, in, out)
}

// lines is a log that may be written and read at once.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startPatience bounds a start that cannot succeed.
const startPatience = 3 * time.Second

func freshDatabase(t *testing.T) string { return pgtest.NewURL(t, platform.Schemas...) }
