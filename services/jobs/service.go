package jobs

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/entrepot-dev/entrepot/pkg/audit"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// GetJob returns a job.
func (s *Service) GetJob(ctx context.Context, req *jobsv1.GetJobRequest) (*jobsv1.Job, error) {
	info, err := s.find(ctx, req.GetId(), see)
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
	if !utf8.ValidString(req.GetResource()) || strings.ContainsRune(req.GetResource(), 0) {
		return nil, fault.Field("resource", "resource must be UTF-8 text without NUL")
	}
	caller := authn.FromContext(ctx)
	all, err := s.manages(ctx, caller)
	if err == nil && !all && req.GetResource() != "" {
		all, err = s.holds(ctx, caller, authz.ChannelSync, req.GetResource(), time.Time{})
	}
	if err != nil {
		return nil, err
	}
	f := jobs.Filter{Resource: req.GetResource()}
	if !all {
		f.Principal, f.PrincipalData = caller.Actor(), []byte(caller.UserID)
	}
	if req.GetNamespace() != "" {
		f.Namespaces = []string{req.GetNamespace()}
	}
	if f.Kinds = req.GetKinds(); req.GetKind() != "" {
		f.Kinds = append(f.Kinds, req.GetKind())
	}
	for _, st := range req.GetStates() {
		state, ok := jobs.StateFromProto(st)
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
	repeats := map[uuid.UUID]int64{}
	for _, info := range infos {
		if !all && caller.Scoped {
			// The user's own jobs, but the key may be for other channels.
			if ok, err := s.may(ctx, info, see); err != nil || !ok {
				if err != nil {
					return nil, err
				}
				resp.TotalSize--
				continue
			}
		}
		job, err := s.convert(ctx, info, repeats)
		if err != nil {
			return nil, err
		}
		resp.Jobs = append(resp.Jobs, job)
	}
	return resp, nil
}

// CancelJob stops a job. Cancelling one that has ended changes nothing and returns it as it ended.
func (s *Service) CancelJob(ctx context.Context, req *jobsv1.CancelJobRequest) (*jobsv1.Job, error) {
	info, err := s.find(ctx, req.GetId(), steer)
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
			if err := s.audit(ctx, "job.cancel", info); err != nil {
				return nil, err
			}
		}
	}
	if req.GetEndRepetition() && info.ScheduleID != uuid.Nil {
		if err := s.endRepetition(ctx, info); err != nil {
			return nil, err
		}
	}
	return s.toProto(ctx, info)
}

// endRepetition removes the schedule that a job belongs to.
func (s *Service) endRepetition(ctx context.Context, info jobs.Info) error {
	all, err := s.deps.Jobs.ListSchedules(ctx, info.Namespace)
	if err != nil {
		return err
	}
	for _, sc := range all {
		if sc.ID != info.ScheduleID {
			continue
		}
		if err := s.deps.Jobs.DeleteSchedule(ctx, s.deps.DB, sc.Namespace, sc.Name); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
		return s.audit(ctx, "job.end_repetition", info)
	}
	return nil
}

// RetryJob queues a dead or cancelled job again. It runs as whoever asked for it first, who is asked for the right to it
// again then.
func (s *Service) RetryJob(ctx context.Context, req *jobsv1.RetryJobRequest) (*jobsv1.Job, error) {
	info, err := s.find(ctx, req.GetId(), steer)
	if err != nil {
		return nil, err
	}
	if req.GetForce() && info.State == jobs.Succeeded {
		info, err = s.deps.Jobs.Rerun(ctx, info.ID)
	} else {
		info, err = s.deps.Jobs.Retry(ctx, info.ID)
	}
	if err != nil {
		return nil, err
	}
	if err := s.audit(ctx, "job.retry", info); err != nil {
		return nil, err
	}
	return s.toProto(ctx, info)
}

func (s *Service) audit(ctx context.Context, action string, info jobs.Info) error {
	return audit.Record(ctx, s.deps.DB, audit.Event{
		Action: action, Resource: "job/" + info.ID.String(), Details: map[string]any{"kind": info.Kind, "on": info.Resource},
	})
}

// recheck is how often someone who follows a job is asked for the right to it again: a revocation acts within 5 s.
const recheck = 2 * time.Second

// WatchJob follows a job until it is final.
func (s *Service) WatchJob(req *jobsv1.WatchJobRequest, stream grpc.ServerStreamingServer[jobsv1.JobEvent]) error {
	info, err := s.find(stream.Context(), req.GetId(), see)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() { // ends with ctx
		tick := time.NewTicker(recheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.drain:
				cancel(errDraining)
				return
			case <-tick.C:
				if _, err := s.find(ctx, info.ID.String(), see); err != nil && ctx.Err() == nil && !fault.Is(err, fault.Unavailable) {
					cancel(err)
					return
				}
			}
		}
	}()
	for ev, err := range s.deps.Jobs.Follow(ctx, info.ID, req.GetLastEventId()) {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
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
