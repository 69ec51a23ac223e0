package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

const prefix = "/entrepot.probing.v1.Probe/"

var methods = []method{
	{name: "Read", access: permission(authz.ChannelRead)},
	{name: "Upload", access: permission(authz.ChannelUpload)},
	{name: "Login", access: rule(optionsv1.Rule_RULE_LOGIN)},
	{name: "Anyone", access: rule(optionsv1.Rule_RULE_ANYONE)},
	{name: "Target", access: rule(optionsv1.Rule_RULE_TARGET)},
	{name: "WatchRead", access: permission(authz.ChannelRead), stream: true},
	{name: "WatchUpload", access: permission(authz.ChannelUpload), stream: true},
	{name: "WatchLogin", access: rule(optionsv1.Rule_RULE_LOGIN), stream: true},
	{name: "WatchAnyone", access: rule(optionsv1.Rule_RULE_ANYONE), stream: true},
	{name: "WatchTarget", access: rule(optionsv1.Rule_RULE_TARGET), stream: true},
}

type bundle struct {
	id   *rpctest.Identity
	srv  *rpc.Server
	impl *probe
	log  *bytes.Buffer
	conn *grpc.ClientConn
}

// setup serves a Probe whose handlers do nothing, with the channels priv (member: alice) and pub.
func setup(t testing.TB, edit ...func(*bundle)) *bundle {
	t.Helper()
	b := &bundle{id: rpctest.NewIdentity(t), impl: &probe{}, log: new(bytes.Buffer)}
	b.impl.unary = func(context.Context, *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
		return &channelsv1.Channel{}, nil
	}
	b.impl.stream = func(ss grpc.ServerStream) error {
		if err := ss.RecvMsg(new(channelsv1.GetChannelRequest)); err != nil {
			return err
		}
		return ss.SendMsg(&channelsv1.Channel{})
	}
	b.srv = rpc.NewServer(rpc.ServerConfig{
		Log: slog.New(slog.NewTextHandler(b.log, nil)), Verifier: b.id.Verifier, Roles: b.id.Roles,
		TargetVerifier: func(_ context.Context, name, secret string) error {
			if name == "test" && secret == rpctest.TargetSecret {
				return nil
			}
			return fault.New(fault.Unauthenticated, "no")
		},
	})
	b.srv.RegisterService(define(t, "probing", "Probe", b.impl, methods...), b.impl)
	b.srv.HandleResource(optionsv1.Resource_RESOURCE_CHANNEL, func(_ context.Context, name string) (authz.Resource, error) {
		if name != "priv" && name != "pub" {
			return authz.Resource{}, fault.New(fault.NotFound, "Channel %s not found", name)
		}
		return authz.Resource{Kind: authz.Channel, ID: name + "-id", Name: name, Namespace: "default", Public: name == "pub"}, nil
	})
	for _, f := range edit {
		f(b)
	}
	b.conn = b.id.Serve(t, b.srv, "probing")
	return b
}

func TestEveryMethodRefusesBadTokens(t *testing.T) {
	b := setup(t, func(b *bundle) {
		identityv1.RegisterIdentityServiceServer(b.srv, identityv1.UnimplementedIdentityServiceServer{})
		channelsv1.RegisterChannelServiceServer(b.srv, channelsv1.UnimplementedChannelServiceServer{})
	})
	tried := rpctest.RefusesBadTokens(t, rpctest.Bare(t, b.srv), rpctest.Signs(b.id.SigningKey))
	if len(tried) < len(methods)+30 {
		t.Errorf("tried only %d methods", len(tried))
	}
}

