package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

const (
	// scrubSlice is how long one attempt reads before it lets the queue have its slot; a pass over a large store takes days.
	scrubSlice = time.Hour
	// scrubPage is after how many blobs the cursor is saved at the latest, and scrubSave after what time.
	scrubPage = 500
	scrubSave = 10 * time.Second
	// maxUnreadable in a row mean that the store is away rather than that blobs are damaged.
	maxUnreadable = 10

	modeScrub  = "scrub"
	modeDryRun = "dry-run"
)

// errSlice ends an attempt whose time is over.
var errSlice = errors.New("the slice is over")

// scrub is the worker of KindScrub: one slice of a pass, or all of it.
func (w *worker) scrub(ctx context.Context, job *jobs.Job[*storagev1.ScrubArgs]) (any, error) {
	s := &scrub{
		worker: w, dryRun: job.Args.GetDryRun(), hold: func(ctx context.Context, tx pgx.Tx) error { return job.Hold(ctx, tx) },
		progress: job.Progress, warn: func(line string) { job.Log(slog.LevelWarn, line) },
	}
	done, err := s.run(ctx)
	if err != nil {
		return nil, err
	}
	if !done {
		return nil, jobs.Snooze(time.Second)
	}
	return s.result(), nil
}

// scrub is one attempt.
type scrub struct {
	*worker
	dryRun   bool
	hold     func(context.Context, pgx.Tx) error
	progress progress
	warn     func(string)

	pass  pass
	total int64
	pace  pace
	buf   []byte

	// since the cursor was saved
	whole []blob.Digest
	seen  map[blob.Digest]bool
	found []finding
	bytes int64
	saved time.Time
	// inRow counts blobs that could not be read, one after the other.
	inRow int
}

func (s *scrub) mode() string {
	if s.dryRun {
		return modeDryRun
	}
	return modeScrub
}

func (s *scrub) result() *storagev1.ScrubResult {
	return &storagev1.ScrubResult{
		DryRun: s.dryRun, Checked: s.pass.Checked, CheckedBytes: s.pass.CheckedBytes,
		Corrupt: s.pass.Corrupt, Missing: s.pass.Missing, Unreadable: s.pass.Unreadable, Resolved: s.pass.ResolvedBy,
	}
}

// run goes on with the pass that is under way, or begins one, and reports whether it came to the end.
func (s *scrub) run(ctx context.Context) (done bool, err error) {
	if s.pass, err = s.store.beginPass(ctx, s.mode()); err != nil {
		return false, err
	}
	usage, err := s.store.usage(ctx)
	if err != nil {
		return false, err
	}
	s.total = usage.GetBlobCount() + usage.GetUnreferencedCount()
	s.pace.rate, s.buf = int64(s.Upkeep.ScrubRate), make([]byte, 256<<10)
	s.seen = map[blob.Digest]bool{}
	begun := s.now()
	s.saved = begun
	err = s.Blobs.List(ctx, s.pass.Cursor, func(st blob.Stat) error {
		if err := s.check(ctx, st); err != nil {
			return err
		}
		now := s.now()
		over := now.Sub(begun) >= s.slice
		if len(s.seen) >= s.page || now.Sub(s.saved) >= scrubSave || over {
			if err := s.save(ctx, st.Digest); err != nil {
				return err
			}
		}
		if over {
			return errSlice
		}
		return nil
	})
	if errors.Is(err, errSlice) {
		return false, nil
	}
	if err == nil {
		err = s.finish(ctx)
	}
	return err == nil, err
}

// check reads one blob.
func (s *scrub) check(ctx context.Context, st blob.Stat) error {
	problem, detail, err := s.examine(ctx, st.Digest)
	if err != nil {
		return err
	}
	if problem == missing { // deleted since it was listed; whether somebody misses it is found out with the page
		return nil
	}
	s.seen[st.Digest] = true
	s.pass.Checked++
	s.pass.CheckedBytes += st.Size
	s.bytes += st.Size
	s.progress(s.pass.Checked, max(s.total, s.pass.Checked), s.pass.CheckedBytes, "reading blobs")
	if problem == unreadable {
		if s.inRow++; s.inRow >= maxUnreadable {
			return fault.New(fault.Unavailable, "%d blobs in a row cannot be read; the last error: %s", s.inRow, detail)
		}
	} else {
		s.inRow = 0
	}
	f := finding{Digest: st.Digest, Problem: problem, Size: st.Size, Detail: detail}
	switch problem {
	case "":
		s.whole = append(s.whole, st.Digest)
		return nil
	case corrupt:
		s.pass.Corrupt++
		if !s.dryRun {
			// Before the row: bytes that are known to be wrong must not be served for want of a database.
			if err := blob.Quarantine(ctx, s.Blobs, st.Digest); err != nil {
				return err
			}
			f.Quarantined = true
		}
	case unreadable:
		s.pass.Unreadable++
	}
	s.report(f)
	return nil
}

