package attacktest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// inner is a service on this machine that nobody should reach through the platform. It counts who does.
type inner struct {
	port     string
	accepted atomic.Int64
}

func newInner(t *testing.T) *inner {
	t.Helper()
	in := &inner{}
	l4, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, in.port, _ = net.SplitHostPort(l4.Addr().String())
	listeners := []net.Listener{l4}
	if l6, err := net.Listen("tcp", "[::1]:"+in.port); err == nil { // not every machine has IPv6
		listeners = append(listeners, l6)
	}
	done := make(chan struct{}, len(listeners))
	for _, l := range listeners {
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					done <- struct{}{}
					return
				}
				in.accepted.Add(1)
				_ = conn.Close()
			}
		}()
	}
	t.Cleanup(func() {
		for _, l := range listeners {
			_ = l.Close()
			<-done
		}
	})
	return in
}

// here are ways to write an address of this machine, as various parsers read them.
var here = []string{
	"127.0.0.1", "127.0.0.2", "127.1", "127.0.1", "127.255.255.254", "2130706433", "0x7f000001", "0x7f.0x0.0x0.0x1", "0x7f.1", "0177.0.0.1", "0177.1", "017700000001", "127.0.0.1.", "127.00.00.01", "127.0.0.01",
	"00000177.0.0.1", "0x7f.0.0.1", "127.0x0.0.1", "4294967295", "0", "0.0.0.0", "0.0", "00", "0x0", "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]",
	"[::127.0.0.1]", "[::7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[::ffff:0:127.0.0.1]", "[fe80::1]", "[fe80::1%25lo]", "[::1%25lo]", "[fec0::1]",
	"localhost", "LOCALHOST", "localhost.", "LocalHost.", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "loopback", "a.localhost", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "127.0.0.1%00", "127.0.0.1%20", "127.0.0.1%2eexample.org",
	"user@127.0.0.1", "user:x@127.0.0.1", "example.org@127.0.0.1", "example.org%40127.0.0.1", "example.org\\@127.0.0.1", "127.0.0.1\\@example.org", "127.0.0.1%09", "[127.0.0.1]", "[::ffff:127.1]",
}

// there are addresses of others that are not the internet.
var there = []string{
	"169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "169.254.43518", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]", "169.254.170.2", "169.254.0.1", "100.100.100.200",
	"168.63.129.16", "metadata", "metadata.google.internal", "instance-data", "10.0.0.1", "10.255.255.255", "167772161", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.254", "100.64.0.1", "100.127.255.254", "192.0.0.1", "192.0.0.192",
	"192.0.2.1", "198.18.0.1", "198.19.255.254", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "0.1.2.3", "[fc00::1]", "[fd12:3456::1]", "[ff02::1]", "[ff05::2]", "[100::1]", "[2001:db8::1]", "[2002:a00:1::]",
	"[::ffff:10.0.0.1]", "[::ffff:c0a8:1]", "[64:ff9b::a00:1]", "[::10.0.0.1]", "kubernetes.default.svc", "host.docker.internal",
}

// odd are URLs that are not http or https, or are not what they seem. %s is the inner port.
var odd = []string{
	"file:///etc/passwd", "file:/etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1:%s/", "gopher://127.0.0.1:%s/_x", "dict://127.0.0.1:%s/x", "ldap://127.0.0.1:%s/", "tftp://127.0.0.1/x", "sftp://127.0.0.1/x", "jar:http://127.0.0.1:%s!/",
	"data:application/json,{}", "javascript:1", "unix:///var/run/docker.sock", "http+unix://%%2fvar%%2frun%%2fdocker.sock/", "s3://bucket/x", "ws://127.0.0.1:%s/", "//127.0.0.1:%s/", "/etc/passwd", "http:127.0.0.1:%s", "http:/127.0.0.1:%s/", "http:///etc/passwd", "http://",
	"http://:%s/", "http://[", "http://[::1", "http://]/", " http://127.0.0.1:%s/", "http://127.0.0.1:%s /", "\thttp://127.0.0.1:%s/", "http://127.0.0.1:%s/\r\nX-Injected: 1", "http://127.0.0.1:%s/\nHost: x", "http://127.0.0.1:%s/\x00", "http://127.0.0.1:0/", "http://127.0.0.1:65536/",
	"http://127.0.0.1:-1/", "http://127.0.0.1:0x16/", "http://127.0.0.1:%s:80/", "http://127.0.0.1:22/", "http://127.0.0.1:6379/", "http://127.0.0.1:11211/", "http://127.0.0.1:5432/", "http://192.0.2.1:25/", "https://127.0.0.1:%s/", "HTTP://127.0.0.1:%s/", "hTTp://LOCALHOST:%s/",
	"http://127.0.0.1:%s/#@example.org", "http://127.0.0.1:%s?@example.org/", "http://example.org:80@127.0.0.1:%s/", "http://example.org#@127.0.0.1:%s/", "", "x", "http", "http:", "{}", "../../x", "http://127.0.0.1:%s/../../x",
}

