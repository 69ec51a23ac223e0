package apitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/gateway"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	quetzv1 "github.com/entrepot-dev/entrepot/proto/entrepot/rest/quetz/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func bearer(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
}

// TestFrontDoor: what another system does by gRPC, and what it cannot.
func TestFrontDoor(t *testing.T) {
	w := newWorld(t)
	conn := w.Conn()
	channels := channelsv1.NewChannelServiceClient(conn)
	admin := bearer(t.Context(), w.AdminKey)

	t.Run("a channel is made and shown", func(t *testing.T) {
		private := false
		made, err := channels.CreateChannel(admin, &channelsv1.CreateChannelRequest{Name: "grpc", Private: &private})
		if err != nil || made.GetName() != "grpc" || made.GetHead() != 1 {
			t.Fatalf("%v, %v", made, err)
		}
		if got, err := channels.GetChannel(t.Context(), &channelsv1.GetChannelRequest{Channel: "grpc"}); err != nil || got.GetId() != made.GetId() {
			t.Errorf("anonymous: %v, %v", got, err)
		}
	})
	t.Run("a stream arrives in full", func(t *testing.T) {
		if _, err := channels.CreateChannel(admin, &channelsv1.CreateChannelRequest{Name: "mir", Mirror: &channelsv1.MirrorSettings{Url: upstream(t).URL}}); err != nil {
			t.Fatal(err)
		}
		job, err := syncv1.NewSyncServiceClient(conn).StartSync(admin, &syncv1.StartSyncRequest{Channel: "mir"})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := jobsv1.NewJobServiceClient(conn).WatchJob(admin, &jobsv1.WatchJobRequest{Id: job.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		var last *jobsv1.Job
		for {
			ev, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if ev.GetState() != nil {
				last = ev.GetState()
			}
		}
		if last.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED {
			t.Errorf("the last state is %v", last)
		}
	})
	t.Run("errors keep code and text", func(t *testing.T) {
		_, err := channels.GetChannel(admin, &channelsv1.GetChannelRequest{Channel: "none"})
		if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "Channel none not found" {
			t.Errorf("%v", err)
		}
		_, err = channels.CreateChannel(t.Context(), &channelsv1.CreateChannelRequest{Name: "x"})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("anonymous: %v", err)
		}
		_, err = channels.DeleteChannel(bearer(t.Context(), w.User("erin").Key), &channelsv1.DeleteChannelRequest{Channel: "grpc"})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("stranger: %v", err)
		}
	})
	t.Run("keys that are none are refused", func(t *testing.T) {
		for name, pairs := range map[string][]string{
			"nonsense":     {"authorization", "Bearer nonsense"},
			"expired":      {"authorization", "Bearer " + w.expiredKey},
			"Basic":        {"authorization", "Basic YTpi"},
			"no scheme":    {"authorization", w.AdminKey},
			"no key":       {"authorization", "Bearer "},
			"two":          {"authorization", "Bearer " + w.AdminKey, "authorization", "Bearer " + w.AdminKey},
			"two in one":   {"authorization", "Bearer " + w.AdminKey + ", Bearer " + w.AdminKey},
			"a wider case": {"authorization", "Bearer " + strings.ToUpper(w.AdminKey)},
		} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), pairs...)
			if _, err := channels.ListChannels(ctx, &channelsv1.ListChannelsRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	t.Run("internal methods do not exist, with the right key or none", func(t *testing.T) {
		for full, access := range rpcs(t) {
			if !access.GetInternal() {
				continue
			}
			i := strings.LastIndexByte(full, '.')
			for name, ctx := range map[string]context.Context{"admin": admin, "anonymous": t.Context()} {
				err := conn.Invoke(ctx, "/"+full[:i]+"/"+full[i+1:], &emptypb.Empty{}, &emptypb.Empty{})
				if status.Code(err) != codes.Unimplemented {
					t.Errorf("%s as %s: %v", full, name, err)
				}
			}
		}
		for _, m := range []string{
			quetzv1.QuetzService_GetChannel_FullMethodName, "/entrepot.channels.v1.ChannelService/Nothing", "/Nothing/At/All", "/", "",
			"/entrepot.channels.v1.ChannelService/../ChannelService/Resolve", "//entrepot.channels.v1.ChannelService/GetChannel",
			"/entrepot.channels.v1.ChannelService/getchannel", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
		} {
			if err := conn.Invoke(admin, m, &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
				t.Errorf("%q: %v", m, err)
			}
		}
	})
	t.Run("metadata of a stranger's reaches no service", func(t *testing.T) {
		erin := w.User("erin").Key
		for _, pairs := range [][]string{
			{"entrepot-target", "gateway:guess"},
			{"entrepot-target", "all:" + w.AdminKey},
			{"entrepot-token", "x"},
			{"x-entrepot-token", "x"},
			{"x-user-id", "alice"},
			{"grpc-metadata-authorization", "Bearer " + w.AdminKey},
			{"grpcgateway-authorization", "Bearer " + w.AdminKey},
			{"x-api-key", w.AdminKey},
			{"cookie", w.Login("alice")},
			{"x-forwarded-user", "alice"},
			{"entrepot-token-bin", "\x00\xff"},
			{"user-bin", "alice"},
			{"x-request-id", "spoofed"},
			{"entrepot-request-id", "spoofed"},
			{"baggage", "user=alice"},
		} {
			ctx := metadata.AppendToOutgoingContext(bearer(t.Context(), erin), pairs...)
			me, err := identityv1.NewIdentityServiceClient(conn).GetMe(ctx, &identityv1.GetMeRequest{})
			if err != nil || me.GetUser().GetUsername() != "erin" {
				t.Errorf("%v: %v, %v", pairs, me.GetUser(), err)
			}
			ctx = metadata.AppendToOutgoingContext(t.Context(), pairs...)
			if _, err := identityv1.NewIdentityServiceClient(conn).GetMe(ctx, &identityv1.GetMeRequest{}); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%v without a key: %v", pairs, err)
			}
		}
	})
	t.Run("health and reflection", func(t *testing.T) {
		h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health: %v, %v", h, err)
		}
		got := reflected(t, conn)
		want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"}
		for _, s := range gateway.Services {
			want = append(want, string(s))
		}
		got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "grpc.") })
		want = slices.DeleteFunc(want, func(s string) bool { return strings.HasPrefix(s, "grpc.") })
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("reflection lists (-want +got):\n%s", diff)
		}
	})
	t.Run("a large message is refused, not kept", func(t *testing.T) {
		_, err := channels.CreateChannel(admin, &channelsv1.CreateChannelRequest{Name: "big", Description: strings.Repeat("x", 5<<20)})
		if status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%v", err)
		}
	})
	t.Run("a path without its slash is no way around the rules", func(t *testing.T) {
		for _, path := range []string{
			"entrepot.channels.v1.ChannelService/GetChannel", "entrepot.identity.v1.IdentityService/MintToken", "*", "http://h/entrepot.channels.v1.ChannelService/Apply",
		} {
			if code := rawCall(t, w.GRPCAddr, path); code != "12" && code != "reset" { // Unimplemented
				t.Errorf("front door: %s: grpc-status %s", path, code)
			}
			if code := rawCall(t, w.ServiceAddr, path); code != "12" && code != "16" && code != "reset" {
				t.Errorf("service port: %s: grpc-status %s", path, code)
			}
		}
	})
}

