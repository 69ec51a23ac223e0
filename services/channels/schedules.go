package channels

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// A channel's schedules are schedules of package jobs, which keeps them in the database, has one process at a time fire
// them, and makes a tick's job in the transaction that reckons the next tick: no tick is lost with a process, and none
// fires twice. Their jobs run as a service, so that a departed user stops nothing.
//
// What began with the dialect's repeat_every_seconds is a schedule like others: it is listed here and can be replaced.

const (
	maxSchedules    = 50
	maxScheduleName = 60
	// minInterval keeps a typing slip from hammering somebody, in seconds, and maxInterval from overflows.
	minInterval, maxInterval = 10, int64(10 * 366 * 24 * time.Hour / time.Second)
	maxJitter                = int64(24 * time.Hour / time.Second)
	// scheduleSync is the schedule that repeat_every_seconds of the two synchronisations makes; it has a name of its own.
	scheduleSync = "sync"
)

// schedulePrefix begins the names of a channel's schedules.
func schedulePrefix(c *channelRow) string { return "action/" + c.ID.String() + "/" }

// storedName is a schedule's name in package jobs. The one of sync is sync's.
func storedName(c *channelRow, name string) string {
	if name == scheduleSync {
		return scheduleSync + "/" + c.ID.String()
	}
	return schedulePrefix(c) + name
}

// schedulesOf returns a channel's schedules.
func (s *Service) schedulesOf(ctx context.Context, db pg.DB, c *channelRow) ([]jobs.Schedule, error) {
	return s.jobs.SchedulesOf(ctx, db, c.Namespace, schedulePrefix(c), storedName(c, scheduleSync))
}

func shownName(c *channelRow, sc jobs.Schedule) string {
	if name, ok := strings.CutPrefix(sc.Name, schedulePrefix(c)); ok {
		return name
	}
	return scheduleSync
}

// checkScheduleName refuses what cannot stand in a path or on a command line.
func checkScheduleName(name string) error {
	good := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	if name == "" || len(name) > maxScheduleName || strings.ContainsFunc(name, func(r rune) bool { return !good(r) }) {
		return fault.Field("name", "a schedule's name has 1 to %d letters, digits, - and _", maxScheduleName)
	}
	return nil
}

// SetSchedule makes or replaces a schedule.
func (s *Service) SetSchedule(ctx context.Context, req *channelsv1.SetScheduleRequest) (*channelsv1.Schedule, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	set := req.GetSchedule()
	if err := checkScheduleName(req.GetName()); err != nil {
		return nil, err
	}
	if set.GetName() != "" && set.GetName() != req.GetName() {
		return nil, fault.Field("schedule.name", "is another name than that of the path")
	}
	a, err := scheduledAction(req.GetName(), set.GetAction())
	if err != nil {
		return nil, err
	}
	if !a.fits(ch) {
		return nil, fault.New(fault.Precondition, "Action %s not allowed for channel %s", a.name, ch.Name).WithReason("CHANNEL_KIND")
	}
	if req.GetName() == actionPullCounts && a.kind != kindPullCounts { // which that one's repeat_every_seconds would replace
		return nil, fault.Field("name", "the schedule %s is for the action of that name", actionPullCounts)
	}
	if req.GetName() == scheduleSync && a.kind != kindSync {
		return nil, fault.Field("name", "the schedule %s is for %s and %s", scheduleSync, actionSync, actionSyncRepodata)
	}
	caller := authn.FromContext(ctx)
	if err := s.roles.Allow(ctx, caller, a.permission, ch.resource()); err != nil {
		return nil, err
	}
	sc, err := s.toSchedule(ch, a, set)
	if err != nil {
		return nil, err
	}
	sc.Name = storedName(ch, req.GetName())
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			locked, err := lockChannel(ctx, tx, ch.ID) // the channel may be about to be deleted, with its schedules
			if err != nil {
				return err
			}
			there, others, err := s.mayReplace(ctx, tx, caller, locked, sc.Name)
			if err != nil {
				return err
			}
			if !there && others >= maxSchedules {
				return fault.Field("name", "a channel has at most %d schedules", maxSchedules)
			}
			if sc, err = s.jobs.UpsertSchedule(ctx, tx, sc); err != nil {
				return err
			}
			return s.record(ctx, tx, caller, "channel.schedule.set", locked, map[string]any{
				"name": req.GetName(), "action": a.name, "cron": sc.Cron, "time_zone": sc.TimeZone,
				"repeat_every_seconds": int64(sc.RepeatEvery / time.Second), "paused": sc.Paused,
			})
		})
	})
	if err != nil {
		return nil, err
	}
	return scheduleToProto(ch, sc), nil
}

// mayReplace refuses to have a channel's schedule replaced or ended by somebody who may not have its action done. The
// channel is locked, so that the schedule does not become another one meanwhile. name is the stored one; there reports
// whether there is such a schedule, and others how many other ones there are.
func (s *Service) mayReplace(ctx context.Context, tx pgx.Tx, caller authn.Caller, locked *channelRow, name string) (there bool, others int, err error) {
	all, err := s.schedulesOf(ctx, tx, locked)
	if err != nil {
		return false, 0, err
	}
	i := slices.IndexFunc(all, func(sc jobs.Schedule) bool { return sc.Name == name })
	if i < 0 {
		return false, len(all), nil
	}
	// One that a newer version made, for what is not known here, is for whoever may synchronise, as all of these calls are.
	if a, err := scheduledAction(shownName(locked, all[i]), actionOf(all[i])); err == nil {
		if err := s.roles.Allow(ctx, caller, a.permission, locked.resource()); err != nil {
			return true, len(all) - 1, err
		}
	}
	return true, len(all) - 1, nil
}

