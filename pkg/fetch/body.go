package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// errStalled cancels a request whose body makes no progress.
var errStalled = errors.New("no progress")

// body is an upstream's body with all the care around it: a cap, a progress check, a byte rate, typed errors, and the
// host's slot, which it gives back when it is read to the end, fails or is closed.
type body struct {
	ctx     context.Context // the caller's: only to tell whose end it was; never waited on after Close
	r       *Remote
	u       *url.URL
	raw     io.ReadCloser
	src     io.Reader // raw, or a decoder on it
	cancel  context.CancelCauseFunc
	release func()
	watch   watchdog
	left    int64 // bytes of the cap
	rest    int64 // bytes on the wire that are still to come, or UnknownSize
	n       int64
	err     error // sticky
	closed  bool
	done    func(err error, n int64)
}

func newBody(ctx context.Context, r *Remote, u *url.URL, raw io.ReadCloser, rest int64, cancel context.CancelCauseFunc, release func()) *body {
	b := &body{ctx: ctx, r: r, u: u, raw: raw, cancel: cancel, release: release, left: math.MaxInt64, rest: rest}
	b.watch = watchdog{
		clock: r.c.cfg.Clock, window: r.timeouts.Window, floor: int64(float64(r.timeouts.MinRate) * r.timeouts.Window.Seconds()),
		bark: func() { cancel(errStalled) },
	}
	b.src = (*wire)(b)
	return b
}

// wire is the body as it was sent: the reads that are timed.
type wire body

func (w *wire) Read(p []byte) (int, error) {
	w.watch.begin()
	n, err := w.raw.Read(p)
	if w.rest > 0 {
		w.rest -= int64(n)
	}
	if w.watch.end(n) && err != io.EOF {
		err = errStalled
	}
	return n, err
}

func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.closed:
		return 0, errors.New("fetch: read after close")
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	}
	limiter := b.r.bytes
	if limiter != nil {
		p = p[:min(len(p), limiter.Burst())]
	}
	if b.left < math.MaxInt64 && int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more than allowed, to see whether there is more
	}
	n, err := b.src.Read(p)
	if int64(n) > b.left {
		n, err = int(b.left), tooLarge(b.u, b.n+b.left, "sends more")
	}
	b.n += int64(n)
	b.left -= int64(n)
	if err == nil && limiter != nil {
		if b.r.c.reserve(b.ctx, limiter, n) != nil {
			err = b.ctx.Err()
		}
	}
	if err != nil {
		b.err = b.typed(err)
		b.finish(b.err)
	}
	return n, b.err
}

// typed gives a read error its kind.
func (b *body) typed(err error) error {
	switch {
	case err == io.EOF:
		return err
	case detailOf(err) != nil:
		return err
	case b.watch.stalled():
		t := b.r.timeouts
		return failWith(b.u, ReasonTimeout, &detail{
			text: fmt.Sprintf("upstream sent less than %d bytes per second for %s", t.MinRate, t.Window), class: backoff,
		})
	case b.ctx.Err() != nil:
		return ended(b.ctx, b.u)
	}
	return failWith(b.u, ReasonTruncated, &detail{text: fmt.Sprintf("body broke off after %d bytes: %s", b.n, clean(err)), class: backoff, err: err})
}

func tooLarge(u *url.URL, limit int64, how string) error {
	return fail(u, ReasonTooLarge, never, "upstream %s, the limit is %d bytes", how, limit)
}

func (b *body) finish(err error) {
	b.watch.stop()
	b.cancel(nil)
	b.release()
	if b.done != nil {
		if err == io.EOF {
			err = nil
		}
		b.done(err, b.n)
		b.done = nil
	}
}

// What is read and waited for to keep a connection: about what a new TLS handshake costs in time.
const (
	cheapDrain = 64 << 10
	quickDrain = 200 * time.Millisecond
)

// Close gives the connection back, or cuts it if reading the rest would cost more than a new one.
func (b *body) Close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	if b.err == nil && b.ctx.Err() == nil && b.rest <= cheapDrain {
		t := b.r.c.cfg.Clock.AfterFunc(quickDrain, func() { b.cancel(nil) })
		_, _ = io.CopyN(io.Discard, (*wire)(b), cheapDrain+1)
		t.Stop()
	}
	b.finish(nil)
	return b.raw.Close()
}

// reserve takes n from a limiter and waits on the injected clock until they are due.
func (c *Client) reserve(ctx context.Context, l *rate.Limiter, n int) error {
	if n == 0 {
		return nil
	}
	now := c.cfg.Clock.Now()
	return c.sleep(ctx, l.ReserveN(now, n).DelayFrom(now))
}

// watchdog measures progress while somebody waits for bytes. Time between reads does not count: a client of ours that
// reads slowly is not the upstream's fault.
type watchdog struct {
	clock  Clock
	window time.Duration
	floor  int64 // bytes that a window must bring
	bark   func()

	mu      sync.Mutex
	timer   Timer
	reading bool
	began   time.Time
	spent   time.Duration // waited in this window, before began
	got     int64         // read in this window
	late    bool
}

func (w *watchdog) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading, w.began = true, w.clock.Now()
	if w.timer == nil {
		w.timer = w.clock.AfterFunc(w.window-w.spent, w.expire)
	} else {
		w.timer.Reset(w.window - w.spent)
	}
}

// end reports whether the window has passed without progress.
func (w *watchdog) end(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.reading = false
	w.spent += w.clock.Now().Sub(w.began)
	w.got += int64(n)
	if w.spent >= w.window {
		w.late = w.late || w.got < w.floor
		w.spent, w.got = 0, 0
	}
	return w.late
}

// expire runs when a window ends inside a read.
func (w *watchdog) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.clock.Now()
	if !w.reading || w.spent+now.Sub(w.began) < w.window {
		return // the timer of an earlier read, stopped too late
	}
	if w.got >= w.floor {
		w.spent, w.got, w.began = 0, 0, now
		w.timer.Reset(w.window)
		return
	}
	w.late = true
	w.bark()
}

func (w *watchdog) stalled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	if w.timer != nil {
		w.timer.Stop()
	}
}
