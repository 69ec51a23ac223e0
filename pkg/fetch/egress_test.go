package fetch_test

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func TestPolicyCheck(t *testing.T) {
	public := []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255",
		"169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "223.255.255.255", "2606:4700::1111", "2a00::1",
		"::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1",
	}
	for _, a := range public {
		if err := (fetch.Policy{}).Check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	denied := map[string]string{
		"127.0.0.1": "loopback", "127.255.255.254": "loopback", "::1": "loopback", "::ffff:127.0.0.1": "loopback", "::ffff:7f00:1": "loopback",
		"10.0.0.1": "private", "172.16.0.1": "private", "172.31.255.255": "private", "192.168.1.1": "private", "fc00::1": "private", "fd12::1": "private",
		"fec0::1": "private", "::ffff:10.0.0.1": "private", "169.254.1.1": "link-local", "fe80::1": "link-local", "fe80::1%eth0": "link-local",
		"100.64.0.1": "carrier-grade NAT", "100.127.255.255": "carrier-grade NAT", "0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "::": "unspecified",
		"224.0.0.1": "multicast", "239.1.1.1": "multicast", "ff02::1": "multicast", "240.0.0.1": "reserved", "255.255.255.255": "reserved",
		"192.0.0.1": "reserved", "192.0.2.1": "reserved", "198.18.0.1": "reserved", "198.19.255.255": "reserved", "198.51.100.1": "reserved", "203.0.113.1": "reserved",
		"2001:db8::1": "reserved", "2001::1": "reserved", "3fff::1": "reserved", "100::1": "not global unicast", "5f00::1": "not global unicast", "4000::1": "not global unicast",
		"169.254.169.254": "a cloud metadata service", "169.254.170.2": "a cloud metadata service", "100.100.100.200": "a cloud metadata service", "168.63.129.16": "a cloud metadata service",
		"192.0.0.192": "a cloud metadata service", "fd00:ec2::254": "a cloud metadata service", "::ffff:169.254.169.254": "a cloud metadata service",
		"64:ff9b::7f00:1":         "loopback (it carries 127.0.0.1)",
		"64:ff9b::a9fe:a9fe":      "a cloud metadata service (it carries 169.254.169.254)",
		"64:ff9b:1::a00:1":        "private (it carries 10.0.0.1)",
		"2002:7f00:1::1":          "loopback (it carries 127.0.0.1)",
		"2002:a9fe:a9fe::":        "a cloud metadata service (it carries 169.254.169.254)",
		"2002:c0a8:101::1":        "private (it carries 192.168.1.1)",
		"::7f00:1":                "loopback (it carries 127.0.0.1)",
		"2a00::5efe:a00:1":        "private (it carries 10.0.0.1)",
		"2a00::200:5efe:10.0.0.1": "private (it carries 10.0.0.1)",
	}
	for a, why := range denied {
		err := (fetch.Policy{}).Check(netip.MustParseAddr(a))
		var e *fetch.EgressError
		if !errors.As(err, &e) || e.Why != why {
			t.Errorf("%s: %v, want %s", a, err, why)
			continue
		}
		if !strings.Contains(err.Error(), "allow it with --egress-allow "+e.Addr.String()+"/") {
			t.Errorf("%s: the message %q names no way out", a, err)
		}
	}
}

