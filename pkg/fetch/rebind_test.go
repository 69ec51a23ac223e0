package fetch_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

// outside allows 127.0.0.2 alone: it stands for the public internet in these tests, and 127.0.0.1 for what is inside.
func outside(c *fetch.Config) {
	c.Egress = fetch.Policy{AllowCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}
	c.Retry.Attempts = 2
}

// pair is an upstream outside and a victim inside that listen on the same port.
func pair(t *testing.T) (up, victim *fetchtest.Upstream, port string) {
	t.Helper()
	for range 50 {
		up = fetchtest.NewAt(t, "127.0.0.2:0")
		_, port, _ = net.SplitHostPort(strings.TrimPrefix(up.URL, "http://"))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue // somebody has it
		}
		l.Close()
		victim = fetchtest.NewAt(t, "127.0.0.1:"+port)
		return up, victim, port
	}
	t.Fatal("no port is free at both addresses")
	return nil, nil, ""
}

// A name that leads outside when it is first asked for and inside afterwards is refused at the dial, on every hop.
func TestDNSRebinding(t *testing.T) {
	up, victim, port := pair(t)
	victim.Fallback(fetchtest.Body([]byte("inside")))
	up.Fallback(fetchtest.With(fetchtest.Body([]byte("outside")), "Connection", "close"))
	names := fetchtest.NewNames(t)
	withNames := func(c *fetch.Config) { outside(c); c.Resolver = names.Resolver() }
	for name, answers := range map[string][]string{
		"first outside, then inside":     {"127.0.0.2", "127.0.0.1"},
		"then mapped":                    {"127.0.0.2", "::ffff:127.0.0.1"},
		"then over IPv6":                 {"127.0.0.2", "::1"},
		"then private":                   {"127.0.0.2", "10.0.0.1"},
		"then the metadata service":      {"127.0.0.2", "169.254.169.254"},
		"then unspecified":               {"127.0.0.2", "0.0.0.0"},
		"then NAT64 with an inner one":   {"127.0.0.2", "64:ff9b::7f00:1"},
		"then inside with one more name": {"127.0.0.2", "127.0.0.1,10.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			host := fmt.Sprintf("rebind%d.test", len(name))
			names.Set(host, answers...)
			r := newRemote(t, newClient(t, withNames), "http://"+host+":"+port)
			if b, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil || string(b) != "outside" {
				t.Fatalf("the first request: %q, %v", b, err)
			}
			_, _, err := get(t, r, fetch.Request{Path: "f"})
			wantReason(t, err, fault.Denied, fetch.ReasonEgress)
			if names.Asked(host) < 2 {
				t.Error("the name was not looked up again, so this proves nothing")
			}
		})
	}
	t.Run("in one redirect chain", func(t *testing.T) {
		names.Set("chain.test", "127.0.0.2", "127.0.0.1")
		up.Script("/r", fetchtest.With(fetchtest.Redirect(302, "/f"), "Connection", "close"))
		r := newRemote(t, newClient(t, withNames), "http://chain.test:"+port)
		_, _, err := get(t, r, fetch.Request{Path: "r"})
		wantReason(t, err, fault.Denied, fetch.ReasonEgress)
	})
	t.Run("both at once never reach the inner one", func(t *testing.T) {
		names.Set("both.test", "127.0.0.1,127.0.0.2")
		r := newRemote(t, newClient(t, withNames), "http://both.test:"+port)
		for range 5 {
			if b, _, err := get(t, r, fetch.Request{Path: "f"}); err == nil && string(b) != "outside" {
				t.Errorf("%q", b)
			}
		}
	})
	t.Run("a proxy is not handed a name that leads inside", func(t *testing.T) {
		proxy := fetchtest.NewAt(t, "127.0.0.2:0")
		proxy.Fallback(fetchtest.Body([]byte("by proxy")))
		names.Set("inner.test", "127.0.0.1")
		r := newRemote(t, newClient(t, withNames), "http://inner.test:"+port, func(c *fetch.RemoteConfig) { c.ProxyURL = proxy.URL })
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Denied, fetch.ReasonEgress)
		if n := len(proxy.Requests()); n != 0 {
			t.Errorf("the proxy saw %d requests", n)
		}
	})
	if n := len(victim.Requests()); n != 0 {
		t.Fatalf("the victim saw %d requests", n)
	}
}

