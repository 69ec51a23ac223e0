package attacktest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/entrepot-dev/entrepot/gateway"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

// backend stands where all services are, and notes what the gateway sends them.
type backend struct {
	mu   sync.Mutex
	seen []string // method and metadata of each call, in one line
}

// take returns what was seen since the last time, without what is new with each call.
func (b *backend) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.seen
	b.seen = nil
	return out
}

func (b *backend) serve(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	md, _ := metadata.FromIncomingContext(stream.Context())
	in := &emptypb.Empty{}
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	var line []string
	for k, v := range md {
		switch k {
		case rpc.MetadataRequestID:
			if len(v) != 1 || !rpc.ValidRequestID(v[0]) {
				line = append(line, fmt.Sprintf("bad request id %q", v))
			}
			continue
		case "traceparent": // our own, anew for each request
			continue
		}
		line = append(line, fmt.Sprintf("%s=%q", k, v))
	}
	slices.Sort(line)
	deadline, has := stream.Context().Deadline()
	if !has || time.Until(deadline) < time.Second {
		line = append(line, fmt.Sprintf("a deadline of %v", time.Until(deadline)))
	}
	b.mu.Lock()
	b.seen = append(b.seen, method+" "+strings.Join(line, " "))
	b.mu.Unlock()
	var out proto.Message = &emptypb.Empty{}
	if strings.HasSuffix(method, "/Authenticate") {
		out = &identityv1.AuthenticateResponse{Principal: &identityv1.Principal{UserId: "u-erin", Name: "erin", KeyId: "k"}}
	}
	return stream.SendMsg(out)
}

