package main

import (
	"context"
	"fmt"
	"time"
)

// race lets two workers, each with a channels service of its own, publish to one channel at the same moment: both have
// worked their revision out for the same head before either may write.
func race(ctx context.Context, r *run) error {
	w, err := r.split(ctx, splitOptions{workers: 2, slots: 1, secondChannels: true, lease: 10 * time.Second})
	if err != nil {
		return setup(err)
	}
	rounds := r.n(3, 20)
	for round := range rounds {
		channel := fmt.Sprintf("raced%d", round)
		if err := w.channel(ctx, channel, ""); err != nil {
			return setup(err)
		}
		n := w.next
		// One slot each: the two that are held are on two workers.
		if err := w.enqueue(ctx, 2, ledgerArgs{Channel: channel, HoldAt: atStored}); err != nil {
			return setup(err)
		}
		for i := range 2 {
			if _, err := w.awaitHeld(ctx, n+i, atStored); err != nil {
				return setup(err)
			}
		}
		unblock, err := w.block(ctx, channel)
		if err != nil {
			return setup(err)
		}
		for i := range 2 {
			if err := w.release(n + i); err != nil {
				unblock()
				return setup(err)
			}
		}
		err = w.awaitBlocked(ctx, 2)
		at := time.Now()
		unblock()
		if err != nil {
			return setup(err)
		}
		if err := w.awaitDone(ctx, n+2, 20*time.Second); err != nil {
			return err
		}
		r.recovered(time.Since(at))
	}
	r.say("%d rounds of two publications worked out for the same head", rounds)
	if err := w.awaitIndexed(ctx); err != nil {
		return err
	}
	return w.verify(ctx)
}
