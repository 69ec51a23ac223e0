package edge

import (
	"context"
	"io"
	"net/http"
	"sync"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// recorder notes an answer's status. It hands ReadFrom through, so that files still go out by sendfile.
type recorder struct {
	http.ResponseWriter
	code  int
	wrote bool
	// hangUp ends the connection with an error: what is left of the body would have to be read otherwise.
	hangUp bool
	// before is called with the status before the answer goes out; nil for nothing.
	before func(status int)
}

func (r *recorder) WriteHeader(code int) {
	if !r.wrote && code >= 200 {
		r.code, r.wrote = code, true
		if r.before != nil {
			r.before(code)
		}
		if r.hangUp && code >= 400 {
			r.Header()["Connection"] = []string{"close"}
		}
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.implicit()
	return r.ResponseWriter.Write(p)
}

// ReadFrom keeps net/http's fast path for files, which is sendfile. For what is in memory that path is a slow one: it
// sends the header by itself and takes a fresh buffer for each answer, so such bytes are written instead.
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	r.implicit()
	l, ok := src.(*io.LimitedReader) // what http.ServeContent makes
	if !ok {
		return io.Copy(r.ResponseWriter, src)
	}
	if _, file := l.R.(syscall.Conn); file {
		return r.sendFile(l)
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{r.ResponseWriter}, src, *buf)
}

const (
	// filePart is sent within partTime, or the client is too slow to be kept: 17 kB/s.
	filePart = 1 << 20
	partTime = time.Minute
)

// sendFile sends a file part by part, so that a client that stops reading does not keep it open for ever.
func (r *recorder) sendFile(l *io.LimitedReader) (n int64, err error) {
	if l.N <= filePart/8 { // fits into the kernel's buffers
		return io.Copy(r.ResponseWriter, l)
	}
	ctl := http.NewResponseController(r.ResponseWriter)
	for l.N > 0 && err == nil {
		_ = ctl.SetWriteDeadline(time.Now().Add(partTime)) // not every ResponseWriter can; tests' cannot
		part := &io.LimitedReader{R: l.R, N: min(l.N, filePart)}
		var sent int64
		sent, err = io.Copy(r.ResponseWriter, part)
		n += sent
		l.N -= sent
		if sent == 0 {
			break // the file is shorter than it was
		}
	}
	_ = ctl.SetWriteDeadline(time.Time{})
	return n, err
}

// copyBuffers are as long as most packages, so that these leave in one write.
var copyBuffers = sync.Pool{New: func() any {
	b := make([]byte, 128<<10)
	return &b
}}

// Flush lets event streams out at once.
func (r *recorder) Flush() {
	r.implicit()
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) implicit() {
	if !r.wrote {
		r.code, r.wrote = http.StatusOK, true
		if r.before != nil {
			r.before(http.StatusOK)
		}
	}
}

func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK
	}
	return r.code
}

// requestMetrics are rate, errors and duration by method, route pattern and status class: all bounded.
type requestMetrics struct {
	duration metric.Float64Histogram
	inFlight metric.Int64UpDownCounter
	sets     sync.Map // setKey → metric.MeasurementOption, since building one costs more than recording
}

// methodName returns the method, or _OTHER for one that HTTP does not define: a stranger may send any word.
func methodName(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "_OTHER"
}

type setKey struct {
	method, route string
	class         int
}

func newRequestMetrics() (*requestMetrics, error) {
	meter := otel.Meter("entrepot/edge")
	duration, err := meter.Float64Histogram("http.server.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to answer a request at the edge."),
		metric.WithExplicitBucketBoundaries(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60))
	if err != nil {
		return nil, err
	}
	inFlight, err := meter.Int64UpDownCounter("http.server.active_requests", metric.WithDescription("Requests being answered at the edge."))
	if err != nil {
		return nil, err
	}
	return &requestMetrics{duration: duration, inFlight: inFlight}, nil
}

func (m *requestMetrics) begin() func(ctx context.Context, method, route string, status int) {
	start := time.Now()
	m.inFlight.Add(context.Background(), 1)
	return func(ctx context.Context, method, route string, status int) {
		m.inFlight.Add(context.Background(), -1)
		key := setKey{methodName(method), route, status / 100}
		set, ok := m.sets.Load(key)
		if !ok {
			set, _ = m.sets.LoadOrStore(key, metric.WithAttributeSet(attribute.NewSet(
				attribute.String("http.request.method", key.method), attribute.String("http.route", key.route),
				attribute.String("http.status_class", string('0'+rune(key.class))+"xx"))))
		}
		m.duration.Record(ctx, time.Since(start).Seconds(), set.(metric.MeasurementOption))
	}
}
