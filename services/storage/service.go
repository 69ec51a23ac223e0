package storage

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// RunGarbageCollection queues a garbage collection, or returns the one that is queued.
func (s *Service) RunGarbageCollection(ctx context.Context, req *storagev1.RunGarbageCollectionRequest) (*jobsv1.Job, error) {
	info, err := s.enqueue(ctx, gcJob(&storagev1.GarbageCollectionArgs{DryRun: req.GetDryRun()}), func(tx pgx.Tx) error {
		return audit.Record(ctx, tx, audit.Event{Action: "storage.gc", Resource: resource, Details: map[string]any{"dry_run": req.GetDryRun()}})
	})
	if err != nil {
		return nil, err
	}
	return info.Proto(), nil
}

// RunScrub queues a scrub, or returns the one that is queued or running.
func (s *Service) RunScrub(ctx context.Context, req *storagev1.RunScrubRequest) (*jobsv1.Job, error) {
	info, err := s.enqueue(ctx, scrubJob(&storagev1.ScrubArgs{DryRun: req.GetDryRun()}), func(tx pgx.Tx) error {
		return audit.Record(ctx, tx, audit.Event{Action: "storage.scrub", Resource: resource, Details: map[string]any{"dry_run": req.GetDryRun()}})
	})
	if err != nil {
		return nil, err
	}
	return info.Proto(), nil
}

const (
	defaultPage = 50
	maxPage     = 1000
	// maxOwners is how many of those who refer to a damaged blob are named.
	maxOwners = 20
)

// ListFindings returns a page of what scrubs found, by digest.
func (s *Service) ListFindings(ctx context.Context, req *storagev1.ListFindingsRequest) (*storagev1.ListFindingsResponse, error) {
	size := int(req.GetPageSize())
	switch {
	case size < 0:
		return nil, fault.Field("page_size", "page_size must not be negative")
	case size == 0:
		size = defaultPage
	}
	size = min(size, maxPage)
	var after blob.Digest
	if t := req.GetPageToken(); t != "" {
		if err := after.UnmarshalText([]byte(t)); err != nil {
			return nil, fault.Field("page_token", "page_token is not one that was given out")
		}
	}
	found, err := s.store.findings(ctx, after, req.GetIncludeResolved(), size+1)
	if err != nil {
		return nil, err
	}
	out := &storagev1.ListFindingsResponse{}
	if len(found) > size {
		found = found[:size]
		out.NextPageToken = found[size-1].Digest.String()
	}
	digests := make([]blob.Digest, len(found))
	for i := range found {
		digests[i] = found[i].Digest
	}
	owners, err := refs.Owners(ctx, s.deps.DB, digests, maxOwners)
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		out.Findings = append(out.Findings, f.toProto(owners[f.Digest]))
	}
	return out, nil
}
