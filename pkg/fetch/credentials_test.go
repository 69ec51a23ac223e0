package fetch_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

// everything a server saw of a request, for a search.
func seen(r fetchtest.Request) string {
	return fmt.Sprint(r.Path, " ", r.Query, " ", r.Host, " ", r.Header)
}

var credentialKinds = map[string]func(secret string) (fetch.Credentials, http.Header){
	"basic": func(s string) (fetch.Credentials, http.Header) {
		return fetch.Credentials{Username: "u", Password: s}, nil
	},
	"bearer": func(s string) (fetch.Credentials, http.Header) { return fetch.Credentials{Bearer: s}, nil },
	"header": func(s string) (fetch.Credentials, http.Header) {
		return fetch.Credentials{Header: "X-API-Key", HeaderValue: s}, nil
	},
	"path token": func(s string) (fetch.Credentials, http.Header) { return fetch.Credentials{PathToken: s}, nil },
	"query":      func(s string) (fetch.Credentials, http.Header) { return fetch.Credentials{Query: s}, nil },
	"headers": func(s string) (fetch.Credentials, http.Header) {
		return fetch.Credentials{}, http.Header{"Cookie": {"session=" + s}}
	},
}

// shows reports whether a request carries the secret in any of its forms.
func shows(r fetchtest.Request, secret string) bool {
	basic := http.Request{Header: http.Header{}}
	basic.SetBasicAuth("u", secret)
	text := seen(r)
	return strings.Contains(text, secret) || strings.Contains(text, strings.TrimPrefix(basic.Header.Get("Authorization"), "Basic "))
}

func TestCredentialsStayWithTheirOrigin(t *testing.T) {
	const secretA, secretB = "canary-of-remote-a", "canary-of-remote-b"
	for kind, make := range credentialKinds {
		for _, code := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprintf("%s across %d", kind, code), func(t *testing.T) {
				a, b := fetchtest.New(t), fetchtest.New(t)
				aloop := strings.Replace(a.URL, "127.0.0.1", "localhost", 1) // same server and port, another name: another origin
				for _, up := range []*fetchtest.Upstream{a, b} {
					up.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						steps := map[string]string{
							"/own": "/final", "/cross-a": a.URL + "/final", "/cross-b": b.URL + "/final", "/name": aloop + "/final",
							"/there-and-back": b.URL + "/back", "/back": a.URL + "/final?back", "/double": "/cross-b",
							"/schemeless": strings.TrimPrefix(b.URL, "http:") + "/final", "/userinfo": strings.Replace(b.URL, "http://", "http://x:y@", 1) + "/final",
						}
						path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/t/"+secretA), "/t/"+secretB)
						if to, ok := steps[path]; ok {
							fetchtest.Redirect(code, to)(w, r)
							return
						}
						fetchtest.Body([]byte("ok"))(w, r)
					}))
				}
				c := newClient(t)
				creds, hdr := make(secretA)
				ra := newRemote(t, c, a.URL, func(c *fetch.RemoteConfig) { c.Credentials, c.Headers = creds, hdr })
				creds, hdr = make(secretB)
				rb := newRemote(t, c, b.URL, func(c *fetch.RemoteConfig) { c.Credentials, c.Headers = creds, hdr })
				for _, step := range []string{"own", "cross-a", "cross-b", "name", "there-and-back", "double", "schemeless", "userinfo", "final"} {
					for _, req := range []fetch.Request{{Path: step}, {URL: a.URL + "/" + step}, {URL: b.URL + "/" + step}} {
						for name, r := range map[string]*fetch.Remote{"a": ra, "b": rb} {
							body, resp, err := get(t, r, req)
							if err != nil || string(body) != "ok" {
								t.Fatalf("remote %s, %+v: %q, %v", name, req, body, err)
							}
							if strings.Contains(resp.FinalURL, "canary") {
								t.Errorf("final URL %s", resp.FinalURL)
							}
						}
					}
				}
				for _, leak := range []struct {
					up     *fetchtest.Upstream
					secret string
				}{{a, secretB}, {b, secretA}} {
					for _, r := range leak.up.Requests() {
						if shows(r, leak.secret) {
							t.Errorf("leaked: %s", seen(r))
						}
					}
				}
				first := 0
				for _, r := range a.Requests() {
					if shows(r, secretA) {
						if strings.HasPrefix(r.Host, "localhost") {
							t.Errorf("leaked to another name: %s", seen(r))
						}
						if r.Query == "back" || strings.HasPrefix(r.Query, "back&") {
							t.Errorf("sent again after a foreign server chose the URL: %s", seen(r))
						}
						first++
					}
					if r.Header.Get("Authorization") == "Basic eDp5" {
						t.Errorf("a redirect's user information was used: %s", seen(r))
					}
				}
				if first == 0 {
					t.Error("the own origin never got the credentials")
				}
			})
		}
	}
}

