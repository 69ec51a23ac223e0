package frontdoor_test

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/gateway/frontdoor"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// oneUser is an identity to whom every key is alice's.
type oneUser struct {
	identityv1.IdentityServiceClient
}

func (oneUser) Authenticate(context.Context, *identityv1.AuthenticateRequest, ...grpc.CallOption) (*identityv1.AuthenticateResponse, error) {
	return &identityv1.AuthenticateResponse{Principal: authn.Caller{UserID: "alice", KeyID: "one"}.ToProto()}, nil
}

// answering is a channels service whose answers have the code that the request's channel names.
type answering struct {
	channelsv1.UnimplementedChannelServiceServer
}

var answers = map[string]codes.Code{}

func init() {
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		answers[c.String()] = c
	}
}

func (answering) GetChannel(_ context.Context, req *channelsv1.GetChannelRequest) (*channelsv1.Channel, error) {
	return &channelsv1.Channel{}, status.Error(answers[req.GetChannel()], "")
}

func (answering) UpdateChannel(_ context.Context, req *channelsv1.UpdateChannelRequest) (*channelsv1.Channel, error) {
	return &channelsv1.Channel{}, status.Error(answers[req.GetChannel()], "")
}

// serve runs a server in memory until the test ends and returns a connection to it.
func serve(t *testing.T, run func(net.Listener) error, stop func()) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(64 << 10)
	done := make(chan error, 1)
	go func() { done <- run(l) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		<-done
	})
	return conn
}

// What a call may have changed is told before its caller hears of it. What was refused has changed nothing: anybody can be
// refused, as often as they like.
func TestWritesAreToldAndRefusalsAreNot(t *testing.T) {
	backend := grpc.NewServer()
	channelsv1.RegisterChannelServiceServer(backend, answering{})
	behind := serve(t, backend.Serve, backend.Stop)
	told := make(chan struct{}, 16)
	front, err := frontdoor.New(frontdoor.Deps{
		Dial: func(string) (*grpc.ClientConn, error) { return behind, nil }, Services: []protoreflect.FullName{"entrepot.channels.v1.ChannelService"},
		Auth: edge.NewAuthenticator(oneUser{}), Wrote: func() { told <- struct{}{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	channels := channelsv1.NewChannelServiceClient(serve(t, front.Serve, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		front.Stop(ctx)
	}))
	alice := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer key")
	wants := map[codes.Code]bool{
		codes.OK: true, codes.Canceled: true, codes.Unknown: true, codes.DeadlineExceeded: true, codes.Internal: true, codes.Unavailable: true, codes.DataLoss: true,
	}
	for name, code := range answers {
		for _, row := range []struct {
			who  string
			ctx  context.Context
			call func(context.Context) error
			want int
		}{
			{"alice", alice, func(ctx context.Context) error {
				_, err := channels.UpdateChannel(ctx, &channelsv1.UpdateChannelRequest{Channel: name})
				return err
			}, map[bool]int{true: 1}[wants[code]]},
			{"nobody", t.Context(), func(ctx context.Context) error {
				_, err := channels.UpdateChannel(ctx, &channelsv1.UpdateChannelRequest{Channel: name})
				return err
			}, 0},
			{"a reader", alice, func(ctx context.Context) error {
				_, err := channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: name})
				return err
			}, 0},
		} {
			if err := row.call(row.ctx); (err == nil) != (code == codes.OK) {
				t.Fatalf("%s: %s: %v", row.who, name, err)
			}
			if len(told) != row.want {
				t.Errorf("%s is answered %s: told %d times, want %d", row.who, name, len(told), row.want)
			}
			for len(told) > 0 {
				<-told
			}
		}
	}
}
