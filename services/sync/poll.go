package sync

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// KindPoll asks a mirror's upstream whether it has changed, and starts a sync if so. It is what a schedule runs every few
// minutes: each index that was read is asked for once, with what it was known by then, so an upstream that has not changed
// answers each with a 304 and no bytes. The first that has changed ends the asking, and its bytes are left to the sync.
//
// It looks at what was read before. So a subdir that is new upstream comes with the next sync that something else starts.
//
// A poll never starts syncs in a row for one and the same reason, which a sync may not be able to do away with: a file that
// is broken upstream, an index that cannot be read. The reasons of the last one are remembered, and a further one that has
// no others is started after a pause that grows. What came without ETag and Last-Modified is such a reason as well, since
// only a sync can tell whether it has changed; its pause does not grow.
const KindPoll = "sync.poll"

const (
	pollTimeout  = 10 * time.Minute
	pollAttempts = 2 // the next poll is one, too
	// retryPause is how long after a sync a poll starts another one for the same reasons. It doubles each time, up to
	// retryMost: an upstream that mends a file need not change its index.
	retryPause = 15 * time.Minute
	retryMost  = 6 * time.Hour
)

func registerPoll(reg *jobs.Registry, w *worker) {
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindPoll, Timeout: pollTimeout, MaxFailures: pollAttempts, Coalesce: jobs.Join, Concurrency: 8,
		Backoff: jobs.Backoff{Initial: 5 * time.Second, Max: time.Minute},
	}, jobs.WorkFunc[*syncv1.PollJobArgs](w.poll))
}

// poll is the worker of KindPoll.
func (w *worker) poll(ctx context.Context, job *jobs.Job[*syncv1.PollJobArgs]) (any, error) {
	ch, ctx, err := w.open(ctx, job.Principal.Data, job.ID, job.Claim, job.Namespace, job.Args.GetChannelId(), job.Args.GetChannel())
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(ch.GetId())
	if err != nil {
		return nil, err
	}
	before, err := w.store.pollOf(ctx, id)
	if err != nil {
		return nil, err
	}
	result, err := w.ask(ctx, ch, id, before)
	if err != nil {
		return nil, w.pollFailed(ctx, job, ch, id, before, err)
	}
	err = pgx.BeginFunc(ctx, w.deps.Pool, func(tx pgx.Tx) error {
		if err := job.Hold(ctx, tx); err != nil {
			return err
		}
		if err := w.store.polled(ctx, tx, id, result.changed, result.reasons); err != nil {
			return err
		}
		if result.reasons == nil {
			return job.Complete(ctx, tx, result.PollJobResult)
		}
		params, err := request(ch, &syncv1.StartSyncRequest{Channel: ch.GetName(), Action: "synchronize_repodata"}, authn.Service("sync"))
		if err != nil {
			return err
		}
		started, err := w.deps.Jobs.Enqueue(ctx, tx, params)
		if err != nil {
			return err
		}
		result.JobId = started.JobID.String()
		return job.Complete(ctx, tx, result.PollJobResult)
	})
	return nil, err
}

type pollResult struct {
	*syncv1.PollJobResult
	// changed reports that upstream says something else than before.
	changed bool
	// reasons are digests of why a sync is to be started, one after the other; nil if none is.
	reasons []byte
}

// reason is a digest of a reason for a sync: equal for the same one, met again.
func reason(parts ...any) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return sum[:]
}

// tried reports whether the last sync that a poll started was started for a reason.
func (p pollRow) tried(reason []byte) bool {
	return slices.ContainsFunc(slices.Collect(slices.Chunk(p.Retried, sha256.Size)), func(r []byte) bool { return bytes.Equal(r, reason) })
}

// rested reports whether it is time for another sync for the reasons of the last; grows is whether the pauses become longer.
func (p pollRow) rested(grows bool) bool {
	pause := retryPause
	for n := 1; grows && n < p.Retries && pause < retryMost; n++ {
		pause *= 2
	}
	return p.RetriedAt == nil || p.Now.Sub(*p.RetriedAt) >= min(pause, retryMost)
}

// ask finds out whether a sync would have something to do.
func (w *worker) ask(ctx context.Context, ch *channelsv1.Channel, id uuid.UUID, before pollRow) (pollResult, error) {
	out := pollResult{PollJobResult: new(syncv1.PollJobResult)}
	settings := ch.GetMirror()
	known, err := w.store.subdirs(ctx, id, settings.GetUrl())
	if err != nil {
		return out, err
	}
	done, print, err := w.isDone(ctx, id, settings, known)
	if err != nil {
		return out, err
	}
	remote, err := w.deps.Remotes.follow(ctx, ch)
	if err != nil {
		return out, permanent(err)
	}
	// What was a reason the last time is gathered; what was none starts a sync at once.
	var again pollResult
	grows := false
	meet := func(why []byte, changed, lasting bool, text string) (fresh bool) {
		again.reasons = append(again.reasons, why...)
		if fresh = !before.tried(why); fresh || out.Reason == "" {
			out.Reason = text
		}
		again.changed, grows = again.changed || changed, grows || lasting
		return fresh
	}
	start := func() (pollResult, error) {
		out.changed, out.reasons = again.changed, again.reasons
		return out, nil
	}
	for _, s := range known {
		if s.IndexPath == "" || !isChosen(settings, s.Subdir) {
			continue
		}
		if s.ETag == "" && s.LastModified == nil {
			if meet(reason("unknown", s.IndexPath, print), false, false, s.IndexPath+" came without ETag and time") {
				return start()
			}
			continue
		}
		out.Asked++
		same, now, err := unchanged(ctx, remote, s, w.deps.Config.MaxIndexSize)
		switch {
		case err != nil:
			return out, fmt.Errorf("upstream %s: %s: %w", fetch.Redact(settings.GetUrl()), s.IndexPath, err)
		case same:
			out.NotModified++
		case meet(reason("changed", s.IndexPath, s.ETag, s.says(), now), true, now != "", s.IndexPath+" has changed"):
			return start()
		}
	}
	if !done {
		text := "the last synchronisation left something undone"
		if out.Asked == 0 && len(again.reasons) == 0 {
			text = "the upstream's index has not been read yet"
		}
		if meet(reason("undone", print), false, true, text) {
			return start()
		}
	}
	if len(again.reasons) > 0 && before.rested(grows) {
		return start()
	}
	out.Reason = "" // there is none, or the very same was tried a while ago
	return out, nil
}

