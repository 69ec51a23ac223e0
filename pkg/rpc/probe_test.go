package rpc_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// probe is a service whose methods do what a test says. Its proto file exists in this binary only, so that methods
// can have options that no real method may have.
type probe struct {
	unary  func(ctx context.Context, req *channelsv1.GetChannelRequest) (*channelsv1.Channel, error)
	stream func(ss grpc.ServerStream) error
}

type method struct {
	name   string
	access *optionsv1.Access
	stream bool
}

func permission(p string) *optionsv1.Access {
	return &optionsv1.Access{
		Rule: optionsv1.Rule_RULE_PERMISSION, Permission: p, Resource: optionsv1.Resource_RESOURCE_CHANNEL, Field: "channel",
	}
}

func rule(r optionsv1.Rule) *optionsv1.Access { return &optionsv1.Access{Rule: r} }

// define makes a service `entrepot.<audience>.v1.<name>` of methods GetChannelRequest → Channel.
func define(t testing.TB, audience, name string, impl *probe, methods ...method) *grpc.ServiceDesc {
	t.Helper()
	pkg := "entrepot." + audience + ".v1"
	file := &descriptorpb.FileDescriptorProto{
		Syntax: proto.String("proto3"), Name: proto.String("probe/" + audience + "/" + name + ".proto"), Package: proto.String(pkg),
		Dependency: []string{"entrepot/channels/v1/channels.proto", "entrepot/options/v1/access.proto"},
		Service:    []*descriptorpb.ServiceDescriptorProto{{Name: proto.String(name)}},
	}
	desc := &grpc.ServiceDesc{ServiceName: pkg + "." + name, HandlerType: (*any)(nil), Metadata: file.GetName()}
	for _, m := range methods {
		opts := &descriptorpb.MethodOptions{}
		if m.access != nil {
			proto.SetExtension(opts, optionsv1.E_Access, m.access)
		}
		file.Service[0].Method = append(file.Service[0].Method, &descriptorpb.MethodDescriptorProto{
			Name: proto.String(m.name), Options: opts, ServerStreaming: proto.Bool(m.stream),
			InputType: proto.String(".entrepot.channels.v1.GetChannelRequest"), OutputType: proto.String(".entrepot.channels.v1.Channel"),
		})
		if m.stream {
			desc.Streams = append(desc.Streams, grpc.StreamDesc{StreamName: m.name, ServerStreams: true, Handler: func(_ any, ss grpc.ServerStream) error { return impl.stream(ss) }})
			continue
		}
		full := "/" + desc.ServiceName + "/" + m.name
		desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: m.name, Handler: func(_ any, ctx context.Context, dec func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			req := new(channelsv1.GetChannelRequest)
			if err := dec(req); err != nil {
				return nil, err
			}
			return i(ctx, req, &grpc.UnaryServerInfo{FullMethod: full}, func(ctx context.Context, req any) (any, error) {
				return impl.unary(ctx, req.(*channelsv1.GetChannelRequest))
			})
		}})
	}
	if _, err := protoregistry.GlobalFiles.FindFileByPath(file.GetName()); err != nil {
		fd, err := protodesc.NewFile(file, protoregistry.GlobalFiles)
		if err != nil {
			t.Fatal(err)
		}
		if err := protoregistry.GlobalFiles.RegisterFile(fd); err != nil {
			t.Fatal(err)
		}
	}
	return desc
}

// invoke calls a unary or a streaming method and returns how it ended.
func invoke(ctx context.Context, conn *grpc.ClientConn, full, channel string) error {
	req := &channelsv1.GetChannelRequest{Channel: channel}
	if !strings.Contains(full, "Watch") {
		return conn.Invoke(ctx, full, req, new(channelsv1.Channel))
	}
	cs, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return err
	}
	if err := cs.SendMsg(req); err != nil {
		return err
	}
	if err := cs.CloseSend(); err != nil {
		return err
	}
	for {
		if err := cs.RecvMsg(new(channelsv1.Channel)); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
