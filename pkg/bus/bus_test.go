package bus_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/bus/bustest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startAt starts a server on dir as production does, with every write synced.
func startAt(t *testing.T, dir string) (*bus.Server, *bus.Bus) {
	t.Helper()
	s, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s, bustest.Connect(t, s)
}

func TestPublish(t *testing.T) {
	t.Run("a subscriber gets the message and the sender's trace", func(t *testing.T) {
		otel.SetTextMapPropagator(propagation.TraceContext{})
		t.Cleanup(func() { otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator()) })
		s := bustest.NewServer(t)
		sender, receiver := bustest.Connect(t, s), bustest.Connect(t, s)

		type got struct {
			Data  string
			Trace trace.TraceID
		}
		c := make(chan got, 1)
		sub, err := receiver.Subscribe(t.Context(), "jobs.cancel.*", func(ctx context.Context, msg *nats.Msg) {
			c <- got{string(msg.Data), trace.SpanContextFromContext(ctx).TraceID()}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Stop()
		id := trace.TraceID{1, 2, 3}
		ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{9}}))
		if err := sender.Publish(ctx, "jobs.cancel.7", []byte("stop")); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got{"stop", id}, <-c); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a queue gives each message to one member", func(t *testing.T) {
		b := bustest.New(t)
		c := make(chan string, 100)
		for _, name := range []string{"a", "b"} {
			sub, err := b.QueueSubscribe(t.Context(), "work", "pool", func(_ context.Context, msg *nats.Msg) { c <- name + string(msg.Data) })
			if err != nil {
				t.Fatal(err)
			}
			defer sub.Stop()
		}
		all, err := b.Subscribe(t.Context(), "work", func(_ context.Context, msg *nats.Msg) { c <- "all" })
		if err != nil {
			t.Fatal(err)
		}
		defer all.Stop()
		for range 10 {
			if err := b.Publish(t.Context(), "work", nil); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[bool]int{}
		for range 20 {
			seen[<-c == "all"]++
		}
		if seen[true] != 10 || seen[false] != 10 || len(c) != 0 {
			t.Errorf("outside the queue %d, in it %d, left %d; want 10, 10, 0", seen[true], seen[false], len(c))
		}
	})

	t.Run("Stop waits for a running handler and may be repeated", func(t *testing.T) {
		b := bustest.New(t)
		entered, ended := make(chan struct{}), false
		sub, err := b.Subscribe(t.Context(), "x", func(ctx context.Context, _ *nats.Msg) {
			close(entered)
			<-ctx.Done()
			ended = true
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Publish(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		<-entered
		sub.Stop()
		sub.Stop()
		if !ended {
			t.Error("Stop returned while the handler ran")
		}
	})

	t.Run("on a closed bus it is unavailable", func(t *testing.T) {
		b := bustest.New(t)
		b.Close()
		if err := b.Publish(t.Context(), "x", nil); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want fault.Unavailable", err)
		}
	})
}

func TestEmbedded(t *testing.T) {
	t.Run("acknowledged messages survive a restart", func(t *testing.T) {
		dir := t.TempDir()
		s, b := startAt(t, dir)
		if _, err := b.JetStream().CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, err := b.JetStream().Publish(t.Context(), "s", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		b.Close()
		s.Stop()
		s.Stop()
		_, b = startAt(t, dir)
		stream, err := b.JetStream().Stream(t.Context(), "S")
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Msgs; n != 5 {
			t.Errorf("%d messages, want 5", n)
		}
	})

	t.Run("TCP clients connect, and the token keeps others out", func(t *testing.T) {
		s, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Token: "sesame"})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		nc, err := nats.Connect(s.URL(), nats.Token("sesame"))
		if err != nil {
			t.Fatalf("with the token: %v", err)
		}
		nc.Close()
		if _, err := nats.Connect(s.URL()); err == nil {
			t.Error("connected without the token")
		}
		inside, err := s.Conn(bus.Options{Token: "sesame"})
		if err != nil {
			t.Fatalf("in process: %v", err)
		}
		inside.Close()
	})

	t.Run("a public address wants a token", func(t *testing.T) {
		_, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: t.TempDir(), Listen: "0.0.0.0:0"})
		if !fault.Is(err, fault.Precondition) {
			t.Errorf("got %v, want fault.Precondition", err)
		}
	})

	t.Run("without Listen there is no socket", func(t *testing.T) {
		if url := bustest.NewServer(t).URL(); url != "" {
			t.Errorf("URL is %q", url)
		}
	})
}

