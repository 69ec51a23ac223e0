package metrics

import (
	"context"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

const (
	defaultPage = 100
	maxPage     = 1000
	maxTop      = 1000
	maxNames    = 1000
)

// channelOf returns the channel that the call was authorised for.
func channelOf(ctx context.Context) (authz.Resource, uuid.UUID, error) {
	res, ok := rpc.ResourceFrom(ctx)
	if !ok {
		return res, uuid.Nil, fault.New(fault.Internal, "the call names no channel")
	}
	id, err := uuid.Parse(res.ID)
	return res, id, err
}

// packageOf lets a role on a package count for its files.
func packageOf(_ context.Context, m proto.Message, res authz.Resource) ([]authz.Resource, error) {
	req, ok := m.(*metricsv1.GetFileMetricsRequest)
	if !ok {
		return nil, fault.New(fault.Internal, "the rule does not fit a %T", m)
	}
	if name := packageName(req.GetPath()); name != "" {
		return []authz.Resource{res.PackageOf(name)}, nil
	}
	return nil, nil
}

// GetChannelMetrics returns the downloads of a channel.
func (s *Service) GetChannelMetrics(ctx context.Context, req *metricsv1.GetChannelMetricsRequest) (*metricsv1.ChannelMetrics, error) {
	w, err := newWindow(req.GetInterval(), req.GetStart(), req.GetEnd())
	if err != nil {
		return nil, err
	}
	if req.GetTop() < 0 || req.GetTop() > maxTop {
		return nil, fault.Field("top", "top must lie between 0 and %d", maxTop)
	}
	res, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	points, total, err := s.store.series(ctx, id, "", w)
	if err != nil {
		return nil, err
	}
	out := &metricsv1.ChannelMetrics{Channel: res.Name, Interval: metricsv1.Interval(w.period), Total: total, Series: toProto(points), Count: sumOf(points)}
	if req.GetTop() == 0 {
		return out, nil
	}
	for _, list := range []struct {
		column string
		to     *[]*metricsv1.NamedCount
	}{{columnPath, &out.TopFiles}, {columnPackage, &out.TopPackages}} {
		top, err := s.store.top(ctx, id, list.column, int(req.GetTop()), w)
		if err != nil {
			return nil, err
		}
		*list.to = namedToProto(top)
	}
	return out, nil
}

// ListFileMetrics pages through the downloads of each file.
func (s *Service) ListFileMetrics(ctx context.Context, req *metricsv1.ListFileMetricsRequest) (*metricsv1.ListFileMetricsResponse, error) {
	w, err := newWindow(req.GetInterval(), req.GetStart(), req.GetEnd())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	switch {
	case size < 0:
		return nil, fault.Field("page_size", "page_size must not be negative")
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
	for field, s := range map[string]string{"subdir": req.GetSubdir(), "page_token": req.GetPageToken()} {
		if strings.ContainsRune(s, 0) {
			return nil, fault.Field(field, "%s must be text without NUL", field)
		}
	}
	_, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	lowest, highest := "", ""
	if d := req.GetSubdir(); d != "" {
		lowest, highest = d+"/", d+"0" // '0' follows '/'
	}
	files, err := s.store.files(ctx, id, req.GetPageToken(), lowest, highest, size+1, w)
	if err != nil {
		return nil, err
	}
	out := &metricsv1.ListFileMetricsResponse{}
	if len(files) > size {
		files = files[:size]
		out.NextPageToken = files[size-1].path
	}
	for _, f := range files {
		out.Files = append(out.Files, &metricsv1.FileMetrics{Path: f.path, Count: sumOf(f.points), Series: toProto(f.points)})
	}
	return out, nil
}

// GetFileMetrics returns the downloads of one file.
func (s *Service) GetFileMetrics(ctx context.Context, req *metricsv1.GetFileMetricsRequest) (*metricsv1.FileMetrics, error) {
	w, err := newWindow(req.GetInterval(), req.GetStart(), req.GetEnd())
	if err != nil {
		return nil, err
	}
	path, err := names.CleanPath(req.GetPath())
	if err != nil {
		return nil, err
	}
	_, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	points, total, err := s.store.series(ctx, id, path, w)
	if err != nil {
		return nil, err
	}
	return &metricsv1.FileMetrics{Path: path, Total: total, Count: sumOf(points), Series: toProto(points)}, nil
}

// GetDownloadCounts returns totals.
func (s *Service) GetDownloadCounts(ctx context.Context, req *metricsv1.GetDownloadCountsRequest) (*metricsv1.GetDownloadCountsResponse, error) {
	for field, list := range map[string][]string{"paths": req.GetPaths(), "packages": req.GetPackages()} {
		if len(list) > maxNames {
			return nil, fault.Field(field, "at most %d can be asked for at once", maxNames)
		}
		for _, n := range list {
			if strings.ContainsRune(n, 0) || n == "" {
				return nil, fault.Field(field, "must be text without NUL, and not empty")
			}
		}
	}
	_, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	out := &metricsv1.GetDownloadCountsResponse{}
	paths, err := s.store.totals(ctx, id, columnPath, req.GetPaths())
	if err != nil {
		return nil, err
	}
	packages, err := s.store.totals(ctx, id, columnPackage, req.GetPackages())
	if err != nil {
		return nil, err
	}
	out.Paths, out.Packages = namedToProto(paths), namedToProto(packages)
	return out, nil
}

// StartPull queues a pull, or returns the one that is queued or running.
func (s *Service) StartPull(ctx context.Context, req *metricsv1.StartPullRequest) (*jobsv1.Job, error) {
	ch, err := s.deps.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: req.GetChannel()})
	if err != nil {
		return nil, err
	}
	if ch.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
		return nil, fault.New(fault.Precondition, "Action %s not allowed for channel %s", Action, ch.GetName()).WithReason("CHANNEL_KIND")
	}
	repeat := time.Duration(req.GetRepeatEverySeconds()) * time.Second
	if n := req.GetRepeatEverySeconds(); n < 0 || n > maxRepeat || (n > 0 && n < minRepeat) {
		return nil, fault.Field("repeat_every_seconds", "repeat_every_seconds must be 0, which ends a repetition, or between %d and %d", minRepeat, maxRepeat)
	}
	caller := authn.FromContext(ctx)
	p, err := pullJob(ch.GetId(), ch.GetName(), ch.GetNamespace(), caller)
	if err != nil {
		return nil, err
	}
	if t := req.GetStartAt(); t != nil {
		if t.CheckValid() != nil {
			return nil, fault.Field("start_at", "start_at is not a time")
		}
		p.StartAt = t.AsTime()
	}
	var result jobs.EnqueueResult
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) (err error) {
			p := p
			if req.RepeatEverySeconds != nil {
				if p.ScheduleID, err = s.repeat(ctx, tx, ch, p.StartAt, repeat); err != nil {
					return err
				}
			}
			if err := audit.Record(ctx, tx, audit.Event{
				Action: "channel.action", Resource: "channel/" + ch.GetName(),
				Details: map[string]any{"action": Action, "repeat_every_seconds": req.GetRepeatEverySeconds()},
			}); err != nil {
				return err
			}
			result, err = s.deps.Jobs.Enqueue(ctx, tx, p)
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
	j := info.Proto()
	j.Action, j.RepeatEverySeconds = Action, req.GetRepeatEverySeconds()
	return j, nil
}

