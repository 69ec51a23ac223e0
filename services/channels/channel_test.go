package channels_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestCreateChannel(t *testing.T) {
	t.Run("a new channel has its owner and an empty noarch index at once", func(t *testing.T) {
		b := setup(t)
		ch := b.create(b.alice, &channelsv1.CreateChannelRequest{Name: "Main", Description: "für alle"})
		if !ch.GetPrivate() || ch.GetTtl() != 36000 || ch.GetHead() != 1 || ch.GetNamespace() != "default" || ch.GetMemberCount() != 1 ||
			ch.SizeLimit != nil || ch.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED {
			t.Errorf("got %v", ch)
		}
		plain := b.read("main", "noarch/repodata.json")
		want := `{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{},"removed":[],"repodata_version":1}`
		if string(plain) != want || string(unpack(t, b.read("main", "noarch/repodata.json.zst"))) != want {
			t.Errorf("repodata %s", plain)
		}
		if got := b.shardRecords("MAIN", "noarch"); got == nil || len(got) != 0 {
			t.Errorf("shards %v", got)
		}
		if d := cmp.Diff([]authz.Binding{{Subject: "user/" + b.alice.UserID, Role: authz.Owner, Resource: "channel/" + ch.GetId()}}, b.id.Bindings("channel/"+ch.GetId())); d != "" {
			t.Errorf("roles (-want +got):\n%s", d)
		}
		h, err := b.api.ListRevisions(b.as(b.alice), &channelsv1.ListRevisionsRequest{Channel: "main"})
		if err != nil || len(h.GetRevisions()) != 1 || h.GetRevisions()[0].GetCause() != "create" || h.GetRevisions()[0].GetAuthor() != "alice" {
			t.Errorf("history %v, %v", h, err)
		}
	})

	t.Run("names are unique without case, and who comes second leaves no role behind", func(t *testing.T) {
		b := setup(t)
		b.hosted("main")
		errs := together(8, func(int) error {
			_, err := b.api.CreateChannel(b.as(b.bob), &channelsv1.CreateChannelRequest{Name: "other"})
			return err
		})
		ok := 0
		for _, err := range errs {
			if err == nil {
				ok++
				continue
			}
			wantFault(t, err, fault.Conflict, "CHANNEL_EXISTS", "Channel other exists")
		}
		_, err := b.api.CreateChannel(b.as(b.bob), &channelsv1.CreateChannelRequest{Name: "MAIN"})
		wantFault(t, err, fault.Conflict, "CHANNEL_EXISTS", "Channel MAIN exists")
		if ok != 1 {
			t.Errorf("%d made it", ok)
		}
		// The snapshot that roles are read from follows a moment later.
		deadline := time.Now().Add(10 * time.Second)
		for len(b.id.Roles.Snapshot().RolesOn(b.bob.UserID, "channel/")) != 1 {
			if time.Now().After(deadline) {
				t.Fatalf("bob has roles on %v", b.id.Roles.Snapshot().RolesOn(b.bob.UserID, "channel/"))
			}
			time.Sleep(5 * time.Millisecond)
		}
	})

	t.Run("a role that cannot be granted makes no channel", func(t *testing.T) {
		b := setup(t)
		b.ident.fail = fault.New(fault.Unavailable, "identity is away")
		_, err := b.api.CreateChannel(b.as(b.alice), &channelsv1.CreateChannelRequest{Name: "main"})
		wantFault(t, err, fault.Unavailable, "", "")
		b.ident.fail = nil
		_, err = b.api.Resolve(b.target(), &channelsv1.ResolveRequest{Channel: "main", Path: "noarch/repodata.json"})
		wantFault(t, err, fault.NotFound, "CHANNEL_NOT_FOUND", "Channel main not found")
	})

	t.Run("who may create what", func(t *testing.T) {
		b := setup(t)
		m := &channelsv1.MirrorSettings{Url: "https://up.example"}
		limit := int64(5)
		_, err := b.api.CreateChannel(b.as(b.eve), &channelsv1.CreateChannelRequest{Name: "x"})
		wantFault(t, err, fault.Denied, "", "No permission")
		_, err = b.api.CreateChannel(b.as(authn.Caller{}), &channelsv1.CreateChannelRequest{Name: "x"})
		wantFault(t, err, fault.Unauthenticated, "", "Not logged in")
		_, err = b.api.CreateChannel(b.as(b.alice), &channelsv1.CreateChannelRequest{Name: "x", Mirror: m})
		wantFault(t, err, fault.Denied, "SERVER_ROLE", "this operation requires owner or maintainer roles")
		_, err = b.api.CreateChannel(b.as(b.alice), &channelsv1.CreateChannelRequest{Name: "x", SizeLimit: &limit})
		wantFault(t, err, fault.Denied, "SERVER_ROLE", "only server maintainer or owner can set channel size limit")
		_, err = b.api.CreateChannel(b.as(b.admin), &channelsv1.CreateChannelRequest{Name: "x", Namespace: "nobodys"})
		wantFault(t, err, fault.NotFound, "NAMESPACE_NOT_FOUND", "")
		if ch := b.create(b.admin, &channelsv1.CreateChannelRequest{Name: "x", Namespace: "team", Mirror: m, SizeLimit: &limit}); ch.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_MIRROR {
			t.Errorf("got %v", ch)
		}
	})

	t.Run("bad input is refused with a reason", func(t *testing.T) {
		b := setup(t)
		up := func(f func(*channelsv1.MirrorSettings)) *channelsv1.CreateChannelRequest {
			m := &channelsv1.MirrorSettings{Url: "https://up.example"}
			f(m)
			return &channelsv1.CreateChannelRequest{Name: "x", Mirror: m}
		}
		url := func(s string) *channelsv1.CreateChannelRequest {
			return up(func(m *channelsv1.MirrorSettings) { m.Url = s })
		}
		const pattern = "String should match pattern '^(http|https)://.+'"
		for message, reqs := range map[string][]*channelsv1.CreateChannelRequest{
			"_ should not be used in channel name":                               {{Name: "a_b"}},
			"String should have at most 50 characters":                           {{Name: strings.Repeat("a", 51)}},
			"String should have at most 300 characters":                          {{Name: "x", Description: strings.Repeat("ü", 301)}},
			"must be UTF-8 text":                                                 {{Name: "x", Description: "a\x00"}},
			"must be positive value":                                             {{Name: "x", SizeLimit: new(int64(-1))}},
			"must be between 0 and 2147483647 seconds":                           {{Name: "x", Ttl: new(int64(-1))}, {Name: "x", Ttl: new(int64(1 << 40))}},
			"hosted channels have no upstream":                                   {{Name: "x", Kind: 1, Mirror: &channelsv1.MirrorSettings{Url: "https://up.example"}}},
			"mirrors and proxies need an upstream":                               {{Name: "x", Kind: 2}, {Name: "x", Kind: 3}},
			"is not known":                                                       {{Name: "x", Kind: 9, Mirror: &channelsv1.MirrorSettings{Url: "https://up.example"}}},
			pattern:                                                              {url(""), url("ftp://x"), url("file:///etc/passwd"), url("//x")},
			"must be an http or https URL of at most 2048 characters":            {url("https://"), url("https:///x"), url("http://[::1"), url("https://x/" + strings.Repeat("a", 2048))},
			"must not hold credentials: set them with `entrepot channel remote`": {url("https://u:p@x/"), url("https://u@x/")},
			"must have neither query nor fragment":                               {url("https://x/?a"), url("https://x/#b")},
			"an item must have 1 to 256 characters":                              {up(func(m *channelsv1.MirrorSettings) { m.Includelist = []string{""} })},
			"Cannot use both `includelist` and `excludelist` together.":          {up(func(m *channelsv1.MirrorSettings) { m.Includelist, m.Excludelist = []string{"a"}, []string{"b"} })},
		} {
			for _, req := range reqs {
				_, err := b.api.CreateChannel(b.as(b.admin), req)
				wantFault(t, err, fault.Invalid, "", message)
			}
		}
		if r, err := b.api.ListChannels(b.as(b.admin), &channelsv1.ListChannelsRequest{}); err != nil || r.GetTotalSize() != 0 {
			t.Errorf("something was made: %v, %v", r, err)
		}
	})
}

