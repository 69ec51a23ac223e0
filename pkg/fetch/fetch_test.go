package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock sleeps in no time: Sleep moves Now forward and notes how far. Watchdogs run on real time.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
	slept []time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
	c.slept = append(c.slept, d)
	return ctx.Err()
}

func (c *clock) AfterFunc(d time.Duration, f func()) fetch.Timer { return time.AfterFunc(d, f) }

func (c *clock) total() (sum time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.slept {
		sum += d
	}
	return sum
}

// newClient allows loopback and never waits in real time.
func newClient(t testing.TB, change ...func(*fetch.Config)) *fetch.Client {
	t.Helper()
	cfg := fetch.Config{
		Egress: fetch.Policy{AllowLoopback: true}, Clock: &clock{}, Rand: func() float64 { return 0.5 },
		Timeouts: fetch.Timeouts{Connect: 5 * time.Second, Header: 5 * time.Second, Window: 5 * time.Second},
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := fetch.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newRemote(t testing.TB, c *fetch.Client, url string, change ...func(*fetch.RemoteConfig)) *fetch.Remote {
	t.Helper()
	cfg := fetch.RemoteConfig{Name: "test", Kind: "test", BaseURL: url}
	for _, f := range change {
		f(&cfg)
	}
	r, err := c.Remote(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// get reads a small file whole.
func get(t testing.TB, r *fetch.Remote, req fetch.Request) ([]byte, *fetch.Response, error) {
	t.Helper()
	if req.MaxSize == 0 {
		req.MaxSize = 1 << 20
	}
	resp, err := r.Get(t.Context(), req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return b, resp, err
}

func wantReason(t testing.TB, err error, kind fault.Kind, reason string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != kind || f.Reason != reason {
		t.Fatalf("error %v (%+v), want %v %s", err, f, kind, reason)
	}
}

// sink keeps what it gets and counts restarts.
type sink struct {
	bytes.Buffer
	restarts int
}

func (s *sink) Restart() error { s.Reset(); s.restarts++; return nil }

// noise is incompressible and always the same for a seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
