package quetz

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// nullWhenEmpty: a package without files has `"platforms": null`.
var nullWhenEmpty = map[protoreflect.Name]bool{"platforms": true}

// Service implements the proto part of the dialect over the domain services.
type Service struct {
	quetzv1.UnimplementedQuetzServiceServer
	Channels channelsv1.ChannelServiceClient
	Sync     syncv1.SyncServiceClient
	Jobs     jobsv1.JobServiceClient
	Metrics  metricsv1.MetricsServiceClient
}

// GetChannel returns a channel.
func (s *Service) GetChannel(ctx context.Context, req *quetzv1.GetChannelRequest) (*quetzv1.Channel, error) {
	ch, err := s.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: req.GetChannelName()})
	if err != nil {
		return nil, err
	}
	return channelToQuetz(ch), nil
}

// ListChannels returns a page of channels.
func (s *Service) ListChannels(ctx context.Context, req *quetzv1.ListChannelsRequest) (*quetzv1.ListChannelsResponse, error) {
	skip, limit, err := pageOf(req.Skip, req.Limit)
	if err != nil {
		return nil, err
	}
	resp := &quetzv1.ListChannelsResponse{}
	base := &channelsv1.ListChannelsRequest{Query: req.GetQ(), MemberOnly: req.Public != nil && !req.GetPublic()}
	total, err := collect(skip, limit, func(skip int64, size int32) (int, int64, error) {
		page := proto.Clone(base).(*channelsv1.ListChannelsRequest)
		page.Skip, page.PageSize = skip, size
		got, err := s.Channels.ListChannels(ctx, page)
		for _, ch := range got.GetChannels() {
			resp.Result = append(resp.Result, channelToQuetz(ch))
		}
		return len(got.GetChannels()), got.GetTotalSize(), err
	})
	if err != nil {
		return nil, err
	}
	resp.Pagination = &quetzv1.Pagination{Skip: skip, Limit: limit, AllRecordsCount: total}
	return resp, nil
}

// GetPackage returns a package.
func (s *Service) GetPackage(ctx context.Context, req *quetzv1.GetPackageRequest) (*quetzv1.Package, error) {
	p, err := s.Channels.GetPackage(ctx, &channelsv1.GetPackageRequest{Channel: req.GetChannelName(), Package: req.GetPackageName()})
	if err != nil {
		return nil, err
	}
	return packageToQuetz(p), nil
}

// ListPackages returns a page of packages.
func (s *Service) ListPackages(ctx context.Context, req *quetzv1.ListPackagesRequest) (*quetzv1.ListPackagesResponse, error) {
	if err := s.refuseProxy(ctx, req.GetChannelName()); err != nil {
		return nil, err
	}
	skip, limit, err := pageOf(req.Skip, req.Limit)
	if err != nil {
		return nil, err
	}
	orderBy, err := orderOf(req.GetOrderBy())
	if err != nil {
		return nil, err
	}
	resp := &quetzv1.ListPackagesResponse{}
	total, err := collect(skip, limit, func(skip int64, size int32) (int, int64, error) {
		got, err := s.Channels.ListPackages(ctx, &channelsv1.ListPackagesRequest{
			Channel: req.GetChannelName(), Query: req.GetQ(), Skip: skip, PageSize: size, OrderBy: orderBy,
		})
		for _, p := range got.GetPackages() {
			resp.Result = append(resp.Result, packageToQuetz(p))
		}
		return len(got.GetPackages()), got.GetTotalSize(), err
	})
	if err != nil {
		return nil, err
	}
	resp.Pagination = &quetzv1.Pagination{Skip: skip, Limit: limit, AllRecordsCount: total}
	return resp, nil
}

// actionNames are the actions in the order in which the dialect lists them.
var actionNames = []string{
	"synchronize", "synchronize_repodata", "reindex", "generate_indexes", "validate_packages", "synchronize_metrics", "cleanup", "cleanup_dry_run",
}

// actionKinds says which channels take which action.
var actionKinds = map[string]func(channelsv1.ChannelKind) bool{
	"synchronize":          isMirror,
	"synchronize_repodata": isMirror,
	"synchronize_metrics":  isHosted,
	"validate_packages":    isAny,
	"generate_indexes":     isAny,
	"reindex":              isAny,
	"cleanup":              isAny,
	"cleanup_dry_run":      isAny,
}

