package edge

import (
	"context"
	"errors"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
)

// GatewayOptions configure a dialect's grpc-gateway mux: its marshaler, its errors, and no header of a client's ever
// becoming metadata.
func GatewayOptions(m *Marshaler, writeError func(http.ResponseWriter, *http.Request, error)) []runtime.ServeMuxOption {
	none := func(string) (string, bool) { return "", false }
	return []runtime.ServeMuxOption{
		runtime.WithMarshalerOption(runtime.MIMEWildcard, m),
		runtime.WithIncomingHeaderMatcher(none),
		runtime.WithOutgoingHeaderMatcher(none),
		runtime.WithOutgoingTrailerMatcher(none),
		runtime.WithErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
			writeError(w, r, err)
		}),
		// The table of routes has answered wrong paths and methods before. What is left are verbs that are none, such as
		// POST /channels/c:explode, since all verbs of a path are one pattern.
		runtime.WithRoutingErrorHandler(func(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int) {
			writeError(w, r, fault.New(fault.NotFound, "no such path"))
		}),
	}
}

// asFault restores the fault of any error: one of ours, a gRPC status, or what grpc-gateway says of a request that it
// could not read.
func asFault(err error) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	if s, ok := status.FromError(err); ok && s.Code() == codes.InvalidArgument && len(s.Details()) == 0 {
		return fault.New(fault.Invalid, "the request cannot be read: %s", s.Message())
	}
	if errors.As(rpc.FromStatus(err), &f) {
		return f
	}
	return &fault.Error{Kind: fault.KindOf(err), Message: err.Error()}
}
