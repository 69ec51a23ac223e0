package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/entrepot-dev/entrepot/pkg/bus"
)

// Subjects and names. Nothing a user named is ever part of one.
const (
	subjectJobs   = "jobs."        // jobs.<kind>.<priority>, caught by the stream of the kind
	subjectCancel = "jobs.cancel." // core NATS: jobs.cancel.<job>; no kind is called cancel, for a kind has a dot
	subjectWake   = "jobs.wake."   // core NATS: jobs.wake.<kind>
	subjectRelay  = "jobs.relay"   // core NATS: a window has room
	subjectEvents = "events.job."  // events.job.<job>, caught by EVENTS
	streamEvents  = "EVENTS"
)

// headerKind repeats the kind for people who look at a stream; headerDispatch is the outbox row.
const headerKind = "Entrepot-Kind"

// kindStream is what has to be known of a kind to make its stream.
type kindStream struct {
	kind          string
	maxAckPending int
	ackWait       time.Duration
	replicas      int
}

func (k kindStream) name() string { return streamName(k.kind) }

func streamName(kind string) string {
	up := []byte("JOBS_" + token(kind))
	for i, b := range up {
		if b >= 'a' && b <= 'z' {
			up[i] = b - 'a' + 'A'
		}
	}
	return string(up)
}

func subject(kind string, p Priority) string { return subjectJobs + token(kind) + "." + p.String() }

func (k kindStream) config() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        k.name(),
		Subjects:    []string{subjectJobs + token(k.kind) + ".*"},
		Description: "ids of " + k.kind + " jobs about to run; PostgreSQL holds the queue",
		Retention:   jetstream.WorkQueuePolicy,
		Storage:     jetstream.FileStorage,
		MaxAge:      7 * 24 * time.Hour, // a bound for what nobody fetches: the sweeper dispatches it again
		Duplicates:  10 * time.Minute,   // outlives a relay that publishes again after a crash
		Replicas:    max(k.replicas, 1),
	}
}

func (k kindStream) consumer(p Priority) jetstream.ConsumerConfig {
	cfg := jetstream.ConsumerConfig{
		Durable:       p.String(),
		FilterSubject: subject(k.kind, p),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       k.ackWait,
		MaxDeliver:    -1, // attempts are counted in PostgreSQL
		MaxAckPending: 1000,
	}
	if k.maxAckPending > 0 {
		cfg.MaxAckPending = k.maxAckPending
	}
	return cfg
}

// ensure makes the kind's stream and consumers if they are missing. made reports that the stream was: what had been in
// it is gone and must be dispatched again.
func (k kindStream) ensure(ctx context.Context, js jetstream.JetStream) (made bool, err error) {
	if _, err := js.UpdateStream(ctx, k.config()); err != nil {
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return false, fmt.Errorf("stream %s: %w", k.name(), bus.Classify(err))
		}
		if _, err := js.CreateStream(ctx, k.config()); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return false, fmt.Errorf("stream %s: %w", k.name(), bus.Classify(err))
		}
		made = true
	}
	return made, k.consumers(ctx, js)
}

func (k kindStream) consumers(ctx context.Context, js jetstream.JetStream) error {
	for _, p := range ranks {
		if _, err := js.CreateOrUpdateConsumer(ctx, k.name(), k.consumer(p)); err != nil {
			return fmt.Errorf("consumer %s of %s: %w", p, k.name(), bus.Classify(err))
		}
	}
	return nil
}

const probeToken = "probe"

// probe reports whether the kind's stream is well, on a subject beside the priorities.
func (k kindStream) probe(ctx context.Context, js jetstream.JetStream) error {
	return probe(ctx, js, k.name(), subjectJobs+token(k.kind)+"."+probeToken)
}

// probe reports whether a stream delivers what it acknowledges: a server that lost its files only does the latter.
func probe(ctx context.Context, js jetstream.JetStream, stream, subject string) error {
	cfg := jetstream.ConsumerConfig{
		Durable: probeToken, FilterSubject: subject,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second, MaxDeliver: -1, InactiveThreshold: time.Minute,
	}
	cons, err := js.CreateOrUpdateConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	id := uuid.NewString()
	if _, err := js.PublishMsg(ctx, &nats.Msg{Subject: cfg.FilterSubject, Data: []byte(id)}); err != nil {
		return err
	}
	for {
		batch, err := cons.Fetch(1, jetstream.FetchContext(ctx))
		if err != nil {
			return err
		}
		got := false
		for msg := range batch.Messages() {
			got = true
			_ = msg.Ack() // a probe left behind is fetched by the next one
			if string(msg.Data()) == id {
				return nil
			}
		}
		if err := batch.Error(); err != nil {
			return err
		}
		if !got {
			return errors.New("a message published a moment ago is not delivered")
		}
	}
}

// heal replaces the kind's stream by an empty one.
func (k kindStream) heal(ctx context.Context, b *bus.Bus) error {
	if err := b.Heal(ctx, k.config()); err != nil {
		return err
	}
	return k.consumers(ctx, b.JetStream())
}

func eventsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              streamEvents,
		Subjects:          []string{subjectEvents + "*"},
		Description:       "progress and log lines of jobs, for those who watch; never the truth",
		Storage:           jetstream.FileStorage,
		Replicas:          1, // asynchronous persistence allows no more
		PersistMode:       jetstream.AsyncPersistMode,
		MaxAge:            24 * time.Hour,
		MaxBytes:          1 << 30,
		MaxMsgsPerSubject: 10_000,
		Discard:           jetstream.DiscardOld,
	}
}

// ensureEvents makes the stream of events if it is missing. It is never updated: the persistence mode cannot change.
func ensureEvents(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	s, err := js.Stream(ctx, streamEvents)
	if err == nil {
		return s, nil
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, bus.Classify(err)
	}
	s, err = js.CreateStream(ctx, eventsConfig())
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		s, err = js.Stream(ctx, streamEvents)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", streamEvents, bus.Classify(err))
	}
	return s, nil
}
