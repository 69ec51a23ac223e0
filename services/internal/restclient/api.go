package restclient

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

// Me says whose key is used.
func (c *Client) Me(ctx context.Context) (*identityv1.GetMeResponse, error) {
	out := &identityv1.GetMeResponse{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "me"), nil, out)
}

// CreateChannel makes a channel.
func (c *Client) CreateChannel(ctx context.Context, req *channelsv1.CreateChannelRequest) (*channelsv1.Channel, error) {
	out := &channelsv1.Channel{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels"), req, out)
}

// Channel returns a channel.
func (c *Client) Channel(ctx context.Context, name string) (*channelsv1.Channel, error) {
	out := &channelsv1.Channel{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "channels", name), nil, out)
}

// DeleteChannel deletes a channel with all it holds.
func (c *Client) DeleteChannel(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "channels", name), nil, nil)
}

// Channels lists up to limit channels (0 means all) whose name contains query.
func (c *Client) Channels(ctx context.Context, query, namespace string, limit int) (*channelsv1.ListChannelsResponse, error) {
	all := &channelsv1.ListChannelsResponse{}
	err := c.pages(ctx, limit, values("query", query, "namespace", namespace), func() page {
		return &channelsv1.ListChannelsResponse{}
	}, func(p page) int {
		one := p.(*channelsv1.ListChannelsResponse)
		all.Channels = append(all.Channels, one.GetChannels()...)
		all.TotalSize = one.GetTotalSize()
		return len(all.Channels)
	}, "channels")
	all.Channels = cut(all.Channels, limit)
	return all, err
}

// Packages lists up to limit of a channel's packages (0 means all) whose name contains query.
func (c *Client) Packages(ctx context.Context, channel, query string, limit int) (*channelsv1.ListPackagesResponse, error) {
	all := &channelsv1.ListPackagesResponse{}
	err := c.pages(ctx, limit, values("query", query), func() page {
		return &channelsv1.ListPackagesResponse{}
	}, func(p page) int {
		one := p.(*channelsv1.ListPackagesResponse)
		all.Packages = append(all.Packages, one.GetPackages()...)
		all.TotalSize = one.GetTotalSize()
		return len(all.Packages)
	}, "channels", channel, "packages")
	all.Packages = cut(all.Packages, limit)
	return all, err
}

// Files lists all of a channel's package files.
func (c *Client) Files(ctx context.Context, channel string) ([]*channelsv1.File, error) {
	var all []*channelsv1.File
	err := c.pages(ctx, 0, nil, func() page {
		return &channelsv1.ListFilesResponse{}
	}, func(p page) int {
		all = append(all, p.(*channelsv1.ListFilesResponse).GetFiles()...)
		return len(all)
	}, "channels", channel, "files")
	return all, err
}

// StartSync queues a sync of a mirror channel, or returns the one that is queued or running.
func (c *Client) StartSync(ctx context.Context, req *syncv1.StartSyncRequest) (*jobsv1.Job, error) {
	out := &jobsv1.Job{}
	body := proto.Clone(req).(*syncv1.StartSyncRequest)
	body.Channel = "" // it is in the path
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels", req.GetChannel()+":sync"), body, out)
}

// SyncStatus says how a mirror channel stands to its upstream.
func (c *Client) SyncStatus(ctx context.Context, channel string) (*syncv1.SyncStatus, error) {
	out := &syncv1.SyncStatus{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "sync"), nil, out)
}

// Remote returns how a channel's upstream is reached; it shows no secrets.
func (c *Client) Remote(ctx context.Context, channel string) (*syncv1.Remote, error) {
	out := &syncv1.Remote{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "channels", channel, "remote"), nil, out)
}

// UpdateRemote sets the named settings of how a channel's upstream is reached; "*" stands for all.
func (c *Client) UpdateRemote(ctx context.Context, channel string, settings *syncv1.RemoteSettings, fields ...string) (*syncv1.Remote, error) {
	out := &syncv1.Remote{}
	q := values("update_mask", strings.Join(fields, ","))
	return out, c.call(ctx, http.MethodPatch, c.api(q, "channels", channel, "remote"), settings, out)
}

// ChannelMetrics returns a channel's downloads. Of req all fields but the channel are optional.
func (c *Client) ChannelMetrics(ctx context.Context, req *metricsv1.GetChannelMetricsRequest) (*metricsv1.ChannelMetrics, error) {
	q := values("interval", req.GetInterval().String(), "top", strconv.Itoa(int(req.GetTop())))
	for name, t := range map[string]*timestamppb.Timestamp{"start": req.GetStart(), "end": req.GetEnd()} {
		if t != nil {
			q.Set(name, t.AsTime().Format(time.RFC3339Nano))
		}
	}
	out := &metricsv1.ChannelMetrics{}
	return out, c.call(ctx, http.MethodGet, c.api(q, "channels", req.GetChannel(), "metrics"), nil, out)
}