func isAny(channelsv1.ChannelKind) bool { return true }

func isHosted(k channelsv1.ChannelKind) bool { return k == channelsv1.ChannelKind_CHANNEL_KIND_HOSTED }

func isMirror(k channelsv1.ChannelKind) bool { return k == channelsv1.ChannelKind_CHANNEL_KIND_MIRROR }

// isNoProxy: channels that know their packages, and have mirrors.
func isNoProxy(k channelsv1.ChannelKind) bool { return k != channelsv1.ChannelKind_CHANNEL_KIND_PROXY }

// RunAction starts an action.
func (s *Service) RunAction(ctx context.Context, req *quetzv1.ActionRequest) (*quetzv1.Job, error) {
	return s.start(ctx, req)
}

func (s *Service) start(ctx context.Context, req *quetzv1.ActionRequest) (*quetzv1.Job, error) {
	ch, err := s.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: req.GetChannelName()})
	if err != nil {
		return nil, err
	}
	if err := checkAction(ch.GetKind(), ch.GetName(), req.GetAction()); err != nil {
		return nil, err
	}
	var startAt *timestamppb.Timestamp
	if req.GetStartAt() != "" {
		t, perr := parseTime(req.GetStartAt())
		if perr != nil {
			return nil, fault.Field("start_at", "Input should be a valid datetime or date")
		}
		startAt = timestamppb.New(t)
	}
	var job *jobsv1.Job
	switch {
	case req.GetAction() == "synchronize_metrics":
		job, err = s.Metrics.StartPull(ctx, &metricsv1.StartPullRequest{Channel: ch.GetName(), StartAt: startAt, RepeatEverySeconds: req.RepeatEverySeconds})
	case isSync(req.GetAction()):
		job, err = s.Sync.StartSync(ctx, &syncv1.StartSyncRequest{
			Channel: ch.GetName(), Inspect: req.GetAction() == "synchronize", StartAt: startAt,
			RepeatEverySeconds: req.RepeatEverySeconds, Action: req.GetAction(),
		})
	default:
		job, err = s.Channels.StartAction(ctx, &channelsv1.StartActionRequest{
			Channel: ch.GetName(), Action: req.GetAction(), StartAt: startAt, RepeatEverySeconds: req.GetRepeatEverySeconds(),
		})
	}
	if err != nil {
		return nil, err
	}
	return jobToQuetz(job), nil
}

func checkAction(kind channelsv1.ChannelKind, channel, action string) error {
	allowed, ok := actionKinds[action]
	switch {
	case action == "":
		return fault.Field("action", "Field required")
	case !ok:
		return fault.Field("action", "%s", oneOf(actionNames))
	case !allowed(kind):
		return fault.New(fault.Precondition, "Action %s not allowed for channel %s", action, channel).WithReason("CHANNEL_KIND")
	}
	return nil
}

func isSync(action string) bool { return action == "synchronize" || action == "synchronize_repodata" }

// refuseProxy answers the list and package routes of a proxy, which knows no packages of its own.
func (s *Service) refuseProxy(ctx context.Context, name string) error {
	ch, err := s.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: name})
	if fault.Is(err, fault.Denied) {
		return nil // there may be a role on the package: the call about it decides
	}
	if err == nil && ch.GetKind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return fault.New(fault.Precondition, "This method is not implemented for proxy channels").WithReason("CHANNEL_KIND")
	}
	return err
}

// pageOf reads Quetz's skip and limit; limit -1 means all.
func pageOf(skip, limit *int64) (int64, int64, error) {
	s, l := int64(0), int64(20)
	if skip != nil {
		s = *skip
	}
	if limit != nil {
		l = *limit
	}
	switch {
	case s < 0:
		return 0, 0, badQuery("skip", "skip must not be negative")
	case l < -1:
		return 0, 0, badQuery("limit", "limit must be -1, for all, or not negative")
	}
	return s, l, nil
}

// collect asks for pages until limit items are there or none are left, and returns how many there are in all.
func collect(skip, limit int64, page func(skip int64, size int32) (got int, total int64, err error)) (int64, error) {
	const most = 1000
	if limit == 0 {
		_, total, err := page(1<<40, 1) // no items, just the count
		return total, err
	}
	for done := int64(0); ; {
		size := int64(most)
		if limit >= 0 {
			size = min(size, limit-done)
		}
		got, total, err := page(skip+done, int32(size))
		if err != nil {
			return 0, err
		}
		done += int64(got)
		if got == 0 || int64(got) < size || (limit >= 0 && done >= limit) {
			return total, nil
		}
	}
}

