package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// freePorts returns addresses on loopback that nobody listens on. They lie below what kernels hand out for outgoing
// connections, so that a process finds its port free again when it is restarted.
func freePorts(n int) ([]string, error) {
	var out []string
	base := 15000 + rand.IntN(12000)
	for port := base; len(out) < n && port < base+5000; port++ {
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		l.Close()
		out = append(out, addr)
	}
	if len(out) < n {
		return nil, fmt.Errorf("of %d ports from %d only %d are free", n, base, len(out))
	}
	return out, nil
}

// balancer is what stands in front of gateways: it passes each connection to one of them, to the next if one refuses.
// It knows nothing of HTTP, like the virtual addresses of cluster networks.
type balancer struct {
	l        net.Listener
	backends []string
	turn     atomic.Uint64
	open     sync.WaitGroup
}

func balance(ctx context.Context, backends ...string) (*balancer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &balancer{l: l, backends: backends}
	context.AfterFunc(ctx, func() { l.Close() })
	b.open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.open.Go(func() { b.pass(ctx, c) })
		}
	})
	return b, nil
}

func (b *balancer) url() string { return "http://" + b.l.Addr().String() }

func (b *balancer) pass(ctx context.Context, client net.Conn) {
	defer client.Close()
	first := b.turn.Add(1)
	for i := range b.backends {
		addr := b.backends[(first+uint64(i))%uint64(len(b.backends))]
		server, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			continue
		}
		defer context.AfterFunc(ctx, func() { client.Close(); server.Close() })()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(server, client)
			_ = server.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(client, server) // it ended, in whichever way: the client sees it
		client.Close()
		server.Close()
		<-done
		return
	}
}