// StartPull asks a channel's registered mirrors for their counts.
func (c *Client) StartPull(ctx context.Context, channel string) (*jobsv1.Job, error) {
	out := &jobsv1.Job{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "channels", channel, "metrics", "pulls"), &metricsv1.StartPullRequest{}, out)
}

// Job returns a job by UUID or number.
func (c *Client) Job(ctx context.Context, id string) (*jobsv1.Job, error) {
	out := &jobsv1.Job{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "jobs", id), nil, out)
}

// Jobs lists up to limit jobs (0 means all), newest first. Of req only the filters count.
func (c *Client) Jobs(ctx context.Context, req *jobsv1.ListJobsRequest, limit int) (*jobsv1.ListJobsResponse, error) {
	all := &jobsv1.ListJobsResponse{}
	q := values("kind", req.GetKind(), "resource", req.GetResource(), "namespace", req.GetNamespace())
	for _, s := range req.GetStates() {
		q.Add("states", s.String())
	}
	err := c.pages(ctx, limit, q, func() page {
		return &jobsv1.ListJobsResponse{}
	}, func(p page) int {
		one := p.(*jobsv1.ListJobsResponse)
		all.Jobs = append(all.Jobs, one.GetJobs()...)
		all.TotalSize = one.GetTotalSize()
		return len(all.Jobs)
	}, "jobs")
	all.Jobs = cut(all.Jobs, limit)
	return all, err
}

// CancelJob cancels a job that has not ended.
func (c *Client) CancelJob(ctx context.Context, id string) (*jobsv1.Job, error) {
	out := &jobsv1.Job{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "jobs", id+":cancel"), &jobsv1.CancelJobRequest{}, out)
}

// CreateKey makes an API key for the caller.
func (c *Client) CreateKey(ctx context.Context, req *identityv1.CreateApiKeyRequest) (*identityv1.CreateApiKeyResponse, error) {
	out := &identityv1.CreateApiKeyResponse{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "api-keys"), req, out)
}

// Keys lists the caller's API keys.
func (c *Client) Keys(ctx context.Context) (*identityv1.ListApiKeysResponse, error) {
	out := &identityv1.ListApiKeysResponse{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "api-keys"), nil, out)
}

// RevokeKey ends an API key, named by its public id.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, c.api(nil, "api-keys", id), nil, nil)
}

// SyncResult reads the result of a job of the kind sync.channel; nil if it has none.
func SyncResult(job *jobsv1.Job) (*syncv1.SyncResult, error) {
	if job.GetResult() == nil {
		return nil, nil
	}
	data, err := protojson.Marshal(job.GetResult())
	if err != nil {
		return nil, err
	}
	out := &syncv1.SyncResult{}
	return out, (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, out)
}

// Final reports whether a job in the state has ended.
func Final(s jobsv1.JobState) bool {
	return s == jobsv1.JobState_JOB_STATE_SUCCEEDED || s == jobsv1.JobState_JOB_STATE_DEAD || s == jobsv1.JobState_JOB_STATE_CANCELLED
}

// page is an answer of a list.
type page interface {
	proto.Message
	GetNextPageToken() string
}

// maxPage is the server's bound on a page.
const maxPage = 1000

// pages calls a list until its end, or until add says that it has limit items.
func (c *Client) pages(ctx context.Context, limit int, q url.Values, fresh func() page, add func(page) (have int), segments ...string) error {
	if q == nil {
		q = url.Values{}
	}
	size := maxPage
	if limit > 0 {
		size = min(limit, maxPage)
	}
	q.Set("page_size", strconv.Itoa(size))
	for {
		p := fresh()
		if err := c.call(ctx, http.MethodGet, c.api(q, segments...), nil, p); err != nil {
			return err
		}
		have := add(p)
		next := p.GetNextPageToken()
		if next == "" || next == q.Get("page_token") || limit > 0 && have >= limit {
			return nil
		}
		q.Set("page_token", next)
	}
}

func cut[T any](list []T, limit int) []T {
	if limit > 0 && len(list) > limit {
		return list[:limit]
	}
	return list
}

// values makes a query of pairs whose value is not empty.
func values(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if v := strings.TrimSpace(pairs[i+1]); v != "" {
			q.Set(pairs[i], v)
		}
	}
	return q
}
