// Package edge is what all REST dialects share: who is calling, which route answers, how bytes are served and taken,
// how answers and errors are written.
//
// A request passes these stations. (1) It gets an id and a span. (2) A token in its path becomes its key. (3) Its
// credentials become a caller; a worthless key counts as no login, or is refused, as the dialect wants. (4) A file's
// path is refused if it is not clean, before anything is opened or asked. (5) The table of routes decides; API routes
// do not care for a trailing slash. (6) The handler calls domain services as the caller, and they decide.
//
// Header fields that say who somebody is come no further than this package: they are taken off the request, and
// nothing a client sends becomes gRPC metadata.
package edge

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

// Edge answers all HTTP requests from outside.
type Edge struct {
	auth    *Authenticator
	router  *router
	tracer  trace.Tracer
	metrics *requestMetrics
	files   *Files // nil: there is nothing to forget
}

// New builds the edge from the dialects' tables. The first dialect answers paths that are nobody's.
func New(auth *Authenticator, dialects ...*Dialect) (*Edge, error) {
	rt, err := newRouter(dialects)
	if err != nil {
		return nil, err
	}
	m, err := newRequestMetrics()
	if err != nil {
		return nil, err
	}
	return &Edge{auth: auth, router: rt, tracer: otel.Tracer("entrepot/edge"), metrics: m}, nil
}

// Limit holds back who asks too often; nil holds back nobody. It is called before any request.
func (e *Edge) Limit(l *Limiter) { e.router.limiter = l }

// Remembers names what remembers channels, to be told of the writes that pass. It is called before any request.
func (e *Edge) Remembers(f *Files) { e.files = f }

// Routes returns every dialect's table.
func (e *Edge) Routes() []*Dialect { return e.router.dialects }

// politeBody is how much of a body that nobody wants is read, so that its connection can be used again.
const politeBody = 64 << 10

// loginPath is where programs log in.
const loginPath = "/entrepot/v1/login"

type sessionKey struct{}

// SessionFrom returns the login cookie's value that the request was let in by, if any.
func SessionFrom(ctx context.Context) string {
	s, _ := ctx.Value(sessionKey{}).(string)
	return s
}

// ServeHTTP answers one request.
func (e *Edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, hangUp: r.ContentLength < 0 || r.ContentLength > politeBody}
	if len(r.TransferEncoding) > 0 {
		// A length may have stood beside it, which net/http has dropped: whoever is before us may think that the body ends
		// elsewhere. RFC 9112, 6.1: the connection is closed after such a message.
		rec.Header()["Connection"] = []string{"close"}
	}
	path, token := cutPathToken(r.URL.Path)
	dialect := e.router.dialectOf(path)

	// Every request has a trace of its own. A stranger's is only linked to: who could join any trace could bloat it, and
	// say what is sampled.
	start := ownTrace
	if link := strangersTrace(r.Header); link.SpanContext.IsValid() {
		start = append(slices.Clip(start), trace.WithLinks(link))
	}
	ctx, span := e.tracer.Start(r.Context(), "HTTP", start...)
	id := requestID(r)
	ctx = telemetry.WithRequestID(ctx, id)
	rec.Header()["X-Request-Id"] = []string{id}
	done := e.metrics.begin()
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				span.End()
				panic(p)
			}
			slog.ErrorContext(ctx, "request panicked", "method", r.Method, "route", r.Pattern, "panic", p, "stack", string(debug.Stack()))
			if !rec.wrote {
				dialect.Error(rec, r, fault.New(fault.Internal, "panic"))
			}
		}
		if span.IsRecording() {
			method := methodName(r.Method)
			span.SetName(method + " " + routeName(r))
			span.SetAttributes(attribute.String("http.request.method", method), attribute.String("http.route", routeName(r)),
				attribute.Int("http.response.status_code", rec.status()))
		}
		span.End()
		done(ctx, r.Method, routeName(r), rec.status())
	}()

	creds := credentialsOf(r, token, e.auth.Site)
	if e.router.limiter != nil {
		ctx = context.WithValue(ctx, addressKey{}, e.router.limiter.Address(r)) // the header that says it goes no further
	}
	caller, err := e.auth.Caller(ctx, creds)
	if fault.Is(err, fault.Unauthenticated) && dialect.StrictKeys && creds.Session == "" {
		// It counts as a stranger's request, or keys could be tried as fast as one likes.
		address, _ := ctx.Value(addressKey{}).(string)
		if limited := e.router.limiter.Allow(ctx, authn.Caller{}, address, false); limited != nil {
			err = limited
		}
	}
	// A browser keeps sending a cookie whose login has ended, also to log in again: that is no login, never an error.
	if err != nil && ((dialect.StrictKeys && creds.Session == "") || !fault.Is(err, fault.Unauthenticated)) {
		dialect.Error(rec, r, err)
		return
	}
	if creds.Session != "" {
		if err := e.auth.Site.sameOrigin(r); err != nil {
			dialect.Error(rec, r, err)
			return
		}
		ctx = context.WithValue(ctx, sessionKey{}, creds.Session)
	}
	if strings.HasPrefix(path, "/auth/") || strings.HasPrefix(path, loginPath) {
		ctx = withVisitor(ctx, e.auth.Site, r)
	}
	ctx = authn.NewContext(ctx, caller)
	inner := r.WithContext(ctx)
	inner.URL.Path = path
	dropIdentity(inner.Header)
	if r.Body != nil && r.Body != http.NoBody {
		inner.Body = &idleBody{r.Body, http.NewResponseController(w)}
	}
	if err := e.cleanPath(inner, token != ""); err != nil {
		dialect.Error(rec, inner, err)
		return
	}
	if e.files != nil && !reads(r.Method) {
		rec.before = func(status int) { e.files.wrote(inner, status) }
	}
	e.router.route(rec, inner)
	rec.implicit() // of an answer without a body
	r.Pattern = inner.Pattern
}

