package sync

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// minRepeat keeps a typing slip from hammering an upstream.
const minRepeat = 10 * time.Second

// StartSync queues a sync, or returns the one that is queued or running. With a repetition it also sets the channel's
// schedule, which runs as the service, so that a departed user stops no mirror.
func (s *Service) StartSync(ctx context.Context, req *syncv1.StartSyncRequest) (*jobsv1.Job, error) {
	ch, err := s.mirror(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	repeat := time.Duration(req.GetRepeatEverySeconds()) * time.Second
	if repeat < 0 || (repeat > 0 && repeat < minRepeat) {
		return nil, fault.Field("repeat_every_seconds", "repeat_every_seconds must be 0, which ends a repetition, or at least %d", int(minRepeat.Seconds()))
	}
	caller := authn.FromContext(ctx)
	params, err := request(ch, req, caller)
	if err != nil {
		return nil, err
	}
	if t := req.GetStartAt(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, fault.Field("start_at", "start_at is not a time")
		}
		params.StartAt = t.AsTime()
	}
	var result jobs.EnqueueResult
	// Requests for the same job may wait for each other crosswise; the one that PostgreSQL ends is made again.
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) (err error) {
			result, err = s.start(ctx, tx, ch, req, params, repeat)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	info, err := s.deps.Jobs.Get(ctx, result.JobID)
	if err != nil {
		return nil, err
	}
	return toJob(info, caller, req.GetRepeatEverySeconds(), req.GetAction()), nil
}

// start writes down what StartSync asks for.
func (s *Service) start(ctx context.Context, tx pgx.Tx, ch *channelsv1.Channel, req *syncv1.StartSyncRequest, params jobs.EnqueueParams, repeat time.Duration) (jobs.EnqueueResult, error) {
	var none jobs.EnqueueResult
	if req.RepeatEverySeconds != nil && repeat == 0 {
		if err := s.deps.Jobs.DeleteSchedule(ctx, tx, ch.GetNamespace(), scheduleName(ch.GetId())); err != nil && !fault.Is(err, fault.NotFound) {
			return none, err
		}
	}
	if repeat > 0 {
		job, err := request(ch, req, authn.Service("sync"))
		if err != nil {
			return none, err
		}
		first := time.Now()
		if params.StartAt.After(first) {
			first = params.StartAt
		}
		schedule, err := s.deps.Jobs.UpsertSchedule(ctx, tx, jobs.Schedule{
			Namespace: ch.GetNamespace(), Name: scheduleName(ch.GetId()), Job: job, RepeatEvery: repeat, StartAt: first.Add(repeat),
		})
		if err != nil {
			return none, err
		}
		params.ScheduleID = schedule.ID // so that the job shows that it repeats, and can end that
	}
	if err := audit.Record(ctx, tx, audit.Event{
		Action: "channel.sync", Resource: "channel/" + ch.GetName(),
		Details: map[string]any{"repeat_every_seconds": req.GetRepeatEverySeconds(), "inspect": req.GetInspect()},
	}); err != nil {
		return none, err
	}
	return s.deps.Jobs.Enqueue(ctx, tx, params)
}

func scheduleName(channelID string) string { return "sync/" + channelID }

// mirror returns the channel if it is one that syncs.
func (s *Service) mirror(ctx context.Context, name string) (*channelsv1.Channel, error) {
	ch, err := s.channel(ctx, name)
	if err != nil {
		return nil, err
	}
	if ch.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_MIRROR {
		return nil, fault.New(fault.Precondition, "Action synchronize not allowed for channel %s", ch.GetName()).WithReason("CHANNEL_KIND")
	}
	return ch, nil
}

func request(ch *channelsv1.Channel, req *syncv1.StartSyncRequest, as authn.Caller) (jobs.EnqueueParams, error) {
	principal, err := as.Marshal()
	if err != nil {
		return jobs.EnqueueParams{}, err
	}
	action := req.GetAction()
	if action == "" {
		action = "synchronize"
	}
	return jobs.EnqueueParams{
		Kind: Kind, Namespace: ch.GetNamespace(), Resource: "channel/" + ch.GetName(), CoalesceKey: ch.GetId(), Coalesce: jobs.Join,
		Principal: jobs.Principal{Name: as.Actor(), Data: principal},
		Locks:     []jobs.Lock{{Resource: "sync/" + ch.GetId(), Exclusive: true}},
		Args: &syncv1.SyncJobArgs{
			ChannelId: ch.GetId(), Channel: ch.GetName(), Inspect: req.GetInspect(), Force: req.GetForce(), Action: action,
		},
	}, nil
}

// GetSyncStatus says how a mirror channel stands to its upstream.
func (s *Service) GetSyncStatus(ctx context.Context, req *syncv1.GetSyncStatusRequest) (*syncv1.SyncStatus, error) {
	ch, err := s.mirror(ctx, req.GetChannel())
	if err != nil {
		return nil, err
	}
	id, err := uuid.Parse(ch.GetId())
	if err != nil {
		return nil, err
	}
	out := &syncv1.SyncStatus{Channel: ch.GetName(), Url: ch.GetMirror().GetUrl()}
	schedules, err := s.deps.Jobs.ListSchedules(ctx, ch.GetNamespace())
	if err != nil {
		return nil, err
	}
	for _, sc := range schedules {
		if sc.Name == scheduleName(ch.GetId()) {
			out.RepeatEverySeconds = int64(sc.RepeatEvery / time.Second)
		}
	}
	subdirs, err := s.store.subdirs(ctx, id, ch.GetMirror().GetUrl())
	if err != nil {
		return nil, err
	}
	for _, d := range subdirs {
		if d.IndexPath == "" || d.Subdir == channeldata {
			continue
		}
		out.Subdirs = append(out.Subdirs, &syncv1.SubdirStatus{
			Subdir: d.Subdir, Index: d.IndexPath, Etag: d.ETag, Records: d.Records, CheckTime: timestamppb.New(d.CheckedAt),
		})
	}
	poll, err := s.store.pollOf(ctx, id)
	if err != nil {
		return nil, err
	}
	if poll.PolledAt != nil {
		out.Poll = &syncv1.PollStatus{PollTime: timestamppb.New(*poll.PolledAt), Error: poll.Error}
		if poll.ChangedAt != nil {
			out.Poll.ChangeTime = timestamppb.New(*poll.ChangedAt)
		}
	}
	last, err := s.store.status(ctx, id)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return out, nil
	case err != nil:
		return nil, err
	}
	out.Last, out.LastTime, out.LastJobId = last.Result.toProto(), timestamppb.New(last.FinishedAt), last.JobID.String()
	return out, nil
}

// toJob shows a job to the one who asked for it; the jobs service has the whole picture.
func toJob(info jobs.Info, caller authn.Caller, repeat int64, action string) *jobsv1.Job {
	j := info.Proto()
	j.Action, j.RepeatEverySeconds = action, repeat
	if caller.Anonymous() {
		j.Owner, j.OwnerId = "", ""
	}
	return j
}
