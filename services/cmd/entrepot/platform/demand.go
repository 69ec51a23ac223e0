package platform

import (
	"encoding/json"
	"net/http"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// pools are the worker pools, each with the services whose kinds of jobs it does.
var pools = map[string][]string{"sync-worker": {"sync", "metrics"}, "channels-worker": {"channels"}, "storage-worker": {"storage"}}

// demand is the answer of /demand/<pool>, for autoscalers. Its fields are the names that deploy/kubernetes uses.
type demand struct {
	Pool string `json:"pool"`
	// Demand is how many slots the pool should have now: its jobs that wait or run.
	Demand           int64   `json:"demand"`
	Queued           int64   `json:"queued"`
	Running          int64   `json:"running"`
	Slots            int64   `json:"slots"`
	OldestAgeSeconds float64 `json:"oldest_age_seconds"`
}

// serveDemand answers how much a worker pool is asked for. An autoscaler that gets no number keeps what it has, so an
// error must never look like one.
func (p *Platform) serveDemand(w http.ResponseWriter, r *http.Request) {
	pool := r.PathValue("pool")
	services, ok := pools[pool]
	switch {
	case !ok:
		http.Error(w, "there is no such worker pool", http.StatusNotFound)
		return
	case !p.group.Ready(): // before that there is no database to ask
		http.Error(w, "starting or stopping", http.StatusServiceUnavailable)
		return
	}
	d, err := jobs.DemandOf(r.Context(), p.pool, services...)
	if err != nil {
		p.log.Warn("the demand cannot be told", "pool", pool, "error", err)
		http.Error(w, "the database cannot be asked", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	// A client that hung up needs no answer.
	_ = json.NewEncoder(w).Encode(demand{
		Pool: pool, Demand: d.Queued + d.Running, Queued: d.Queued, Running: d.Running, Slots: d.Slots, OldestAgeSeconds: d.OldestAge.Seconds(),
	})
}