// cleanPath refuses a path that is not what it seems and drops a trailing slash from API routes.
func (e *Edge) cleanPath(r *http.Request, hadToken bool) error {
	raw := r.URL.EscapedPath()
	if hadToken {
		r.URL.RawPath = ""
		raw = r.URL.Path
	}
	for _, prefix := range []string{"/get/", "/channels/"} {
		if rest, ok := strings.CutPrefix(r.URL.Path, prefix); ok {
			// One trailing slash asks for a directory; everything else must be clean as it stands.
			rest = strings.TrimSuffix(rest, "/")
			if _, err := names.CleanPath(rest); err != nil {
				return fault.New(fault.NotFound, "%s not found: %w", printable(rest), err)
			}
			return nil
		}
	}
	if len(raw) > 8192 {
		return fault.New(fault.Invalid, "the path is longer than 8192 bytes")
	}
	for _, seg := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/"), "/") {
		if (seg == "" && r.URL.Path != "/") || seg == "." || seg == ".." || strings.ContainsAny(seg, "\x00\\") || !utf8.ValidString(seg) {
			return fault.New(fault.NotFound, "no such path")
		}
	}
	// No proto takes a string that is not UTF-8, and none of our names is one.
	if q, err := url.QueryUnescape(r.URL.RawQuery); err == nil && !utf8.ValidString(q) {
		return fault.New(fault.Invalid, "the query is not UTF-8")
	}
	if len(r.URL.Path) > 1 && strings.HasSuffix(r.URL.Path, "/") {
		r.URL.Path = strings.TrimSuffix(r.URL.Path, "/")
		r.URL.RawPath = strings.TrimSuffix(r.URL.RawPath, "/")
	}
	return nil
}

// printable keeps what a stranger typed from breaking lines or terminals when it is echoed.
func printable(s string) string {
	if len(s) > 256 {
		s = s[:256]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == 0xfffd {
			return '?'
		}
		return c
	}, s)
}

// identityHeaders say who somebody is, or claim to; none goes further.
var identityHeaders = []string{
	"Authorization", "Cookie", "X-Api-Key", "Proxy-Authorization", "Entrepot-Grant", "Entrepot-Target",
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Grpc-Timeout",
	"Traceparent", "Tracestate", "Baggage",
}

// dropIdentity takes off the request what says, or claims to say, who sends it.
func dropIdentity(h http.Header) {
	for name := range h {
		// Some servers read `X_Api_Key` as `X-Api-Key`; that has opened doors elsewhere.
		if strings.Contains(name, "_") || strings.HasPrefix(name, "Grpc-") {
			delete(h, name)
		}
	}
	for _, name := range identityHeaders {
		delete(h, name)
	}
}

var ownTrace = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithNewRoot()}

// strangersTrace returns a link to the trace that a client says its request is part of, without the client's own state.
func strangersTrace(h http.Header) trace.Link {
	if _, traced := h["Traceparent"]; !traced {
		return trace.Link{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(h))
	return trace.Link{SpanContext: trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{})}
}

// requestID takes a caller's own id if it is harmless, so that their logs and ours meet.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 64 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == "" {
		return id
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], rand.Uint64())
	binary.LittleEndian.PutUint64(b[8:], rand.Uint64())
	return hex.EncodeToString(b[:])
}

// routeName is the pattern that matched: bounded, unlike the path.
func routeName(r *http.Request) string {
	if r.Pattern == "" {
		return "none"
	}
	_, p, _ := strings.Cut(r.Pattern, " ")
	return p
}

type drainKey struct{}

// WithDrain returns the base context of a server: streams that would go on for ever end when drain is closed.
func WithDrain(ctx context.Context, drain <-chan struct{}) context.Context {
	return context.WithValue(ctx, drainKey{}, drain)
}

// Draining is closed when the server stops; nil, which never is, without one.
func Draining(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(drainKey{}).(<-chan struct{})
	return c
}