// TestUpstreamsInside makes mirrors of every address that nobody should reach through us. Each is refused at once, or
// its sync is: nothing is connected to. Blocked is what was attempted.
func TestUpstreamsInside(t *testing.T) {
	s := platformtest.Start(t, platformtest.Production(), platformtest.WithConfig(quick), platformtest.WithConfig(func(c *platform.Config) { c.Sync.Concurrency = 16 }))
	admin := s.Admin().In(t)
	in := newInner(t)
	var urls []string
	for _, h := range here {
		urls = append(urls, "http://"+h+":"+in.port+"/chan")
	}
	for _, h := range there {
		urls = append(urls, "http://"+h+"/latest/meta-data/")
	}
	for _, u := range odd {
		if strings.Contains(u, "%s") {
			u = fmt.Sprintf(u, in.port)
		}
		urls = append(urls, strings.ReplaceAll(u, "%%", "%"))
	}
	atOnce, later := 0, map[string]string{} // channel → URL
	for i, u := range urls {
		name := fmt.Sprintf("inner%d", i)
		path, body := "/api/channels", map[string]any{"name": name, "private": false, "mirror_channel_url": u, "mirror_mode": "mirror", "actions": []string{}}
		if i%2 == 0 {
			path, body = "/entrepot/v1/channels", map[string]any{"name": name, "kind": "CHANNEL_KIND_MIRROR", "mirror": map[string]any{"url": u, "subdirs": []string{"noarch"}}}
		}
		resp := admin.Do("POST", path, body)
		if resp.Status/100 != 2 {
			refused(t, fmt.Sprintf("%.100q", u), resp)
			atOnce++
			continue
		}
		later[name] = u
	}
	jobs := map[string]string{} // job → URL
	for name, u := range later {
		var job struct{ ID string }
		admin.Must(200, "POST", "/entrepot/v1/channels/"+name+":sync", map[string]any{}).JSON(&job)
		jobs[job.ID] = u
	}
	denied, unknown := 0, 0
	deadline := time.Now().Add(90 * time.Second)
	for id, u := range jobs {
		for {
			resp := admin.Must(200, "GET", "/entrepot/v1/jobs/"+id, nil)
			var job struct {
				State, Error string
				Result       *struct{ Added int }
			}
			resp.JSON(&job)
			if job.State == "JOB_STATE_SUCCEEDED" {
				t.Errorf("%q: the sync succeeded: %s", u, resp.Body)
				break
			}
			if job.Error != "" {
				if strings.Contains(job.Error, "--egress-allow") || strings.Contains(job.Error, "not allowed") {
					denied++
				} else {
					unknown++
					if address(u) {
						t.Errorf("%q failed for another reason: %s", u, job.Error)
					}
				}
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q: the sync is still %s", u, job.State)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if n := in.accepted.Load(); n != 0 {
		t.Errorf("the inner service was reached %d times", n)
	}
	whole(t, s)
	t.Logf("%d vectors: %d refused at once, %d at the connection, %d have no address; reached %d", 2*len(urls), atOnce, denied, unknown, in.accepted.Load())
}

// address reports whether a URL's host is an address as everybody writes it: such a one is refused for what it is. Other
// spellings are names to us, which nobody has.
func address(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil {
		return false
	}
	_, err = netip.ParseAddr(u.Hostname())
	return err == nil
}

// TestRefusedOnTheWay: an upstream that may be reached sends us on to where nobody may go, by redirects and by base_url.
func TestRefusedOnTheWay(t *testing.T) {
	in := newInner(t)
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatalf("no second loopback address: %v", err)
	}
	targets := []string{
		"http://127.0.0.1:" + in.port + "/x", "http://[::1]:" + in.port + "/x", "http://[::ffff:127.0.0.1]:" + in.port + "/x", "http://[::ffff:7f00:1]:" + in.port + "/x", "http://localhost:" + in.port + "/x", "http://0.0.0.0:" + in.port + "/x",
		"http://127.0.0.3:" + in.port + "/x", "http://u:p@127.0.0.1:" + in.port + "/x", "https://127.0.0.1:" + in.port + "/x", "//127.0.0.1:" + in.port + "/x", "http://169.254.169.254/latest/", "http://[fd00:ec2::254]/latest/", "http://10.0.0.1/",
		"http://192.168.0.1/", "http://100.64.0.1/", "http://[64:ff9b::7f00:1]/", "http://2130706433:" + in.port + "/x", "file:///etc/passwd", "ftp://127.0.0.1:" + in.port + "/", "gopher://127.0.0.1:" + in.port + "/_x",
	}
	good := synctest.NewChannel()
	good.AddPackage(t, "noarch", "good", "1.0", dist.Conda)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3) // how/number/path
		n := 0
		if len(parts) != 3 {
			http.NotFound(w, r)
			return
		}
		_, _ = fmt.Sscan(parts[1], &n)
		ch := good
		switch parts[0] {
		case "redirect":
			http.Redirect(w, r, targets[n], http.StatusFound)
			return
		case "based":
			ch = synctest.NewChannel()
			ch.List("noarch", "based-1.0-0.conda", map[string]any{"name": "based", "version": "1.0", "build": "0", "build_number": 0, "subdir": "noarch", "size": 3, "sha256": strings.Repeat("a", 64)})
			ch.Info("noarch", "base_url", targets[n])
		}
		r.URL.Path = "/" + parts[2]
		ch.ServeHTTP(w, r)
	})}}
	srv.Start()
	t.Cleanup(srv.Close)
	s := platformtest.Start(t, platformtest.Production(), platformtest.WithConfig(quick), platformtest.WithConfig(func(c *platform.Config) {
		c.EgressAllow, c.Sync.Concurrency = []string{"127.0.0.2/32"}, 8
	}))
	admin := s.Admin().In(t)
	names := []string{}
	mirror := func(name, url string) {
		t.Helper()
		admin.Must(200, "POST", "/entrepot/v1/channels", map[string]any{"name": name, "kind": "CHANNEL_KIND_MIRROR", "mirror": map[string]any{"url": url, "subdirs": []string{"noarch"}}})
		admin.Must(200, "POST", "/entrepot/v1/channels/"+name+":sync", map[string]any{})
		names = append(names, name)
	}
	mirror("control", srv.URL+"/plain/0")
	for i := range targets {
		mirror(fmt.Sprintf("redirected%d", i), fmt.Sprintf("%s/redirect/%d", srv.URL, i))
		mirror(fmt.Sprintf("based%d", i), fmt.Sprintf("%s/based/%d", srv.URL, i))
	}
	for _, name := range names {
		state, text := syncEnds(t, s, name)
		files := listed(t, s, name)
		if name == "control" {
			if state != "JOB_STATE_SUCCEEDED" || len(files) != 1 {
				t.Errorf("the upstream that may be reached is not: %s %s", state, text)
			}
		} else if len(files) != 0 {
			t.Errorf("%s has files: %v", name, files)
		}
	}
	if n := in.accepted.Load(); n != 0 {
		t.Errorf("the inner service was reached %d times", n)
	}
	whole(t, s)
	t.Logf("%d vectors, reached %d", len(names)-1, in.accepted.Load())
}
