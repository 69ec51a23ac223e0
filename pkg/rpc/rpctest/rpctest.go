// Package rpctest gives tests a platform without identity: callers, roles and tokens that live in memory, and real
// gRPC servers and clients over in-memory connections. It also holds the check that no method takes a bad token.
//
//	id := rpctest.NewIdentity(t)
//	srv := id.Server()
//	channelsv1.RegisterChannelServiceServer(srv, svc)
//	conn := id.Serve(t, srv, "channels")
//	alice := id.User("alice", authz.Binding{Role: authz.Owner, Resource: "server"})
//	ctx := authn.NewContext(t.Context(), alice)
package rpctest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// TargetSecret is the credential that the fake identity takes from every target.
const TargetSecret = "target-secret"

// Identity stands in for the identity service.
type Identity struct {
	// Signer signs the tokens that Network's clients use.
	Signer *authn.Signer
	// SigningKey is what it signs with.
	SigningKey authn.Key
	// Verifier takes them.
	Verifier *authn.Verifier
	// Roles follows the bindings that User, Grant, Revoke and RemoveUser change.
	Roles *authz.Roles
	// Network connects to what Serve serves; its target is `test`.
	Network *rpc.Network

	mu       sync.Mutex
	version  int64
	bindings []authz.Binding
	keys     []authz.KeyState
	users    []string
}

// NewIdentity starts one; it stops with the test.
func NewIdentity(t testing.TB) *Identity {
	t.Helper()
	key := NewKey(t, "test")
	signer, err := authn.NewSigner(nil, key)
	if err != nil {
		t.Fatal(err)
	}
	id := &Identity{Signer: signer, SigningKey: key, Verifier: authn.NewVerifier(authn.StaticKeys(signer.PublicKeys()...), nil), version: 1}
	id.Roles = authz.NewRoles(authz.SourceFunc(id.snapshot), nil, nil)
	id.Roles.Start(context.Background())
	t.Cleanup(id.Roles.Stop)
	id.Network = rpc.NewNetwork(rpc.NetworkConfig{
		Target: "test", Secret: TargetSecret,
		Minter: func(_ context.Context, c authn.Caller, audience string) (string, time.Time, error) {
			return signer.Sign(c, audience)
		},
	})
	t.Cleanup(func() {
		if err := id.Network.Close(); err != nil {
			t.Errorf("close the network: %v", err)
		}
	})
	return id
}

// NewKey returns a new signing key.
func NewKey(t testing.TB, id string) authn.Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Key{ID: id, Private: private}
}

// Server returns a server that trusts this identity.
func (id *Identity) Server(interceptors ...rpc.Interceptor) *rpc.Server {
	return rpc.NewServer(rpc.ServerConfig{Verifier: id.Verifier, Roles: id.Roles, Interceptors: interceptors})
}

// Serve serves in memory under the given names and returns a connection to the first. Everything stops with the test.
func (id *Identity) Serve(t testing.TB, srv *rpc.Server, services ...string) *grpc.ClientConn {
	t.Helper()
	Serve(t, srv, id.Network, services...)
	conn, err := id.Network.Dial(services[0])
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// Serve serves in memory as the services of a network, until the test ends.
func Serve(t testing.TB, srv *rpc.Server, network *rpc.Network, services ...string) {
	t.Helper()
	if err := srv.Check(); err != nil {
		t.Fatal(err)
	}
	lis := network.Local(services...)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // t.Context has ended
		defer cancel()
		srv.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// User makes a user with roles; the subjects of the bindings are filled in.
func (id *Identity) User(name string, bindings ...authz.Binding) authn.Caller {
	c := authn.Caller{UserID: uuid.NewString(), Name: name}
	id.change(func() { id.users = append(id.users, c.UserID) })
	id.Grant(c, bindings...)
	return c
}

// Key makes an API key for the user and returns the caller who uses it; scope narrows it if there is any.
func (id *Identity) Key(user authn.Caller, scope ...authn.Grant) authn.Caller {
	full, keyID, _, err := authn.NewAPIKey(rand.Reader)
	if err != nil || full == "" {
		panic(err) // rand.Reader does not fail
	}
	id.change(func() { id.keys = append(id.keys, authz.KeyState{ID: keyID, UserID: user.UserID}) })
	user.KeyID, user.Scope, user.Scoped = keyID, scope, len(scope) > 0
	return user
}

// Grant adds roles of a user.
func (id *Identity) Grant(user authn.Caller, bindings ...authz.Binding) {
	id.change(func() {
		for _, b := range bindings {
			b.Subject = "user/" + user.UserID
			id.bindings = append(id.bindings, b)
		}
	})
}

// Revoke takes all roles of a user on a resource.
func (id *Identity) Revoke(user authn.Caller, resource string) {
	id.change(func() {
		id.bindings = slices.DeleteFunc(id.bindings, func(b authz.Binding) bool {
			return b.Subject == "user/"+user.UserID && b.Resource == resource
		})
	})
}

// RevokeKey ends a key.
func (id *Identity) RevokeKey(keyID string) {
	id.change(func() {
		id.keys = slices.DeleteFunc(id.keys, func(k authz.KeyState) bool { return k.ID == keyID })
	})
}

// RemoveUser deletes a user.
func (id *Identity) RemoveUser(user authn.Caller) {
	id.change(func() {
		id.users = slices.DeleteFunc(id.users, func(u string) bool { return u == user.UserID })
	})
}

// Bindings returns the roles on a resource, as they stand.
func (id *Identity) Bindings(resource string) []authz.Binding {
	id.mu.Lock()
	defer id.mu.Unlock()
	var out []authz.Binding
	for _, b := range id.bindings {
		if b.Resource == resource {
			out = append(out, b)
		}
	}
	return out
}

func (id *Identity) change(f func()) {
	id.mu.Lock()
	f()
	id.version++
	id.mu.Unlock()
	id.Roles.Wake()
}

func (id *Identity) snapshot(_ context.Context, known int64) (*authz.Snapshot, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if known == id.version {
		return nil, nil
	}
	return authz.NewSnapshot(id.version, slices.Clone(id.bindings), slices.Clone(id.keys), slices.Clone(id.users)), nil
}

// Bare serves on a TCP port too and returns a connection that adds nothing to its calls, as a stranger's would not.
func Bare(t testing.TB, srv *rpc.Server) *grpc.ClientConn {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second) // t.Context has ended
		defer cancel()
		srv.Stop(ctx)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}
