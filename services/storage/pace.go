package storage

import (
	"context"
	"io"
	"time"
)

// pace bounds how fast one goroutine reads. What was read is paid for with waiting afterwards, and what was saved while
// nothing was read is forgotten, so there are no bursts.
type pace struct {
	rate int64     // bytes a second; 0 means no bound
	free time.Time // when everything read so far is paid for
}

// pay waits until n more bytes may have been read.
func (p *pace) pay(ctx context.Context, n int) error {
	if p.rate <= 0 || n == 0 {
		return nil
	}
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	t := time.NewTimer(p.free.Sub(now))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// paced is a reader that pays.
type paced struct {
	ctx  context.Context // of one read-through; the reader does not outlive the call that made it
	r    io.Reader
	pace *pace
}

func (p paced) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if perr := p.pace.pay(p.ctx, n); perr != nil && err == nil {
		err = perr
	}
	return n, err
}
