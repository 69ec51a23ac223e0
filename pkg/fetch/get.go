package fetch

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// UnknownSize stands for a size that nobody has told.
const UnknownSize = -1

// Range is a byte range, both ends included. End -1 means to the end of the file; a negative Start with End -1 means
// the last -Start bytes.
type Range struct{ Start, End int64 }

func (g *Range) header() (string, error) {
	switch {
	case g.Start < 0 && g.End == -1:
		return "bytes=" + strconv.FormatInt(g.Start, 10), nil
	case g.Start >= 0 && g.End == -1:
		return "bytes=" + strconv.FormatInt(g.Start, 10) + "-", nil
	case g.Start >= 0 && g.End >= g.Start:
		return "bytes=" + strconv.FormatInt(g.Start, 10) + "-" + strconv.FormatInt(g.End, 10), nil
	}
	return "", fault.Field("range", "range %d-%d is empty", g.Start, g.End)
}

// Request is one GET or HEAD.
type Request struct {
	// Method is GET if empty, or HEAD.
	Method string
	// Path is decoded and joined below the remote's base URL; it must pass names.CleanPath (a trailing slash is fine).
	// URL is absolute instead. With neither, the base URL is asked for.
	Path, URL string
	// Query is added to the URL.
	Query url.Values
	// IfNoneMatch is an ETag as it was received, quotes and all.
	IfNoneMatch     string
	IfModifiedSince time.Time
	Range           *Range
	// IfRange is a strong ETag: if the file has another one, the whole file comes instead of Range.
	IfRange string
	// MaxSize caps the body in bytes, decoded. Required for GET.
	MaxSize int64
	Accept  string
	// AcceptEncoding is "identity" if empty. "gzip" saves bytes on large texts; the body is decoded in either case.
	AcceptEncoding string
}

// Response is a usable answer: 2xx, or 304 to a conditional request. Close Body; what is left of it is drained if that
// is cheap, so that the connection can be used again. An open Body holds one of its host's slots (Config.PerHost); who
// opens many at once must not wait for one more of the same host. To break off a Read from another goroutine, cancel
// the context: Close is for the goroutine that reads.
type Response struct {
	Status       int
	ETag         string    // as received; empty if none
	LastModified time.Time // zero if none
	ContentType  string
	Header       http.Header // as received, without cookies
	// Size is how many bytes Body will yield (for HEAD: would); UnknownSize if the upstream does not say.
	Size int64
	// Offset and Total place a 206 in its file; Total may be UnknownSize. For others 0 and Size.
	Offset, Total int64
	// EndUnknown means that the upstream marks the body's end by closing the connection only: whoever has neither size
	// nor digest cannot tell a truncated body from a complete one.
	EndUnknown  bool
	NotModified bool
	Body        io.ReadCloser
	// FinalURL answered. It does not hold this remote's credentials, but may hold a signed query: log Redact(FinalURL).
	FinalURL string

	decoded bool // Body is not what was sent, so ranges do not apply to it
}

// Get asks for a file and returns when the header is there; see the package comment for what is retried before that.
// Failures while Body is read are the same typed errors, and not retried: Download does that.
func (r *Remote) Get(ctx context.Context, req Request) (*Response, error) {
	u, err := r.prepare(&req)
	if err != nil {
		return nil, err
	}
	ctx, op := r.c.tel.start(ctx, r, req.Method, u)
	resp, err := r.retrying(ctx, op, req, u)
	if err != nil {
		op.end(err, 0)
		return nil, err
	}
	op.status(resp)
	if b, ok := resp.Body.(*body); ok {
		b.done = op.end
	} else {
		op.end(nil, 0)
	}
	return resp, nil
}

func (r *Remote) prepare(req *Request) (*url.URL, error) {
	switch req.Method {
	case "":
		req.Method = http.MethodGet
	case http.MethodGet, http.MethodHead:
	default:
		return nil, fault.Field("method", "method %.20q is not GET or HEAD", req.Method)
	}
	if req.MaxSize <= 0 && req.Method == http.MethodGet {
		return nil, fault.Field("max_size", "a request needs a cap on its size")
	}
	if req.AcceptEncoding == "" {
		req.AcceptEncoding = "identity"
	}
	if req.Range != nil {
		if _, err := req.Range.header(); err != nil {
			return nil, err
		}
	}
	return r.target(req.Path, req.URL, req.Query)
}