func TestAServerWithoutAPolicyDoesNotStart(t *testing.T) {
	good := method{name: "Good", access: rule(optionsv1.Rule_RULE_LOGIN)}
	resolve := func(s *rpc.Server) {
		s.HandleResource(optionsv1.Resource_RESOURCE_CHANNEL, func(context.Context, string) (authz.Resource, error) { return authz.Resource{}, nil })
	}
	for i, row := range []struct {
		name  string
		m     method
		setup func(*rpc.Server)
		inter rpc.Interceptor
		want  string
	}{
		{name: "a method without an option", m: method{name: "Bare"}, want: "/entrepot.probing.v1.Start0/Bare has no access option"},
		{name: "an option without a rule", m: method{name: "M", access: &optionsv1.Access{}}, want: "without a rule"},
		{name: "an unknown permission", m: method{name: "M", access: permission("channel.fly")}, setup: resolve, want: `"channel.fly", which no role holds`},
		{name: "a resource nobody resolves", m: method{name: "M", access: permission(authz.ChannelRead)}, want: "no resolver is registered"},
		{name: "a field that is not there", m: method{name: "M", access: &optionsv1.Access{Rule: optionsv1.Rule_RULE_PERMISSION, Permission: authz.ChannelRead, Resource: optionsv1.Resource_RESOURCE_CHANNEL, Field: "chanel"}}, setup: resolve, want: `no string field "chanel"`},
		{name: "a resource without a field", m: method{name: "M", access: &optionsv1.Access{Rule: optionsv1.Rule_RULE_PERMISSION, Permission: authz.ChannelRead, Resource: optionsv1.Resource_RESOURCE_CHANNEL}}, setup: resolve, want: "go together"},
		{name: "a permission that the rule ignores", m: method{name: "M", access: &optionsv1.Access{Rule: optionsv1.Rule_RULE_LOGIN, Permission: authz.ChannelRead}}, want: "does not look at"},
		{name: "an interceptor for unary calls only", m: good, inter: rpc.Interceptor{Name: "half", Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			return h(ctx, req)
		}}, want: `interceptor "half" is not the same`},
		{name: "a rule for a method that is not served", m: good, setup: func(s *rpc.Server) { s.HandleMethod("/x.Y/Z", rpc.MethodRule{}) }, want: "/x.Y/Z"},
		{name: "all is well", m: good},
	} {
		t.Run(row.name, func(t *testing.T) {
			id := rpctest.NewIdentity(t)
			var inter []rpc.Interceptor
			if row.inter.Name != "" {
				inter = append(inter, row.inter)
			}
			srv := id.Server(inter...)
			srv.RegisterService(define(t, "probing", fmt.Sprint("Start", i), &probe{}, row.m), nil)
			if row.setup != nil {
				row.setup(srv)
			}
			err := srv.Check()
			if row.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q in it", err, row.want)
			}
			lis := id.Network.Local("probing")
			defer lis.Close()
			if err := srv.Serve(lis); err == nil || !strings.Contains(err.Error(), "refuse to serve") {
				t.Errorf("Serve: got %v", err)
			}
		})
	}
}

func TestAccess(t *testing.T) {
	b := setup(t)
	alice := b.id.User("alice", authz.Binding{Role: authz.Member, Resource: "channel/priv-id"})
	bob := b.id.User("bob")
	gone := b.id.User("gone")
	b.id.RemoveUser(gone)
	callers := []authn.Caller{{}, bob, alice, gone, authn.Service("sync"), {UserID: alice.UserID, JobID: "j", Claim: 1}}
	// One letter a caller, in that order: y yes, u Unauthenticated, d Denied, n NotFound.
	for _, row := range []struct{ method, channel, want string }{
		{"Read", "pub", "yyyyyy"},
		{"Read", "priv", "udyuyy"},
		{"Read", "none", "nnnnnn"},
		{"Upload", "pub", "udduyd"},
		{"Upload", "priv", "udduyd"},
		{"Login", "", "uyyuyy"},
		{"Anyone", "", "yyyyyy"},
	} {
		for _, stream := range []string{"", "Watch"} {
			got := ""
			for _, c := range callers {
				err := invoke(authn.NewContext(t.Context(), c), b.conn, prefix+stream+row.method, row.channel)
				switch {
				case err == nil:
					got += "y"
				case fault.Is(err, fault.Unauthenticated):
					got += "u"
				case fault.Is(err, fault.Denied):
					got += "d"
				case fault.Is(err, fault.NotFound):
					got += "n"
				default:
					t.Errorf("%s%s on %s: %v", stream, row.method, row.channel, err)
				}
			}
			if got != row.want {
				t.Errorf("%s%s on %q: got %s, want %s", stream, row.method, row.channel, got, row.want)
			}
		}
	}
}

