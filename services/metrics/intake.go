package metrics

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/access"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

const (
	durable = "metrics"
	// fetchMost bounds one transaction: so many batches of at most 4,000 files each.
	fetchMost = 64
	// fetchWait is how long the server is asked to wait for a batch.
	fetchWait = 5 * time.Second
	// applyTimeout is below ackWait: a batch whose transaction may still commit should not be given to another replica,
	// though it would do no harm.
	applyTimeout = 25 * time.Second
	ackWait      = 30 * time.Second
	// retryPause is for batches that could not be added, retryMost between attempts to reach the stream.
	retryPause = time.Second
	retryMost  = 10 * time.Second
	// probeEvery is how often the stream is asked whether it delivers what it acknowledges.
	probeEvery = 30 * time.Second
	// healChances and healPause: how often a probe must fail before the stream is given up.
	healChances = 3
	healPause   = 3 * time.Second
)

// intake fetches batches and adds them.
type intake struct {
	pool    *pgxpool.Pool
	bus     *bus.Bus
	stream  jetstream.StreamConfig
	log     *slog.Logger
	metrics *instruments
	now     func() time.Time

	cancel context.CancelFunc
	done   chan struct{}
}

func (in *intake) start() {
	ctx, cancel := context.WithCancel(context.Background()) // ended by stop
	in.cancel, in.done = cancel, make(chan struct{})
	go func() {
		defer close(in.done)
		in.run(ctx)
	}()
}

func (in *intake) stop() {
	if in.cancel == nil {
		return
	}
	in.cancel()
	<-in.done
	in.cancel = nil
}

// run fetches until ctx ends. Whatever goes wrong with the bus is tried again, with pauses.
func (in *intake) run(ctx context.Context) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := in.now()
		err := in.consume(ctx)
		if ctx.Err() != nil {
			return
		}
		if in.now().Sub(began) > time.Minute { // it worked for a while
			pause = 100 * time.Millisecond
		}
		in.log.WarnContext(ctx, "download counts cannot be fetched; trying again", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMost)
	}
}

// consume fetches from the stream until that fails.
func (in *intake) consume(ctx context.Context) error {
	consumer, err := in.ensure(ctx)
	if err != nil {
		return err
	}
	probed := in.now()
	for ctx.Err() == nil {
		if in.now().Sub(probed) > probeEvery {
			if err := in.bus.Probe(ctx, access.Stream); err != nil {
				return in.heal(ctx, err)
			}
			probed = in.now()
		}
		// The first fetch waits for something to come; the second takes what came with it.
		msgs, err := in.next(ctx, consumer)
		if err == nil && len(msgs) > 0 {
			var more []jetstream.Msg
			more, err = fetch(consumer.FetchNoWait(fetchMost - 1))
			msgs = append(msgs, more...)
		}
		in.take(ctx, msgs) // what was fetched before an error is not left lying
		if err != nil {
			return bus.Classify(err)
		}
	}
	return ctx.Err()
}

// next waits for a batch, or a while, or until ctx ends. One that comes at that moment is given out again after ackWait.
func (in *intake) next(ctx context.Context, consumer jetstream.Consumer) ([]jetstream.Msg, error) {
	wait, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	msgs, err := fetch(consumer.Fetch(1, jetstream.FetchContext(wait)))
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		err = nil // nothing came
	}
	return msgs, err
}

func fetch(batch jetstream.MessageBatch, err error) (msgs []jetstream.Msg, _ error) {
	if err != nil {
		return nil, err
	}
	for msg := range batch.Messages() {
		msgs = append(msgs, msg)
	}
	if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
		return msgs, err
	}
	return msgs, nil
}

// ensure makes the stream and the consumer that all replicas share.
func (in *intake) ensure(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := access.Ensure(ctx, in.bus.JetStream(), in.stream.Replicas); err != nil {
		return nil, err
	}
	c, err := in.bus.JetStream().CreateOrUpdateConsumer(ctx, access.Stream, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: access.Subject, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 1024,
	})
	return c, bus.Classify(err)
}

// heal replaces a stream that acknowledges and does not deliver. What is in it is lost, so it must be sure: a server that
// answers at all, if only to refuse, has its files, and one that is slow gets more chances.
func (in *intake) heal(ctx context.Context, why error) error {
	for range healChances {
		var refused *jetstream.APIError
		if !in.bus.Conn().IsConnected() || errors.As(why, &refused) {
			return why
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(healPause):
		}
		if why = in.bus.Probe(ctx, access.Stream); why == nil {
			return errors.New("the stream did not deliver for a moment")
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	in.log.ErrorContext(ctx, "the stream of download counts does not deliver and is made anew", "error", why)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := in.bus.Heal(ctx, in.stream); err != nil {
		return err
	}
	return errors.New("the stream was made anew")
}

// take adds what was fetched, and acknowledges. What could not be added comes again.
func (in *intake) take(ctx context.Context, msgs []jetstream.Msg) {
	var good []jetstream.Msg
	var all []*metricsv1.AccessBatch
	for _, msg := range msgs {
		b, err := parseBatch(msg.Data())
		if err != nil {
			in.log.ErrorContext(ctx, "a batch of download counts cannot be read", "error", err)
			in.metrics.batches.Add(ctx, 1, outcomeMalformed)
			_ = msg.Term()
			continue
		}
		good, all = append(good, msg), append(all, b)
	}
	if len(all) == 0 {
		return
	}
	// Stopping waits for the transaction: begun work is cheaper to end than to repeat.
	tx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyTimeout)
	defer cancel()
	result, err := apply(tx, in.pool, all, in.now())
	if err != nil {
		in.log.WarnContext(ctx, "download counts could not be added and will come again", "batches", len(all), "error", err)
		for _, msg := range good {
			_ = msg.NakWithDelay(retryPause)
		}
		return
	}
	for _, msg := range good {
		_ = msg.Ack() // one that gets lost brings the batch again, to be found repeated
	}
	in.metrics.added(ctx, result, in.now())
	if result.lost > 0 {
		in.log.ErrorContext(ctx, "gateways had no room to count downloads", "downloads", result.lost)
	}
}

func parseBatch(data []byte) (*metricsv1.AccessBatch, error) {
	b := new(metricsv1.AccessBatch)
	if err := proto.Unmarshal(data, b); err != nil {
		return nil, err
	}
	if b.GetInstance() == "" || b.GetSeq() < 1 {
		return nil, errors.New("the batch has no number")
	}
	for _, ch := range b.GetChannels() {
		if len(ch.GetChannelId()) != 16 || len(ch.GetPaths()) != len(ch.GetCounts()) {
			return nil, errors.New("the batch does not fit together")
		}
	}
	return b, nil
}
