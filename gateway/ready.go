package gateway

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// readyFresh is how long it is believed that all parts answer. Each look opens a connection to the database, and whoever
// may ask for readiness may ask a thousand times a second; but a fault that heals by itself within moments must still be
// seen. That the process stops is known at once, and a part that does not answer is asked again by each request.
const readyFresh = 20 * time.Millisecond

// readiness says whether the process can do its work.
type readiness struct {
	ready  func() bool
	health func(context.Context) map[string]error
	now    func() time.Time

	flight singleflight.Group
	mu     sync.Mutex
	well   time.Time // when all parts answered
}

func newReadiness(deps Deps) *readiness {
	return &readiness{ready: deps.Ready, health: deps.Health, now: time.Now}
}

// ask reports whether all that the process needs answers.
func (r *readiness) ask(ctx context.Context) bool {
	if r.ready == nil || r.health == nil {
		return true
	}
	if !r.ready() {
		return false
	}
	r.mu.Lock()
	fresh := r.now().Sub(r.well) < readyFresh
	r.mu.Unlock()
	if fresh {
		return true
	}
	// The first one's request may end before the others'; the checks have their own limits.
	found, _, _ := r.flight.Do("", func() (any, error) {
		began := r.now()
		for _, err := range r.health(context.WithoutCancel(ctx)) {
			if err != nil {
				return false, nil
			}
		}
		r.mu.Lock()
		r.well = began
		r.mu.Unlock()
		return true, nil
	})
	return found.(bool) && r.ready()
}
