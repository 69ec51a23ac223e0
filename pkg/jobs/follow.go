package jobs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Follow yields a job's events until its terminal state, which is the last one. It never misses that: beside the stream
// it looks at the database every ClientConfig.FollowPoll.
//
// With an empty lastEventID it begins with the job's state and everything the stream still has of it. With the ID of an
// event it goes on behind that event. An ID whose stream is gone, or which lies past its end (a kill may lose the tail of
// a stream, and use its numbers again), gets the state from the database first and then what is new. If JetStream cannot
// be asked, only states are told, as the database has them.
//
// The sequence ends with an error if the job does not exist (fault.NotFound), the database fails or ctx ends.
func (c *Client) Follow(ctx context.Context, job uuid.UUID, lastEventID string) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := follower{c: c, job: job, yield: yield}
		if err := f.run(ctx, lastEventID); err != nil {
			yield(Event{}, fmt.Errorf("follow job %s: %w", job, err))
		}
	}
}

var (
	errEnough = errors.New("enough")            // the end was told, or whoever ranges over the events has left
	errReopen = errors.New("events broken off") // look at the stream afresh
)

// followBatch is how many events are asked for at once.
const followBatch = 100

type follower struct {
	c     *Client
	job   uuid.UUID
	at    position // of the latest event
	state State    // the latest told
	over  bool     // the job had ended when we began
	yield func(Event, error) bool
}

func (f *follower) run(ctx context.Context, lastEventID string) error {
	f.at, _ = parsePosition(lastEventID)
	for {
		err := f.follow(ctx, lastEventID)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case !errors.Is(err, errReopen):
			return err
		case !sleep(ctx, f.c.cfg.FollowPoll):
			return context.Cause(ctx)
		}
		lastEventID = f.at.String()
	}
}

func (f *follower) follow(ctx context.Context, lastEventID string) error {
	epoch, last, stream, err := f.c.eventsNow(ctx)
	if err != nil {
		return f.look(ctx)
	}
	known, ok := parsePosition(lastEventID)
	resume := ok && known.epoch == epoch && known.seq <= last
	f.at = position{epoch: epoch}
	switch {
	case resume:
		f.at.seq = known.seq
	case ok && known.epoch == epoch: // past the end
		f.at.seq = last
	}
	info, err := f.c.Get(ctx, f.job)
	if err != nil {
		return err
	}
	if !resume && !info.State.Terminal() {
		if err := f.tell(info); err != nil {
			return err
		}
	}
	f.over = info.State.Terminal()
	if f.over && f.at.seq >= last {
		return f.end(info)
	}
	open, cancel := context.WithTimeout(ctx, f.c.cfg.FollowPoll+time.Second)
	defer cancel()
	// Not the client's ordered consumer: when its stream is gone it tries for ever to get it back, and ctx does not end that.
	cons, err := stream.CreateConsumer(open, jetstream.ConsumerConfig{
		FilterSubject:     subjectEvents + f.job.String(),
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       f.at.seq + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		InactiveThreshold: time.Minute + 2*f.c.cfg.FollowPoll,
	})
	if err != nil {
		return f.look(ctx)
	}
	return f.drain(ctx, cons)
}

// drain tells what the stream has, and asks the database whenever the stream is silent.
func (f *follower) drain(ctx context.Context, cons jetstream.Consumer) error {
	pending := uint64(1) // unknown
	if info := cons.CachedInfo(); info != nil && f.over {
		pending = info.NumPending
	}
	if pending == 0 { // a job that has ended, and nothing stored of it
		return f.look(ctx)
	}
	for told := uint64(0); ; {
		err := f.batch(ctx, cons, &told)
		switch {
		case errors.Is(err, errEnough):
			return err // before anything else: whoever has left must not be called again
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errSilent):
			if err := f.look(ctx); !errors.Is(err, errReopen) {
				return err // the end
			}
		case err != nil:
			return err
		}
	}
}

// errSilent: nothing more was stored while we waited.
var errSilent = errors.New("silence")

// batch tells the messages of one pull; told is the number of the latest among those the consumer sent.
func (f *follower) batch(ctx context.Context, cons jetstream.Consumer, told *uint64) error {
	wait, cancel := context.WithTimeout(ctx, f.c.cfg.FollowPoll)
	defer cancel()
	msgs, err := cons.Fetch(followBatch, jetstream.FetchContext(wait))
	if err != nil {
		return errReopen
	}
	n := 0
	for msg := range msgs.Messages() {
		n++
		meta, err := msg.Metadata()
		if err != nil || meta.Sequence.Consumer != *told+1 {
			return errReopen // one was lost on the way, which happens when a connection breaks
		}
		*told = meta.Sequence.Consumer
		pending, err := f.take(ctx, msg, meta)
		if err != nil {
			return err
		}
		if pending == 0 && f.over {
			return errSilent // all that was stored of a job that had ended
		}
	}
	switch err := msgs.Error(); {
	case n > 0:
		return nil // not silent: more may be on its way
	case err == nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return errSilent
	default:
		return errReopen // the stream is gone, or the server away
	}
}

// take tells one message, and returns how many are stored behind it.
func (f *follower) take(ctx context.Context, msg jetstream.Msg, meta *jetstream.MsgMetadata) (pending uint64, err error) {
	f.at.seq = meta.Sequence.Stream
	e, ok := decodeEvent(msg.Data())
	if !ok {
		return meta.NumPending, nil
	}
	if e.Kind == EventState && e.State != nil && e.State.State.Terminal() {
		// The database has the last word: a job may have been retried since.
		info, err := f.c.Get(ctx, f.job)
		if err != nil {
			return 0, err
		}
		if info.State.Terminal() && meta.NumPending == 0 {
			return 0, f.end(info)
		}
	}
	e.ID = f.at.String()
	if e.State != nil {
		f.state = e.State.State
	}
	if !f.yield(e, nil) {
		return 0, errEnough
	}
	return meta.NumPending, nil
}

// look tells what the database has: the end, or the state if it is news. Otherwise it returns errReopen.
func (f *follower) look(ctx context.Context) error {
	info, err := f.c.Get(ctx, f.job)
	if err != nil {
		return err
	}
	if info.State.Terminal() {
		return f.end(info)
	}
	if info.State != f.state {
		if err := f.tell(info); err != nil {
			return err
		}
	}
	return errReopen
}

// tell yields the job's state as the database has it.
func (f *follower) tell(info Info) error {
	f.state = info.State
	e := Event{ID: f.at.String(), Kind: EventState, Job: info.ID, Time: info.lastChange(), State: &StateEvent{
		State: info.State, Failures: info.Failures, Error: info.LastError, Result: info.Result, Progress: info.Progress,
	}}
	if !f.yield(e, nil) {
		return errEnough
	}
	return nil
}

// end yields the terminal state.
func (f *follower) end(info Info) error {
	if err := f.tell(info); err != nil {
		return err
	}
	return errEnough
}

// eventsNow asks where the stream of events stands.
func (c *Client) eventsNow(ctx context.Context) (epoch int64, last uint64, s jetstream.Stream, err error) {
	if c.cfg.Bus == nil {
		return 0, 0, nil, errors.New("no bus")
	}
	if !c.cfg.Bus.Conn().IsConnected() {
		return 0, 0, nil, nats.ErrDisconnected
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.FollowPoll)
	defer cancel()
	if s, err = ensureEvents(ctx, c.cfg.Bus.JetStream()); err != nil {
		return 0, 0, nil, err
	}
	info := s.CachedInfo()
	return info.Created.UnixNano(), info.State.LastSeq, s, nil
}
