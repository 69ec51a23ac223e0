package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	flushTimeout = 5 * time.Second
	// closeTimeout is short: a server that stands still must not keep a process from stopping.
	closeTimeout = time.Second
)

// Bus is a connection with its JetStream. It is safe for concurrent use.
type Bus struct {
	nc *nats.Conn
	js jetstream.JetStream

	// hasProbe remembers that the probe stream exists, so that a healthy probe need not ask.
	hasProbe atomic.Bool
}

// New returns a bus on a connection, which it owns from now on.
func New(nc *nats.Conn) (*Bus, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return &Bus{nc: nc, js: js}, nil
}

// Conn returns the connection, for what core NATS offers beyond Publish and Subscribe.
func (b *Bus) Conn() *nats.Conn { return b.nc }

// JetStream returns the streams' interface.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

// Close ends the connection after what was published has left.
func (b *Bus) Close() {
	if b.nc.IsConnected() {
		_ = b.nc.FlushTimeout(closeTimeout) // best effort: core NATS promises nothing
	}
	b.nc.Close()
}

// Publish sends a message over core NATS: to whoever listens now, at most once, without an answer. While the server is
// away messages wait in a buffer of 8 MiB; beyond that Publish fails.
func (b *Bus) Publish(ctx context.Context, subject string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	msg := &nats.Msg{Subject: subject, Data: data}
	Inject(ctx, msg)
	if err := b.nc.PublishMsg(msg); err != nil {
		return Classify(fmt.Errorf("publish %s: %w", subject, err))
	}
	return nil
}

// Subscription is a running handler; Stop ends it.
type Subscription struct {
	sub    *nats.Subscription
	cancel context.CancelFunc
	done   chan struct{}
}

// Subscribe calls handle for each message on the subject (wildcards are allowed), one at a time, with a context that
// carries the sender's trace and ends with ctx or Stop. A handler that cannot keep up loses messages: this is core NATS.
func (b *Bus) Subscribe(ctx context.Context, subject string, handle func(ctx context.Context, msg *nats.Msg)) (*Subscription, error) {
	return b.QueueSubscribe(ctx, subject, "", handle)
}

// QueueSubscribe is Subscribe for a group: each message goes to one member of the queue. An empty queue is no group.
func (b *Bus) QueueSubscribe(ctx context.Context, subject, queue string, handle func(ctx context.Context, msg *nats.Msg)) (*Subscription, error) {
	sub, err := b.nc.QueueSubscribeSync(subject, queue)
	if err != nil {
		return nil, Classify(fmt.Errorf("subscribe to %s: %w", subject, err))
	}
	if b.nc.IsConnected() {
		// The server must know before we return, or a message published by another connection right after is missed.
		if err := flush(ctx, b.nc); err != nil {
			_ = sub.Unsubscribe()
			return nil, Classify(fmt.Errorf("subscribe to %s: %w", subject, err))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Subscription{sub: sub, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			msg, err := sub.NextMsgWithContext(ctx)
			switch {
			case err == nil:
				handle(Extract(ctx, msg.Header), msg)
			case errors.Is(err, nats.ErrSlowConsumer):
				continue // reported once by the error handler of the connection
			default:
				return // ctx has ended, or the connection is closed
			}
		}
	}()
	return s, nil
}

// Stop ends the subscription and waits for a running handler. It may be called twice, but not by the handler itself.
func (s *Subscription) Stop() {
	s.cancel()
	<-s.done
	_ = s.sub.Unsubscribe() // an error means it has ended with its connection
}

// Inject writes the trace context of ctx into a message's headers.
func Inject(ctx context.Context, msg *nats.Msg) {
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	otel.GetTextMapPropagator().Inject(ctx, carrier(msg.Header))
	if len(msg.Header) == 0 {
		msg.Header = nil
	}
}

// Extract returns ctx with the trace context of a message's headers.
func Extract(ctx context.Context, h nats.Header) context.Context {
	if len(h) == 0 {
		return ctx
	}
	return otel.GetTextMapPropagator().Extract(ctx, carrier(h))
}

// carrier keeps keys as they are: header names of NATS are case-sensitive, those of net/http are rewritten.
type carrier nats.Header

func (c carrier) Get(key string) string { return nats.Header(c).Get(key) }
func (c carrier) Set(key, value string) { nats.Header(c).Set(key, value) }
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// Classify gives an error of NATS or JetStream its kind: what the server's absence causes is Unavailable, a missing
// stream, consumer or message NotFound. Others are returned as they are.
func Classify(err error) error {
	var known *fault.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	for _, e := range []error{
		nats.ErrConnectionClosed, nats.ErrDisconnected, nats.ErrConnectionDraining, nats.ErrReconnectBufExceeded,
		nats.ErrNoResponders, nats.ErrTimeout, nats.ErrNoServers, jetstream.ErrJetStreamNotEnabled, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, e) {
			return fault.New(fault.Unavailable, "%w", err)
		}
	}
	for _, e := range []error{jetstream.ErrStreamNotFound, jetstream.ErrConsumerNotFound, jetstream.ErrMsgNotFound} {
		if errors.Is(err, e) {
			return fault.New(fault.NotFound, "%w", err)
		}
	}
	return err
}

// flush waits until the server has seen what was sent. nats.go insists on a deadline.
func flush(ctx context.Context, nc *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	return nc.FlushWithContext(ctx)
}
