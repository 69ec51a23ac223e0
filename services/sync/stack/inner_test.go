package stack_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// outside lets the platform reach 127.0.0.2 alone: it stands for the public internet, and the rest of loopback for what
// is inside.
func outside(c *platform.Config) { c.Dev, c.EgressAllow = false, []string{"127.0.0.2/32"} }

// outer is a mirror whose upstream is outside.
func outer(t *testing.T, s *platformtest.Stack, name string) *mirror {
	t.Helper()
	m := &mirror{t: t, stack: s, name: name, ch: synctest.NewChannel(), up: fetchtest.NewAt(t, "127.0.0.2:0")}
	m.up.Fallback(m.ch)
	m.create(m.up.URL)
	return m
}

// victims listen inside, on one port over IPv4 and, where there is any, IPv6. They must not be asked for anything.
func victims(t *testing.T) (port string) {
	t.Helper()
	v := fetchtest.NewAt(t, "127.0.0.1:0")
	_, port, err := net.SplitHostPort(strings.TrimPrefix(v.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	all := []*fetchtest.Upstream{v}
	if l, err := net.Listen("tcp", "[::1]:"+port); err == nil {
		l.Close()
		all = append(all, fetchtest.NewAt(t, "[::1]:"+port))
	}
	for _, v := range all {
		v.Fallback(fetchtest.Body([]byte("what is inside")))
	}
	t.Cleanup(func() {
		for _, v := range all {
			if reqs := v.Requests(); len(reqs) > 0 {
				t.Errorf("%s inside was asked: %+v", v.URL, reqs)
			}
		}
	})
	return port
}

// inner are places that nobody's upstream may send us to, in the spellings that have fooled others. P is the victims' port.
var inner = []string{
	"http://127.0.0.1:P/x", "http://127.1:P/x", "http://2130706433:P/x", "http://0x7f000001:P/x", "http://0x7f.0.0.1:P/x", "http://0177.0.0.1:P/x",
	"http://localhost:P/x", "http://localhost.:P/x", "http://LocalHost:P/x", "http://[::1]:P/x", "http://[::ffff:7f00:1]:P/x", "http://[::ffff:127.0.0.1]:P/x",
	"http://[64:ff9b::7f00:1]:P/x", "http://[::127.0.0.1]:P/x", "http://0.0.0.0:P/x", "http://0:P/x", "http://[::]:P/x",
	"http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/latest/", "http://100.100.100.200/latest/", "http://2852039166/latest/", "http://0251.0376.0251.0376/",
	"http://10.0.0.1/x", "http://172.16.0.1/x", "http://192.168.0.1/x", "http://100.64.0.1/x", "http://[fe80::1]/x", "http://[fc00::1]/x", "http://224.0.0.1/x",
	"//127.0.0.1:P/x", "http://user:pw@127.0.0.1:P/x", "https://127.0.0.1:P/x", "gopher://127.0.0.1:P/x", "file:///etc/passwd", "file:/etc/passwd", "ftp://127.0.0.1:P/x",
	"http://127.0.0.2:25/x", "http://127.0.0.2:6000/x", "javascript:alert(1)", "http://１２７.0.0.1:P/x",
}

// Redirects of files to what is inside fail those files, each by its name, and nothing inside hears of it.
func TestRedirectsInsideFailTheirFileAlone(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient), platformtest.WithConfig(outside))
	port := victims(t)
	m := outer(t, s, "inside")
	first := m.ch.Add("noarch", "first", "1.0", content(1, 500))
	m.sync(nil)
	m.indexed("noarch", first)
	stop := m.watch(0, "noarch")
	good := []string{first}
	bad := map[string]string{}
	for i, to := range inner {
		to = strings.ReplaceAll(to, ":P", ":"+port)
		for _, size := range []int{500, 2 << 20} { // in memory, and streaming
			path := m.ch.Add("noarch", fmt.Sprintf("bad%d-%d", i, size), "1.0", content(8000+2*i+size%3, size))
			m.up.Script("/"+path, fetchtest.Redirect([]int{301, 302, 303, 307, 308}[i%5], to))
			bad[path] = to
		}
		good = append(good, m.ch.Add("noarch", fmt.Sprintf("good%d", i), "1.0", content(8200+i, 500)))
	}
	hop := m.ch.Add("noarch", "two-hops", "1.0", content(8300, 500))
	m.up.Script("/"+hop, fetchtest.Redirect(302, "/hop"))
	m.up.Script("/hop", fetchtest.Redirect(302, "http://127.0.0.1:"+port+"/x"))
	loop := m.ch.Add("noarch", "loop", "1.0", content(8301, 500))
	m.up.Script("/"+loop, fetchtest.Redirect(302, "/loop"))
	m.up.Script("/loop", fetchtest.Redirect(302, "/"+loop))
	long := m.ch.Add("noarch", "long", "1.0", content(8302, 500))
	m.up.Script("/"+long, fetchtest.Redirect(302, "/long0"))
	for i := range 12 {
		m.up.Script(fmt.Sprintf("/long%d", i), fetchtest.Redirect(302, fmt.Sprintf("/long%d", i+1)))
	}
	bad[hop], bad[loop], bad[long] = "two hops", "a loop", "a long chain"

	r := m.sync(nil)
	got := r.failures()
	for path, to := range bad {
		switch got[path] {
		case "EGRESS_DENIED", "UPSTREAM_REDIRECT_REFUSED", "UPSTREAM_REFUSED":
		case "UPSTREAM_REDIRECT_LOOP":
			if path == loop || path == long {
				break
			}
			fallthrough
		default:
			t.Errorf("%s to %s: %q", path, to, got[path])
		}
	}
	for _, path := range []string{loop, long} {
		if got[path] != "UPSTREAM_REDIRECT_LOOP" {
			t.Errorf("%s: %s", path, got[path])
		}
	}
	if len(got) != len(bad) || r.Added != int64(len(good)-1) {
		t.Errorf("added %d of %d, failed %d of %d", r.Added, len(good)-1, len(got), len(bad))
	}
	for _, f := range r.Failures {
		if f.Reason == "EGRESS_DENIED" && f.Error == "" {
			t.Errorf("%s fails without a word", f.Path)
		}
	}
	slices.Sort(good)
	m.indexed("noarch", good...)
	m.good(good...)
	if report := stop(); len(report.Violations) > 0 {
		t.Errorf("%d violations", len(report.Violations))
	}
}

