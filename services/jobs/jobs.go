// Package jobs is the service that shows and steers background work. The machinery is pkg/jobs; here are the gRPC
// handlers, and who may see what: callers see the jobs they asked for, whoever holds jobs.manage sees all.
package jobs

import (
	"context"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// Deps are what the service stands on.
type Deps struct {
	// Jobs is the client that looks after jobs.
	Jobs *jobs.Client
	// Roles decide who holds jobs.manage.
	Roles *authz.Roles
}

// Service implements jobsv1.JobServiceServer.
type Service struct {
	jobsv1.UnimplementedJobServiceServer
	deps Deps
}

var _ jobsv1.JobServiceServer = (*Service)(nil)

// New returns the service.
func New(deps Deps) *Service { return &Service{deps: deps} }

// manages reports whether the caller may see and steer everybody's jobs.
func (s *Service) manages(ctx context.Context, c authn.Caller) (bool, error) {
	if c.Platform() {
		return true, nil
	}
	err := s.deps.Roles.Allow(ctx, c, authz.JobsManage, authz.Resource{Kind: authz.Server})
	switch fault.KindOf(err) {
	case fault.Denied:
		return false, nil
	default:
		return err == nil, err
	}
}

// find returns a job by its UUID or number, if the caller may see it. Another's job is Denied, which the dialects word
// in their own ways; it is no secret that the number is taken.
func (s *Service) find(ctx context.Context, id string) (jobs.Info, error) {
	var info jobs.Info
	u, err := uuid.Parse(id)
	if err == nil {
		info, err = s.deps.Jobs.Get(ctx, u)
	} else {
		n, ok := number(id)
		if !ok {
			return info, fault.Field("id", "a job's id is a UUID or a number")
		}
		info, err = s.deps.Jobs.GetBySeq(ctx, n)
	}
	if err != nil {
		return info, err
	}
	c := authn.FromContext(ctx)
	if ownedBy(info, c) {
		return info, nil
	}
	ok, err := s.manages(ctx, c)
	if err != nil {
		return info, err
	}
	if !ok {
		return info, fault.New(fault.Denied, "No permission")
	}
	return info, nil
}