func orderOf(s string) (string, error) {
	first, _, _ := strings.Cut(s, ",")
	key, dir, hasDir := strings.Cut(first, ":")
	name := map[string]string{"": "name", "name": "name", "latest_change": "update_time"}[key]
	if name == "" || (hasDir && dir != "asc" && dir != "desc") {
		return "", badQuery("order_by", "order_by takes name or latest_change, each with :asc or :desc")
	}
	if key != "" && dir != "asc" { // no direction means descending
		return "-" + name, nil
	}
	return name, nil
}

func channelToQuetz(ch *channelsv1.Channel) *quetzv1.Channel {
	q := &quetzv1.Channel{
		Name: ch.GetName(), Private: ch.GetPrivate(), SizeLimit: ch.SizeLimit, Ttl: ch.GetTtl(),
		MembersCount: ch.GetMemberCount(), PackagesCount: ch.GetPackageCount(),
	}
	if ch.GetDescription() != "" {
		q.Description = proto.String(ch.GetDescription())
	}
	if mode := modeOf(ch.GetKind()); mode != "" {
		q.MirrorMode = proto.String(mode)
		q.MirrorChannelUrl = proto.String(ch.GetMirror().GetUrl())
	}
	return q
}

func modeOf(k channelsv1.ChannelKind) string {
	switch k {
	case channelsv1.ChannelKind_CHANNEL_KIND_MIRROR:
		return "mirror"
	case channelsv1.ChannelKind_CHANNEL_KIND_PROXY:
		return "proxy"
	}
	return ""
}

func packageToQuetz(p *channelsv1.Package) *quetzv1.Package {
	q := &quetzv1.Package{Name: p.GetName(), Summary: p.GetSummary(), Description: p.GetDescription(), Platforms: p.GetSubdirs()}
	if p.GetUrl() != "" {
		q.Url = proto.String(p.GetUrl())
	}
	if p.GetCurrentVersion() != "" {
		q.CurrentVersion = proto.String(p.GetCurrentVersion())
	}
	if p.GetUpdateTime() != nil {
		q.LatestChange = proto.String(naive(p.GetUpdateTime().AsTime()))
	}
	return q
}

func jobToQuetz(j *jobsv1.Job) *quetzv1.Job {
	q := &quetzv1.Job{
		Manifest: j.GetAction(), Id: j.GetNumber(), OwnerId: j.GetOwnerId(),
		Created: naive(j.GetCreateTime().AsTime()), Status: jobStatus(j.GetState()),
	}
	if q.Manifest == "" {
		q.Manifest = j.GetKind()
	}
	if q.OwnerId == "" { // the platform itself: the field is a UUID
		q.OwnerId = "00000000-0000-0000-0000-000000000000"
	}
	if j.GetItemsSpec() != "" {
		q.ItemsSpec = proto.String(j.GetItemsSpec())
	}
	if t := j.GetStartAt(); t != nil && t.AsTime().After(time.Time{}) {
		q.StartAt = proto.String(naive(t.AsTime()))
	}
	if n := j.GetRepeatEverySeconds(); n > 0 {
		q.RepeatEverySeconds = proto.Int64(n)
	}
	return q
}

func jobStatus(s jobsv1.JobState) string {
	switch s {
	case jobsv1.JobState_JOB_STATE_RUNNING:
		return "running"
	case jobsv1.JobState_JOB_STATE_SUCCEEDED:
		return "success"
	case jobsv1.JobState_JOB_STATE_DEAD:
		return "failed"
	case jobsv1.JobState_JOB_STATE_CANCELLED:
		return "cancelled"
	}
	return "pending"
}

// writeNull answers a write that has nothing to tell.
func writeNull(w http.ResponseWriter, status int) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "4")
	w.WriteHeader(status)
	_, err := w.Write([]byte("null"))
	return ignoreGone(err)
}

// ignoreGone: an answer that could not be written has no reader who could be told.
func ignoreGone(error) error { return nil }

func rawJSON(s string) json.RawMessage {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	return json.RawMessage("{}")
}