func (s *scrub) report(f finding) {
	s.found = append(s.found, f)
	s.warn(fmt.Sprintf("blob %s is %s: %s", f.Digest, f.Problem, f.Detail))
	s.Log.Warn("a blob is damaged", "sha256", f.Digest.String(), "problem", f.Problem, "detail", f.Detail, "dry_run", s.dryRun)
}

// examine says what is wrong with a blob, if anything. A blob that looks wrong is read once more: the fault may have been
// on the way.
func (s *scrub) examine(ctx context.Context, d blob.Digest) (problem, detail string, err error) {
	for range 2 {
		err = s.hash(ctx, d)
		var f *fault.Error
		switch {
		case err == nil:
			return "", "", nil
		case ctx.Err() != nil:
			return "", "", context.Cause(ctx)
		case fault.Is(err, fault.NotFound):
			return missing, "it is not in the store", nil
		case errors.As(err, &f) && f.Reason == blob.ReasonCorrupt:
			problem = corrupt
		default:
			problem = unreadable
		}
		detail = err.Error()
	}
	return problem, detail, nil
}

func (s *scrub) hash(ctx context.Context, d blob.Digest) error {
	b, err := s.Blobs.Open(ctx, d)
	if err != nil {
		return err
	}
	defer b.Close()
	r := blob.NewVerifier(paced{ctx: ctx, r: b, pace: &s.pace}, d)
	for {
		if _, err := r.Read(s.buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// save looks for blobs that are missing up to a digest, and keeps what was found and how far the pass has come.
func (s *scrub) save(ctx context.Context, upTo blob.Digest) error {
	if err := s.findMissing(ctx, upTo); err != nil {
		return err
	}
	s.pass.Cursor = upTo
	return s.commit(ctx, false)
}

// finish does the same up to the end, and closes findings about blobs that nobody refers to any more.
func (s *scrub) finish(ctx context.Context) error {
	if err := s.findMissing(ctx, blob.Digest{}); err != nil {
		return err
	}
	if err := s.commit(ctx, true); err != nil {
		return err
	}
	if !s.dryRun {
		s.metrics.scrubbedAt.Record(ctx, s.now().Unix())
	}
	return nil
}

// findMissing compares what is referred to with what was seen. A blob that is not there is asked for twice: it may have
// come while the store was listed, or have been deleted with its last reference.
func (s *scrub) findMissing(ctx context.Context, upTo blob.Digest) error {
	after := s.pass.Cursor
	for {
		page, err := refs.Referenced(ctx, s.DB, after, upTo, scrubPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, b := range page {
			if s.seen[b.Digest] {
				continue
			}
			if _, err := s.Blobs.Stat(ctx, b.Digest); err == nil {
				continue // put since; the next pass reads it
			} else if !fault.Is(err, fault.NotFound) {
				return err
			}
			free, err := refs.Unreferenced(ctx, s.DB, []blob.Digest{b.Digest})
			if err != nil {
				return err
			}
			if len(free) > 0 {
				continue
			}
			s.pass.Missing++
			s.report(finding{Digest: b.Digest, Problem: missing, Size: b.Size, Detail: "it is referred to, and not in the store"})
		}
		after = page[len(page)-1].Digest
	}
}

// commit writes what was found since the last time, under the job's claim.
func (s *scrub) commit(ctx context.Context, finished bool) error {
	p := s.pass
	err := pgx.BeginFunc(ctx, s.DB, func(tx pgx.Tx) error {
		if err := s.hold(ctx, tx); err != nil {
			return err
		}
		st := store{tx}
		p = s.pass
		if !s.dryRun {
			for _, f := range s.found {
				if err := st.putFinding(ctx, f); err != nil {
					return err
				}
			}
			n, err := st.resolve(ctx, s.whole)
			if err != nil {
				return err
			}
			p.ResolvedBy += n
			if finished {
				if n, err = st.resolveUnneeded(ctx); err != nil {
					return err
				}
				p.ResolvedBy += n
			}
		}
		return st.savePass(ctx, s.mode(), p, finished)
	})
	if err != nil {
		return err
	}
	if !s.dryRun {
		s.metrics.scrubbed(ctx, int64(len(s.seen)), s.bytes, s.found)
	}
	s.pass = p
	s.whole, s.found, s.bytes, s.saved = s.whole[:0], nil, 0, s.now()
	clear(s.seen)
	return nil
}
