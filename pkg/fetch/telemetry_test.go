package fetch_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func TestTelemetryIsBoundedAndHoldsNoSecret(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	reader := sdkmetric.NewManualReader()
	var logs bytes.Buffer
	c := newClient(t, func(c *fetch.Config) {
		c.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		c.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
		c.Log = slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	up := fetchtest.New(t)
	up.Script("/t/canary-path/f", fetchtest.Status(500), fetchtest.Body([]byte("12345")))
	up.Script("/t/canary-path/gone", fetchtest.Status(404))
	up.Script("/t/canary-path/same", fetchtest.File(nil))
	r := newRemote(t, c, up.URL, func(c *fetch.RemoteConfig) {
		c.Kind = "conda"
		c.Credentials = fetch.Credentials{Bearer: "canary-bearer", PathToken: "canary-path", Query: "canary-query"}
	})
	if _, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Download(t.Context(), fetch.DownloadRequest{Path: "gone", Size: 5}, &sink{}); err == nil {
		t.Fatal("no error")
	}
	if _, _, err := get(t, r, fetch.Request{Path: "same", IfNoneMatch: fetchtest.ETag(nil)}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range spans.GetSpans() {
		for _, a := range s.Attributes {
			if strings.Contains(a.Value.String(), "canary") {
				t.Errorf("span attribute %s=%s", a.Key, a.Value.String())
			}
			if a.Key == "url.full" {
				got[strings.TrimPrefix(a.Value.String(), up.URL)] = fmt.Sprintf("%s %d", s.Status.Code, len(s.Events))
			}
		}
	}
	if d := cmp.Diff(map[string]string{"/f": "Unset 1", "/gone": "Error 0", "/same": "Unset 0"}, got); d != "" {
		t.Error(d)
	}
	if s := logs.String(); strings.Contains(s, "canary") || !strings.Contains(s, "retrying") {
		t.Errorf("log: %s", s)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	for _, m := range rm.ScopeMetrics[0].Metrics {
		sum, ok := m.Data.(metricdata.Sum[int64])
		if !ok {
			continue
		}
		for _, p := range sum.DataPoints {
			var labels []string
			for _, a := range p.Attributes.ToSlice() {
				labels = append(labels, string(a.Key)+"="+a.Value.String())
			}
			counts[m.Name+" "+strings.Join(labels, " ")] = p.Value
		}
	}
	want := map[string]int64{
		"entrepot.fetch.requests outcome=ok remote.kind=conda":                  1,
		"entrepot.fetch.requests outcome=UPSTREAM_NOT_FOUND remote.kind=conda":  1,
		"entrepot.fetch.requests outcome=not_modified remote.kind=conda":        1,
		"entrepot.fetch.retries outcome=UPSTREAM_STATUS remote.kind=conda":      1,
		"entrepot.fetch.body.size outcome=ok remote.kind=conda":                 5,
		"entrepot.fetch.body.size outcome=UPSTREAM_NOT_FOUND remote.kind=conda": 0,
		"entrepot.fetch.body.size outcome=not_modified remote.kind=conda":       0,
	}
	if d := cmp.Diff(want, counts); d != "" {
		t.Error(d)
	}
}

func TestRequestsToOneHostAreBounded(t *testing.T) {
	var now, most atomic.Int64
	up := fetchtest.New(t)
	up.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		_, _ = w.Write(noise(1, 100_000))
	}))
	c := newClient(t, func(c *fetch.Config) { c.PerHost = 3 })
	done := make(chan error)
	for i := range 30 {
		r := newRemote(t, c, up.URL) // the bound is the host's, whichever remote asks
		go func() {
			_, err := r.Download(t.Context(), fetch.DownloadRequest{Path: fmt.Sprint(i), Size: 100_000}, &sink{})
			done <- err
		}()
	}
	for range 30 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if m := most.Load(); m > 3 {
		t.Errorf("%d at once", m)
	}
}
