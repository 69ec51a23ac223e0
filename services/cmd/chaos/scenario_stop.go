package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"
)

func stopEnd(ctx context.Context, r *run) error { return stopped(ctx, r, atEnd, false) }

func stopPublish(ctx context.Context, r *run) error { return stopped(ctx, r, atStored, true) }

// stopped lets a worker stand still past its lease. Another one does the job, and then the first one goes on as if
// nothing had happened.
func stopped(ctx context.Context, r *run, point string, byClaim bool) error {
	w, err := r.split(ctx, splitOptions{workers: 2})
	if err != nil {
		return setup(err)
	}
	for round := range r.n(1, 5) {
		channel := fmt.Sprintf("ledger%d", round)
		if err := w.channel(ctx, channel, ""); err != nil {
			return setup(err)
		}
		n := w.next
		if err := w.enqueue(ctx, 1, ledgerArgs{Channel: channel, HoldAt: point, ByClaim: byClaim}); err != nil {
			return setup(err)
		}
		victim, err := w.awaitHeld(ctx, n, point)
		if err != nil {
			return setup(err)
		}
		if err := victim.signal(syscall.SIGSTOP); err != nil {
			return setup(err)
		}
		stopped := time.Now()
		// Its successor does the whole job.
		if err := w.awaitDone(ctx, round+1, 30*time.Second); err != nil {
			return err
		}
		r.recovered(time.Since(stopped))
		if err := w.awaitTerminal(ctx, 10*time.Second); err != nil {
			return err
		}
		if err := w.release(n); err != nil {
			return setup(err)
		}
		if err := victim.signal(syscall.SIGCONT); err != nil {
			return setup(err)
		}
		var late string
		wait, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("no late write"))
		err = victim.await(wait, "the late write", func(line string) bool {
			var ok bool
			late, ok = strings.CutPrefix(line, fmt.Sprintf("%s %d: ", lateLine, n))
			return ok
		})
		cancel()
		if err != nil {
			return setup(err)
		}
		r.say("round %d: %s stood still at %q for %.1f s; its late write: %s", round+1, victim.name, point, time.Since(stopped).Seconds(), late)
		if late == lateTaken {
			r.say("the late write was not refused")
		}
	}
	// The index that follows a late publication needs a moment; only then does the comparison mean something.
	if err := w.awaitIndexed(ctx); err != nil {
		return err
	}
	if err := w.verify(ctx); err != nil {
		return err
	}
	for _, d := range r.result.Done {
		if strings.Contains(d, "not refused") {
			return breaks(latePublished, "and it changed nothing that can be seen")
		}
	}
	return nil
}

// awaitIndexed waits until no index file is behind.
func (w *world) awaitIndexed(ctx context.Context) error {
	for deadline := time.Now().Add(listPatience); ; {
		var open int
		err := w.pool.QueryRow(ctx, `SELECT count(*) FROM jobs.jobs WHERE kind LIKE 'channels.%' AND finished_at IS NULL`).Scan(&open)
		if err == nil && open == 0 {
			return sleep(ctx, 1200*time.Millisecond) // the edge keeps an answer for a second
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d index jobs have not ended", open)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
