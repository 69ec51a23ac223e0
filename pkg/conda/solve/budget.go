package solve

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limits bound what a single solve may cost. Zero fields mean the defaults.
type Limits struct {
	Time      time.Duration // default one minute; nothing real that has an answer takes that long
	Conflicts int64         // default one million
	Memory    int64         // bytes of clauses and variables, approximately; default 1 GiB
}

func (l Limits) withDefaults() Limits {
	if l.Time <= 0 {
		l.Time = time.Minute
	}
	if l.Conflicts <= 0 {
		l.Conflicts = 1_000_000
	}
	if l.Memory <= 0 {
		l.Memory = 1 << 30
	}
	return l
}

// LimitError says that a solve was given up because of one of its limits: whether there is an answer is not known.
type LimitError struct {
	What  string // "time", "conflicts" or "memory"
	Limit string
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("the solve was given up: it reached its limit of %s (%s)", e.What, e.Limit)
}

// budget counts against the limits. It is looked at often, so the costly questions are asked once in a while: a step
// takes well under a microsecond, and a cancel must be heard within 10 ms.
type budget struct {
	ctx       context.Context
	done      <-chan struct{}
	limits    Limits
	now       func() time.Time
	deadline  time.Time
	steps     int
	conflicts int64
	patience  int64 // conflicts after which to try something else; 0 is no end
	bytes     int64
}

// patience is how many conflicts the plain encoding is given under [Auto]: twice what the hardest of the real problems
// at hand takes. Where it is not enough, sharing usually needs a tenth, and on a sudoku it is what ends the search at all.
const patience = 1000

var errImpatient = errors.New("more conflicts than there is patience for")

const stepsBetweenLooks = 1024

func newBudget(ctx context.Context, limits Limits, now func() time.Time) *budget {
	limits = limits.withDefaults()
	return &budget{ctx: ctx, done: ctx.Done(), limits: limits, now: now, deadline: now().Add(limits.Time)}
}

// use counts memory; whether it is too much is found out at the next tick.
func (b *budget) use(bytes int64) { b.bytes += bytes }

// tick counts a step of the search.
func (b *budget) tick() error {
	if b.steps++; b.steps < stepsBetweenLooks {
		return nil
	}
	return b.look()
}

// look asks whether to go on.
func (b *budget) look() error {
	b.steps = 0
	select {
	case <-b.done:
		return context.Cause(b.ctx)
	default:
	}
	if b.bytes > b.limits.Memory {
		return &LimitError{"memory", fmt.Sprintf("%d bytes", b.limits.Memory)}
	}
	if b.now().After(b.deadline) {
		return &LimitError{"time", b.limits.Time.String()}
	}
	return nil
}

// conflict counts a conflict.
func (b *budget) conflict() error {
	if b.conflicts++; b.conflicts > b.limits.Conflicts {
		return &LimitError{"conflicts", fmt.Sprint(b.limits.Conflicts)}
	}
	if b.patience > 0 && b.conflicts > b.patience {
		return errImpatient
	}
	return nil
}
