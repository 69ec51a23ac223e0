package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

// waiting counts jobs that are queued.
const waiting = `SELECT count(*) FROM jobs.jobs WHERE kind = $1 AND state = 'queued'`

// underWay makes a world of two workers with a channel and a queue of jobs, of which some are done.
func underWay(ctx context.Context, r *run, count int, args ledgerArgs) (*world, error) {
	w, err := r.split(ctx, splitOptions{workers: 2})
	if err != nil {
		return nil, setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return nil, setup(err)
	}
	args.Channel = "ledger"
	if err := w.enqueue(ctx, count, args); err != nil {
		return nil, setup(err)
	}
	return w, setup(w.awaitDone(ctx, 3, 30*time.Second))
}

// streamLost kills the NATS server, deletes all that it kept, and starts it again.
func streamLost(ctx context.Context, r *run) error {
	count := r.n(300, 2000)
	w, err := underWay(ctx, r, count, ledgerArgs{})
	if err != nil {
		return err
	}
	done, err := w.done(ctx)
	if err != nil {
		return setup(err)
	}
	if err := w.proc("nats").kill(); err != nil {
		return setup(err)
	}
	if err := w.deleteStreams(); err != nil {
		return setup(err)
	}
	if err := w.start(ctx, "nats"); err != nil {
		return setup(err)
	}
	back := time.Now()
	r.say("%d of %d jobs queued when the server was killed, and its files deleted", count-done, count)
	// What was under way when it happened ends soon after; only a later start proves that messages come again.
	err = w.stalled(ctx, r.patience(45*time.Second, 12*time.Second))
	err = w.becauseUndelivered(ctx, err, lostMessage, waiting+` AND dispatched_at < $2`, ledgerKind, back)
	if err != nil {
		return err
	}
	if err := w.startedAfter(ctx, back); err != nil {
		return err
	}
	return w.verify(ctx)
}

// deleteStreams deletes all that NATS keeps. A server that runs may put files back meanwhile.
func (w *world) deleteStreams() (err error) {
	for range 20 {
		if err = os.RemoveAll(filepath.Join(w.dir, "nats", "jetstream")); err == nil {
			return nil
		}
	}
	return err
}

// startedAfter notes when the first job began after a moment.
func (w *world) startedAfter(ctx context.Context, since time.Time) error {
	var at *time.Time
	if err := w.pool.QueryRow(ctx, `SELECT min(started) FROM public.chaos_ledger WHERE started > $1`, since).Scan(&at); err != nil {
		return err
	}
	if at == nil {
		return errors.New("no job was left when the fault had passed: there were too few")
	}
	w.r.recovered(at.Sub(since))
	return nil
}

// streamGone deletes the files under the server, which goes on acknowledging.
func streamGone(ctx context.Context, r *run) error {
	count := r.n(300, 2000)
	w, err := underWay(ctx, r, count, ledgerArgs{})
	if err != nil {
		return err
	}
	done, err := w.done(ctx)
	if err != nil {
		return setup(err)
	}
	deleted := time.Now()
	if err := w.deleteStreams(); err != nil {
		return setup(err)
	}
	r.say("%d of %d jobs queued when the files of the running server were deleted", count-done, count)
	// Nothing announces this. The sweeper suspects the stream after five seconds, and probes it.
	if err := w.becauseFilesAreGone(w.stalled(ctx, r.patience(45*time.Second, 25*time.Second))); err != nil {
		return err
	}
	if err := w.longestGap(ctx, deleted); err != nil {
		return err
	}
	return w.verify(ctx)
}

// longestGap notes the longest time in which no job ended.
func (w *world) longestGap(ctx context.Context, since time.Time) error {
	var gap *float64
	err := w.pool.QueryRow(ctx, `
		SELECT max(extract(epoch FROM ended - before))::float8 FROM (
			SELECT ended, greatest(lag(ended) OVER (ORDER BY ended), $1) AS before FROM public.chaos_ledger WHERE ended > $1) g`, since).Scan(&gap)
	if err != nil {
		return err
	}
	if gap == nil {
		return errors.New("no job was left when the fault came: there were too few")
	}
	w.r.recovered(time.Duration(*gap * float64(time.Second)))
	return nil
}

