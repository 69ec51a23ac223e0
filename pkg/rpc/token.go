package rpc

import (
	"context"

	"github.com/entrepot-dev/entrepot/pkg/authn"
)

// Token returns an internal token of this process itself, for what is not asked by gRPC.
func (n *Network) Token(ctx context.Context, audience string) (string, error) {
	token, err := n.tokens.Token(ctx, authn.Service(n.cfg.Target), audience)
	return token, FromStatus(err)
}
