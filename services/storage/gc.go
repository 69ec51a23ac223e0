package storage

import (
	"context"
	"errors"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

const (
	// adoptBatch is how many listed blobs the database is asked about at once.
	adoptBatch = 1000
	markBatch  = 5000
	// sweepBatch bounds how many deletions one transaction waits for: an object store takes some 20 ms for each, and a
	// session that idles inside a transaction for a minute is ended.
	sweepBatch = 100
	// youngFor spares blobs that were put or adopted a moment ago the mark, and their publishers an update: most of them
	// are about to be referred to.
	youngFor = time.Hour
	// tempFor is how long an interrupted put is left alone.
	tempFor = 24 * time.Hour
	// tombstones refuse late references to what was deleted; see refs.Forget.
	tombstonesFor = 48 * time.Hour
	// findingsFor is how long a resolved finding can be looked up.
	findingsFor = 90 * 24 * time.Hour
)

// gc is the worker of KindGC. Each step stands by itself: an attempt that is cut off anywhere leaves nothing half-done, and
// two at once only share the work.
func (w *worker) gc(ctx context.Context, job *jobs.Job[*storagev1.GarbageCollectionArgs]) (any, error) {
	r, err := w.collect(ctx, job.Args.GetDryRun(), job.Progress)
	if err != nil {
		return nil, err
	}
	if !r.GetDryRun() {
		w.Log.InfoContext(ctx, "garbage collection", "deleted", r.GetDeleted(), "bytes", r.GetDeletedBytes(), "marked", r.GetMarked(), "adopted", r.GetAdopted())
	}
	return r, nil
}

// progress is the method of a job.
type progress func(done, total, bytes int64, message string)

func (w *worker) collect(ctx context.Context, dryRun bool, progress progress) (*storagev1.GarbageCollectionResult, error) {
	r := &storagev1.GarbageCollectionResult{DryRun: dryRun, Expired: map[string]int64{}}
	if err := w.adopt(ctx, r, progress); err != nil {
		return nil, err
	}
	young := min(youngFor, w.Upkeep.GCGrace)
	if dryRun {
		g, err := refs.Survey(ctx, w.DB, young, w.Upkeep.GCGrace)
		if err != nil {
			return nil, err
		}
		r.Marked, r.Deleted, r.DeletedBytes = g.Markable, g.Due, g.DueBytes
	} else if err := w.markAndSweep(ctx, young, r, progress); err != nil {
		return nil, err
	}
	if err := w.expire(ctx, r); err != nil {
		return nil, err
	}
	if !dryRun {
		w.metrics.collected(ctx, r)
	}
	return r, nil
}

// adopt lists the store and notes what the database does not know: what was put by parts that tell nobody.
func (w *worker) adopt(ctx context.Context, r *storagev1.GarbageCollectionResult, progress progress) error {
	var batch []refs.Blob
	flush := func() error {
		digests := make([]blob.Digest, len(batch))
		for i := range batch {
			digests[i] = batch[i].Digest
		}
		adopt := refs.Unknown
		if !r.GetDryRun() {
			adopt = func(ctx context.Context, db pg.DB, _ []blob.Digest) (int64, error) {
				return refs.Adopt(ctx, db, batch...)
			}
		}
		n, err := adopt(ctx, w.DB, digests)
		if err != nil {
			return err
		}
		again, err := w.putAgain(ctx, digests, r.GetDryRun())
		if err != nil {
			return err
		}
		r.Adopted += n + again
		batch = batch[:0]
		progress(r.GetStored(), 0, r.GetStoredBytes(), "listing blobs")
		return nil
	}
	err := w.Blobs.List(ctx, blob.Digest{}, func(st blob.Stat) error {
		r.Stored++
		r.StoredBytes += st.Size
		if batch = append(batch, refs.Blob{Digest: st.Digest, Size: st.Size}); len(batch) < adoptBatch {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// putAgain adopts blobs that were deleted once and lie in the store again. Their tombstones would refuse references until
// they are forgotten, though there is nothing late about them.
func (w *worker) putAgain(ctx context.Context, digests []blob.Digest, dryRun bool) (int64, error) {
	dead, err := refs.Tombstones(ctx, w.DB, digests)
	if err != nil {
		return 0, err
	}
	var alive []refs.Blob
	for _, d := range dead {
		// Asked after the tombstone was seen: what is there now was put after the deletion.
		st, err := w.Blobs.Stat(ctx, d)
		switch {
		case err == nil:
			alive = append(alive, refs.Blob{Digest: d, Size: st.Size})
		case !fault.Is(err, fault.NotFound):
			return 0, err
		}
	}
	if !dryRun && len(alive) > 0 {
		if _, err := refs.Record(ctx, w.DB, alive...); err != nil {
			return 0, err
		}
	}
	return int64(len(alive)), nil
}

// markAndSweep is the two passes. Swept first: what this run marks has its grace before it.
func (w *worker) markAndSweep(ctx context.Context, young time.Duration, r *storagev1.GarbageCollectionResult, progress progress) error {
	for {
		n, err := refs.Sweep(ctx, w.DB, w.Upkeep.GCGrace, sweepBatch, func(ctx context.Context, d blob.Digest) error {
			st, err := w.Blobs.Stat(ctx, d)
			if fault.Is(err, fault.NotFound) { // a former attempt came so far
				return nil
			}
			if err == nil {
				err = w.Blobs.Delete(ctx, d)
			}
			if err == nil {
				r.DeletedBytes += st.Size
			}
			return err
		})
		r.Deleted += int64(n)
		if err != nil {
			return err
		}
		progress(r.GetDeleted(), 0, r.GetDeletedBytes(), "deleting")
		if n == 0 {
			break
		}
	}
	for {
		n, err := refs.Mark(ctx, w.DB, young, markBatch)
		if err != nil {
			return err
		}
		if r.Marked += n; n < markBatch {
			break
		}
	}
	if _, err := refs.Forget(ctx, w.DB, max(tombstonesFor, w.Upkeep.GCGrace)); err != nil {
		return err
	}
	if c, ok := blob.As[blob.TempCleaner](w.Blobs); ok {
		n, err := c.CleanTemp(ctx, tempFor)
		if err != nil {
			return err
		}
		r.Temporary = int64(n)
	}
	return nil
}

// expire removes rows whose time is over. One service's trouble does not keep the others' rows.
func (w *worker) expire(ctx context.Context, r *storagev1.GarbageCollectionResult) error {
	var errs []error
	all := append([]Retention{{"findings", func(ctx context.Context, _ pg.DB, dryRun bool) (int64, error) {
		return w.store.purgeFindings(ctx, findingsFor, dryRun)
	}}}, w.Retain...)
	for _, kind := range all {
		n, err := kind.Purge(ctx, w.DB, r.GetDryRun())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.Expired[kind.Name] = n
	}
	n, err := w.Jobs.Expired(ctx, w.JobRetention)
	if err != nil {
		errs = append(errs, err)
	}
	r.Expired["jobs"] = n
	return errors.Join(errs...)
}
