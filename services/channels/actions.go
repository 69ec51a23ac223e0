package channels

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// The kinds of jobs that people ask for on a channel.
const (
	// KindReindex lists again what storage has of a channel and the database lacks.
	KindReindex = "channels.reindex"
	// KindGenerate builds all index files anew.
	KindGenerate = "channels.generate"
	// KindValidate reads every stored package, repairs what it can and unlists the rest.
	KindValidate = "channels.validate"
	// KindCleanup drops packages without files.
	KindCleanup = "channels.cleanup"
	// KindBuiltin starts an action on all channels that it fits.
	KindBuiltin = "channels.builtin"
)

// action is something that may be asked for on a channel.
type action struct {
	// name is what people ask for.
	name       string
	kind       string
	permission authz.Permission
	// shown is how the job is called; empty means as the action.
	shown string
}

var actions = map[string]action{
	"reindex":           {kind: KindReindex, permission: authz.ChannelSync},
	"generate_indexes":  {kind: KindGenerate, permission: authz.ChannelSync},
	"validate_packages": {kind: KindValidate, permission: authz.ChannelValidate},
	"cleanup":           {kind: KindCleanup, permission: authz.ChannelCleanup, shown: "pkgstore_cleanup"},
	"cleanup_dry_run":   {kind: KindCleanup, permission: authz.ChannelCleanup, shown: shownDryRun},
}

const shownDryRun = "pkgstore_cleanup_dry_run"

func findAction(name string) (action, error) { return findIn(name, actions) }

// findIn finds an action in the first of the maps that has it.
func findIn(name string, maps ...map[string]action) (action, error) {
	for _, m := range maps {
		if a, ok := m[name]; ok {
			a.name = name
			if a.shown == "" {
				a.shown = name
			}
			return a, nil
		}
	}
	return action{}, fault.Field("action", "there is no action %s", shown(name))
}

// registerActions adds the kinds of this file to a pool.
func (s *Service) registerActions(reg *jobs.Registry) {
	spec := func(kind string, timeout time.Duration) jobs.KindSpec {
		return jobs.KindSpec{
			Kind: kind, Timeout: timeout, MaxFailures: 5, Coalesce: jobs.Join, Concurrency: 1,
			Backoff: jobs.Backoff{Initial: 2 * time.Second, Max: 5 * time.Minute},
		}
	}
	jobs.Register(reg, spec(KindReindex, 6*time.Hour), jobs.WorkFunc[*channelsv1.ActionJobArgs](s.reindexJob))
	jobs.Register(reg, spec(KindGenerate, 6*time.Hour), jobs.WorkFunc[*channelsv1.ActionJobArgs](s.generateJob))
	jobs.Register(reg, spec(KindValidate, 24*time.Hour), jobs.WorkFunc[*channelsv1.ActionJobArgs](s.validateJob))
	jobs.Register(reg, spec(KindCleanup, time.Hour), jobs.WorkFunc[*channelsv1.ActionJobArgs](s.cleanupJob))
	jobs.Register(reg, spec(KindBuiltin, time.Hour), jobs.WorkFunc[*channelsv1.BuiltinJobArgs](s.builtinJob))
	announce := spec(KindAnnounce, time.Minute)
	announce.MaxFailures, announce.Coalesce = announceAttempts, jobs.None
	jobs.Register(reg, announce, jobs.WorkFunc[*channelsv1.AnnounceJobArgs](s.announceJob))
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindWebhook, Timeout: time.Minute, MaxFailures: webhookAttempts, Coalesce: jobs.None, Concurrency: 4,
		Backoff: jobs.Backoff{Initial: 10 * time.Second, Max: time.Hour},
	}, jobs.WorkFunc[*channelsv1.WebhookJobArgs](s.webhookJob))
}

// StartAction queues work on a channel. A second request while the same work waits or runs gets that job.
func (s *Service) StartAction(ctx context.Context, req *channelsv1.StartActionRequest) (*jobsv1.Job, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	a, err := findAction(req.GetAction())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	if err := s.roles.Allow(ctx, caller, a.permission, ch.resource()); err != nil {
		if a.permission == authz.ChannelValidate {
			return nil, serverRole(err, "this operation requires owner or maintainer roles")
		}
		return nil, err
	}
	when, err := parseWhen(req.GetStartAt(), req.GetRepeatEverySeconds())
	if err != nil {
		return nil, err
	}
	p, err := actionParams(ch, a, caller, "")
	if err != nil {
		return nil, err
	}
	schedule := storedName(ch, req.GetAction())
	return s.startJob(ctx, p, when, schedule, func(tx pgx.Tx) error {
		if when.repeat > 0 {
			locked, err := lockChannel(ctx, tx, ch.ID) // and let nobody set or end the schedule that this one replaces
			if err != nil {
				return err
			}
			if _, _, err := s.mayReplace(ctx, tx, caller, locked, schedule); err != nil {
				return err
			}
		}
		return s.record(ctx, tx, caller, "channel.action", ch, map[string]any{"action": req.GetAction(), "repeat_every_seconds": req.GetRepeatEverySeconds()})
	})
}

