package fetchplane

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

const (
	// lookupFresh is how long the addresses of a name are believed.
	lookupFresh = 5 * time.Second
	// avoidFor is how long a process that did not answer is asked last.
	avoidFor = 3 * time.Second
	// Beat is how often a plane that has no answer yet shows that it works on it, with a 102 Processing.
	Beat = 500 * time.Millisecond
	// silence is how long a plane may show nothing before the next one is asked: ten beats. hurry is the same if there is a
	// copy to be served instead.
	silence = 5 * time.Second
	hurry   = 2 * time.Second
	// local is the node that runs in this process.
	local = "local"
)

// Options configure a Client.
type Options struct {
	// URLs are where planes listen, such as http://sync:9092. A name with several addresses stands for several planes.
	URLs []string
	// Dial connects to the plane of this process; nil if there is none. It is used if URLs is empty.
	Dial func(ctx context.Context) (net.Conn, error)
	// Token returns the internal token of this process for Audience.
	Token func(ctx context.Context) (string, error)
	// Lookup resolves a host name; nil means the system's resolver.
	Lookup func(ctx context.Context, host string) ([]string, error)
	// Log gets what goes wrong with single planes; nil means slog.Default.
	Log *slog.Logger
}

// Client asks fetch planes. It may be used from many goroutines.
type Client struct {
	o     Options
	http  *http.Client
	local *http.Client

	mu      sync.Mutex
	nodes   []string
	known   time.Time
	avoided map[string]time.Time
}

// NewClient returns a client. Close it.
func NewClient(o Options) (*Client, error) {
	for _, s := range o.URLs {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fault.Field("fetch_urls", "%q is not an address such as http://sync:9092", s)
		}
	}
	if o.Lookup == nil {
		o.Lookup = net.DefaultResolver.LookupHost
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	refuse := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{o: o, avoided: map[string]time.Time{}}
	c.http = &http.Client{CheckRedirect: refuse, Transport: transport(nil)}
	if o.Dial != nil {
		c.local = &http.Client{CheckRedirect: refuse, Transport: transport(o.Dial)}
	}
	return c, nil
}

func transport(dial func(context.Context) (net.Conn, error)) *http.Transport {
	t := &http.Transport{
		DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second,
		DisableCompression: true, ForceAttemptHTTP2: false,
	}
	if dial != nil {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	}
	return t
}

// Close closes idle connections.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	if c.local != nil {
		c.local.CloseIdleConnections()
	}
}

// Answer is what a plane said: Resolved, or a stream.
type Answer struct {
	// Resolved is set if the file is in storage now.
	Resolved *channelsv1.ResolveResponse
	// Age and Warning tell of a stale copy; empty for a fresh one.
	Age, Warning string
	// Stream is for the client; close its body. What breaks off there must break off for the client too.
	Stream *http.Response
}

// Ask asks for a file on behalf of a client's GET or HEAD. The caller has decided that the client may read the channel.
// A plane that does not answer is passed over for the next one; an answer is an answer, also a bad one.
//
// A plane that shows nothing for a while counts as one that does not answer; sooner if there is a copy to be served instead.
//
// lost is the digest, in hexadecimal, of bytes that should be in storage and are not; empty in all other cases.
func (c *Client) Ask(r *http.Request, ch *channelsv1.Channel, path, lost string, copied bool) (*Answer, error) {
	patience := silence
	if copied {
		patience = hurry
	}
	nodes, err := c.order(r.Context(), RouteKey(ch.GetId(), path))
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, fault.New(fault.Unavailable, "no fetch plane is known: what proxy channels have not stored cannot be fetched")
	}
	var last error
	for _, node := range nodes {
		resp, err := c.send(r, node, ch, path, lost, patience)
		if err == nil {
			return read(resp)
		}
		if r.Context().Err() != nil {
			return nil, context.Cause(r.Context())
		}
		last = err
		if fault.KindOf(err) == fault.Unauthenticated {
			break // no token: no other node would do better
		}
		c.o.Log.WarnContext(r.Context(), "a fetch plane does not answer", "node", node, "error", err)
		c.avoid(node)
	}
	return nil, fault.New(fault.Unavailable, "no fetch plane answers: %w", last)
}