func reflected(t *testing.T, conn *grpc.ClientConn) (names []string) {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.CloseSend() }()
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	slices.Sort(names)
	return names
}

// rawCall sends a gRPC request with a :path that no client library would send, and returns the grpc-status.
func rawCall(t *testing.T, addr, path string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":authority", addr},
		{":path", path},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
		{"authorization", "Bearer x"},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) // a Builder takes all
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteData(1, true, make([]byte, 5)); err != nil { // an empty message
		t.Fatal(err)
	}
	dec := hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch fr := frame.(type) {
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		case *http2.HeadersFrame:
			fields, err := dec.DecodeFull(fr.HeaderBlockFragment())
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range fields {
				if h.Name == "grpc-status" {
					return h.Value
				}
			}
		}
	}
}

// TestFrontDoorTLS: with a certificate there is TLS and nothing else.
func TestFrontDoorTLS(t *testing.T) {
	certFile, keyFile, pool := certificate(t)
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) { c.TLSCert, c.TLSKey = certFile, keyFile }))
	conn := s.Conn(grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "localhost")))
	if _, err := channelsv1.NewChannelServiceClient(conn).CreateChannel(bearer(t.Context(), s.AdminKey), &channelsv1.CreateChannelRequest{Name: "tls"}); err != nil {
		t.Errorf("with TLS: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := channelsv1.NewChannelServiceClient(s.Conn()).ListChannels(ctx, &channelsv1.ListChannelsRequest{}); err == nil {
		t.Error("without TLS it answers as well")
	}
}

// certificate writes a self-signed certificate for localhost.
func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, data := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}

// TestExampleClient builds the example as its reader would, outside the workspace, and lets it mirror a channel.
func TestExampleClient(t *testing.T) {
	root := repository(t)
	bin := filepath.Join(t.TempDir(), "grpcclient")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".")
	build.Dir = filepath.Join(root, "examples", "grpcclient")
	build.Env = append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	s := platformtest.Start(t)
	run := exec.CommandContext(t.Context(), bin, "-addr", s.GRPCAddr, "-upstream", upstream(t).URL, "-channel", "example")
	run.Env = append(os.Environ(), "ENTREPOT_API_KEY="+s.AdminKey)
	out, err := run.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "JOB_STATE_SUCCEEDED\nadded 12, failed 0") {
		t.Errorf("%v\n%s", err, out)
	}
}

// repository returns the directory of the repository.
func repository(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.work above the test")
		}
	}
}
