package identity

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// GetMe says who the caller is.
func (s *Service) GetMe(ctx context.Context, _ *identityv1.GetMeRequest) (*identityv1.GetMeResponse, error) {
	c := authn.FromContext(ctx)
	if c.UserID == "" {
		return nil, fault.New(fault.Unauthenticated, "Not logged in")
	}
	u, err := store{s.deps.Pool}.userByID(ctx, c.UserID)
	if err != nil {
		return nil, err
	}
	return &identityv1.GetMeResponse{User: u.toProto(), KeyId: c.KeyID, Scoped: c.Scoped}, nil
}

// CreateUser makes a user.
func (s *Service) CreateUser(ctx context.Context, req *identityv1.CreateUserRequest) (*identityv1.User, error) {
	if err := s.mayGrant(ctx, "", req.GetRole()); err != nil {
		return nil, err
	}
	name := req.GetName()
	if name == "" {
		name = req.GetUsername()
	}
	var u user
	_, err := s.change(ctx, func(tx pgx.Tx, st store) (err error) {
		if u, err = st.insertUser(ctx, req.GetUsername(), name, req.GetAvatarUrl()); err != nil {
			return err
		}
		u.Role = req.GetRole()
		if err := st.setRole(ctx, "user/"+u.ID, "server", u.Role); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: "user.create", Resource: "user/" + u.Username, Details: map[string]any{"id": u.ID, "role": u.Role},
		})
	})
	if err != nil {
		return nil, err
	}
	return u.toProto(), nil
}

// GetUser returns a user: oneself, or any with users.read. Who may not ask learns nothing about who exists.
func (s *Service) GetUser(ctx context.Context, req *identityv1.GetUserRequest) (*identityv1.User, error) {
	u, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if err == nil && u.ID == authn.FromContext(ctx).UserID {
		return u.toProto(), nil
	}
	if err := s.allow(ctx, authz.UsersRead); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	return u.toProto(), nil
}

