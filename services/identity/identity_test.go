package identity_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	"github.com/entrepot-dev/entrepot/services/identity"
	"github.com/entrepot-dev/entrepot/services/identity/identitytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is identity behind a real server, in the development set-up: alice owns the server, bob, carol and dave are members.
type bundle struct {
	pool    *pgxpool.Pool
	svc     *identity.Service
	roles   *authz.Roles
	srv     *rpc.Server
	network *rpc.Network // as the gateway
	client  identityv1.IdentityServiceClient
	master  *seal.Key
	key     string // alice's
	bus     *busFake
	jobs    identity.JobVerifier
	clock   *clock
}

// clock runs, and can be moved ahead.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

type busFake struct {
	mu       sync.Mutex
	subjects []string
	err      error
}

func (b *busFake) Publish(_ context.Context, subject string, _ []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subjects = append(b.subjects, subject)
	return b.err
}

func (b *busFake) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subjects)
}

// channelsFake knows the channel Main with the package numpy.
type channelsFake struct{}

var mainChannel = authz.Resource{Kind: authz.Channel, ID: "3f0f1f64-5c1c-4a45-9a3f-0a8d53a3a001", Name: "Main", Namespace: "default"}

func (channelsFake) Channel(_ context.Context, name string) (authz.Resource, error) {
	if strings.EqualFold(name, "main") {
		return mainChannel, nil
	}
	return authz.Resource{}, fault.New(fault.NotFound, "Channel %s not found", name)
}

func (channelsFake) Package(_ context.Context, _ authz.Resource, name string) error {
	if name == "numpy" {
		return nil
	}
	return fault.New(fault.NotFound, "Package %s not found", name)
}

func setup(t testing.TB) *bundle {
	t.Helper()
	ctx := t.Context()
	b := &bundle{pool: pgtest.New(t, audit.Schema, identity.Schema), bus: &busFake{}, clock: &clock{}}
	var err error
	if b.master, err = seal.LoadOrCreate(filepath.Join(t.TempDir(), "master-key")); err != nil {
		t.Fatal(err)
	}
	b.roles = authz.NewRoles(identity.NewSource(b.pool), nil, nil)
	b.roles.Start(ctx)
	t.Cleanup(b.roles.Stop)
	b.svc = b.open(t)
	keyFile := filepath.Join(t.TempDir(), "admin-key")
	if done, err := b.svc.Bootstrap(ctx, identity.BootstrapConfig{AdminKeyFile: keyFile, Dev: true}); err != nil || !done {
		t.Fatalf("bootstrap: %v, %v", done, err)
	}
	text, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	b.key = strings.TrimSpace(string(text))
	b.serve(t)
	return b
}

// serve puts the service behind a server and connects to it as the gateway.
func (b *bundle) serve(t testing.TB) {
	t.Helper()
	b.srv = rpc.NewServer(rpc.ServerConfig{
		Verifier: authn.NewVerifier(b.svc.KeySource(), nil), Roles: b.roles, TargetVerifier: b.svc.TargetVerifier(),
	})
	b.svc.Register(b.srv)
	b.network = b.as(t, "gateway")
	rpctest.Serve(t, b.srv, b.network, "identity")
	b.client = b.dial(t, b.network)
}

