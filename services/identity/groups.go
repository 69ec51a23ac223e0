package identity

import (
	"context"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// groupPattern is what groups that are made here may be called. The @ is for those of login providers.
var groupPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// CreateGroup makes a group.
func (s *Service) CreateGroup(ctx context.Context, req *identityv1.CreateGroupRequest) (*identityv1.Group, error) {
	if !groupPattern.MatchString(req.GetName()) {
		return nil, fault.Field("name", "name should be at most 64 letters, digits, ., _ and -, and begin with a letter or digit")
	}
	if err := checkText("description", req.GetDescription(), maxDescription); err != nil {
		return nil, err
	}
	var g group
	err := pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) (err error) {
		if g, err = (store{tx}).insertGroup(ctx, req.GetName(), req.GetDescription()); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "group.create", Resource: "group/" + g.Name, Details: map[string]any{"id": g.ID}})
	})
	if err != nil {
		return nil, err
	}
	return g.toProto(), nil
}

// ListGroups returns a page of groups.
func (s *Service) ListGroups(ctx context.Context, req *identityv1.ListGroupsRequest) (*identityv1.ListGroupsResponse, error) {
	after, err := decodeToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := checkText("query", req.GetQuery(), maxShownName); err != nil {
		return nil, err
	}
	only := ""
	switch err := s.allow(ctx, authz.GroupsManage); {
	case fault.Is(err, fault.Denied):
		if only = authn.FromContext(ctx).UserID; only == "" {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	all, err := store{s.deps.Pool}.groups(ctx, req.GetQuery(), only, after, size+1)
	if err != nil {
		return nil, err
	}
	res := &identityv1.ListGroupsResponse{}
	if len(all) > int(size) {
		all = all[:size]
		res.NextPageToken = encodeToken(all[size-1].Name)
	}
	for _, g := range all {
		res.Groups = append(res.Groups, g.toProto())
	}
	return res, nil
}

// GetGroup returns a group with its members and roles.
func (s *Service) GetGroup(ctx context.Context, req *identityv1.GetGroupRequest) (*identityv1.GetGroupResponse, error) {
	st := store{s.deps.Pool}
	g, err := st.group(ctx, req.GetGroup())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	var members []*identityv1.GroupMember
	mine := false
	if err == nil {
		var merr error
		if members, merr = st.members(ctx, g.ID); merr != nil {
			return nil, merr
		}
		me := authn.FromContext(ctx).UserID
		for _, m := range members {
			mine = mine || (me != "" && m.GetUser().GetId() == me)
		}
	}
	if !mine {
		if denied := s.allow(ctx, authz.GroupsManage); denied != nil {
			return nil, denied // also if there is no such group
		}
	}
	if err != nil {
		return nil, err
	}
	roles, err := st.userBindings(ctx, "group/"+g.ID, "")
	if err != nil {
		return nil, err
	}
	return &identityv1.GetGroupResponse{Group: g.toProto(), Members: members, Roles: roles}, nil
}

// DeleteGroup removes a group with its roles.
func (s *Service) DeleteGroup(ctx context.Context, req *identityv1.DeleteGroupRequest) (*emptypb.Empty, error) {
	seen, err := s.manageable(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	version, err := s.change(ctx, func(tx pgx.Tx, st store) error {
		g, err := st.sameGroup(ctx, seen)
		if err != nil {
			return err
		}
		if err := st.deleteGroup(ctx, g.ID); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "group.delete", Resource: "group/" + g.Name, Details: map[string]any{"id": g.ID}})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return &emptypb.Empty{}, nil
}

// AddGroupMember puts a user into a group.
func (s *Service) AddGroupMember(ctx context.Context, req *identityv1.AddGroupMemberRequest) (*identityv1.GroupMember, error) {
	seen, err := s.manageable(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	var u user
	_, err = s.change(ctx, func(tx pgx.Tx, st store) error {
		g, err := st.sameGroup(ctx, seen)
		if err != nil {
			return err
		}
		if u, err = st.userByName(ctx, req.GetUsername()); err != nil {
			return err
		}
		switch in, err := st.isMember(ctx, g.ID, u.ID, ""); {
		case err != nil:
			return err
		case in:
			return errUnchanged
		}
		if err := st.addMember(ctx, g.ID, u.ID, ""); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "group.member.add", Resource: "group/" + g.Name, Details: map[string]any{"user": u.Username}})
	})
	if err != nil {
		return nil, err
	}
	return &identityv1.GroupMember{User: u.toProto()}, nil
}

// RemoveGroupMember takes out a user whom somebody put in. Whom a provider's claims put in, those take out.
func (s *Service) RemoveGroupMember(ctx context.Context, req *identityv1.RemoveGroupMemberRequest) (*emptypb.Empty, error) {
	seen, err := s.manageable(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	version, err := s.change(ctx, func(tx pgx.Tx, st store) error {
		g, err := st.sameGroup(ctx, seen)
		if err != nil {
			return err
		}
		u, err := st.userByName(ctx, req.GetUsername())
		if err != nil {
			return err
		}
		in, err := st.isMember(ctx, g.ID, u.ID, "")
		if err != nil {
			return err
		}
		if !in {
			return fault.New(fault.NotFound, "nobody put user %s into group %s", u.Username, g.Name).WithReason("NO_SUCH_MEMBER")
		}
		if err := st.removeMember(ctx, g.Name, u.ID, ""); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "group.member.remove", Resource: "group/" + g.Name, Details: map[string]any{"user": u.Username}})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return &emptypb.Empty{}, nil
}

// SetGroupRole gives a group a role on a resource, or takes it away.
func (s *Service) SetGroupRole(ctx context.Context, req *identityv1.SetGroupRoleRequest) (*emptypb.Empty, error) {
	if err := checkRole("role", req.GetRole(), true); err != nil {
		return nil, err
	}
	resource, err := s.mayGrantOn(ctx, req.GetResource())
	if err != nil {
		return nil, err
	}
	seen, err := store{s.deps.Pool}.group(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	version, err := s.change(ctx, func(tx pgx.Tx, st store) error {
		g, err := st.sameGroup(ctx, seen)
		if err != nil {
			return err
		}
		old, err := st.role(ctx, "group/"+g.ID, resource)
		if err != nil {
			return err
		}
		if old == req.GetRole() {
			return errUnchanged
		}
		if err := st.setRole(ctx, "group/"+g.ID, resource, req.GetRole()); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: "group.role", Resource: "group/" + g.Name, Details: map[string]any{"on": resource, "shown": req.GetResource(), "from": old, "to": req.GetRole()},
		})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return &emptypb.Empty{}, nil
}

// mayGrantOn says whether the caller may give roles on a resource that is named as people do, and returns it as bindings
// spell it.
func (s *Service) mayGrantOn(ctx context.Context, shown string) (string, error) {
	kind, rest, _ := strings.Cut(shown, "/")
	name, pkg, _ := strings.Cut(rest, "/")
	var on authz.Resource
	permission := ""
	switch {
	case shown == "server":
		permission = authz.RolesGrant
	case kind == "namespace" && namespacePattern.MatchString(rest):
		permission = authz.NamespacesManage
	case kind == "channel" && name != "" && pkg == "", kind == "package" && name != "" && pkg != "":
		if s.deps.Channels == nil {
			return "", fault.New(fault.Unavailable, "channels cannot be looked up now")
		}
		res, err := s.deps.Channels.Channel(ctx, name)
		if err != nil {
			return "", err
		}
		on, permission = res, authz.ChannelMembersManage
		if pkg != "" {
			on, permission = res.PackageOf(pkg), authz.PackageMembersManage
		}
		caller := authn.FromContext(ctx)
		if err := s.deps.Roles.Allow(ctx, caller, authz.ChannelRead, on); err != nil {
			return "", err
		}
		if err := s.deps.Roles.Allow(ctx, caller, permission, on); err != nil {
			return "", err
		}
		if pkg != "" {
			if err := s.deps.Channels.Package(ctx, res, pkg); err != nil {
				return "", err
			}
		}
		return on.String(), nil
	default:
		return "", fault.Field("resource", "resource should be server, namespace/<name>, channel/<name> or package/<channel>/<name>")
	}
	return shown, s.allow(ctx, permission)
}

// manageable returns a group that the caller may change. The server's maintainers manage groups; but one that has a role
// on the server makes its members as powerful as its owner, who alone may then.
func (s *Service) manageable(ctx context.Context, name string) (group, error) {
	g, err := store{s.deps.Pool}.group(ctx, name)
	if err != nil {
		return group{}, err
	}
	if g.Elevated {
		if err := s.allow(ctx, authz.RolesGrant); err != nil {
			return group{}, err
		}
	}
	return g, nil
}

// sameGroup returns the group once more, under the lock of a change, if what was decided about it still holds.
func (st store) sameGroup(ctx context.Context, seen group) (group, error) {
	g, err := st.group(ctx, seen.Name)
	if err == nil && (g.ID != seen.ID || g.Elevated != seen.Elevated) {
		return group{}, fault.New(fault.LostRace, "group %s was changed meanwhile, try again", seen.Name)
	}
	return g, err
}