// natsAway stops the server for a while. The platform takes work all the while, and does it afterwards.
func natsAway(ctx context.Context, r *run) error {
	w, err := underWay(ctx, r, 20, ledgerArgs{})
	if err != nil {
		return err
	}
	if err := w.stalled(ctx, 30*time.Second); err != nil {
		return setup(err)
	}
	w.proc("nats").stop(5 * time.Second)
	away := time.Duration(r.n(15, 60)) * time.Second
	if r.program != "" {
		away = 5 * time.Second
	}
	packages, err := uploads(filepath.Join(w.dir, "ours"), r.opts.seed, 6)
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ours", ""); err != nil {
		return fmt.Errorf("make a channel while NATS is away: %w", err)
	}
	uploaded := 0
	for until := time.Now().Add(away); time.Now().Before(until); {
		if err := w.enqueue(ctx, 2, ledgerArgs{Channel: "ledger"}); err != nil {
			return fmt.Errorf("while NATS is away: %w", err)
		}
		if uploaded < len(packages) {
			p := packages[uploaded]
			if _, err := w.upload(ctx, "ours", p.file, p.data); err != nil {
				return fmt.Errorf("upload while NATS is away: %w", err)
			}
			uploaded++
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
	if err := w.start(ctx, "nats"); err != nil {
		return setup(err)
	}
	back := time.Now()
	r.say("NATS was away for %s; meanwhile %d jobs were asked for and %d packages uploaded", away, len(w.asked)-20, uploaded)
	err = w.goesOn(ctx, back, back, 10*time.Second)
	if err = w.becauseUndelivered(ctx, err, unsent, waiting+` AND dispatched_at < $2`, ledgerKind, back); err != nil {
		return err
	}
	if err := w.stalled(ctx, 30*time.Second); err != nil {
		return err
	}
	return w.verify(ctx)
}

// duplicates publishes the ids of jobs again, as a relay would that had forgotten: while they run, in another order, and
// when they are long done.
func duplicates(ctx context.Context, r *run) error {
	w, err := underWay(ctx, r, r.n(60, 500), ledgerArgs{Work: 20 * time.Millisecond})
	if err != nil {
		return err
	}
	nc, err := nats.Connect("nats://" + w.addr("nats"))
	if err != nil {
		return setup(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return setup(err)
	}
	published := 0
	again := func() error {
		order := rand.New(rand.NewPCG(r.opts.seed, uint64(published))).Perm(len(w.asked))
		for _, i := range order {
			msg := nats.NewMsg("jobs.chaos_ledger.normal")
			msg.Data = []byte(w.asked[i].id)
			published++
			msg.Header.Set(jetstream.MsgIDHeader, fmt.Sprintf("duplicate-%d", published))
			if _, err := js.PublishMsg(ctx, msg); err != nil {
				return setup(err)
			}
		}
		return nil
	}
	for range 3 {
		if err := again(); err != nil {
			return err
		}
	}
	if err := w.stalled(ctx, 30*time.Second); err != nil {
		return err
	}
	for range 2 {
		if err := again(); err != nil {
			return err
		}
	}
	// All have had their effect when the stream is empty.
	stream, err := js.Stream(ctx, "JOBS_CHAOS_LEDGER")
	if err != nil {
		return setup(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		info, err := stream.Info(ctx)
		if err != nil {
			return setup(err)
		}
		if info.State.Msgs == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d duplicates are not dealt with", info.State.Msgs)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	if err := w.awaitTerminal(ctx, 10*time.Second); err != nil {
		return err
	}
	r.say("%d messages besides those of the %d jobs, 2 for each after its end", published, len(w.asked))
	return w.verify(ctx)
}

// released gives every job back at its first delivery. The second one is a message of its own.
func released(ctx context.Context, r *run) error {
	w, err := r.split(ctx, splitOptions{workers: 2})
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	count := r.n(8, 40)
	for i := range count {
		if err := w.enqueue(ctx, 1, ledgerArgs{Channel: "ledger", GiveBack: true}); err != nil {
			return setup(err)
		}
		if err := w.awaitDone(ctx, i+1, r.patience(15*time.Second, 4*time.Second)); err != nil {
			return w.becauseUndelivered(ctx, err, swallowed, waiting+` AND claim > 0 AND dispatched_at IS NOT NULL`, ledgerKind)
		}
	}
	var worst float64
	err = w.pool.QueryRow(ctx, `
		SELECT max(extract(epoch FROM l.started - j.queued_at))::float8
		FROM public.chaos_ledger l JOIN jobs.jobs j ON j.id = l.job WHERE l.claim = 2`).Scan(&worst)
	if err != nil {
		return err
	}
	r.recovered(time.Duration(worst * float64(time.Second)))
	r.say("%d jobs were given back at their first delivery; the slowest ran again after %.0f ms", count, worst*1000)
	if worst > 1 {
		return fmt.Errorf("a job that was given back ran again after %.2f s, more than 1 s", worst)
	}
	return w.verify(ctx)
}

// exclusion: jobs that want the same resource for themselves alone.
func exclusion(ctx context.Context, r *run) error {
	w, err := r.split(ctx, splitOptions{workers: 2})
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	if err := w.enqueue(ctx, r.n(30, 200), ledgerArgs{Channel: "ledger", Work: 20 * time.Millisecond}, jobs.Lock{Resource: "chaos", Exclusive: true}); err != nil {
		return setup(err)
	}
	if err := w.stalled(ctx, 30*time.Second); err != nil {
		return err
	}
	var overlaps, workers int
	err = w.pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE started < before), count(DISTINCT worker) FROM (
			SELECT started, worker, lag(ended) OVER (ORDER BY started) AS before FROM public.chaos_ledger) l`).Scan(&overlaps, &workers)
	if err != nil {
		return err
	}
	r.say("%d jobs with one exclusive lock, on %d workers", len(w.asked), workers)
	if overlaps > 0 {
		return breaks(overlap, "%d times", overlaps)
	}
	return w.verify(ctx)
}
