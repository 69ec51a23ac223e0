package jobs

import (
	"context"
	"strconv"

	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// GetJob returns a job.
func (s *Service) GetJob(ctx context.Context, req *jobsv1.GetJobRequest) (*jobsv1.Job, error) {
	info, err := s.find(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return s.toProto(ctx, info)
}

// maxSkip bounds paging by offset, whose cost grows with what is skipped.
const maxSkip = 100_000

// ListJobs returns a page of jobs.
func (s *Service) ListJobs(ctx context.Context, req *jobsv1.ListJobsRequest) (*jobsv1.ListJobsResponse, error) {
	if req.GetPageSize() < 0 {
		return nil, fault.Field("page_size", "page_size must not be negative")
	}
	if req.GetSkip() < 0 || req.GetSkip() > maxSkip {
		return nil, fault.Field("skip", "skip must lie between 0 and %d; use page_token to go further", maxSkip)
	}
	caller := authn.FromContext(ctx)
	all, err := s.manages(ctx, caller)
	if err != nil {
		return nil, err
	}
	f := jobs.Filter{Resource: req.GetResource()}
	if !all {
		f.Principal = caller.Actor()
	}
	if req.GetNamespace() != "" {
		f.Namespaces = []string{req.GetNamespace()}
	}
	if req.GetKind() != "" {
		f.Kinds = []string{req.GetKind()}
	}
	for _, st := range req.GetStates() {
		state, ok := stateFromProto[st]
		if !ok {
			return nil, fault.Field("states", "%s is not a state to filter by", st)
		}
		f.States = append(f.States, state)
	}
	page := jobs.Page{Size: int(req.GetPageSize()), Cursor: req.GetPageToken(), Skip: int(req.GetSkip()), OldestFirst: req.GetOldestFirst()}
	infos, next, err := s.deps.Jobs.List(ctx, f, page)
	if err != nil {
		return nil, err
	}
	total, err := s.deps.Jobs.Count(ctx, f)
	if err != nil {
		return nil, err
	}
	resp := &jobsv1.ListJobsResponse{NextPageToken: next, TotalSize: total}
	for _, info := range infos {
		job, err := s.toProto(ctx, info)
		if err != nil {
			return nil, err
		}
		resp.Jobs = append(resp.Jobs, job)
	}
	return resp, nil
}

// CancelJob stops a job. Cancelling one that has ended changes nothing and returns it as it ended.
func (s *Service) CancelJob(ctx context.Context, req *jobsv1.CancelJobRequest) (*jobsv1.Job, error) {
	info, err := s.find(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if !info.State.Terminal() {
		cancelled, err := s.deps.Jobs.Cancel(ctx, info.ID)
		if err != nil && !fault.Is(err, fault.Precondition) {
			return nil, err
		}
		if err == nil {
			info = cancelled
		}
	}
	return s.toProto(ctx, info)
}

// RetryJob queues a dead or cancelled job again.
func (s *Service) RetryJob(ctx context.Context, req *jobsv1.RetryJobRequest) (*jobsv1.Job, error) {
	info, err := s.find(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	if info, err = s.deps.Jobs.Retry(ctx, info.ID); err != nil {
		return nil, err
	}
	return s.toProto(ctx, info)
}

// WatchJob follows a job until it is final.
func (s *Service) WatchJob(req *jobsv1.WatchJobRequest, stream grpc.ServerStreamingServer[jobsv1.JobEvent]) error {
	ctx := stream.Context()
	info, err := s.find(ctx, req.GetId())
	if err != nil {
		return err
	}
	for ev, err := range s.deps.Jobs.Follow(ctx, info.ID, req.GetLastEventId()) {
		if err != nil {
			return err
		}
		msg, err := s.eventToProto(ctx, ev)
		if err != nil {
			return err
		}
		if err := stream.Send(msg); err != nil {
			return err
		}
	}
	return nil
}

func number(id string) (int64, bool) {
	n, err := strconv.ParseInt(id, 10, 64)
	return n, err == nil && n > 0
}