// Redirects and absolute URLs to what is inside are refused in all spellings of an address, and what is inside sees nothing.
func TestRedirectsInsideAreRefusedInEverySpelling(t *testing.T) {
	up, victim, port := pair(t)
	victim.Fallback(fetchtest.Body([]byte("inside")))
	names := fetchtest.NewNames(t)
	names.Set("localhost", "127.0.0.1")
	for _, resolver := range []string{"the system's resolver", "a resolver of ours"} {
		t.Run(resolver, func(t *testing.T) {
			c := newClient(t, outside, func(c *fetch.Config) {
				if resolver == "a resolver of ours" {
					c.Resolver = names.Resolver()
				}
			})
			r := newRemote(t, c, up.URL, func(c *fetch.RemoteConfig) { c.Credentials.Bearer = "canary" })
			for _, to := range []string{
				"http://127.0.0.1:P/", "http://127.1:P/", "http://2130706433:P/", "http://0x7f000001:P/", "http://0x7f.1:P/", "http://0177.0.0.1:P/", "http://017700000001:P/",
				"http://localhost:P/", "http://localhost.:P/", "http://LOCALHOST:P/", "http://[::1]:P/", "http://[::ffff:7f00:1]:P/", "http://[::ffff:127.0.0.1]:P/",
				"http://[0:0:0:0:0:ffff:7f00:0001]:P/", "http://[64:ff9b::127.0.0.1]:P/", "http://[::127.0.0.1]:P/", "http://[2002:7f00:1::]:P/", "http://0:P/", "http://0.0.0.0:P/", "http://[::]:P/",
				"http://[::1%25lo]:P/", "http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://[::ffff:a9fe:a9fe]/", "http://169.254.169.254./",
				"//127.0.0.1:P/x", "http:127.0.0.1:P/", "http:///127.0.0.1:P/", "http://127.0.0.1:P@/", "http://user@127.0.0.1:P/", "http://127.0.0.2:P@127.0.0.1:P/", "\\\\127.0.0.1:P\\x",
				"http://ⓛocalhost:P/", "http://１２７.0.0.1:P/", "http://127。0。0。1:P/", "https://127.0.0.1:P/", "gopher://127.0.0.1:P/", "file:///etc/passwd", "ftp://127.0.0.1:P/", "data:,x",
			} {
				to = strings.ReplaceAll(to, ":P", ":"+port)
				up.Script("/r", fetchtest.Redirect(302, to))
				if _, _, err := get(t, r, fetch.Request{Path: "r"}); err == nil {
					t.Errorf("redirect to %s was followed", to)
				}
				if u, err := url.Parse(to); err == nil && u.IsAbs() {
					if _, _, err := get(t, r, fetch.Request{URL: to}); err == nil {
						t.Errorf("%s was asked for", to)
					}
				}
			}
		})
	}
	if n := len(victim.Requests()); n != 0 {
		t.Fatalf("the victim saw %+v", victim.Requests())
	}
}