func TestRedirectsThatAreRefused(t *testing.T) {
	t.Run("own credentials in a foreign URL", func(t *testing.T) {
		a, b := fetchtest.New(t), fetchtest.New(t)
		a.Fallback(fetchtest.Redirect(302, b.URL+"/t/canary-token/f"))
		r := newRemote(t, newClient(t), a.URL, func(c *fetch.RemoteConfig) { c.Credentials.PathToken = "canary-token" })
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonBadTarget)
		if n := len(b.Requests()); n != 0 || strings.Contains(err.Error(), "canary") {
			t.Errorf("%d requests, %v", n, err)
		}
	})
	secure, plain := fetchtest.NewTLS(t), fetchtest.New(t)
	plain.Fallback(fetchtest.Body([]byte("plain")))
	secure.Fallback(fetchtest.Redirect(302, plain.URL+"/f"))
	for _, tc := range []struct {
		name   string
		bearer string
		rule   fetch.Downgrade
		ok     bool
	}{
		{"without credentials", "", fetch.DowngradeWithoutCredentials, true},
		{"with credentials", "canary", fetch.DowngradeWithoutCredentials, false},
		{"never", "", fetch.DowngradeNever, false},
		{"always", "canary", fetch.DowngradeAlways, true},
	} {
		t.Run("https to http "+tc.name, func(t *testing.T) {
			plain.Reset()
			r := newRemote(t, newClient(t), secure.URL, func(c *fetch.RemoteConfig) {
				c.CABundle, c.Credentials.Bearer, c.Downgrade = secure.CABundle(), tc.bearer, tc.rule
			})
			_, _, err := get(t, r, fetch.Request{Path: "f"})
			if tc.ok != (err == nil) {
				t.Fatalf("got %v", err)
			}
			if !tc.ok {
				wantReason(t, err, fault.Upstream, fetch.ReasonBadTarget)
			}
			for _, q := range plain.Requests() {
				if strings.Contains(seen(q), "canary") || !tc.ok {
					t.Errorf("plain saw %s", seen(q))
				}
			}
		})
	}
}

