package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// upstream serves a channel to the containers, as slowly as asked, and remembers who fetched how many package files.
type upstream struct {
	channel *sample.Channel
	url     string
	server  *http.Server
	done    chan struct{}

	mu      sync.Mutex
	delay   time.Duration
	fetched map[string]int // package files by the client's address
	changed chan struct{}  // closed and replaced when fetched changes
}

// serve listens on an address of this machine that containers can reach.
func serve(ch *sample.Channel, host string, delay time.Duration) (*upstream, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	u := &upstream{
		channel: ch, url: "http://" + l.Addr().String(), done: make(chan struct{}),
		delay: delay, fetched: map[string]int{}, changed: make(chan struct{}),
	}
	files := http.FileServer(http.Dir(ch.Dir))
	u.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".conda") || strings.HasSuffix(r.URL.Path, ".tar.bz2") {
			if !u.wait(r.Context()) {
				return
			}
			host, _, _ := net.SplitHostPort(r.RemoteAddr)
			u.count(host)
		}
		files.ServeHTTP(w, r)
	})}
	go func() {
		defer close(u.done)
		_ = u.server.Serve(l) // ends with close
	}()
	return u, nil
}

// wait holds an answer back; it is false if the client has gone.
func (u *upstream) wait(ctx context.Context) bool {
	u.mu.Lock()
	d := u.delay
	u.mu.Unlock()
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (u *upstream) setDelay(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.delay = d
}

func (u *upstream) count(host string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fetched[host]++
	close(u.changed)
	u.changed = make(chan struct{})
}

// files is how many package files an address has fetched.
func (u *upstream) files(host string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.fetched[host]
}

// allFiles is how many all have fetched.
func (u *upstream) allFiles() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range u.fetched {
		n += m
	}
	return n
}

// awaitFiles waits until one address has fetched n files, and returns it.
func (u *upstream) awaitFiles(ctx context.Context, n int) (host string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("no worker has fetched that many files within two minutes"))
	defer cancel()
	for {
		u.mu.Lock()
		changed := u.changed
		for host, m := range u.fetched {
			if m >= n {
				u.mu.Unlock()
				return host, nil
			}
		}
		u.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func (u *upstream) close() {
	u.server.Close()
	<-u.done
}
