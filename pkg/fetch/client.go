package fetch

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Client holds what the remotes of a process share. Its methods may be called concurrently.
type Client struct {
	cfg   Config
	hosts hosts
	tel   telemetry
	// base carries the remotes that need no transport of their own. HTTP/1.1 and HTTP/2 connections hold no
	// credentials, so remotes may share them; what is bound to a connection (client certificates, proxies, trust) does
	// not go through here.
	base *http.Transport

	mu  sync.Mutex
	own map[*http.Transport]struct{}
}

// New returns a Client, or an Invalid error that names the field of cfg.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	tel, err := newTelemetry(cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, tel: tel, own: map[*http.Transport]struct{}{}}
	c.hosts = hosts{cfg: &c.cfg, m: map[string]*host{}}
	c.base = c.transport(cfg.Timeouts, nil, nil)
	return c, nil
}

// Close closes idle connections, also those of remotes that were not closed. Requests under way go on.
func (c *Client) Close() {
	c.base.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.own {
		t.CloseIdleConnections()
	}
	clear(c.own)
}

// RoundTripper gives libraries that bring their own client (OIDC, object stores) our dialer: the egress policy holds,
// the rest of this package (retries, caps, redirect rules) does not.
func (c *Client) RoundTripper() http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if err := c.cfg.Egress.checkURL(req.URL); err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		return c.base.RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// transport builds a transport on the egress policy; tlsCfg and proxy may be nil.
func (c *Client) transport(t Timeouts, tlsCfg *tls.Config, proxy *url.URL) *http.Transport {
	dialer := &net.Dialer{Timeout: t.Connect, KeepAlive: 30 * time.Second, Resolver: c.cfg.Resolver, ControlContext: c.cfg.Egress.control}
	tr := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        tlsCfg,
		TLSHandshakeTimeout:    t.TLS,
		ResponseHeaderTimeout:  t.Header,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10, // the default of 10 MiB is a gift to a hostile server
		MaxIdleConns:           0,         // bounded per host, and by the timeout
		MaxIdleConnsPerHost:    c.cfg.PerHost,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true, // a custom dialer and TLS config switch it off otherwise
		DisableCompression:     true, // decoding is ours, with caps
		ReadBufferSize:         32 << 10,
		WriteBufferSize:        4 << 10,
	}
	if proxy != nil {
		tr.Proxy = http.ProxyURL(proxy) // nil Proxy means none: the environment is not asked
		tr.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &proxyError{resp.StatusCode}
			}
			return nil
		}
	}
	return tr
}

func (c *Client) resolver() *net.Resolver {
	if c.cfg.Resolver != nil {
		return c.cfg.Resolver
	}
	return net.DefaultResolver
}

func (c *Client) ownTransport(t Timeouts, tlsCfg *tls.Config, proxy *url.URL) *http.Transport {
	tr := c.transport(t, tlsCfg, proxy)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own[tr] = struct{}{}
	return tr
}

func (c *Client) dropTransport(tr *http.Transport) {
	tr.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.own, tr)
}

// sleep waits on the injected clock, or until ctx ends.
func (c *Client) sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	return c.cfg.Clock.Sleep(ctx, d)
}

// backoff is the wait before try n+1 (n ≥ 1): full jitter, because requests that failed together must not return together.
func (c *Client) backoff(n int) time.Duration {
	return time.Duration(c.cfg.Rand() * float64(doubled(c.cfg.Retry.Base, c.cfg.Retry.Cap, n-1)))
}

func doubled(base, limit time.Duration, n int) time.Duration {
	d := base
	for range n {
		if d >= limit {
			break
		}
		d *= 2
	}
	return min(d, limit)
}