// scheduledAction finds the action that a schedule is for; an absent one is the schedule's name.
func scheduledAction(schedule, name string) (action, error) {
	if name == "" {
		name = schedule
	}
	a, err := findIn(name, actions, foreignActions, scheduleOnly)
	if err != nil {
		all := slices.Concat(namesIn(actions), namesIn(foreignActions), namesIn(scheduleOnly))
		return a, fault.Field("schedule.action", "there is no action %s; there are %s", shown(name), strings.Join(all, ", "))
	}
	return a, nil
}

// actionOf is the action that a schedule is for, as people ask for it.
func actionOf(sc jobs.Schedule) string {
	if sc.Job.Kind == kindPoll {
		return actionPoll
	}
	_, raw := sc.Job.RawArgs()
	called := ""
	switch sc.Job.Kind {
	case kindSync:
		args := new(syncv1.SyncJobArgs)
		if proto.Unmarshal(raw, args) == nil {
			called = args.GetAction()
		}
	case kindPullCounts:
		called = actionPullCounts
	default:
		args := new(channelsv1.ActionJobArgs)
		if proto.Unmarshal(raw, args) == nil {
			called = args.GetAction()
		}
	}
	for name, a := range actions {
		if a.shown != "" && a.shown == called {
			return name
		}
	}
	return called
}

// toSchedule checks what is package jobs' business only in part: fewer things are allowed here.
func (s *Service) toSchedule(ch *channelRow, a action, set *channelsv1.Schedule) (sc jobs.Schedule, err error) {
	every, jitter := set.GetRepeatEverySeconds(), set.GetJitterSeconds()
	switch {
	case every < 0 || every > maxInterval || every > 0 && every < minInterval:
		return sc, fault.Field("schedule.repeat_every_seconds", "must be 0 or lie between %d and %d", minInterval, maxInterval)
	case jitter < 0 || jitter > maxJitter:
		return sc, fault.Field("schedule.jitter_seconds", "must not be negative, nor longer than a day")
	case set.GetStartAt() != nil && set.GetStartAt().CheckValid() != nil:
		return sc, fault.Field("schedule.start_at", "is not a time")
	case strings.HasPrefix(set.GetCron(), "@") && !strings.Contains(" @hourly @daily @weekly @monthly @yearly ", " "+set.GetCron()+" "),
		set.GetCron() != "" && !strings.HasPrefix(set.GetCron(), "@") && len(strings.Fields(set.GetCron())) != 5:
		return sc, fault.Field("schedule.cron", "has five fields (minute, hour, day of the month, month, day of the week), or is @hourly, @daily, @weekly, @monthly or @yearly")
	}
	if a.kind == kindPoll && set.JitterSeconds == nil && set.GetCron() == "" {
		jitter = min(every/10, maxJitter)
	}
	sc = jobs.Schedule{
		Namespace: ch.Namespace, Cron: set.GetCron(), TimeZone: set.GetTimeZone(), RepeatEvery: time.Duration(every) * time.Second,
		Jitter: time.Duration(jitter) * time.Second, Paused: set.GetPaused(),
	}
	if set.GetStartAt() != nil {
		sc.StartAt = set.GetStartAt().AsTime()
	}
	sc.Job, err = jobOf(ch, a, a.owner(), "")
	return sc, err
}

// ListSchedules returns the schedules of a channel.
func (s *Service) ListSchedules(ctx context.Context, req *channelsv1.ListSchedulesRequest) (*channelsv1.ListSchedulesResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	all, err := s.schedulesOf(ctx, s.pool, ch)
	if err != nil {
		return nil, err
	}
	out := &channelsv1.ListSchedulesResponse{}
	for _, sc := range all {
		out.Schedules = append(out.Schedules, scheduleToProto(ch, sc))
	}
	slices.SortFunc(out.Schedules, func(a, b *channelsv1.Schedule) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// DeleteSchedule ends a schedule.
func (s *Service) DeleteSchedule(ctx context.Context, req *channelsv1.DeleteScheduleRequest) (*emptypb.Empty, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	missing := fault.New(fault.NotFound, "Schedule %s not found", shown(req.GetName())).WithReason("SCHEDULE_NOT_FOUND")
	if checkScheduleName(req.GetName()) != nil {
		return nil, missing
	}
	caller := authn.FromContext(ctx)
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			locked, err := lockChannel(ctx, tx, ch.ID)
			if err != nil {
				return err
			}
			name := storedName(ch, req.GetName())
			there, _, err := s.mayReplace(ctx, tx, caller, locked, name)
			if err != nil {
				return err
			}
			if !there {
				return missing
			}
			if err := s.jobs.DeleteSchedule(ctx, tx, ch.Namespace, name); err != nil {
				return err
			}
			return s.record(ctx, tx, caller, "channel.schedule.delete", ch, map[string]any{"name": req.GetName()})
		})
	})
	return &emptypb.Empty{}, err
}

func scheduleToProto(ch *channelRow, sc jobs.Schedule) *channelsv1.Schedule {
	jitter := int64(sc.Jitter / time.Second)
	out := &channelsv1.Schedule{
		Name: shownName(ch, sc), Action: actionOf(sc), Cron: sc.Cron, TimeZone: sc.TimeZone, RepeatEverySeconds: int64(sc.RepeatEvery / time.Second),
		JitterSeconds: &jitter, StartAt: stamp(sc.StartAt), Paused: sc.Paused, NextTime: stamp(sc.NextAt), LastTime: stamp(sc.LastAt),
		Error: sc.LastError, CreateTime: stamp(sc.CreatedAt), UpdateTime: stamp(sc.UpdatedAt),
	}
	if !sc.LastAt.IsZero() {
		out.LastJobId = sc.LastJob.String()
	}
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
