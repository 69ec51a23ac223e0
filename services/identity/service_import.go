package identity

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// ImportApiKey takes over a key that another server gave out. Its hash is all there is to know of it here as well, so the
// key itself never comes by. It is for the server's owners: whoever chose a key for somebody else could act as them.
func (s *Service) ImportApiKey(ctx context.Context, req *identityv1.ImportApiKeyRequest) (*identityv1.ApiKey, error) {
	caller, err := unscoped(ctx)
	if err != nil {
		return nil, err
	}
	id, ok := authn.ParseKeyID(req.GetId())
	if !ok || len(req.GetId()) != authn.KeyIDLength {
		return nil, fault.Field("id", "id should be the first %d characters of the key, letters and digits", authn.KeyIDLength)
	}
	hash, err := hex.DecodeString(req.GetSha256())
	if err != nil || len(hash) != len(authn.KeyHash{}) {
		return nil, fault.Field("sha256", "sha256 should be the SHA-256 of the key in hex")
	}
	var expires *time.Time
	if t := req.GetExpireTime(); t != nil {
		at := t.AsTime().Truncate(time.Microsecond)
		if t.CheckValid() != nil || !at.After(s.now()) {
			return nil, fault.Field("expire_time", "expire_time should lie ahead")
		}
		expires = &at
	}
	roles := make([]keyRole, 0, len(req.GetRoles()))
	for i, g := range req.GetRoles() {
		r, err := s.keyRole(ctx, caller, fmt.Sprintf("roles[%d]", i), g)
		if err != nil {
			return nil, err
		}
		roles = append(roles, r)
	}
	user, err := store{s.deps.Pool}.userByName(ctx, req.GetUsername())
	if err != nil {
		return nil, err
	}
	switch old, err := (store{s.deps.Pool}).key(ctx, id); {
	case err == nil && old.UserID == user.ID && authn.KeyHash(hash).Equal(old.Hash):
		had, err := store{s.deps.Pool}.keyRoles(ctx, id)
		return old.toProto(had[id]), err
	case err == nil:
		return nil, fault.New(fault.Conflict, "there is another key with this id").WithReason("KEY_EXISTS")
	case !fault.Is(err, fault.NotFound):
		return nil, err
	}
	key := apiKey{ID: id, UserID: user.ID, Username: user.Username, Hash: hash, Description: req.GetDescription(), Scoped: len(roles) > 0, ExpireTime: expires}
	version, err := s.change(ctx, func(tx pgx.Tx, st store) (err error) {
		if key.CreateTime, err = st.insertKey(ctx, key, roles); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{
			Action: "api_key.import", Resource: "api-key/" + id, Details: map[string]any{"user": user.Username, "description": key.Description, "roles": len(roles)},
		})
	})
	if err != nil {
		return nil, err
	}
	s.settle(ctx, version)
	return key.toProto(roles), nil
}
