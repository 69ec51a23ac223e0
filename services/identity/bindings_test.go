package identity_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

func TestCountBindings(t *testing.T) {
	b := setup(t)
	main, other := mainChannel.String(), mainChannel.PackageOf("numpy").String()
	b.grant(t, "alice", "owner", main)
	b.grant(t, "bob", "member", main)
	b.grant(t, "bob", "member", other)
	res, err := b.client.CountBindings(t.Context(), &identityv1.CountBindingsRequest{Resources: []string{main, other, "channel/nobodys", main}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{main: 2, other: 1}, res.GetCounts()); diff != "" {
		t.Error(diff)
	}
	_, err = b.client.CountBindings(t.Context(), &identityv1.CountBindingsRequest{Resources: make([]string, 1001)})
	wantKind(t, err, fault.Invalid, "")
}

// A service that knows a resource by its name has the change written down by that, once.
func TestAChangeOfRolesIsAuditedOnceByTheCallersNames(t *testing.T) {
	b := setup(t)
	alice, _ := b.user(t, "alice")
	change := func(req *identityv1.ChangeBindingRequest) {
		t.Helper()
		req.Username, req.AuditResource = "bob", "channel/main"
		if _, err := b.client.ChangeBinding(alice, req); err != nil {
			t.Fatal(err)
		}
	}
	on := func(role string) *identityv1.Binding {
		return &identityv1.Binding{Role: role, Resource: mainChannel.String()}
	}
	change(&identityv1.ChangeBindingRequest{Binding: on("member"), AuditAction: "channel.member.set"})
	change(&identityv1.ChangeBindingRequest{Binding: on("member"), AuditAction: "channel.member.set"}) // changes nothing
	change(&identityv1.ChangeBindingRequest{Binding: on(""), Revoke: true, AuditAction: "channel.member.remove"})
	rows, err := b.pool.Query(t.Context(), `
		SELECT action, resource, details FROM outbox.audit WHERE actor = 'alice' AND action LIKE '%member%'
		UNION ALL SELECT action, resource, details FROM identity.audit WHERE actor = 'alice' AND action LIKE '%member%' ORDER BY 1 DESC`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	type event struct {
		Action, Resource string
		Details          map[string]any
	}
	var got []event
	for rows.Next() {
		var e event
		if err := rows.Scan(&e.Action, &e.Resource, &e.Details); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	want := []event{
		{"channel.member.set", "channel/main", map[string]any{"user": "bob", "from": "", "to": "member", "on": mainChannel.String()}},
		{"channel.member.remove", "channel/main", map[string]any{"user": "bob", "from": "member", "to": "", "on": mainChannel.String()}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
