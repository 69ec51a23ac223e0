package authn

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// RemoteMinter mints through identity. Its client must present the process's target credential.
func RemoteMinter(client identityv1.IdentityServiceClient) Minter {
	return func(ctx context.Context, caller Caller, audience string) (string, time.Time, error) {
		res, err := client.MintToken(ctx, &identityv1.MintTokenRequest{
			Principal: caller.ToProto(), Audience: audience, JobId: caller.JobID, Claim: caller.Claim,
		})
		if err != nil {
			return "", time.Time{}, err
		}
		return res.GetToken(), res.GetExpireTime().AsTime(), nil
	}
}

// RemoteKeys fetches the verification keys from identity.
func RemoteKeys(client identityv1.IdentityServiceClient) KeySource {
	return func(ctx context.Context) ([]PublicKey, error) {
		res, err := client.GetVerificationKeys(ctx, &identityv1.GetVerificationKeysRequest{})
		if err != nil {
			return nil, err
		}
		keys := make([]PublicKey, 0, len(res.GetKeys()))
		for _, k := range res.GetKeys() {
			keys = append(keys, PublicKey{ID: k.GetId(), Key: k.GetPublicKey()})
		}
		return keys, nil
	}
}

// ToProto returns the caller's principal: all but the job. A caller that is nothing but its job has none.
func (c Caller) ToProto() *identityv1.Principal {
	if c.Anonymous() && c.JobID != "" {
		return nil
	}
	p := &identityv1.Principal{UserId: c.UserID, Name: c.Name, KeyId: c.KeyID, Scoped: c.Scoped, Target: c.Target}
	for _, g := range c.Scope {
		p.Scope = append(p.Scope, &identityv1.RoleGrant{Role: g.Role, Resource: g.Resource})
	}
	return p
}

// FromProto is the reverse of ToProto.
func FromProto(p *identityv1.Principal) Caller {
	c := Caller{UserID: p.GetUserId(), Name: p.GetName(), KeyID: p.GetKeyId(), Scoped: p.GetScoped(), Target: p.GetTarget()}
	for _, g := range p.GetScope() {
		c.Scope = append(c.Scope, Grant{Role: g.GetRole(), Resource: g.GetResource()})
	}
	return c
}

// Marshal spells the caller without its job, for a row that outlives the call, such as a job's principal.
func (c Caller) Marshal() ([]byte, error) {
	c.JobID, c.Claim = "", 0
	return proto.MarshalOptions{Deterministic: true}.Marshal(c.ToProto())
}

// Unmarshal reads what Marshal wrote.
func Unmarshal(data []byte) (Caller, error) {
	var p identityv1.Principal
	if err := proto.Unmarshal(data, &p); err != nil {
		return Caller{}, fmt.Errorf("read a principal: %w", err)
	}
	return FromProto(&p), nil
}
