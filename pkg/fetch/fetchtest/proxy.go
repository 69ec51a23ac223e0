package fetchtest

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Proxy is a forward proxy on loopback: absolute URLs for http, CONNECT for https. Names that it was told about (Route)
// lead where it was told; others it does not know.
type Proxy struct {
	// URL is the proxy's own, without credentials.
	URL string

	srv  *httptest.Server
	auth string // what Proxy-Authorization must be; empty lets everybody in

	mu       sync.Mutex
	routes   map[string]string
	requests []Request
	conns    map[net.Conn]struct{}
}

// NewProxy starts one. With a user name it wants Basic credentials.
func NewProxy(t testing.TB, username, password string) *Proxy {
	p := &Proxy{routes: map[string]string{}, conns: map[net.Conn]struct{}{}}
	if username != "" {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(username, password)
		p.auth = r.Header.Get("Authorization")
	}
	p.srv = httptest.NewUnstartedServer(p)
	p.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.srv.Start()
	p.URL = p.srv.URL
	t.Cleanup(func() {
		p.mu.Lock()
		for c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.srv.CloseClientConnections()
		p.srv.Close()
	})
	return p
}

// Route makes host:port lead to an upstream.
func (p *Proxy) Route(hostport string, up *Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, addr, _ := strings.Cut(up.URL, "://")
	p.routes[hostport] = addr
}

// Requests returns what it was asked for; Path of a CONNECT is host:port.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// ServeHTTP forwards.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target := r.URL.Host
	path := r.URL.String()
	if r.Method == http.MethodConnect {
		target, path = r.Host, r.Host
	} else if !strings.Contains(target, ":") {
		target += ":80"
	}
	p.mu.Lock()
	p.requests = append(p.requests, Request{Method: r.Method, Path: path, Host: r.Host, Proto: r.Proto, Header: r.Header.Clone()})
	addr, ok := p.routes[target]
	p.mu.Unlock()
	switch {
	case p.auth != "" && r.Header.Get("Proxy-Authorization") != p.auth:
		w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
	case !ok:
		http.Error(w, "no such host", http.StatusBadGateway)
	case r.Method == http.MethodConnect:
		p.tunnel(w, addr)
	default:
		p.forward(w, r, addr)
	}
}

func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, addr string) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.Header.Del("Proxy-Authorization")
	out.URL.Host = addr
	tr := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	resp, err := tr.RoundTrip(out)
	if err != nil {
		http.Error(w, "upstream failed", http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

func (p *Proxy) tunnel(w http.ResponseWriter, addr string) {
	up, err := net.Dial("tcp", addr)
	if err != nil {
		http.Error(w, "upstream failed", http.StatusBadGateway)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		up.Close()
		return
	}
	p.mu.Lock()
	p.conns[conn], p.conns[up] = struct{}{}, struct{}{}
	p.mu.Unlock()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(up, conn)
		up.Close()
	}()
	_, _ = io.Copy(conn, up)
	conn.Close()
	up.Close()
	<-done
}
