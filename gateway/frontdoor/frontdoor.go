// Package frontdoor is the one gRPC port for other systems.
//
// It is a transparent proxy: a call is sent on, frame by frame and undecoded, to the service that its full name names.
// Before that the caller shows an API key (`authorization: Bearer <key>`), everything else it sent as metadata is
// dropped, and the connection to the service attaches the internal token, as it does for REST. A method that its proto
// marks internal does not exist here. Health and reflection are answered by the front door itself, reflection for the
// services behind it.
package frontdoor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	reflectiongrpc "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"
)

// Deps are what the front door stands on.
type Deps struct {
	// Dial returns the connection to a service by its short name.
	Dial func(service string) (*grpc.ClientConn, error)
	// Services are the full names of the services that are offered.
	Services []protoreflect.FullName
	// Auth turns keys into callers.
	Auth *edge.Authenticator
	// Limiter holds back who calls too often; nil holds back nobody.
	Limiter *edge.Limiter
	// Wrote is called when a call that may have changed something was answered, before its caller hears of it. It is not
	// called of what was refused, nor of what nobody in particular called. Nil is never called.
	Wrote func()
	// CertFile and KeyFile turn TLS on; both or none.
	CertFile, KeyFile string
}

// Server is the front door.
type Server struct {
	grpc    *grpc.Server
	health  *health.Server
	auth    *edge.Authenticator
	limiter *edge.Limiter
	wrote   func()
	methods map[string]method
}

type method struct {
	conn *grpc.ClientConn
	desc grpc.StreamDesc
}

// New builds the front door.
func New(deps Deps) (*Server, error) {
	s := &Server{health: health.NewServer(), auth: deps.Auth, limiter: deps.Limiter, wrote: deps.Wrote, methods: map[string]method{}}
	offered := serviceInfo{}
	for _, name := range deps.Services {
		if err := s.offer(deps.Dial, name, offered); err != nil {
			return nil, err
		}
	}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodec(frameCodec{}),
		grpc.UnknownServiceHandler(s.proxy),
		grpc.MaxConcurrentStreams(1000),
		// A caller's trace is linked to, not joined: see package edge. What it calls methods that are not here is its business.
		grpc.StatsHandler(rpc.KnownMethods(otelgrpc.NewServerHandler(otelgrpc.WithPublicEndpoint()), s.known)),
		grpc.ChainStreamInterceptor(recovered),
		grpc.ChainUnaryInterceptor(recoveredUnary),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if deps.CertFile != "" {
		creds, err := credentials.NewServerTLSFromFile(deps.CertFile, deps.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("front door TLS: %w", err)
		}
		opts = append(opts, grpc.Creds(creds))
	}
	s.grpc = grpc.NewServer(opts...)
	healthgrpc.RegisterHealthServer(s.grpc, s.health)
	reflectiongrpc.RegisterServerReflectionServer(s.grpc, reflection.NewServerV1(reflection.ServerOptions{Services: offered}))
	return s, nil
}

// recovered keeps a panic from ending the process; what it was is in the log only.
func recovered(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer recoverAs(stream.Context(), info.FullMethod, &err)
	return handler(srv, stream)
}

func recoveredUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (_ any, err error) {
	defer recoverAs(ctx, info.FullMethod, &err)
	return handler(ctx, req)
}

func recoverAs(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		slog.ErrorContext(ctx, "call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error")
	}
}

// serviceInfo tells reflection which services there are.
type serviceInfo map[string]grpc.ServiceInfo

// GetServiceInfo implements reflection.ServiceInfoProvider.
func (s serviceInfo) GetServiceInfo() map[string]grpc.ServiceInfo { return s }

func (s *Server) offer(dial func(string) (*grpc.ClientConn, error), name protoreflect.FullName, offered serviceInfo) error {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return fmt.Errorf("front door: %s: %w", name, err)
	}
	parts := strings.Split(string(name), ".") // entrepot.<service>.v1.<Name>
	if len(parts) != 4 {
		return fmt.Errorf("front door: %s is not named entrepot.<service>.v1.<Name>", name)
	}
	conn, err := dial(parts[1])
	if err != nil {
		return fmt.Errorf("front door: dial %s: %w", parts[1], err)
	}
	offered[string(name)] = grpc.ServiceInfo{}
	methods := d.(protoreflect.ServiceDescriptor).Methods()
	for i := range methods.Len() {
		m := methods.Get(i)
		access, _ := proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
		if access == nil || access.GetInternal() {
			continue
		}
		s.methods[fmt.Sprintf("/%s/%s", name, m.Name())] = method{conn: conn, desc: grpc.StreamDesc{
			StreamName: string(m.Name()), ServerStreams: true, ClientStreams: true,
		}}
	}
	return nil
}

// Serve answers on l until Stop.
func (s *Server) Serve(l net.Listener) error {
	s.health.SetServingStatus("", healthgrpc.HealthCheckResponse_SERVING)
	return s.grpc.Serve(l)
}