func TestUpdateChannel(t *testing.T) {
	b := setup(t)
	b.hosted("main")
	b.mirror("mir")
	update := func(c authn.Caller, name string, to *channelsv1.Channel, paths ...string) (*channelsv1.Channel, error) {
		return b.api.UpdateChannel(b.as(c), &channelsv1.UpdateChannelRequest{Channel: name, Settings: to, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	}
	ch, err := update(b.alice, "main", &channelsv1.Channel{Private: true, Ttl: 5, Description: "new"}, "private", "ttl")
	if err != nil || !ch.GetPrivate() || ch.GetTtl() != 5 || ch.GetDescription() != "" || ch.GetHead() != 1 {
		t.Errorf("%v, %v", ch, err)
	}
	if e := b.bus.last(); !e.Private || e.Name != "main" {
		t.Errorf("announced %+v", e)
	}
	limit := int64(100)
	_, err = update(b.alice, "main", &channelsv1.Channel{SizeLimit: &limit}, "size_limit")
	wantFault(t, err, fault.Denied, "SERVER_ROLE", "only server maintainer or owner can set channel size limit")
	if ch, err = update(b.admin, "main", &channelsv1.Channel{SizeLimit: &limit}, "size_limit"); err != nil || ch.GetSizeLimit() != 100 {
		t.Errorf("%v, %v", ch, err)
	}
	limit = -1
	_, err = update(b.admin, "main", &channelsv1.Channel{SizeLimit: &limit}, "size_limit")
	wantFault(t, err, fault.Invalid, "", "must be positive value")
	if ch, err = update(b.admin, "main", &channelsv1.Channel{}, "size_limit"); err != nil || ch.SizeLimit != nil {
		t.Errorf("%v, %v", ch, err)
	}
	for _, path := range []string{"name", "id", "head", "kind", "", "x"} {
		_, err = update(b.admin, "main", &channelsv1.Channel{Name: "y"}, path)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("path %q: %v", path, err)
		}
	}
	_, err = update(b.admin, "main", &channelsv1.Channel{}, "name")
	wantFault(t, err, fault.Invalid, "", "attribute 'name' of channel can not be changed")
	_, err = update(b.alice, "main", &channelsv1.Channel{Mirror: &channelsv1.MirrorSettings{Url: "http://x"}}, "mirror.url")
	wantFault(t, err, fault.Invalid, "", "attribute 'mirror.url' of channel can not be changed")
	_, err = update(b.bob, "mir", &channelsv1.Channel{Ttl: 1}, "ttl")
	wantFault(t, err, fault.Denied, "", "No permission")
	ch, err = update(b.admin, "mir", &channelsv1.Channel{Mirror: &channelsv1.MirrorSettings{Excludelist: []string{"py"}, RemovalPolicy: prune}}, "mirror.excludelist", "mirror.removal_policy")
	if err != nil || ch.GetMirror().GetUrl() != "https://up.example/chan/" || len(ch.GetMirror().GetExcludelist()) != 1 || ch.GetMirror().GetRemovalPolicy() != prune {
		t.Errorf("%v, %v", ch, err)
	}
	_, err = update(b.admin, "mir", &channelsv1.Channel{Mirror: &channelsv1.MirrorSettings{Url: "https://u:p@x"}}, "mirror.url")
	wantFault(t, err, fault.Invalid, "", "must not hold credentials: set them with `entrepot channel remote`")
}

func TestPrivateChannelsArePrivate(t *testing.T) {
	b := setup(t)
	ch := b.create(b.alice, &channelsv1.CreateChannelRequest{Name: "secret"})
	b.mustUpload("secret", spec{name: "a"})
	b.hosted("open")
	for name, call := range map[string]func(c authn.Caller) error{
		"GetChannel": func(c authn.Caller) error {
			_, err := b.api.GetChannel(b.as(c), &channelsv1.GetChannelRequest{Channel: "secret"})
			return err
		},
		"ListPackages": func(c authn.Caller) error {
			_, err := b.api.ListPackages(b.as(c), &channelsv1.ListPackagesRequest{Channel: "secret"})
			return err
		},
		"GetPackage": func(c authn.Caller) error {
			_, err := b.api.GetPackage(b.as(c), &channelsv1.GetPackageRequest{Channel: "secret", Package: "a"})
			return err
		},
		"ListFiles": func(c authn.Caller) error {
			_, err := b.api.ListFiles(b.as(c), &channelsv1.ListFilesRequest{Channel: "secret", Package: "a"})
			return err
		},
		"ListRevisions": func(c authn.Caller) error {
			_, err := b.api.ListRevisions(b.as(c), &channelsv1.ListRevisionsRequest{Channel: "secret"})
			return err
		},
	} {
		if err := call(authn.Caller{}); !fault.Is(err, fault.Unauthenticated) && !fault.Is(err, fault.Denied) {
			t.Errorf("%s by a stranger: %v", name, err)
		}
		if err := call(b.bob); !fault.Is(err, fault.Denied) {
			t.Errorf("%s by somebody else: %v", name, err)
		}
		if err := call(b.alice); err != nil {
			t.Errorf("%s by the owner: %v", name, err)
		}
	}
	list := func(c authn.Caller, member bool) (out []string) {
		t.Helper()
		r, err := b.api.ListChannels(b.as(c), &channelsv1.ListChannelsRequest{MemberOnly: member})
		if err != nil {
			t.Fatal(err)
		}
		for _, ch := range r.GetChannels() {
			out = append(out, ch.GetName())
		}
		if r.GetTotalSize() != int64(len(out)) {
			t.Errorf("%d channels, counted %d", len(out), r.GetTotalSize())
		}
		return out
	}
	got := [][]string{list(authn.Caller{}, false), list(b.bob, false), list(b.bob, true), list(b.alice, false), list(b.admin, false), list(b.admin, true)}
	want := [][]string{{"open"}, {"open"}, nil, {"open", "secret"}, {"open"}, nil}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("lists (-want +got):\n%s", d)
	}
	b.id.Grant(b.bob, authz.Binding{Role: authz.Member, Resource: "channel/" + ch.GetId()})
	if _, err := b.api.GetChannel(b.as(b.bob), &channelsv1.GetChannelRequest{Channel: "secret"}); err != nil {
		t.Error(err)
	}
}

