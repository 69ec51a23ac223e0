package identity_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func grants(pairs ...string) (out []*identityv1.RoleGrant) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, &identityv1.RoleGrant{Role: pairs[i], Resource: pairs[i+1]})
	}
	return out
}

func TestAPIKeys(t *testing.T) {
	t.Run("the secret is shown once and stored nowhere", func(t *testing.T) {
		b := setup(t)
		bob, who := b.user(t, "bob")
		res := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{Description: "ci"})
		if len(res.GetSecret()) != authn.KeyLength || !strings.HasPrefix(res.GetSecret(), res.GetApiKey().GetId()) {
			t.Errorf("got %q for %q", res.GetSecret(), res.GetApiKey().GetId())
		}
		list, err := b.client.ListApiKeys(bob, &identityv1.ListApiKeysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]*identityv1.ApiKey{res.GetApiKey()}, list.GetApiKeys(), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		rest := res.GetSecret()[authn.KeyIDLength:]
		var dump string
		err = b.pool.QueryRow(t.Context(), `SELECT (SELECT string_agg(k::text, '') FROM identity.api_keys k) || (SELECT string_agg(a::text, '') FROM outbox.audit a)`).Scan(&dump)
		if err != nil || strings.Contains(dump, rest) || !strings.Contains(dump, res.GetApiKey().GetId()) {
			t.Errorf("the database holds the secret, or nothing: %v", err)
		}
		_, c := b.login(t, res.GetSecret())
		if diff := cmp.Diff(authn.Caller{UserID: who.UserID, Name: "bob", KeyID: res.GetApiKey().GetId()}, c); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("what is no valid key is no login", func(t *testing.T) {
		b := setup(t)
		bob, _ := b.user(t, "bob")
		k := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{ExpireTime: timestamppb.New(b.clock.now().Add(time.Hour))})
		other := strings.Repeat("a", authn.KeyLength)
		for name, key := range map[string]string{
			"its id": k.GetApiKey().GetId(), "another secret": k.GetApiKey().GetId() + other[authn.KeyIDLength:], "unknown": other,
			"too long": k.GetSecret() + "x", "odd": "'; DROP TABLE", "NUL": "\x00", "cut": k.GetSecret()[:authn.KeyLength-1],
		} {
			_, err := b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: key})
			if !fault.Is(err, fault.Unauthenticated) {
				t.Errorf("%s: got %v", name, err)
			}
		}
		res, err := b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: k.GetSecret()})
		if err != nil || !res.GetExpireTime().AsTime().Equal(k.GetApiKey().GetExpireTime().AsTime()) {
			t.Errorf("got %v, %v", res, err)
		}
		b.clock.advance(time.Hour)
		_, err = b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: k.GetSecret()})
		wantKind(t, err, fault.Unauthenticated, "Not logged in")
		for _, req := range []*identityv1.AuthenticateRequest{{}, {ApiKey: "a", Session: "b"}} {
			_, err := b.client.Authenticate(t.Context(), req)
			wantKind(t, err, fault.Invalid, "")
		}
		// A key may have ended before it is made, as with Quetz: it opens nothing.
		ended := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{ExpireTime: timestamppb.New(b.clock.now().Add(-time.Second))})
		_, err = b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: ended.GetSecret()})
		wantKind(t, err, fault.Unauthenticated, "Not logged in")
	})
	t.Run("a narrowed key has only its roles, by the channel's id", func(t *testing.T) {
		b := setup(t)
		bob, who := b.user(t, "bob")
		b.grant(t, "bob", "owner", mainChannel.String())
		res := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{Roles: grants("member", "channel/main", "owner", "package/MAIN/numpy")})
		if diff := cmp.Diff(grants("member", "channel/main", "owner", "package/MAIN/numpy"), res.GetApiKey().GetRoles(), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		ctx, c := b.login(t, res.GetSecret())
		want := authn.Caller{UserID: who.UserID, Name: "bob", KeyID: res.GetApiKey().GetId(), Scoped: true, Scope: []authn.Grant{
			{Role: "member", Resource: mainChannel.String()}, {Role: "owner", Resource: mainChannel.PackageOf("numpy").String()},
		}}
		if diff := cmp.Diff(want, c); diff != "" {
			t.Error(diff)
		}
		for permission, ok := range map[string]bool{authz.ChannelRead: true, authz.ChannelUpload: false} {
			if err := b.roles.Allow(ctx, c, permission, mainChannel); (err == nil) != ok {
				t.Errorf("%s: %v", permission, err)
			}
		}
		if err := b.roles.Allow(ctx, c, authz.ChannelOverwrite, mainChannel.PackageOf("numpy")); err != nil {
			t.Error(err)
		}
		me, err := b.client.GetMe(ctx, &identityv1.GetMeRequest{})
		if err != nil || !me.GetScoped() || me.GetKeyId() != c.KeyID {
			t.Errorf("got %v, %v", me, err)
		}
		// It makes no key that would be wider, and ends neither its user nor other keys.
		_, err = b.client.CreateApiKey(ctx, &identityv1.CreateApiKeyRequest{})
		wantKind(t, err, fault.Denied, "No permission")
		_, err = b.client.DeleteUser(ctx, &identityv1.DeleteUserRequest{Username: "bob"})
		wantKind(t, err, fault.Denied, "No permission")
		other := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{})
		_, err = b.client.RevokeApiKey(ctx, &identityv1.RevokeApiKeyRequest{Id: other.GetApiKey().GetId()})
		wantKind(t, err, fault.Denied, "No permission")
		if _, err := b.client.RevokeApiKey(ctx, &identityv1.RevokeApiKeyRequest{Id: c.KeyID}); err != nil {
			t.Errorf("its own end: %v", err)
		}
	})
	t.Run("to give owner one must be owner there, for the others maintainer", func(t *testing.T) {
		b := setup(t)
		b.grant(t, "bob", "maintainer", mainChannel.String())
		b.grant(t, "carol", "maintainer", mainChannel.PackageOf("numpy").String())
		b.grant(t, "dave", "member", mainChannel.String())
		for _, row := range []struct {
			user, role, resource string
			want                 fault.Kind // Internal: none
		}{
			{"bob", "maintainer", "channel/main", fault.Internal},
			{"bob", "owner", "channel/main", fault.Denied},
			{"bob", "maintainer", "package/main/numpy", fault.Internal},
			{"bob", "owner", "package/main/numpy", fault.Denied},
			{"carol", "member", "package/main/numpy", fault.Internal},
			{"carol", "owner", "package/main/numpy", fault.Denied},
			{"carol", "member", "channel/main", fault.Denied},
			{"dave", "member", "channel/main", fault.Denied},
			{"alice", "owner", "channel/main", fault.Internal},
			{"alice", "owner", "server", fault.Internal},
			{"bob", "maintainer", "server", fault.Denied},
			{"bob", "member", "server", fault.Internal},
			{"bob", "member", "channel/none", fault.NotFound},
			{"bob", "member", "package/main/none", fault.NotFound},
			{"bob", "member", "channel/", fault.Invalid},
			{"bob", "member", "user/x", fault.Invalid},
			{"bob", "member", "package/main", fault.Invalid},
			{"bob", "king", "channel/main", fault.Invalid},
			{"bob", "", "channel/main", fault.Invalid},
		} {
			ctx, _ := b.user(t, row.user)
			_, err := b.client.CreateApiKey(ctx, &identityv1.CreateApiKeyRequest{Roles: grants(row.role, row.resource)})
			if (err == nil) != (row.want == fault.Internal) || (err != nil && !fault.Is(err, row.want)) {
				t.Errorf("%s wants %s of %s: got %v", row.user, row.role, row.resource, err)
			}
		}
	})
	t.Run("a revoked key stops at once, by its id or as a whole, for its user or a maintainer", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		bob, _ := b.user(t, "bob")
		carol, _ := b.user(t, "carol")
		for i, by := range []context.Context{bob, alice, bob} {
			k := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{})
			id := k.GetApiKey().GetId()
			if i == 2 {
				id = k.GetSecret()
			}
			ctx, _ := b.login(t, k.GetSecret())
			if _, err := b.client.GetMe(ctx, &identityv1.GetMeRequest{}); err != nil {
				t.Fatal(err)
			}
			_, err := b.client.RevokeApiKey(carol, &identityv1.RevokeApiKeyRequest{Id: id})
			wantKind(t, err, fault.Denied, "No permission")
			if _, err := b.client.RevokeApiKey(by, &identityv1.RevokeApiKeyRequest{Id: id}); err != nil {
				t.Fatal(err)
			}
			_, err = b.client.GetMe(ctx, &identityv1.GetMeRequest{}) // the token would be good for a minute
			wantKind(t, err, fault.Unauthenticated, "Not logged in")
			_, err = b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: k.GetSecret()})
			wantKind(t, err, fault.Unauthenticated, "")
			_, err = b.client.RevokeApiKey(by, &identityv1.RevokeApiKeyRequest{Id: id})
			wantKind(t, err, fault.NotFound, fmt.Sprintf("key '%s' does not exist", k.GetApiKey().GetId()))
		}
		secret := strings.Repeat("s", 30)
		_, err := b.client.RevokeApiKey(bob, &identityv1.RevokeApiKeyRequest{Id: secret})
		wantKind(t, err, fault.NotFound, "key does not exist")
	})
	t.Run("the last use is noted to the minute, and not on the way", func(t *testing.T) {
		b := setup(t)
		bob, _ := b.user(t, "bob")
		k := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{})
		b.login(t, k.GetSecret())
		last := func() *timestamppb.Timestamp {
			t.Helper()
			res, err := b.client.ListApiKeys(bob, &identityv1.ListApiKeysRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return res.GetApiKeys()[0].GetLastUsedTime()
		}
		if got := last(); got != nil {
			t.Errorf("written on the way: %v", got.AsTime())
		}
		b.svc.Start(t.Context())
		if err := b.svc.Stop(t.Context()); err != nil { // writes what is in memory
			t.Fatal(err)
		}
		got := last()
		if got == nil || got.AsTime().Truncate(time.Minute) != got.AsTime() || time.Since(got.AsTime()) > 2*time.Minute {
			t.Errorf("got %v", got)
		}
		if err := b.svc.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSessions(t *testing.T) {
	b := setup(t)
	res, err := b.client.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: "BOB"})
	if err != nil {
		t.Fatal(err)
	}
	ask := &identityv1.AuthenticateRequest{Session: res.GetSession()}
	who, err := b.client.Authenticate(t.Context(), ask)
	if err != nil || who.GetPrincipal().GetName() != "bob" || who.GetPrincipal().GetKeyId() != "" {
		t.Errorf("got %v, %v", who, err)
	}
	var dump string
	if err := b.pool.QueryRow(t.Context(), `SELECT string_agg(s::text, '') FROM identity.sessions s`).Scan(&dump); err != nil || strings.Contains(dump, res.GetSession()) {
		t.Errorf("the session is stored as it is: %v", err)
	}
	for range 2 { // may be repeated
		if _, err := b.client.DeleteSession(t.Context(), &identityv1.DeleteSessionRequest{Session: res.GetSession()}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = b.client.Authenticate(t.Context(), ask)
	wantKind(t, err, fault.Unauthenticated, "")
	_, err = b.client.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: "nobody"})
	wantKind(t, err, fault.NotFound, "User nobody not found")
	if res, err = b.client.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: "bob"}); err != nil {
		t.Fatal(err)
	}
	b.clock.advance(7*24*time.Hour + time.Second)
	_, err = b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{Session: res.GetSession()})
	wantKind(t, err, fault.Unauthenticated, "")
}
