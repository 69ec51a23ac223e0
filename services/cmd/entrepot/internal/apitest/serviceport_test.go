package apitest

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// signingKey opens the platform's own signing key, as only who has both the database and the master key can.
func signingKey(t *testing.T, s *platformtest.Stack) authn.Key {
	t.Helper()
	master, err := seal.LoadOrCreate(filepath.Join(s.DataDir, "master-key"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var id string
	var sealed []byte
	if err := conn.QueryRow(t.Context(), "SELECT id, sealed FROM identity.signing_keys WHERE retire_time IS NULL").Scan(&id, &sealed); err != nil {
		t.Fatal(err)
	}
	seed, err := master.Open(sealed, "signing-key/"+id)
	if err != nil {
		t.Fatal(err)
	}
	return authn.Key{ID: id, Private: ed25519.NewKeyFromSeed(seed)}
}

// TestServicePort calls every method of every service past the edge: without a good internal token all are closed.
func TestServicePort(t *testing.T) {
	s := platformtest.Start(t)
	conn := s.ServiceConn()
	sign := rpctest.Signs(signingKey(t, s))
	methods := rpctest.RefusesBadTokens(t, conn, sign)
	services := map[string]bool{}
	for _, m := range methods {
		services[strings.Split(m, "/")[1]] = true
	}
	want := map[string]bool{"entrepot.rest.quetz.v1.QuetzService": true}
	for _, name := range gateway.Services {
		want[string(name)] = true
	}
	if diff := cmp.Diff(want, services); diff != "" {
		t.Errorf("the services of the platform (-want +got):\n%s", diff)
	}

	t.Run("health needs no token", func(t *testing.T) {
		h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%v, %v", h, err)
		}
	})
	t.Run("a good token is taken for its audience, so the refusals above mean something", func(t *testing.T) {
		token := sign(t, authn.Caller{}, "channels", time.Now())
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.MetadataToken, token)
		if err := conn.Invoke(ctx, "/entrepot.channels.v1.ChannelService/ListChannels", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
			t.Error(err)
		}
		err := conn.Invoke(ctx, "/entrepot.identity.v1.IdentityService/ListNamespaces", &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("for another audience: %v", err)
		}
	})
	t.Run("a user's token opens nothing that is for parts of the platform", func(t *testing.T) {
		alice := userID(t, s, "alice")
		for _, m := range methods {
			policies, err := rpc.Policies(strings.Split(m, "/")[1])
			if err != nil {
				t.Fatal(err)
			}
			if policies[m].Access.GetRule().String() != "RULE_TARGET" {
				continue
			}
			token := sign(t, authn.Caller{UserID: alice, Name: "alice"}, rpc.Audience(strings.Split(m, "/")[1]), time.Now())
			ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.MetadataToken, token)
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, m)
			if err == nil {
				_ = stream.SendMsg(&emptypb.Empty{})
				_ = stream.CloseSend()
				err = stream.RecvMsg(&emptypb.Empty{})
			}
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: %v", m, err)
			}
		}
	})
	t.Run("an API key is nothing here", func(t *testing.T) {
		_, err := identityv1.NewIdentityServiceClient(conn).GetMe(bearer(t.Context(), s.AdminKey), &identityv1.GetMeRequest{})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%v", err)
		}
	})
}

func userID(t *testing.T, s *platformtest.Stack, name string) string {
	t.Helper()
	var u struct{ ID string }
	s.Admin().In(t).Must(200, "GET", "/entrepot/v1/users/"+name, nil).JSON(&u)
	return u.ID
}

// TestDataPlane: the port that serves bytes wants a grant for each.
func TestDataPlane(t *testing.T) {
	s := platformtest.Start(t)
	p := packages(t)[0]
	s.Admin().Must(201, "POST", "/api/channels/channel0/upload/"+p.filename+"?sha256=", p.data)
	base := "http://" + s.DataAddr
	for _, path := range []string{
		"/", "/blobs", "/blobs/" + p.sha256, "/blobs/sha256/" + p.sha256, "/v1/blobs/" + p.sha256, "/" + p.sha256, "/blobs/sha256:" + p.sha256,
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
			for name, h := range map[string]http.Header{
				"none": {}, "nonsense": {"Entrepot-Grant": {"nonsense"}}, "an API key": {"Entrepot-Grant": {s.AdminKey}},
				"a key beside": {"X-Api-Key": {s.AdminKey}}, "two": {"Entrepot-Grant": {"a", "b"}},
			} {
				resp := s.Anonymous().Send(0, platformtest.Request{Method: method, Path: base + path + "?grant=x", Body: "x", Header: h})
				if resp.Status < 400 || resp.Status >= 500 || strings.Contains(string(resp.Body), string(p.data[:16])) {
					t.Errorf("%s %s with %s: %d", method, path, name, resp.Status)
				}
			}
		}
	}
}

// TestEveryMethodHasAPolicy: rpc.Server refuses to start otherwise, which the tests of pkg/rpc show.
func TestEveryMethodHasAPolicy(t *testing.T) {
	for _, service := range append([]string{"entrepot.rest.quetz.v1.QuetzService"}, names(gateway.Services)...) {
		if _, err := rpc.Policies(service); err != nil {
			t.Error(err)
		}
	}
	if _, err := rpc.Policies("grpc.health.v1.Health"); err == nil {
		t.Errorf("a service without access options: %v", err)
	}
}

func names[S ~string](list []S) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}
