package platform

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
)

// opsModule serves health, metrics and profiles, for operators only: it is on an address of its own.
func (p *Platform) opsModule() lifecycle.Module {
	var server *http.Server
	return lifecycle.Module{
		Name: "ops",
		Start: func(ctx context.Context) error {
			l, err := listen(ctx, "ops", p.cfg.OpsAddr)
			if err != nil {
				return err
			}
			p.ready.OpsAddr = l.Addr().String()
			mux := http.NewServeMux()
			p.group.HandleHealth(mux)
			mux.Handle("GET /metrics", p.tel.Handler())
			if p.cfg.Runs("jobs") {
				mux.HandleFunc("GET /demand/{pool}", p.serveDemand)
			}
			mux.HandleFunc("GET /debug/pprof/", pprof.Index)
			mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
			mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
			mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
			server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
			p.serve("ops", func() error {
				if err := server.Serve(l); err != http.ErrServerClosed {
					return err
				}
				return nil
			})
			return nil
		},
		Stop: func(ctx context.Context) error {
			if err := server.Shutdown(ctx); err != nil {
				return server.Close()
			}
			return nil
		},
	}
}
