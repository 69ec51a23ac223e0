package apitest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// hostilePaths says "up", "root" and "nothing" in every way that has opened a file somewhere, at each place of a path.
func hostilePaths() []string {
	segments := []string{
		"..", ".", "...", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%2e", "%252e%252e", "%25252e%25252e", "..%2f", "..%2f..%2f..%2fetc%2fpasswd", "..%5c", "..\\",
		"%5c..%5c", "\\", "%5c", "%2f", "%2F%2F", "%252f", "%00", "a%00", "%00.json", "..%00", "%0a", "%0d%0a", "%09", "%7f", "%20", "%20%20", "..%20", "%20..",
		"%c0%ae%c0%ae", "%c0%af", "%e0%80%af", "%c1%9c", "%ff", "%fe%ff", "%u002e", "%uff0e", "%ef%bc%8e%ef%bc%8e", "%ef%bc%8f", "%e2%80%a5", "%e2%88%95", "%e2%81%84", "%ef%bc%bc",
		"%e2%80%8b", ".%e2%80%8b.", "%ef%bb%bf", "%e2%80%ae", "%c2%85", "..;", "..%3b", "%2e%2e%3b", "....//", "%2e%2e%2f%2e%2e%2f", "..%252f..%252f", "%%32%65%%32%65",
		strings.Repeat("s", 256), strings.Repeat("%c3%a9", 128), "C:", "C:%5c", "file:", "~", "%7eroot",
	}
	var all []string
	for _, s := range segments {
		for _, form := range []string{"%s", "%s/repodata.json", "noarch/%s", "noarch/%s/repodata.json", "noarch/%s/../repodata.json"} {
			all = append(all, fmt.Sprintf(form, s))
		}
	}
	return append(all, "/", "//", "/etc/passwd", "//etc/passwd", "noarch//repodata.json", "noarch/repodata.json//", "./noarch/repodata.json",
		"noarch/./repodata.json", "x/../noarch/repodata.json", "../channel0/noarch/repodata.json", "../../etc/passwd", strings.Repeat("../", 40)+"etc/passwd",
		strings.Repeat("s/", 600)+"s", "noarch/repodata.json/", "noarch/none/", "none/")
}