// isChosen reports whether a channel takes a subdir at all.
func isChosen(settings *channelsv1.MirrorSettings, subdir string) bool {
	return subdir != channeldata && (len(settings.GetSubdirs()) == 0 || slices.Contains(settings.GetSubdirs(), subdir))
}

// unchanged asks for an index by what it was known by when it was read. The body of another one is not read; now is what
// that is known by, empty if by nothing.
func unchanged(ctx context.Context, remote fetcher, s subdirState, most int64) (same bool, now string, err error) {
	req := fetch.Request{Path: s.IndexPath, IfNoneMatch: s.ETag, MaxSize: most}
	if s.ETag == "" && s.LastModified != nil {
		req.IfModifiedSince = *s.LastModified
	}
	resp, err := remote.Get(ctx, req)
	if status := fetch.StatusOf(err); status == http.StatusNotFound || status == http.StatusGone {
		return false, http.StatusText(status), nil
	}
	if err != nil {
		return false, "", err
	}
	resp.Body.Close()
	now = resp.ETag
	if now == "" && !resp.LastModified.IsZero() {
		now = resp.LastModified.UTC().Format(http.TimeFormat)
	}
	switch {
	case resp.NotModified:
		return true, now, nil
	case s.ETag != "" && resp.ETag != "": // there are servers that know ETags but not If-None-Match
		return resp.ETag == s.ETag, now, nil
	case s.LastModified != nil && !resp.LastModified.IsZero():
		return resp.LastModified.Equal(*s.LastModified), now, nil
	}
	return false, now, nil
}

// isDone reports whether the last sync made the channel what the indexes say that were read, by the present settings;
// print stands for both.
func (w *worker) isDone(ctx context.Context, id uuid.UUID, settings *channelsv1.MirrorSettings, known []subdirState) (done bool, print []byte, err error) {
	var found []index
	for _, s := range known {
		if isChosen(settings, s.Subdir) {
			found = append(found, index{subdirState: s})
		}
	}
	slices.SortFunc(found, func(a, b index) int { return strings.Compare(a.Subdir, b.Subdir) }) // as a sync does; the database may sort otherwise
	print = fingerprint(settings, false, found)
	last, err := w.store.status(ctx, id)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && last.Fingerprint == nil {
		return false, print, nil
	}
	return err == nil && (bytes.Equal(print, last.Fingerprint) || bytes.Equal(fingerprint(settings, true, found), last.Fingerprint)), print, err
}

// pollFailed notes why an upstream could not be asked. The webhooks are told when that begins, and not again while it lasts.
func (w *worker) pollFailed(ctx context.Context, job *jobs.Job[*syncv1.PollJobArgs], ch *channelsv1.Channel, id uuid.UUID, before pollRow, failure error) error {
	if !jobs.Final(ctx, job.Failures, pollAttempts, failure) {
		return failure
	}
	text := printable(failure.Error())
	err := pgx.BeginFunc(ctx, w.deps.Pool, func(tx pgx.Tx) error {
		if err := job.Hold(ctx, tx); err != nil {
			return err
		}
		return w.store.pollFailed(ctx, tx, id, text)
	})
	if err == nil && before.Error == "" {
		w.tell(ctx, ch, &channelsv1.ReportSyncFailureRequest{ChannelId: ch.GetId(), JobId: job.ID.String(), Error: text})
	}
	return failure
}

// open finds a job's channel and asks again for the right to it: whoever asked for the job may have lost it since. The
// context that it returns speaks for the job.
func (w *worker) open(ctx context.Context, principal []byte, job uuid.UUID, claim int64, namespace, id, name string) (*channelsv1.Channel, context.Context, error) {
	caller, err := authn.Unmarshal(principal)
	if err != nil {
		return nil, ctx, jobs.Discard(fmt.Errorf("the job's principal cannot be read: %w", err))
	}
	caller.JobID, caller.Claim = job.String(), claim
	ctx = authn.NewContext(ctx, caller)
	if _, err := uuid.Parse(id); err != nil {
		return nil, ctx, jobs.Discard(fault.Field("channel_id", "not a UUID"))
	}
	ch, err := w.deps.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: name})
	if fault.Is(err, fault.NotFound) || (err == nil && ch.GetId() != id) {
		return nil, ctx, w.gone(ctx, namespace, id)
	}
	if err == nil {
		// A run that finds nothing new would not notice otherwise.
		err = w.deps.Roles.Allow(ctx, caller, authz.ChannelSync, authz.Resource{
			Kind: authz.Channel, ID: ch.GetId(), Name: ch.GetName(), Namespace: ch.GetNamespace(), Public: !ch.GetPrivate(),
		})
	}
	if fault.Is(err, fault.Denied) || fault.Is(err, fault.Unauthenticated) {
		err = jobs.Discard(err)
	}
	return ch, ctx, err
}

// permanent ends the job at once if it takes a person to mend its remote.
func permanent(err error) error {
	if fault.Is(err, fault.Invalid) || fault.Is(err, fault.Precondition) {
		return jobs.Discard(err)
	}
	return err
}
