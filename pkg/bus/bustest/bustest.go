// Package bustest gives a test a NATS server of its own, with JetStream and without sockets, in a few milliseconds.
package bustest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/bus"
)

// New returns a bus on a new server, which has no streams. Both end with the test.
func New(t testing.TB) *bus.Bus {
	t.Helper()
	return Connect(t, NewServer(t))
}

// NewServer returns a new server that ends with the test.
func NewServer(t testing.TB) *bus.Server {
	t.Helper()
	s, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: t.TempDir(), NoSync: true})
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	t.Cleanup(s.Stop)
	return s
}

// Connect returns one more bus on a server, as a second process would have; it closes before the server ends.
func Connect(t testing.TB, s *bus.Server) *bus.Bus {
	t.Helper()
	nc, err := s.Conn(bus.Options{Name: t.Name()})
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	b, err := bus.New(nc)
	if err != nil {
		t.Fatalf("bustest: %v", err)
	}
	t.Cleanup(b.Close)
	return b
}

// Leftovers are the goroutines that nats-server does not wait for when it shuts down, for tests that look for leaks: its
// clock of access times, which ends by itself a moment after the last store, and the flusher of a stream that was made
// while the server shut down.
func Leftovers() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop"),
	}
}
