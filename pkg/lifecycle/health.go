package lifecycle

import (
	"context"
	"encoding/json"
	"net/http"
)

// Health is the answer to a probe: the whole, and each part by its name.
type Health struct {
	Status string            `json:"status"`
	Parts  map[string]string `json:"parts,omitempty"`
}

// Health asks every part; ok means that all run, none is about to stop, and each can do its work now.
func (g *Group) Health(ctx context.Context) (h Health, ok bool) {
	h = Health{Status: "ok", Parts: map[string]string{}}
	if ok = g.Ready(); !ok {
		h.Status = "starting or stopping"
	}
	for name, err := range g.Checks(ctx) {
		h.Parts[name] = "ok"
		if err != nil {
			h.Parts[name], h.Status, ok = err.Error(), "unavailable", false
		}
	}
	return h, ok
}

// HandleHealth adds the probes to mux. GET /healthz/live is 200 for as long as the process answers at all; GET
// /healthz/ready is 200 if the group is ready and every part healthy, else 503, with the reason under the part's name.
func (g *Group) HandleHealth(mux *http.ServeMux) {
	mux.HandleFunc("GET /healthz/live", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, http.StatusOK, Health{Status: "ok"})
	})
	mux.HandleFunc("GET /healthz/ready", func(w http.ResponseWriter, r *http.Request) {
		h, ok := g.Health(r.Context())
		status := http.StatusOK
		if !ok {
			status = http.StatusServiceUnavailable
		}
		writeHealth(w, status, h)
	})
}

func writeHealth(w http.ResponseWriter, status int, h Health) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(h) // a probe that hung up needs no answer
}
