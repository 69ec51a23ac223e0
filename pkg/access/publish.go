package access

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// publishTimeout bounds one attempt; a server that lost its files does not answer at all.
const publishTimeout = 5 * time.Second

// Start begins to publish.
func (c *Counter) Start() {
	ctx, cancel := context.WithCancel(context.Background()) // ended by Stop
	c.cancel, c.done = cancel, make(chan struct{})
	go func() {
		defer close(c.done)
		tick := time.NewTicker(Every)
		defer tick.Stop()
		away := false
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := c.flush(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil && !away:
				c.cfg.Log.WarnContext(ctx, "download counts cannot be sent and wait here", "error", err)
			case err == nil && away:
				c.cfg.Log.InfoContext(ctx, "download counts are sent again")
			}
			away = err != nil
		}
	}()
}

// Stop ends publishing and sends what is left until ctx ends. It may be called twice, and without Start.
func (c *Counter) Stop(ctx context.Context) {
	if c.cancel == nil {
		return
	}
	c.cancel()
	<-c.done
	c.cancel = nil
	err := c.flush(ctx)
	if err == nil && c.waiting() > 0 { // flush goes on with old batches first
		err = c.flush(ctx)
	}
	if n := c.left(); n > 0 {
		c.cfg.Log.ErrorContext(ctx, "download counts are lost: the bus did not take them in time", "files", n, "error", err)
	}
	c.metrics.close()
}

// left returns for how many files counts were not sent. The goroutine that publishes has ended.
func (c *Counter) left() int { return c.waiting() + len(c.sealed) }

// flush publishes batches that wait, and those of what was counted since if none is left. Nothing is numbered while an
// older batch waits: until then counts of the same file become one.
func (c *Counter) flush(ctx context.Context) error {
	if err := c.send(ctx); err != nil {
		return err
	}
	counts, lost := c.take()
	if lost > 0 {
		c.cfg.Log.ErrorContext(ctx, "downloads were not counted for want of room", "downloads", lost, "room", c.cfg.Room)
	}
	for _, b := range batches(counts, lost) {
		c.seq++
		b.Instance, b.Epoch, b.Seq, b.MadeMs = c.cfg.Instance, c.epoch, c.seq, c.cfg.Now().UnixMilli()
		data, err := proto.Marshal(b)
		if err != nil {
			return fmt.Errorf("batch %d: %w", c.seq, err) // a string that is not UTF-8; Count takes none
		}
		c.sealed = append(c.sealed, sealed{fmt.Sprintf("%s-%d-%d", c.cfg.Instance, c.epoch, c.seq), data, c.seq})
	}
	return c.send(ctx)
}

// send publishes batches in their order, and forgets each once it is acknowledged.
func (c *Counter) send(ctx context.Context) error {
	for len(c.sealed) > 0 {
		b := c.sealed[0]
		err := c.cfg.Publisher.Publish(ctx, b.id, b.data)
		c.metrics.published(err)
		if err != nil {
			return fmt.Errorf("batch %d: %w", b.seq, err)
		}
		c.sealed = c.sealed[1:]
	}
	c.sealed = nil
	return nil
}

// BusPublisher publishes to JetStream, and makes the stream if there is none.
type BusPublisher struct {
	bus      *bus.Bus
	replicas int

	mu     sync.Mutex
	exists bool
}

// NewBusPublisher returns a publisher; replicas are those of a stream that it makes.
func NewBusPublisher(b *bus.Bus, replicas int) *BusPublisher {
	return &BusPublisher{bus: b, replicas: replicas}
}

// Publish implements Publisher.
func (p *BusPublisher) Publish(ctx context.Context, id string, data []byte) error {
	if !p.bus.Conn().IsConnected() { // or the attempt would only wait for its end
		return fault.New(fault.Unavailable, "the bus is not connected")
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exists {
		if err := Ensure(ctx, p.bus.JetStream(), p.replicas); err != nil {
			return err
		}
	}
	_, err := p.bus.JetStream().PublishMsg(ctx, &nats.Msg{Subject: Subject, Data: data}, jetstream.WithMsgID(id), jetstream.WithExpectStream(Stream))
	p.exists = err == nil // else it may be gone: look again
	return bus.Classify(err)
}
