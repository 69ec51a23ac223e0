package authz_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	_ "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	_ "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	_ "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"
	_ "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
	_ "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryPermissionOfAProtoIsHeldBySomeRole(t *testing.T) {
	named := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			ms := f.Services().Get(i).Methods()
			for j := range ms.Len() {
				access, _ := proto.GetExtension(ms.Get(j).Options(), optionsv1.E_Access).(*optionsv1.Access)
				if access.GetRule() != optionsv1.Rule_RULE_PERMISSION {
					continue
				}
				named++
				if !authz.Known(access.GetPermission()) {
					t.Errorf("%s asks for %q, which no role holds", ms.Get(j).FullName(), access.GetPermission())
				}
			}
		}
		return true
	})
	if named < 20 {
		t.Errorf("only %d methods ask for a permission: are the protos linked in?", named)
	}
}

func TestResourcesAreSpelledOneWay(t *testing.T) {
	for _, s := range []string{"server", "namespace/a", "channel/u", "package/u/p.q"} {
		r, ok := authz.ParseResource(s)
		if !ok || r.String() != s {
			t.Errorf("ParseResource(%q) = %v, %v", s, r, ok)
		}
	}
	for _, s := range []string{"", "server/x", "namespace/", "namespace/a/b", "channel", "channel/", "channel/a/b", "package/a", "package//b", "package/a/", "package/a/b/c", "user/x"} {
		if r, ok := authz.ParseResource(s); ok {
			t.Errorf("ParseResource(%q) = %v", s, r)
		}
	}
}

// world is what identity would say; it is a Source.
type world struct {
	mu       sync.Mutex
	version  int64
	bindings []authz.Binding
	keys     []authz.KeyState
	users    []string
	err      error
	asked    int
}

func (w *world) Snapshot(_ context.Context, known int64) (*authz.Snapshot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.err != nil {
		return nil, w.err
	}
	if known == w.version {
		return nil, nil
	}
	return authz.NewSnapshot(w.version, slices.Clone(w.bindings), slices.Clone(w.keys), slices.Clone(w.users)), nil
}

func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	w.version++
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

func bind(user, role, resource string) authz.Binding {
	return authz.Binding{Subject: "user/" + user, Role: role, Resource: resource}
}

var (
	private = authz.Resource{Kind: authz.Channel, ID: "c1", Name: "priv", Namespace: "default"}
	public  = authz.Resource{Kind: authz.Channel, ID: "c2", Name: "pub", Namespace: "default", Public: true}
)

func start(t *testing.T, w *world) *authz.Roles {
	r := authz.NewRoles(w, nil, nil)
	r.Start(t.Context())
	t.Cleanup(r.Stop)
	return r
}

func TestQuetzRoleTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		callers := []string{"anonymous", "c-member", "c-maintainer", "c-owner", "p-maintainer", "p-owner", "s-member", "s-maintainer", "s-owner"}
		w := &world{version: 1, users: callers[1:], bindings: []authz.Binding{
			bind("c-member", "member", "channel/c1"), bind("c-maintainer", "maintainer", "channel/c1"), bind("c-owner", "owner", "channel/c1"),
			bind("p-maintainer", "maintainer", "package/c1/own"), bind("p-owner", "owner", "package/c1/own"),
			bind("s-member", "member", "server"), bind("s-maintainer", "maintainer", "server"), bind("s-owner", "owner", "server"),
		}}
		r := start(t, w)
		own, other := private.PackageOf("own"), private.PackageOf("other")
		defaultNS, otherNS := authz.NamespaceOf(""), authz.NamespaceOf("acme")
		// One digit a caller, in the order above: 1 yes, 0 denied (the anonymous caller: not logged in).
		rows := []struct {
			permission string
			resource   authz.Resource
			want       string
		}{
			{authz.ChannelRead, private, "011100011"},
			{authz.ChannelRead, own, "011111011"},
			{authz.ChannelRead, other, "011100011"},
			{authz.ChannelRead, public, "111111111"},
			{authz.ChannelUpload, private, "001100011"},
			{authz.ChannelUpload, own, "001111011"},
			{authz.ChannelUpload, other, "001100011"},
			{authz.ChannelUpload, public, "000000011"},
			{authz.ChannelPackagesCreate, private, "001100011"},
			{authz.ChannelPackagesCreate, own, "001100011"},
			{authz.ChannelOverwrite, private, "000100011"},
			{authz.ChannelOverwrite, own, "000101011"},
			{authz.ChannelFilesDelete, private, "001100011"},
			{authz.ChannelFilesDelete, own, "001111011"},
			{authz.PackageMembersManage, own, "001101011"},
			{authz.PackageMembersManage, other, "001100011"},
			{authz.ChannelMembersRead, private, "001100011"},
			{authz.ChannelUpdate, private, "001100011"},
			{authz.ChannelDelete, private, "001100011"},
			{authz.ChannelSync, private, "001100011"},
			{authz.ChannelMembersManage, private, "000100011"},
			{authz.ChannelCleanup, private, "000100011"},
			{authz.ChannelValidate, private, "000000011"},
			{authz.ChannelsLimit, defaultNS, "000000011"},
			{authz.ChannelsCreateMirror, defaultNS, "000000011"},
			{authz.ChannelsCreate, defaultNS, "000000111"},
			{authz.ChannelsCreate, otherNS, "000000011"},
			{authz.JobsManage, authz.Resource{}, "000000011"},
			{authz.UsersRead, authz.Resource{}, "000000011"},
			{authz.UsersManage, authz.Resource{}, "000000011"},
			{authz.RolesGrantMember, authz.Resource{}, "000000011"},
			{authz.RolesGrant, authz.Resource{}, "000000001"},
			{authz.AuditRead, authz.Resource{}, "000000011"},
			{authz.StorageRead, authz.Resource{}, "000000011"},
			{authz.StorageManage, authz.Resource{}, "000000011"},
			{authz.NamespacesManage, authz.Resource{}, "000000011"},
			{"no.such", authz.Resource{}, "000000000"},
		}
		for _, row := range rows {
			got := ""
			for _, name := range callers {
				c := authn.Caller{}
				if name != "anonymous" {
					c = authn.Caller{UserID: name, Name: name}
				}
				err := r.Allow(t.Context(), c, row.permission, row.resource)
				switch {
				case err == nil:
					got += "1"
				case name == "anonymous" && fault.Is(err, fault.Unauthenticated) && err.Error() == "Not logged in":
					got += "0"
				case name != "anonymous" && fault.Is(err, fault.Denied) && err.Error() == "No permission":
					got += "0"
				default:
					t.Errorf("%s of %s on %s: %v", row.permission, name, row.resource, err)
				}
			}
			if got != row.want {
				t.Errorf("%s on %s: got %s, want %s", row.permission, row.resource, got, row.want)
			}
		}
	})
}

func TestTenantsStayApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{version: 1, users: []string{"ann"}, bindings: []authz.Binding{bind("ann", "owner", "namespace/acme")}}
		r := start(t, w)
		ann := authn.Caller{UserID: "ann"}
		inside := authz.Resource{Kind: authz.Channel, ID: "x", Namespace: "acme"}
		for _, p := range []string{authz.ChannelRead, authz.ChannelDelete, authz.ChannelOverwrite} {
			if err := r.Allow(t.Context(), ann, p, inside); err != nil {
				t.Errorf("%s inside: %v", p, err)
			}
			if err := r.Allow(t.Context(), ann, p, inside.PackageOf("p")); err != nil {
				t.Errorf("%s on a package inside: %v", p, err)
			}
			if err := r.Allow(t.Context(), ann, p, private); !fault.Is(err, fault.Denied) {
				t.Errorf("%s outside: %v", p, err)
			}
		}
		if err := r.Allow(t.Context(), ann, authz.ChannelsCreate, authz.NamespaceOf("acme")); err != nil {
			t.Error(err)
		}
		if err := r.Allow(t.Context(), ann, authz.ChannelsCreate, authz.NamespaceOf("acme2")); !fault.Is(err, fault.Denied) {
			t.Error(err)
		}
	})
}

func TestScopedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			version: 1, users: []string{"ann", "root"},
			bindings: []authz.Binding{bind("ann", "owner", "channel/c1"), bind("ann", "member", "channel/c3"), bind("root", "owner", "server")},
			keys: []authz.KeyState{
				{ID: "k", UserID: "ann"}, {ID: "r", UserID: "root"}, {ID: "old", UserID: "ann", Expires: time.Now()}, {ID: "roots", UserID: "root"},
			},
		}
		r := start(t, w)
		scoped := func(user, key string, scope ...authn.Grant) authn.Caller {
			return authn.Caller{UserID: user, KeyID: key, Scoped: true, Scope: scope}
		}
		member := authn.Grant{Role: "member", Resource: "channel/c1"}
		beyond := authn.Grant{Role: "owner", Resource: "channel/c3"}
		c3 := authz.Resource{Kind: authz.Channel, ID: "c3", Namespace: "default"}
		for _, row := range []struct {
			name       string
			caller     authn.Caller
			permission string
			resource   authz.Resource
			want       fault.Kind // Internal: none
		}{
			{"the scope is enough", scoped("ann", "k", member), authz.ChannelRead, private, fault.Internal},
			{"the scope narrows its user", scoped("ann", "k", member), authz.ChannelUpload, private, fault.Denied},
			{"the scope leaves out a channel", scoped("ann", "k", member), authz.ChannelRead, c3, fault.Denied},
			{"the scope gives nothing its user lacks", scoped("ann", "k", beyond), authz.ChannelUpload, c3, fault.Denied},
			{"an empty scope allows nothing", scoped("ann", "k"), authz.ChannelRead, private, fault.Denied},
			{"an empty scope reads what is public", scoped("ann", "k"), authz.ChannelRead, public, fault.Internal},
			{"the server's owner narrows a key to a channel", scoped("root", "r", member), authz.ChannelRead, private, fault.Internal},
			{"and not to the server", scoped("root", "r", member), authz.UsersRead, authz.Resource{}, fault.Denied},
			{"an expired key is no login", scoped("ann", "old", member), authz.ChannelRead, private, fault.Unauthenticated},
			{"an unknown key is no login", scoped("ann", "nope", member), authz.ChannelRead, private, fault.Unauthenticated},
			{"somebody else's key is no login", scoped("ann", "roots", member), authz.ChannelRead, private, fault.Unauthenticated},
			{"a user who is gone is no login", authn.Caller{UserID: "bob"}, authz.ChannelRead, private, fault.Unauthenticated},
		} {
			err := r.Allow(t.Context(), row.caller, row.permission, row.resource)
			if (err == nil) != (row.want == fault.Internal) || (err != nil && !fault.Is(err, row.want)) {
				t.Errorf("%s: got %v", row.name, err)
			}
		}
		for _, row := range []struct {
			name   string
			caller authn.Caller
			want   authz.Readable
		}{
			{"a user", authn.Caller{UserID: "ann"}, authz.Readable{Channels: []string{"c1", "c3"}}},
			{"a scoped key", scoped("ann", "k", beyond), authz.Readable{Channels: []string{"c3"}}},
			{"a scoped key beyond its user", scoped("ann", "k", authn.Grant{Role: "owner", Resource: "server"}), authz.Readable{Channels: []string{"c1", "c3"}}},
			{"a scoped key of the owner", scoped("root", "r", member), authz.Readable{Channels: []string{"c1"}}},
			{"the owner", authn.Caller{UserID: "root"}, authz.Readable{All: true}},
			{"an expired key", scoped("ann", "old", member), authz.Readable{}},
			{"nobody", authn.Caller{}, authz.Readable{}},
			{"the platform", authn.Service("gateway"), authz.Readable{All: true}},
		} {
			got, err := r.Readable(t.Context(), row.caller)
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got.Channels)
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("%s: %s", row.name, diff)
			}
		}
	})
}

func TestThePlatformItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, &world{version: 1})
		sync := authn.Service("sync")
		for _, p := range []string{authz.ChannelRead, authz.ChannelUpload, authz.ChannelSync} {
			if err := r.Allow(t.Context(), sync, p, private); err != nil {
				t.Errorf("%s: %v", p, err)
			}
		}
		for _, p := range []string{authz.UsersManage, authz.RolesGrant, authz.AuditRead, "no.such"} {
			if err := r.Allow(t.Context(), sync, p, authz.Resource{}); !fault.Is(err, fault.Denied) {
				t.Errorf("%s: got %v, want Denied", p, err)
			}
		}
	})
}