// actionParams is the request for an action's job.
func actionParams(ch *channelRow, a action, as authn.Caller, items string) (jobs.EnqueueParams, error) {
	principal, err := as.Marshal()
	if err != nil {
		return jobs.EnqueueParams{}, err
	}
	return jobs.EnqueueParams{
		Kind: a.kind, Namespace: ch.Namespace, Resource: resourceName(ch), Coalesce: jobs.Join, CoalesceKey: ch.ID.String() + "/" + a.shown + "/" + items,
		Principal: jobs.Principal{Name: as.Actor(), Data: principal},
		Locks:     []jobs.Lock{{Resource: "action/" + ch.ID.String(), Exclusive: true}},
		Args:      &channelsv1.ActionJobArgs{ChannelId: ch.ID.String(), Channel: ch.Name, Action: a.shown, ItemsSpec: items},
	}, nil
}

// when says when a job runs.
type when struct {
	startAt time.Time
	repeat  time.Duration
}

func parseWhen(start *timestamppb.Timestamp, repeat int64) (w when, err error) {
	if start != nil {
		if start.CheckValid() != nil {
			return w, fault.Field("start_at", "start_at is not a time")
		}
		w.startAt = start.AsTime()
	}
	const most = int64(10 * 366 * 24 * time.Hour / time.Second)
	if repeat < 0 || repeat > most {
		return w, fault.Field("repeat_every_seconds", "repeat_every_seconds must lie between 0 and %d", most)
	}
	w.repeat = time.Duration(repeat) * time.Second
	return w, nil
}

// startJob queues a job, and with a repetition sets the schedule of that name. The first run is the caller's; those that
// follow are the service's own, so that a departed user stops nothing.
func (s *Service) startJob(ctx context.Context, p jobs.EnqueueParams, w when, schedule string, also func(pgx.Tx) error) (*jobsv1.Job, error) {
	p.StartAt = w.startAt
	var result jobs.EnqueueResult
	err := pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			if err := also(tx); err != nil {
				return err
			}
			p := p
			if w.repeat > 0 {
				if p.ScheduleID, err = s.repeat(ctx, tx, p, w, schedule); err != nil {
					return err
				}
			}
			result, err = s.jobs.Enqueue(ctx, tx, p)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	info, err := s.jobs.Get(ctx, result.JobID)
	if err != nil {
		return nil, err
	}
	return jobToProto(info, int64(w.repeat/time.Second), p.Args), nil
}

func (s *Service) repeat(ctx context.Context, tx pgx.Tx, p jobs.EnqueueParams, w when, name string) (uuid.UUID, error) {
	as := authn.Service("channels")
	principal, err := as.Marshal()
	if err != nil {
		return uuid.Nil, err
	}
	p.Principal = jobs.Principal{Name: as.Actor(), Data: principal}
	first := s.now()
	if w.startAt.After(first) {
		first = w.startAt
	}
	sc, err := s.jobs.UpsertSchedule(ctx, tx, jobs.Schedule{Namespace: p.Namespace, Name: name, Job: p, RepeatEvery: w.repeat, StartAt: first.Add(w.repeat)})
	return sc.ID, err
}