// open makes another replica of the service.
func (b *bundle) open(t testing.TB) *identity.Service {
	t.Helper()
	svc, err := identity.New(t.Context(), identity.Config{TargetSecrets: map[string]string{"sync": "configured"}}, identity.Deps{
		Pool: b.pool, Roles: b.roles, Master: b.master, Bus: b.bus, Channels: channelsFake{}, Now: b.clock.now,
		Jobs: func(ctx context.Context, id string, claim int64) (authn.Caller, error) {
			if b.jobs == nil {
				return authn.Caller{}, fault.New(fault.NotFound, "no such job")
			}
			return b.jobs(ctx, id, claim)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

// as returns a network that shows the credential of a target.
func (b *bundle) as(t testing.TB, target string) *rpc.Network {
	t.Helper()
	n := rpc.NewNetwork(rpc.NetworkConfig{Target: target, Secret: identity.TargetSecret(b.master, target)})
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (b *bundle) dial(t testing.TB, n *rpc.Network) identityv1.IdentityServiceClient {
	t.Helper()
	conn, err := n.Dial("identity")
	if err != nil {
		t.Fatal(err)
	}
	return identityv1.NewIdentityServiceClient(conn)
}

// login returns the caller that a key or a user's name stands for, and a context that acts as them.
func (b *bundle) login(t testing.TB, key string) (context.Context, authn.Caller) {
	t.Helper()
	res, err := b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: key})
	if err != nil {
		t.Fatal(err)
	}
	c := authn.FromProto(res.GetPrincipal())
	return authn.NewContext(t.Context(), c), c
}

func (b *bundle) user(t testing.TB, name string) (context.Context, authn.Caller) {
	t.Helper()
	session, err := b.client.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: name})
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.client.Authenticate(t.Context(), &identityv1.AuthenticateRequest{Session: session.GetSession()})
	if err != nil {
		t.Fatal(err)
	}
	c := authn.FromProto(res.GetPrincipal())
	return authn.NewContext(t.Context(), c), c
}

func (b *bundle) newKey(t testing.TB, ctx context.Context, req *identityv1.CreateApiKeyRequest) *identityv1.CreateApiKeyResponse {
	t.Helper()
	res, err := b.client.CreateApiKey(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// grant gives a role on a resource as the owning service would.
func (b *bundle) grant(t testing.TB, name, role, resource string) {
	t.Helper()
	res, err := b.client.ChangeBinding(t.Context(), &identityv1.ChangeBindingRequest{
		Username: name, Binding: &identityv1.Binding{Role: role, Resource: resource},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.roles.Await(t.Context(), res.GetVersion()); err != nil {
		t.Fatal(err)
	}
}

func wantKind(t testing.TB, err error, kind fault.Kind, message string) {
	t.Helper()
	if !fault.Is(err, kind) || (message != "" && err.Error() != message) {
		t.Errorf("got %v (%v), want %v %q", err, fault.KindOf(err), kind, message)
	}
}

func TestEveryMethodRefusesBadTokens(t *testing.T) {
	b := setup(t)
	tried := rpctest.RefusesBadTokens(t, rpctest.Bare(t, b.srv), rpctest.Signs(identitytest.SigningKey(t, b.pool, b.master)))
	if len(tried) != 42 {
		t.Errorf("tried %d methods: %v", len(tried), tried)
	}
}

func TestBootstrap(t *testing.T) {
	t.Run("development has the four users of the examples, in order", func(t *testing.T) {
		b := setup(t)
		ctx, alice := b.login(t, b.key)
		if alice.Name != "alice" || alice.Scoped {
			t.Errorf("the first key is %+v's", alice)
		}
		res, err := b.client.ListUsers(ctx, &identityv1.ListUsersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, u := range res.GetUsers() {
			got = append(got, strings.Join([]string{u.GetUsername(), u.GetName(), u.GetAvatarUrl(), u.GetRole()}, " "))
		}
		want := []string{"alice Alice /avatar.jpg owner", "bob Bob /avatar.jpg member", "carol Carol /avatar.jpg member", "dave Dave /avatar.jpg member"}
		if diff := cmp.Diff(want, got); diff != "" || res.GetTotalSize() != 4 {
			t.Error(diff, res.GetTotalSize())
		}
	})
	t.Run("it happens once", func(t *testing.T) {
		b := setup(t)
		path := filepath.Join(t.TempDir(), "admin-key")
		done, err := b.svc.Bootstrap(t.Context(), identity.BootstrapConfig{AdminKeyFile: path})
		if err != nil || done {
			t.Errorf("got %v, %v", done, err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("a second key was written: %v", err)
		}
	})
	t.Run("without dev there is admin, by a private file, and replicas agree", func(t *testing.T) {
		b := &bundle{pool: pgtest.New(t, audit.Schema, identity.Schema), bus: &busFake{}, clock: &clock{}}
		var err error
		if b.master, err = seal.LoadOrCreate(filepath.Join(t.TempDir(), "master-key")); err != nil {
			t.Fatal(err)
		}
		b.roles = authz.NewRoles(identity.NewSource(b.pool), nil, nil)
		path := filepath.Join(t.TempDir(), "admin-key")
		first, second := b.open(t), b.open(t)
		var wg sync.WaitGroup
		var made atomic.Int32
		for _, svc := range []*identity.Service{first, second} {
			wg.Go(func() {
				done, err := svc.Bootstrap(t.Context(), identity.BootstrapConfig{AdminKeyFile: path})
				if err != nil {
					t.Error(err)
				}
				if done {
					made.Add(1)
				}
			})
		}
		wg.Wait()
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 || made.Load() != 1 {
			t.Errorf("%v, %v, made %d times", info, err, made.Load())
		}
		text, _ := os.ReadFile(path)
		b.svc = second
		b.serve(t)
		if _, c := b.login(t, strings.TrimSpace(string(text))); c.Name != "admin" {
			t.Errorf("the first key is %+v's", c)
		}
		// A start that was cut off after the file was written goes on with the key in it.
		if _, err := b.pool.Exec(t.Context(), `TRUNCATE identity.users, identity.api_keys, identity.api_key_roles, identity.sessions, identity.bindings CASCADE`); err != nil {
			t.Fatal(err)
		}
		if done, err := first.Bootstrap(t.Context(), identity.BootstrapConfig{AdminKeyFile: path}); err != nil || !done {
			t.Errorf("got %v, %v", done, err)
		}
		if again, _ := os.ReadFile(path); string(again) != string(text) {
			t.Error("the key file was overwritten")
		}
		b.login(t, strings.TrimSpace(string(text)))
	})
	t.Run("a file with something else in it is left alone", func(t *testing.T) {
		b := setup(t)
		if _, err := b.pool.Exec(t.Context(), `TRUNCATE identity.users, identity.api_keys, identity.api_key_roles, identity.sessions, identity.bindings CASCADE`); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "admin-key")
		if err := os.WriteFile(path, []byte("notes"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := b.svc.Bootstrap(t.Context(), identity.BootstrapConfig{AdminKeyFile: path})
		wantKind(t, err, fault.Precondition, "")
		if text, _ := os.ReadFile(path); string(text) != "notes" {
			t.Errorf("the file now holds %q", text)
		}
	})
}
