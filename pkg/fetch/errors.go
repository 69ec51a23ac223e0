package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Reasons of the errors of this package. All but ReasonNotFound and ReasonEgressDenied are of kind fault.Upstream.
const (
	ReasonStatus     = "UPSTREAM_STATUS"           // an HTTP status that is no answer; StatusOf has it
	ReasonRefused    = "UPSTREAM_REFUSED"          // no connection: refused, unknown host, TLS
	ReasonTruncated  = "UPSTREAM_TRUNCATED"        // the body broke off
	ReasonTooLarge   = "UPSTREAM_TOO_LARGE"        // the body is over its cap
	ReasonTimeout    = "UPSTREAM_TIMEOUT"          // no connection, header or progress in time
	ReasonRedirect   = "UPSTREAM_REDIRECT_LOOP"    // too many redirects, or one to a URL seen before
	ReasonBadTarget  = "UPSTREAM_REDIRECT_REFUSED" // a redirect that would weaken or leak something, or that leads nowhere
	ReasonEncoding   = "UPSTREAM_ENCODING"         // a Content-Encoding that was not asked for and is not decoded
	ReasonProtocol   = "UPSTREAM_PROTOCOL"         // an answer that contradicts the request, such as a wrong Content-Range
	ReasonSize       = "UPSTREAM_SIZE"             // complete, but not of the expected size
	ReasonDigest     = "UPSTREAM_DIGEST"           // complete, but without the expected digest
	ReasonThrottled  = "UPSTREAM_THROTTLED"        // the host is braked for longer than is waited for; RetryAfter says how long
	ReasonNotFound   = "UPSTREAM_NOT_FOUND"        // 404 or 410; kind fault.NotFound
	ReasonEgress     = "EGRESS_DENIED"             // address, port or scheme not allowed; kind fault.Denied
	reasonOK         = "ok"
	reasonNotChanged = "not_modified"
)

type retryClass uint8

const (
	never   retryClass = iota
	once               // 403
	backoff            // may pass with time
)

// detail is the cause inside the faults of this package: what the retry loop needs to know.
type detail struct {
	text   string
	status int
	class  retryClass
	after  time.Duration // Retry-After, 0 if none
	err    error
}

func (d *detail) Error() string { return d.text }
func (d *detail) Unwrap() error { return d.err }

// StatusOf returns the HTTP status that err is about, or 0.
func StatusOf(err error) int {
	if d := detailOf(err); d != nil {
		return d.status
	}
	return 0
}

func detailOf(err error) *detail {
	var d *detail
	errors.As(err, &d)
	return d
}

func reasonOf(err error) string {
	var f *fault.Error
	if errors.As(err, &f) && f.Reason != "" {
		return f.Reason
	}
	return fault.KindOf(err).String()
}

// fail builds the error of a request for u. The text is complete without the cause and free of secrets.
func fail(u *url.URL, reason string, class retryClass, format string, args ...any) error {
	return failWith(u, reason, &detail{text: fmt.Sprintf(format, args...), class: class})
}

func failWith(u *url.URL, reason string, d *detail) error {
	kind := fault.Upstream
	switch reason {
	case ReasonNotFound:
		kind = fault.NotFound
	case ReasonEgress:
		kind = fault.Denied
	}
	return fault.New(kind, "get %s: %w", redactURL(u), d).WithReason(reason).WithRetryAfter(d.after)
}

func statusError(u *url.URL, status int, after time.Duration) error {
	d := &detail{text: fmt.Sprintf("upstream answered %d %s", status, http.StatusText(status)), status: status, after: after}
	d.text = strings.TrimSpace(d.text)
	switch {
	case status == http.StatusNotFound || status == http.StatusGone:
		return failWith(u, ReasonNotFound, d)
	case status == http.StatusForbidden:
		d.class = once
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		d.class = backoff
	case status >= 500 && status != http.StatusNotImplemented && status != http.StatusHTTPVersionNotSupported:
		d.class = backoff
	}
	return failWith(u, ReasonStatus, d)
}

// ended is the error for a caller that gave up. It keeps the context's own error, so that kinds and errors.Is work
// even when the context was cancelled with a cause.
func ended(ctx context.Context, u *url.URL) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return fmt.Errorf("get %s: %w", redactURL(u), cause)
	}
	return fmt.Errorf("get %s: %w: %w", redactURL(u), err, cause)
}

// transportError sorts what net/http returned instead of a response.
func transportError(ctx context.Context, u *url.URL, err error) error {
	var (
		egress *EgressError
		dns    *net.DNSError
		timed  interface{ Timeout() bool }
		op     *net.OpError
		cert   *tls.CertificateVerificationError
		unauth x509.UnknownAuthorityError
		record tls.RecordHeaderError
		alert  tls.AlertError
		proxy  *proxyError
	)
	switch {
	case errors.As(err, &egress):
		return failWith(u, ReasonEgress, &detail{text: egress.Error(), err: egress})
	case ctx.Err() != nil:
		return ended(ctx, u)
	case errors.As(err, &proxy):
		d := &detail{text: proxy.Error(), status: proxy.status, err: err}
		if proxy.status >= 500 {
			d.class = backoff // it cannot reach the upstream just now
		}
		return failWith(u, ReasonStatus, d)
	case errors.As(err, &cert), errors.As(err, &unauth):
		return failWith(u, ReasonRefused, &detail{text: "the upstream's certificate cannot be trusted: " + clean(err), err: err})
	case errors.As(err, &record), errors.As(err, &alert):
		return failWith(u, ReasonRefused, &detail{text: "no TLS with the upstream: " + clean(err), err: err})
	case errors.As(err, &dns):
		d := &detail{text: "host name could not be resolved", class: backoff, err: err}
		if dns.IsNotFound {
			d.text, d.class = "no such host", never
		}
		return failWith(u, ReasonRefused, d)
	case errors.As(err, &timed) && timed.Timeout():
		return failWith(u, ReasonTimeout, &detail{text: "upstream did not answer in time", class: backoff, err: err})
	case errors.As(err, &op) && op.Op == "dial":
		return failWith(u, ReasonRefused, &detail{text: "could not connect: " + clean(op.Err), class: backoff, err: err})
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &op):
		return failWith(u, ReasonRefused, &detail{text: "connection closed before an answer", class: backoff, err: err})
	}
	return failWith(u, ReasonRefused, &detail{text: "request failed: " + clean(err), class: backoff, err: err})
}

// proxyError is a proxy's refusal to open a tunnel.
type proxyError struct{ status int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

// clean keeps a foreign error's text from flooding or faking a line.
func clean(err error) string {
	s := strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, err.Error())
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}
