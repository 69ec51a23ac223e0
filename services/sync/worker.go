package sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/plan"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

const (
	// timeout bounds one attempt; a first sync of the largest public channel takes about that long on a fast line.
	timeout = 24 * time.Hour
	// maxRaces is how often a run starts over behind somebody else's publication.
	maxRaces = 10
	// applyTimeout bounds Diff and Apply, which work through plans of some hundred thousand files.
	applyTimeout = 15 * time.Minute
)

type worker struct {
	deps    WorkerDeps
	store   store
	metrics *syncMetrics
}

// Work runs one sync.
func (w *worker) Work(ctx context.Context, job *jobs.Job[*syncv1.SyncJobArgs]) (any, error) {
	if job.Args.GetAction() == actionForget { // of a version that had no kind for it
		return nil, w.forget(ctx, job.Namespace, job.Args.GetChannelId())
	}
	ch, ctx, err := w.open(ctx, job.Principal.Data, job.ID, job.Claim, job.Namespace, job.Args.GetChannelId(), job.Args.GetChannel())
	run := &run{worker: w, job: job, ch: ch, result: &Result{Failures: []Failure{}, Warnings: []string{}}}
	if err == nil {
		err = run.begin(ctx)
	}
	if ch == nil {
		return nil, err
	}
	if fault.Is(err, fault.NotFound) && ctx.Err() == nil && w.deleted(ctx, job.Args) {
		return nil, w.gone(ctx, job.Namespace, job.Args.GetChannelId())
	}
	run.report(ctx, err)
	return nil, err
}

// begin opens the upstream and runs the sync.
func (r *run) begin(ctx context.Context) (err error) {
	if r.id, err = uuid.Parse(r.ch.GetId()); err != nil {
		return err
	}
	r.url = r.ch.GetMirror().GetUrl()
	if r.remote, err = r.deps.Remotes.follow(ctx, r.ch); err != nil {
		return permanent(err)
	}
	return r.do(ctx)
}

// run is one attempt at a sync.
type run struct {
	*worker
	job    *jobs.Job[*syncv1.SyncJobArgs]
	ch     *channelsv1.Channel
	id     uuid.UUID
	url    string
	remote fetcher
	result *Result
	// doubted are subdirs of which files were not what the index says.
	doubted map[string]bool
	// before is what came of the last sync of the same upstream, nil if there was none.
	before *Result
	// notes are warnings of surveys that hold for the next pass too.
	notes []string
}

func (r *run) do(ctx context.Context) error {
	var got map[string]stored
	for pass := 1; ; pass++ {
		*r.result = Result{Failures: []Failure{}, Warnings: []string{}, Bytes: r.result.Bytes}
		for _, n := range r.notes {
			r.result.warn("%s", n)
		}
		found, err := r.survey(ctx, r.job.Args.GetForce() && pass == 1)
		if err != nil {
			return err
		}
		settings := r.ch.GetMirror()
		print := fingerprint(settings, r.job.Args.GetInspect(), found)
		last, err := r.store.status(ctx, r.id)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err == nil && last.URL == r.url {
			r.before = &last.Result
		}
		if err == nil && !r.job.Args.GetForce() && last.Fingerprint != nil && bytes.Equal(last.Fingerprint, print) && !anyFailed(found) {
			r.result.Revision, r.result.Unchanged = r.ch.GetHead(), last.Result.Added+last.Result.Unchanged
			return r.finish(ctx, print)
		}
		in := planInput{blobs: r.deps.Blobs, remote: r.remote, settings: settings}
		if r.job.Args.GetInspect() {
			if in.rejected, err = r.store.rejected(ctx, r.id); err != nil {
				return err
			}
		}
		info, total, err := makePlan(ctx, in, found, r.result)
		if err != nil {
			return err
		}
		if err := r.store.hold(ctx, info); err != nil {
			return err
		}
		if got == nil {
			if got, err = r.store.downloads(ctx, r.job.ID); err != nil {
				return err
			}
		}
		if total == 0 && r.result.Failed == 0 {
			r.result.warn("the upstream lists no packages")
		}
		failures, err := r.publish(ctx, info.Digest, got, func() bool { return pass == 1 && r.moved(ctx, found) })
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return err
		}
		for _, f := range slices.SortedFunc(maps.Values(failures), func(a, b Failure) int { return strings.Compare(a.Path, b.Path) }) {
			r.result.fail(f.Path, f.Reason, f.Error)
		}
		if r.result.Failed > 0 {
			print = nil // the next run tries again
		}
		r.job.Progress(total, total, r.result.Bytes, "published")
		return r.finish(ctx, print)
	}
}