// newGateway runs the gateway alone before a backend.
func newGateway(t *testing.T) (restAddr, grpcAddr string, b *backend) {
	t.Helper()
	b = &backend{}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	bl := listen()
	srv := grpc.NewServer(grpc.UnknownServiceHandler(b.serve))
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Serve(bl) })
	addresses := map[string]string{}
	for _, name := range []string{"channels", "sync", "jobs", "identity", "storage", "metrics", "gateway"} {
		addresses[name] = bl.Addr().String()
	}
	network := rpc.NewNetwork(rpc.NetworkConfig{
		Target: "gateway", Secret: "gateway-secret", Addresses: addresses,
		Minter: func(_ context.Context, c authn.Caller, audience string) (string, time.Time, error) {
			return fmt.Sprintf("token-of-%s-%s-%s-for-%s", c.UserID, c.Name, c.Target, audience), time.Now().Add(time.Minute), nil
		},
	})
	data, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(t.Context(), gateway.Deps{Dial: network.Dial, Data: data, Roles: authz.NewRoles(nil, nil, nil), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	hl, gl := listen(), listen()
	running.Go(func() { _ = g.ServeHTTP(hl) })
	running.Go(func() { _ = g.ServeGRPC(gl) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		g.Stop(ctx)
		if err := network.Close(); err != nil {
			t.Error(err)
		}
		srv.Stop()
		running.Wait()
	})
	return hl.Addr().String(), gl.Addr().String(), b
}

// spoofs are header fields that were believed somewhere; values as they would do the most harm.
func spoofs() [][2]string {
	var all [][2]string
	for _, name := range []string{
		"X-User", "X-User-Id", "x-user-id", "X-Username", "X-Remote-User", "Remote-User", "X-Forwarded-User", "X-Authenticated-User", "X-Webauth-User", "X-Auth-Request-User", "X-Auth-Request-Email", "X-Original-User", "X-Principal",
		"Principal", "Entrepot-User", "Entrepot-Principal", "Entrepot-Caller", "X-Entrepot-Principal", "X-Ms-Client-Principal-Name", "X-Goog-Authenticated-User-Email", "X-Ssl-Client-Dn", "X-Client-Cert",
		"Grpc-Metadata-User", "Grpc-Metadata-User-Id", "Grpc-Metadata-X-User-Id", "Grpc-Metadata-Entrepot-Token", "Grpc-Metadata-Entrepot-Target", "Grpc-Metadata-Authorization", "Grpc-Metadata-X-Request-Id", "Grpc-Metadata-User-Bin",
		"grpc-metadata-entrepot-token", "GRPC-METADATA-ENTREPOT-TOKEN", "Grpcgateway-Authorization", "Grpcgateway-User", "Grpcgateway-Cookie", "Entrepot-Token", "entrepot-token", "ENTREPOT-TOKEN", "Entrepot_Token", "Entrepot-Token-Bin", "Entrepot-Target",
		"Entrepot-Grant", "X-Entrepot-Token", "User-Bin", "Trace-Proto-Bin", "Grpc-Trace-Bin", "Grpc-Tags-Bin", "Grpc-Previous-Rpc-Attempts", "Grpc-Encoding", "Grpc-Accept-Encoding", "Grpc-Message-Type", "Te", "X_Api_Key", "X-Api_Key", "Http_x_api_key",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "X-Forwarded-Client-Cert", "X-Real-Ip", "Forwarded", "Via", "True-Client-Ip", "Cf-Connecting-Ip", "X-Http-Method-Override", "X-Http-Method", "X-Method-Override",
		"X-Original-Url", "X-Rewrite-Url", "X-Envoy-Original-Path", "X-Envoy-Internal", "X-B3-Traceid", "X-B3-Sampled", "B3", "Uber-Trace-Id", "Baggage", "Tracestate", "X-Cloud-Trace-Context",
	} {
		all = append(all, [2]string{name, "alice"}, [2]string{name, "service:identity"})
	}
	return append(all,
		[2]string{"Grpc-Timeout", "1n"}, [2]string{"Grpc-Timeout", "99999999H"}, [2]string{"Grpc-Metadata-Grpc-Timeout", "1n"}, [2]string{"X-Request-Id", "a b\"c"}, [2]string{"X-Request-Id", strings.Repeat("x", 500)},
		[2]string{"Traceparent", "00-" + strings.Repeat("a", 32) + "-" + strings.Repeat("b", 16) + "-01"}, [2]string{"Content-Type", "application/grpc"}, [2]string{"Content-Type", "application/grpc-web+proto"}, [2]string{"Upgrade", "h2c"},
		[2]string{"Connection", "close, X-Api-Key"}, [2]string{"Connection", "close, Entrepot-Token"}, [2]string{"Cookie", "entrepot_session=x"}, [2]string{"Proxy-Authorization", "Bearer alice"}, [2]string{"User-Agent", "grpc-go/1.85.0"},
	)
}

// TestWhatTheServicesSee: whatever a client adds to a request, the services get the same metadata, from REST and from gRPC.
func TestWhatTheServicesSee(t *testing.T) {
	rest, door, b := newGateway(t)
	all := spoofs()
	ask := func(path string, extra ...[2]string) []string {
		t.Helper()
		var req strings.Builder
		fmt.Fprintf(&req, "GET %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: erins-key\r\nConnection: close\r\n", path)
		for _, h := range extra {
			fmt.Fprintf(&req, "%s: %s\r\n", h[0], h[1])
		}
		req.WriteString("\r\n")
		if status, answer := raw(t, rest, req.String()); status == 0 || status >= 500 {
			t.Errorf("%v: %.200q", extra, answer)
		}
		return b.take()
	}
	for _, path := range []string{"/entrepot/v1/channels/c1", "/api/channels/c1/packages/p", "/get/c1/noarch/repodata.json"} {
		ask(path) // so that the key is known
		base := ask(path)
		if path != "/get/c1/noarch/repodata.json" && (len(base) == 0 || !strings.Contains(base[0], "token-of-u-erin-erin--for-")) {
			t.Fatalf("%s: the services see %q", path, base)
		}
		for i, h := range all {
			if path != "/entrepot/v1/channels/c1" && i%3 != 0 { // the ways are the same
				continue
			}
			var calls []string
			for _, c := range ask(path, h) {
				if !strings.Contains(c, "/Authenticate ") { // asked again every two seconds
					calls = append(calls, c)
				}
			}
			want := slices.DeleteFunc(slices.Clone(base), func(c string) bool { return strings.Contains(c, "/Authenticate ") })
			if strings.HasPrefix(path, "/get/") && len(calls) == 0 {
				continue // the answer was remembered
			}
			if len(want) > 0 && cmp.Diff(want, calls) != "" {
				t.Errorf("%s with %s: %.60q: the services see another call: %s", path, h[0], h[1], cmp.Diff(want, calls))
			}
		}
	}
	doubled := ask("/entrepot/v1/channels/c1", [2]string{"X-Api-Key", "alices-key"}, [2]string{"X-Api-Key", "x"})
	for _, c := range doubled {
		if strings.Contains(c, "alice") {
			t.Errorf("a second key came through: %s", c)
		}
	}

	conn, err := grpc.NewClient(door, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	channels := channelsv1.NewChannelServiceClient(conn)
	call := func(pairs ...string) []string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, append([]string{"authorization", "Bearer erins-key"}, pairs...)...)
		if _, err := channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: "c1"}); err != nil && err != io.EOF {
			t.Logf("%v: %v", pairs, err)
		}
		return slices.DeleteFunc(b.take(), func(c string) bool { return strings.Contains(c, "/Authenticate ") })
	}
	call()
	base := call()
	if len(base) != 1 || !strings.Contains(base[0], "token-of-u-erin-erin--for-channels") {
		t.Fatalf("front door: the services see %q", base)
	}
	tried := 0
	for _, h := range all {
		name := strings.ToLower(h[0])
		switch name {
		case "connection", "upgrade", "te", "user-agent", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-message-type", "cookie":
			if name != "cookie" {
				continue // the library's own, which it does not let a caller set
			}
		}
		if strings.ContainsAny(name, "_") && strings.HasPrefix(name, "http") {
			name = strings.ToLower(name)
		}
		tried++
		if got := call(name, h[1]); cmp.Diff(base, got) != "" {
			t.Errorf("front door with %s: the services see another call: %s", name, cmp.Diff(base, got))
		}
	}
	t.Logf("%d fields at REST, %d at the front door", len(all), tried)
	if resp, err := http.Get("http://" + rest + "/entrepot/v1/me"); err == nil {
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
}
