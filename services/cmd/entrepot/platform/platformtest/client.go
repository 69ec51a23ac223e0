package platformtest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Client sends requests as somebody. It follows no redirects and decodes no encodings, so that tests see what was sent.
type Client struct {
	stack *Stack
	t     testing.TB
	http  *http.Client
	// Key goes out as X-API-Key; empty is anonymous.
	Key string
}

// Request is a request that Do cannot say.
type Request struct {
	Method, Path string
	// Body is nil, a string, bytes, a reader, or anything that becomes JSON.
	Body   any
	Header http.Header
}

// Response is an answer, read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	t      testing.TB
}

// As returns a client that uses a key; an empty one is anonymous.
func (s *Stack) As(key string) *Client {
	return &Client{stack: s, t: s.t, Key: key, http: &http.Client{
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     transport,
	}}
}

// In returns the client for a subtest: what fails then ends that one.
func (c *Client) In(t testing.TB) *Client {
	sub := *c
	sub.t = t
	return &sub
}

// transport is shared, so that connections are. Encodings stay as they were sent.
var transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 5 * time.Second}

// CloseIdle closes connections that nobody uses.
func CloseIdle() { transport.CloseIdleConnections() }

// Admin is alice, who owns the server.
func (s *Stack) Admin() *Client { return s.As(s.AdminKey) }

// Anonymous sends no credentials.
func (s *Stack) Anonymous() *Client { return s.As("") }

// User returns a client with a key of one of the development users: alice, bob, carol or dave.
func (s *Stack) User(name string) *Client {
	s.t.Helper()
	s.mu.Lock()
	key := s.keys[name]
	s.mu.Unlock()
	if key == "" {
		var made struct {
			Key string `json:"key"`
		}
		s.Anonymous().Send(201, Request{
			Method: "POST", Path: "/api/api-keys", Body: map[string]any{"description": "test", "roles": []any{}},
			Header: http.Header{"Cookie": {s.Login(name)}},
		}).JSON(&made)
		key = made.Key
		s.mu.Lock()
		s.keys[name] = key
		s.mu.Unlock()
	}
	return s.As(key)
}

// Login returns the login cookie of a development user, as the header Cookie wants it.
func (s *Stack) Login(name string) string {
	s.t.Helper()
	cookie := s.Anonymous().Must(307, "GET", "/api/dummylogin/"+name, nil).Header.Get("Set-Cookie")
	cookie, _, _ = strings.Cut(cookie, ";")
	return cookie
}

// Conn returns a gRPC connection to the front door. It closes with the test.
func (s *Stack) Conn(opts ...grpc.DialOption) *grpc.ClientConn { return s.dial(s.GRPCAddr, opts) }

// ServiceConn returns a gRPC connection to the service port, where only internal tokens count.
func (s *Stack) ServiceConn(opts ...grpc.DialOption) *grpc.ClientConn {
	return s.dial(s.ServiceAddr, opts)
}

func (s *Stack) dial(addr string, opts []grpc.DialOption) *grpc.ClientConn {
	s.t.Helper()
	if len(opts) == 0 {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(addr, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Do sends a request. Only a transport that fails ends the test.
func (c *Client) Do(method, path string, body any) *Response {
	c.t.Helper()
	return c.do(Request{Method: method, Path: path, Body: body})
}

// Must is Do for a request whose status is known; another one ends the test.
func (c *Client) Must(status int, method, path string, body any) *Response {
	c.t.Helper()
	return c.Send(status, Request{Method: method, Path: path, Body: body})
}

// Send is Must for a whole Request; with status 0 any will do.
func (c *Client) Send(status int, req Request) *Response {
	c.t.Helper()
	resp := c.do(req)
	if status != 0 && resp.Status != status {
		c.t.Fatalf("%s %s: status %d, want %d\n%s", req.Method, req.Path, resp.Status, status, resp.Body)
	}
	return resp
}

func (c *Client) do(req Request) *Response {
	c.t.Helper()
	r, err := c.newRequest(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", req.Method, req.Path, err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", req.Method, req.Path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: read the answer: %v", req.Method, req.Path, err)
	}
	return &Response{resp.StatusCode, resp.Header, data, c.t}
}

// newRequest: a Path may be a whole URL.
func (c *Client) newRequest(req Request) (*http.Request, error) {
	var body io.Reader
	contentType := ""
	switch b := req.Body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	case []byte:
		body = bytes.NewReader(b)
	case io.Reader:
		body = b
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		body, contentType = bytes.NewReader(data), "application/json"
	}
	url := req.Path
	if strings.HasPrefix(url, "/") {
		url = c.stack.URL + url
	}
	r, err := http.NewRequest(req.Method, url, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if c.Key != "" {
		r.Header.Set("X-API-Key", c.Key)
	}
	for name, values := range req.Header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	return r, nil
}

// JSON decodes the body into v.
func (r *Response) JSON(v any) {
	r.t.Helper()
	if err := json.Unmarshal(r.Body, v); err != nil {
		r.t.Fatalf("the answer is not the JSON that was expected: %v\n%s", err, r.Body)
	}
}

// Forget drops the keys that User has made, after a test took the database away from under them.
func (s *Stack) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.keys)
}
