package identity_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc/metadata"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

func outgoing(t *testing.T, pairs ...string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), pairs...)
}

func TestBindings(t *testing.T) {
	list := func(t *testing.T, b *bundle, resource string) (out []string) {
		t.Helper()
		res, err := b.client.ListBindings(t.Context(), &identityv1.ListBindingsRequest{Resource: resource})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range res.GetBindings() {
			out = append(out, x.GetUser().GetUsername()+" "+x.GetRole())
		}
		return out
	}
	channel := mainChannel.String()
	change := func(b *bundle, ctx context.Context, user, role string, revoke bool) error {
		_, err := b.client.ChangeBinding(ctx, &identityv1.ChangeBindingRequest{
			Username: user, Binding: &identityv1.Binding{Role: role, Resource: channel}, Revoke: revoke, KeepOwner: true,
		})
		return err
	}
	t.Run("a user has one role on a resource, and the last owner stays", func(t *testing.T) {
		b := setup(t)
		for i, row := range []struct {
			user, role string
			revoke     bool
			want       fault.Kind // Internal: none
		}{
			{"alice", "owner", false, fault.Internal},
			{"bob", "member", false, fault.Internal},
			{"BOB", "maintainer", false, fault.Internal},
			{"bob", "maintainer", false, fault.Internal},
			{"alice", "member", false, fault.Conflict},
			{"alice", "", true, fault.Conflict},
			{"carol", "", true, fault.NotFound},
			{"bob", "owner", true, fault.NotFound},
			{"nobody", "member", false, fault.NotFound},
			{"bob", "king", false, fault.Invalid},
			{"bob", "", false, fault.Invalid},
			{"carol", "owner", false, fault.Internal},
			{"alice", "", true, fault.Internal},
		} {
			err := change(b, t.Context(), row.user, row.role, row.revoke)
			if (err == nil) != (row.want == fault.Internal) || (err != nil && !fault.Is(err, row.want)) {
				t.Errorf("%d: %s %q: got %v", i, row.user, row.role, err)
			}
		}
		if diff := cmp.Diff([]string{"bob maintainer", "carol owner"}, list(t, b, channel)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("an answer names the version that holds the change, a repeat makes none", func(t *testing.T) {
		b := setup(t)
		req := &identityv1.ChangeBindingRequest{Username: "bob", Binding: &identityv1.Binding{Role: "member", Resource: channel}}
		announced := b.bus.count()
		first, err := b.client.ChangeBinding(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := b.client.ChangeBinding(t.Context(), req)
		if err != nil || again.GetVersion() != first.GetVersion() || first.GetUser().GetUsername() != "bob" {
			t.Errorf("got %v after %v, %v", again, first, err)
		}
		if n := b.bus.count() - announced; n != 1 {
			t.Errorf("announced %d times", n)
		}
		if err := b.roles.Await(t.Context(), first.GetVersion()); err != nil {
			t.Fatal(err)
		}
		_, bob := b.user(t, "bob")
		if err := b.roles.Allow(t.Context(), bob, authz.ChannelRead, mainChannel); err != nil {
			t.Error(err)
		}
	})
	t.Run("a bus that is away loses no change", func(t *testing.T) {
		b := setup(t)
		b.bus.mu.Lock()
		b.bus.err = errors.New("away")
		b.bus.mu.Unlock()
		if err := change(b, t.Context(), "bob", "member", false); err != nil {
			t.Error(err)
		}
	})
	t.Run("a resource that is gone takes the packages below along, and nothing else", func(t *testing.T) {
		b := setup(t)
		other := authz.Resource{Kind: authz.Channel, ID: mainChannel.ID + "0"}
		b.grant(t, "bob", "member", channel)
		b.grant(t, "bob", "owner", mainChannel.PackageOf("a_b").String())
		b.grant(t, "bob", "owner", other.PackageOf("x").String())
		b.grant(t, "bob", "member", other.String())
		for range 2 {
			if _, err := b.client.DeleteResourceBindings(t.Context(), &identityv1.DeleteResourceBindingsRequest{Resource: channel}); err != nil {
				t.Fatal(err)
			}
		}
		got := list(t, b, channel)
		got = append(got, list(t, b, mainChannel.PackageOf("a_b").String())...)
		if len(got) != 0 || len(list(t, b, other.String())) != 1 || len(list(t, b, other.PackageOf("x").String())) != 1 {
			t.Errorf("left %v", got)
		}
		for _, bad := range []string{"", "server", "user/x"} {
			_, err := b.client.DeleteResourceBindings(t.Context(), &identityv1.DeleteResourceBindingsRequest{Resource: bad})
			wantKind(t, err, fault.Invalid, "")
		}
	})
	t.Run("users do not call it, and the server's own roles have their own way", func(t *testing.T) {
		b := setup(t)
		_, err := b.client.ChangeBinding(t.Context(), &identityv1.ChangeBindingRequest{Username: "bob", Binding: &identityv1.Binding{Role: "owner", Resource: "server"}})
		wantKind(t, err, fault.Invalid, "")
	})
}

func TestSnapshot(t *testing.T) {
	t.Run("it arrives whole over the wire, in parts", func(t *testing.T) {
		b := setup(t)
		const many = 9000
		_, err := b.pool.Exec(t.Context(), `INSERT INTO identity.bindings (subject, role, resource)
			SELECT 'user/' || gen_random_uuid(), 'member', 'channel/' || gen_random_uuid() FROM generate_series(1, $1)`, many)
		if err != nil {
			t.Fatal(err)
		}
		b.grant(t, "bob", "owner", mainChannel.String())
		ctx, bob := b.user(t, "bob")
		key := b.newKey(t, ctx, &identityv1.CreateApiKeyRequest{})
		stream, err := b.client.GetRoleSnapshot(t.Context(), &identityv1.GetRoleSnapshotRequest{})
		if err != nil {
			t.Fatal(err)
		}
		parts := 0
		for {
			part, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if parts++; part.GetLast() {
				break
			}
		}
		if parts < 3 {
			t.Errorf("%d parts", parts)
		}
		source := authz.RemoteSource(b.client)
		snap, err := source.Snapshot(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"server": "member", mainChannel.String(): "owner"}
		if diff := cmp.Diff(want, snap.RolesOn(bob.UserID, "")); diff != "" {
			t.Error(diff)
		}
		if same, err := source.Snapshot(t.Context(), snap.Version()); err != nil || same != nil {
			t.Errorf("got %v, %v, want nothing new", same, err)
		}
		remote := authz.NewRoles(source, nil, nil)
		remote.Start(t.Context())
		defer remote.Stop()
		bob.KeyID = key.GetApiKey().GetId()
		if err := remote.Allow(t.Context(), bob, authz.ChannelOverwrite, mainChannel); err != nil {
			t.Error(err)
		}
	})
	t.Run("a revocation acts within five seconds on a follower without a bus", func(t *testing.T) {
		b := setup(t)
		b.grant(t, "bob", "member", mainChannel.String())
		_, bob := b.user(t, "bob")
		remote := authz.NewRoles(authz.RemoteSource(b.client), nil, nil)
		remote.Start(t.Context())
		defer remote.Stop()
		if err := remote.Allow(t.Context(), bob, authz.ChannelRead, mainChannel); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := b.client.ChangeBinding(t.Context(), &identityv1.ChangeBindingRequest{Username: "bob", Revoke: true, Binding: &identityv1.Binding{Resource: mainChannel.String()}})
		if err != nil {
			t.Fatal(err)
		}
		for remote.Allow(t.Context(), bob, authz.ChannelRead, mainChannel) == nil {
			if time.Since(began) > authz.StaleAfter {
				t.Fatal("still allowed")
			}
			time.Sleep(20 * time.Millisecond) // a poll is what is measured
		}
	})
	t.Run("versions are the same for everybody, however many changes run at once", func(t *testing.T) {
		b := setup(t)
		alice, _ := b.login(t, b.key)
		for i := range 6 {
			if _, err := b.client.CreateUser(alice, &identityv1.CreateUserRequest{Username: fmt.Sprint("u", i)}); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var versions []int64
		for i := range 6 {
			wg.Go(func() {
				res, err := b.client.ChangeBinding(t.Context(), &identityv1.ChangeBindingRequest{
					Username: fmt.Sprint("u", i), Binding: &identityv1.Binding{Role: "member", Resource: mainChannel.String()},
				})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				versions = append(versions, res.GetVersion())
			})
		}
		wg.Wait()
		slices.Sort(versions)
		if got := slices.Compact(slices.Clone(versions)); len(got) != 6 || got[5]-got[0] != 5 {
			t.Errorf("got %v", versions)
		}
	})
}

func TestAuditLog(t *testing.T) {
	b := setup(t)
	alice, who := b.login(t, b.key)
	ctx := telemetry.WithRequestID(alice, "req-7")
	if _, err := b.client.CreateNamespace(ctx, &identityv1.CreateNamespaceRequest{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	read := func(req *identityv1.ListAuditEventsRequest) []*identityv1.AuditEvent {
		t.Helper()
		var all []*identityv1.AuditEvent
		for {
			res, err := b.client.ListAuditEvents(alice, req)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, res.GetEvents()...)
			if req.PageToken = res.GetNextPageToken(); req.GetPageToken() == "" {
				return all
			}
		}
	}
	newest := func() *identityv1.AuditEvent {
		return read(&identityv1.ListAuditEventsRequest{Resource: "namespace/acme"})[0]
	}
	before := newest()
	want := []string{"alice", who.KeyID, "namespace.create", "namespace/acme", "req-7"}
	if diff := cmp.Diff(want, []string{before.GetActor(), before.GetKeyId(), before.GetAction(), before.GetResource(), before.GetRequestId()}); diff != "" {
		t.Error(diff)
	}
	if err := b.svc.DrainAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := newest(); after.GetId() != before.GetId() || !after.GetTime().AsTime().Equal(before.GetTime().AsTime()) {
		t.Errorf("moving changed it: %v, %v", before, after)
	}
	// Another service's events, some moved and some not, make one list; pages neither repeat nor lose any.
	sync := authn.NewContext(t.Context(), authn.Service("sync"))
	for i := range 25 {
		err := pgx.BeginFunc(t.Context(), b.pool, func(tx pgx.Tx) error {
			return audit.Record(sync, tx, audit.Event{Action: "test", Resource: fmt.Sprint("thing/", i), Details: map[string]any{"n": i}})
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 12 {
			if err := b.svc.DrainAudit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []float64
	for _, e := range read(&identityv1.ListAuditEventsRequest{Actor: "service:sync", PageSize: 4}) {
		got = append(got, e.GetDetails().GetFields()["n"].GetNumberValue())
	}
	var down []float64
	for i := 24; i >= 0; i-- {
		down = append(down, float64(i))
	}
	if diff := cmp.Diff(down, got); diff != "" {
		t.Error(diff)
	}
	bob, _ := b.user(t, "bob")
	_, err := b.client.ListAuditEvents(bob, &identityv1.ListAuditEventsRequest{})
	wantKind(t, err, fault.Denied, "No permission")
	for _, token := range []string{"!", "AA", "LTE"} {
		_, err := b.client.ListAuditEvents(alice, &identityv1.ListAuditEventsRequest{PageToken: token})
		wantKind(t, err, fault.Invalid, "")
	}
	// What the owning service does for a user is the user's deed.
	_, err = b.client.ChangeBinding(alice, &identityv1.ChangeBindingRequest{Username: "bob", Binding: &identityv1.Binding{Role: "member", Resource: mainChannel.String()}})
	if err != nil {
		t.Fatal(err)
	}
	b.grant(t, "carol", "owner", mainChannel.PackageOf("numpy").String())
	if e := read(&identityv1.ListAuditEventsRequest{Resource: mainChannel.PackageOf("numpy").String()}); len(e) != 1 || e[0].GetActor() != "service:gateway" {
		t.Errorf("what it does on its own is its own: got %v", e)
	}
	if e := read(&identityv1.ListAuditEventsRequest{Resource: mainChannel.String()}); len(e) != 1 || e[0].GetActor() != "alice" || e[0].GetAction() != "role.grant" {
		t.Errorf("got %v", e)
	}
}
