package sync

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// syncAttempts is how many attempts a sync has.
const syncAttempts = 5

// reportTimeout bounds what telling of a failure may cost.
const reportTimeout = 10 * time.Second

// report tells the channel's webhooks that the sync failed: when it is given up, after its last attempt or because no
// other one can help, or if it ended without some files, and those are not the ones that the last one ended without. The sync
// itself is settled by then, so nothing that goes wrong here changes what came of it.
func (r *run) report(ctx context.Context, failure error) {
	if failure == nil && r.result.Failed == 0 || failure != nil && !jobs.Final(ctx, r.job.Failures, syncAttempts, failure) {
		return
	}
	if failure == nil && r.before != nil && r.result.failsAs(*r.before) {
		return // what is broken for good is not told with every attempt
	}
	req := &channelsv1.ReportSyncFailureRequest{ChannelId: r.ch.GetId(), JobId: r.job.ID.String(), Failed: r.result.Failed}
	if failure != nil {
		req.Error = printable(failure.Error())
	}
	for _, f := range r.result.Failures[:min(len(r.result.Failures), 20)] {
		req.Paths = append(req.Paths, f.Path)
	}
	r.tell(ctx, r.ch, req)
}

// failsAs reports whether a run ended without the same files as another one, for the same reasons. Of very many only those
// that are named are compared, and how many there are.
func (r *Result) failsAs(other Result) bool {
	set := func(all []Failure) map[Failure]bool {
		out := make(map[Failure]bool, len(all))
		for _, f := range all {
			out[Failure{Path: f.Path, Reason: f.Reason}] = true // texts may hold times and addresses
		}
		return out
	}
	return r.Failed == other.Failed && maps.Equal(set(r.Failures), set(other.Failures))
}

// tell hands a failure to the channel's webhooks.
func (w *worker) tell(ctx context.Context, ch *channelsv1.Channel, req *channelsv1.ReportSyncFailureRequest) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(authn.WithSelf(ctx)), reportTimeout) // a settled job's context may have ended
	defer cancel()
	if _, err := w.deps.Channels.ReportSyncFailure(ctx, req); err != nil && w.deps.Log != nil {
		w.deps.Log.WarnContext(ctx, "a channel's webhooks could not be told of its failed sync", "channel", ch.GetName(), "error", err)
	}
}

// deleted reports whether the job's channel is gone, or another one has its name.
func (w *worker) deleted(ctx context.Context, args *syncv1.SyncJobArgs) bool {
	ch, err := w.deps.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: args.GetChannel()})
	return fault.Is(err, fault.NotFound) || err == nil && ch.GetId() != args.GetChannelId()
}

// forgetJob is the worker of KindForget.
func (w *worker) forgetJob(ctx context.Context, job *jobs.Job[*syncv1.ForgetJobArgs]) (any, error) {
	return nil, w.forget(ctx, job.Namespace, job.Args.GetChannelId())
}

// gone ends a job whose channel was deleted, with the schedule that would bring it back and all that was remembered.
func (w *worker) gone(ctx context.Context, namespace, channel string) error {
	return jobs.Discard(errors.Join(fault.New(fault.NotFound, "the channel was deleted"), w.forget(ctx, namespace, channel)))
}

// forget drops a deleted channel's schedule and all that was remembered of its upstream.
func (w *worker) forget(ctx context.Context, namespace, channel string) error {
	return pgx.BeginFunc(ctx, w.deps.Pool, func(tx pgx.Tx) error {
		if id, err := uuid.Parse(channel); err == nil {
			if err := w.store.forget(ctx, tx, id); err != nil {
				return err
			}
		}
		err := w.deps.Jobs.DeleteSchedule(ctx, tx, namespace, scheduleName(channel))
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		return err
	})
}