// Whatever else an upstream may send us with: its index, its list of subdirs, the base URL of its files.
func TestIndexesThatLeadInside(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient), platformtest.WithConfig(outside))
	port := victims(t)
	m := outer(t, s, "leading")
	a, b := m.ch.Add("noarch", "a", "1.0", content(8401, 500)), m.ch.Add("linux-64", "b", "1.0", content(8402, 500))
	m.sync(nil)
	m.watch(0, "noarch", "linux-64")
	for i, to := range inner {
		to = strings.ReplaceAll(to, ":P", ":"+port)
		// channeldata.json and one subdir lead inside; the other subdir is read, and the first keeps what it has.
		m.up.Script("/channeldata.json", fetchtest.Redirect(302, to))
		for _, form := range []string{"repodata.json.zst", "repodata.json.bz2", "repodata.json", "repodata_from_packages.json"} {
			m.up.Script("/linux-64/"+form, fetchtest.Redirect(307, to))
		}
		m.ch.Info("noarch", "n", i) // it changes, so that it is read
		r := m.sync(nil)
		got := r.failures()
		if len(got) != 1 || got["linux-64/repodata.json.zst"] == "" && got["linux-64/repodata.json"] == "" || len(r.Warnings) == 0 || !strings.Contains(r.Warnings[0], "channeldata.json") {
			t.Errorf("%s: %+v", to, r)
		}
	}
	m.good(a, b)

	t.Run("by base_url", func(t *testing.T) {
		subdirs := []string{
			"noarch", "linux-32", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-ppc64", "linux-ppc64le", "linux-riscv64", "linux-s390x", "osx-64", "osx-arm64", "win-32", "win-64", "win-arm64", "zos-z",
		}
		n := 0
		for some := range slices.Chunk(inner, len(subdirs)) {
			n++
			m := outer(t, s, fmt.Sprintf("base%d", n))
			good := m.ch.Add("linux-64", "good", "1.0", content(8500+n, 500))
			want := map[string]string{}
			for i, to := range some {
				m.ch.Add(subdirs[i], "bad", "1.0", content(8600+100*n+i, 500))
				m.ch.Info(subdirs[i], "base_url", strings.ReplaceAll(to, ":P", ":"+port))
				want[subdirs[i]] = to
			}
			r := m.sync(nil)
			for _, f := range r.Failures {
				subdir, _, _ := strings.Cut(f.Path, "/")
				if want[subdir] == "" || f.Reason == "" || f.Error == "" {
					t.Errorf("%s to %s: %+v", subdir, want[subdir], f)
				}
				delete(want, subdir)
			}
			if r.Added != 1 || len(want) > 0 {
				t.Errorf("added %d, not failed: %v", r.Added, want)
			}
			m.good(good)
			if diff := cmp.Diff([]string{good}, m.listed()); diff != "" {
				t.Errorf("listed (-want +got):\n%s", diff)
			}
		}
	})
}