// endRepetitions removes the schedules of a channel that is deleted.
func (s *Service) endRepetitions(ctx context.Context, tx pgx.Tx, ch *channelRow) error {
	all, err := s.schedulesOf(ctx, tx, ch)
	if err != nil {
		return err
	}
	for _, sc := range all {
		if err := s.jobs.DeleteSchedule(ctx, tx, ch.Namespace, sc.Name); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

// jobToProto shows a job to the one who asked for it; the jobs service has the whole picture.
func jobToProto(info jobs.Info, repeat int64, args any) *jobsv1.Job {
	j := info.Proto()
	j.RepeatEverySeconds = repeat
	if a, ok := args.(interface{ GetAction() string }); ok {
		j.Action = a.GetAction()
	}
	if a, ok := args.(interface{ GetItemsSpec() string }); ok {
		j.ItemsSpec = a.GetItemsSpec()
	}
	return j
}

// actionTarget finds the channel of an action's job and asks again for the right to it: whoever asked for the job may
// have lost it meanwhile.
func (s *Service) actionTarget(ctx context.Context, job *jobs.Job[*channelsv1.ActionJobArgs], permission authz.Permission) (*channelRow, authn.Caller, error) {
	var caller authn.Caller
	id, err := uuid.Parse(job.Args.GetChannelId())
	if err != nil {
		return nil, caller, fault.Field("channel_id", "is no UUID")
	}
	ch, err := channelByID(ctx, s.pool, id)
	if fault.Is(err, fault.NotFound) {
		return nil, caller, jobs.Cancel(err) // deleted meanwhile
	}
	if err != nil {
		return nil, caller, err
	}
	if caller, err = authn.Unmarshal(job.Principal.Data); err != nil {
		return nil, caller, err
	}
	return ch, caller, s.roles.Allow(ctx, caller, permission, ch.resource())
}

// generated is the result of KindGenerate.
type generated struct {
	Revision int64    `json:"revision"`
	Subdirs  []string `json:"subdirs"`
}

// generateJob is the worker of KindGenerate.
func (s *Service) generateJob(ctx context.Context, job *jobs.Job[*channelsv1.ActionJobArgs]) (any, error) {
	ch, caller, err := s.actionTarget(ctx, job, authz.ChannelSync)
	if err != nil {
		return nil, err
	}
	out := generated{Revision: ch.Head, Subdirs: []string{}}
	if ch.kind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY { // whose index is upstream's
		return out, nil
	}
	// The shards come with the revision, the large files follow.
	if err := s.generateShards(ctx, ch.ID, caller, claim{job.ID, job.Claim}); err != nil {
		if fault.Is(err, fault.NotFound) {
			err = jobs.Cancel(err)
		}
		return nil, err
	}
	subdirs, err := subdirsOf(ctx, s.pool, ch.ID)
	if err != nil {
		return nil, err
	}
	for _, subdir := range namesIn(subdirs) {
		m, err := s.buildMonoliths(ctx, ch.ID, subdir, true)
		if err == nil {
			err = s.serve(ctx, job, ch.ID, m, func(tx pgx.Tx, ch *channelRow) error {
				if err := s.enqueueExtras(ctx, tx, ch, subdir, true); err != nil {
					return err
				}
				return s.retire(ctx, tx, ch, subdir)
			})
		}
		if fault.Is(err, fault.NotFound) {
			return nil, jobs.Cancel(err)
		}
		if err != nil {
			return nil, err
		}
		out.Revision, out.Subdirs = m.revision, append(out.Subdirs, subdir)
		job.Progress(int64(len(out.Subdirs)), int64(len(subdirs)), 0, subdir)
	}
	return out, nil
}

// generateShards makes all shards anew and publishes them, once for a job however often it is tried.
func (s *Service) generateShards(ctx context.Context, channel uuid.UUID, caller authn.Caller, by claim) error {
	if done, err := generatedBy(ctx, s.pool, channel, by.job); err != nil || done > 0 {
		return err
	}
	all, err := s.rebuildShards(ctx, channel)
	if err != nil {
		return err
	}
	_, err = s.publish(ctx, publication{
		channel: channel, cause: causeGenerate, author: caller.Actor(), holds: []claim{by}, rebuilt: all,
		stage: func(context.Context, *staging) error { return nil },
		moved: func(ctx context.Context, tx pgx.Tx, p *published) error {
			_, err := tx.Exec(ctx, `UPDATE channels.revisions SET job = $3 WHERE channel_id = $1 AND number = $2`, channel, p.channel.Head, by.job)
			return pg.Classify(err)
		},
	})
	return err
}

// cleaned is the result of KindCleanup.
type cleaned struct {
	DryRun   bool     `json:"dry_run"`
	Packages []string `json:"packages"`
}

// cleanupJob is the worker of KindCleanup.
func (s *Service) cleanupJob(ctx context.Context, job *jobs.Job[*channelsv1.ActionJobArgs]) (any, error) {
	ch, caller, err := s.actionTarget(ctx, job, authz.ChannelCleanup)
	if err != nil {
		return nil, err
	}
	out := cleaned{DryRun: job.Args.GetAction() == shownDryRun}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		locked, err := lockChannel(ctx, tx, ch.ID) // or an upload could bring the package back while it goes
		if err != nil {
			return err
		}
		sql := `DELETE FROM channels.packages WHERE channel_id = $1 AND file_count = 0 RETURNING name`
		if out.DryRun {
			sql = `SELECT name FROM channels.packages WHERE channel_id = $1 AND file_count = 0`
		}
		rows, err := tx.Query(ctx, sql, ch.ID)
		if err != nil {
			return err
		}
		if out.Packages, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || out.DryRun || len(out.Packages) == 0 {
			return err
		}
		if err := job.Hold(ctx, tx); err != nil {
			return err
		}
		return s.record(ctx, tx, caller, "channel.cleanup", locked, map[string]any{"packages": len(out.Packages)})
	})
	if fault.Is(err, fault.NotFound) {
		return nil, jobs.Cancel(err)
	}
	if err != nil {
		return nil, pg.Classify(err)
	}
	out.Packages = sorted(out.Packages)
	if !out.DryRun {
		s.disown(ctx, ch, out.Packages...)
	}
	return out, nil
}