// ListUsers returns a page of users; without users.read oneself only.
func (s *Service) ListUsers(ctx context.Context, req *identityv1.ListUsersRequest) (*identityv1.ListUsersResponse, error) {
	page := userPage{query: req.GetQuery(), skip: max(req.GetSkip(), 0)}
	var err error
	if page.after, err = decodeToken(req.GetPageToken()); err != nil {
		return nil, err
	}
	switch err := s.allow(ctx, authz.UsersRead); {
	case fault.Is(err, fault.Denied):
		if page.only = authn.FromContext(ctx).UserID; page.only == "" {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	size := pageSize(req.GetPageSize())
	page.limit = size + 1 // one more tells whether there is a next page
	st := store{s.deps.Pool}
	us, err := st.listUsers(ctx, page)
	if err != nil {
		return nil, err
	}
	total, err := st.countUsers(ctx, page.query, page.only)
	if err != nil {
		return nil, err
	}
	res := &identityv1.ListUsersResponse{TotalSize: total}
	if len(us) > int(size) {
		us = us[:size]
		res.NextPageToken = encodeToken(us[size-1].Username)
	}
	for _, u := range us {
		res.Users = append(res.Users, u.toProto())
	}
	return res, nil
}

// DeleteUser removes a user: oneself, or any with users.manage; owners and maintainers of the server only by an owner.
func (s *Service) DeleteUser(ctx context.Context, req *identityv1.DeleteUserRequest) (*emptypb.Empty, error) {
	caller, err := unscoped(ctx)
	if err != nil {
		return nil, err
	}
	self := strings.EqualFold(caller.Name, req.GetUsername())
	if !self {
		if err := s.allow(ctx, authz.UsersManage); err != nil {
			return nil, err
		}
	}
	seen, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	switch {
	case self && seen.ID != caller.UserID: // the name has passed on to somebody else
		return nil, fault.New(fault.Denied, "No permission")
	case !self:
		if err := s.mayShutOut(ctx, seen); err != nil {
			return nil, err
		}
	}
	version, err := s.change(ctx, func(tx pgx.Tx, st store) error {
		u, err := st.sameUser(ctx, seen)
		if err != nil {
			return err
		}
		if err := st.keepServerOwner(ctx, u, ""); err != nil {
			return err
		}
		if err := st.deleteUser(ctx, u.ID); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "user.delete", Resource: "user/" + u.Username, Details: map[string]any{"id": u.ID}})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return &emptypb.Empty{}, nil
}

// SetUserRole changes a user's server role.
func (s *Service) SetUserRole(ctx context.Context, req *identityv1.SetUserRoleRequest) (*identityv1.User, error) {
	seen, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	if req.GetRole() == "" { // also where there is none: who may not clear a role learns nothing
		err = s.allow(ctx, authz.RolesGrant)
	} else {
		err = s.mayGrant(ctx, seen.Role, req.GetRole())
	}
	if err != nil {
		return nil, err
	}
	var u user
	version, err := s.change(ctx, func(tx pgx.Tx, st store) (err error) {
		if u, err = st.sameUser(ctx, seen); err != nil {
			return err
		}
		old := u.Role
		if u.Role = req.GetRole(); u.Role == old {
			return errUnchanged
		}
		if err := st.keepServerOwner(ctx, user{ID: u.ID, Role: old}, u.Role); err != nil {
			return err
		}
		if err := st.setRole(ctx, "user/"+u.ID, "server", u.Role); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: "user.role", Resource: "user/" + u.Username, Details: map[string]any{"from": old, "to": u.Role},
		})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return u.toProto(), nil
}

// sameUser returns the user once more, under the lock of a change, if what was decided about them still holds. Deciding
// itself stays outside: it may have to wait for a snapshot, and that needs the database too.
func (st store) sameUser(ctx context.Context, seen user) (user, error) {
	u, err := st.userByID(ctx, seen.ID)
	if fault.Is(err, fault.NotFound) {
		return user{}, userNotFound(seen.Username)
	}
	if err == nil && u.Role != seen.Role {
		return user{}, fault.New(fault.LostRace, "the role of %s was changed meanwhile, try again", seen.Username)
	}
	return u, err
}

// mayGrant says whether the caller may change a server role: an owner any, a maintainer nothing to member.
func (s *Service) mayGrant(ctx context.Context, from, to string) error {
	if from == to && to == "" {
		return nil
	}
	if to == authz.Member && (from == "" || from == authz.Member) {
		return s.allow(ctx, authz.RolesGrantMember)
	}
	return s.allow(ctx, authz.RolesGrant)
}

// keepServerOwner refuses to let the last owner of the server go. The lock of the change keeps two from going at once.
func (st store) keepServerOwner(ctx context.Context, u user, to string) error {
	if u.Role != authz.Owner || to == authz.Owner {
		return nil
	}
	switch found, err := st.otherOwner(ctx, "server", "user/"+u.ID); {
	case err != nil:
		return err
	case !found:
		return fault.New(fault.Conflict, "the last owner of the server stays").WithReason("LAST_OWNER")
	}
	return nil
}

// GetUsers returns users by id, deleted ones too.
func (s *Service) GetUsers(ctx context.Context, req *identityv1.GetUsersRequest) (*identityv1.GetUsersResponse, error) {
	us, err := store{s.deps.Pool}.usersByID(ctx, req.GetIds())
	if err != nil {
		return nil, err
	}
	if len(req.GetUsernames()) > 0 {
		named, err := store{s.deps.Pool}.usersByName(ctx, req.GetUsernames())
		if err != nil {
			return nil, err
		}
		us = append(us, named...)
	}
	res := &identityv1.GetUsersResponse{}
	for _, u := range us {
		res.Users = append(res.Users, u.toProto())
	}
	return res, nil
}

// CreateNamespace makes a tenant.
func (s *Service) CreateNamespace(ctx context.Context, req *identityv1.CreateNamespaceRequest) (*identityv1.Namespace, error) {
	out := &identityv1.Namespace{Name: req.GetName()}
	err := pgx.BeginFunc(ctx, s.deps.Pool, func(tx pgx.Tx) error {
		created, err := store{tx}.insertNamespace(ctx, req.GetName())
		if err != nil {
			return err
		}
		out.CreateTime = timestamppb.New(created)
		return audit.Record(ctx, tx, audit.Event{Action: "namespace.create", Resource: "namespace/" + req.GetName()})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// ListNamespaces returns all tenants.
func (s *Service) ListNamespaces(ctx context.Context, _ *identityv1.ListNamespacesRequest) (*identityv1.ListNamespacesResponse, error) {
	all, err := store{s.deps.Pool}.namespaces(ctx)
	if err != nil {
		return nil, err
	}
	res := &identityv1.ListNamespacesResponse{}
	for _, n := range all {
		res.Namespaces = append(res.Namespaces, &identityv1.Namespace{Name: n.Name, CreateTime: timestamppb.New(n.CreateTime)})
	}
	return res, nil
}
