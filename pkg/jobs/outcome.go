package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Causes with which a running job's context ends; ask context.Cause.
var (
	// ErrCancelled: somebody called Client.Cancel.
	ErrCancelled = fault.New(fault.Cancelled, "the job was cancelled").WithReason("JOB_CANCELLED")
	// ErrLeaseLost: the lease ran out or another worker has the job. What this one still writes is refused by Hold.
	ErrLeaseLost = fault.New(fault.LostRace, "the lease on the job was lost").WithReason("JOB_LEASE_LOST")
	// ErrStopping: the process stops and the job goes back without a burned attempt.
	ErrStopping = fault.New(fault.Unavailable, "the worker is stopping").WithReason("WORKER_STOPPING")
	// ErrTimeout: the attempt took longer than the kind's timeout.
	ErrTimeout = fault.New(fault.Timeout, "the job took longer than its kind allows").WithReason("JOB_TIMEOUT")
)

type cancelError struct{ cause error }

func (e *cancelError) Error() string { return e.cause.Error() }
func (e *cancelError) Unwrap() error { return e.cause }

type discardError struct{ cause error }

func (e *discardError) Error() string { return e.cause.Error() }
func (e *discardError) Unwrap() error { return e.cause }

type snoozeError struct{ d time.Duration }

func (e *snoozeError) Error() string { return fmt.Sprintf("snoozed for %s", e.d) }

// Cancel wraps an error so that the worker that returns it ends its job as cancelled: the work has become pointless,
// which is nobody's failure.
func Cancel(reason error) error {
	if reason == nil {
		reason = ErrCancelled
	}
	return &cancelError{reason}
}

// Discard wraps an error so that the worker that returns it ends its job as dead at once: another attempt cannot help.
func Discard(err error) error {
	if err == nil {
		err = errors.New("discarded")
	}
	return &discardError{err}
}

// Snooze returns an error by which a worker puts its job off for d without burning an attempt: what it needs is not
// there yet.
func Snooze(d time.Duration) error { return &snoozeError{d} }

// hopeless are the kinds of error another attempt would meet again.
func hopeless(kind fault.Kind) bool {
	switch kind {
	case fault.Invalid, fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Precondition, fault.Unimplemented:
		return true
	}
	return false
}

// Final reports whether a worker's attempt that returns err, after failures others, is the last one of its job and ends
// it as dead. Workers that tell somebody of a failure ask it, so as to tell once.
func Final(ctx context.Context, failures, maxFailures int, err error) bool {
	if err == nil {
		return false
	}
	s, ours := classify(ctx, KindSpec{}, failures, maxFailures, 0, nil, err)
	return ours && s.state == Dead
}

// settlement is how an attempt ends.
type settlement struct {
	state State // Succeeded, Dead, Cancelled; or Scheduled, to run again after delay
	delay time.Duration
	burn  bool // counts as a failed attempt
	err   string
	// result is JSON, for Succeeded
	result []byte
	// progress is how far the attempt came, nil if only its lease knows
	progress *Progress
	// lockless is set for a job that holds no locks.
	lockless bool
}

// classify turns what an attempt returned into its settlement; ok is false if there is nothing to settle because the
// job is no longer ours. failures does not count this attempt.
func classify(ctx context.Context, spec KindSpec, failures, maxFailures int, random float64, result any, err error) (s settlement, ok bool) {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrLeaseLost) {
		return s, false
	}
	if err == nil {
		data, err := encodeResult(result)
		if err != nil {
			return settlement{state: Dead, burn: true, err: clean(err.Error())}, true
		}
		return settlement{state: Succeeded, result: data}, true
	}
	var (
		discard *discardError
		cancel  *cancelError
		snooze  *snoozeError
	)
	switch {
	case errors.Is(cause, ErrCancelled):
		return settlement{state: Cancelled}, true
	case errors.As(err, &cancel):
		return settlement{state: Cancelled, err: clean(cancel.Error())}, true
	case errors.As(err, &discard):
		return settlement{state: Dead, burn: true, err: clean(err.Error())}, true
	case errors.As(err, &snooze):
		return settlement{state: Scheduled, delay: snooze.d}, true
	case errors.Is(cause, ErrStopping):
		// Whatever it returned, it returned because we asked it to stop.
		return settlement{state: Scheduled}, true
	}
	text := err.Error()
	if errors.Is(cause, ErrTimeout) && !errors.Is(err, ErrTimeout) {
		text = fmt.Sprintf("%s (limit %s): %s", ErrTimeout, spec.Timeout, text)
	}
	if failures+1 >= maxFailures || (hopeless(fault.KindOf(err)) && !errors.Is(cause, ErrTimeout)) {
		return settlement{state: Dead, burn: true, err: clean(text)}, true
	}
	delay := spec.Backoff.Delay(failures+1, random)
	var f *fault.Error
	if errors.As(err, &f) {
		delay = max(delay, f.RetryAfter)
	}
	return settlement{state: Scheduled, burn: true, delay: delay, err: clean(text)}, true
}

// encodeResult writes a worker's result as JSON.
func encodeResult(result any) ([]byte, error) {
	var (
		data []byte
		err  error
	)
	switch r := result.(type) {
	case nil:
		return nil, nil
	case proto.Message:
		data, err = protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
	default:
		data, err = json.Marshal(r)
	}
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	if len(data) > maxResult {
		return nil, fault.New(fault.Invalid, "result has %d bytes, more than %d", len(data), maxResult)
	}
	return data, nil
}
