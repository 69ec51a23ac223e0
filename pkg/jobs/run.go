package jobs

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	// dbPatience bounds one claim; the message comes again afterwards.
	dbPatience = 10 * time.Second
	ackTimeout = time.Second
	// busyDelay is how long a message goes back for while somebody's transaction joins its job.
	busyDelay = 25 * time.Millisecond
	// troubleDelay is how long a message goes back for while the database is away.
	troubleDelay = 2 * time.Second
)

// handle takes one message through claim, work, settlement and acknowledgement. free gives the slot back before the
// acknowledgement, which may hang with a sick server.
func (r *Runner) handle(p *slotPool, msg jetstream.Msg, free func()) {
	ctx := r.work
	id, err := uuid.ParseBytes(msg.Data())
	if err != nil {
		r.log.ErrorContext(ctx, "jobs: malformed message", "subject", msg.Subject())
		free()
		_ = msg.TermWithReason("not a job id")
		return
	}
	claimCtx, cancel := context.WithTimeout(ctx, dbPatience)
	began := time.Now()
	row, how, err := claim(claimCtx, r.cfg.Pool, id, claimer{r.cfg.Name, r.cfg.LeaseTTL, r.leaseStart(), p.spec.MaxFailures})
	if err == nil && how == claimStale {
		// Perhaps its worker vanished and this is the second delivery: no need to wait for the sweeper.
		var state State
		if state, err = expire(claimCtx, r.cfg.Pool, id); state != "" {
			r.events.state(id, StateEvent{State: state})
		}
	}
	cancel()
	switch {
	case err != nil:
		r.log.WarnContext(ctx, "jobs: claim failed", "job", id, "error", err)
		free()
		_ = msg.NakWithDelay(troubleDelay)
		p.wakeIn(troubleDelay)
	case how == claimBusy:
		free()
		_ = msg.NakWithDelay(busyDelay)
		p.wakeIn(busyDelay)
	case how == claimStale, how == claimParked:
		free()
		_ = msg.Ack() // if that is lost, the duplicate is as stale
	default:
		done := r.runClaimed(p, row, msg, began)
		p.settled()
		if done {
			free()
			r.ack(msg, id)
			if p.spec.MaxAckPending > 0 {
				r.events.nudge(subjectWake + token(p.spec.Kind)) // the cap has room again
			}
		}
	}
}

// ack acknowledges after the commit. Not a fence: JetStream accepts it from a holder that was replaced long ago.
func (r *Runner) ack(msg jetstream.Msg, id uuid.UUID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.work), ackTimeout)
	defer cancel()
	if err := msg.DoubleAck(ctx); err != nil {
		r.log.Debug("jobs: acknowledgement failed; the duplicate will be stale", "job", id, "error", err)
	}
}

// runClaimed works on a job that is ours; it reports whether the message has done its duty.
func (r *Runner) runClaimed(p *slotPool, row claimedRow, msg jetstream.Msg, began time.Time) (done bool) {
	ctx, cancel := context.WithCancelCause(deliveredTrace(r.work, row, msg.Headers()))
	defer cancel(nil)
	ctx, span := r.tracer.Start(ctx, "jobs.run "+row.Kind, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("job.id", row.ID.String()), attribute.String("job.kind", row.Kind),
		attribute.Int64("job.claim", row.Claim), attribute.Int("job.failures", row.Failures)))
	defer span.End()
	t := &task{
		r: r, row: row, spec: p.spec, cancel: cancel, keep: msg.InProgress, leaseUntil: began.Add(r.cfg.LeaseTTL),
		progress: Progress{Done: row.ProgressDone, Total: row.ProgressTotal, Bytes: row.ProgressBytes, Message: row.ProgressMessage}, told: true, kept: true,
	}
	key := taskKey{row.ID, row.Claim}
	r.mu.Lock()
	r.running[key] = t
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.running, key)
		r.mu.Unlock()
	}()
	r.metrics.started(ctx, row.Kind, row.QueuedFor)
	r.events.state(row.ID, StateEvent{State: Running, Failures: row.Failures, Progress: t.current()})
	if row.CoalesceKey != nil {
		if _, err := promoteSibling(ctx, r.cfg.Pool, row.Kind, *row.CoalesceKey); err != nil {
			r.log.DebugContext(ctx, "jobs: the job behind this one stays for the sweeper", "job", row.ID, "error", err)
		}
	}

	start := r.cfg.Now()
	result, err := r.work1(ctx, p.kind, t)
	t.tellProgress()
	s, mine := classify(ctx, p.spec, row.Failures, row.MaxFailures, r.cfg.Rand(), result, err)
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, fault.KindOf(err).String())
	}
	state := State("lost")
	defer func() { r.metrics.ended(ctx, row.Kind, state, r.cfg.Now().Sub(start)) }()
	if !mine {
		r.log.WarnContext(ctx, "jobs: lease lost", "job", row.ID, "kind", row.Kind, "claim", row.Claim)
		return true // another dispatch of the job is or will be under way
	}
	ok, serr := r.settleTask(ctx, t, s)
	switch {
	case serr != nil:
		r.log.ErrorContext(ctx, "jobs: settling failed; the lease expires and the job runs again", "job", row.ID, "error", serr)
		return false
	case ok:
		state = s.state
	default:
		// Either Complete has ended it in the worker's transaction, or somebody took it away.
		if done, held := r.endedAs(ctx, key); held {
			state = done
		} else {
			r.log.WarnContext(ctx, "jobs: claim lost", "job", row.ID, "kind", row.Kind, "claim", row.Claim)
			return true
		}
	}
	r.report(ctx, t, state, s, err)
	return true
}