// survey asks for the indexes and notes what was found.
func (r *run) survey(ctx context.Context, force bool) ([]index, error) {
	r.job.Progress(0, 0, 0, "reading the upstream's index")
	up := &upstream{remote: r.remote, blobs: r.deps.Blobs, store: r.store, channel: r.id, url: r.url, max: r.deps.Config.MaxIndexSize, settings: r.ch.GetMirror(), doubted: r.doubted}
	found, warnings, err := up.survey(ctx, r.ch.GetMirror().GetSubdirs(), force)
	if err != nil {
		hint := ""
		if s := fetch.StatusOf(err); s == http.StatusUnauthorized || s == http.StatusProxyAuthRequired {
			hint = "; set who we are there with entrepot channel remote " + r.ch.GetName()
		}
		return nil, fmt.Errorf("upstream %s: %w%s", fetch.Redact(r.url), err, hint)
	}
	r.metrics.surveyed(ctx, found)
	for _, w := range warnings {
		if !slices.Contains(r.notes, w) {
			r.notes = append(r.notes, w)
			r.result.warn("%s", w)
		}
	}
	var unchanged []string
	for _, ix := range found {
		switch {
		case ix.err != nil:
		case ix.changed || ix.CheckedAt.IsZero():
			if err := r.store.putSubdir(ctx, r.id, r.url, ix.subdirState); err != nil {
				return nil, err
			}
		default:
			unchanged = append(unchanged, ix.Subdir)
			if ix.IndexPath != "" {
				r.result.NotModified++
			}
		}
	}
	return found, r.store.touch(ctx, r.id, unchanged)
}

// errMoved says that the upstream was changed while it was being read.
var errMoved = errors.New("the upstream's index has changed meanwhile")

// moved asks for the indexes once more, after files were not what they said: the upstream may have published in between.
func (r *run) moved(ctx context.Context, before []index) bool {
	found, err := r.survey(ctx, false)
	if err != nil {
		return false // what can be had is published; the next run sees
	}
	return !slices.EqualFunc(before, found, func(a, b index) bool {
		return a.Subdir == b.Subdir && a.IndexPath == b.IndexPath && bytes.Equal(a.says(), b.says())
	})
}

func anyFailed(found []index) bool {
	for _, ix := range found {
		if ix.err != nil {
			return true
		}
	}
	return false
}

// finish ends the job together with what is remembered of it.
func (r *run) finish(ctx context.Context, print []byte) error {
	for _, f := range r.result.Failures {
		r.job.Log(slog.LevelError, f.Path+": "+f.Error)
	}
	for _, w := range r.result.Warnings {
		r.job.Log(slog.LevelWarn, w)
	}
	err := pgx.BeginFunc(ctx, r.deps.Pool, func(tx pgx.Tx) error {
		if err := r.store.finish(ctx, tx, r.id, r.job.ID, r.url, *r.result, print); err != nil {
			return err
		}
		return r.job.Complete(ctx, tx, r.result)
	})
	if err == nil {
		r.metrics.finished(ctx, r.result)
	}
	return err
}

// publish downloads what is missing and makes the plan the channel's content. It returns the files that could not be
// had, or errMoved if some of them were not what the index says and moved reports that it says something else now.
func (r *run) publish(ctx context.Context, digest blob.Digest, got map[string]stored, moved func() bool) (map[string]Failure, error) {
	policy := r.ch.GetMirror().GetRemovalPolicy()
	failures := map[string]Failure{}
	for range maxRaces {
		diff, err := r.diff(ctx, digest, policy)
		if err != nil {
			return nil, err
		}
		final := digest
		if diff.GetMissingCount() > 0 {
			if err := r.download(ctx, diff, got, failures); err != nil {
				return nil, err
			}
			r.doubted = doubted(failures)
			if len(r.doubted) > 0 && moved() {
				return nil, errMoved
			}
			if len(failures)+len(got) > 0 { // else the index has said all that there is to know
				if final, err = r.resolve(ctx, digest, got, failures); err != nil {
					return nil, err
				}
			}
		}
		resp, err := r.apply(ctx, final, diff.GetHead(), policy)
		if again(err) && ctx.Err() == nil {
			continue // somebody published meanwhile, or our claim or a blob is gone: the next Diff or Hold tells
		}
		if err != nil {
			return nil, err
		}
		r.result.Revision, r.result.Added, r.result.Removed = resp.GetRevision(), resp.GetAdded(), resp.GetRemoved()
		r.result.Unchanged = resp.GetUnchanged()
		return failures, nil
	}
	return nil, fault.New(fault.LostRace, "the channel was published %d times while this sync tried to", maxRaces)
}

