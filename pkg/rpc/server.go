package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
)

// TargetVerifier returns nil if the secret is the target's. Only identity has one: a token cannot be asked for with a token.
type TargetVerifier func(ctx context.Context, name, secret string) error

// Interceptor is a pair that treats unary calls and streams alike. Both halves are needed: a rule that held for one kind
// of call only would be a hole in the other.
type Interceptor struct {
	// Name is shown if a half is missing.
	Name   string
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Log gets a line for each call at debug level, one for each Internal error and panic at error level.
	Log *slog.Logger
	// Verifier checks internal tokens.
	Verifier *authn.Verifier
	// Roles decides.
	Roles *authz.Roles
	// TargetVerifier checks target credentials; nil means they are not accepted.
	TargetVerifier TargetVerifier
	// Interceptors run after validation, right before the handler, in this order.
	Interceptors []Interceptor
	// Options are further options, such as transport credentials. Interceptors among them are not checked for pairs.
	Options []grpc.ServerOption
}

// Server is a gRPC server that serves nothing without a policy. Register services, then Serve on one or more listeners.
type Server struct {
	cfg       ServerConfig
	log       *slog.Logger
	grpc      *grpc.Server
	health    *health.Server
	resolvers map[optionsv1.Resource]ResourceResolver
	rules     map[string]MethodRule
	checks    map[string][]func(proto.Message) error

	once  sync.Once
	table map[string]*Policy
	err   error
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// NewServer returns a Server without services.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{
		cfg: cfg, log: cfg.Log, health: health.NewServer(),
		resolvers: make(map[optionsv1.Resource]ResourceResolver), rules: make(map[string]MethodRule),
		checks: make(map[string][]func(proto.Message) error),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.resolvers[optionsv1.Resource_RESOURCE_NAMESPACE] = func(_ context.Context, name string) (authz.Resource, error) {
		return authz.NamespaceOf(name), nil
	}
	var unary []grpc.UnaryServerInterceptor
	var stream []grpc.StreamServerInterceptor
	for _, i := range s.chain() {
		if i.Unary != nil {
			unary = append(unary, i.Unary)
		}
		if i.Stream != nil {
			stream = append(stream, i.Stream)
		}
	}
	opts := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(stream...),
		grpc.StatsHandler(KnownMethods(otelgrpc.NewServerHandler(), s.served)),
		// Clients ping idle connections every 30 s (network.go); the default policy would cut them off.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	}
	s.grpc = grpc.NewServer(append(opts, cfg.Options...)...)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

func (s *Server) chain() []Interceptor {
	return append([]Interceptor{
		s.recovery(), requestID(), errorMapping(), s.logging(), s.authn(), s.authz(), s.validation(),
	}, s.cfg.Interceptors...)
}

// RegisterService adds a service; generated Register functions call it.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
}

// HandleResource tells how to find the resources of a kind. It is called before Serve.
func (s *Server) HandleResource(kind optionsv1.Resource, resolve ResourceResolver) {
	s.resolvers[kind] = resolve
}

// HandleMethod refines the policy of a method, given as `/package.Service/Method`. It is called before Serve.
func (s *Server) HandleMethod(fullMethod string, rule MethodRule) { s.rules[fullMethod] = rule }

// Validate adds a check of all requests of one type; its error is returned as it is. It is called before Serve.
func Validate[Req proto.Message](s *Server, check func(Req) error) {
	var zero Req
	name := string(zero.ProtoReflect().Descriptor().FullName())
	s.checks[name] = append(s.checks[name], func(m proto.Message) error { return check(m.(Req)) })
}

// Check returns what keeps the server from serving, all of it: methods without a policy, interceptors without a twin.
// It ends registration.
func (s *Server) Check() error {
	s.once.Do(func() {
		table, errs := s.policies(s.grpc.GetServiceInfo())
		for _, i := range s.chain() {
			if i.Unary == nil || i.Stream == nil {
				errs = append(errs, fmt.Errorf("interceptor %q is not the same for unary calls and streams", i.Name))
			}
		}
		if s.cfg.Verifier == nil || s.cfg.Roles == nil {
			errs = append(errs, errors.New("a server needs a Verifier and Roles"))
		}
		slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		s.table, s.err = table, errors.Join(errs...)
	})
	return s.err
}

// Serve answers on the listener until Stop. It may be called for several listeners at once, such as the in-memory one
// and a TCP port. It refuses to begin if Check does.
func (s *Server) Serve(lis net.Listener) error {
	if err := s.Check(); err != nil {
		return fmt.Errorf("refuse to serve: %w", err)
	}
	if err := s.grpc.Serve(lis); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", lis.Addr(), err)
	}
	return nil
}

// SetServing tells grpc.health whether the whole server is fit to serve.
func (s *Server) SetServing(ok bool) {
	st := healthpb.HealthCheckResponse_NOT_SERVING
	if ok {
		st = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
}

// Stop takes no more calls and waits for those that run; when ctx ends it cuts them off. It may be called twice.
func (s *Server) Stop(ctx context.Context) {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}

// served reports whether there is such a method here. The table is complete before the first call comes in.
func (s *Server) served(method string) bool {
	if s.table[method] != nil {
		return true
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	return slices.Contains(exempt, service) && Linked(method)
}

// Policies returns the policy of every method served, by full method: what the front door and tests go by.
func (s *Server) Policies() (map[string]*Policy, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	return s.table, nil
}
