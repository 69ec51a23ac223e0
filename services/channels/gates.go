package channels

import (
	"context"
	"sync"

	"github.com/google/uuid"
)

// gates let one publisher of this process at a time at a channel, so that they do not lose races against each other.
// Between processes the compare-and-set of the head decides.
type gates struct {
	mu    sync.Mutex
	gates map[uuid.UUID]*gate
}

type gate struct {
	token chan struct{} // capacity 1: who has put something in is inside
	users int           // inside or waiting
}

// lock returns a function that lets the next one in.
func (g *gates) lock(ctx context.Context, channel uuid.UUID) (unlock func(), err error) {
	g.mu.Lock()
	if g.gates == nil {
		g.gates = make(map[uuid.UUID]*gate)
	}
	t := g.gates[channel]
	if t == nil {
		t = &gate{token: make(chan struct{}, 1)}
		g.gates[channel] = t
	}
	t.users++
	g.mu.Unlock()
	leave := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(g.gates, channel)
		}
	}
	select {
	case t.token <- struct{}{}:
		return func() { <-t.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