// again reports whether the same plan may be applied after it is compared once more.
func again(err error) bool {
	var f *fault.Error
	return fault.Is(err, fault.LostRace) || errors.As(err, &f) && f.Reason == "BLOB_MISSING"
}

// doubted returns the subdirs with files that were had, but are not what the index promises.
func doubted(failures map[string]Failure) map[string]bool {
	out := map[string]bool{}
	for _, f := range failures {
		if otherFile(f.Reason) {
			subdir, _, _ := strings.Cut(f.Path, "/")
			out[subdir] = true
		}
	}
	return out
}

func (r *run) diff(ctx context.Context, digest blob.Digest, policy channelsv1.RemovalPolicy) (*channelsv1.DiffResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	return r.deps.Channels.Diff(ctx, &channelsv1.DiffRequest{Channel: r.ch.GetName(), Plan: digest[:], RemovalPolicy: policy})
}

func (r *run) apply(ctx context.Context, digest blob.Digest, head int64, policy channelsv1.RemovalPolicy) (*channelsv1.ApplyResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	return r.deps.Channels.Apply(ctx, &channelsv1.ApplyRequest{
		Channel: r.ch.GetName(), Plan: digest[:], ExpectedHead: head, RemovalPolicy: policy,
	})
}

// download fetches what the diff misses. got and failures grow.
func (r *run) download(ctx context.Context, diff *channelsv1.DiffResponse, got map[string]stored, failures map[string]Failure) error {
	missing, err := plan.Open(ctx, r.deps.Blobs, blob.Digest(diff.GetMissing()), plan.Limits{})
	if err != nil {
		return err
	}
	defer missing.Close()
	total, bytesTotal := diff.GetMissingCount(), diff.GetMissingBytes()
	d := &downloader{
		remote: r.remote, blobs: r.deps.Blobs, store: r.store, job: r.job.ID, workers: r.deps.Config.Downloads,
		maxFile: r.deps.Config.MaxFileSize, inspect: r.job.Args.GetInspect(), got: got,
		progress: func(done, n int64) { r.job.Progress(done, total, n, "downloading "+sizeText(bytesTotal)) },
	}
	r.job.Progress(0, total, 0, "downloading "+sizeText(bytesTotal))
	err = d.run(ctx, func() (*channelsv1.PlanEntry, error) {
		for {
			e, err := missing.Next()
			if err != nil {
				return nil, err
			}
			if _, ok := failures[e.GetPath()]; !ok {
				return e, nil
			}
		}
	})
	r.result.Bytes += d.bytes.Load()
	for _, f := range d.failed {
		failures[f.Path] = f
	}
	for _, f := range d.bad {
		if err := r.store.reject(ctx, r.id, f.digest, printable(f.why)); err != nil {
			return err
		}
	}
	return err
}

// resolve writes the plan anew with what was learnt: digests that the index did not tell, and files to be kept as they
// are because they could not be had.
func (r *run) resolve(ctx context.Context, digest blob.Digest, got map[string]stored, failures map[string]Failure) (blob.Digest, error) {
	in, err := plan.Open(ctx, r.deps.Blobs, digest, plan.Limits{})
	if err != nil {
		return blob.Digest{}, err
	}
	defer in.Close()
	info, err := plan.Put(ctx, r.deps.Blobs, in.Header(), func(add func(*channelsv1.PlanEntry) error) error {
		for {
			e, err := in.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, failed := failures[e.GetPath()]; failed {
				e.Keep, e.Record, e.Sha256, e.Md5 = true, nil, nil, nil
			} else if f, ok := got[e.GetPath()]; ok && len(e.GetSha256()) == 0 && f.is(e) {
				e.Sha256, e.Size = f.Digest[:], f.Size
			}
			if err := add(e); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return blob.Digest{}, err
	}
	return info.Digest, r.store.hold(ctx, info)
}

// sizeText writes a number of bytes for a person.
func sizeText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