const (
	minRepeat = 10 // seconds: a typing slip must not hammer mirrors
	maxRepeat = int64(10 * 366 * 24 * time.Hour / time.Second)
)

// repeat sets or ends the channel's repetition. It runs as the service, so that a departed user stops nothing.
func (s *Service) repeat(ctx context.Context, tx pgx.Tx, ch *channelsv1.Channel, startAt time.Time, every time.Duration) (uuid.UUID, error) {
	if every == 0 {
		err := s.deps.Jobs.DeleteSchedule(ctx, tx, ch.GetNamespace(), scheduleName(ch.GetId()))
		if fault.Is(err, fault.NotFound) {
			err = nil
		}
		return uuid.Nil, err
	}
	first := s.deps.Now()
	if startAt.After(first) {
		first = startAt
	}
	job, err := pullJob(ch.GetId(), ch.GetName(), ch.GetNamespace(), authn.Service("metrics"))
	if err != nil {
		return uuid.Nil, err
	}
	sc, err := s.deps.Jobs.UpsertSchedule(ctx, tx, jobs.Schedule{
		Namespace: ch.GetNamespace(), Name: scheduleName(ch.GetId()), Job: job, RepeatEvery: every, StartAt: first.Add(every),
	})
	return sc.ID, err
}

// ListPulls says how far the counts of each mirror are in.
func (s *Service) ListPulls(ctx context.Context, _ *metricsv1.ListPullsRequest) (*metricsv1.ListPullsResponse, error) {
	_, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.store.pulls(ctx, id)
	if err != nil {
		return nil, err
	}
	out := &metricsv1.ListPullsResponse{}
	for _, p := range all {
		out.Pulls = append(out.Pulls, p.toProto())
	}
	return out, nil
}

// DeletePull takes back what came from a mirror.
func (s *Service) DeletePull(ctx context.Context, req *metricsv1.DeletePullRequest) (*emptypb.Empty, error) {
	res, id, err := channelOf(ctx)
	if err != nil {
		return nil, err
	}
	missing := fault.New(fault.NotFound, "nothing was pulled from such a mirror").WithReason("PULL_NOT_FOUND")
	mirror, err := uuid.Parse(req.GetMirrorId())
	if err != nil {
		return nil, missing
	}
	err = pg.Retry(ctx, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
			n, found, err := takeBack(ctx, tx, id, mirror)
			if err != nil {
				return err
			}
			if !found {
				return missing
			}
			return audit.Record(ctx, tx, audit.Event{
				Action: "channel.metrics.take_back", Resource: "channel/" + res.Name, Details: map[string]any{"mirror": mirror.String(), "downloads": n},
			})
		})
	})
	return &emptypb.Empty{}, err
}

func toProto(points []point) []*metricsv1.Point {
	out := make([]*metricsv1.Point, len(points))
	for i, p := range points {
		out[i] = &metricsv1.Point{Time: timestamppb.New(p.At), Count: p.N}
	}
	return out
}

func namedToProto(all []named) []*metricsv1.NamedCount {
	out := make([]*metricsv1.NamedCount, len(all))
	for i, n := range all {
		out[i] = &metricsv1.NamedCount{Name: n.Name, Count: n.N}
	}
	return out
}

func sumOf(points []point) (n int64) {
	for _, p := range points {
		n += p.N
	}
	return n
}
