package authz_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// TestGroups: what a group may do its members may do, and nobody else.
func TestGroups(t *testing.T) {
	snap := authz.NewSnapshot(1, []authz.Binding{
		{Subject: "user/u1", Role: authz.Member, Resource: "channel/c1"},
		{Subject: "group/g1", Role: authz.Maintainer, Resource: "channel/c1"},
		{Subject: "group/g1", Role: authz.Member, Resource: "channel/c2"},
		{Subject: "group/g2", Role: authz.Owner, Resource: "server"},
		{Subject: "group/u4", Role: authz.Owner, Resource: "server"},
	}, nil, []string{"u1", "u2", "u3", "u4"}, authz.Membership{UserID: "u1", GroupID: "g1"}, authz.Membership{UserID: "u2", GroupID: "g2"}, authz.Membership{UserID: "gone", GroupID: "g2"})
	roles := authz.NewRoles(authz.SourceFunc(func(_ context.Context, known int64) (*authz.Snapshot, error) {
		if known == 1 {
			return nil, nil
		}
		return snap, nil
	}), nil, nil)
	roles.Start(t.Context())
	defer roles.Stop()
	if err := roles.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	c1, c2 := authz.Resource{Kind: authz.Channel, ID: "c1"}, authz.Resource{Kind: authz.Channel, ID: "c2"}
	scoped := authn.Caller{UserID: "u1", Scoped: true, Scope: []authn.Grant{{Role: authz.Member, Resource: "channel/c1"}}}
	for name, c := range map[string]struct {
		caller     authn.Caller
		permission authz.Permission
		on         authz.Resource
		want       fault.Kind
		ok         bool
	}{
		"the group's role":                     {authn.Caller{UserID: "u1"}, authz.ChannelUpload, c1, 0, true},
		"where only the group has one":         {authn.Caller{UserID: "u1"}, authz.ChannelRead, c2, 0, true},
		"no more than the group's":             {authn.Caller{UserID: "u1"}, authz.ChannelUpload, c2, fault.Denied, false},
		"a group on the server":                {authn.Caller{UserID: "u2"}, authz.RolesGrant, authz.Resource{}, 0, true},
		"who is in no group":                   {authn.Caller{UserID: "u3"}, authz.ChannelRead, c1, fault.Denied, false},
		"a user whose id is that of a group":   {authn.Caller{UserID: "u4"}, authz.RolesGrant, authz.Resource{}, fault.Denied, false},
		"a member who is no user any more":     {authn.Caller{UserID: "gone"}, authz.RolesGrant, authz.Resource{}, fault.Unauthenticated, false},
		"a scoped key reads what it names":     {scoped, authz.ChannelRead, c1, 0, true},
		"a scoped key does not gain by groups": {scoped, authz.ChannelUpload, c1, fault.Denied, false},
	} {
		err := roles.Allow(t.Context(), c.caller, c.permission, c.on)
		if (err == nil) != c.ok || (err != nil && !fault.Is(err, c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want := map[string]string{"channel/c1": authz.Maintainer, "channel/c2": authz.Member}
	if diff := cmp.Diff(want, snap.RolesOn("u1", "channel/")); diff != "" {
		t.Error(diff)
	}
	if r, err := roles.Readable(t.Context(), authn.Caller{UserID: "u1"}); err != nil || len(r.Channels) != 2 || r.All {
		t.Errorf("%+v %v", r, err)
	}
	if r, err := roles.Readable(t.Context(), authn.Caller{UserID: "u2"}); err != nil || !r.All {
		t.Errorf("%+v %v", r, err)
	}
	// Asking changes nothing: the lists are shared by all who ask.
	if diff := cmp.Diff(want, snap.RolesOn("u1", "channel/")); diff != "" {
		t.Error(diff)
	}
}
