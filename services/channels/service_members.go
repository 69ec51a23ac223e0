package channels

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Members are role bindings, and those are identity's. What happens here is authorised before: identity takes such calls from
// parts of the platform only, and writes them into the audit log, for whom they are made and by the names we give.

func bindingResource(channel uuid.UUID) string { return "channel/" + channel.String() }

// countMembers notes how many members the channels have, all of them by one call.
func (s *Service) countMembers(ctx context.Context, all ...*channelsv1.Channel) error {
	if len(all) == 0 {
		return nil
	}
	req := new(identityv1.CountBindingsRequest)
	for _, ch := range all {
		req.Resources = append(req.Resources, "channel/"+ch.GetId())
	}
	r, err := s.identity.CountBindings(ctx, req)
	if err != nil {
		return err
	}
	for i, ch := range all {
		ch.MemberCount = r.GetCounts()[req.Resources[i]]
	}
	return nil
}

// grantOwner makes the caller the owner of a channel, and returns the version of the roles that hold it. Parts of the
// platform need no role.
func (s *Service) grantOwner(ctx context.Context, c authn.Caller, channel uuid.UUID) (version int64, err error) {
	if c.UserID == "" {
		return 0, nil
	}
	r, err := s.identity.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
		Binding: &identityv1.Binding{Subject: "user/" + c.UserID, Role: authz.Owner, Resource: bindingResource(channel)},
	})
	return r.GetVersion(), err
}

// heedTimeout bounds what a writer waits for its own write; identity is asked again every two seconds anyway.
const heedTimeout = time.Second

// heeded waits until this process goes by roles of at least the version, so that who was given a role finds the channel
// in the next list. A question about one channel looks twice before it says no, but a list cannot know what it lacks.
func (s *Service) heeded(ctx context.Context, version int64) {
	ctx, cancel := context.WithTimeout(ctx, heedTimeout)
	defer cancel()
	if err := s.roles.Await(ctx, version); err != nil {
		s.log.DebugContext(ctx, "a role is not heeded here yet", "error", err)
	}
}

// revokeAll removes all roles on a channel that is not there. It must happen even if the caller has gone.
func (s *Service) revokeAll(ctx context.Context, channel uuid.UUID) error {
	_, err := s.identity.DeleteResourceBindings(context.WithoutCancel(ctx), &identityv1.DeleteResourceBindingsRequest{Resource: bindingResource(channel)})
	return err
}

// checkNamespace refuses tenants that do not exist.
func (s *Service) checkNamespace(ctx context.Context, name string) error {
	if name == authz.DefaultNamespace {
		return nil
	}
	all, err := s.identity.ListNamespaces(ctx, &identityv1.ListNamespacesRequest{})
	if err != nil {
		return err
	}
	for _, ns := range all.GetNamespaces() {
		if ns.GetName() == name {
			return nil
		}
	}
	return fault.New(fault.NotFound, "Namespace %s not found", name).WithReason("NAMESPACE_NOT_FOUND")
}

// ListMembers returns a channel's members.
func (s *Service) ListMembers(ctx context.Context, req *channelsv1.ListMembersRequest) (*channelsv1.ListMembersResponse, error) {
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	r, err := s.identity.ListBindings(ctx, &identityv1.ListBindingsRequest{Resource: bindingResource(ch.ID)})
	if err != nil {
		return nil, err
	}
	out := new(channelsv1.ListMembersResponse)
	for _, b := range r.GetBindings() {
		out.Members = append(out.Members, &channelsv1.Member{User: b.GetUser(), Role: b.GetRole()})
	}
	return out, nil
}

// elevated reports whether the caller is an owner or maintainer of the server: they may leave a channel without owner.
func (s *Service) elevated(ctx context.Context, c authn.Caller) (bool, error) {
	err := s.roles.Allow(ctx, c, authz.UsersManage, authz.Resource{})
	if err == nil {
		return true, nil
	}
	if fault.Is(err, fault.Denied) || fault.Is(err, fault.Unauthenticated) {
		return false, nil
	}
	return false, err
}

// SetMember gives a user a role in a channel.
func (s *Service) SetMember(ctx context.Context, req *channelsv1.SetMemberRequest) (*channelsv1.Member, error) {
	if !authz.ValidRole(req.GetRole()) {
		return nil, fault.Field("role", "Input should be 'owner', 'maintainer' or 'member'")
	}
	if req.GetUsername() == "" {
		return nil, fault.Field("username", "username should not be empty")
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	elevated, err := s.elevated(ctx, caller)
	if err != nil {
		return nil, err
	}
	r, err := s.identity.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
		Binding:  &identityv1.Binding{Role: req.GetRole(), Resource: bindingResource(ch.ID)},
		Username: req.GetUsername(), KeepOwner: !elevated,
		AuditAction: "channel.member.set", AuditResource: auditName(ch),
	})
	if err != nil {
		return nil, err
	}
	s.heeded(ctx, r.GetVersion())
	return &channelsv1.Member{User: r.GetUser(), Role: req.GetRole()}, nil
}

// RemoveMember takes a user's role in a channel away.
func (s *Service) RemoveMember(ctx context.Context, req *channelsv1.RemoveMemberRequest) (*emptypb.Empty, error) {
	if req.GetUsername() == "" {
		return nil, fault.Field("username", "username should not be empty")
	}
	ch, err := channelByName(ctx, s.pool, req.GetChannel())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	elevated, err := s.elevated(ctx, caller)
	if err != nil {
		return nil, err
	}
	_, err = s.identity.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
		Binding:  &identityv1.Binding{Resource: bindingResource(ch.ID)},
		Username: req.GetUsername(), Revoke: true, KeepOwner: !elevated,
		AuditAction: "channel.member.remove", AuditResource: auditName(ch),
	})
	var f *fault.Error
	if errors.As(err, &f) && f.Reason == "NO_SUCH_ROLE" {
		return nil, fault.New(fault.NotFound, "user %s is not a member of channel %s", req.GetUsername(), ch.Name).WithReason("MEMBER_NOT_FOUND")
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
