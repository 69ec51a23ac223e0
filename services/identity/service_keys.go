package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/emptypb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// CreateApiKey makes a key for the caller and shows its secret, once.
func (s *Service) CreateApiKey(ctx context.Context, req *identityv1.CreateApiKeyRequest) (*identityv1.CreateApiKeyResponse, error) {
	caller, err := unscoped(ctx)
	if err != nil {
		return nil, err
	}
	var expires *time.Time
	if req.GetExpireTime() != nil {
		// It may lie in the past, as it may in Quetz: such a key opens nothing.
		t := req.GetExpireTime().AsTime().Truncate(time.Microsecond) // as the database keeps it
		expires = &t
	}
	roles := make([]keyRole, 0, len(req.GetRoles()))
	for i, g := range req.GetRoles() {
		r, err := s.keyRole(ctx, caller, fmt.Sprintf("roles[%d]", i), g)
		if err != nil {
			return nil, err
		}
		roles = append(roles, r)
	}
	full, key, err := s.newKey(caller.UserID, req.GetDescription())
	if err != nil {
		return nil, err
	}
	key.Username, key.Scoped, key.ExpireTime = caller.Name, len(roles) > 0, expires
	_, err = s.change(ctx, func(tx pgx.Tx, st store) (err error) {
		if key.CreateTime, err = st.insertKey(ctx, key, roles); err != nil {
			return err
		}
		shown := make([]string, 0, len(roles))
		for _, r := range roles {
			shown = append(shown, r.Role+" of "+r.Shown)
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: "api_key.create", Resource: "api-key/" + key.ID, Details: map[string]any{"description": key.Description, "roles": shown},
		})
	})
	if err != nil {
		return nil, err
	}
	return &identityv1.CreateApiKeyResponse{ApiKey: key.toProto(roles), Secret: full}, nil
}

func (s *Service) newKey(userID, description string) (full string, key apiKey, err error) {
	full, id, hash, err := authn.NewAPIKey(s.random)
	return full, apiKey{ID: id, UserID: userID, Hash: hash[:], Description: description}, err
}

// keyRole checks one role that a key shall be narrowed to: the thing must exist, and the caller must be able to give
// such a role. What the key may do later is bounded by its user anyway; this keeps surprises out of the list.
func (s *Service) keyRole(ctx context.Context, caller authn.Caller, field string, g *identityv1.RoleGrant) (keyRole, error) {
	out := keyRole{Role: g.GetRole(), Shown: g.GetResource(), Resource: g.GetResource()}
	kind, rest, _ := strings.Cut(g.GetResource(), "/")
	channel, pkg, _ := strings.Cut(rest, "/")
	var (
		on         authz.Resource
		permission string
	)
	switch {
	case g.GetResource() == "server":
		permission = map[string]string{authz.Owner: authz.RolesGrant, authz.Maintainer: authz.RolesGrantMember, authz.Member: authz.ChannelsCreate}[out.Role]
		if out.Role == authz.Member {
			on = authz.NamespaceOf(authz.DefaultNamespace)
		}
		return out, s.deps.Roles.Allow(ctx, caller, permission, on)
	case kind == "channel" && channel != "" && pkg == "", kind == "package" && channel != "" && pkg != "":
		if s.deps.Channels == nil {
			return out, fault.New(fault.Unavailable, "channels cannot be looked up now")
		}
		res, err := s.deps.Channels.Channel(ctx, channel)
		if err != nil {
			return out, err
		}
		on = res
		if pkg != "" {
			if err := s.deps.Channels.Package(ctx, res, pkg); err != nil {
				return out, err
			}
			on = res.PackageOf(pkg)
		}
	default:
		return out, fault.Field(field+".resource", "resource should be server, channel/<name> or package/<channel>/<name>")
	}
	out.Resource = on.String()
	// To give owner one must be owner there; for the others maintainer is enough. Overwriting and uploading are what
	// only they may do.
	permission = authz.ChannelUpload
	if out.Role == authz.Owner {
		permission = authz.ChannelOverwrite
	}
	return out, s.deps.Roles.Allow(ctx, caller, permission, on)
}

// ListApiKeys returns the caller's keys, also those that have expired.
func (s *Service) ListApiKeys(ctx context.Context, _ *identityv1.ListApiKeysRequest) (*identityv1.ListApiKeysResponse, error) {
	caller := authn.FromContext(ctx)
	if caller.UserID == "" {
		return nil, fault.New(fault.Unauthenticated, "Not logged in")
	}
	st := store{s.deps.Pool}
	keys, err := st.keysOf(ctx, caller.UserID)
	if err != nil {
		return nil, err
	}
	if caller.Scoped {
		// A key that is narrowed to one channel must not tell which others its user has keys for.
		keys = slices.DeleteFunc(keys, func(k apiKey) bool { return k.ID != caller.KeyID })
	}
	ids := make([]string, 0, len(keys))
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	roles, err := st.keyRoles(ctx, ids...)
	if err != nil {
		return nil, err
	}
	res := &identityv1.ListApiKeysResponse{}
	for _, k := range keys {
		res.ApiKeys = append(res.ApiKeys, k.toProto(roles[k.ID]))
	}
	return res, nil
}

// RevokeApiKey ends a key: one's own, or any with users.manage. A scoped key may end itself only.
func (s *Service) RevokeApiKey(ctx context.Context, req *identityv1.RevokeApiKeyRequest) (*emptypb.Empty, error) {
	caller := authn.FromContext(ctx)
	id, ok := authn.ParseKeyID(req.GetId())
	if !ok {
		return nil, fault.New(fault.NotFound, "key does not exist") // whatever it is, it may be a secret: not repeated
	}
	key, err := store{s.deps.Pool}.key(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil, keyNotFound(id)
	}
	if err != nil {
		return nil, err
	}
	if own := key.UserID == caller.UserID && (!caller.Scoped || caller.KeyID == id); !own {
		if err := s.allow(ctx, authz.UsersManage); err != nil {
			return nil, err
		}
	}
	version, err := s.change(ctx, func(tx pgx.Tx, st store) error {
		if err := st.deleteKey(ctx, id); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Action: "api_key.revoke", Resource: "api-key/" + id, Details: map[string]any{"user": key.Username}})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return &emptypb.Empty{}, nil
}