func TestConnect(t *testing.T) {
	t.Run("a server that comes later is reached", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		nc, err := bus.Connect("nats://"+addr, bus.Options{Name: "early"})
		if err != nil {
			t.Fatal(err)
		}
		b, err := bus.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := b.Probe(t.Context()); !fault.Is(err, fault.Unavailable) {
			t.Errorf("probe without a server: %v, want fault.Unavailable", err)
		}
		connected := nc.StatusChanged(nats.CONNECTED)
		s, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: t.TempDir(), Listen: addr})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		select {
		case <-connected:
		case <-time.After(10 * time.Second):
			t.Fatal("not connected")
		}
		if err := b.Probe(t.Context()); err != nil {
			t.Errorf("probe: %v", err)
		}
	})
}

func TestProbe(t *testing.T) {
	t.Run("a healthy server passes again and again, and keeps no consumers", func(t *testing.T) {
		b := bustest.New(t)
		for range 3 {
			if err := b.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		stream, err := b.JetStream().Stream(t.Context(), "PROBE")
		if err != nil {
			t.Fatal(err)
		}
		if n := stream.CachedInfo().State.Consumers; n != 0 {
			t.Errorf("%d consumers left", n)
		}
	})

	t.Run("it passes beside the work of a queue, and leaves nothing there", func(t *testing.T) {
		b := bustest.New(t)
		stream, err := b.JetStream().CreateStream(t.Context(), jobs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "high", FilterSubject: "jobs.high"}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.JetStream().Publish(t.Context(), "jobs.high", nil); err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for range 4 { // as many replicas
			g.Go(func() error { return b.Probe(t.Context(), "JOBS") })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.State.Msgs != 1 || info.State.Consumers != 1 {
			t.Errorf("%d messages, %d consumers; want 1, 1", info.State.Msgs, info.State.Consumers)
		}
	})

	t.Run("an absent stream fails", func(t *testing.T) {
		if err := bustest.New(t).Probe(t.Context(), "JOBS"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want fault.Unavailable", err)
		}
	})

	t.Run("a server that lost its files fails the probe until it is healed", func(t *testing.T) {
		dir := t.TempDir()
		_, b := startAt(t, dir)
		if _, err := b.JetStream().CreateStream(t.Context(), jobs); err != nil {
			t.Fatal(err)
		}
		if err := b.Probe(t.Context(), "JOBS"); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
		// The server works on with the files it holds open until it wants the next one, after 8 MiB. (Without traffic it
		// closes them after half a minute, and publishing hangs then.)
		for i := 0; ; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			_, err := b.JetStream().Publish(ctx, "jobs.x", make([]byte, 900<<10))
			cancel()
			if err != nil {
				break
			}
			if i > 64 {
				t.Fatal("the server does not miss its files")
			}
		}
		if err := b.Probe(t.Context(), "JOBS"); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("probe after the loss: %v, want fault.Unavailable", err)
		}
		if err := b.Heal(t.Context(), jobs); err != nil {
			t.Fatalf("heal: %v", err)
		}
		if err := b.Probe(t.Context(), "JOBS"); err != nil {
			t.Fatalf("probe after healing: %v", err)
		}
		if err := b.Probe(t.Context()); err != nil {
			t.Fatalf("probe of the server after healing: %v", err)
		}
		if _, err := b.JetStream().Publish(t.Context(), "jobs.x", []byte("again")); err != nil {
			t.Fatal(err)
		}
		c, err := b.JetStream().CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "d", FilterSubject: "jobs.>"})
		if err != nil {
			t.Fatal(err)
		}
		msg, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil || string(msg.Data()) != "again" {
			t.Fatalf("got %v, %v; want the message", msg, err)
		}
	})
}

// jobs is a work queue that can be probed.
var jobs = jetstream.StreamConfig{
	Name: "JOBS", Subjects: []string{"jobs.>", bus.ProbeSubject("JOBS")}, Retention: jetstream.WorkQueuePolicy,
}
