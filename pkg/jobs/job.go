package jobs

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/guard"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Job is one attempt at a job, in the hands of its worker.
type Job[A Args] struct {
	ID   uuid.UUID
	Seq  int64
	Kind string
	// Claim is the fencing token of this attempt. It goes into the names of what no transaction covers, and into the
	// internal token of calls to other services.
	Claim     int64
	Args      A
	Namespace string
	Principal Principal
	Resource  string
	Priority  Priority
	// Failures is the number of attempts that failed before.
	Failures   int
	ScheduleID uuid.UUID

	t *task
}

func newJob[A Args](t *task, args A) *Job[A] {
	r := &t.row
	j := &Job[A]{
		ID: r.ID, Seq: r.Seq, Kind: r.Kind, Claim: r.Claim, Args: args, Namespace: r.Namespace,
		Principal: Principal{Name: r.PrincipalName, Data: r.Principal}, Resource: r.Resource,
		Priority: priorityOf(r.Priority), Failures: r.Failures, t: t,
	}
	if r.ScheduleID != nil {
		j.ScheduleID = *r.ScheduleID
	}
	return j
}

// Hold ties what tx writes to this attempt; see the function Hold.
func (j *Job[A]) Hold(ctx context.Context, tx pg.DB) error { return Hold(ctx, tx, j.ID, j.Claim) }

// Complete ends the job as succeeded in tx, together with the effects of its last transaction: a crash after the commit
// finds the job done. It includes Hold, and belongs at the end of the transaction. Work then returns nil, and its result
// is ignored.
func (j *Job[A]) Complete(ctx context.Context, tx pg.DB, result any) error {
	data, err := encodeResult(result)
	if err != nil {
		return Discard(err)
	}
	p := j.t.current()
	ok, err := settle(ctx, tx, j.ID, j.Claim, settlement{state: Succeeded, result: data, progress: &p}, true)
	if err != nil {
		return err
	}
	if guard.Settle && !ok {
		return lostClaim(j.ID, j.Claim)
	}
	return nil
}

// Progress tells how far the job has come; total 0 means unknown. Call it as often as you like: followers hear of it at
// most four times a second, the database about once.
func (j *Job[A]) Progress(done, total, bytes int64, message string) {
	j.t.setProgress(Progress{Done: done, Total: total, Bytes: bytes, Message: clean(message)})
}

// Log sends a line to those who follow the job.
func (j *Job[A]) Log(level slog.Level, line string) {
	j.t.r.events.publish(Event{Kind: EventLog, Job: j.ID, Log: &LogEvent{Level: level, Line: clean(line)}})
}

// Logf is Log at level info with a format.
func (j *Job[A]) Logf(format string, args ...any) {
	j.Log(slog.LevelInfo, fmt.Sprintf(format, args...))
}

// task is an attempt as its runner sees it.
type task struct {
	r      *Runner
	row    claimedRow
	spec   KindSpec
	cancel context.CancelCauseFunc
	// keep tells JetStream that the message is being worked on.
	keep func() error

	mu         sync.Mutex
	progress   Progress
	told, kept bool      // the latest progress has reached the followers, the database
	leaseUntil time.Time // by our clock, reckoned from before the database set it
}

func (t *task) setProgress(p Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p != t.progress {
		t.progress, t.told, t.kept = p, false, false
	}
}

// untold returns the progress if followers have not heard of it.
func (t *task) untold() (Progress, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := !t.told
	t.told = true
	return t.progress, fresh
}

func (t *task) current() Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.progress
}

func (t *task) tellProgress() {
	if p, ok := t.untold(); ok {
		t.r.events.publish(Event{Kind: EventProgress, Job: t.row.ID, Progress: &p})
	}
}