func TestListsArePaged(t *testing.T) {
	b := setup(t)
	for _, name := range []string{"Beta", "alpha", "gamma", "delta"} {
		b.hosted(name)
	}
	var names []string
	for token := ""; ; {
		r, err := b.api.ListChannels(b.as(b.eve), &channelsv1.ListChannelsRequest{PageSize: 3, PageToken: token})
		if err != nil || r.GetTotalSize() != 4 {
			t.Fatal(r, err)
		}
		for _, ch := range r.GetChannels() {
			names = append(names, ch.GetName())
		}
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	if d := cmp.Diff([]string{"alpha", "Beta", "delta", "gamma"}, names); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	r, err := b.api.ListChannels(b.as(b.eve), &channelsv1.ListChannelsRequest{Query: "ALPH", Skip: 0})
	if err != nil || len(r.GetChannels()) != 1 {
		t.Error(r, err)
	}
	if r, err = b.api.ListChannels(b.as(b.eve), &channelsv1.ListChannelsRequest{Query: "100%_", Skip: 9}); err != nil || len(r.GetChannels()) != 0 {
		t.Error(r, err)
	}
	b.mustUpload("alpha", spec{name: "p", version: "1.9"}, spec{name: "p", version: "1.10"}, spec{name: "p", version: "1.10", number: 1}, spec{name: "p", version: "1.10rc1", subdir: "linux-64"}, spec{name: "q"})
	var versions []string
	for token := ""; ; {
		r, err := b.api.ListFiles(b.as(b.eve), &channelsv1.ListFilesRequest{Channel: "alpha", Package: "p", NewestFirst: true, PageSize: 3, PageToken: token})
		if err != nil || r.GetTotalSize() != 4 {
			t.Fatal(r, err)
		}
		for _, f := range r.GetFiles() {
			versions = append(versions, f.GetVersion()+" "+f.GetBuild())
		}
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	if d := cmp.Diff([]string{"1.10 h0_1", "1.10 h0_0", "1.10rc1 h0_0", "1.9 h0_0"}, versions); d != "" {
		t.Errorf("newest first (-want +got):\n%s", d)
	}
	p, err := b.api.GetPackage(b.as(b.eve), &channelsv1.GetPackageRequest{Channel: "alpha", Package: "p"})
	if err != nil || p.GetCurrentVersion() != "1.10" || p.GetFileCount() != 4 || !cmp.Equal(p.GetSubdirs(), []string{"linux-64", "noarch"}) {
		t.Error(p, err)
	}
	for _, bad := range []*channelsv1.ListFilesRequest{{PageSize: -1}, {Skip: -1}, {PageToken: "%"}, {NewestFirst: true}, {NewestFirst: true, Package: "p", PageToken: "eA"}} {
		bad.Channel = "alpha"
		if _, err := b.api.ListFiles(b.as(b.eve), bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	_, err = b.api.ListFiles(b.as(b.eve), &channelsv1.ListFilesRequest{Channel: "alpha", Package: "nope"})
	wantFault(t, err, fault.NotFound, "PACKAGE_NOT_FOUND", "Package alpha/nope not found")
	var packages []string
	for token := ""; ; {
		r, err := b.api.ListPackages(b.as(b.eve), &channelsv1.ListPackagesRequest{Channel: "alpha", OrderBy: "-name", PageSize: 1, PageToken: token})
		if err != nil || r.GetTotalSize() != 2 {
			t.Fatal(r, err)
		}
		packages = append(packages, r.GetPackages()[0].GetName())
		if token = r.GetNextPageToken(); token == "" {
			break
		}
	}
	if d := cmp.Diff([]string{"q", "p"}, packages); d != "" {
		t.Errorf("packages (-want +got):\n%s", d)
	}
}
