package rpc

import (
	"context"

	"google.golang.org/grpc/stats"
)

// OtherMethod is what a method that is not known is called in spans and metrics.
const OtherMethod = "/other/_OTHER"

// KnownMethods returns a stats handler that shows next the names of known methods only: all others are OtherMethod.
// A peer may call any name, and each would be a time series for ever.
func KnownMethods(next stats.Handler, known func(fullMethod string) bool) stats.Handler {
	return knownMethods{next, known}
}

type knownMethods struct {
	stats.Handler
	known func(string) bool
}

func (h knownMethods) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if !h.known(info.FullMethodName) {
		other := *info
		other.FullMethodName = OtherMethod
		info = &other
	}
	return h.Handler.TagRPC(ctx, info)
}
