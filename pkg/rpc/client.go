package rpc

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

var connectParams = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// bootstrap are the methods of identity that are called before there is any token: with the target credential alone.
var bootstrap = map[string]bool{
	"/entrepot.identity.v1.IdentityService/Authenticate":        true,
	"/entrepot.identity.v1.IdentityService/CreateSession":       true,
	"/entrepot.identity.v1.IdentityService/DeleteSession":       true,
	"/entrepot.identity.v1.IdentityService/MintToken":           true,
	"/entrepot.identity.v1.IdentityService/GetVerificationKeys": true,
	"/entrepot.identity.v1.IdentityService/GetRoleSnapshot":     true,
}

// AsTarget returns a context whose calls are made by this process itself, not by the user it serves.
func AsTarget(ctx context.Context) context.Context { return authn.WithSelf(ctx) }

// known remembers the policies of methods that were called: reading options by reflection is slow.
var known sync.Map // full method → *Policy, nil for methods that need no token

func policyFor(method string) *Policy {
	if p, ok := known.Load(method); ok {
		return p.(*Policy)
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	ps, err := Policies(service)
	p := ps[method]
	if p == nil && (err == nil || !Linked(method)) {
		return nil // a name that a stranger made up, passed on by the front door: not kept
	}
	known.Store(method, p) // nil for health and the like: no token
	return p
}

// Linked reports whether a method's proto file is part of this program, given as `/package.Service/Method`.
func Linked(method string) bool {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	_, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	return err == nil
}

// outgoing is how one call identifies itself.
type outgoing struct {
	caller   authn.Caller
	audience string // empty: no token
}

// prepare sets the metadata of a call. It replaces what is there: metadata that a context brought along from an
// incoming call must not travel on.
func (n *Network) prepare(ctx context.Context, method string) (context.Context, outgoing, error) {
	md, ok := metadata.FromOutgoingContext(ctx)
	if ok {
		md = md.Copy()
	} else {
		md = make(metadata.MD, 3)
	}
	delete(md, MetadataToken)
	delete(md, MetadataTarget)
	id := telemetry.RequestID(ctx)
	if id == "" {
		id = NewRequestID()
	}
	md.Set(MetadataRequestID, id)
	var out outgoing
	if p := policyFor(method); p != nil {
		toIdentity := p.Audience == "identity" && p.Access.GetRule() == optionsv1.Rule_RULE_TARGET
		if toIdentity {
			md.Set(MetadataTarget, n.cfg.Target+":"+n.cfg.Secret)
		}
		if !bootstrap[method] {
			out = outgoing{caller: authn.FromContext(ctx), audience: p.Audience}
			// A method that only the platform may call is called by the platform, unless a job or identity's audit log
			// has to know for whom.
			if p.Access.GetRule() == optionsv1.Rule_RULE_TARGET && !out.caller.Platform() && (!toIdentity || out.caller.Anonymous()) {
				out.caller = authn.Service(authn.Self)
			}
			// Who serves another part of the platform goes on as itself: nobody has tokens in another part's name.
			if out.caller.Target != "" {
				out.caller.Target, out.caller.Name = n.cfg.Target, "service:"+n.cfg.Target
			}
			token, err := n.tokens.Token(ctx, out.caller, p.Audience)
			if err != nil {
				return nil, out, err
			}
			md.Set(MetadataToken, token)
		}
	}
	return metadata.NewOutgoingContext(ctx, md), out, nil
}

// refused reports whether the call was turned away for its token alone, and drops that token: the signing key may have
// been replaced while it was cached. The handler has not run, so the call may be made again.
func (n *Network) refused(out outgoing, err error) bool {
	var f *fault.Error
	if out.audience == "" || !errors.As(err, &f) || f.Kind != fault.Unauthenticated || f.Reason != authn.ReasonToken {
		return false
	}
	n.tokens.Forget(out.caller, out.audience)
	return true
}

func (n *Network) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.cfg.Timeout)
		defer cancel()
	}
	for first := true; ; first = false {
		with, out, err := n.prepare(ctx, method)
		if err != nil {
			return FromStatus(err)
		}
		err = FromStatus(invoke(with, method, req, reply, cc, opts...))
		if err == nil {
			return nil
		}
		if !n.refused(out, err) || !first {
			return contextFault(ctx, err)
		}
	}
}

func (n *Network) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	with, out, err := n.prepare(ctx, method)
	if err != nil {
		return nil, FromStatus(err)
	}
	cs, err := open(with, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return &clientStream{ClientStream: cs, network: n, out: out}, nil
}

// clientStream maps errors. A refused token shows up at the first receive, when the requests are gone: the next
// attempt of the caller finds a new one.
type clientStream struct {
	grpc.ClientStream
	network *Network
	out     outgoing
}

func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	err = FromStatus(err)
	s.network.refused(s.out, err)
	return contextFault(s.Context(), err)
}

func (s *clientStream) SendMsg(m any) error { return s.mapped(s.ClientStream.SendMsg(m)) }

func (s *clientStream) CloseSend() error { return s.mapped(s.ClientStream.CloseSend()) }

func (s *clientStream) Header() (metadata.MD, error) {
	md, err := s.ClientStream.Header()
	return md, s.mapped(err)
}

func (s *clientStream) mapped(err error) error {
	if errors.Is(err, io.EOF) { // gRPC's way to say: receive to learn why
		return err
	}
	return FromStatus(err)
}
