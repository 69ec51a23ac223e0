package channels_test

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
)

// fakeIdentity keeps roles where rpctest's identity has them.
type fakeIdentity struct {
	identityv1.IdentityServiceClient // what is not needed panics
	id                               *rpctest.Identity

	mu      sync.Mutex
	users   map[string]*identityv1.User
	fail    error
	audited []string // what the audit log is to say of changes of roles, that have names
}

func (f *fakeIdentity) byID(id string) *identityv1.User {
	for _, u := range f.users {
		if u.Id == id {
			return u
		}
	}
	return nil
}

func (f *fakeIdentity) ChangeBinding(_ context.Context, req *identityv1.ChangeBindingRequest, _ ...grpc.CallOption) (*identityv1.ChangeBindingResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	var u *identityv1.User
	if req.Username != "" {
		u = f.users[req.Username]
	} else {
		u = f.byID(req.Binding.Subject[len("user/"):])
	}
	if u == nil {
		return nil, fault.New(fault.NotFound, "user %s not found", req.Username)
	}
	owners, isOwner, has := 0, false, false
	for _, b := range f.id.Bindings(req.Binding.Resource) {
		has = has || b.Subject == "user/"+u.Id
		if b.Role == authz.Owner {
			owners++
			isOwner = isOwner || b.Subject == "user/"+u.Id
		}
	}
	if req.Revoke && !has {
		return nil, fault.New(fault.NotFound, "User %s has no such role", u.Username).WithReason("NO_SUCH_ROLE")
	}
	if req.KeepOwner && isOwner && owners == 1 && (req.Revoke || req.Binding.Role != authz.Owner) {
		return nil, fault.New(fault.Conflict, "the last owner stays").WithReason("LAST_OWNER")
	}
	c := authn.Caller{UserID: u.Id}
	if req.AuditAction != "" {
		f.audited = append(f.audited, req.AuditAction+" "+req.AuditResource+" "+u.Username)
	}
	f.id.Revoke(c, req.Binding.Resource)
	if !req.Revoke {
		f.id.Grant(c, authz.Binding{Role: req.Binding.Role, Resource: req.Binding.Resource})
	}
	return &identityv1.ChangeBindingResponse{User: u}, nil
}

func (f *fakeIdentity) ListBindings(_ context.Context, req *identityv1.ListBindingsRequest, _ ...grpc.CallOption) (*identityv1.ListBindingsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := new(identityv1.ListBindingsResponse)
	for _, b := range f.id.Bindings(req.Resource) {
		out.Bindings = append(out.Bindings, &identityv1.UserBinding{User: f.byID(b.Subject[len("user/"):]), Role: b.Role})
	}
	return out, nil
}

func (f *fakeIdentity) CountBindings(_ context.Context, req *identityv1.CountBindingsRequest, _ ...grpc.CallOption) (*identityv1.CountBindingsResponse, error) {
	out := &identityv1.CountBindingsResponse{Counts: map[string]int64{}}
	for _, r := range req.Resources {
		if n := len(f.id.Bindings(r)); n > 0 {
			out.Counts[r] = int64(n)
		}
	}
	return out, nil
}

func (f *fakeIdentity) DeleteResourceBindings(_ context.Context, req *identityv1.DeleteResourceBindingsRequest, _ ...grpc.CallOption) (*emptypb.Empty, error) {
	for _, b := range f.id.Bindings(req.Resource) {
		f.id.Revoke(authn.Caller{UserID: b.Subject[len("user/"):]}, req.Resource)
	}
	return &emptypb.Empty{}, nil
}

func (f *fakeIdentity) ListNamespaces(context.Context, *identityv1.ListNamespacesRequest, ...grpc.CallOption) (*identityv1.ListNamespacesResponse, error) {
	return &identityv1.ListNamespacesResponse{Namespaces: []*identityv1.Namespace{{Name: "default"}, {Name: "team"}}}, nil
}