// The same host at another port, by another scheme, as a sub-domain or its parent is another origin.
func TestCredentialsStayWithOneSpellingOfAnOrigin(t *testing.T) {
	ca := fetchtest.NewAuthority(t)
	hosts := []string{"repo.test", "sub.repo.test", "test", "repo.test."}
	cert := ca.Issue(time.Now().Add(time.Hour), "repo.test", "sub.repo.test", "test", "127.0.0.1")
	names := fetchtest.NewNames(t)
	for _, h := range hosts {
		names.Set(h, "127.0.0.1")
	}
	plain, plain2 := fetchtest.New(t), fetchtest.New(t)
	secure := fetchtest.NewWith(t, cert, (*x509.CertPool)(nil))
	portOf := func(u *fetchtest.Upstream) string { p, _ := url.Parse(u.URL); return p.Port() }
	all := []*fetchtest.Upstream{plain, plain2, secure}
	for _, up := range all {
		up.Fallback(fetchtest.Body([]byte("ok")))
	}
	for kind, make := range credentialKinds {
		for _, home := range []struct{ scheme, port string }{{"http", portOf(plain)}, {"https", portOf(secure)}} {
			t.Run(kind+" over "+home.scheme, func(t *testing.T) {
				own := home.scheme + "://repo.test:" + home.port
				creds, hdr := make("canary-secret")
				r := newRemote(t, newClient(t, func(c *fetch.Config) { c.Resolver = names.Resolver() }), own, func(c *fetch.RemoteConfig) {
					c.Credentials, c.Headers, c.CABundle, c.Downgrade = creds, hdr, ca.PEM(), fetch.DowngradeAlways
				})
				for _, code := range []int{301, 302, 303, 307, 308} {
					for _, to := range []struct{ scheme, host, port string }{
						{"http", "repo.test", portOf(plain)},
						{"http", "repo.test", portOf(plain2)},
						{"https", "repo.test", portOf(secure)},
						{"http", "sub.repo.test", portOf(plain)},
						{"https", "sub.repo.test", portOf(secure)},
						{"http", "test", portOf(plain)},
						{"http", "repo.test.", portOf(plain)},
						{"http", "127.0.0.1", portOf(plain)},
						{"https", "127.0.0.1", portOf(secure)},
						{"http", "REPO.test", portOf(plain)},
					} {
						target := to.scheme + "://" + to.host + ":" + to.port
						same := strings.EqualFold(target, own)
						for _, up := range all {
							up.Reset()
							up.Script("/r", fetchtest.Redirect(code, target+"/f"))
							up.Script("/t/canary-secret/r", fetchtest.Redirect(code, target+"/f"))
						}
						_, _, err := get(t, r, fetch.Request{Path: "r"})
						if err != nil && (to.host != "repo.test." || home.scheme != "https") {
							t.Fatalf("%d to %s: %v", code, target, err)
						}
						for _, up := range all {
							for _, req := range up.Requests() {
								if req.Path != "/f" && req.Path != "/t/canary-secret/f" {
									continue
								}
								if shows(req, "canary-secret") != same {
									t.Errorf("%d to %s: shown %v, want %v: %s", code, target, !same, same, seen(req))
								}
							}
						}
					}
				}
			})
		}
	}
}