// work1 calls the worker with the kind's timeout, and turns a panic into an error.
func (r *Runner) work1(ctx context.Context, k *registered, t *task) (result any, err error) {
	if t.row.ArgsType != k.argsType {
		return nil, Discard(fault.New(fault.Invalid, "arguments are a %s, kind %s takes a %s", t.row.ArgsType, t.row.Kind, k.argsType))
	}
	timer := time.AfterFunc(k.spec.Timeout, func() { t.cancel(ErrTimeout) })
	defer timer.Stop()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			r.log.ErrorContext(ctx, "jobs: worker panicked", "job", t.row.ID, "kind", t.row.Kind, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return k.work(ctx, t)
}

// settleTask ends an attempt, and tries for as long as its lease may last: the work is done, and a database that comes
// back in time saves doing it again.
func (r *Runner) settleTask(ctx context.Context, t *task, s settlement) (bool, error) {
	p := t.current()
	s.progress, s.lockless = &p, len(t.row.LockResources) == 0
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.LeaseTTL) // also when the runner stops
	defer cancel()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		ok, err := settle(ctx, r.cfg.Pool, t.row.ID, t.row.Claim, s, false)
		if err == nil {
			if ok && s.state == Scheduled && s.delay <= 0 {
				// Not in the same transaction: a rival for the key would undo the settlement. The sweeper comes round too.
				if _, err := promote(ctx, r.cfg.Pool, t.row.ID); err != nil {
					r.log.DebugContext(ctx, "jobs: queueing again is left to the sweeper", "job", t.row.ID, "error", err)
				}
			}
			return ok, nil
		}
		if !retriable(err) || !sleep(ctx, pause) {
			return false, err
		}
	}
}

func retriable(err error) bool {
	switch fault.KindOf(pg.Classify(err)) {
	case fault.Unavailable, fault.LostRace, fault.Timeout, fault.Internal:
		return true
	}
	return false
}

// endedAs returns the terminal state the job reached under this claim; held is false if it was taken away.
func (r *Runner) endedAs(ctx context.Context, key taskKey) (State, bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dbPatience)
	defer cancel()
	var state string
	err := r.cfg.Pool.QueryRow(ctx, `SELECT state FROM jobs.jobs WHERE id = $1 AND claim = $2 AND finished_at IS NOT NULL`, key.job, key.claim).Scan(&state)
	return State(state), err == nil
}

// report tells the log and the followers how an attempt ended.
func (r *Runner) report(ctx context.Context, t *task, state State, s settlement, err error) {
	failures := t.row.Failures
	if s.burn {
		failures++
	}
	r.events.state(t.row.ID, StateEvent{State: state, Failures: failures, Error: s.err, Result: s.result, Progress: t.current()})
	attrs := []any{"job", t.row.ID, "kind", t.row.Kind, "claim", t.row.Claim, "state", string(state)}
	switch {
	case state == Dead:
		r.log.ErrorContext(ctx, "jobs: job is dead", append(attrs, "error", err)...)
	case s.burn:
		r.log.WarnContext(ctx, "jobs: attempt failed", append(attrs, "retry_in", s.delay, "error", err)...)
	case err != nil && errors.Is(context.Cause(ctx), ErrStopping):
		r.log.InfoContext(ctx, "jobs: job released", attrs...)
	default:
		r.log.DebugContext(ctx, "jobs: job ended", attrs...)
	}
}