func TestPolicyAllows(t *testing.T) {
	p := fetch.Policy{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00::/8")}}
	for a, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "::ffff:10.1.2.3": true, "64:ff9b::a01:203": true, "169.254.1.1": true,
		"169.254.169.254": false, "fd01::1": true, "fd00:ec2::254": false, "127.0.0.1": false,
	} {
		if err := p.Check(netip.MustParseAddr(a)); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
	p.AllowCIDRs = append(p.AllowCIDRs, netip.MustParsePrefix("169.254.169.254/32"))
	if err := p.Check(netip.MustParseAddr("169.254.169.254")); err != nil {
		t.Errorf("a metadata address allowed by name: %v", err)
	}
	p = fetch.Policy{AllowLoopback: true}
	for a, want := range map[string]bool{"127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "10.0.0.1": false} {
		if err := p.Check(netip.MustParseAddr(a)); (err == nil) != want {
			t.Errorf("loopback allowed, %s: %v", a, err)
		}
	}
}

// Each way to name a forbidden address ends in EGRESS_DENIED, and the server behind it sees nothing.
func TestForbiddenAddressesAreNotDialed(t *testing.T) {
	victim := fetchtest.New(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(victim.URL, "http://"))
	locations := []string{
		"http://127.0.0.1:" + port + "/", "http://localhost:" + port + "/", "http://[::1]:" + port + "/", "http://[::ffff:7f00:1]:" + port + "/",
		"http://[::ffff:127.0.0.1]:" + port + "/", "http://[64:ff9b::7f00:1]:" + port + "/", "http://0.0.0.0:" + port + "/", "http://[::]:" + port + "/",
		"http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/", "http://10.0.0.1/", "http://192.168.0.1/", "http://172.16.0.1/", "http://100.64.0.1/",
		"http://[fe80::1]/", "http://224.0.0.1/", "file:///etc/passwd", "file:/etc/passwd", "gopher://127.0.0.1:" + port + "/", "ftp://127.0.0.1/", "javascript:alert(1)",
		"http://8.8.8.8:25/", "http://8.8.8.8:22/", "http://8.8.8.8:99999/",
	}
	t.Run("asked for directly", func(t *testing.T) {
		r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Egress = fetch.Policy{} }), "https://example.org/")
		for _, l := range locations {
			_, _, err := get(t, r, fetch.Request{URL: l})
			if !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %v", l, err)
			}
		}
	})
	t.Run("as a remote's base", func(t *testing.T) {
		r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Egress = fetch.Policy{} }), victim.URL)
		_, _, err := get(t, r, fetch.Request{Path: "x"})
		wantReason(t, err, fault.Denied, fetch.ReasonEgress)
		if !strings.Contains(err.Error(), "address 127.0.0.1 is loopback; allow it with --egress-allow 127.0.0.1/32") {
			t.Errorf("message: %v", err)
		}
	})
	if n := len(victim.Requests()); n != 0 {
		t.Fatalf("the victim saw %d requests", n)
	}
	t.Run("by redirect", func(t *testing.T) {
		up := fetchtest.New(t)
		// the upstream itself is allowed by its single address, everything else is not
		c := newClient(t, func(c *fetch.Config) {
			c.Egress = fetch.Policy{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
		})
		r := newRemote(t, c, up.URL)
		for _, l := range locations[2:] {
			if strings.Contains(l, "127.0.0.1") || strings.Contains(l, "7f00:1") {
				continue // the allowed address in other clothes
			}
			up.Script("/x", fetchtest.Redirect(302, l))
			_, _, err := get(t, r, fetch.Request{Path: "x"})
			if !fault.Is(err, fault.Denied) {
				t.Errorf("%s: %v", l, err)
			}
		}
	})
	t.Run("through RoundTripper", func(t *testing.T) {
		hc := http.Client{Transport: newClient(t, func(c *fetch.Config) { c.Egress = fetch.Policy{} }).RoundTripper()}
		_, err := hc.Get(victim.URL)
		var e *fetch.EgressError
		if !errors.As(err, &e) {
			t.Errorf("got %v", err)
		}
	})
	if n := len(victim.Requests()); n != 0 {
		t.Fatalf("the victim saw %d requests", n)
	}
}

func TestProxy(t *testing.T) {
	proxy := fetchtest.New(t)
	proxy.Fallback(fetchtest.Body([]byte("by proxy")))
	t.Run("requests go through it, with its credentials only", func(t *testing.T) {
		proxy.Reset()
		r := newRemote(t, newClient(t), "http://upstream.invalid/base", func(c *fetch.RemoteConfig) {
			c.ProxyURL = strings.Replace(proxy.URL, "http://", "http://pu:pp@", 1)
		})
		b, _, err := get(t, r, fetch.Request{Path: "f"})
		if err != nil || string(b) != "by proxy" {
			t.Fatalf("%q, %v", b, err)
		}
		reqs := proxy.Requests()
		if len(reqs) != 1 || reqs[0].Host != "upstream.invalid" || reqs[0].Header.Get("Proxy-Authorization") != "Basic cHU6cHA=" || reqs[0].Header.Get("Authorization") != "" {
			t.Fatalf("the proxy saw %+v", reqs)
		}
	})
	t.Run("the proxy's own address obeys the policy", func(t *testing.T) {
		r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Egress = fetch.Policy{} }), "http://upstream.invalid/", func(c *fetch.RemoteConfig) { c.ProxyURL = proxy.URL })
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Denied, fetch.ReasonEgress)
	})
	t.Run("forbidden targets are not handed to it", func(t *testing.T) {
		proxy.Reset()
		c := newClient(t, func(c *fetch.Config) {
			c.Egress = fetch.Policy{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
		})
		for _, u := range []string{
			"http://169.254.169.254/", "http://10.0.0.1/", "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/", "http://169.254.43518/",
			"http://[::ffff:a9fe:a9fe]/", "http://[::1]/", "http://127.1/", "http://10.0.0.1./",
		} {
			r := newRemote(t, c, u, func(c *fetch.RemoteConfig) { c.ProxyURL = proxy.URL })
			_, _, err := get(t, r, fetch.Request{Path: "f"})
			if !fault.Is(err, fault.Denied) {
				t.Errorf("%s: %v", u, err)
			}
		}
		if n := len(proxy.Requests()); n != 0 {
			t.Errorf("the proxy saw %d requests", n)
		}
	})
	t.Run("the environment's proxy is not used", func(t *testing.T) {
		t.Setenv("HTTP_PROXY", proxy.URL)
		t.Setenv("http_proxy", proxy.URL)
		proxy.Reset()
		r := newRemote(t, newClient(t), "http://upstream.invalid/", func(c *fetch.RemoteConfig) { c.Attempts = 1 })
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRefused)
		if n := len(proxy.Requests()); n != 0 {
			t.Errorf("the proxy saw %d requests", n)
		}
	})
}
