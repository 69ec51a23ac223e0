package channels_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

func TestMembers(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	set := func(c authn.Caller, user, role string) error {
		_, err := b.api.SetMember(b.as(c), &channelsv1.SetMemberRequest{Channel: "main", Username: user, Role: role})
		return err
	}
	remove := func(c authn.Caller, user string) error {
		_, err := b.api.RemoveMember(b.as(c), &channelsv1.RemoveMemberRequest{Channel: "main", Username: user})
		return err
	}
	if err := errors.Join(set(b.alice, "bob", "member"), set(b.alice, "bob", "maintainer")); err != nil {
		t.Fatal(err)
	}
	wantFault(t, set(b.bob, "eve", "owner"), fault.Denied, "", "No permission")
	wantFault(t, set(b.alice, "nobody", "member"), fault.NotFound, "", "user nobody not found")
	for _, role := range []string{"", "admin", "Owner"} {
		wantFault(t, set(b.alice, "bob", role), fault.Invalid, "", "Input should be 'owner', 'maintainer' or 'member'")
	}
	wantFault(t, remove(b.alice, "alice"), fault.Conflict, "", "")
	wantFault(t, remove(b.alice, "eve"), fault.NotFound, "MEMBER_NOT_FOUND", "user eve is not a member of channel main")
	r, err := b.api.ListMembers(b.as(b.bob), &channelsv1.ListMembersRequest{Channel: "main"})
	if err != nil || len(r.GetMembers()) != 2 {
		t.Error(r, err)
	}
	if err := errors.Join(remove(b.alice, "bob"), remove(b.admin, "alice")); err != nil {
		t.Error(err)
	}
	want := []string{
		"channel.member.set channel/main bob", "channel.member.set channel/main bob",
		"channel.member.remove channel/main bob", "channel.member.remove channel/main alice",
	}
	if diff := cmp.Diff(want, b.ident.audited); diff != "" {
		t.Errorf("identity is to write into the audit log: %s", diff)
	}
	var events int
	if err := b.pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.audit WHERE action LIKE '%member%'`).Scan(&events); err != nil || events != 0 {
		t.Errorf("%d audit events are written twice (%v)", events, err)
	}
}

func TestDelete(t *testing.T) {
	t.Run("a file goes from index, counts and downloads, and its package stays listed", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		f := b.mustUpload("main", spec{name: "a"}, spec{name: "b"}).GetFiles()
		if _, err := b.api.DeleteFile(b.as(b.alice), &channelsv1.DeleteFileRequest{Channel: "main", Path: f[0].GetPath()}); err != nil {
			t.Fatal(err)
		}
		_, err := b.api.DeleteFile(b.as(b.alice), &channelsv1.DeleteFileRequest{Channel: "main", Path: f[0].GetPath()})
		wantFault(t, err, fault.NotFound, "FILE_NOT_FOUND", "Package version not found")
		_, err = b.api.DeleteFile(b.as(b.alice), &channelsv1.DeleteFileRequest{Channel: "main", Path: "noarch/../x"})
		wantFault(t, err, fault.Invalid, "", "")
		ch, err := b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "main"})
		if err != nil || ch.GetFileCount() != 1 || ch.GetPackageCount() != 1 || ch.GetSize() != f[1].GetSize() || ch.GetHead() != 3 {
			t.Error(ch, err)
		}
		if got := b.shardRecords("main", "noarch"); len(got) != 1 || b.resolve("main", f[0].GetPath()).GetFound() {
			t.Errorf("still there: %v", got)
		}
		p, err := b.api.GetPackage(b.as(b.alice), &channelsv1.GetPackageRequest{Channel: "main", Package: "a"})
		if err != nil || p.GetCurrentVersion() != "" || p.GetFileCount() != 0 || p.UpdateTime != nil {
			t.Error(p, err)
		}
		old, err := b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: f[0].GetPath(), Revision: 2})
		if err != nil || !old.GetFound() {
			t.Error("the past lost it:", old, err)
		}
	})

	t.Run("a package goes with all its files and its name", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		b.mustUpload("main", spec{name: "a"}, spec{name: "a", subdir: "linux-64"}, spec{name: "b"})
		wantDenied := func(c authn.Caller) {
			_, err := b.api.DeletePackage(b.as(c), &channelsv1.DeletePackageRequest{Channel: "main", Package: "a"})
			wantFault(t, err, fault.Denied, "", "No permission")
		}
		wantDenied(b.bob)
		if _, err := b.api.DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: "main", Package: "a"}); err != nil {
			t.Fatal(err)
		}
		_, err := b.api.DeletePackage(b.as(b.alice), &channelsv1.DeletePackageRequest{Channel: "main", Package: "a"})
		wantFault(t, err, fault.NotFound, "PACKAGE_NOT_FOUND", "Package main/a not found")
		if got := b.shardRecords("main", "linux-64"); got == nil || len(got) != 0 {
			t.Errorf("linux-64 keeps an empty index, got %v", got)
		}
		r, err := b.api.ListPackages(b.as(b.alice), &channelsv1.ListPackagesRequest{Channel: "main"})
		if err != nil || len(r.GetPackages()) != 1 {
			t.Error(r, err)
		}
	})

	t.Run("a channel goes with its rows, references, roles and jobs, and its name is free", func(t *testing.T) {
		b := setup(t)
		ch := b.hosted("main")
		b.mustUpload("main", spec{name: "a"})
		if _, err := b.api.DeleteChannel(b.as(b.bob), &channelsv1.DeleteChannelRequest{Channel: "main"}); !fault.Is(err, fault.Denied) {
			t.Fatal(err)
		}
		if _, err := b.api.DeleteChannel(b.as(b.alice), &channelsv1.DeleteChannelRequest{Channel: "Main"}); err != nil {
			t.Fatal(err)
		}
		var rows, refs int
		err := b.pool.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM channels.files) + (SELECT count(*) FROM channels.renditions) + (SELECT count(*) FROM channels.packages)
			+ (SELECT count(*) FROM channels.revisions) + (SELECT count(*) FROM channels.conda_shards) + (SELECT count(*) FROM channels.conda_subdirs), (SELECT count(*) FROM refs.refs)`).Scan(&rows, &refs)
		if err != nil || rows != 0 || refs != 0 || len(b.id.Bindings("channel/"+ch.GetId())) != 0 {
			t.Errorf("left over: %d rows, %d references (%v)", rows, refs, err)
		}
		live, err := b.jobs.Count(t.Context(), jobs.Filter{Kinds: ownKinds, States: []jobs.State{jobs.Queued, jobs.Running}})
		if err != nil || live != 0 {
			t.Errorf("%d jobs live (%v)", live, err)
		}
		if e := b.bus.last(); !e.Deleted || e.ID != ch.GetId() {
			t.Errorf("announced %+v", e)
		}
		_, err = b.api.GetChannel(b.as(b.alice), &channelsv1.GetChannelRequest{Channel: "main"})
		wantFault(t, err, fault.NotFound, "CHANNEL_NOT_FOUND", "Channel main not found")
		if again := b.hosted("main"); again.GetId() == ch.GetId() || again.GetHead() != 1 {
			t.Error(again)
		}
		if got := b.read("main", "noarch/repodata.json"); !bytes.Contains(got, []byte("noarch")) {
			t.Errorf("the new channel's index: %q", got)
		}
	})
}
