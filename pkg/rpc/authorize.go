package rpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

type targetKey struct{}

// TargetFrom returns the part of the platform that proved with its credential to be the client of this call; empty if
// it showed none. Unlike the caller of a token it is never on anybody's behalf.
func TargetFrom(ctx context.Context) string {
	name, _ := ctx.Value(targetKey{}).(string)
	return name
}

// target returns whose credential the call carries. It is heeded only where tokens may not be at hand yet.
func (s *Server) target(ctx context.Context, p *Policy) (string, error) {
	if s.cfg.TargetVerifier == nil || p.Access.GetRule() != optionsv1.Rule_RULE_TARGET {
		return "", nil
	}
	if len(metadata.ValueFromIncomingContext(ctx, MetadataTarget)) == 0 {
		return "", nil
	}
	credential, _ := single(ctx, MetadataTarget)
	name, secret, ok := strings.Cut(credential, ":")
	if !ok || name == "" {
		return "", refuseTarget()
	}
	if err := s.cfg.TargetVerifier(ctx, name, secret); err != nil {
		if fault.Is(err, fault.Unauthenticated) {
			return "", refuseTarget()
		}
		return "", err
	}
	return name, nil
}

func refuseTarget() error {
	return fault.New(fault.Unauthenticated, "the target credential is not valid").WithReason("TARGET_INVALID")
}

func (s *Server) authz() Interceptor {
	return Interceptor{
		Name: "authz",
		Unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if p := s.table[info.FullMethod]; p != nil {
				var err error
				if ctx, err = s.admit(ctx, p); err != nil {
					return nil, err
				}
				if ctx, err = s.authorize(ctx, p, req); err != nil {
					return nil, err
				}
			}
			return handler(ctx, req)
		},
		Stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			p := s.table[info.FullMethod]
			if p == nil {
				return handler(srv, ss)
			}
			ctx, err := s.admit(ss.Context(), p)
			if err != nil {
				return err
			}
			return handler(srv, &guardedStream{ServerStream: ss, ctx: ctx, server: s, policy: p, open: p.Access.GetRule() != optionsv1.Rule_RULE_PERMISSION})
		},
	}
}

// admit applies what needs no request message.
func (s *Server) admit(ctx context.Context, p *Policy) (context.Context, error) {
	caller := authn.FromContext(ctx)
	switch p.Access.GetRule() {
	case optionsv1.Rule_RULE_PERMISSION:
		return ctx, nil // authorize decides
	case optionsv1.Rule_RULE_LOGIN:
		return ctx, s.cfg.Roles.Login(ctx, caller)
	case optionsv1.Rule_RULE_ANYONE:
		caller, err := s.cfg.Roles.Effective(ctx, caller)
		return authn.NewContext(ctx, caller), err
	case optionsv1.Rule_RULE_TARGET:
		if TargetFrom(ctx) != "" || caller.Platform() {
			return ctx, nil
		}
		return ctx, fault.New(fault.Denied, "only parts of the platform may call this")
	}
	return ctx, fault.New(fault.Internal, "method %s has no rule", p.Method) // Check refuses such a server
}

// authorize asks for the permission on the resource that the request names.
func (s *Server) authorize(ctx context.Context, p *Policy, req any) (context.Context, error) {
	ctx = context.WithValue(ctx, onceKey{}, &onceValues{values: map[any]*onceValue{}})
	if p.Access.GetRule() != optionsv1.Rule_RULE_PERMISSION {
		return ctx, nil
	}
	var (
		roles      = s.cfg.Roles
		caller     = authn.FromContext(ctx)
		permission = p.Access.GetPermission()
	)
	if p.field == nil {
		return ctx, roles.Allow(ctx, caller, permission, authz.Resource{})
	}
	msg, ok := req.(proto.Message)
	if !ok {
		return ctx, fault.New(fault.Internal, "method %s: the request is no message", p.Method)
	}
	res, err := s.resolvers[p.Access.GetResource()](ctx, msg.ProtoReflect().Get(p.field).String())
	if err != nil {
		return ctx, err
	}
	ctx = context.WithValue(ctx, resourceKey{}, res)
	asked := []authz.Resource{res}
	rule := s.rules[p.Method]
	if rule.Resources != nil {
		more, err := rule.Resources(ctx, msg, res)
		if err != nil {
			return ctx, err
		}
		if len(more) > 0 {
			asked = more
		}
	}
	if rule.Check != nil {
		for _, r := range asked {
			if err := roles.Allow(ctx, caller, authz.ChannelRead, r); err != nil {
				return ctx, err
			}
		}
		if err := rule.Check(ctx, msg, res); err != nil {
			return ctx, err
		}
	}
	for _, r := range asked {
		if err := roles.Allow(ctx, caller, permission, r); err != nil {
			return ctx, err
		}
	}
	if permission == authz.ChannelRead && res.Public {
		// A key that has ended reads what is public as nobody; so does everybody while that cannot be known.
		effective, err := roles.Effective(ctx, caller)
		if err != nil && !fault.Is(err, fault.Unavailable) {
			return ctx, err
		}
		return authn.NewContext(ctx, effective), nil
	}
	return ctx, nil
}

// guardedStream authorises with the first message that comes in; until then nothing goes out. Only the handler's
// goroutine that receives may touch it before that.
type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context
	server *Server
	policy *Policy
	open   bool
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if s.open {
		return nil
	}
	ctx, err := s.server.authorize(s.ctx, s.policy, m)
	if err != nil {
		return err
	}
	s.ctx, s.open = ctx, true
	return nil
}

func (s *guardedStream) SendMsg(m any) error {
	if err := s.closed(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *guardedStream) SendHeader(md metadata.MD) error {
	if err := s.closed(); err != nil {
		return err
	}
	return s.ServerStream.SendHeader(md)
}

func (s *guardedStream) closed() error {
	if s.open {
		return nil
	}
	return fault.New(fault.Internal, "method %s answers before it was authorised", s.policy.Method)
}
