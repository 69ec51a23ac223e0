package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// upstream serves a channel and logs every request. Package files come slowly, so that there is a middle to be killed in.
type upstream struct {
	url    string
	server *http.Server
	done   chan struct{}

	mu      sync.Mutex
	delay   time.Duration
	log     []logged
	changed chan struct{} // closed and replaced with each line of the log
	open    int
}

// logged is a line of the log.
type logged struct {
	at   time.Time
	path string
}

func serveUpstream(ch *sample.Channel, delay time.Duration) (*upstream, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u := &upstream{url: "http://" + l.Addr().String(), done: make(chan struct{}), delay: delay, changed: make(chan struct{})}
	files := http.FileServer(http.Dir(ch.Dir))
	u.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		delay := u.delay
		u.log = append(u.log, logged{time.Now(), r.URL.Path})
		u.open++
		close(u.changed)
		u.changed = make(chan struct{})
		u.mu.Unlock()
		defer func() {
			u.mu.Lock()
			u.open--
			u.mu.Unlock()
		}()
		if isPackage(r.URL.Path) {
			select {
			case <-time.After(delay):
			case <-r.Context().Done():
				return
			}
		}
		files.ServeHTTP(w, r)
	})}
	go func() {
		defer close(u.done)
		_ = u.server.Serve(l) // ends with close
	}()
	return u, nil
}

func isPackage(path string) bool {
	return strings.HasSuffix(path, ".conda") || strings.HasSuffix(path, ".tar.bz2")
}

// files is how many GETs of packages the log has.
func (u *upstream) files() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.log {
		if isPackage(l.path) {
			n++
		}
	}
	return n
}

// settle waits until nobody is being served: what a killed process had asked for is in the log then.
func (u *upstream) settle() {
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		u.mu.Lock()
		open := u.open
		u.mu.Unlock()
		if open == 0 {
			return
		}
	}
}

// awaitFiles waits until the log has n GETs of packages.
func (u *upstream) awaitFiles(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("the upstream was not asked for %d files", n))
	defer cancel()
	for {
		u.mu.Lock()
		changed := u.changed
		u.mu.Unlock()
		if u.files() >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (u *upstream) close() {
	u.server.Close()
	<-u.done
}

func newBody(data []byte) io.Reader { return bytes.NewReader(data) }
