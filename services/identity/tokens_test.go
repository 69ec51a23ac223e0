package identity_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	"github.com/entrepot-dev/entrepot/services/identity"
)

func TestMintToken(t *testing.T) {
	b := setup(t)
	gateway := b.client
	pools := b.as(t, "sync-worker")
	rpctest.Serve(t, b.srv, pools, "identity")
	pool := b.dial(t, pools)
	all := b.as(t, "all")
	rpctest.Serve(t, b.srv, all, "identity")
	everything := b.dial(t, all)

	alice, job := uuid.NewString(), uuid.NewString()
	b.jobs = func(_ context.Context, id string, claim int64) (authn.Caller, error) {
		switch {
		case id != job:
			return authn.Caller{}, fault.New(fault.NotFound, "no such job")
		case claim == 9:
			return authn.Service("sync"), nil
		case claim != 3:
			return authn.Caller{}, fault.New(fault.LostRace, "the claim is not current")
		}
		return authn.Caller{UserID: alice, Name: "alice"}, nil
	}
	verifier := authn.NewVerifier(authn.RemoteKeys(gateway), nil)
	for _, row := range []struct {
		name   string
		client identityv1.IdentityServiceClient
		caller authn.Caller
		want   authn.Caller
		kind   fault.Kind // Internal: none
	}{
		{name: "the gateway for a user", client: gateway, caller: authn.Caller{UserID: alice, Name: "alice", KeyID: "k"}, want: authn.Caller{UserID: alice, Name: "alice", KeyID: "k"}},
		{name: "the gateway for nobody", client: gateway},
		{name: "the gateway for itself", client: gateway, caller: authn.Service("gateway"), want: authn.Service("gateway")},
		{name: "the gateway for another target", client: gateway, caller: authn.Service("sync"), kind: fault.Denied},
		{name: "one process of all for its parts", client: everything, caller: authn.Service("sync"), want: authn.Service("sync")},
		{name: "a pool for itself", client: pool, caller: authn.Service("sync-worker"), want: authn.Service("sync-worker")},
		{name: "a pool for a user", client: pool, caller: authn.Caller{UserID: alice}, kind: fault.Denied},
		{name: "a pool for its job", client: pool, caller: authn.Caller{JobID: job, Claim: 3}, want: authn.Caller{UserID: alice, Name: "alice", JobID: job, Claim: 3}},
		{name: "a pool for its job, by its user", client: pool, caller: authn.Caller{UserID: alice, JobID: job, Claim: 3}, want: authn.Caller{UserID: alice, Name: "alice", JobID: job, Claim: 3}},
		{name: "a pool for its job, as somebody else", client: pool, caller: authn.Caller{UserID: uuid.NewString(), JobID: job, Claim: 3}, kind: fault.Denied},
		{name: "a scheduled job", client: pool, caller: authn.Caller{JobID: job, Claim: 9}, want: authn.Caller{Target: "sync", Name: "service:sync", JobID: job, Claim: 9}},
		{name: "an old claim", client: pool, caller: authn.Caller{JobID: job, Claim: 2}, kind: fault.LostRace},
		{name: "no such job", client: pool, caller: authn.Caller{JobID: uuid.NewString(), Claim: 3}, kind: fault.NotFound},
		{name: "a user who is no UUID", client: gateway, caller: authn.Caller{UserID: "root"}, kind: fault.Invalid},
	} {
		token, expires, err := authn.RemoteMinter(row.client)(t.Context(), row.caller, "channels")
		if row.kind != fault.Internal {
			if !fault.Is(err, row.kind) {
				t.Errorf("%s: got %v, want %v", row.name, err, row.kind)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		got, err := verifier.Verify(t.Context(), token, "channels")
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
		if left := time.Until(expires); left < 55*time.Second || left > 61*time.Second {
			t.Errorf("%s: lives %v", row.name, left)
		}
	}
	for _, audience := range []string{"", "a b", "Channels"} {
		_, err := gateway.MintToken(t.Context(), &identityv1.MintTokenRequest{Audience: audience})
		wantKind(t, err, fault.Invalid, "")
	}
	_, err := pool.CreateSession(t.Context(), &identityv1.CreateSessionRequest{Username: "alice"})
	wantKind(t, err, fault.Denied, "sync-worker does not act for users")
	_, err = pool.Authenticate(t.Context(), &identityv1.AuthenticateRequest{ApiKey: b.key})
	wantKind(t, err, fault.Denied, "sync-worker does not act for users")
	_, err = pool.DeleteResourceBindings(t.Context(), &identityv1.DeleteResourceBindingsRequest{Resource: mainChannel.String()})
	wantKind(t, err, fault.Denied, "sync-worker does not act for users")
	_, err = pool.ChangeBinding(authn.NewContext(t.Context(), authn.Caller{JobID: job, Claim: 3}), &identityv1.ChangeBindingRequest{
		Username: "bob", Binding: &identityv1.Binding{Role: "owner", Resource: mainChannel.String()},
	})
	wantKind(t, err, fault.Denied, "sync-worker does not act for users")
}

func TestHeldJobs(t *testing.T) {
	pool := pgtest.New(t, jobs.Schema)
	verify := identity.HeldJobs(pool)
	alice := authn.Caller{UserID: uuid.NewString(), Name: "alice", KeyID: "k", Scoped: true, Scope: []authn.Grant{{Role: "member", Resource: "channel/x"}}}
	data, err := alice.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	add := func(state, name string, data []byte) string {
		t.Helper()
		id := uuid.NewString()
		_, err := pool.Exec(t.Context(), `INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, principal_name, principal, claim)
			VALUES ($1, 'a.b', 'x', '', $2, 1, 'default', $3, $4, 4)`, id, state, name, data)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	running := add("running", "alice", data)
	for _, row := range []struct {
		name  string
		job   string
		claim int64
		want  authn.Caller
		kind  fault.Kind // Internal: none
	}{
		{name: "the holder", job: running, claim: 4, want: alice},
		{name: "an old claim", job: running, claim: 3, kind: fault.LostRace},
		{name: "a job that has ended", job: add("succeeded", "alice", data), claim: 4, kind: fault.LostRace},
		{name: "a job of the platform", job: add("running", "service:channels", []byte{}), claim: 4, want: authn.Service("channels")},
		{name: "a job of nobody", job: add("running", "", []byte{}), claim: 4},
		{name: "an unknown job", job: uuid.NewString(), claim: 4, kind: fault.LostRace},
		{name: "no job", job: "x", claim: 4, kind: fault.Invalid},
	} {
		got, err := verify(t.Context(), row.job, row.claim)
		if (err == nil) != (row.kind == fault.Internal) || (err != nil && !fault.Is(err, row.kind)) {
			t.Errorf("%s: got %v", row.name, err)
		}
		if diff := cmp.Diff(row.want, got); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
}

// A token is something borrowed: only a credential makes new ones.
func TestATokenMintsNoTokens(t *testing.T) {
	b := setup(t)
	token, _, err := authn.RemoteMinter(b.client)(t.Context(), authn.Service("gateway"), "identity")
	if err != nil {
		t.Fatal(err)
	}
	client := identityv1.NewIdentityServiceClient(rpctest.Bare(t, b.srv))
	ctx := outgoing(t, rpc.MetadataToken, token)
	if _, err := client.GetVerificationKeys(ctx, &identityv1.GetVerificationKeysRequest{}); err != nil {
		t.Fatalf("the token itself is good: %v", err)
	}
	_, err = client.MintToken(ctx, &identityv1.MintTokenRequest{Audience: "channels"})
	wantKind(t, rpc.FromStatus(err), fault.Denied, "this needs a target credential")
	_, err = client.CreateSession(ctx, &identityv1.CreateSessionRequest{Username: "alice"})
	wantKind(t, rpc.FromStatus(err), fault.Denied, "this needs a target credential")
}

func TestTargetCredentials(t *testing.T) {
	b := setup(t)
	verify := b.svc.TargetVerifier()
	derived := identity.TargetSecret(b.master, "sync")
	for _, row := range []struct {
		name, secret string
		ok           bool
	}{
		{"sync", derived, true},
		{"sync", "configured", true},
		{"gateway", identity.TargetSecret(b.master, "gateway"), true},
		{"sync", "", false},
		{"sync", "guess", false},
		{"gateway", derived, false},
		{"gateway", "configured", false},
		{"gateway", "", false},
		{"nobody", identity.TargetSecret(b.master, "nobody"), false},
		{"", "", false},
	} {
		if err := verify(t.Context(), row.name, row.secret); (err == nil) != row.ok {
			t.Errorf("%s with %q: %v", row.name, row.secret, err)
		}
	}
}

func TestSigningKeys(t *testing.T) {
	ids := func(t *testing.T, svc *identity.Service) []string {
		t.Helper()
		keys, err := svc.KeySource()(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out := make([]string, 0, len(keys))
		for _, k := range keys {
			out = append(out, k.ID)
		}
		return out
	}
	t.Run("replicas share them, and two are valid while one follows the other", func(t *testing.T) {
		b := setup(t)
		old := ids(t, b.svc)
		other := b.open(t)
		if diff := cmp.Diff(old, ids(t, other)); diff != "" || len(old) != 1 {
			t.Fatal(diff, old)
		}
		if err := b.svc.RotateSigningKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		both := ids(t, b.svc)
		if len(both) != 2 || both[1] != old[0] {
			t.Errorf("got %v after %v", both, old)
		}
		if diff := cmp.Diff(both, ids(t, b.open(t))); diff != "" {
			t.Error(diff)
		}
		b.clock.advance(11 * time.Minute)
		if diff := cmp.Diff(both[:1], ids(t, b.open(t))); diff != "" {
			t.Error("the old one should have ended:", diff)
		}
	})
	t.Run("an old key is replaced when a replica looks", func(t *testing.T) {
		b := setup(t)
		old := ids(t, b.svc)
		b.clock.advance(31 * 24 * time.Hour)
		first := ids(t, b.open(t))
		if len(first) != 2 || first[0] == old[0] {
			t.Errorf("got %v after %v", first, old)
		}
		if diff := cmp.Diff(first, ids(t, b.open(t))); diff != "" {
			t.Error("the second replica made another:", diff)
		}
	})
	t.Run("they are sealed: another master key is told at the start", func(t *testing.T) {
		b := setup(t)
		other, err := seal.LoadOrCreate(filepath.Join(t.TempDir(), "master-key"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.New(t.Context(), identity.Config{}, identity.Deps{Pool: b.pool, Roles: b.roles, Master: other})
		wantKind(t, err, fault.Precondition, "")
	})
}