// SetReady sets what health says.
func (s *Server) SetReady(ready bool) {
	st := healthgrpc.HealthCheckResponse_NOT_SERVING
	if ready {
		st = healthgrpc.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
}

// Stop lets running calls end until ctx does, then cuts them.
func (s *Server) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// known reports whether a method is one of ours, so that its name may be a metric's label.
func (s *Server) known(full string) bool {
	if _, ok := s.methods[full]; ok {
		return true
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	_, ok := s.grpc.GetServiceInfo()[service]
	return ok && rpc.Linked(full)
}

func (s *Server) proxy(_ any, in grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(in)
	m, ok := s.methods[full]
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown method %s", full)
	}
	ctx, err := s.callerContext(in.Context())
	if err != nil {
		return rpc.ToStatus(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, err := m.conn.NewStream(ctx, &m.desc, full, grpc.ForceCodec(frameCodec{}))
	if err != nil {
		return rpc.ToStatus(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- pump(in, out) }()
	told := s.wrote == nil || readsOnly(full) || authn.FromContext(ctx).Anonymous()
	// The service's side decides how the call ends; what the client still sends then is of no use.
	for {
		var f frame
		err := out.RecvMsg(&f)
		if !told {
			told = true
			if !refused(err) {
				s.wrote()
			}
		}
		if err != nil {
			in.SetTrailer(out.Trailer())
			if err == io.EOF {
				return nil
			}
			select {
			case serr := <-sent:
				if serr != nil {
					return serr // the client broke off; its own error says more
				}
			default:
			}
			return rpc.ToStatus(err)
		}
		if err := in.SendMsg(&f); err != nil {
			return err
		}
	}
}

// refused reports whether a call was refused, so that nothing has changed. What is told as another failure may have been done.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.Unauthenticated, codes.PermissionDenied, codes.NotFound, codes.AlreadyExists,
		codes.FailedPrecondition, codes.Aborted, codes.ResourceExhausted, codes.Unimplemented:
		return true
	}
	return false
}

// readsOnly reports whether a method changes nothing, by its name: all of ours that do not begin so may change something.
func readsOnly(full string) bool {
	name := full[strings.LastIndexByte(full, '/')+1:]
	for _, prefix := range []string{"Get", "List", "Search", "Watch", "Follow"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// pump sends the client's messages on.
func pump(in grpc.ServerStream, out grpc.ClientStream) error {
	for {
		var f frame
		switch err := in.RecvMsg(&f); err {
		case nil:
			if err := out.SendMsg(&f); err != nil {
				return nil // RecvMsg has the reason
			}
		case io.EOF:
			return out.CloseSend()
		default:
			return err
		}
	}
}

// callerContext authenticates a call and leaves nothing else of its metadata.
func (s *Server) callerContext(ctx context.Context) (context.Context, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	var creds edge.Credentials
	if auth := md.Get("authorization"); len(auth) > 0 {
		scheme, key, _ := strings.Cut(auth[0], " ")
		if !strings.EqualFold(scheme, "bearer") || key == "" || len(auth) > 1 {
			return nil, status.Error(codes.Unauthenticated, "authorization must be one `Bearer <api key>`")
		}
		creds.APIKey = strings.TrimSpace(key)
	}
	caller, err := s.auth.Caller(ctx, creds)
	if err == nil || fault.Is(err, fault.Unauthenticated) {
		address := ""
		if p, ok := peer.FromContext(ctx); ok && s.limiter != nil {
			address = s.limiter.AddressOf(p.Addr.String(), nil)
		}
		if limited := s.limiter.Allow(ctx, caller, address, false); limited != nil {
			return nil, limited
		}
	}
	if err != nil {
		return nil, err
	}
	ctx = metadata.NewIncomingContext(ctx, nil)
	ctx = metadata.NewOutgoingContext(ctx, metadata.MD{}) // the connection adds token, request id and our own trace
	return authn.NewContext(ctx, caller), nil
}

// frame is a message that is not decoded.
type frame struct{ data []byte }

// frameCodec passes frames and leaves everything else, such as health and reflection messages, to protobuf. It must
// be named proto, since that is the content type it stands in for.
type frameCodec struct{}

var _ encoding.Codec = frameCodec{}

func (frameCodec) Name() string { return "proto" }

func (frameCodec) Marshal(v any) ([]byte, error) {
	switch m := v.(type) {
	case *frame:
		return m.data, nil
	case proto.Message:
		return proto.Marshal(m)
	}
	return nil, fmt.Errorf("front door: cannot send a %T", v)
}

func (frameCodec) Unmarshal(data []byte, v any) error {
	switch m := v.(type) {
	case *frame:
		m.data = slices.Clone(data) // the buffer goes back to its pool
		return nil
	case proto.Message:
		return proto.Unmarshal(data, m)
	}
	return fmt.Errorf("front door: cannot receive into a %T", v)
}
