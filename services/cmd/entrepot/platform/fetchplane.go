package platform

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/sync/plane"
)

// bytesHandler serves what is plain HTTP between processes: blobs where storage runs, the fetch plane where sync does.
func (p *Platform) bytesHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.fetchPlane != nil && strings.HasPrefix(r.URL.Path, fetchplane.Path):
			p.fetchPlane.ServeHTTP(w, r)
		case p.plane != nil:
			p.plane.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
}

// newFetchPlane makes the fetch plane of this process.
func (p *Platform) newFetchPlane() error {
	remotes, err := p.upstreams()
	if err != nil {
		return err
	}
	conn, err := p.network.Dial("channels")
	if err != nil {
		return err
	}
	cfg := p.cfg.Proxy
	if cfg.SpoolDir == "" {
		cfg.SpoolDir = plane.SpoolIn(p.cfg.DataDir)
	}
	p.fetchPlane, err = plane.New(plane.Deps{
		Pool: p.pool, Blobs: p.blobs, Channels: channelsv1.NewChannelServiceClient(conn), Open: remotes.Open, Verifier: p.verifier,
		Config: cfg, MaxIndexSize: p.cfg.Sync.MaxIndexSize, MaxFileSize: p.cfg.Sync.MaxFileSize, Log: p.log,
	})
	return err
}

// memoryPlane serves the fetch plane of this process to its own gateway, over connections in memory.
type memoryPlane struct {
	listener *bufconn.Listener
	server   *http.Server
}

func (p *Platform) startMemoryPlane() *memoryPlane {
	m := &memoryPlane{listener: bufconn.Listen(256 << 10), server: &http.Server{Handler: p.fetchPlane, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}}
	p.serve("fetch plane", func() error { return m.server.Serve(m.listener) })
	return m
}

func (m *memoryPlane) dial(ctx context.Context) (net.Conn, error) { return m.listener.DialContext(ctx) }

// fetchClient returns the gateway's way to fetch planes: the configured ones, or that of this process.
func (p *Platform) fetchClient() (*fetchplane.Client, error) {
	o := fetchplane.Options{
		URLs: p.cfg.FetchURLs, Log: p.log,
		Token: func(ctx context.Context) (string, error) { return p.network.Token(ctx, fetchplane.Audience) },
	}
	if p.memoryPlane != nil {
		o.Dial = p.memoryPlane.dial
	}
	if len(o.URLs) == 0 && o.Dial == nil {
		p.log.Warn("fetch_urls names no fetch plane, and sync does not run here: proxy channels serve only what is stored")
	}
	return fetchplane.NewClient(o)
}