// TestHostilePaths: none of them is served, and none is an error of ours; quetz.md R1. The requests are written byte by
// byte, since clients' libraries would mend them.
func TestHostilePaths(t *testing.T) {
	s := platformtest.Start(t)
	paths := hostilePaths()
	if len(paths) < 300 {
		t.Fatalf("only %d paths", len(paths))
	}
	prefixes := []string{"/get/channel0/", "/channels/channel0/", "/t/" + s.AdminKey + "/get/channel0/", "/get/t/" + s.AdminKey + "/channel0/", "/get/"}
	raw := newRawClient(t, s)
	for i, p := range paths {
		for j, prefix := range prefixes {
			if j > 1 && i%7 != j { // the later prefixes share the code of the first two
				continue
			}
			status, body := raw.get(prefix + p)
			if status != 400 && status != 404 {
				t.Errorf("GET %s%s: %d %.80s", prefix, p, status, body)
			}
			if strings.Contains(body, "root:") || strings.Contains(body, s.DataDir) {
				t.Errorf("GET %s%s tells %.200s", prefix, p, body)
			}
		}
	}
	t.Run("the rest of the surface is as robust", func(t *testing.T) {
		for _, target := range []string{
			"/..", "/../", "/%2e%2e/", "/api/../get/channel0/noarch/repodata.json", "/api/channels/../me", "/api/channels/%2e%2e", "/api/channels/..%2fme", "/api//channels",
			"//api/channels", "/api/channels/%00", "/api/channels/a%5cb", "/entrepot/v1/../v1/me", "/entrepot/v1/channels/%2e%2e/members", "/entrepot/v1/channels/channel0/files/../../x",
			"/t//get/channel0/noarch/repodata.json", "/t/", "/t", "/get", "/get/t", "/get/t/", "/get/t/x", "/t/x/t/y/get/channel0/noarch/none", "*", "/" + strings.Repeat("a", 20000), "/?" + strings.Repeat("a", 20000),
			"/get/channel0/noarch/repodata.json%3f", "/get/channel0/noarch/repodata.json%23", "http://other.example/get/none/x", "/api/channels/channel0/packages/%2e%2e/versions", "/%",
			"/api/paginated/channels?skip=%zz", "/api/jobs/%2e%2e", "/api/api-keys/%2e%2e",
		} {
			status, body := raw.get(target)
			if (status < 400 || status > 431) && !(strings.HasPrefix(target, "/api/paginated") && status == 200) && !(strings.HasPrefix(target, "/?") && status == 200) {
				t.Errorf("GET %.60s: %d %.80s", target, status, body)
			}
		}
	})
	if logs := s.Logs(); strings.Contains(logs, "panicked") || strings.Contains(logs, "level=ERROR") {
		t.Error("some of them were errors of ours; see the log")
		t.Log(logs)
	}
	// And names in uploads, which become paths.
	t.Run("names of uploads", func(t *testing.T) {
		data := packages(t)[0].data
		for _, name := range []string{"..%2f..%2fx-1-0.conda", "%2e%2e%2fx-1-0.conda", "a%2fb-1-0.conda", "x-1-0.conda%00", "%5cx-1-0.conda", "x-1-0%0a.conda", strings.Repeat("x", 300) + "-1-0.conda"} {
			resp := s.Admin().In(t).Do("POST", "/api/channels/channel0/upload/"+name+"?sha256=", data)
			if resp.Status != 400 && resp.Status != 404 && resp.Status != 422 {
				t.Errorf("%s: %d %s", name, resp.Status, resp.Body)
			}
		}
		for _, name := range []string{"../../x-1-0.conda", "/etc/x-1-0.conda", "..\\x-1-0.conda", "x-1-0.conda\x00"} {
			body, ct := formBody(nil, &pkg{filename: name, data: data})
			resp := s.Admin().In(t).Send(0, platformtest.Request{Method: "POST", Path: "/api/channels/channel0/files", Body: body, Header: map[string][]string{"Content-Type": {ct}}})
			if resp.Status != 400 && resp.Status != 422 {
				t.Errorf("form, %q: %d %s", name, resp.Status, resp.Body)
			}
		}
	})
}

// rawClient sends request lines as they stand, over one connection as long as it lasts.
type rawClient struct {
	t    *testing.T
	addr string
	conn net.Conn
	r    *bufio.Reader
}

func newRawClient(t *testing.T, s *platformtest.Stack) *rawClient {
	c := &rawClient{t: t, addr: strings.TrimPrefix(s.URL, "http://")}
	t.Cleanup(func() {
		if c.conn != nil {
			_ = c.conn.Close()
		}
	})
	return c
}

func (c *rawClient) get(target string, headers ...string) (status int, body string) {
	c.t.Helper()
	for attempt := 0; ; attempt++ {
		if c.conn == nil {
			conn, err := net.DialTimeout("tcp", c.addr, 5*time.Second)
			if err != nil {
				c.t.Fatal(err)
			}
			c.conn, c.r = conn, bufio.NewReader(conn)
		}
		_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, c.addr, strings.Join(append(headers, ""), "\r\n"))
		if err == nil {
			if status, body, err = c.read(); err == nil {
				return status, body
			}
		}
		_ = c.conn.Close() // the server closes after what it cannot parse
		c.conn = nil
		if attempt == 2 {
			c.t.Fatalf("GET %.80s: %v", target, err)
		}
	}
}

func (c *rawClient) read() (status int, body string, err error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return 0, "", err
	}
	if _, err := fmt.Sscanf(line, "HTTP/1.1 %d", &status); err != nil {
		return 0, "", err
	}
	length := int64(-1)
	closing := false
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			return 0, "", err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ": ")
		switch strings.ToLower(name) {
		case "content-length":
			length, _ = strconv.ParseInt(value, 10, 64)
		case "connection":
			closing = value == "close"
		}
	}
	var data []byte
	if length < 0 || closing {
		data, err = io.ReadAll(c.r)
		_ = c.conn.Close()
		c.conn = nil
	} else {
		data = make([]byte, length)
		_, err = io.ReadFull(c.r, data)
	}
	return status, string(data), err
}
