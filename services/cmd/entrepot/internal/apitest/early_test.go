package apitest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestWorkBeforeAuth: who may upload nothing is told so before the first byte of the body; quetz.md R7.
func TestWorkBeforeAuth(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	p := packages(t)[1]
	const announced = 1 << 30
	targets := map[string]string{
		"/api/channels/" + ch.name + "/upload/" + p.filename + "?sha256=": "POST",
		"/entrepot/v1/channels/" + ch.name + "/uploads/" + p.filename:     "PUT",
		"/api/channels/" + ch.name + "/files":                             "POST",
		"/api/channels/" + ch.name + "/packages/" + p.name + "/files":     "POST",
		"/api/channels/channel0/upload/" + p.filename + "?sha256=":        "POST",
	}
	for path, method := range targets {
		for who, key := range map[string]string{anonymous: "", stranger: w.User("erin").Key, expired: w.expiredKey} {
			t.Run(path+" "+who, func(t *testing.T) {
				form := strings.Contains(path, "/files")
				want := 401
				if who == stranger {
					want = 403
				}
				if who == stranger && form { // only the parts say which package it is about, so the first header is read
					return
				}
				status, sent := announce(t, w.Stack, method, path, key, announced)
				if status != want {
					t.Errorf("status %d, want %d", status, want)
				}
				if sent > 0 {
					t.Errorf("the body was asked for")
				}
				if who != anonymous || form { // net/http waits half a second before it closes on a client that goes on
					return
				}
				if status, sent = push(t, w.Stack, method, path, key, announced); status != want && status != 0 {
					t.Errorf("without waiting: status %d, want %d", status, want)
				}
				// What fits into the sockets' buffers on the way is nobody's decision; a gigabyte would be.
				if sent > 32<<20 {
					t.Errorf("%d bytes were taken", sent)
				}
			})
		}
	}
	t.Run("a form of a stranger's ends at the header of its first file", func(t *testing.T) {
		body := "--x\r\nContent-Disposition: form-data; name=\"files\"; filename=\"" + p.filename + "\"\r\n\r\n"
		sent := &counted{r: io.LimitReader(zeros{}, announced)}
		endless := io.MultiReader(strings.NewReader(body), sent)
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.URL+"/api/channels/"+ch.name+"/files", endless)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "multipart/form-data; boundary=x")
		req.Header.Set("X-API-Key", w.User("erin").Key)
		resp, err := http.DefaultClient.Do(req)
		defer http.DefaultClient.CloseIdleConnections()
		if err == nil {
			defer resp.Body.Close()
			if resp.StatusCode != 403 {
				t.Errorf("status %d", resp.StatusCode)
			}
		} else if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Error(err)
		}
		if n := sent.n.Load(); n > 64<<20 { // what the sockets hold, and what the server reads to be polite
			t.Errorf("%d bytes of the file were taken", n)
		}
	})
	t.Run("a body that ends early stores nothing", func(t *testing.T) {
		conn := dial(t, w.Stack)
		fmt.Fprintf(conn, "POST /api/channels/%s/upload/%s?sha256= HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n", ch.name, p.filename, w.User("bob").Key, len(p.data))
		_, _ = conn.Write(p.data[:len(p.data)/2])
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(conn)
		w.User("bob").In(t).Must(404, "GET", "/get/"+ch.name+"/"+p.subdir+"/"+p.filename, nil)
		w.User("bob").In(t).Must(201, "POST", "/api/channels/"+ch.name+"/upload/"+p.filename+"?sha256="+p.sha256, p.data)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counted struct {
	r io.Reader
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func dial(t *testing.T, s *platformtest.Stack) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(s.URL, "http://"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func head(method, path, key string, size int, extra string) string {
	if key != "" {
		extra += "X-API-Key: " + key + "\r\n"
	}
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n%s\r\n", method, path, size, extra)
}

// announce sends a request that waits for leave to send its body, and counts what it was asked for.
func announce(t *testing.T, s *platformtest.Stack, method, path, key string, size int) (status, sent int) {
	t.Helper()
	conn := dial(t, s)
	defer conn.Close()
	if _, err := io.WriteString(conn, head(method, path, key, size, "Expect: 100-continue\r\n")); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &status); err != nil {
		t.Fatal(err)
	}
	if status == 100 {
		sent = size
	}
	return status, sent
}

// push sends a body without waiting until the server has enough; status is 0 if the answer was lost with the connection.
func push(t *testing.T, s *platformtest.Stack, method, path, key string, size int) (status, sent int) {
	t.Helper()
	conn := dial(t, s)
	defer conn.Close()
	if _, err := io.WriteString(conn, head(method, path, key, size, "")); err != nil {
		t.Fatal(err)
	}
	answer := make(chan int, 1)
	go func() {
		var status int
		line, _ := bufio.NewReader(conn).ReadString('\n')
		_, _ = fmt.Sscanf(line, "HTTP/1.1 %d", &status)
		answer <- status
	}()
	chunk := make([]byte, 64<<10)
	for sent < size {
		n, err := conn.Write(chunk)
		sent += n
		if err != nil {
			break
		}
	}
	return <-answer, sent
}

// TestPageSizes: no page is larger than it may be, whatever is asked for.
func TestPageSizes(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	for _, path := range []string{
		"/channels", "/channels/" + ch.name + "/packages", "/channels/" + ch.name + "/files", "/channels/" + ch.name + "/revisions", "/jobs", "/users", "/audit",
	} {
		for size, want := range map[string]int{"2147483647": 200, "1000": 200, "1": 200, "0": 200, "-1": 400, "-2147483648": 400, "2147483648": 400} {
			resp := w.Admin().In(t).Do("GET", "/entrepot/v1"+path+"?page_size="+size, nil)
			if resp.Status != want && (size[0] != '-' || resp.Status != 200) { // less than nothing may mean the default
				t.Errorf("%s?page_size=%s: %d, want %d: %.200s", path, size, resp.Status, want, resp.Body)
			}
		}
		for _, q := range []string{"page_token=x", "page_token=%ff", "skip=-1", "skip=9223372036854775807", "query=%ff", "%ff=x", "query=%00", "page_token=" + strings.Repeat("A", 5000)} {
			if resp := w.Admin().In(t).Do("GET", "/entrepot/v1"+path+"?"+q, nil); resp.Status >= 500 {
				t.Errorf("%s?%s: %d: %.200s", path, q, resp.Status, resp.Body)
			}
		}
	}
	for _, q := range []string{"skip=9223372036854775807", "limit=9223372036854775807", "skip=9223372036854775807&limit=9223372036854775807", "skip=1099511627777"} {
		for _, path := range []string{"/api/paginated/channels", "/api/paginated/channels/" + ch.name + "/packages", "/api/paginated/channels/" + ch.name + "/packages/" + ch.pkg.name + "/versions"} {
			if resp := w.Admin().In(t).Do("GET", path+"?"+q, nil); resp.Status >= 500 {
				t.Errorf("%s?%s: %d: %.200s", path, q, resp.Status, resp.Body)
			}
		}
	}
}

// TestNotUTF8: bytes that no text has are the client's mistake, wherever they stand; quetz.md R20.
func TestNotUTF8(t *testing.T) {
	w := newWorld(t)
	admin := w.Admin()
	type request = platformtest.Request
	bad := "x\xff\xfe"
	form, formType := formBody(nil, &pkg{filename: bad + "-1-0.conda", data: []byte("x")})
	for name, req := range map[string]request{
		"a query":                {Method: "GET", Path: "/api/channels?q=%ff"},
		"a native query":         {Method: "GET", Path: "/entrepot/v1/channels?query=%ff"},
		"a channel":              {Method: "GET", Path: "/api/channels/%ff"},
		"a native channel":       {Method: "GET", Path: "/entrepot/v1/channels/%ff"},
		"a package":              {Method: "GET", Path: "/api/channels/channel0/packages/%ff"},
		"a file":                 {Method: "GET", Path: "/get/channel0/noarch/%ff"},
		"a file's channel":       {Method: "GET", Path: "/get/%ff/noarch/x"},
		"a job":                  {Method: "GET", Path: "/api/jobs/%ff"},
		"a user":                 {Method: "GET", Path: "/api/dummylogin/%ff"},
		"a member":               {Method: "DELETE", Path: "/api/channels/channel0/members?username=%ff"},
		"an upload":              {Method: "POST", Path: "/api/channels/channel0/upload/%ff-1-0.conda?sha256=", Body: "x"},
		"a native upload":        {Method: "PUT", Path: "/entrepot/v1/channels/channel0/uploads/%ff-1-0.conda", Body: "x"},
		"a form's file name":     {Method: "POST", Path: "/api/channels/channel0/files", Body: form, Header: http.Header{"Content-Type": {formType}}},
		"a JSON string":          {Method: "POST", Path: "/entrepot/v1/channels", Body: "{\"name\":\"" + bad + "\"}"},
		"a JSON string in Quetz": {Method: "POST", Path: "/api/channels", Body: "{\"name\":\"" + bad + "\"}"},
		"an action":              {Method: "PUT", Path: "/api/channels/channel0/actions", Body: "{\"action\":\"" + bad + "\"}"},
		"a key":                  {Method: "GET", Path: "/api/me", Header: http.Header{"X-Api-Key": {bad}}},
		"a key in the path":      {Method: "GET", Path: "/t/%ff/api/me", Header: http.Header{"X-Api-Key": nil}},
		"a cookie":               {Method: "GET", Path: "/api/me", Header: http.Header{"X-Api-Key": nil, "Cookie": {"entrepot_session=" + bad}}},
		"a revoked key":          {Method: "DELETE", Path: "/api/api-keys/%ff"},
		"an event's id":          {Method: "GET", Path: "/entrepot/v1/jobs/4711/events", Header: http.Header{"Last-Event-Id": {bad}}},
		"a trace":                {Method: "GET", Path: "/api/channels/none", Header: http.Header{"Traceparent": {bad}, "Baggage": {bad}, "Tracestate": {bad}}},
	} {
		if resp := admin.In(t).Send(0, req); resp.Status < 400 || resp.Status >= 500 {
			t.Errorf("%s: %d: %.200s", name, resp.Status, resp.Body)
		}
	}
	if strings.Contains(w.Logs(), "level=ERROR") {
		t.Error("some of them were errors of ours; see the log")
	}
}
