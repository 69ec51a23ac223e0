// Package platformtest runs the whole platform inside a test: every service, the worker pools and the edge, on loopback
// ports of their own, over a fresh PostgreSQL database, an embedded NATS server and a directory of blobs.
//
//	s := platformtest.Start(t)
//	s.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "c", "private": false})
//	bob := s.User("bob")
//
// It runs in development mode: the users are alice (the server's owner), bob, carol and dave, upstreams may be on
// loopback, and channel0 to channel2 exist. A start takes about a quarter of a second.
package platformtest

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

// startTimeout is generous: on a loaded machine a start shares two cores with other packages' tests.
const startTimeout = time.Minute

// Stack is a platform that runs.
type Stack struct {
	// URL of the REST edge.
	URL string
	// GRPCAddr, ServiceAddr, DataAddr and OpsAddr are `host:port`. A Restart keeps them all.
	GRPCAddr, ServiceAddr, DataAddr, OpsAddr string
	// AdminKey is the key of alice, who owns the server.
	AdminKey string
	// DataDir holds blobs, NATS, the master key and the admin key.
	DataDir string
	// DatabaseURL is the database, for tests that look into it.
	DatabaseURL string

	t    testing.TB
	cfg  platform.Config
	logs *buffer

	cancel context.CancelFunc
	done   chan struct{}
	err    error

	mu   sync.Mutex
	keys map[string]string
}

// Option changes how a platform is run.
type Option func(*platform.Config)

// WithConfig changes the configuration before the start.
func WithConfig(f func(*platform.Config)) Option { return f }

// Production turns development mode off: the only user is admin, and upstreams on loopback are refused.
func Production() Option { return func(c *platform.Config) { c.Dev = false } }

// Start runs a platform and returns when it is ready. It stops with the test; a failed test shows its log.
func Start(t testing.TB, opts ...Option) *Stack {
	t.Helper()
	s := &Stack{t: t, DataDir: t.TempDir(), DatabaseURL: pgtest.NewURL(t, platform.Schemas...), logs: &buffer{}, keys: map[string]string{}}
	cfg := platform.DefaultConfig()
	cfg.DataDir, cfg.DatabaseURL, cfg.Dev = s.DataDir, config.NewSecret(s.DatabaseURL), true
	const free = "127.0.0.1:0"
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = free, free, free, free, free
	cfg.HotCache, cfg.DatabaseConns = 8<<20, 12
	for _, opt := range opts {
		opt(&cfg)
	}
	s.cfg = cfg
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("the platform's log:\n%s", s.logs.String())
		}
	})
	s.start()
	return s
}

func (s *Stack) start() {
	s.t.Helper()
	ready := make(chan platform.Ready, 1)
	p, err := platform.New(s.cfg, platform.Options{Version: "test", LogOutput: s.logs, OnReady: func(r platform.Ready) { ready <- r }})
	if err != nil {
		s.t.Fatalf("platformtest: %v", err)
	}
	// Not the test's context, which ends before its cleanups: the platform is stopped in order.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.cancel, s.done = cancel, done
	go func() {
		s.err = p.Run(ctx)
		close(done)
	}()
	select {
	case r := <-ready:
		s.URL, s.GRPCAddr, s.ServiceAddr, s.DataAddr, s.OpsAddr = r.URL, r.GRPCAddr, r.ServiceAddr, r.DataAddr, r.OpsAddr
		key, err := os.ReadFile(r.AdminKeyFile)
		if err != nil {
			s.t.Fatalf("platformtest: %v", err)
		}
		s.AdminKey = strings.TrimSpace(string(key))
	case <-done:
		s.t.Fatalf("platformtest: the platform ended at its start: %v", s.err)
	case <-time.After(startTimeout):
		s.t.Fatalf("platformtest: not ready after %s", startTimeout)
	}
}

// Stop stops the platform in order and fails the test if that goes wrong. A second call does nothing.
func (s *Stack) Stop() {
	s.t.Helper()
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.cancel = nil
	<-s.done
	if s.err != nil {
		s.t.Errorf("platformtest: the platform ended with %v", s.err)
	}
}

// Restart stops the platform and starts it again on the same addresses, database and directory. The options change the
// configuration on top of that of the start.
func (s *Stack) Restart(opts ...Option) {
	s.t.Helper()
	s.Stop()
	s.cfg.HTTPAddr, s.cfg.GRPCAddr, s.cfg.ServiceAddr = strings.TrimPrefix(s.URL, "http://"), s.GRPCAddr, s.ServiceAddr
	s.cfg.DataAddr, s.cfg.OpsAddr = s.DataAddr, s.OpsAddr
	for _, opt := range opts {
		opt(&s.cfg)
	}
	s.start()
}

// Logs returns what the platform has logged so far.
func (s *Stack) Logs() string { return s.logs.String() }

// buffer may be written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b = append(b.b, p...)
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.b)
}
