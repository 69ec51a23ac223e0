package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"

	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
)

const (
	// DefaultTimeout is the deadline of a unary call whose context has none.
	DefaultTimeout = 30 * time.Second
	// memoryBuffer is how much a writer of an in-memory connection may be ahead: gRPC's own window is 64 KiB.
	memoryBuffer = 256 << 10
)

// NetworkConfig says where services are and who we are.
type NetworkConfig struct {
	// Target is our own name, such as `gateway`.
	Target string
	// Secret is our target credential; identity gives tokens only against it.
	Secret string
	// Addresses are `host:port` of the services that may run elsewhere.
	Addresses map[string]string
	// Timeout of unary calls without a deadline; 0 means DefaultTimeout.
	Timeout time.Duration
	// Minter asks for tokens; nil means identity's MintToken over this network.
	Minter authn.Minter
	// Now is the clock for token lifetimes; nil means time.Now.
	Now func() time.Time
}

// Network hands out connections to services, wherever they are. It is safe for concurrent use.
type Network struct {
	cfg    NetworkConfig
	tokens *authn.TokenSource

	mu     sync.Mutex
	local  map[string]*bufconn.Listener
	conns  map[string]*grpc.ClientConn
	closed bool
}

// NewNetwork returns a Network without connections; they are made when first asked for.
func NewNetwork(cfg NetworkConfig) *Network {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	n := &Network{cfg: cfg, local: make(map[string]*bufconn.Listener), conns: make(map[string]*grpc.ClientConn)}
	mint := cfg.Minter
	if mint == nil {
		mint = func(ctx context.Context, caller authn.Caller, audience string) (string, time.Time, error) {
			conn, err := n.Dial("identity")
			if err != nil {
				return "", time.Time{}, err
			}
			return authn.RemoteMinter(identityv1.NewIdentityServiceClient(conn))(ctx, caller, audience)
		}
	}
	n.tokens = authn.NewTokenSource(mint, cfg.Now)
	return n
}

// Local says that the services run in this process, and returns the in-memory listener to serve them on. It is called
// before they are dialled. Servers close their listeners when they stop.
func (n *Network) Local(services ...string) net.Listener {
	lis := bufconn.Listen(memoryBuffer)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range services {
		n.local[s] = lis
	}
	return lis
}

// Dial returns the connection to a service, the same one each time; Close closes it. It does not wait: calls do.
func (n *Network) Dial(service string) (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("the network is closed")
	}
	if conn, ok := n.conns[service]; ok {
		return conn, nil
	}
	opts := n.options()
	var target string
	if lis, ok := n.local[service]; ok {
		target = "passthrough:///" + service
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	} else if addr := n.cfg.Addresses[service]; addr != "" {
		target = "dns:///" + addr
	} else {
		return nil, fmt.Errorf("the service %s does not run here, and its address is not known", service)
	}
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", service, err)
	}
	n.conns[service] = conn
	return conn, nil
}

func (n *Network) options() []grpc.DialOption {
	return []grpc.DialOption{
		// Service ports are cluster-internal; what goes over them is signed, not secret.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithChainUnaryInterceptor(n.unary),
		grpc.WithChainStreamInterceptor(n.stream),
		// With waitForReady a server that comes up must be noticed soon, not after the default two minutes.
		grpc.WithConnectParams(connectParams),
	}
}

// Close closes all connections. It may be called twice.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	var errs []error
	for _, c := range n.conns {
		errs = append(errs, c.Close())
	}
	n.conns = make(map[string]*grpc.ClientConn)
	return errors.Join(errs...)
}
