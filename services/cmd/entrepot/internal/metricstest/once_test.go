package metricstest

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// several is a platform whose parts run apart, over a NATS server that can be stopped.
type several struct {
	*platformtest.Stack
	t        *testing.T
	nats     *bus.Server
	natsDir  string
	natsAddr string
	secret   config.Secret
}

func startSeveral(t *testing.T) *several {
	t.Helper()
	v := &several{t: t, natsDir: t.TempDir(), natsAddr: "127.0.0.1:0", secret: config.NewSecret("a secret of the targets")}
	v.startNATS()
	t.Cleanup(func() { v.nats.Stop() })
	v.natsAddr = strings.TrimPrefix(v.nats.URL(), "nats://")
	v.Stack = platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		c.NATSURL, c.TargetSecret = config.NewSecret(v.nats.URL()), v.secret
	}))
	return v
}

func (v *several) startNATS() {
	v.t.Helper()
	var err error
	if v.nats, err = bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: v.natsDir, Listen: v.natsAddr}); err != nil {
		v.t.Fatal(err)
	}
}

// config is that of a further process.
func (v *several) config(target string) platform.Config {
	cfg := platform.DefaultConfig()
	services := map[string]string{}
	for _, name := range []string{"channels", "sync", "identity", "storage", "jobs", "metrics"} {
		services[name] = v.ServiceAddr
	}
	cfg.Target, cfg.DataDir, cfg.Services, cfg.Dev = []string{target}, v.t.TempDir(), services, true
	cfg.NATSURL, cfg.TargetSecret = config.NewSecret(v.nats.URL()), v.secret
	cfg.DatabaseURL, cfg.DatabaseConns, cfg.DataURL = config.NewSecret(v.DatabaseURL), 6, "http://"+v.DataAddr
	cfg.BlobURL = config.NewSecret(filepath.Join(v.Stack.DataDir, "blobs"))
	const free = "127.0.0.1:0"
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = free, free, free, free, free
	return cfg
}

// run runs a further target until stop, which the test's end calls too.
func (v *several) run(target string) (r platform.Ready, stop func()) {
	v.t.Helper()
	ready := make(chan platform.Ready, 1)
	p, err := platform.New(v.config(target), platform.Options{Version: "test", LogOutput: io.Discard, OnReady: func(r platform.Ready) { ready <- r }})
	if err != nil {
		v.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background()) // ended by stop
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			v.t.Errorf("%s ended with %v", target, err)
		}
	})
	select {
	case r = <-ready:
		v.t.Cleanup(stop)
	case err := <-done:
		v.t.Fatalf("%s: %v", target, err)
	case <-time.After(time.Minute):
		v.t.Fatalf("%s is not ready", target)
	}
	return r, stop
}

// fetch downloads a path n times from a gateway, and returns how often it got it.
func fetch(t *testing.T, base, path string, n int) (got int) {
	t.Helper()
	client := &http.Client{Timeout: 30 * time.Second}
	defer client.CloseIdleConnections()
	for range n {
		resp, err := client.Get(base + path)
		if err != nil {
			continue
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode == 200 {
			got++
		}
	}
	return got
}

// TestEachDownloadCountsOnce: over two gateways and two metrics processes that come and go, with every batch delivered
// again and again, and with the bus away for a while.
func TestEachDownloadCountsOnce(t *testing.T) {
	v := startSeveral(t)
	f := upload(t, v.Stack, "channel0")[0]
	path := "/get/channel0/" + f.path()
	gateway, _ := v.run("gateway")
	anon := v.Anonymous()

	// Each batch that goes by is kept, to be sent again as another message.
	nc, err := nats.Connect(v.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	var mu sync.Mutex
	var batches [][]byte
	if _, err := nc.Subscribe("access.batches", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		batches = append(batches, m.Data)
	}); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	again := func() int {
		mu.Lock()
		defer mu.Unlock()
		n := len(batches)
		for _, b := range batches[:n] {
			for range 3 {
				if _, err := js.Publish(t.Context(), "access.batches", b); err != nil {
					t.Fatal(err)
				}
			}
		}
		return n
	}

	want := fetch(t, v.URL, path, 40) + fetch(t, gateway.URL, path, 60)
	settled(t, anon, "channel0", want)
	if again() == 0 {
		t.Fatal("no batch was seen")
	}
	settled(t, anon, "channel0", want)

	// A second metrics process shares the batches; it and its successor are stopped in the middle.
	for range 2 {
		_, stop := v.run("metrics")
		want += fetch(t, gateway.URL, path, 50)
		stop()
		want += fetch(t, v.URL, path, 50)
	}
	again()
	settled(t, anon, "channel0", want)

	// The bus goes away, and comes back with what it had.
	v.nats.Stop()
	away := fetch(t, gateway.URL, path, 30) + fetch(t, v.URL, path, 30)
	time.Sleep(2500 * time.Millisecond)
	away += fetch(t, gateway.URL, path, 10)
	if away == 0 {
		t.Fatal("nothing is served while the bus is away")
	}
	v.startNATS()
	settled(t, anon, "channel0", want+away)
	// Every download was one of somebody's series, too.
	if n := query[int](t, v.Stack, `SELECT sum(n)::int FROM metrics.series s JOIN metrics.items i ON i.id = s.item_id WHERE i.path = $1`, f.path())[0]; n != want+away {
		t.Errorf("the series have %d, want %d", n, want+away)
	}
}

// TestARestartLosesNothing: a platform that stops in order has counted everything.
func TestARestartLosesNothing(t *testing.T) {
	s := platformtest.Start(t)
	f := upload(t, s, "channel0")[0]
	want := fetch(t, s.URL, "/get/channel0/"+f.path(), 25)
	s.Restart()
	want += fetch(t, s.URL, "/get/channel0/"+f.path(), 5)
	s.Restart()
	settled(t, s.Anonymous(), "channel0", want)
	if want != 30 {
		t.Errorf("%d downloads went through", want)
	}
}
