package identity

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// ChangeBinding grants or takes away a role; the service that owns the resource has authorised it. A user has one role
// on a resource: a grant replaces the one before. Server roles go through SetUserRole, which knows their rules.
func (s *Service) ChangeBinding(ctx context.Context, req *identityv1.ChangeBindingRequest) (*identityv1.ChangeBindingResponse, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	b := req.GetBinding()
	var u user
	taken := false
	version, err := s.change(ctx, func(tx pgx.Tx, st store) (err error) {
		if name := req.GetUsername(); name != "" {
			u, err = st.userByName(ctx, name)
		} else {
			u, err = st.userByID(ctx, strings.TrimPrefix(b.GetSubject(), "user/"))
		}
		if err != nil {
			return err
		}
		subject := "user/" + u.ID
		old, err := st.role(ctx, subject, b.GetResource())
		if err != nil {
			return err
		}
		role := b.GetRole()
		if req.GetRevoke() {
			if old == "" || (role != "" && role != old) {
				return fault.New(fault.NotFound, "User %s has no such role", u.Username).WithReason("NO_SUCH_ROLE")
			}
			role = ""
		}
		if req.GetOnlyNew() && old != "" {
			return fault.New(fault.Conflict, "User %s has a role already", u.Username).WithReason("HAS_ROLE")
		}
		if role == old {
			return errUnchanged
		}
		if req.GetKeepOwner() && old == authz.Owner {
			switch found, err := st.otherOwner(ctx, b.GetResource(), subject); {
			case err != nil:
				return err
			case !found:
				return fault.New(fault.Conflict, "the last owner stays").WithReason("LAST_OWNER")
			}
		}
		taken = old != ""
		if err := st.setRole(ctx, subject, b.GetResource(), role); err != nil {
			return err
		}
		return audit.Record(ctx, tx, bindingEvent(req, u.Username, old, role))
	})
	if err != nil {
		return nil, err
	}
	if taken {
		s.settle(ctx, version)
	}
	return &identityv1.ChangeBindingResponse{Version: version, User: u.toProto()}, nil
}

// bindingEvent is what the audit log says of a change of roles, by the names that the caller gives.
func bindingEvent(req *identityv1.ChangeBindingRequest, username, old, role string) audit.Event {
	e := audit.Event{Action: "role.grant", Resource: req.GetBinding().GetResource(), Details: map[string]any{"user": username, "from": old, "to": role}}
	if req.GetRevoke() {
		e.Action = "role.revoke"
	}
	if req.GetAuditAction() != "" {
		e.Action = req.GetAuditAction()
	}
	if req.GetAuditResource() != "" {
		e.Details["on"] = e.Resource
		e.Resource = req.GetAuditResource()
	}
	return e
}

// ListBindings returns the roles on a resource.
func (s *Service) ListBindings(ctx context.Context, req *identityv1.ListBindingsRequest) (*identityv1.ListBindingsResponse, error) {
	us, roles, err := store{s.deps.Pool}.resourceUsers(ctx, req.GetResource())
	if err != nil {
		return nil, err
	}
	res := &identityv1.ListBindingsResponse{}
	for i, u := range us {
		res.Bindings = append(res.Bindings, &identityv1.UserBinding{User: u.toProto(), Role: roles[i]})
	}
	return res, nil
}

// maxCounted bounds one CountBindings: pages are smaller.
const maxCounted = 1000

// CountBindings returns how many users have a role on each of some resources.
func (s *Service) CountBindings(ctx context.Context, req *identityv1.CountBindingsRequest) (*identityv1.CountBindingsResponse, error) {
	if n := len(req.GetResources()); n > maxCounted {
		return nil, fault.Field("resources", "%d resources are more than %d", n, maxCounted)
	}
	counts, err := store{s.deps.Pool}.countOn(ctx, req.GetResources())
	if err != nil {
		return nil, err
	}
	return &identityv1.CountBindingsResponse{Counts: counts}, nil
}

// ListUserBindings returns a user's roles on the resources that begin with a prefix.
func (s *Service) ListUserBindings(ctx context.Context, req *identityv1.ListUserBindingsRequest) (*identityv1.ListUserBindingsResponse, error) {
	st := store{s.deps.Pool}
	u, err := st.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	roles, err := st.userBindings(ctx, "user/"+u.ID, req.GetPrefix())
	if err != nil {
		return nil, err
	}
	return &identityv1.ListUserBindingsResponse{User: u.toProto(), Roles: roles}, nil
}

// DeleteResourceBindings takes all roles on a resource that is gone, and on the packages below it.
func (s *Service) DeleteResourceBindings(ctx context.Context, req *identityv1.DeleteResourceBindingsRequest) (*emptypb.Empty, error) {
	if err := s.forUsers(ctx); err != nil {
		return nil, err
	}
	r, ok := authz.ParseResource(req.GetResource())
	if !ok || r.Kind == authz.Server {
		return nil, fault.Field("resource", "resource should be a namespace, a channel or a package")
	}
	_, err := s.change(ctx, func(tx pgx.Tx, st store) error {
		n, err := st.deleteBindings(ctx, r)
		if err != nil {
			return err
		}
		if n == 0 {
			return errUnchanged // a repeat
		}
		return audit.Record(ctx, tx, audit.Event{Action: "role.clear", Resource: r.String(), Details: map[string]any{"count": n}})
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