// Through a proxy, https is a tunnel: the proxy gets its own credentials and no others, the upstream its own and no others.
func TestATunnelKeepsCredentialsApart(t *testing.T) {
	ca := fetchtest.NewAuthority(t)
	up := fetchtest.NewWith(t, ca.Issue(time.Now().Add(time.Hour), "upstream.test"), nil)
	up.Fallback(fetchtest.Body([]byte("ok")))
	proxy := fetchtest.NewProxy(t, "pu", "canary-of-proxy")
	proxy.Route("upstream.test:443", up)
	proxy.Route("plain.test:80", func() *fetchtest.Upstream {
		p := fetchtest.New(t)
		p.Fallback(fetchtest.Body([]byte("plain")))
		return p
	}())
	proxyURL := strings.Replace(proxy.URL, "http://", "http://pu:canary-of-proxy@", 1)
	for kind, make := range credentialKinds {
		t.Run(kind, func(t *testing.T) {
			up.Reset()
			creds, hdr := make("canary-of-origin")
			before := len(proxy.Requests())
			r := newRemote(t, newClient(t), "https://upstream.test/c", func(c *fetch.RemoteConfig) {
				c.Credentials, c.Headers, c.CABundle, c.ProxyURL = creds, hdr, ca.PEM(), proxyURL
			})
			if b, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil || string(b) != "ok" {
				t.Fatalf("%q, %v", b, err)
			}
			// Away from the origin too, over http, where the proxy sees the whole request.
			if b, _, err := get(t, r, fetch.Request{URL: "http://plain.test/f"}); err != nil || string(b) != "plain" {
				t.Fatalf("%q, %v", b, err)
			}
			for _, q := range proxy.Requests()[before:] {
				if shows(q, "canary-of-origin") || q.Header.Get("Authorization") != "" {
					t.Errorf("the proxy saw %s", seen(q))
				}
			}
			reqs := up.Requests()
			if len(reqs) != 1 || !shows(reqs[0], "canary-of-origin") || shows(reqs[0], "canary-of-proxy") || reqs[0].Header.Get("Proxy-Authorization") != "" {
				t.Errorf("the upstream saw %+v", reqs)
			}
		})
	}
	t.Run("a proxy that refuses us is named, and its password is not", func(t *testing.T) {
		r := newRemote(t, newClient(t), "https://upstream.test/c", func(c *fetch.RemoteConfig) {
			c.CABundle, c.ProxyURL, c.Attempts = ca.PEM(), strings.Replace(proxy.URL, "http://", "http://pu:canary-wrong@", 1), 1
		})
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		if err == nil || !strings.Contains(err.Error(), "the proxy answered 407 Proxy Authentication Required") || fetch.StatusOf(err) != 407 || strings.Contains(err.Error(), "canary") {
			t.Errorf("%v", err)
		}
	})
}

// What is wrong with a certificate is told in words, at once, and an extra authority mends what it can mend.
func TestCertificatesThatCannotBeTrusted(t *testing.T) {
	ca, other := fetchtest.NewAuthority(t), fetchtest.NewAuthority(t)
	for name, tc := range map[string]struct {
		until  time.Duration
		host   string
		bundle []byte
		text   string // empty: it works
	}{
		"a good one with its authority":  {time.Hour, "127.0.0.1", ca.PEM(), ""},
		"an authority that nobody knows": {time.Hour, "127.0.0.1", nil, "unknown authority"},
		"another authority":              {time.Hour, "127.0.0.1", other.PEM(), "unknown authority"},
		"one for another host":           {time.Hour, "elsewhere.test", ca.PEM(), "127.0.0.1"},
		"one that has expired":           {-time.Hour, "127.0.0.1", ca.PEM(), "expired"},
		"among several authorities":      {time.Hour, "127.0.0.1", append(other.PEM(), ca.PEM()...), ""},
	} {
		t.Run(name, func(t *testing.T) {
			up := fetchtest.NewWith(t, ca.Issue(time.Now().Add(tc.until), tc.host), nil)
			up.Fallback(fetchtest.Body([]byte("ok")))
			r := newRemote(t, newClient(t), up.URL, func(c *fetch.RemoteConfig) { c.CABundle = tc.bundle })
			b, _, err := get(t, r, fetch.Request{Path: "f"})
			if tc.text == "" {
				if err != nil || string(b) != "ok" {
					t.Errorf("%q, %v", b, err)
				}
				return
			}
			wantReason(t, err, fault.Upstream, fetch.ReasonRefused)
			if !strings.Contains(err.Error(), "certificate") || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("the text is %q, it lacks %q", err, tc.text)
			}
		})
	}
	t.Run("a client certificate goes to its own origin only", func(t *testing.T) {
		cert, key := fetchtest.Pair(t, ca.Issue(time.Now().Add(time.Hour), "client.test"))
		up := fetchtest.NewWith(t, ca.Issue(time.Now().Add(time.Hour), "127.0.0.1"), ca.Pool())
		foreign := fetchtest.NewWith(t, ca.Issue(time.Now().Add(time.Hour), "127.0.0.1"), ca.Pool())
		for _, u := range []*fetchtest.Upstream{up, foreign} {
			u.Fallback(fetchtest.Body([]byte("ok")))
		}
		up.Script("/away", fetchtest.Redirect(302, foreign.URL+"/f"))
		with := newRemote(t, newClient(t), up.URL, func(c *fetch.RemoteConfig) { c.CABundle, c.ClientCert, c.ClientKey = ca.PEM(), cert, key })
		if b, _, err := get(t, with, fetch.Request{Path: "f"}); err != nil || string(b) != "ok" {
			t.Errorf("%q, %v", b, err)
		}
		if _, _, err := get(t, with, fetch.Request{Path: "away"}); err == nil || len(foreign.Requests()) != 0 {
			t.Errorf("the foreign server was answered: %v, %d requests", err, len(foreign.Requests()))
		}
		without := newRemote(t, newClient(t), up.URL, func(c *fetch.RemoteConfig) { c.CABundle, c.Attempts = ca.PEM(), 1 })
		if _, _, err := get(t, without, fetch.Request{Path: "f"}); err == nil {
			t.Error("it was served without one")
		}
	})
}