// retrying runs attempts until one succeeds, the failure is final, or there are none left.
func (r *Remote) retrying(ctx context.Context, op *operation, req Request, u *url.URL) (*Response, error) {
	for try := 1; ; try++ {
		resp, err := r.once(ctx, req, u)
		if err == nil {
			return resp, nil
		}
		if err := r.pause(ctx, op, u, err, try); err != nil {
			return nil, err
		}
	}
}

// pause waits before the try after the try-th, or returns the error to give up with.
func (r *Remote) pause(ctx context.Context, op *operation, u *url.URL, err error, try int) error {
	d := detailOf(err)
	if ctx.Err() != nil {
		return ended(ctx, u)
	}
	if d == nil || d.class == never || try >= r.attempts || d.class == once && try >= 2 || d.after > r.c.cfg.Retry.MaxRetryAfter {
		return err
	}
	var wait time.Duration
	if d.after == 0 { // else the host's brake makes the next attempt wait
		wait = r.c.backoff(try)
	}
	op.retry(err)
	r.c.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "retrying", slog.String("remote", r.name), slog.Any("error", err),
		slog.Int("try", try), slog.Duration("wait", wait))
	if err := r.c.sleep(ctx, wait); err != nil {
		return ended(ctx, u)
	}
	return nil
}

// once runs one chain of redirects.
func (r *Remote) once(ctx context.Context, req Request, u *url.URL) (*Response, error) {
	if r.requests != nil {
		if err := r.c.reserve(ctx, r.requests, 1); err != nil {
			return nil, ended(ctx, u)
		}
	}
	cur := hop{url: u, trusted: origin(u) == r.origin}
	var seen map[string]bool
	for n := 0; ; n++ {
		resp, err := r.send(ctx, req, cur)
		if err != nil {
			return nil, err
		}
		if !isRedirect(resp.Status) {
			return resp, nil
		}
		next, err := r.redirect(cur, &http.Response{Header: resp.Header})
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		if seen == nil {
			seen = map[string]bool{u.String(): true}
		}
		// we keep no cookies, so the same URL gives the same answer
		key := next.url.String()
		if seen[key] {
			return nil, fail(u, ReasonRedirect, never, "upstream redirects in a loop, back to %s", redactURL(next.url))
		}
		seen[key] = true
		if n+1 > r.c.cfg.MaxRedirects {
			return nil, fail(u, ReasonRedirect, never, "upstream redirects more than %d times", r.c.cfg.MaxRedirects)
		}
		cur = next
	}
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// send makes one request and returns 2xx, redirects and an asked-for 304; the rest are errors.
func (r *Remote) send(ctx context.Context, req Request, at hop) (_ *Response, err error) {
	policy := r.c.cfg.Egress
	err = policy.checkURL(at.url)
	if err == nil && r.proxied {
		err = r.checkProxied(ctx, at.url.Hostname())
	}
	if err != nil {
		return nil, transportError(ctx, at.url, err)
	}
	h, release, err := r.c.acquire(ctx, at.url)
	if err != nil {
		return nil, err
	}
	// the cause tells our own reasons to stop from the caller's
	hctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			cancel(nil)
			release()
		}
	}()
	raw, err := r.roundTrip(hctx, req, at)
	if err != nil {
		err = transportError(ctx, at.url, err)
		h.observe(r.c.cfg.Clock.Now(), &r.c.cfg, err)
		return nil, err
	}
	b := newBody(ctx, r, at.url, raw.Body, raw.ContentLength, cancel, release)
	now := r.c.cfg.Clock.Now()
	switch {
	case raw.StatusCode == http.StatusNotModified && (req.IfNoneMatch != "" || !req.IfModifiedSince.IsZero()),
		raw.StatusCode >= 200 && raw.StatusCode < 300, isRedirect(raw.StatusCode):
		h.observe(now, &r.c.cfg, nil)
	default:
		err = statusError(at.url, raw.StatusCode, retryAfter(raw, now))
		h.observe(now, &r.c.cfg, err)
		_ = b.Close()
		return nil, err
	}
	resp, err := r.response(req, at, raw, b)
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	return resp, nil
}

