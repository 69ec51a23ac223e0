package scenario

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

// Upstream serves a channel, as slowly as asked, and remembers who fetched how many package files.
type Upstream struct {
	// Channel is what it serves.
	Channel *sample.Channel
	// URL of the channel, without a slash at its end.
	URL string

	server *http.Server
	done   chan struct{}

	mu      sync.Mutex
	delay   time.Duration
	fetched map[string]int // package files by the client's address
	changed chan struct{}  // closed and replaced when fetched changes
}

// Serve serves a channel on a free port of one of this machine's addresses, each package file after a delay.
func Serve(ch *sample.Channel, host string, delay time.Duration) (*Upstream, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	u := &Upstream{
		Channel: ch, URL: "http://" + l.Addr().String(), done: make(chan struct{}),
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
		_ = u.server.Serve(l) // ends with Close
	}()
	return u, nil
}

// wait holds an answer back; it is false if the client has gone.
func (u *Upstream) wait(ctx context.Context) bool {
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

// SetDelay changes how long each further request for a package file is held back.
func (u *Upstream) SetDelay(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.delay = d
}

func (u *Upstream) count(host string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fetched[host]++
	close(u.changed)
	u.changed = make(chan struct{})
}

// Files is how many package files an address has fetched.
func (u *Upstream) Files(host string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.fetched[host]
}

// AllFiles is how many all have fetched.
func (u *Upstream) AllFiles() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, m := range u.fetched {
		n += m
	}
	return n
}

// AwaitFiles waits until one address has fetched n files, and returns it.
func (u *Upstream) AwaitFiles(ctx context.Context, n int) (host string, err error) {
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

// Close cuts all connections and stops serving.
func (u *Upstream) Close() {
	u.server.Close()
	<-u.done
}