func TestTLS(t *testing.T) {
	up := fetchtest.NewTLS(t)
	up.Fallback(fetchtest.Body([]byte("ok")))
	t.Run("an unknown authority is refused at once", func(t *testing.T) {
		up.Reset()
		_, _, err := get(t, newRemote(t, newClient(t), up.URL), fetch.Request{Path: "f"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRefused)
		if !strings.Contains(err.Error(), "certificate") || len(up.Requests()) != 0 {
			t.Errorf("%v", err)
		}
	})
	t.Run("an extra CA bundle is trusted", func(t *testing.T) {
		r := newRemote(t, newClient(t), up.URL, func(c *fetch.RemoteConfig) { c.CABundle = up.CABundle() })
		if b, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil || string(b) != "ok" {
			t.Errorf("%q, %v", b, err)
		}
		if p := up.Requests()[0].Proto; p != "HTTP/2.0" {
			t.Errorf("over %s", p)
		}
	})
	t.Run("over HTTP/2, a slow header, a cut and a reset are what they are over HTTP/1.1", func(t *testing.T) {
		data := noise(1, 100_000)
		c := newClient(t, func(c *fetch.Config) { c.Timeouts.Header = 80 * time.Millisecond })
		r := newRemote(t, c, up.URL, func(c *fetch.RemoteConfig) { c.CABundle = up.CABundle() })
		up.Script("/hang", fetchtest.Hang())
		_, err := r.Download(t.Context(), fetch.DownloadRequest{Path: "hang", Size: 1}, &sink{})
		wantReason(t, err, fault.Upstream, fetch.ReasonTimeout)
		up.Script("/cut", fetchtest.Reset(), fetchtest.CutFile(data, 50_000), fetchtest.File(data))
		s := &sink{}
		res, err := r.Download(t.Context(), fetch.DownloadRequest{Path: "cut", Size: 100_000}, s)
		if err != nil || !bytes.Equal(s.Bytes(), data) || res.Attempts != 3 || res.Resumes > 1 {
			t.Errorf("%+v, %v", res, err)
		}
	})
	t.Run("skipping verification holds for the own origin only", func(t *testing.T) {
		other := fetchtest.NewTLS(t)
		up.Script("/r", fetchtest.Redirect(302, other.URL+"/f"))
		r := newRemote(t, newClient(t), up.URL, func(c *fetch.RemoteConfig) { c.InsecureSkipVerify = true })
		if b, _, err := get(t, r, fetch.Request{Path: "f"}); err != nil || string(b) != "ok" {
			t.Errorf("%q, %v", b, err)
		}
		_, _, err := get(t, r, fetch.Request{Path: "r"})
		wantReason(t, err, fault.Upstream, fetch.ReasonRefused)
	})
}

func TestSecretsAreNotInErrors(t *testing.T) {
	up := fetchtest.New(t)
	up.Fallback(fetchtest.Status(400))
	for kind, make := range credentialKinds {
		creds, hdr := make("canary-secret")
		r := newRemote(t, newClient(t), up.URL, func(c *fetch.RemoteConfig) { c.Credentials, c.Headers = creds, hdr })
		_, _, err := get(t, r, fetch.Request{Path: "f"})
		if err == nil || strings.Contains(fmt.Sprintf("%+v %v", err, err), "canary") {
			t.Errorf("%s: %v", kind, err)
		}
		_, _, err = get(t, r, fetch.Request{URL: strings.Replace(up.URL, "http://", "http://u:canary@", 1) + "/t/canary/x?sig=canary&canary#canary"})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@h.org/a/b":                               "https://h.org/a/b",
		"https://h.org:8443/t/tk-1/conda-forge/noarch/x.json": "https://h.org:8443/t/***/conda-forge/noarch/x.json",
		"https://h.org/get/t/abc/x":                           "https://h.org/get/t/***/x",
		"https://h.org/x?X-Amz-Signature=abc&repo=epel-9":     "https://h.org/x?X-Amz-Signature=***&repo=epel-9",
		"https://h.org/x?abcdef":                              "https://h.org/x?***",
		"https://h.org/x#frag":                                "https://h.org/x",
		"https://[::1]:80/x":                                  "https://[::1]:80/x",
		"https://h.org/a%20b/%2Bc":                            "https://h.org/a%20b/%2Bc",
		"http://h.org/\x7f":                                   "(not a URL)",
		"mailto:secret@h.org":                                 "mailto:***",
		"/t/abc/x":                                            "/t/***/x",
	} {
		if got := fetch.Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
	if got := fetch.Redact("https://h.org/" + strings.Repeat("x", 10000)); len(got) > 600 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestRemoteRefusesBadSettings(t *testing.T) {
	c := newClient(t)
	base := func(f func(*fetch.RemoteConfig)) fetch.RemoteConfig {
		cfg := fetch.RemoteConfig{BaseURL: "https://h.org/x"}
		f(&cfg)
		return cfg
	}
	for name, cfg := range map[string]fetch.RemoteConfig{
		"no URL":               {},
		"a relative URL":       {BaseURL: "x/y"},
		"another scheme":       {BaseURL: "file:///etc"},
		"file without slashes": {BaseURL: "file:/etc"},
		"a query":              {BaseURL: "https://h.org/?x=canary"},
		"an unparsable URL":    {BaseURL: "https://u:canary@h.org:x"},
		"two credentials":      base(func(c *fetch.RemoteConfig) { c.Credentials = fetch.Credentials{Bearer: "canary", Username: "u"} }),
		"a line break":         base(func(c *fetch.RemoteConfig) { c.Credentials.Bearer = "canary\r\nX: y" }),
		"a token with a slash": base(func(c *fetch.RemoteConfig) { c.Credentials.PathToken = "canary/../x" }),
		"a Host header":        base(func(c *fetch.RemoteConfig) { c.Headers = http.Header{"host": {"canary"}} }),
		"a header name":        base(func(c *fetch.RemoteConfig) { c.Headers = http.Header{"a b": {"canary"}} }),
		"a header value":       base(func(c *fetch.RemoteConfig) { c.Headers = http.Header{"X": {"canary\n"}} }),
		"a CA bundle":          base(func(c *fetch.RemoteConfig) { c.CABundle = []byte("canary") }),
		"a client certificate": base(func(c *fetch.RemoteConfig) { c.ClientKey = []byte("canary") }),
		"a proxy":              base(func(c *fetch.RemoteConfig) { c.ProxyURL = "socks://canary" }),
		"a rate":               base(func(c *fetch.RemoteConfig) { c.RateBytes = -1 }),
		"attempts":             base(func(c *fetch.RemoteConfig) { c.Attempts = -1 }),
	} {
		_, err := c.Remote(cfg)
		if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRedact(f *testing.F) {
	for _, s := range []string{"https://u:PASSWORD@h/t/PASSWORD/x?k=PASSWORD&PASSWORD#PASSWORD", "//u:PASSWORD@h", "h:PASSWORD", "?PASSWORD", "/t/PASSWORD", "/a/t//PASSWORD/t/PASSWORD"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got := fetch.Redact(raw)
		if strings.ContainsAny(got, "\r\n\x00\x1b") || len(got) > 600 {
			t.Fatalf("Redact(%q) = %q", raw, got)
		}
		if u, err := url.Parse(raw); err == nil && u.User != nil && u.Host != "" {
			if p, _ := u.User.Password(); len(p) > 8 && strings.Contains(got, p) && !strings.Contains(u.Host+u.EscapedPath()+u.RawQuery, p) {
				t.Fatalf("Redact(%q) = %q", raw, got)
			}
		}
	})
}
