package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// clockLease runs workers whose clocks are wrong. Leases go by the database's: nobody loses one that he keeps, and
// nobody keeps one when he is dead.
func clockLease(ctx context.Context, r *run) error {
	w, err := r.split(ctx, splitOptions{workers: 2, clocks: map[string]time.Duration{"worker-1": -time.Hour, "worker-2": time.Hour}})
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	// Longer than a lease, so that each has to be kept by beats.
	if err := w.enqueue(ctx, r.n(12, 48), ledgerArgs{Channel: "ledger", Work: 2500 * time.Millisecond}); err != nil {
		return setup(err)
	}
	err = w.stalled(ctx, r.patience(30*time.Second, 10*time.Second))
	err = w.because(ctx, err, lostLease, `SELECT count(*) FROM jobs.jobs WHERE kind = $1 AND last_error LIKE '%its lease ran out'`, ledgerKind)
	if err != nil {
		return err
	}
	var again, early int
	err = w.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE claim > 1), count(DISTINCT worker) FROM public.chaos_ledger`).Scan(&again, &early)
	if err != nil {
		return err
	}
	r.say("%d jobs longer than a lease on %d workers an hour behind and ahead", len(w.asked), early)
	if again > 0 {
		return breaks(lostLease, "%d times, though its worker lived", again)
	}
	// Both die; with a lease reckoned an hour ahead the second one's job would wait for an hour.
	n := w.next
	if err := w.enqueue(ctx, 1, ledgerArgs{Channel: "ledger", HoldAt: atStart}); err != nil {
		return setup(err)
	}
	victim, err := w.awaitHeld(ctx, n, atStart)
	if err != nil {
		return setup(err)
	}
	killed := time.Now()
	if err := victim.kill(); err != nil {
		return setup(err)
	}
	if err := w.stalled(ctx, 15*time.Second); err != nil {
		return err
	}
	r.say("%s was killed with a job in hand, which another one did", victim.name)
	r.recovered(time.Since(killed))
	return w.verify(ctx)
}

// clockToken runs a channels service whose clock is behind that of the one who signs: tokens come from its future.
func clockToken(ctx context.Context, r *run) error {
	const behind = 4 * time.Second
	w, err := r.split(ctx, splitOptions{workers: 2, secondChannels: true, clocks: map[string]time.Duration{"channels": -behind}})
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	if err := w.enqueue(ctx, r.n(30, 200), ledgerArgs{Channel: "ledger", Work: 20 * time.Millisecond}); err != nil {
		return setup(err)
	}
	err = w.awaitTerminal(ctx, r.patience(30*time.Second, 10*time.Second))
	var refused int
	if qerr := w.pool.QueryRow(ctx, `SELECT count(*) FROM jobs.jobs WHERE kind = $1 AND last_error LIKE '%internal token%'`, ledgerKind).Scan(&refused); qerr != nil {
		return errors.Join(err, qerr)
	}
	if refused > 0 {
		return errors.Join(err, breaks(refusedToken, "%d jobs", refused))
	}
	if err != nil {
		return err
	}
	var through int
	if err := w.pool.QueryRow(ctx, `SELECT count(*) FROM public.chaos_ledger WHERE worker = 'worker-2'`).Scan(&through); err != nil {
		return err
	}
	r.say("%d of %d jobs published through a service whose clock is %s behind", through, len(w.asked), behind)
	if through == 0 && r.program == "" {
		return fmt.Errorf("no job went through the service with the wrong clock")
	}
	return w.verify(ctx)
}
