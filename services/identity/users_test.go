package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestUsers(t *testing.T) {
	t.Run("a name is taken in any case, and free again once its user is gone", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		u, err := b.client.CreateUser(alice, &identityv1.CreateUserRequest{Username: "Erin.x", Role: "member"})
		if err != nil || u.GetName() != "Erin.x" || u.GetRole() != "member" {
			t.Fatalf("got %v, %v", u, err)
		}
		_, err = b.client.CreateUser(alice, &identityv1.CreateUserRequest{Username: "erin.X"})
		wantKind(t, err, fault.Conflict, "User erin.X exists already")
		got, err := b.client.GetUser(alice, &identityv1.GetUserRequest{Username: "ERIN.X"})
		if err != nil || got.GetId() != u.GetId() {
			t.Errorf("got %v, %v", got, err)
		}
		if _, err := b.client.DeleteUser(alice, &identityv1.DeleteUserRequest{Username: "erin.x"}); err != nil {
			t.Fatal(err)
		}
		_, err = b.client.GetUser(alice, &identityv1.GetUserRequest{Username: "Erin.x"})
		wantKind(t, err, fault.NotFound, "User Erin.x not found")
		again, err := b.client.CreateUser(alice, &identityv1.CreateUserRequest{Username: "erin.x"})
		if err != nil || again.GetId() == u.GetId() || again.GetRole() != "" {
			t.Errorf("got %v, %v", again, err)
		}
		both, err := b.client.GetUsers(alice, &identityv1.GetUsersRequest{Ids: []string{u.GetId(), again.GetId(), uuid.NewString()}})
		if err != nil || len(both.GetUsers()) != 2 {
			t.Errorf("deleted users keep their name: got %v, %v", both, err)
		}
	})
	t.Run("bad input is refused by field", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		for _, req := range []*identityv1.CreateUserRequest{
			{},
			{Username: "a b"},
			{Username: "a/b"},
			{Username: ".."},
			{Username: "é"},
			{Username: strings.Repeat("a", 65)},
			{Username: "-a"},
			{Username: "ok", Role: "king"},
			{Username: "ok", AvatarUrl: "javascript:alert(1)"},
			{Username: "ok", Name: "a\x00b"},
			{Username: "ok", Name: strings.Repeat("x", 256)},
		} {
			_, err := b.client.CreateUser(alice, req)
			wantKind(t, err, fault.Invalid, "")
			var f *fault.Error
			if !errors.As(err, &f) || len(f.Violations) != 1 {
				t.Errorf("%v: got %v", req, err)
			}
		}
	})
	t.Run("one sees oneself, with users.read everybody, and otherwise not who exists", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		bob, who := b.user(t, "bob")
		if u, err := b.client.GetUser(bob, &identityv1.GetUserRequest{Username: "BOB"}); err != nil || u.GetId() != who.UserID {
			t.Errorf("got %v, %v", u, err)
		}
		for _, name := range []string{"carol", "nobody"} {
			_, err := b.client.GetUser(bob, &identityv1.GetUserRequest{Username: name})
			wantKind(t, err, fault.Denied, "No permission")
		}
		res, err := b.client.ListUsers(bob, &identityv1.ListUsersRequest{})
		if err != nil || len(res.GetUsers()) != 1 || res.GetUsers()[0].GetUsername() != "bob" || res.GetTotalSize() != 1 {
			t.Errorf("got %v, %v", res, err)
		}
		me, err := b.client.GetMe(bob, &identityv1.GetMeRequest{})
		if err != nil || me.GetUser().GetUsername() != "bob" || me.GetKeyId() != "" || me.GetScoped() {
			t.Errorf("got %v, %v", me, err)
		}
		_, err = b.client.GetMe(authn.NewContext(t.Context(), authn.Caller{}), &identityv1.GetMeRequest{})
		wantKind(t, err, fault.Unauthenticated, "Not logged in")
		_, err = b.client.CreateUser(bob, &identityv1.CreateUserRequest{Username: "x"})
		wantKind(t, err, fault.Denied, "No permission")
		_, err = b.client.GetUser(alice, &identityv1.GetUserRequest{Username: "nobody"})
		wantKind(t, err, fault.NotFound, "User nobody not found")
	})
	t.Run("pages are complete, by token and by offset", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		for i := range 7 {
			if _, err := b.client.CreateUser(alice, &identityv1.CreateUserRequest{Username: fmt.Sprintf("User%d", i)}); err != nil {
				t.Fatal(err)
			}
		}
		var byToken, byOffset []string
		req := &identityv1.ListUsersRequest{Query: "uSeR", PageSize: 3}
		for {
			res, err := b.client.ListUsers(alice, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range res.GetUsers() {
				byToken = append(byToken, u.GetUsername())
			}
			if res.GetTotalSize() != 7 {
				t.Errorf("total %d", res.GetTotalSize())
			}
			if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
				break
			}
		}
		for skip := int64(0); skip < 10; skip += 4 {
			res, err := b.client.ListUsers(alice, &identityv1.ListUsersRequest{Query: "user", PageSize: 4, Skip: skip})
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range res.GetUsers() {
				byOffset = append(byOffset, u.GetUsername())
			}
		}
		want := []string{"User0", "User1", "User2", "User3", "User4", "User5", "User6"}
		if diff := cmp.Diff(want, byToken) + cmp.Diff(want, byOffset); diff != "" {
			t.Error(diff)
		}
		for _, odd := range []int32{-1, 0, 2147483647} {
			if res, err := b.client.ListUsers(alice, &identityv1.ListUsersRequest{PageSize: odd}); err != nil || len(res.GetUsers()) != 11 {
				t.Errorf("page size %d: got %v, %v", odd, res, err)
			}
		}
		_, err := b.client.ListUsers(alice, &identityv1.ListUsersRequest{PageToken: "!"})
		wantKind(t, err, fault.Invalid, "")
		if res, err := b.client.ListUsers(alice, &identityv1.ListUsersRequest{Query: "%"}); err != nil || res.GetTotalSize() != 0 {
			t.Errorf("a percent sign is no wildcard: got %v, %v", res, err)
		}
	})
	t.Run("deleting a user ends logins, keys and roles", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		bob, who := b.user(t, "bob")
		key := b.newKey(t, bob, &identityv1.CreateApiKeyRequest{})
		session, err := b.client.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		b.grant(t, "bob", "owner", mainChannel.String())
		_, err = b.client.DeleteUser(alice, &identityv1.DeleteUserRequest{Username: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: key.GetSecret()})
		wantKind(t, err, fault.Unauthenticated, "")
		_, err = b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{Session: session.GetSession()})
		wantKind(t, err, fault.Unauthenticated, "")
		_, err = b.client.GetMe(bob, &identityv1.GetMeRequest{}) // with a token that has not ended yet
		wantKind(t, err, fault.Unauthenticated, "Not logged in")
		if roles := b.roles.Snapshot().RolesOn(who.UserID, ""); len(roles) != 0 {
			t.Errorf("roles are left: %v", roles)
		}
	})
	t.Run("one may delete oneself, others only with the right, owners only by owners", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		bob, _ := b.user(t, "bob")
		carol, _ := b.user(t, "carol")
		_, err := b.client.DeleteUser(bob, &identityv1.DeleteUserRequest{Username: "carol"})
		wantKind(t, err, fault.Denied, "No permission")
		if _, err := b.client.SetUserRole(alice, &identityv1.SetUserRoleRequest{Username: "bob", Role: "maintainer"}); err != nil {
			t.Fatal(err)
		}
		_, err = b.client.DeleteUser(bob, &identityv1.DeleteUserRequest{Username: "alice"})
		wantKind(t, err, fault.Denied, "No permission")
		if _, err := b.client.DeleteUser(carol, &identityv1.DeleteUserRequest{Username: "Carol"}); err != nil {
			t.Error(err)
		}
		if _, err := b.client.DeleteUser(bob, &identityv1.DeleteUserRequest{Username: "dave"}); err != nil {
			t.Error(err)
		}
		_, err = b.client.DeleteUser(alice, &identityv1.DeleteUserRequest{Username: "alice"})
		wantKind(t, err, fault.Conflict, "the last owner of the server stays")
	})
}

