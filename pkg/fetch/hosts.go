package fetch

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// hosts knows each host that is in use or braked. Entries without either are dropped, so the map is bounded by what is
// going on and not by what strangers' redirects have named.
type hosts struct {
	cfg *Config
	mu  sync.Mutex
	m   map[string]*host
}

// host is one scheme, name and port. Its brake holds all requests to it back until a time: because it said so
// (Retry-After), or because it failed many times in a row.
type host struct {
	slots chan struct{}
	users int // guarded by hosts.mu

	mu       sync.Mutex
	until    time.Time
	broken   bool // the brake is for failures, not asked for
	failures int
}

// mostHosts is when idle entries are looked for.
const mostHosts = 1024

func (hs *hosts) enter(u *url.URL) *host {
	key := origin(u)
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.m[key]
	if h == nil {
		if len(hs.m) >= mostHosts {
			now := hs.cfg.Clock.Now()
			for k, old := range hs.m {
				if old.users == 0 && !old.remembers(now) {
					delete(hs.m, k)
				}
			}
		}
		h = &host{slots: make(chan struct{}, hs.cfg.PerHost)}
		hs.m[key] = h
	}
	h.users++
	return h
}

func (hs *hosts) leave(h *host) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.users--
}

func (h *host) remembers(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until.After(now)
}

// acquire waits for the brake and a slot, and returns the function that gives the slot back.
func (c *Client) acquire(ctx context.Context, u *url.URL) (*host, func(), error) {
	h := c.hosts.enter(u)
	for {
		if err := c.awaitBrake(ctx, h, u); err != nil {
			c.hosts.leave(h)
			return nil, nil, err
		}
		select {
		case h.slots <- struct{}{}:
		default:
			select {
			case h.slots <- struct{}{}:
			case <-ctx.Done():
				c.hosts.leave(h)
				return nil, nil, ended(ctx, u)
			}
		}
		// the brake may have come down while we queued
		if wait, _ := h.brake(c.cfg.Clock.Now()); wait <= 0 {
			return h, sync.OnceFunc(func() { <-h.slots; c.hosts.leave(h) }), nil
		}
		<-h.slots
	}
}

func (c *Client) awaitBrake(ctx context.Context, h *host, u *url.URL) error {
	for {
		wait, broken := h.brake(c.cfg.Clock.Now())
		if wait <= 0 {
			if ctx.Err() != nil {
				return ended(ctx, u)
			}
			return nil
		}
		limit, why := c.cfg.Retry.MaxRetryAfter, "asked us to wait"
		if broken {
			limit, why = c.cfg.Retry.Cap, "failed repeatedly and is left alone"
		}
		if wait > limit {
			d := &detail{text: fmt.Sprintf("host %s for another %s", why, wait.Round(time.Second)), after: wait}
			return failWith(u, ReasonThrottled, d)
		}
		// a little jitter, lest all waiters start in the same instant
		if err := c.sleep(ctx, wait+time.Duration(c.cfg.Rand()*float64(min(wait/10, time.Second)))); err != nil {
			return ended(ctx, u)
		}
	}
}

func (h *host) brake(now time.Time) (wait time.Duration, broken bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.until.Sub(now), h.broken
}

// longestBrake bounds what a Retry-After can do to us: a host that says "in ten years" is asked again in an hour.
const longestBrake = time.Hour

// observe feeds one answer (err nil: a usable one) to the brake and the breaker.
func (h *host) observe(now time.Time, cfg *Config, err error) {
	d := detailOf(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil || d != nil && d.status > 0 && d.class != backoff:
		h.failures = 0 // it answers; what it answers is another matter
	case d == nil || fault.Is(err, fault.Denied):
		return // our own end, not the host's
	case d.after > 0:
		h.failures = 0
		if until := now.Add(min(d.after, longestBrake)); until.After(h.until) {
			h.until, h.broken = until, false
		}
	case d.class == never:
		return // a certificate, a proxy's login, an unknown name: a person mends that, and then it is well at once
	case !h.until.After(now): // failures of requests that were under way when the brake came down count once
		h.failures++
		if over := h.failures - cfg.Retry.BreakAfter; over >= 0 {
			h.until, h.broken = now.Add(doubled(time.Second, time.Minute, over)), true
		}
	}
}

// Lift ends the brake that failures have put on the host of a URL: for whoever has changed the way to it, so that what
// failed before tells nothing. A wait that the host has asked for stays.
func (c *Client) Lift(raw string) {
	key := Origin(raw)
	c.hosts.mu.Lock()
	h := c.hosts.m[key]
	c.hosts.mu.Unlock()
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures = 0; h.broken {
		h.until, h.broken = time.Time{}, false
	}
}

// Origin returns what credentials are bound to: a URL's scheme, lower-case host and port; empty if it has none.
func Origin(raw string) string {
	u, err := parseURL("url", raw)
	if err != nil {
		return ""
	}
	return origin(u)
}

// origin is scheme, lower-case host and port: the unit of trust and of politeness.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if u.Scheme == "https" {
			port = "443"
		}
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}