func TestFollowing(t *testing.T) {
	type bundle struct {
		w     *world
		roles *authz.Roles
		ann   authn.Caller
	}
	run := func(name string, f func(t *testing.T, b bundle)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{version: 1, users: []string{"ann"}, bindings: []authz.Binding{bind("ann", "member", "channel/c1")}, keys: []authz.KeyState{{ID: "k", UserID: "ann"}}}
				b := bundle{w: w, roles: start(t, w), ann: authn.Caller{UserID: "ann", KeyID: "k"}}
				if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, private); err != nil {
					t.Fatal(err)
				}
				f(t, b)
			})
		})
	}
	run("a grant written elsewhere is seen at once", func(t *testing.T, b bundle) {
		began := time.Now()
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelUpload, private); !fault.Is(err, fault.Denied) {
			t.Fatal(err)
		}
		b.w.change(func() { b.w.bindings = append(b.w.bindings, bind("ann", "maintainer", "channel/c1")) })
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelUpload, private); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 150*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
	run("many refusals share one refresh in 50 ms", func(t *testing.T, b bundle) {
		before := b.w.count()
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelUpload, private); !fault.Is(err, fault.Denied) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := b.w.count() - before; n > 2 || time.Since(began) > 110*time.Millisecond {
			t.Errorf("asked %d times in %v", n, time.Since(began))
		}
	})
	run("a revocation acts within five seconds without any nudge", func(t *testing.T, b bundle) {
		b.w.change(func() { b.w.keys = nil })
		time.Sleep(authz.PollEvery + 100*time.Millisecond)
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, private); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("got %v, want Unauthenticated", err)
		}
		if err := b.roles.Login(t.Context(), b.ann); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("got %v, want Unauthenticated", err)
		}
		if c, err := b.roles.Effective(t.Context(), b.ann); err != nil || !c.Anonymous() {
			t.Errorf("got %+v, %v, want the anonymous caller", c, err)
		}
	})
	run("a nudge makes it act at once", func(t *testing.T, b bundle) {
		time.Sleep(100 * time.Millisecond)
		b.w.change(func() { b.w.users = nil })
		b.roles.Wake()
		synctest.Wait()
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, private); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("got %v, want Unauthenticated", err)
		}
	})
	run("with identity away only what is public is served after five seconds", func(t *testing.T, b bundle) {
		b.w.change(func() { b.w.err = errors.New("away") })
		time.Sleep(2 * time.Second)
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, private); err != nil {
			t.Errorf("a snapshot of two seconds ago is good enough: %v", err)
		}
		time.Sleep(authz.StaleAfter)
		err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, private)
		if !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
		if err := b.roles.Ready(); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, public); err != nil {
			t.Errorf("public: %v", err)
		}
		began := time.Now()
		if _, err := b.roles.Effective(t.Context(), b.ann); !fault.Is(err, fault.Unavailable) || time.Since(began) != 0 {
			t.Errorf("got %v after %v, want Unavailable at once", err, time.Since(began))
		}
		if err := b.roles.Allow(t.Context(), authn.Caller{}, authz.ChannelRead, private); !fault.Is(err, fault.Unauthenticated) {
			t.Errorf("anonymous: %v", err)
		}
		b.w.change(func() { b.w.err = nil })
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelRead, private); err != nil {
			t.Errorf("identity is back: %v", err)
		}
	})
	run("one waits for the version that holds one's own change", func(t *testing.T, b bundle) {
		b.w.change(func() {})
		if err := b.roles.Await(t.Context(), 2); err != nil || b.roles.Snapshot().Version() != 2 {
			t.Errorf("got %v, version %d", err, b.roles.Snapshot().Version())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.roles.Await(ctx, 99); !fault.Is(err, fault.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
	})
	run("stopping twice is fine and leaves nobody waiting", func(t *testing.T, b bundle) {
		b.roles.Stop()
		b.roles.Stop()
		began := time.Now()
		if err := b.roles.Allow(t.Context(), b.ann, authz.ChannelUpload, private); !fault.Is(err, fault.Denied) {
			t.Errorf("got %v, want Denied", err)
		}
		if time.Since(began) != 0 {
			t.Errorf("waited %v", time.Since(began))
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	w := &world{version: 1, users: []string{"ann"}, bindings: []authz.Binding{bind("ann", "member", "channel/c1")}}
	r := authz.NewRoles(w, nil, nil)
	r.Start(b.Context())
	defer r.Stop()
	ann := authn.Caller{UserID: "ann"}
	if err := r.Login(b.Context(), ann); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := r.Allow(b.Context(), ann, authz.ChannelRead, private); err != nil {
			b.Fatal(err)
		}
	}
}