func TestOnlyThePlatformCallsTargetMethods(t *testing.T) {
	b := setup(t)
	var seen atomic.Pointer[authn.Caller]
	b.impl.unary = func(ctx context.Context, _ *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
		c := authn.FromContext(ctx)
		seen.Store(&c)
		return &channelsv1.Channel{}, nil
	}
	alice := b.id.User("alice", authz.Binding{Role: authz.Owner, Resource: "server"})
	conn := rpctest.Bare(t, b.srv)
	token := func(c authn.Caller) context.Context {
		s, _, err := b.id.Signer.Sign(c, "probing")
		if err != nil {
			t.Fatal(err)
		}
		return metadata.AppendToOutgoingContext(t.Context(), rpc.MetadataToken, s)
	}
	for _, m := range []string{"Target", "WatchTarget"} {
		for _, c := range []authn.Caller{{}, alice} {
			if err := invoke(token(c), conn, prefix+m, ""); status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s by %s: got %v, want PermissionDenied", m, c.Actor(), err)
			}
		}
		if err := invoke(token(authn.Service("sync")), conn, prefix+m, ""); err != nil {
			t.Errorf("%s by a target: %v", m, err)
		}
		credential := metadata.AppendToOutgoingContext(t.Context(), rpc.MetadataTarget, "test:"+rpctest.TargetSecret)
		if err := invoke(credential, conn, prefix+m, ""); err != nil {
			t.Errorf("%s with a credential: %v", m, err)
		}
		both := metadata.AppendToOutgoingContext(token(alice), rpc.MetadataTarget, "test:"+rpctest.TargetSecret)
		if err := invoke(both, conn, prefix+m, ""); err != nil {
			t.Errorf("%s with a credential for a user: %v", m, err)
		}
	}
	if diff := cmp.Diff(authn.Service("test"), *seen.Load()); diff == "" {
		t.Error("the token's caller should have precedence over the credential")
	}
	credential := metadata.AppendToOutgoingContext(t.Context(), rpc.MetadataTarget, "test:"+rpctest.TargetSecret)
	if err := invoke(credential, conn, prefix+"Anyone", ""); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a credential opens other methods: %v", err)
	}
	// Our client goes as itself on its own accord.
	if err := invoke(authn.NewContext(t.Context(), alice), b.conn, prefix+"Target", ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(authn.Service("test"), *seen.Load()); diff != "" {
		t.Error(diff)
	}
	if err := invoke(rpc.AsTarget(t.Context()), b.conn, prefix+"Login", ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(authn.Service("test"), *seen.Load()); diff != "" {
		t.Error(diff)
	}
}

func TestQuetzOrderOfChecks(t *testing.T) {
	refused := fault.New(fault.Unimplemented, "This method is not implemented for mirror channels")
	b := setup(t, func(b *bundle) {
		b.srv.HandleMethod(prefix+"Upload", rpc.MethodRule{
			Resources: func(_ context.Context, req proto.Message, res authz.Resource) ([]authz.Resource, error) {
				return []authz.Resource{res.PackageOf("own")}, nil
			},
			Check: func(_ context.Context, _ proto.Message, res authz.Resource) error {
				if res.Name == "pub" {
					return refused
				}
				return nil
			},
		})
	})
	var seen authz.Resource
	b.impl.unary = func(ctx context.Context, _ *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
		seen, _ = rpc.ResourceFrom(ctx)
		return &channelsv1.Channel{}, nil
	}
	packager := b.id.User("packager", authz.Binding{Role: authz.Maintainer, Resource: "package/priv-id/own"})
	bob := b.id.User("bob")
	for _, row := range []struct {
		caller  authn.Caller
		channel string
		want    string
	}{
		{authn.Caller{}, "none", "Channel none not found"},
		{authn.Caller{}, "priv", "Not logged in"},
		{bob, "priv", "No permission"},
		{authn.Caller{}, "pub", refused.Message},
		{bob, "pub", refused.Message},
		{packager, "priv", ""},
	} {
		err := invoke(authn.NewContext(t.Context(), row.caller), b.conn, prefix+"Upload", row.channel)
		if got := fmt.Sprint(err); got != row.want && (err != nil || row.want != "") {
			t.Errorf("%s on %s: got %v, want %q", row.caller.Actor(), row.channel, err, row.want)
		}
	}
	want := authz.Resource{Kind: authz.Channel, ID: "priv-id", Name: "priv", Namespace: "default"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

func TestARevokedKeyReadsAsNobody(t *testing.T) {
	b := setup(t)
	seen := make(chan authn.Caller, 2)
	b.impl.unary = func(ctx context.Context, _ *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
		seen <- authn.FromContext(ctx)
		return &channelsv1.Channel{}, nil
	}
	key := b.id.Key(b.id.User("alice", authz.Binding{Role: authz.Member, Resource: "channel/priv-id"}))
	ctx := authn.NewContext(t.Context(), key)
	if err := invoke(ctx, b.conn, prefix+"Read", "priv"); err != nil {
		t.Fatal(err)
	}
	<-seen
	b.id.RevokeKey(key.KeyID)
	if err := b.id.Roles.Await(t.Context(), b.id.Roles.Snapshot().Version()+1); err != nil {
		t.Fatal(err)
	}
	if err := invoke(ctx, b.conn, prefix+"Read", "priv"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("private: got %v", err)
	}
	for _, m := range []string{"Read", "Anyone"} {
		if err := invoke(ctx, b.conn, prefix+m, "pub"); err != nil {
			t.Fatal(err)
		}
		if c := <-seen; !c.Anonymous() {
			t.Errorf("%s: the handler saw %+v", m, c)
		}
	}
}

func TestErrorsArriveAsTheyWere(t *testing.T) {
	b := setup(t)
	var next error
	b.impl.unary = func(context.Context, *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) { return nil, next }
	b.impl.stream = func(ss grpc.ServerStream) error {
		if err := ss.RecvMsg(new(channelsv1.GetChannelRequest)); err != nil {
			return err
		}
		return next
	}
	ctx := t.Context()
	for kind := fault.Internal; kind <= fault.Unimplemented; kind++ {
		want := fault.New(kind, "what went wrong with %s", kind).WithReason("SOME_REASON").WithRetryAfter(1500 * time.Millisecond)
		want.Violations = []fault.Violation{{Field: "name", Description: "too long"}, {Field: "roles[0].role", Description: "unknown"}}
		next = fmt.Errorf("do it: %w", want)
		if kind == fault.Internal {
			want = &fault.Error{Message: "internal error", Reason: want.Reason, Violations: want.Violations, RetryAfter: want.RetryAfter}
		}
		if kind == fault.Upstream {
			want = &fault.Error{Kind: kind, Message: want.Message, Reason: "UPSTREAM_SOME_REASON", Violations: want.Violations, RetryAfter: want.RetryAfter}
		}
		for _, m := range []string{"Anyone", "WatchAnyone"} {
			var got *fault.Error
			if err := invoke(ctx, b.conn, prefix+m, ""); !errors.As(err, &got) {
				t.Fatalf("%s: got %v, which is no fault", kind, err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(fault.Error{})); diff != "" {
				t.Errorf("%s through %s: %s", kind, m, diff)
			}
		}
	}
	for name, row := range map[string]struct {
		err  error
		kind fault.Kind
	}{
		"a plain error":        {errors.New("password is hunter2"), fault.Internal},
		"a deadline":           {context.DeadlineExceeded, fault.Timeout},
		"a foreign status":     {status.Error(codes.NotFound, "nothing"), fault.NotFound},
		"a status of our own":  {rpc.ToStatus(fault.New(fault.LostRace, "again")), fault.LostRace},
		"a status unavailable": {status.Error(codes.Unavailable, "dial tcp 10.1.2.3:9091: refused"), fault.Unavailable},
	} {
		next = row.err
		err := invoke(ctx, b.conn, prefix+"Anyone", "")
		if !fault.Is(err, row.kind) {
			t.Errorf("%s: got %v, want %s", name, err, row.kind)
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") || strings.Contains(fmt.Sprint(err), "10.1.2.3") {
			t.Errorf("%s: the message tells too much: %v", name, err)
		}
	}
	if !strings.Contains(b.log.String(), "hunter2") {
		t.Error("the log should have the details")
	}
}

func TestAPanicBecomesInternalWithoutDetails(t *testing.T) {
	b := setup(t)
	b.impl.unary = func(context.Context, *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
		panic("secret state")
	}
	b.impl.stream = func(grpc.ServerStream) error { panic("secret state") }
	for _, m := range []string{"Anyone", "WatchAnyone"} {
		b.log.Reset()
		ctx := telemetry.WithRequestID(t.Context(), "req-1")
		err := invoke(ctx, b.conn, prefix+m, "")
		if !fault.Is(err, fault.Internal) || err.Error() != "internal error" {
			t.Errorf("%s: got %v", m, err)
		}
		if log := b.log.String(); !strings.Contains(log, "secret state") || !strings.Contains(log, "req-1") {
			t.Errorf("%s: the log says only %s", m, log)
		}
	}
}

func TestAStreamSaysNothingBeforeItIsAuthorised(t *testing.T) {
	b := setup(t)
	b.impl.stream = func(ss grpc.ServerStream) error { return ss.SendMsg(&channelsv1.Channel{Name: "secret"}) }
	if err := invoke(t.Context(), b.conn, prefix+"WatchRead", "priv"); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want Internal", err)
	}
}

func TestValidation(t *testing.T) {
	b := setup(t, func(b *bundle) {
		rpc.Validate(b.srv, func(r *channelsv1.GetChannelRequest) error {
			if r.GetChannel() == "bad" {
				return fault.Field("channel", "should not be bad")
			}
			return nil
		})
	})
	for _, m := range []string{"Anyone", "WatchAnyone"} {
		if err := invoke(t.Context(), b.conn, prefix+m, "bad"); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want Invalid", m, err)
		}
		if err := invoke(t.Context(), b.conn, prefix+m, "good"); err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
}

func TestClient(t *testing.T) {
	t.Run("metadata of others does not travel on, and the request id does", func(t *testing.T) {
		b := setup(t)
		var got metadata.MD
		var id string
		b.impl.unary = func(ctx context.Context, _ *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
			got, _ = metadata.FromIncomingContext(ctx)
			id = telemetry.RequestID(ctx)
			return &channelsv1.Channel{}, nil
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.MetadataToken, "stolen", rpc.MetadataTarget, "x:y", rpc.MetadataRequestID, "theirs")
		if err := invoke(telemetry.WithRequestID(ctx, "mine"), b.conn, prefix+"Anyone", ""); err != nil {
			t.Fatal(err)
		}
		if len(got[rpc.MetadataToken]) != 1 || got[rpc.MetadataTarget] != nil || id != "mine" {
			t.Errorf("got %v, id %q", got, id)
		}
		if err := invoke(t.Context(), b.conn, prefix+"Anyone", ""); err != nil || !rpc.ValidRequestID(id) || id == "mine" {
			t.Errorf("got id %q, %v", id, err)
		}
	})
	t.Run("a unary call has a deadline", func(t *testing.T) {
		b := setup(t)
		var left time.Duration
		b.impl.unary = func(ctx context.Context, _ *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
			d, ok := ctx.Deadline()
			if ok {
				left = time.Until(d)
			}
			return &channelsv1.Channel{}, nil
		}
		if err := invoke(t.Context(), b.conn, prefix+"Anyone", ""); err != nil {
			t.Fatal(err)
		}
		if left <= rpc.DefaultTimeout-5*time.Second || left > rpc.DefaultTimeout {
			t.Errorf("left %v", left)
		}
	})
	t.Run("a call waits for a server that starts later", func(t *testing.T) {
		id := rpctest.NewIdentity(t)
		impl := &probe{unary: func(context.Context, *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
			return &channelsv1.Channel{}, nil
		}}
		srv := id.Server()
		srv.RegisterService(define(t, "probing", "Late", impl, method{name: "Anyone", access: rule(optionsv1.Rule_RULE_ANYONE)}), impl)
		lis := id.Network.Local("probing")
		conn, err := id.Network.Dial("probing")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- invoke(context.Background(), conn, "/entrepot.probing.v1.Late/Anyone", "") }()
		served := make(chan error, 1)
		go func() { served <- srv.Serve(lis) }()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Run("a token that a rotation made worthless is replaced within the call", func(t *testing.T) {
		b := setup(t)
		stale := rpctest.NewKey(t, "withdrawn")
		old := rpctest.Signs(stale)(t, authn.Caller{}, "probing", time.Now())
		var minted atomic.Int32
		n := rpc.NewNetwork(rpc.NetworkConfig{Target: "test", Minter: func(_ context.Context, c authn.Caller, aud string) (string, time.Time, error) {
			if minted.Add(1) == 1 {
				return old, time.Now().Add(time.Minute), nil
			}
			return b.id.Signer.Sign(c, aud)
		}})
		rpctest.Serve(t, b.srv, n, "probing")
		conn, err := n.Dial("probing")
		if err != nil {
			t.Fatal(err)
		}
		if err := invoke(t.Context(), conn, prefix+"Anyone", ""); err != nil || minted.Load() != 2 {
			t.Errorf("got %v after %d tokens", err, minted.Load())
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the failure of a token is the failure of the call", func(t *testing.T) {
		n := rpc.NewNetwork(rpc.NetworkConfig{Minter: func(context.Context, authn.Caller, string) (string, time.Time, error) {
			return "", time.Time{}, fault.New(fault.LostRace, "the claim is not current")
		}})
		lis := n.Local("probing")
		defer lis.Close()
		conn, err := n.Dial("probing")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"Anyone", "WatchAnyone"} {
			if err := invoke(t.Context(), conn, prefix+m, ""); !fault.Is(err, fault.LostRace) {
				t.Errorf("%s: got %v", m, err)
			}
		}
		if err := errors.Join(n.Close(), n.Close()); err != nil {
			t.Error(err)
		}
		if _, err := n.Dial("probing"); err == nil {
			t.Error("a closed network dials")
		}
	})
	t.Run("an unknown service is an error at once", func(t *testing.T) {
		if _, err := rpc.NewNetwork(rpc.NetworkConfig{}).Dial("nowhere"); err == nil {
			t.Error("dialled")
		}
	})
}

func TestHealthNeedsNoToken(t *testing.T) {
	b := setup(t)
	conn := rpctest.Bare(t, b.srv)
	for _, serving := range []bool{true, false} {
		b.srv.SetServing(serving)
		res, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err != nil || (res.GetStatus() == healthpb.HealthCheckResponse_SERVING) != serving {
			t.Errorf("got %v, %v", res, err)
		}
	}
}

func TestAudiences(t *testing.T) {
	for service, want := range map[string]string{
		"entrepot.channels.v1.ChannelService": "channels", "entrepot.rest.quetz.v1.QuetzService": "gateway", "Plain": "", "a.B": "",
	} {
		if got := rpc.Audience(service); got != want {
			t.Errorf("Audience(%q) = %q, want %q", service, got, want)
		}
	}
}

// BenchmarkCall compares, over memory: a naked gRPC call; one with our client and telemetry, but without identity; and
// one with all that authentication and authorisation add to it. The last two are what D13 may cost.
func BenchmarkCall(b *testing.B) {
	impl := &probe{unary: func(context.Context, *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
		return &channelsv1.Channel{}, nil
	}}
	naked := func(b *testing.B, lis net.Listener, opts ...grpc.ServerOption) (*grpc.Server, string) {
		desc := define(b, "probing", "Naked", impl, method{name: "Anyone"})
		desc.Methods[0].Handler = func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := new(channelsv1.GetChannelRequest)
			if err := dec(req); err != nil {
				return nil, err
			}
			return impl.unary(ctx, req)
		}
		srv := grpc.NewServer(opts...)
		srv.RegisterService(desc, impl)
		done := make(chan error, 1)
		go func() { done <- srv.Serve(lis) }()
		b.Cleanup(func() {
			srv.Stop()
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
		return srv, "/" + desc.ServiceName + "/Anyone"
	}
	run := func(b *testing.B, ctx context.Context, conn *grpc.ClientConn, full string) {
		b.ReportAllocs()
		for b.Loop() {
			if err := invoke(ctx, conn, full, "priv"); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("naked", func(b *testing.B) {
		lis := bufconn.Listen(256 << 10)
		srv, full := naked(b, lis)
		conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
		if err != nil {
			b.Fatal(err)
		}
		run(b, b.Context(), conn, full)
		srv.Stop()
		if err := conn.Close(); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("without identity", func(b *testing.B) {
		n := rpc.NewNetwork(rpc.NetworkConfig{})
		_, full := naked(b, n.Local("probing"), grpc.StatsHandler(otelgrpc.NewServerHandler()))
		conn, err := n.Dial("probing")
		if err != nil {
			b.Fatal(err)
		}
		run(b, b.Context(), conn, full)
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
	})
	b.Run("whole", func(b *testing.B) {
		s := setup(b)
		ctx := authn.NewContext(b.Context(), s.id.User("alice", authz.Binding{Role: authz.Member, Resource: "channel/priv-id"}))
		run(b, ctx, s.conn, prefix+"Read")
	})
}
