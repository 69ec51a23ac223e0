package jobs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// slotPool is the slots of one kind in one process. A single goroutine fetches for all of them: one message per free
// slot, never more, because a message that waits in a process is one that nobody else can have.
type slotPool struct {
	r     *Runner
	kind  *registered
	spec  KindSpec
	slots int
	wake  chan struct{}

	mu       sync.Mutex
	ordinary int // free ones
	kept     bool
	turn     int
	ended    int // jobs since the relay was told
	freed    chan struct{}
}

// slot is a right to run one job.
type slot struct {
	kept  bool // the one kept for low priority
	order [3]Priority
}

var (
	highFirst = [3]Priority{High, Normal, Low}
	lowFirst  = [3]Priority{Low, High, Normal}
)

func newSlotPool(r *Runner, k *registered, slots int) *slotPool {
	p := &slotPool{r: r, kind: k, spec: k.spec, slots: slots, ordinary: slots, wake: make(chan struct{}, 1), freed: make(chan struct{}, 1)}
	if slots > 1 {
		p.ordinary, p.kept = slots-1, true
	}
	return p
}

func (p *slotPool) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// wakeIn looks again when a message that went back is due: JetStream sends no nudge for that.
func (p *slotPool) wakeIn(d time.Duration) { time.AfterFunc(d+5*time.Millisecond, p.wakeUp) }

// take waits for a free slot. The kept slot asks for low priority first and takes other work only if there is none: low
// jobs go on, and no slot is idle while there is work. A kind with a single slot does so every fourth time.
func (p *slotPool) take(ctx context.Context) (slot, bool) {
	for {
		p.mu.Lock()
		switch {
		case p.ordinary > 0:
			p.ordinary--
			s := slot{order: highFirst}
			if p.turn++; p.slots == 1 && p.turn%4 == 0 {
				s.order = lowFirst
			}
			p.mu.Unlock()
			return s, true
		case p.kept:
			p.kept = false
			p.mu.Unlock()
			return slot{kept: true, order: lowFirst}, true
		}
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return slot{}, false
		case <-p.freed:
		}
	}
}

func (p *slotPool) give(s slot) {
	p.mu.Lock()
	if s.kept {
		p.kept = true
	} else {
		p.ordinary++
	}
	p.mu.Unlock()
	select {
	case p.freed <- struct{}{}:
	default:
	}
}

// settled tells the relays, now and then, that there is room in the window. By a message and not by NOTIFY: transactions
// that notify commit one after the other, each with its own flush.
func (p *slotPool) settled() {
	p.mu.Lock()
	p.ended++
	tell := p.ended >= max(1, p.slots/4)
	if tell {
		p.ended = 0
	}
	p.mu.Unlock()
	if tell {
		p.r.events.nudge(subjectRelay)
	}
}

// loop fetches until ctx ends.
func (p *slotPool) loop(ctx context.Context) {
	var consumers [3]jetstream.Consumer
	ready, trouble, eager, hungry := false, 0, 0, true
	for {
		s, ok := p.take(ctx)
		if !ok {
			return
		}
		var (
			msg jetstream.Msg
			err error
		)
		if !ready {
			if consumers, err = p.connect(ctx); err == nil {
				ready = true
			}
		}
		if ready {
			msg, err = p.fetch(ctx, consumers, s.order)
		}
		if err == nil {
			trouble, eager, hungry = 0, 0, true
			p.r.workers.Go(func() {
				var once sync.Once
				free := func() { once.Do(func() { p.give(s) }) }
				defer free()
				p.r.handle(p, msg, free)
			})
			continue
		}
		if p.slots == 1 {
			p.turn-- // an empty look is nobody's turn; only this goroutine reads it
		}
		p.give(s)
		if hungry && errors.Is(err, errNoMessage) {
			p.r.events.nudge(subjectRelay) // the stream is empty: what waits in the outbox may come
			hungry = false
		}
		pause := p.r.cfg.Poll
		if eager > 0 {
			pause = min(pause, eagerPause>>(2*eager))
			eager--
		}
		if !errors.Is(err, errNoMessage) {
			ready = false // the stream may have been made anew, or has to be
			trouble++
			pause = min(pause, 50*time.Millisecond<<min(trouble, 10))
			if trouble > 3 && ctx.Err() == nil {
				p.r.log.WarnContext(ctx, "jobs: cannot fetch", "kind", p.spec.Kind, "error", err)
			}
		}
		woken, ok := p.rest(ctx, pause)
		if !ok {
			return
		}
		if woken {
			eager = eagerLooks
		}
	}
}

// A consumer hears of a new message a little after its publisher has the acknowledgement. So a pool that was woken and
// finds nothing looks three times more, after 2, 8 and 32 ms.
const (
	eagerLooks = 3
	eagerPause = 128 * time.Millisecond
)

// rest waits for a wake-up or the pause.
func (p *slotPool) rest(ctx context.Context, pause time.Duration) (woken, ok bool) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, false
	case <-p.wake:
		return true, true
	case <-t.C:
		return false, true
	}
}

func (p *slotPool) stream() kindStream {
	return kindStream{kind: p.spec.Kind, maxAckPending: p.spec.MaxAckPending, ackWait: p.r.ackWait(), replicas: p.r.cfg.Replicas}
}

func (p *slotPool) connect(ctx context.Context) (consumers [3]jetstream.Consumer, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	js := p.r.cfg.Bus.JetStream()
	made, err := p.stream().ensure(ctx, js)
	if err != nil {
		return consumers, err
	}
	if made {
		if _, err := redispatch(ctx, p.r.cfg.Pool, p.spec.Kind, 0); err != nil {
			return consumers, err
		}
	}
	for i, prio := range ranks {
		if consumers[i], err = js.Consumer(ctx, p.stream().name(), prio.String()); err != nil {
			return consumers, err
		}
	}
	// The first look makes the stream of events too: what is published before it exists is lost.
	_, err = ensureEvents(ctx, js)
	return consumers, err
}

// fetch asks the priorities in the given order for one message, without waiting: the relay's nudge says when to ask
// again, and three pulls that wait could bring three messages for one slot.
func (p *slotPool) fetch(ctx context.Context, consumers [3]jetstream.Consumer, order [3]Priority) (jetstream.Msg, error) {
	for _, prio := range order {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		batch, err := consumers[prio.rank()].FetchNoWait(1)
		if err != nil {
			return nil, err
		}
		var got jetstream.Msg
		for msg := range batch.Messages() {
			got = msg
		}
		if got != nil {
			return got, nil
		}
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return nil, err
		}
	}
	return nil, errNoMessage
}
