package channels

import (
	"context"
	"io"
	"sync"
	"time"
)

// courtesy lets builds that clients wait for go before those that few ask for: the packing of extras, which may take a
// processor for a minute, pauses while a repodata.json is built in this process.
type courtesy struct {
	mu   sync.Mutex
	busy int
	idle chan struct{} // closed when nobody is busy any more; nil if nobody is
}

// maxCourtesy bounds what one document may have to wait in all, so that a stream of publications does not keep it for ever.
const maxCourtesy = 30 * time.Second

// enter says that a build has begun, and returns what says that it is over.
func (c *courtesy) enter() (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy++; c.busy == 1 {
		c.idle = make(chan struct{})
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.busy--; c.busy == 0 {
			close(c.idle)
			c.idle = nil
		}
	}
}

// wait lets builds that are under way go first, for at most d, and returns what is left of that.
func (c *courtesy) wait(ctx context.Context, d time.Duration) time.Duration {
	for d > 0 && ctx.Err() == nil {
		c.mu.Lock()
		idle := c.idle
		c.mu.Unlock()
		if idle == nil {
			return d
		}
		begin := time.Now()
		timer := time.NewTimer(d)
		select {
		case <-idle:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		d -= time.Since(begin)
	}
	return d
}

// courteous is a writer that waits before each write.
type courteous struct {
	ctx  context.Context // of the one call of storeExtras that it lives in
	w    io.Writer
	c    *courtesy
	left time.Duration
}

func (w *courteous) Write(p []byte) (int, error) {
	w.left = w.c.wait(w.ctx, w.left)
	return w.w.Write(p)
}

// storeExtras is storeDocument for what is in no hurry.
func (s *Service) storeExtras(ctx context.Context, path string, forms []form, write func(io.Writer) error) ([]newRendition, error) {
	return s.storeDocument(ctx, path, forms, func(w io.Writer) error {
		return write(&courteous{ctx: ctx, w: w, c: &s.prompt, left: maxCourtesy})
	})
}
