package fetch

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Config is what all remotes of a process share. The zero value is usable: each zero field means its default.
type Config struct {
	// Egress says which addresses may be reached; its zero value allows public ones only.
	Egress Policy
	// Timeouts bound each phase of a request; there is no total.
	Timeouts Timeouts
	// MaxRedirects is how many redirects one request follows. Default 10, as browsers and curl settle for 10 to 50.
	MaxRedirects int
	// PerHost is how many requests to one host (scheme, name, port) may be under way, bodies included; also the number
	// of idle connections kept. Default 16.
	PerHost int
	// Retry says how often and how patiently a failed request is tried again.
	Retry Retry
	// MaxRatio is how many times larger than what was sent a decoded body may be, once it is over a mebibyte.
	// Default 200: text indexes stay below 100, bombs near deflate's limit of 1032.
	MaxRatio int64
	// UserAgent is sent with every request; name a contact in it. Default "entrepot".
	UserAgent string

	// Resolver looks names up; nil means the system's. The addresses it gives are not trusted: each is checked when dialled.
	Resolver *net.Resolver

	// Clock, Rand ([0,1), for jitter), Log and the providers are injected; nil means real time, math/rand, silence, and
	// the providers of the process, which are silent too until somebody sets them.
	Clock          Clock
	Rand           func() float64
	Log            *slog.Logger
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// Timeouts bound the phases of a request. Zero fields mean the default, or in a RemoteConfig the client's value.
type Timeouts struct {
	// Connect bounds one dial, name resolution included. Default 10 s.
	Connect time.Duration
	// TLS bounds the handshake. Default 10 s.
	TLS time.Duration
	// Header bounds the wait from the sent request to the complete response header. Default 30 s: object stores behind
	// a cold cache take several seconds.
	Header time.Duration
	// Window and MinRate (bytes per second) define progress: a body that brings less than MinRate×Window bytes in a
	// Window of waiting is given up. Default 1 KiB/s over 30 s.
	Window  time.Duration
	MinRate int64
}

func (t Timeouts) or(d Timeouts) Timeouts {
	t.Connect = orDefault(t.Connect, d.Connect)
	t.TLS = orDefault(t.TLS, d.TLS)
	t.Header = orDefault(t.Header, d.Header)
	t.Window = orDefault(t.Window, d.Window)
	t.MinRate = orDefault(t.MinRate, d.MinRate)
	return t
}

// Retry is the policy for failures that may pass.
type Retry struct {
	// Attempts counts the first try too; 1 means no retry. Default 4.
	Attempts int
	// Base and Cap bound the backoff: the n-th wait is random between 0 and min(Cap, Base·2ⁿ⁻¹). Defaults 250 ms, 15 s.
	Base, Cap time.Duration
	// MaxRetryAfter is the longest Retry-After that is waited for here; a longer one is the caller's to schedule.
	// Default 2 min.
	MaxRetryAfter time.Duration
	// BreakAfter is how many failures in a row brake a host. Default 16, above what a handful of requests with their
	// retries produce.
	BreakAfter int
}

// Clock is the time as this package needs it. Waits and stall checks go through it; dial, TLS and header timeouts are
// net/http's and use real time.
type Clock interface {
	Now() time.Time
	// Sleep waits for d or until ctx ends, and then returns ctx's error.
	Sleep(ctx context.Context, d time.Duration) error
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is what AfterFunc returns; *time.Timer has these methods.
type Timer = interface {
	Stop() bool
	Reset(d time.Duration) bool
}

type realClock struct{}

func (realClock) Now() time.Time                            { return time.Now() }
func (realClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Validate reports values that cannot be meant.
func (c Config) Validate() error {
	switch {
	case c.MaxRedirects < 0:
		return fault.Field("max_redirects", "max redirects must not be negative")
	case c.PerHost < 0:
		return fault.Field("per_host", "requests per host must not be negative")
	case c.Retry.Attempts < 0:
		return fault.Field("retry.attempts", "attempts must not be negative; 1 means no retry")
	case c.Retry.Base < 0 || c.Retry.Cap < 0 || c.Retry.MaxRetryAfter < 0 || c.Retry.BreakAfter < 0:
		return fault.Field("retry", "durations and counts must not be negative")
	case c.MaxRatio < 0:
		return fault.Field("max_ratio", "ratio must not be negative")
	}
	if err := c.Timeouts.validate(); err != nil {
		return err
	}
	for _, p := range c.Egress.AllowCIDRs {
		if !p.IsValid() {
			return fault.Field("egress_allow", "%s is not a CIDR", p)
		}
	}
	return nil
}

func (t Timeouts) validate() error {
	if t.Connect < 0 || t.TLS < 0 || t.Header < 0 || t.Window < 0 || t.MinRate < 0 {
		return fault.Field("timeouts", "timeouts must not be negative")
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Timeouts = c.Timeouts.or(Timeouts{
		Connect: 10 * time.Second, TLS: 10 * time.Second, Header: 30 * time.Second, Window: 30 * time.Second, MinRate: 1 << 10,
	})
	c.MaxRedirects = orDefault(c.MaxRedirects, 10)
	c.PerHost = orDefault(c.PerHost, 16)
	c.MaxRatio = orDefault(c.MaxRatio, 200)
	c.UserAgent = orDefault(c.UserAgent, "entrepot")
	c.Retry.Attempts = orDefault(c.Retry.Attempts, 4)
	c.Retry.Base = orDefault(c.Retry.Base, 250*time.Millisecond)
	c.Retry.Cap = orDefault(c.Retry.Cap, 15*time.Second)
	c.Retry.MaxRetryAfter = orDefault(c.Retry.MaxRetryAfter, 2*time.Minute)
	c.Retry.BreakAfter = orDefault(c.Retry.BreakAfter, 16)
	if c.Clock == nil {
		c.Clock = realClock{}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	return c
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}
