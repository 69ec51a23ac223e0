package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// stalled waits until all jobs are done, and gives up when for too long none has been.
func (w *world) stalled(ctx context.Context, patience time.Duration) error {
	last, have := time.Now(), 0
	for {
		n, err := w.done(ctx)
		if err == nil && n >= len(w.asked) {
			return w.awaitTerminal(ctx, patience)
		}
		if err == nil && n > have {
			last, have = time.Now(), n
		}
		if time.Since(last) > patience {
			return errors.Join(fmt.Errorf("for %s no job has been done: %d of %d wait for ever", patience, len(w.asked)-have, len(w.asked)), err)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// goesOn waits for the next ledger row after a moment, and notes how long that took. patience is counted from ready, when
// nothing stood in the way any more.
func (w *world) goesOn(ctx context.Context, since, ready time.Time, patience time.Duration) error {
	for {
		var n int
		err := w.pool.QueryRow(ctx, `SELECT count(*) FROM public.chaos_ledger WHERE ended > $1`, since).Scan(&n)
		if err == nil && n > 0 {
			w.r.recovered(time.Since(since))
			return nil
		}
		if time.Since(ready) > patience {
			return errors.Join(fmt.Errorf("work did not go on within %s", patience), err)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// killWorker kills a worker that has stored a blob and named it nowhere. The others take its jobs when their leases are
// over.
func killWorker(ctx context.Context, r *run) error {
	w, err := r.split(ctx, splitOptions{workers: 2})
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	if err := w.enqueue(ctx, 1, ledgerArgs{Channel: "ledger", HoldAt: atStored}); err != nil {
		return setup(err)
	}
	victim, err := w.awaitHeld(ctx, 0, atStored)
	if err != nil {
		return setup(err)
	}
	if err := w.enqueue(ctx, r.n(40, 400), ledgerArgs{Channel: "ledger"}); err != nil {
		return setup(err)
	}
	if err := w.awaitDone(ctx, 5, 30*time.Second); err != nil {
		return setup(err)
	}
	r.say("killed %s with job 0 between blob and publication, and others in its hands", victim.name)
	killed := time.Now()
	if err := victim.kill(); err != nil {
		return setup(err)
	}
	err = w.stalled(ctx, r.patience(30*time.Second, 8*time.Second))
	err = w.because(ctx, err, deadLease, `
		SELECT count(*) FROM jobs.jobs j JOIN jobs.leases l ON l.job = j.id AND l.claim = j.claim
		WHERE j.kind = $1 AND j.state = 'running' AND l.expires_at < clock_timestamp() - interval '3 seconds'`, ledgerKind)
	if err != nil {
		return err
	}
	var at time.Time
	if err := w.pool.QueryRow(ctx, `SELECT ended FROM public.chaos_ledger WHERE job = $1`, w.asked[0].id).Scan(&at); err != nil {
		return err
	}
	r.recovered(at.Sub(killed))
	return w.verify(ctx)
}

// killSync kills the whole process three times, each time in another sync. Killed and started again, a sync may ask the
// upstream once more for what was under way, and for nothing else.
func killSync(ctx context.Context, r *run) error {
	const downloads = 16
	w, err := r.whole(ctx, false, setting{"sync.downloads", fmt.Sprint(downloads)}, setting{"proxy.index_ttl", "500ms"})
	if err != nil {
		return setup(err)
	}
	grows, err := growUpstream(filepath.Join(w.dir, "grows"), r.opts.seed+9)
	if err != nil {
		return setup(err)
	}
	defer grows.close()
	if err := w.proxy(ctx, "proxy", grows); err != nil {
		return setup(err)
	}
	files := r.n(240, 1200)
	for i, percent := range []int{25, 50, 75} {
		ch, err := sample.Build(filepath.Join(w.dir, fmt.Sprint("up", percent)), sample.Options{Packages: files, Tiny: true, Seed: r.opts.seed + uint64(i)})
		if err != nil {
			return setup(err)
		}
		up, err := serveUpstream(ch, 40*time.Millisecond)
		if err != nil {
			return setup(err)
		}
		defer up.close()
		name := fmt.Sprintf("mirror%d", percent)
		if err := w.channel(ctx, name, up.url); err != nil {
			return setup(err)
		}
		job, err := w.rest.StartSync(ctx, &syncv1.StartSyncRequest{Channel: name})
		if err != nil {
			return setup(err)
		}
		if err := up.awaitFiles(ctx, files*percent/100); err != nil {
			return setup(err)
		}
		over := w.reader.outage(restartRecovery)
		killed := time.Now()
		if err := w.proc("all").kill(); err != nil {
			return setup(err)
		}
		up.settle()
		before := up.files()
		if err := w.start(ctx, "all"); err != nil {
			return err
		}
		over()
		if err := up.awaitFiles(ctx, before+1); err != nil {
			return fmt.Errorf("the sync did not go on: %w", err)
		}
		r.recovered(time.Since(killed))
		end, err := await(ctx, w.rest, job.GetId(), time.Minute)
		if err != nil {
			return err
		}
		r.result.Queued++
		if end.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED {
			return fmt.Errorf("%s ended as %v: %s", name, end.GetState(), end.GetError())
		}
		r.result.Terminal++
		gets := up.files()
		r.say("killed at %d of %d files; the upstream's log has %d GETs of packages, at most %d allowed", before, files, gets, files+downloads)
		if gets > files+downloads {
			return breaks(fetchedTwice, "%d files were asked for with %d GETs, more than %d", files, gets, files+downloads)
		}
		if err := w.mirrored(ctx, name, ch); err != nil {
			return err
		}
	}
	if err := stopProxy(ctx, w); err != nil {
		return err
	}
	return errors.Join(w.proxied(ctx, "proxy", grows), w.verify(ctx))
}

// stopProxy lets the process stand still, as a machine does that is being moved, while the proxied index changes.
func stopProxy(ctx context.Context, w *world) error {
	began := w.reader.age()
	over := w.reader.outage(restartRecovery)
	if err := w.proc("all").signal(syscall.SIGSTOP); err != nil {
		return setup(err)
	}
	err := sleep(ctx, 3*time.Second)
	if cerr := w.proc("all").signal(syscall.SIGCONT); err == nil {
		err = setup(cerr)
	}
	over()
	w.r.say("the process stood still from %.1f s to %.1f s of the reader's time, while the index that it proxies changed", began, w.reader.age())
	return err
}

// proxied waits until a proxy lists what its upstream lists, which has come to its end. The reader compares the bytes.
func (w *world) proxied(ctx context.Context, channel string, up *growing) (err error) {
	up.finish()
	for deadline := time.Now().Add(listPatience); time.Now().Before(deadline); {
		behind := ""
		for _, subdir := range up.channel.Subdirs {
			for _, name := range []string{"repodata.json", "repodata.json.zst", "repodata.json.bz2"} {
				path := channel + "/" + subdir + "/" + name
				l, rerr := w.readIndex(ctx, path)
				if rerr != nil {
					return rerr
				}
				if want := up.last(subdir); len(l.has) != want {
					behind = fmt.Sprintf("%s lists %d files, its upstream %d", path, len(l.has), want)
				}
			}
		}
		if behind == "" {
			w.r.say("the proxied index changed %d times; the upstream was asked for its packages %d times", up.steps(), up.gets())
			return nil
		}
		err = breaks(notOnUpstreams, "%s", behind)
		if serr := sleep(ctx, 50*time.Millisecond); serr != nil {
			return serr
		}
	}
	return err
}

// mirrored compares the index of a mirror with its upstream: all files, and no others. The reader compares the bytes.
func (w *world) mirrored(ctx context.Context, channel string, want *sample.Channel) (err error) {
	for deadline := time.Now().Add(listPatience); time.Now().Before(deadline); {
		listed := 0
		for _, subdir := range want.Subdirs {
			var l *listing
			if l, err = w.readIndex(ctx, channel+"/"+subdir+"/repodata.json"); err != nil {
				break
			}
			listed += len(l.has)
		}
		if err == nil && listed == len(want.Files) {
			return nil
		}
		if err == nil {
			err = breaks(wrongListing, "%s lists %d files, its upstream %d", channel, listed, len(want.Files))
		}
		if serr := sleep(ctx, 50*time.Millisecond); serr != nil {
			return serr
		}
	}
	return err
}

// await waits for the end of a job, through outages.
func await(ctx context.Context, c *restclient.Client, id string, patience time.Duration) (job *jobsv1.Job, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if job, err = c.Job(ctx, id); err == nil && restclient.Final(job.GetState()) {
			return job, nil
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return nil, serr
		}
	}
	return nil, errors.Join(fmt.Errorf("job %s has not ended after %s: it is %v", id, patience, job.GetState()), err)
}

// killPublish kills the process while its publication waits for the channel's row: blobs are stored, nothing has
// committed. The process that takes its place goes on at once, though leases last half a minute.
func killPublish(ctx context.Context, r *run) error {
	w, err := r.whole(ctx, true)
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	if err := w.enqueue(ctx, 5, ledgerArgs{Channel: "ledger"}); err != nil {
		return setup(err)
	}
	if err := w.stalled(ctx, 20*time.Second); err != nil {
		return setup(err)
	}
	for round := range r.n(1, 5) {
		unblock, err := w.block(ctx, "ledger")
		if err != nil {
			return setup(err)
		}
		// All four are in hand: one that was still queued would go on without waiting for any lease.
		err = errors.Join(w.enqueue(ctx, 4, ledgerArgs{Channel: "ledger"}), w.awaitBlocked(ctx, 1), w.awaitRunning(ctx, 4))
		if err != nil {
			unblock()
			return setup(err)
		}
		r.say("round %d: killed while the publication of 4 jobs waits for its commit", round+1)
		over := w.reader.outage(restartRecovery)
		killed := time.Now()
		err = w.proc("all").kill()
		unblock()
		if err != nil {
			return setup(err)
		}
		if err := w.start(ctx, "all"); err != nil {
			return err
		}
		over()
		err = w.goesOn(ctx, killed, time.Now(), 8*time.Second)
		err = w.because(ctx, err, deadOwner, `SELECT count(*) FROM jobs.leases WHERE kind = $1 AND taken_at < $2 AND expires_at > clock_timestamp()`, ledgerKind, killed)
		if err != nil {
			return err
		}
		if err := w.stalled(ctx, 30*time.Second); err != nil {
			return err
		}
	}
	return w.verify(ctx)
}

// awaitRunning waits until n ledger jobs are claimed.
func (w *world) awaitRunning(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("no %d jobs are in hand", n))
	defer cancel()
	for {
		var have int
		err := w.pool.QueryRow(ctx, `SELECT count(*) FROM jobs.leases WHERE kind = $1`, ledgerKind).Scan(&have)
		if err == nil && have >= n {
			return nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// block keeps a channel's row locked, so that publications wait for it right before they write, until unblock.
func (w *world) block(ctx context.Context, channel string) (unblock func(), err error) {
	conn, err := pgx.Connect(ctx, w.dsn)
	if err != nil {
		return nil, err
	}
	unblock = func() {
		// With the connection goes its transaction; the server may be gone as well.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, `SELECT 1 FROM channels.channels WHERE name = $1 FOR UPDATE`, channel)
	}
	if err != nil {
		unblock()
		return nil, err
	}
	return unblock, nil
}

// awaitBlocked waits until n publications wait for the row.
func (w *world) awaitBlocked(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("no %d publications wait for the channel", n))
	defer cancel()
	for {
		var have int
		err := w.pool.QueryRow(ctx, `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%FROM channels.channels%FOR NO KEY UPDATE%'`).Scan(&have)
		if err == nil && have >= n {
			return nil
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// upload publishes a package through the edge, as a person does.
func (w *world) upload(ctx context.Context, channel string, f sample.File, data []byte) (*channelsv1.File, error) {
	file, _, err := w.rest.Upload(ctx, restclient.Upload{
		Channel: channel, Filename: filepath.Base(f.Path), Body: newBody(data), Size: int64(len(data)), SHA256: f.SHA256,
	})
	return file, err
}
