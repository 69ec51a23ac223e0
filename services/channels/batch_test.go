package channels_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"
	"go.opentelemetry.io/otel/trace/noop"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/telemetry"
	"github.com/entrepot-dev/entrepot/services/channels"
)

// tracer remembers what publications are linked to.
type tracer struct {
	embedded.Tracer

	mu    sync.Mutex
	links []int // of each publication
}

// provider gives everybody the same tracer.
type provider struct {
	embedded.TracerProvider
	tracer *tracer
}

func (p provider) Tracer(string, ...trace.TracerOption) trace.Tracer { return p.tracer }

func (t *tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if name == "channels.publish" {
		cfg := trace.NewSpanStartConfig(opts...)
		t.links = append(t.links, len(cfg.Links()))
	}
	return noop.Tracer{}.Start(ctx, name, opts...)
}

// What uploads that share a revision leave behind is each one's own.
func TestUploadsOfAGroupAreToldApart(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	spans := new(tracer)
	svc, err := channels.New(channels.Config{BatchWindow: 2 * time.Second}, channels.Deps{
		Pool: b.pool, Blobs: b.store, Jobs: b.jobs, Bus: b.bus, Identity: b.ident, Roles: b.id.Roles, Tracer: provider{tracer: spans},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(svc.Stop)
	const n = 3
	var all sync.WaitGroup
	all.Add(n)
	b.store.set(func(op string) error {
		if op == "open" {
			all.Done()
			all.Wait()
		}
		return nil
	})
	var staged []*channelsv1.StagedFile
	want := make(map[string]string)
	for i := range n {
		s := spec{name: fmt.Sprintf("p%d", i)}
		staged = append(staged, b.stage(s))
		want[s.path()] = fmt.Sprintf("request-%d", i)
	}
	for _, err := range together(n, func(i int) error {
		ctx := telemetry.WithRequestID(b.as(b.alice), fmt.Sprintf("request-%d", i))
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{byte(i + 1)}, SpanID: trace.SpanID{byte(i + 1)}}))
		_, err := svc.AddFiles(ctx, &channelsv1.AddFilesRequest{Channel: "main", Files: staged[i : i+1]})
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	b.store.set(nil)
	rows, err := b.pool.Query(t.Context(), `SELECT details->>'path', request_id FROM outbox.audit WHERE action = 'file.upload'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	got := make(map[string]string)
	for rows.Next() {
		var path, id string
		if err := rows.Scan(&path, &id); err != nil {
			t.Fatal(err)
		}
		got[path] = id
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("requests by file (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]int{n}, spans.links); d != "" {
		t.Errorf("requests that the publication is linked to (-want +got):\n%s", d)
	}
}
