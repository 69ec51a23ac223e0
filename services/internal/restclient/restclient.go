// Package restclient speaks the platform's native REST API (/entrepot/v1) as a program outside would: over HTTP, with an
// API key, in JSON.
//
// Requests and answers are the messages of the proto module. Every error is, or wraps, a *fault.Error whose kind comes
// from the answer's status and whose message, reason and violations come from its RFC 9457 body; a server that cannot be
// reached at all is fault.Unavailable with the reason [Unreachable].
//
// Reads are repeated a few times when the server says that it is busy (429, 503); nothing else is repeated, except that
// [Client.Follow] reconnects until its job has ended.
package restclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Config says which server to talk to, and as whom.
type Config struct {
	// Server is the URL of the edge, such as http://127.0.0.1:8000; a path before /entrepot/v1 is kept.
	Server string
	// Key is an API key; empty sends none.
	Key string
	// UserAgent names the program.
	UserAgent string
	// HTTP sends the requests; nil means a client with sensible timeouts.
	HTTP *http.Client
	// Backoff is how long to wait before the n-th repetition, n from 1; nil means 200 ms doubling up to 5 s.
	Backoff func(n int) time.Duration
	// CallTimeout bounds a call that is neither an upload, a download nor a stream; 0 means a minute.
	CallTimeout time.Duration
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	base *url.URL
	cfg  Config
}

// prefix begins every path of the API.
const prefix = "/entrepot/v1"

// New checks the configuration.
func New(cfg Config) (*Client, error) {
	base, err := ParseServer(cfg.Server)
	if err != nil {
		return nil, err
	}
	if cfg.HTTP == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 32
		cfg.HTTP = &http.Client{Transport: t}
	}
	if cfg.Backoff == nil {
		cfg.Backoff = func(n int) time.Duration { return min(100*time.Millisecond<<min(n, 10), 5*time.Second) }
	}
	if cfg.CallTimeout == 0 {
		cfg.CallTimeout = time.Minute
	}
	return &Client{base: base, cfg: cfg}, nil
}

// ParseServer checks the URL of a server and returns it without a trailing slash.
func ParseServer(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(s, "/"))
	switch {
	case err != nil:
		return nil, fault.Field("server", "%q is not a URL: %v", s, errors.Unwrap(err))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fault.Field("server", "%q is not a server's URL; write it like http://127.0.0.1:8000", s)
	case u.User != nil:
		return nil, fault.Field("server", "the server's URL must not hold a password; keys are given by login or ENTREPOT_API_KEY")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fault.Field("server", "%q must not have a query or a fragment", s)
	}
	return u, nil
}

// Server returns the server's URL without a trailing slash.
func (c *Client) Server() string { return c.base.String() }

// HasKey reports whether requests carry a key.
func (c *Client) HasKey() bool { return c.cfg.Key != "" }

// CloseIdle closes the connections that wait for further requests.
func (c *Client) CloseIdle() { c.cfg.HTTP.CloseIdleConnections() }

// endpoint builds a URL below the server; segments are escaped one by one.
func (c *Client) endpoint(query url.Values, segments ...string) *url.URL {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		escaped[i] = url.PathEscape(s)
	}
	u := *c.base
	u.RawPath = c.base.EscapedPath() + "/" + strings.Join(escaped, "/")
	u.Path = c.base.Path + "/" + strings.Join(segments, "/")
	u.RawQuery = query.Encode()
	return &u
}

// api builds the URL of a route of the API.
func (c *Client) api(query url.Values, segments ...string) *url.URL {
	return c.endpoint(query, append(strings.Split(prefix[1:], "/"), segments...)...)
}

func (c *Client) request(ctx context.Context, method string, u *url.URL, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if c.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.cfg.Key)
	}
	if c.cfg.UserAgent != "" {
		req.Header.Set("User-Agent", c.cfg.UserAgent)
	}
	return req, nil
}

// send does a request and turns every status of 400 and more into an error.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return nil, c.transportError(req.Context(), err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, problem(resp)
	}
	return resp, nil
}

// Unreachable is the reason of the error that says that no answer came.
const Unreachable = "UNREACHABLE"

// notEntrepot is the reason of the error that says that something else answered.
const notEntrepot = "NOT_ENTREPOT"

func (c *Client) transportError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.DeadlineExceeded) {
		return cause
	}
	// *url.Error repeats method and URL, which say nothing new, and may hold a redirect's secret.
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var ne net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		return fault.New(fault.Unavailable, "%s did not answer in time", c.Server()).WithReason(Unreachable)
	}
	return fault.New(fault.Unavailable, "cannot reach %s: %w", c.Server(), err).WithReason(Unreachable)
}

// reads is how often a read is tried in all.
const reads = 4

// call sends in as JSON, if it is not nil, and reads the answer into out, if that is not nil.
func (c *Client) call(ctx context.Context, method string, u *url.URL, in, out proto.Message) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = (protojson.MarshalOptions{UseProtoNames: true}).Marshal(in); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
	}
	for try := 1; ; try++ {
		err := c.once(ctx, method, u, body, out)
		var f *fault.Error
		if err == nil || method != http.MethodGet || try == reads || !errors.As(err, &f) ||
			f.Reason == Unreachable || f.Kind != fault.Unavailable && f.Kind != fault.Exhausted {
			return err
		}
		if wait(ctx, max(f.RetryAfter, c.cfg.Backoff(try))) != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, method string, u *url.URL, body []byte, out proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	req, err := c.request(ctx, method, u, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.transportError(ctx, err)
	}
	if out == nil {
		return nil
	}
	return c.decode(data, out)
}

// maxAnswer bounds what is read of an answer; a page of a thousand of anything is far smaller.
const maxAnswer = 64 << 20

func (c *Client) decode(data []byte, out proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, out); err != nil {
		return fault.New(fault.Upstream, "%s does not answer like an Entrepot server; is the URL right?", c.Server()).WithReason(notEntrepot)
	}
	return nil
}

// wait sleeps, or returns why it could not.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || s < 0 {
		return 0
	}
	return time.Duration(min(s, 30)) * time.Second
}
