package platform

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	// restartWithin and restartMost bound how often a private server that dies is started again: one that cannot live
	// ends the process, so that an operator notices.
	restartWithin = 5 * time.Minute
	restartMost   = 10
)

// privatePostgres is the private server, started again when it dies: readiness is down meanwhile, and connections come
// back by themselves, since the new one listens where the old one did.
type privatePostgres struct {
	url    string
	cfg    pg.EmbeddedConfig
	log    *slog.Logger
	failed func(error)

	cancel context.CancelFunc
	ended  chan struct{}

	mu     sync.Mutex
	server *pg.Server
}

func (p *Platform) embeddedConfig() pg.EmbeddedConfig {
	return pg.EmbeddedConfig{DataDir: filepath.Join(p.cfg.DataDir, "postgres"), BinDir: p.opts.PGBin, Durable: true, Log: p.log}
}

// startPostgres starts the server and watches it until stop; failed is called if it cannot be kept alive.
func startPostgres(ctx context.Context, cfg pg.EmbeddedConfig, log *slog.Logger, failed func(error)) (*privatePostgres, error) {
	server, err := pg.StartEmbedded(ctx, cfg)
	if err != nil {
		return nil, err
	}
	cfg.SocketDir = server.SocketDir() // those that follow are found where this one was
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &privatePostgres{url: server.URL(), cfg: cfg, log: log, failed: failed, cancel: cancel, ended: make(chan struct{}), server: server}
	go d.watch(watch)
	return d, nil
}

func (d *privatePostgres) watch(ctx context.Context) {
	defer close(d.ended)
	var starts []time.Time
	for server := d.server; ; {
		select {
		case <-ctx.Done():
			return
		case <-server.Done():
		}
		if ctx.Err() != nil || !guard.Revive {
			return
		}
		d.log.Error("the private PostgreSQL has died and is started again", "error", server.Err())
		for len(starts) > 0 && time.Since(starts[0]) > restartWithin {
			starts = starts[1:]
		}
		starts = append(starts, time.Now())
		next, err := pg.StartEmbedded(ctx, d.cfg)
		if ctx.Err() != nil && next == nil {
			return
		}
		if err != nil || len(starts) > restartMost {
			d.failed(fmt.Errorf("the private PostgreSQL does not stay up: %w", firstError(err, server.Err())))
			return
		}
		d.mu.Lock()
		d.server = next
		d.mu.Unlock()
		server = next
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// stop ends watching and then the server.
func (d *privatePostgres) stop(ctx context.Context) error {
	d.cancel()
	<-d.ended
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.server.Stop(ctx)
}
