package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// ready is a package with its bytes.
type readyPackage struct {
	file sample.File
	data []byte
}

// uploads makes packages to be uploaded.
func uploads(dir string, seed uint64, n int) ([]readyPackage, error) {
	ch, err := sample.Build(dir, sample.Options{Packages: n, Tiny: true, Seed: seed + 100})
	if err != nil {
		return nil, err
	}
	var all []readyPackage
	for _, f := range ch.Files {
		data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		all = append(all, readyPackage{f, data})
	}
	return all, nil
}

// postgresKilled kills the private PostgreSQL under the platform, then one of its backends, which makes it end all the
// others and recover.
func postgresKilled(ctx context.Context, r *run) error {
	w, err := r.whole(ctx, true)
	if err != nil {
		return setup(err)
	}
	if err := w.channel(ctx, "ledger", ""); err != nil {
		return setup(err)
	}
	half := r.n(60, 500)
	for _, victim := range []string{"the server", "a backend"} {
		before := len(w.asked)
		if err := w.enqueue(ctx, half, ledgerArgs{Channel: "ledger", Work: 20 * time.Millisecond}); err != nil {
			return setup(err)
		}
		if err := w.awaitDone(ctx, before+5, 30*time.Second); err != nil {
			return setup(err)
		}
		pid, err := w.postmaster()
		if err == nil && victim != "the server" {
			err = w.pool.QueryRow(ctx, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1`).Scan(&pid)
		}
		if err != nil {
			return setup(err)
		}
		over := w.reader.outage(databaseRecovery)
		killed := time.Now()
		err = syscall.Kill(pid, syscall.SIGKILL)
		over() // the rest is for the platform to mend
		if err != nil {
			return setup(err)
		}
		// The database's clock and ours are the same: one machine.
		err = w.goesOn(ctx, killed.Add(50*time.Millisecond), killed, r.patience(30*time.Second, 10*time.Second))
		if err = w.becauseNoDatabase(err); err != nil {
			return fmt.Errorf("killed %s: %w", victim, err)
		}
		if err := w.stalled(ctx, r.patience(60*time.Second, 10*time.Second)); err != nil {
			return fmt.Errorf("killed %s: %w", victim, err)
		}
		r.say("killed %s with %d jobs under way", victim, half)
	}
	return w.verify(ctx)
}

// postmaster is the pid of the private PostgreSQL.
func (w *world) postmaster() (int, error) {
	data, err := os.ReadFile(filepath.Join(w.dir, "all", "postgres", "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strconv.Atoi(strings.TrimSpace(line))
}

// smallDisk holds a world's blobs and a ballast that fills it.
const smallDisk = 24 << 20

// diskFull fills the disk of the blobs during uploads, a sync and publications. Each has to fail with an error that says
// so, or wait, and to succeed when there is space again.
func diskFull(ctx context.Context, r *run) error {
	disk := filepath.Join(r.opts.root, r.tag()+"-disk")
	unmount, err := mountSmall(disk, smallDisk)
	if err != nil {
		return setup(err)
	}
	r.onClose(func() error { return errors.Join(unmount(), os.Remove(disk)) })
	w, err := r.split(ctx, splitOptions{workers: 2, blobs: filepath.Join(disk, "blobs")})
	if err != nil {
		return setup(err)
	}
	for _, c := range []string{"ledger", "ours"} {
		if err := w.channel(ctx, c, ""); err != nil {
			return setup(err)
		}
	}
	packages, err := uploads(filepath.Join(w.dir, "ours"), r.opts.seed, 8)
	if err != nil {
		return setup(err)
	}
	ch, err := sample.Build(filepath.Join(w.dir, "up"), sample.Options{Packages: r.n(60, 400), Tiny: true, Seed: r.opts.seed})
	if err != nil {
		return setup(err)
	}
	up, err := serveUpstream(ch, 0)
	if err != nil {
		return setup(err)
	}
	defer up.close()
	if err := w.channel(ctx, "mirror", up.url); err != nil {
		return setup(err)
	}
	// Some publications are past their blob when the disk becomes full.
	const held = 4
	if err := w.enqueue(ctx, held, ledgerArgs{Channel: "ledger", HoldAt: atStored}); err != nil {
		return setup(err)
	}
	for n := range held {
		if _, err := w.awaitHeld(ctx, n, atStored); err != nil {
			return setup(err)
		}
	}
	if err := fill(filepath.Join(disk, "ballast")); err != nil {
		return setup(err)
	}
	full := time.Now()
	over := w.reader.outageOfThePast(restartRecovery) // a former index that is not kept cannot be built
	for n := range held {
		if err := w.release(n); err != nil {
			return setup(err)
		}
	}
	if err := w.enqueue(ctx, r.n(10, 60), ledgerArgs{Channel: "ledger", Size: 30 << 10}); err != nil {
		return setup(err)
	}
	job, err := w.rest.StartSync(ctx, &syncv1.StartSyncRequest{Channel: "mirror"})
	if err != nil {
		return fmt.Errorf("ask for a sync while the disk is full: %w", err)
	}
	refused := 0
	var wrong []error
	for _, p := range packages[:4] {
		_, err := w.upload(ctx, "ours", p.file, p.data)
		var f *fault.Error
		switch {
		case err == nil: // a hole was left that it fits into
		case errors.As(err, &f) && f.Kind == fault.Unavailable:
			refused++
			r.say("upload while the disk is full: %v", err)
		default:
			wrong = append(wrong, fmt.Errorf("an upload while the disk is full is not 'unavailable', but: %w", err))
		}
	}
	if refused == 0 && r.program == "" {
		return setup(errors.New("the disk was not full: no upload was refused"))
	}
	if err := sleep(ctx, time.Duration(r.n(3, 10))*time.Second); err != nil {
		return err
	}
	if err := errors.Join(append(wrong, wholeBlobs(filepath.Join(disk, "blobs")))...); err != nil {
		return err
	}
	done, err := w.done(ctx)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(disk, "ballast")); err != nil {
		return setup(err)
	}
	over()
	space := time.Now()
	r.say("the disk was full for %.1f s, in which %d of %d jobs were done and %d of 4 uploads refused", space.Sub(full).Seconds(), done, len(w.asked), refused)
	for _, p := range packages {
		if _, err := w.upload(ctx, "ours", p.file, p.data); err != nil {
			return fmt.Errorf("upload with space again: %w", err)
		}
	}
	if err := w.stalled(ctx, 30*time.Second); err != nil {
		return err
	}
	r.recovered(time.Since(space))
	end, err := await(ctx, w.rest, job.GetId(), time.Minute)
	if err != nil {
		return err
	}
	if end.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED {
		return fmt.Errorf("the sync ended as %v: %s", end.GetState(), end.GetError())
	}
	if err := w.mirrored(ctx, "mirror", ch); err != nil {
		return err
	}
	return errors.Join(wholeBlobs(filepath.Join(disk, "blobs")), w.verify(ctx))
}

// wholeBlobs compares every blob with its name: one that the disk did not take whole must have none.
func wholeBlobs(dir string) error {
	count := 0
	var problems problems
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file that has gone
		}
		sum, nerr := hex.DecodeString(filepath.Base(path))
		if err != nil || e.IsDir() || nerr != nil || len(sum) != sha256.Size {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // collected meanwhile
		}
		count++
		if is := sha256.Sum256(data); !bytes.Equal(is[:], sum) {
			problems.add(storedCut, "%s has %d bytes of another digest", filepath.Base(path), len(data))
		}
		return err
	})
	if err == nil && count == 0 {
		err = fmt.Errorf("there are no blobs in %s", dir)
	}
	return errors.Join(setup(err), problems.err())
}

// fill writes until the disk takes no more.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); err != nil {
			if len(block) > 1 && errors.Is(err, syscall.ENOSPC) {
				block = block[:len(block)/2]
				continue
			}
			if errors.Is(err, syscall.ENOSPC) {
				return nil
			}
			return err
		}
	}
}
