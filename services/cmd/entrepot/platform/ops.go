package platform

import (
	"context"
	"encoding/json"
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
			mux.HandleFunc("GET /healthz/live", func(w http.ResponseWriter, _ *http.Request) {
				writeHealth(w, http.StatusOK, health{Status: "ok"})
			})
			mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, r *http.Request) {
				h, ok := p.health(r.Context())
				status := http.StatusOK
				if !ok {
					status = http.StatusServiceUnavailable
				}
				writeHealth(w, status, h)
			})
			mux.Handle("GET /metrics", p.tel.Handler())
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

// health is the answer of /healthz: the whole, and each part by name.
type health struct {
	Status string            `json:"status"`
	Parts  map[string]string `json:"parts,omitempty"`
}

// health asks every part. Ready means that all run, none is about to stop, and each can do its work now.
func (p *Platform) health(ctx context.Context) (health, bool) {
	h := health{Status: "ok", Parts: map[string]string{}}
	ok := p.group.Ready()
	if !ok {
		h.Status = "starting or stopping"
	}
	for name, err := range p.group.Checks(ctx) {
		h.Parts[name] = "ok"
		if err != nil {
			h.Parts[name], h.Status, ok = err.Error(), "unavailable", false
		}
	}
	return h, ok
}

func writeHealth(w http.ResponseWriter, status int, h health) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // a probe that hung up needs no answer
}
