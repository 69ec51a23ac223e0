// Package jobs is the service that shows and steers background work. The machinery is pkg/jobs; here are the gRPC
// handlers, and who may see and steer what:
//
//   - whoever holds jobs.manage, everything;
//   - whoever may sync a channel, the jobs on it, also those that others or the platform itself asked for;
//   - a user, the jobs that the user asked for: to see them always, to steer them if the job is on no channel.
//
// A key that is narrowed to some roles sees and steers no more than its roles allow.
package jobs

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// Deps are what the service stands on.
type Deps struct {
	// DB takes the audit events.
	DB pg.DB
	// Jobs is the client that looks after jobs.
	Jobs *jobs.Client
	// Roles decide who holds what.
	Roles *authz.Roles
	// Channel finds a channel by its name, and when it was made; NotFound if there is none.
	Channel func(ctx context.Context, name string) (authz.Resource, time.Time, error)
}

// Service implements jobsv1.JobServiceServer.
type Service struct {
	jobsv1.UnimplementedJobServiceServer
	deps Deps

	drain     chan struct{}
	drainOnce sync.Once
}

var _ jobsv1.JobServiceServer = (*Service)(nil)

// New returns the service.
func New(deps Deps) *Service { return &Service{deps: deps, drain: make(chan struct{})} }

// Drain ends the streams of those who follow jobs, which would keep a server from stopping for as long as their jobs
// last: they come back with the id of the last event and are answered by another process. It may be called twice.
func (s *Service) Drain() { s.drainOnce.Do(func() { close(s.drain) }) }

var errDraining = fault.New(fault.Unavailable, "the service is stopping; ask again").WithReason("STOPPING")

// allowed turns a decision into yes, no or an error that is neither.
func allowed(err error) (bool, error) {
	if fault.Is(err, fault.Denied) || fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

// manages reports whether the caller may see and steer everybody's jobs.
func (s *Service) manages(ctx context.Context, c authn.Caller) (bool, error) {
	if c.Platform() {
		return true, nil
	}
	return allowed(s.deps.Roles.Allow(ctx, c, authz.JobsManage, authz.Resource{Kind: authz.Server}))
}

// holds reports whether the caller has a permission on the channel that a resource such as `channel/main` names. A
// channel that is younger than since is another one, which took the name later.
func (s *Service) holds(ctx context.Context, c authn.Caller, permission authz.Permission, resource string, since time.Time) (bool, error) {
	name, ok := strings.CutPrefix(resource, "channel/")
	if !ok {
		return false, nil
	}
	res, made, err := s.deps.Channel(ctx, name)
	if err == nil && !since.IsZero() && made.After(since) {
		return false, nil
	}
	if err == nil {
		res.Public = false // that anyone may read the channel says nothing about its jobs
		err = s.deps.Roles.Allow(ctx, c, permission, res)
	}
	return allowed(err)
}

// access is what a caller wants of a job.
type access int

const (
	see access = iota
	steer
)

// find returns a job by its UUID or number, if the caller may see or steer it. Another's job is Denied, which the
// dialects word in their own ways; it is no secret that the number is taken.
func (s *Service) find(ctx context.Context, id string, want access) (jobs.Info, error) {
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
	ok, err := s.may(ctx, info, want)
	if err == nil && !ok {
		err = fault.New(fault.Denied, "No permission")
	}
	return info, err
}

// may decides by the package comment's rules.
func (s *Service) may(ctx context.Context, info jobs.Info, want access) (bool, error) {
	c := authn.FromContext(ctx)
	if ok, err := s.manages(ctx, c); ok || err != nil {
		return ok, err
	}
	onChannel := strings.HasPrefix(info.Resource, "channel/")
	if onChannel {
		if ok, err := s.holds(ctx, c, authz.ChannelSync, info.Resource, info.CreatedAt); ok || err != nil {
			return ok, err
		}
	}
	switch {
	case !ownedBy(info, c):
		return false, nil
	case c.Scoped:
		// The user's own, but the key may be for something else.
		if want == steer || !onChannel {
			return false, nil
		}
		return s.holds(ctx, c, authz.ChannelRead, info.Resource, info.CreatedAt)
	}
	return want == see || !onChannel, nil
}