// The URL that a mirror is made with: what no upstream can have is refused at once, in both dialects, and what leads
// inside by the sync, whose error says how to allow it.
func TestURLsOfMirrors(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient), platformtest.WithConfig(outside))
	port := victims(t)
	for _, url := range []string{
		"file:///etc/passwd", "file:/etc/passwd", "file://localhost/etc/passwd", "gopher://127.0.0.1:P/", "ftp://example.org/c", "javascript:alert(1)", "data:,x", "//example.org/c", "example.org/c", "",
		"http://", "http:///c", "http:example.org", "http://:80/c", "http://example.org:25/c", "http://example.org:22/c", "http://example.org:6667/c", "http://example.org:0/c", "http://example.org:99999/c",
		"http://example.org:x/c", "http://bücher.example/c", "http://ⓔxample.org/c", "http://exam\u00adple.org/c", "http://example.org/c?x=1", "http://example.org/c#f", "http://exa mple.org/c", "http://example.org/\nc",
		"http://u:p%0a@example.org/c", "http://example.org/c/t/token/x",
	} {
		url = strings.ReplaceAll(url, ":P", ":"+port)
		for dialect, resp := range map[string]*platformtest.Response{
			"native": s.Admin().Do("POST", "/entrepot/v1/channels", map[string]any{"name": "refused", "mirror": map[string]any{"url": url}}),
			"quetz":  s.Admin().Do("POST", "/api/channels", map[string]any{"name": "refused", "private": false, "mirror_channel_url": url, "mirror_mode": "mirror"}),
		} {
			if want := map[string]int{"native": 400, "quetz": 422}[dialect]; resp.Status != want {
				t.Errorf("%s, %q: %d %s", dialect, url, resp.Status, resp.Body)
			}
		}
	}
	if diff := cmp.Diff(404, s.Admin().Do("GET", "/entrepot/v1/channels/refused", nil).Status); diff != "" {
		t.Errorf("it was made:\n%s", diff)
	}
	n := 0
	for _, url := range inner {
		if !strings.HasPrefix(url, "http://") || strings.Contains(url, "127.0.0.2") || strings.Contains(url, "１") {
			continue
		}
		n++
		m := &mirror{t: t, stack: s, name: fmt.Sprintf("inner%d", n)}
		m.create(strings.TrimSuffix(strings.ReplaceAll(url, ":P", ":"+port), "/"))
		j := m.wait(m.start(nil).ID, ended)
		if j.State == "JOB_STATE_SUCCEEDED" || j.Error == "" {
			t.Errorf("%s: %s %q", url, j.State, j.Error)
		}
		m.admin().Do("POST", "/entrepot/v1/jobs/"+j.ID+":cancel", map[string]any{})
	}
	t.Run("and the proxy of a remote", func(t *testing.T) {
		m := outer(t, s, "proxied")
		m.ch.Add("noarch", "a", "1.0", content(8701, 500))
		m.set(map[string]any{"proxy_url": "http://127.0.0.1:" + port})
		j := m.wait(m.start(nil).ID, ended)
		if j.State == "JOB_STATE_SUCCEEDED" || !strings.Contains(j.Error, "--egress-allow") {
			t.Errorf("%s %q", j.State, j.Error)
		}
	})
}
