package identity_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// TestGroupsInSnapshots: what other processes are told of groups is what they need, and gone with the group.
func TestGroupsInSnapshots(t *testing.T) {
	b := setup(t)
	alice, _ := b.login(t, b.key)
	_, bob := b.user(t, "bob")
	conn, err := b.network.Dial("identity")
	if err != nil {
		t.Fatal(err)
	}
	groups := identityv1.NewGroupServiceClient(conn)
	rolesOf := func(t *testing.T) map[string]string {
		t.Helper()
		snap, err := authz.RemoteSource(b.client).Snapshot(authn.WithSelf(t.Context()), 0)
		if err != nil {
			t.Fatal(err)
		}
		return snap.RolesOn(bob.UserID, "channel/")
	}
	version := func(t *testing.T) (v int64) {
		t.Helper()
		if err := b.pool.QueryRow(t.Context(), `SELECT version FROM identity.state`).Scan(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, name := range []string{"readers", "writers", "idle"} {
		if _, err := groups.CreateGroup(alice, &identityv1.CreateGroupRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
		if _, err := groups.AddGroupMember(alice, &identityv1.AddGroupMemberRequest{Group: name, Username: "BOB"}); err != nil {
			t.Fatal(err)
		}
	}
	for group, role := range map[string]string{"readers": "member", "writers": "maintainer"} {
		if _, err := groups.SetGroupRole(alice, &identityv1.SetGroupRoleRequest{Group: group, Resource: "channel/main", Role: role}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(map[string]string{mainChannel.String(): "maintainer"}, rolesOf(t)); diff != "" {
		t.Error(diff)
	}
	before := version(t)
	if _, err := groups.AddGroupMember(alice, &identityv1.AddGroupMemberRequest{Group: "idle", Username: "bob"}); err != nil || version(t) != before {
		t.Errorf("a repeat is a change: %v", err)
	}
	if _, err := groups.DeleteGroup(alice, &identityv1.DeleteGroupRequest{Group: "writers"}); err != nil || version(t) == before {
		t.Errorf("a removal is none: %v", err)
	}
	if diff := cmp.Diff(map[string]string{mainChannel.String(): "member"}, rolesOf(t)); diff != "" {
		t.Error(diff)
	}
	if _, err := b.client.DeleteUser(alice, &identityv1.DeleteUserRequest{Username: "bob"}); err != nil {
		t.Fatal(err)
	}
	if got := rolesOf(t); len(got) != 0 {
		t.Errorf("a deleted user has %v", got)
	}
	for _, bad := range []string{"", "a b", "a@b", "-a", "a/b"} {
		if _, err := groups.CreateGroup(alice, &identityv1.CreateGroupRequest{Name: bad}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "channel", "channel/", "namespace/A B", "package/main", "user/x"} {
		if _, err := groups.SetGroupRole(alice, &identityv1.SetGroupRoleRequest{Group: "readers", Resource: bad, Role: "member"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestTheLastOwnerIsAUserWhoCanLogIn: neither a group nor somebody who is shut out keeps the server from being nobody's.
func TestTheLastOwnerIsAUserWhoCanLogIn(t *testing.T) {
	b := setup(t)
	alice, _ := b.login(t, b.key)
	conn, err := b.network.Dial("identity")
	if err != nil {
		t.Fatal(err)
	}
	groups, logins := identityv1.NewGroupServiceClient(conn), identityv1.NewLoginServiceClient(conn)
	if _, err := groups.CreateGroup(alice, &identityv1.CreateGroupRequest{Name: "owners"}); err != nil {
		t.Fatal(err)
	}
	if _, err := groups.SetGroupRole(alice, &identityv1.SetGroupRoleRequest{Group: "owners", Resource: "server", Role: "owner"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.SetUserRole(alice, &identityv1.SetUserRoleRequest{Username: "bob", Role: "owner"}); err != nil {
		t.Fatal(err)
	}
	if _, err := logins.SetUserDisabled(alice, &identityv1.SetUserDisabledRequest{Username: "bob", Disabled: true}); err != nil {
		t.Fatal(err)
	}
	_, err = b.client.SetUserRole(alice, &identityv1.SetUserRoleRequest{Username: "alice", Role: "member"})
	wantKind(t, err, fault.Conflict, "the last owner of the server stays")
	_, err = b.client.DeleteUser(alice, &identityv1.DeleteUserRequest{Username: "alice"})
	wantKind(t, err, fault.Conflict, "the last owner of the server stays")
}