func TestServerRoles(t *testing.T) {
	b := setup(t)
	alice, _ := b.login(t, b.key)
	bob, _ := b.user(t, "bob")
	set := func(as string, user, role string) error {
		ctx := map[string]context.Context{"alice": alice, "bob": bob}[as]
		_, err := b.client.SetUserRole(ctx, &identityv1.SetUserRoleRequest{Username: user, Role: role})
		return err
	}
	for i, row := range []struct {
		as, user, role string
		want           fault.Kind // Internal: none
	}{
		{"bob", "carol", "member", fault.Denied}, // a member gives nothing
		{"alice", "bob", "maintainer", fault.Internal},
		{"alice", "bob", "maintainer", fault.Internal}, // again
		{"bob", "carol", "maintainer", fault.Denied},
		{"bob", "carol", "member", fault.Internal}, // she is one already
		{"bob", "carol", "", fault.Denied},         // taking away needs the owner
		{"alice", "carol", "", fault.Internal},
		{"bob", "carol", "member", fault.Internal}, // nothing to member
		{"bob", "alice", "member", fault.Denied},   // no way to demote an owner
		{"alice", "alice", "member", fault.Conflict},
		{"alice", "alice", "", fault.Conflict},
		{"alice", "dave", "owner", fault.Internal},
		{"alice", "alice", "maintainer", fault.Internal}, // dave is left
		{"alice", "dave", "member", fault.Denied},        // alice owns nothing any more
		{"bob", "nobody", "member", fault.NotFound},
		{"bob", "carol", "king", fault.Invalid},
	} {
		err := set(row.as, row.user, row.role)
		if (err == nil) != (row.want == fault.Internal) || (err != nil && !fault.Is(err, row.want)) {
			t.Errorf("%d: %s gives %s the role %q: got %v", i, row.as, row.user, row.role, err)
		}
	}
}

