package jobs_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// tale is an event in short.
func tale(e jobs.Event) string {
	switch e.Kind {
	case jobs.EventState:
		return string(e.State.State)
	case jobs.EventProgress:
		return fmt.Sprintf("%d/%d", e.Progress.Done, e.Progress.Total)
	}
	return e.Log.Level.String() + " " + e.Log.Line
}

func TestFollow(t *testing.T) {
	// a job that says three lines, waits, and says one more
	setup := func(t *testing.T) (b *bundle, goOn chan struct{}) {
		b, goOn = setup(t), make(chan struct{})
		b.handle(jobs.KindSpec{}, func(ctx context.Context, job *jobs.Job[args]) (any, error) {
			for i := range 3 {
				job.Logf("line %d", i)
			}
			<-goOn
			job.Progress(1, 2, 3, "half")
			job.Log(slog.LevelWarn, "last")
			return "r", nil
		})
		b.start()
		return b, goOn
	}
	// follow sends the events until the end.
	follow := func(b *bundle, id uuid.UUID, last string) <-chan jobs.Event {
		events := make(chan jobs.Event, 100)
		go func() {
			defer close(events)
			ctx, cancel := context.WithTimeout(b.t.Context(), patient)
			defer cancel()
			for e, err := range b.client.Follow(ctx, id, last) {
				if b.t.Context().Err() != nil {
					return // the test has seen enough
				}
				if err != nil {
					b.t.Errorf("follow: %v", err)
					return
				}
				events <- e
			}
		}()
		return events
	}
	// until collects up to a certain event; "" means the end.
	until := func(t *testing.T, events <-chan jobs.Event, what string) (all []jobs.Event, tales []string) {
		t.Helper()
		for {
			select {
			case e, ok := <-events:
				if !ok {
					if what != "" {
						t.Fatalf("the end before %q: %v", what, tales)
					}
					return all, tales
				}
				all, tales = append(all, e), append(tales, tale(e))
				if tale(e) == what {
					return all, tales
				}
			case <-time.After(patient):
				t.Fatalf("no %q: %v", what, tales)
			}
		}
	}
	// stable leaves out the state from the database at the beginning, which depends on the moment
	lines := func(tales []string) (out []string) {
		for _, s := range tales {
			if s != "queued" && s != "running" && s != "1/2" {
				out = append(out, s)
			}
		}
		return out
	}

	t.Run("a follower sees lines, progress and the terminal state last", func(t *testing.T) {
		b, goOn := setup(t)
		res := b.enqueue("x")
		events := follow(b, res.JobID, "")
		_, tales := until(t, events, "INFO line 2")
		close(goOn)
		all, rest := until(t, events, "")
		tales = append(tales, rest...)
		if diff := cmp.Diff([]string{"INFO line 0", "INFO line 1", "INFO line 2", "WARN last", "succeeded"}, lines(tales)); diff != "" {
			t.Error(diff)
		}
		end := all[len(all)-1]
		want := &jobs.StateEvent{State: jobs.Succeeded, Result: json.RawMessage(`"r"`), Progress: jobs.Progress{Done: 1, Total: 2, Bytes: 3, Message: "half"}}
		if diff := cmp.Diff(want, end.State); diff != "" {
			t.Error(diff)
		}
		var decoded jobs.Event
		if err := json.Unmarshal(end.Data(), &decoded); err != nil || decoded.Job != res.JobID || decoded.State.State != jobs.Succeeded {
			t.Errorf("%s: %v", end.Data(), err)
		}
	})

	t.Run("a late follower gets what is stored, then the end", func(t *testing.T) {
		b, goOn := setup(t)
		close(goOn)
		res := b.enqueue("x")
		b.ends(res.JobID, jobs.Succeeded)
		_, tales := until(t, follow(b, res.JobID, ""), "")
		if diff := cmp.Diff([]string{"INFO line 0", "INFO line 1", "INFO line 2", "WARN last", "succeeded"}, lines(tales)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a follower that comes back goes on behind its last event", func(t *testing.T) {
		b, goOn := setup(t)
		res := b.enqueue("x")
		all, _ := until(t, follow(b, res.JobID, ""), "INFO line 1")
		events := follow(b, res.JobID, all[len(all)-1].ID)
		_, first := until(t, events, "INFO line 2")
		if diff := cmp.Diff([]string{"INFO line 2"}, first); diff != "" {
			t.Error(diff)
		}
		close(goOn)
		until(t, events, "succeeded")
	})

	t.Run("after the stream was lost the state comes first, then what is new", func(t *testing.T) {
		b, goOn := setup(t)
		res := b.enqueue("x")
		all, _ := until(t, follow(b, res.JobID, ""), "INFO line 2")
		if err := b.bus.JetStream().DeleteStream(t.Context(), "EVENTS"); err != nil {
			t.Fatal(err)
		}
		events := follow(b, res.JobID, all[len(all)-1].ID)
		got, first := until(t, events, "running")
		if len(first) != 1 || strings.Split(got[0].ID, "-")[0] == strings.Split(all[0].ID, "-")[0] {
			t.Errorf("%v with id %s", first, got[0].ID)
		}
		close(goOn)
		_, rest := until(t, events, "")
		if diff := cmp.Diff([]string{"WARN last", "succeeded"}, lines(rest)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("an id past the end of its stream gets the state, then what is new", func(t *testing.T) {
		b, goOn := setup(t)
		res := b.enqueue("x")
		all, _ := until(t, follow(b, res.JobID, ""), "INFO line 2")
		epoch, _, _ := strings.Cut(all[len(all)-1].ID, "-")
		events := follow(b, res.JobID, epoch+"-9999")
		_, first := until(t, events, "running")
		if len(first) != 1 {
			t.Errorf("first %v", first)
		}
		close(goOn)
		_, rest := until(t, events, "")
		if diff := cmp.Diff([]string{"WARN last", "succeeded"}, lines(rest)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("an id that is none begins at the front", func(t *testing.T) {
		b, goOn := setup(t)
		close(goOn)
		res := b.enqueue("x")
		b.ends(res.JobID, jobs.Succeeded)
		_, tales := until(t, follow(b, res.JobID, "what?"), "")
		if len(lines(tales)) != 5 {
			t.Errorf("%v", tales)
		}
	})

	t.Run("without a bus the states of the database are told", func(t *testing.T) {
		b, goOn := setup(t)
		b.client = jobs.NewClient(jobs.ClientConfig{Pool: b.pool, FollowPoll: 10 * time.Millisecond})
		res := b.enqueue("x")
		events := follow(b, res.JobID, "")
		until(t, events, "running")
		close(goOn)
		until(t, events, "succeeded")
	})

	t.Run("what does not exist cannot be followed", func(t *testing.T) {
		b, _ := setup(t)
		for _, err := range b.client.Follow(t.Context(), uuid.New(), "") {
			if !fault.Is(err, fault.NotFound) {
				t.Errorf("error %v", err)
			}
		}
	})

	t.Run("a follower that leaves leaves nothing behind", func(t *testing.T) {
		b, goOn := setup(t)
		defer close(goOn)
		res := b.enqueue("x")
		for e, err := range b.client.Follow(t.Context(), res.JobID, "") {
			if err != nil || tale(e) == "INFO line 0" {
				break
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for _, err := range b.client.Follow(ctx, res.JobID, "") {
			if err != nil && !fault.Is(err, fault.Cancelled) {
				t.Errorf("error %v", err)
			}
			cancel()
		}
	})

	t.Run("followers are told of progress four times a second at most, and of the last", func(t *testing.T) {
		b := newBundle(t)
		b.handle(jobs.KindSpec{}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			for i := range 1000 {
				job.Progress(int64(i+1), 1000, 0, "")
			}
			return nil, nil
		})
		b.start()
		_, tales := until(t, follow(b, b.enqueue("x").JobID, ""), "")
		var progress []string
		for _, s := range tales {
			if strings.Contains(s, "/") {
				progress = append(progress, s)
			}
		}
		if len(progress) == 0 || len(progress) > 5 || progress[len(progress)-1] != "1000/1000" {
			t.Errorf("progress %v", progress)
		}
	})

	t.Run("the progress of a running job reaches the database", func(t *testing.T) {
		b := newBundle(t)
		goOn := make(chan struct{})
		b.handle(jobs.KindSpec{}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			job.Progress(1, 2, 3, "half")
			<-goOn
			return nil, nil
		})
		b.start()
		defer close(goOn)
		res := b.enqueue("x")
		b.comes("progress", func() bool {
			return b.get(res.JobID).Progress == jobs.Progress{Done: 1, Total: 2, Bytes: 3, Message: "half"}
		})
	})
}

func TestTelemetry(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	b := setup(t)
	b.handle(jobs.KindSpec{}, func(context.Context, *jobs.Job[args]) (any, error) { return nil, nil })
	b.dispatcher(func(c *jobs.DispatcherConfig) { c.Meter = meter })
	r := b.runner(func(c *jobs.RunnerConfig) { c.Tracer, c.Meter = tracer, meter })

	ctx, request := tracer.Tracer("test").Start(t.Context(), "request")
	res, err := b.client.Enqueue(ctx, b.pool, jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String("x")})
	if err != nil {
		t.Fatal(err)
	}
	request.End()
	b.ends(res.JobID, jobs.Succeeded)
	later := b.enqueue("x", func(p *jobs.EnqueueParams) { p.StartAt = time.Now().Add(time.Hour) })

	t.Run("the attempt is a child of the request", func(t *testing.T) {
		r.Stop(t.Context()) // the span has ended
		for _, s := range spans.Ended() {
			if s.Name() == "jobs.run "+kind {
				if s.SpanContext().TraceID() != request.SpanContext().TraceID() || s.Parent().SpanID() != request.SpanContext().SpanID() {
					t.Errorf("parent %v, want %v", s.Parent(), request.SpanContext())
				}
				return
			}
		}
		t.Error("no span")
	})

	t.Run("metrics are labelled by kind and state alone", func(t *testing.T) {
		b.comes("the relay's deletion", func() bool { // it follows the message, which may have been worked off by then
			var rows int
			if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM jobs.outbox`).Scan(&rows); err != nil {
				t.Fatal(err)
			}
			return rows == 0
		})
		var rm metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &rm); err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		add := func(name string, set attribute.Set, v float64) {
			for _, kv := range set.ToSlice() {
				if kv.Key != "kind" && kv.Key != "state" {
					t.Errorf("%s has label %s", name, kv.Key)
				}
			}
			state, _ := set.Value("state")
			got[strings.TrimSuffix(name+" "+state.AsString(), " ")] = v
		}
		for _, sm := range rm.ScopeMetrics {
			for _, m := range sm.Metrics {
				switch d := m.Data.(type) {
				case metricdata.Sum[int64]:
					for _, p := range d.DataPoints {
						add(m.Name, p.Attributes, float64(p.Value))
					}
				case metricdata.Gauge[int64]:
					for _, p := range d.DataPoints {
						add(m.Name, p.Attributes, float64(p.Value))
					}
				case metricdata.Gauge[float64]:
					for _, p := range d.DataPoints {
						add(m.Name, p.Attributes, p.Value)
					}
				case metricdata.Histogram[float64]:
					for _, p := range d.DataPoints {
						add(m.Name, p.Attributes, float64(p.Count))
					}
				}
			}
		}
		want := map[string]float64{
			"entrepot.jobs.attempts succeeded": 1, "entrepot.jobs.attempt.duration succeeded": 1, "entrepot.jobs.wait": 1, "entrepot.jobs.active": 0,
			"entrepot.jobs.count queued": 0, "entrepot.jobs.count scheduled": 1, "entrepot.jobs.count running": 0,
			"entrepot.jobs.slots": 0, "entrepot.jobs.oldest.age": 0, "entrepot.jobs.outbox.rows": 0, "entrepot.jobs.outbox.lag": 0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	if b.get(later.JobID).State != jobs.Scheduled {
		t.Error("the later job has moved")
	}
}