func (r *Remote) roundTrip(ctx context.Context, req Request, at hop) (*http.Response, error) {
	u, tr := at.url, r.away
	hdr := make(http.Header, 8+len(r.auth))
	if at.trusted {
		u, tr = r.withCredentials(u), r.home
		for k, v := range r.auth {
			hdr[k] = v
		}
	}
	hdr["User-Agent"] = []string{r.agent}
	hdr["Accept-Encoding"] = []string{req.AcceptEncoding}
	set := func(k, v string) {
		if v != "" {
			hdr[k] = []string{v}
		}
	}
	set("Accept", req.Accept)
	set("If-None-Match", req.IfNoneMatch)
	if !req.IfModifiedSince.IsZero() {
		set("If-Modified-Since", req.IfModifiedSince.UTC().Format(http.TimeFormat))
	}
	if req.Range != nil {
		v, _ := req.Range.header() // prepare has checked it
		set("Range", v)
		set("If-Range", req.IfRange)
	}
	hreq := &http.Request{Method: req.Method, URL: u, Host: u.Host, Header: hdr, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	return tr.RoundTrip(hreq.WithContext(ctx))
}

// response reads the header into a Response and puts cap, decoding and progress check around the body.
func (r *Remote) response(req Request, at hop, raw *http.Response, b *body) (*Response, error) {
	raw.Header.Del("Set-Cookie")
	resp := &Response{
		Status: raw.StatusCode, ETag: raw.Header.Get("ETag"), ContentType: raw.Header.Get("Content-Type"), Header: raw.Header,
		Size: raw.ContentLength, Total: raw.ContentLength, Body: b, FinalURL: at.url.String(), NotModified: raw.StatusCode == http.StatusNotModified,
		EndUnknown: raw.ProtoMajor == 1 && raw.ContentLength < 0 && len(raw.TransferEncoding) == 0,
	}
	if t, err := http.ParseTime(raw.Header.Get("Last-Modified")); err == nil {
		resp.LastModified = t
	}
	switch {
	case isRedirect(raw.StatusCode):
		return resp, nil
	case resp.NotModified, req.Method == http.MethodHead:
		// nothing to read, so nothing that a caller must close
		_ = b.Close()
		resp.Body, resp.EndUnknown = http.NoBody, false
		if enc := raw.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
			resp.Size, resp.Total = UnknownSize, UnknownSize
		}
		return resp, nil
	case raw.StatusCode == http.StatusPartialContent:
		if err := placeRange(req, at.url, raw, resp); err != nil {
			return nil, err
		}
	}
	if err := r.decode(req, at.url, raw, resp, b); err != nil {
		return nil, err
	}
	b.left = req.MaxSize
	if resp.Size > req.MaxSize {
		return nil, tooLarge(at.url, req.MaxSize, fmt.Sprintf("announces %d bytes", resp.Size))
	}
	return resp, nil
}

// placeRange checks that a 206 is the range that was asked for: appending a wrong one would build a wrong file.
func placeRange(req Request, u *url.URL, raw *http.Response, resp *Response) error {
	start, end, total, ok := parseContentRange(raw.Header.Get("Content-Range"))
	switch {
	case req.Range == nil || !ok:
		return fail(u, ReasonProtocol, never, "upstream sent a part that was not asked for")
	case req.Range.Start >= 0 && start != req.Range.Start,
		req.Range.End >= 0 && end > req.Range.End,
		total >= 0 && end >= total,
		resp.Size >= 0 && resp.Size != end-start+1:
		return fail(u, ReasonProtocol, never, "upstream sent another range than it was asked for")
	}
	resp.Offset, resp.Total, resp.Size = start, total, end-start+1
	return nil
}

// parseContentRange reads "bytes start-end/total", where total may be "*" (-1).
func parseContentRange(s string) (start, end, total int64, ok bool) {
	s, found := strings.CutPrefix(s, "bytes ")
	span, size, found2 := strings.Cut(s, "/")
	first, last, found3 := strings.Cut(span, "-")
	if !found || !found2 || !found3 {
		return 0, 0, 0, false
	}
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	total = UnknownSize
	if size != "*" {
		var err error
		if total, err = strconv.ParseInt(size, 10, 64); err != nil || total < 0 {
			return 0, 0, 0, false
		}
	}
	return start, end, total, err1 == nil && err2 == nil && start >= 0 && end >= start
}

// retryAfter reads the header of a 429 or 503: seconds or a date (RFC 9110, section 10.2.3); 0 if there is none.
func retryAfter(resp *http.Response, now time.Time) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	v := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if secs, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(min(max(secs, 0), int64(longestBrake/time.Second))) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}