func (c *Client) send(r *http.Request, node string, ch *channelsv1.Channel, path, lost string, patience time.Duration) (_ *http.Response, err error) {
	token, err := c.o.Token(r.Context())
	if err != nil {
		return nil, err
	}
	base, hc := node, c.http
	if node == local {
		base, hc = "http://local", c.local
	}
	method := http.MethodGet
	if r.Method == http.MethodHead {
		method = http.MethodHead
	}
	q := url.Values{"channel": {ch.GetName()}, "id": {ch.GetId()}, "path": {path}}
	if lost != "" {
		q.Set("lost", lost)
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer func() {
		if err != nil {
			cancel(nil)
		}
	}()
	watch := time.AfterFunc(patience, func() { cancel(errSilent) })
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { watch.Reset(patience); return nil },
	})
	req, err := http.NewRequestWithContext(ctx, method, base+Path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, err
	}
	for _, name := range askHeaders {
		if v := r.Header[name]; len(v) > 0 {
			req.Header[name] = v
		}
	}
	req.Header.Set(TokenHeader, token)
	if id := telemetry.RequestID(r.Context()); id != "" {
		req.Header.Set("X-Request-Id", id)
	}
	otel.GetTextMapPropagator().Inject(r.Context(), propagation.HeaderCarrier(req.Header))
	resp, err := hc.Do(req)
	if !watch.Stop() && ctx.Err() != nil && r.Context().Err() == nil {
		if err == nil {
			resp.Body.Close()
		}
		return nil, errSilent
	}
	if err != nil {
		return nil, err
	}
	resp.Body = &watched{resp.Body, cancel}
	if resp.Header.Get(AnswerHeader) == "" { // not a plane: a proxy between us, or a server that is going down
		resp.Body.Close()
		return nil, errors.New("answered " + resp.Status)
	}
	return resp, nil
}

var errSilent = errors.New("it shows nothing")

// watched ends the request's context with its body.
type watched struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (w *watched) Close() error {
	defer w.cancel(nil)
	return w.ReadCloser.Close()
}

func read(resp *http.Response) (*Answer, error) {
	switch resp.Header.Get(AnswerHeader) {
	case AnswerStream:
		return &Answer{Stream: resp}, nil
	case AnswerResolved:
		defer resp.Body.Close()
		data, err := base64.StdEncoding.DecodeString(resp.Header.Get(ResolvedHeader))
		if err != nil {
			return nil, fault.New(fault.Internal, "the fetch plane's answer cannot be read: %w", err)
		}
		a := &Answer{Resolved: &channelsv1.ResolveResponse{}, Age: resp.Header.Get(HeaderAge), Warning: resp.Header.Get(HeaderWarning)}
		if err := proto.Unmarshal(data, a.Resolved); err != nil {
			return nil, fault.New(fault.Internal, "the fetch plane's answer cannot be read: %w", err)
		}
		return a, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

// order returns the planes to ask, the one in charge of key first, and those that did not answer lately last.
func (c *Client) order(ctx context.Context, key string) ([]string, error) {
	if len(c.o.URLs) == 0 {
		if c.local == nil {
			return nil, nil
		}
		return []string{local}, nil
	}
	nodes, err := c.lookup(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var good, bad []string
	for _, n := range Order(nodes, key) {
		if now.Before(c.avoided[n]) {
			bad = append(bad, n)
		} else {
			good = append(good, n)
		}
	}
	return append(good, bad...), nil
}

func (c *Client) avoid(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.avoided) > 1024 { // addresses that have come and gone
		clear(c.avoided)
	}
	c.avoided[node] = time.Now().Add(avoidFor)
}

// lookup resolves the names of the planes.
func (c *Client) lookup(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	nodes, known := c.nodes, c.known
	c.mu.Unlock()
	if len(nodes) > 0 && time.Since(known) < lookupFresh {
		return nodes, nil
	}
	var found []string
	var last error
	for _, s := range c.o.URLs {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err
		}
		host := u.Hostname()
		if net.ParseIP(host) != nil || u.Scheme == "https" { // a certificate is for the name
			found = append(found, u.Scheme+"://"+u.Host)
			continue
		}
		addrs, err := c.o.Lookup(ctx, host)
		if err != nil {
			last = err
			continue
		}
		port := u.Port()
		if port == "" {
			port = "80"
		}
		for _, a := range addrs {
			found = append(found, u.Scheme+"://"+net.JoinHostPort(a, port))
		}
	}
	if len(found) == 0 {
		if len(nodes) > 0 {
			return nodes, nil // the resolver is ill; the planes may be well
		}
		return nil, fault.New(fault.Unavailable, "no fetch plane can be found: %w", last)
	}
	c.mu.Lock()
	c.nodes, c.known = found, time.Now()
	c.mu.Unlock()
	return found, nil
}