func TestCheckURL(t *testing.T) {
	for _, ok := range []string{"http://h.org", "https://h.org:8443/c", "HTTP://h.org/", "http://10.0.0.1/c", "http://[::1]:8000/", "https://xn--mnchen-3ya.example/"} {
		if err := fetch.CheckURL(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, no := range []string{
		"", "file:///etc/passwd", "file:/etc/passwd", "gopher://h/", "ftp://h/", "javascript:alert(1)", "//h/c", "h/c", "http:h", "http://", "http:///c", "http://:80/",
		"http://h:25/", "http://h:22/", "http://h:6379x/", "http://h:0/", "http://h:99999/", "http://münchen.example/", "http://ⓔxample.org/", "http://exa mple.org/", "http://h\x00/",
	} {
		if err := fetch.CheckURL(no); err == nil {
			t.Errorf("%q is allowed", no)
		}
	}
}

// What a person has to mend does not brake the host, and what was braked is asked again once the way to it has changed.
func TestTheBrakeIsForWhatMayPass(t *testing.T) {
	ca := fetchtest.NewAuthority(t)
	up := fetchtest.NewWith(t, ca.Issue(time.Now().Add(time.Hour), "127.0.0.1"), nil)
	up.Fallback(fetchtest.Body([]byte("ok")))
	c := newClient(t, func(c *fetch.Config) { c.Retry.BreakAfter, c.Retry.Attempts, c.Retry.Cap = 3, 1, time.Millisecond })
	untrusting := newRemote(t, c, up.URL)
	for range 10 {
		_, _, err := get(t, untrusting, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRefused)
	}
	trusting := newRemote(t, c, up.URL, func(c *fetch.RemoteConfig) { c.CABundle = ca.PEM() })
	if b, _, err := get(t, trusting, fetch.Request{Path: "f"}); err != nil || string(b) != "ok" {
		t.Errorf("%q, %v", b, err)
	}
	up.Fallback(fetchtest.Status(500))
	for range 3 {
		_, _, err := get(t, trusting, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonStatus)
	}
	_, _, err := get(t, trusting, fetch.Request{Path: "f"})
	wantReason(t, err, fault.Upstream, fetch.ReasonThrottled)
	c.Lift(up.URL + "/c")
	up.Fallback(fetchtest.Body([]byte("ok")))
	if b, _, err := get(t, trusting, fetch.Request{Path: "f"}); err != nil || string(b) != "ok" {
		t.Errorf("after it was lifted: %q, %v", b, err)
	}
	up.Fallback(fetchtest.Status(429, "Retry-After", "3600"))
	_, _, err = get(t, trusting, fetch.Request{Path: "f"})
	wantReason(t, err, fault.Upstream, fetch.ReasonStatus)
	c.Lift(up.URL)
	_, _, err = get(t, trusting, fetch.Request{Path: "f"})
	wantReason(t, err, fault.Upstream, fetch.ReasonThrottled) // it asked for that
}
