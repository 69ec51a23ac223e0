package main

import (
	"fmt"
	"time"
)

const (
	// minRate is how many requests a second the reader has to make outside of outages, or it proves little.
	minRate = 200
	// restartRecovery is how long after a process says that it is ready, or stands still no more, somebody may still go
	// without an answer: those who asked before.
	restartRecovery = 3 * time.Second
	// databaseRecovery is how long the platform may take to start its killed database again, to let it recover, and to
	// find it: all that while nobody tells the reader anything.
	databaseRecovery = 15 * time.Second
	// goodAnswers is how many answers in a row the reader has to get at the end.
	goodAnswers = 100
	goodWithin  = 10 * time.Second
)

// window is a declared outage: while it is open, who asks may go without an answer. Wrong ones are never allowed.
type window struct {
	from time.Time
	to   time.Time // zero while it is open
	// past says that only what is built for readers of former revisions may fail.
	past bool
}

// covers says whether a request that was under way from asked to now falls into the window.
func (w *window) covers(asked, now time.Time) bool {
	return !now.Before(w.from) && (w.to.IsZero() || !asked.After(w.to))
}

// outage declares one. The function that it returns says when the fault is over; from then on the reader allows it for as
// long as recovery.
func (r *reader) outage(recovery time.Duration) (over func()) { return r.open(recovery, false) }

// outageOfThePast declares one of what is built for readers of former revisions.
func (r *reader) outageOfThePast(recovery time.Duration) (over func()) { return r.open(recovery, true) }

func (r *reader) open(recovery time.Duration, past bool) (over func()) {
	w := &window{from: time.Now(), past: past}
	r.mu.Lock()
	r.windows = append(r.windows, w)
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if w.to.IsZero() {
			w.to = time.Now().Add(recovery)
		}
	}
}

// unanswered notes that a request had no answer, or one that says that there is none now.
func (r *reader) unanswered(path string, past bool, asked time.Time, why string) {
	r.outages.Add(1)
	now := time.Now()
	r.mu.Lock()
	r.streak = 0
	allowed := false
	for _, w := range r.windows {
		allowed = allowed || w.covers(asked, now) && (past || !w.past)
	}
	r.mu.Unlock()
	if !allowed {
		r.violation(lieOutage, "%s: %s, after %.1f s and outside of the declared outages", path, why, now.Sub(asked).Seconds())
	}
}

// counted counts a request by whether it begins in a declared outage of everything.
func (r *reader) counted(asked time.Time) {
	r.polls.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.windows {
		if !w.past && w.covers(asked, asked) {
			return
		}
	}
	r.steady++
}

// steadyTime is how long the reader has read outside of declared outages. The caller holds mu.
func (r *reader) steadyTime(now time.Time) time.Duration {
	if r.began.IsZero() {
		return 0
	}
	total, reached := now.Sub(r.began), r.began
	for _, w := range r.windows { // in the order of their beginnings
		if w.past {
			continue
		}
		from, to := w.from, w.to
		if to.IsZero() || to.After(now) {
			to = now
		}
		if from.Before(reached) {
			from = reached
		}
		if to.After(from) {
			total -= to.Sub(from)
			reached = to
		}
	}
	return total
}

// age is since when the reader reads, in seconds: violations go by it.
func (r *reader) age() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.began).Seconds()
}

// awaitGood waits until the reader has had many answers without a gap.
func (r *reader) awaitGood() error {
	for deadline := time.Now().Add(goodWithin); ; time.Sleep(5 * time.Millisecond) {
		r.mu.Lock()
		streak := r.streak
		r.mu.Unlock()
		if streak >= goodAnswers {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s after the end the reader has had %d good answers in a row, not %d", goodWithin, streak, goodAnswers)
		}
	}
}
