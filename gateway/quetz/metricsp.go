package quetz

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot-dev/entrepot/gateway/edge"
)

// counters are what /metricsp shows: the dialect's requests, under the names that dashboards made for Quetz know. The
// platform's own metrics, with traces and all other parts, are on the operations port. Labels are routes, never names of
// channels or packages: their number is bounded, and what is private stays so.
type counters struct {
	routes             []*routeCounters
	downloads, uploads atomic.Int64
	exceptions         atomic.Int64
	database           func() (size, used int) // nil: this process has none
}

// bounds are the upper ends of the buckets of times, in seconds.
var bounds = []float64{.001, .005, .01, .05, .1, .5, 1, 5, 30}

type routeCounters struct {
	method, path string
	inProgress   atomic.Int64

	mu       sync.Mutex
	statuses map[int]int64
	buckets  [10]int64 // by bounds; the last one is without bound
	seconds  float64
	count    int64
}

// count wraps a route's handler.
func (c *counters) count(route edge.Route) edge.Route {
	rc := &routeCounters{method: route.Method, path: route.Pattern, statuses: map[int]int64{}}
	c.routes = append(c.routes, rc)
	next := route.Handler
	download := strings.HasSuffix(route.Pattern, "/{path...}")
	upload := route.Method == http.MethodPost && route.Kind == edge.Bytes
	route.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rc.inProgress.Add(1)
		sw := &statusWriter{ResponseWriter: w}
		ended := false
		defer func() {
			rc.inProgress.Add(-1)
			if !ended { // a panic is on its way; the edge answers it
				c.exceptions.Add(1)
				sw.status = http.StatusInternalServerError
			}
			rc.add(sw.status, time.Since(begun))
		}()
		next.ServeHTTP(sw, r)
		ended = true
		switch {
		case upload && sw.status == http.StatusCreated:
			c.uploads.Add(1)
		case download && r.Method == http.MethodGet && (sw.status == http.StatusOK || sw.status == http.StatusPartialContent) && isPackage(r.URL.Path):
			c.downloads.Add(1)
		}
	})
	return route
}

func isPackage(path string) bool {
	return strings.HasSuffix(path, ".conda") || strings.HasSuffix(path, ".tar.bz2")
}

func (rc *routeCounters) add(status int, took time.Duration) {
	s := took.Seconds()
	i, _ := slices.BinarySearch(bounds, s)
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.statuses[status]++
	rc.buckets[i]++
	rc.seconds += s
	rc.count++
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps the way on which the kernel sends files by itself.
func (w *statusWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, r)
}

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// metricsp writes the counters as Prometheus reads them.
func (c *counters) metricsp(w http.ResponseWriter, _ *http.Request) error {
	var b strings.Builder
	family := func(name, kind, help string, each func(rc *routeCounters, labels string)) {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		for _, rc := range c.routes {
			each(rc, fmt.Sprintf(`method="%s",path_template="%s"`, rc.method, rc.path))
		}
	}
	family("quetz_requests_total", "counter", "Requests by method and path.", func(rc *routeCounters, labels string) {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		if rc.count > 0 {
			fmt.Fprintf(&b, "quetz_requests_total{%s} %d\n", labels, rc.count)
		}
	})
	family("quetz_responses_total", "counter", "Answers by method, path and status.", func(rc *routeCounters, labels string) {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		codes := make([]int, 0, len(rc.statuses))
		for code := range rc.statuses {
			codes = append(codes, code)
		}
		slices.Sort(codes)
		for _, code := range codes {
			fmt.Fprintf(&b, "quetz_responses_total{%s,status_code=\"%d\"} %d\n", labels, code, rc.statuses[code])
		}
	})
	family("quetz_requests_processing_time_seconds", "histogram", "How long answers took.", func(rc *routeCounters, labels string) {
		rc.mu.Lock()
		defer rc.mu.Unlock()
		if rc.count == 0 {
			return
		}
		sum := int64(0)
		for i, bound := range bounds {
			sum += rc.buckets[i]
			fmt.Fprintf(&b, "quetz_requests_processing_time_seconds_bucket{%s,le=\"%g\"} %d\n", labels, bound, sum)
		}
		fmt.Fprintf(&b, "quetz_requests_processing_time_seconds_bucket{%s,le=\"+Inf\"} %d\n", labels, rc.count)
		fmt.Fprintf(&b, "quetz_requests_processing_time_seconds_sum{%s} %g\nquetz_requests_processing_time_seconds_count{%s} %d\n", labels, rc.seconds, labels, rc.count)
	})
	family("quetz_requests_in_progress", "gauge", "Requests that are being answered.", func(rc *routeCounters, labels string) {
		if n := rc.inProgress.Load(); n > 0 {
			fmt.Fprintf(&b, "quetz_requests_in_progress{%s} %d\n", labels, n)
		}
	})
	for _, total := range []struct {
		name, help string
		n          int64
	}{
		{"quetz_exceptions_total", "Requests that ended without an answer.", c.exceptions.Load()},
		{"download_count", "Package files that were sent.", c.downloads.Load()},
		{"upload_count", "Requests that brought package files.", c.uploads.Load()},
	} {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s counter\n%s %d\n", total.name, total.help, total.name, total.name, total.n)
	}
	if c.database != nil {
		size, used := c.database()
		fmt.Fprintf(&b, "# HELP database_pool_size Connections to the database that this process may have.\n# TYPE database_pool_size gauge\ndatabase_pool_size %d\n", size)
		fmt.Fprintf(&b, "# HELP database_connections_used Connections to the database that are in use.\n# TYPE database_connections_used gauge\ndatabase_connections_used %d\n", used)
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, err := w.Write([]byte(b.String()))
	return ignoreGone(err)
}
