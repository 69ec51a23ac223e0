package restclient

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// StorageUsage says what is stored.
func (c *Client) StorageUsage(ctx context.Context) (*storagev1.GetUsageResponse, error) {
	out := &storagev1.GetUsageResponse{}
	return out, c.call(ctx, http.MethodGet, c.api(nil, "storage", "usage"), nil, out)
}

// CollectGarbage queues a garbage collection, or returns the one that is queued.
func (c *Client) CollectGarbage(ctx context.Context, dryRun bool) (*jobsv1.Job, error) {
	out := &jobsv1.Job{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "storage", "gc"), &storagev1.RunGarbageCollectionRequest{DryRun: dryRun}, out)
}

// Scrub queues a scrub, or returns the one that is queued or running.
func (c *Client) Scrub(ctx context.Context, dryRun bool) (*jobsv1.Job, error) {
	out := &jobsv1.Job{}
	return out, c.call(ctx, http.MethodPost, c.api(nil, "storage", "scrub"), &storagev1.RunScrubRequest{DryRun: dryRun}, out)
}

// Findings lists up to limit blobs (0 means all) that scrubs found damaged; resolved takes in those that are well again.
func (c *Client) Findings(ctx context.Context, resolved bool, limit int) ([]*storagev1.Finding, error) {
	var all []*storagev1.Finding
	q := url.Values{}
	if resolved {
		q.Set("include_resolved", strconv.FormatBool(true))
	}
	err := c.pages(ctx, limit, q, func() page {
		return &storagev1.ListFindingsResponse{}
	}, func(p page) int {
		all = append(all, p.(*storagev1.ListFindingsResponse).GetFindings()...)
		return len(all)
	}, "storage", "findings")
	return cut(all, limit), err
}

// JobResult reads the result of a job into the message that its kind has; it reports whether there is one.
func JobResult(job *jobsv1.Job, out proto.Message) (bool, error) {
	if job.GetResult() == nil {
		return false, nil
	}
	data, err := protojson.Marshal(job.GetResult())
	if err != nil {
		return false, err
	}
	return true, (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, out)
}
