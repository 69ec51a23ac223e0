package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	probeStream = "PROBE"
	// probeTimeout bounds a probe if the caller does not: a server that lost its files does not answer at all.
	probeTimeout = 2 * time.Second
	probeKeep    = time.Minute
)

// ProbeSubject returns the subject that a stream lists beside its own subjects so that Probe can test it.
func ProbeSubject(stream string) string { return "probe." + stream + ".*" }

// Probe reports whether JetStream keeps and delivers: it publishes a message and fetches it again; an acknowledgement
// alone proves nothing. Without names it uses a stream of its own. That is empty between probes, so it soon wants a new
// file and notices within seconds that the server lost its store.
//
// A named stream is probed itself, beside whatever it holds; it must list ProbeSubject(name). That tells which streams to
// heal, but later: one that holds messages works for as long as the server has its file open, half a minute or more.
//
// A probe takes a few milliseconds a stream, and at most two seconds in all. The error is fault.Unavailable.
func (b *Bus) Probe(ctx context.Context, streams ...string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if !b.nc.IsConnected() {
		return fault.New(fault.Unavailable, "NATS is not connected") // without waiting for the timeout
	}
	if len(streams) == 0 {
		if err := b.ensureProbeStream(ctx); err != nil {
			return fault.New(fault.Unavailable, "JetStream does not answer: %w", err)
		}
		streams = []string{probeStream}
	}
	for _, stream := range streams {
		if err := b.probeOne(ctx, stream); err != nil {
			b.hasProbe.Store(false) // it may be gone: make it next time
			return fault.New(fault.Unavailable, "stream %s does not deliver: %w", stream, err)
		}
	}
	return nil
}

func (b *Bus) probeOne(ctx context.Context, stream string) error {
	// A subject for this probe alone: the consumers of a work queue may not overlap, and other replicas probe too.
	subject := strings.TrimSuffix(ProbeSubject(stream), "*") + rand.Text()
	ack, err := b.js.Publish(ctx, subject, nil, jetstream.WithExpectStream(stream))
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	consumer, err := b.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{
		FilterSubject: subject, AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true, InactiveThreshold: probeKeep,
	})
	if err != nil {
		return fmt.Errorf("create consumer: %w", err)
	}
	// Not worth failing for: the server forgets an idle consumer after a minute.
	defer func() { _ = b.js.DeleteConsumer(ctx, stream, consumer.CachedInfo().Name) }()
	batch, err := consumer.Fetch(1, jetstream.FetchContext(ctx))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if msg, ok := <-batch.Messages(); ok {
		if err := msg.DoubleAck(ctx); err != nil { // a work queue forgets it with the acknowledgement
			return fmt.Errorf("acknowledge message %d: %w", ack.Sequence, err)
		}
		return nil
	}
	if err := batch.Error(); err != nil {
		return fmt.Errorf("fetch message %d: %w", ack.Sequence, err)
	}
	return fmt.Errorf("message %d, published a moment ago, is not delivered", ack.Sequence)
}

func (b *Bus) ensureProbeStream(ctx context.Context) error {
	if b.hasProbe.Load() {
		return nil
	}
	if _, err := b.js.CreateOrUpdateStream(ctx, probeConfig()); err != nil {
		return err
	}
	b.hasProbe.Store(true)
	return nil
}

func probeConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: probeStream, Subjects: []string{ProbeSubject(probeStream)}, Description: "health probes publish and fetch here",
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, MaxMsgs: 256, MaxAge: probeKeep, Discard: jetstream.DiscardOld,
	}
}

// Heal deletes streams and creates them again, empty and without consumers, and the probe's own as well. It is what
// brings back a server that lost its files: CreateOrUpdateStream leaves the broken stream in place.
func (b *Bus) Heal(ctx context.Context, streams ...jetstream.StreamConfig) error {
	b.hasProbe.Store(false)
	for _, cfg := range append(streams[:len(streams):len(streams)], probeConfig()) {
		if err := b.js.DeleteStream(ctx, cfg.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return Classify(fmt.Errorf("heal stream %s: delete: %w", cfg.Name, err))
		}
		if _, err := b.js.CreateStream(ctx, cfg); err != nil {
			// Another replica may heal at the same time: its stream is as good.
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				continue
			}
			return Classify(fmt.Errorf("heal stream %s: create: %w", cfg.Name, err))
		}
	}
	return nil
}
