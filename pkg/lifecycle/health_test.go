package lifecycle_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
)

// ask sends a probe to a group's handler.
func ask(t *testing.T, g *lifecycle.Group, path string) (int, lifecycle.Health) {
	t.Helper()
	mux := http.NewServeMux()
	g.HandleHealth(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	var h lifecycle.Health
	if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil {
		t.Fatalf("%s: %v in %q", path, err, w.Body)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s may be cached", path)
	}
	return w.Code, h
}

func TestReadinessTellsWhatStandsInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sick := errors.New("no connection")
		var mu sync.Mutex
		var now error
		stopping := make(chan struct{})
		g := lifecycle.New(lifecycle.Options{DrainDelay: time.Second})
		g.Add(
			lifecycle.Module{Name: "db", Check: func(context.Context) error { mu.Lock(); defer mu.Unlock(); return now }},
			lifecycle.Module{Name: "edge", Needs: []string{"db"}, Stop: func(context.Context) error { <-stopping; return nil }},
		)
		want := func(when string, status int, h lifecycle.Health) {
			t.Helper()
			got, parts := ask(t, g, "/healthz/ready")
			if diff := cmp.Diff(h, parts); got != status || diff != "" {
				t.Errorf("%s: %d, want %d; %s", when, got, status, diff)
			}
			if live, _ := ask(t, g, "/healthz/live"); live != http.StatusOK {
				t.Errorf("%s: liveness is %d", when, live)
			}
		}
		want("before the start", http.StatusServiceUnavailable, lifecycle.Health{Status: "unavailable", Parts: map[string]string{"db": "not running", "edge": "not running"}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		synctest.Wait()
		want("running", http.StatusOK, lifecycle.Health{Status: "ok", Parts: map[string]string{"db": "ok", "edge": "ok"}})
		mu.Lock()
		now = sick
		mu.Unlock()
		want("with a sick part", http.StatusServiceUnavailable, lifecycle.Health{Status: "unavailable", Parts: map[string]string{"db": "no connection", "edge": "ok"}})
		mu.Lock()
		now = nil
		mu.Unlock()
		cancel()
		synctest.Wait()
		want("in the drain delay", http.StatusServiceUnavailable, lifecycle.Health{Status: "starting or stopping", Parts: map[string]string{"db": "ok", "edge": "ok"}})
		close(stopping)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestReadinessIsToldOnceAllRunAndBeforeAnythingStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		g := lifecycle.New(lifecycle.Options{OnReady: func(ready bool) {
			told = append(told, map[bool]string{true: "ready", false: "not ready"}[ready])
		}})
		g.Add(lifecycle.Module{
			Name:  "edge",
			Start: func(context.Context) error { told = append(told, "start"); return nil },
			Stop:  func(context.Context) error { told = append(told, "stop"); return nil },
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"start", "ready", "not ready", "stop"}, told); diff != "" {
			t.Error(diff)
		}
	})
}
