package rpc

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

// The metadata that calls between parts of the platform carry. The edge drops whatever strangers send under these names.
const (
	// MetadataToken holds the internal token.
	MetadataToken = "entrepot-token"
	// MetadataTarget holds a target credential, `<name>:<secret>`.
	MetadataTarget = "entrepot-target"
	// MetadataRequestID holds the request's id.
	MetadataRequestID = "x-request-id"
)

// maxRequestID bounds an id that came from outside.
const maxRequestID = 64

// stream replaces a ServerStream's context.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream) Context() context.Context { return s.ctx }

// around makes an Interceptor that prepares the context of a call and may refuse it.
func around(name string, prepare func(ctx context.Context, method string) (context.Context, error)) Interceptor {
	return Interceptor{
		Name: name,
		Unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, err := prepare(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			return handler(ctx, req)
		},
		Stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, err := prepare(ss.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			return handler(srv, &stream{ServerStream: ss, ctx: ctx})
		},
	}
}

// after makes an Interceptor that sees how a call ended.
func after(name string, finish func(ctx context.Context, method string, began time.Time, err error) error) Interceptor {
	return Interceptor{
		Name: name,
		Unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			began := time.Now()
			res, err := handler(ctx, req)
			return res, finish(ctx, info.FullMethod, began, err)
		},
		Stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			began := time.Now()
			return finish(ss.Context(), info.FullMethod, began, handler(srv, ss))
		},
	}
}

func (s *Server) recovery() Interceptor {
	caught := func(ctx context.Context, method string, p any, err *error) {
		if p == nil {
			return
		}
		id, _ := single(ctx, MetadataRequestID) // the request-id interceptor has not run out here
		s.log.ErrorContext(ctx, "a handler panicked", "method", method, "request_id", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		*err = ToStatus(fault.New(fault.Internal, "panic"))
	}
	return Interceptor{
		Name: "recovery",
		Unary: func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
			defer func() { caught(ctx, info.FullMethod, recover(), &err) }()
			return handler(ctx, req)
		},
		Stream: func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer func() { caught(ss.Context(), info.FullMethod, recover(), &err) }()
			return handler(srv, ss)
		},
	}
}

func requestID() Interceptor {
	return around("request id", func(ctx context.Context, _ string) (context.Context, error) {
		id, ok := single(ctx, MetadataRequestID)
		if !ok || !ValidRequestID(id) {
			id = NewRequestID()
		}
		return telemetry.WithRequestID(ctx, id), nil
	})
}

// NewRequestID returns a new id: 26 letters and digits, as good as unique.
func NewRequestID() string { return rand.Text() }

// ValidRequestID reports whether an id from outside may be written into logs and headers.
func ValidRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:", rune(c)) {
			return false
		}
	}
	return true
}

// errorMapping stands outside of authn and authz, so that their refusals are mapped too, and outside of logging, which
// sees the error as it was.
func errorMapping() Interceptor {
	return after("error mapping", func(_ context.Context, _ string, _ time.Time, err error) error { return ToStatus(err) })
}

func (s *Server) logging() Interceptor {
	return after("logging", func(ctx context.Context, method string, began time.Time, err error) error {
		level := slog.LevelDebug
		if err != nil && fault.KindOf(FromStatus(err)) == fault.Internal {
			level = slog.LevelError
		}
		if !s.log.Enabled(ctx, level) {
			return err
		}
		attrs := []slog.Attr{slog.String("method", method), slog.Duration("took", time.Since(began))}
		if err != nil {
			attrs = append(attrs, slog.String("kind", fault.KindOf(FromStatus(err)).String()), slog.Any("error", err))
		}
		s.log.LogAttrs(ctx, level, "call", attrs...)
		return err
	})
}

func (s *Server) validation() Interceptor {
	check := func(req any) error {
		m, ok := req.(proto.Message)
		if !ok || len(s.checks) == 0 {
			return nil
		}
		for _, fn := range s.checks[string(m.ProtoReflect().Descriptor().FullName())] {
			if err := fn(m); err != nil {
				return err
			}
		}
		return nil
	}
	return Interceptor{
		Name: "validation",
		Unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := check(req); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		},
		Stream: func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, &checkedStream{ServerStream: ss, check: check})
		},
	}
}

type checkedStream struct {
	grpc.ServerStream
	check func(any) error
}

func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.check(m)
}

// single returns the only value of a metadata key. Two values are none: whoever added the second had a reason.
func single(ctx context.Context, key string) (string, bool) {
	if vs := metadata.ValueFromIncomingContext(ctx, key); len(vs) == 1 {
		return vs[0], true
	}
	return "", false
}

// authn puts the caller into the context. A call that proves nothing is refused, whatever its method's rule.
func (s *Server) authn() Interceptor {
	return around("authn", func(ctx context.Context, method string) (context.Context, error) {
		p := s.table[method]
		if p == nil {
			return ctx, nil // health and reflection: Check saw to the rest
		}
		target, err := s.target(ctx, p)
		if err != nil {
			return nil, err
		}
		token, ok := single(ctx, MetadataToken)
		switch {
		case ok:
			caller, err := s.cfg.Verifier.Verify(ctx, token, p.Audience)
			if err != nil {
				return nil, err
			}
			ctx = authn.NewContext(ctx, caller)
		case target == "" || len(metadata.ValueFromIncomingContext(ctx, MetadataToken)) > 0:
			return nil, fault.New(fault.Unauthenticated, "the internal token is missing or not valid").WithReason(authn.ReasonToken)
		default:
			ctx = authn.NewContext(ctx, authn.Service(target))
		}
		return context.WithValue(ctx, targetKey{}, target), nil
	})
}