func TestTwoOwnersCannotLeaveAtOnce(t *testing.T) {
	b := setup(t)
	alice, _ := b.login(t, b.key)
	if _, err := b.client.SetUserRole(alice, &identityv1.SetUserRoleRequest{Username: "bob", Role: "owner"}); err != nil {
		t.Fatal(err)
	}
	bob, _ := b.user(t, "bob")
	var wg sync.WaitGroup
	errs := make([]error, 2)
	wg.Go(func() { _, errs[0] = b.client.DeleteUser(alice, &identityv1.DeleteUserRequest{Username: "alice"}) })
	wg.Go(func() { _, errs[1] = b.client.DeleteUser(bob, &identityv1.DeleteUserRequest{Username: "bob"}) })
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Errorf("got %v", errs)
	}
}

func TestNamespaces(t *testing.T) {
	b := setup(t)
	alice, _ := b.login(t, b.key)
	bob, _ := b.user(t, "bob")
	if _, err := b.client.CreateNamespace(alice, &identityv1.CreateNamespaceRequest{Name: "acme-1"}); err != nil {
		t.Fatal(err)
	}
	_, err := b.client.CreateNamespace(alice, &identityv1.CreateNamespaceRequest{Name: "acme-1"})
	wantKind(t, err, fault.Conflict, "Namespace acme-1 exists already")
	_, err = b.client.CreateNamespace(bob, &identityv1.CreateNamespaceRequest{Name: "mine"})
	wantKind(t, err, fault.Denied, "No permission")
	for _, name := range []string{"", "A", "a_b", "-a", "a-", "a/b", strings.Repeat("a", 64)} {
		_, err := b.client.CreateNamespace(alice, &identityv1.CreateNamespaceRequest{Name: name})
		wantKind(t, err, fault.Invalid, "")
	}
	res, err := b.client.ListNamespaces(bob, &identityv1.ListNamespacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range res.GetNamespaces() {
		got = append(got, n.GetName())
	}
	if diff := cmp.Diff([]string{"acme-1", "default"}, got); diff != "" {
		t.Error(diff)
	}
}
