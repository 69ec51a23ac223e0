package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/entrepot-dev/entrepot/pkg/bus"
)

const (
	// Stream holds batches until they are added up.
	Stream = "ACCESS"
	// Subject is what batches are published on.
	Subject = "access.batches"
	// Keep is how long the stream holds a batch that nobody fetches. Who remembers the numbers of batches must do so for
	// longer.
	Keep = 7 * 24 * time.Hour

	streamBytes = 1 << 30
)

// Config is the stream's. It refuses what it has no room for: a batch that was acknowledged must not make room for
// another one.
func Config(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        Stream,
		Subjects:    []string{Subject, bus.ProbeSubject(Stream)},
		Description: "download counts on their way from gateways to metrics",
		Retention:   jetstream.WorkQueuePolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardNew,
		MaxAge:      Keep,
		MaxBytes:    streamBytes,
		Duplicates:  10 * time.Minute, // spares metrics some work; it is not what makes counts exact
		Replicas:    max(replicas, 1),
	}
}

// Ensure makes the stream if it is missing. One that exists is left as it is: whoever comes second may know less of how
// many replicas there shall be.
func Ensure(ctx context.Context, js jetstream.JetStream, replicas int) error {
	_, err := js.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = js.CreateStream(ctx, Config(replicas)); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", Stream, bus.Classify(err))
	}
	return nil
}
