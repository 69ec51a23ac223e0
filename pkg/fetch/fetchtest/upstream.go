package fetchtest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// Upstream is a scripted server on loopback. It is closed when its test ends.
type Upstream struct {
	// URL is the server's base, without a slash at the end.
	URL string

	srv     *httptest.Server
	arrived chan struct{} // closed and replaced with each request

	mu       sync.Mutex
	scripts  map[string][]http.HandlerFunc
	next     map[string]int
	fallback http.Handler
	requests []Request
}

// Request is one logged request.
type Request struct {
	Method, Path, Query, Host, Proto string
	Header                           http.Header
}

// New starts an upstream without TLS.
func New(t testing.TB) *Upstream {
	u := newUpstream()
	u.srv.Start()
	return u.until(t)
}

// NewTLS starts an upstream with TLS and HTTP/2; CABundle makes a client trust it.
func NewTLS(t testing.TB) *Upstream {
	u := newUpstream()
	u.srv.EnableHTTP2 = true
	u.srv.StartTLS()
	return u.until(t)
}

// NewWith starts an upstream that shows a certificate, with HTTP/2. With clients it wants one of theirs.
func NewWith(t testing.TB, cert tls.Certificate, clients *x509.CertPool) *Upstream {
	u := newUpstream()
	u.srv.EnableHTTP2 = true
	u.srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	if clients != nil {
		u.srv.TLS.ClientAuth, u.srv.TLS.ClientCAs = tls.RequireAndVerifyClientCert, clients
	}
	u.srv.StartTLS()
	return u.until(t)
}

// NewAt starts an upstream without TLS at an address such as 127.0.0.2:0, which is loopback but not what others have.
func NewAt(t testing.TB, addr string) *Upstream {
	u := newUpstream()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	u.srv.Listener.Close()
	u.srv.Listener = l
	u.srv.Start()
	return u.until(t)
}

func newUpstream() *Upstream {
	u := &Upstream{
		scripts: map[string][]http.HandlerFunc{}, next: map[string]int{}, fallback: http.NotFoundHandler(), arrived: make(chan struct{}),
	}
	u.srv = httptest.NewUnstartedServer(u)
	u.srv.Config.ErrorLog = log.New(io.Discard, "", 0) // what clients do to it is the test's business
	return u
}

func (u *Upstream) until(t testing.TB) *Upstream {
	u.URL = u.srv.URL
	t.Cleanup(func() {
		u.srv.CloseClientConnections() // what drips or hangs would otherwise hold Close up
		u.srv.Close()
	})
	return u
}

// CABundle returns the server's certificate as PEM; nil without TLS.
func (u *Upstream) CABundle() []byte {
	c := u.srv.Certificate()
	if c == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Script sets what the requests to a path get, one after the other; the last behaviour repeats. It starts the path anew.
func (u *Upstream) Script(path string, behaviours ...http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scripts[path], u.next[path] = behaviours, 0
}

// Fallback answers the paths without a script.
func (u *Upstream) Fallback(h http.Handler) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fallback = h
}

// Requests returns the log so far.
func (u *Upstream) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.requests)
}

// Count returns how often a path was asked for, by any method.
func (u *Upstream) Count(path string) (n int) {
	for _, r := range u.Requests() {
		if r.Path == path {
			n++
		}
	}
	return n
}

// Reset forgets the log and starts all scripts anew.
func (u *Upstream) Reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests = nil
	clear(u.next)
}

// Arrived returns a channel that is closed with the next request: a signal to wait for instead of sleeping.
func (u *Upstream) Arrived() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.arrived
}

// ServeHTTP logs the request and plays the path's next behaviour.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.requests = append(u.requests, Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Host: r.Host, Proto: r.Proto, Header: r.Header.Clone()})
	close(u.arrived)
	u.arrived = make(chan struct{})
	h := u.fallback
	if s := u.scripts[r.URL.Path]; len(s) > 0 {
		n := u.next[r.URL.Path]
		h = s[min(n, len(s)-1)]
		u.next[r.URL.Path] = n + 1
	}
	u.mu.Unlock()
	h.ServeHTTP(w, r)
}
