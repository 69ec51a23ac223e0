package stack_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// overTLS is a mirror of an upstream that shows a certificate.
func overTLS(t *testing.T, s *platformtest.Stack, name string, up *fetchtest.Upstream) *mirror {
	t.Helper()
	m := &mirror{t: t, stack: s, name: name, ch: synctest.NewChannel(), up: up}
	m.up.Fallback(m.ch)
	m.create(m.up.URL)
	return m
}

// What is wrong with an upstream's certificate is told in the job, in words; the remote's CA bundle mends what it can, and
// what the mirror had stays.
func TestCertificatesOfUpstreams(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	ca := fetchtest.NewAuthority(t)
	soon := time.Now().Add(time.Hour)
	n := 0
	for name, tc := range map[string]struct {
		up     *fetchtest.Upstream
		bundle []byte
		text   string
	}{
		"self-signed":   {fetchtest.NewTLS(t), nil, "unknown authority"},
		"own authority": {fetchtest.NewWith(t, ca.Issue(soon, "127.0.0.1"), nil), nil, "unknown authority"},
		"wrong host":    {fetchtest.NewWith(t, ca.Issue(soon, "elsewhere.test"), nil), ca.PEM(), "127.0.0.1"},
		"expired":       {fetchtest.NewWith(t, ca.Issue(time.Now().Add(-time.Hour), "127.0.0.1"), nil), ca.PEM(), "expired"},
	} {
		n++
		t.Run(name, func(t *testing.T) {
			m := overTLS(t, s, fmt.Sprintf("tls%d", n), tc.up)
			m.ch.Add("noarch", "a", "1.0", content(9000+n, 500))
			if tc.bundle != nil {
				m.set(map[string]any{"ca_bundle": string(tc.bundle)})
			}
			j := m.wait(m.start(nil).ID, ended)
			if j.State == "JOB_STATE_SUCCEEDED" || !strings.Contains(j.Error, "certificate cannot be trusted") || !strings.Contains(j.Error, tc.text) {
				t.Errorf("%s %q", j.State, j.Error)
			}
			if len(tc.up.Requests()) != 0 {
				t.Errorf("it was asked: %+v", tc.up.Requests())
			}
		})
	}
	t.Run("an authority is trusted once it is given, by its channel alone", func(t *testing.T) {
		up := fetchtest.NewWith(t, ca.Issue(soon, "127.0.0.1"), nil)
		m := overTLS(t, s, "trusted", up)
		path := m.ch.Add("noarch", "a", "1.0", content(9100, 500))
		m.set(map[string]any{"ca_bundle": string(ca.PEM())})
		if r := m.sync(nil); r.Added != 1 || r.Failed != 0 {
			t.Errorf("%+v", r)
		}
		m.good(path)
		m.watch(0, "noarch")
		other := overTLS(t, s, "untrusted", fetchtest.NewWith(t, ca.Issue(soon, "127.0.0.1"), nil))
		other.ch.Add("noarch", "b", "1.0", content(9101, 500))
		if j := other.wait(other.start(nil).ID, ended); !strings.Contains(j.Error, "certificate") {
			t.Errorf("another channel trusts it too: %+v", j)
		}
		// Taken away, the channel keeps what it has.
		m.set(map[string]any{"ca_bundle": ""})
		m.ch.Add("noarch", "c", "1.0", content(9102, 500))
		if j := m.wait(m.start(nil).ID, ended); !strings.Contains(j.Error, "certificate") {
			t.Errorf("%+v", j)
		}
		m.good(path)
	})
	t.Run("a client certificate is shown", func(t *testing.T) {
		m := overTLS(t, s, "mutual", fetchtest.NewWith(t, ca.Issue(soon, "127.0.0.1"), ca.Pool()))
		path := m.ch.Add("noarch", "a", "1.0", content(9103, 500))
		cert, key := fetchtest.Pair(t, ca.Issue(soon, "client.test"))
		m.set(map[string]any{"ca_bundle": string(ca.PEM()), "client_cert": string(cert), "client_key": string(key)})
		if r := m.sync(nil); r.Added != 1 {
			t.Errorf("%+v", r)
		}
		m.good(path)
		if body := string(m.admin().Must(200, "GET", "/entrepot/v1/channels/mutual/remote", nil).Body); strings.Contains(body, "PRIVATE KEY") || !strings.Contains(body, `"client_key_set":true`) {
			t.Errorf("shown: %s", body)
		}
		if strings.Contains(databaseText(t, s), "PRIVATE KEY") || strings.Contains(s.Logs(), "PRIVATE KEY") {
			t.Error("the key is in the database or the log in the clear")
		}
	})
}

// An upstream that only a proxy can reach, by a name that only the proxy knows. The proxy gets its credentials, the
// upstream its own, and neither the other's.
func TestAProxyOfARemote(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	ca := fetchtest.NewAuthority(t)
	m := &mirror{t: t, stack: s, name: "tunnelled", ch: synctest.NewChannel(), up: fetchtest.NewWith(t, ca.Issue(time.Now().Add(time.Hour), "upstream.test"), nil)}
	m.up.Fallback(only("Authorization", "Bearer origin-"+canary, m.ch))
	proxy := fetchtest.NewProxy(t, "pu", "proxy-"+canary)
	proxy.Route("upstream.test:443", m.up)
	m.create("https://upstream.test/")
	var paths []string
	for i := range 20 {
		paths = append(paths, m.ch.Add("noarch", fmt.Sprintf("p%02d", i), "1.0", content(9200+i, 500)))
	}
	with := func(credentials string) string {
		return strings.Replace(proxy.URL, "http://", "http://"+credentials, 1)
	}
	m.set(map[string]any{"ca_bundle": string(ca.PEM()), "bearer_token": "origin-" + canary, "proxy_url": with("")})
	j := m.wait(m.start(nil).ID, ended)
	if !strings.Contains(j.Error, "Proxy Authentication Required") {
		t.Errorf("a proxy that does not know us: %s %q", j.State, j.Error)
	}
	m.admin().Do("POST", "/entrepot/v1/jobs/"+j.ID+":cancel", map[string]any{})
	m.wait(j.ID, func(j job) bool { return j.State == "JOB_STATE_CANCELLED" || j.State == "JOB_STATE_DEAD" })
	m.set(map[string]any{"bearer_token": "origin-" + canary, "proxy_url": with("pu:proxy-" + canary + "@")})
	if r := m.sync(nil); r.Added != 20 || r.Failed != 0 {
		t.Fatalf("%+v", r)
	}
	m.good(paths...)
	body := string(m.admin().Must(200, "GET", "/entrepot/v1/channels/tunnelled/remote", nil).Body)
	if strings.Contains(body, canary) || !strings.Contains(body, `"proxy_credentials_set":true`) || !strings.Contains(body, `"proxy_url":"`+proxy.URL+`"`) {
		t.Errorf("shown: %s", body)
	}
	for _, q := range proxy.Requests() {
		if q.Method != http.MethodConnect || q.Header.Get("Authorization") != "" || strings.Contains(fmt.Sprint(q), "origin-") {
			t.Errorf("the proxy saw %+v", q)
		}
	}
	for _, q := range m.up.Requests() {
		if q.Header.Get("Proxy-Authorization") != "" || q.Header.Get("Authorization") != "Bearer origin-"+canary {
			t.Errorf("the upstream saw %+v", q)
		}
	}
	leaks(t, s)
}

// Two mirrors with credentials whose upstreams redirect to each other, to themselves under other names, ports and schemes:
// each upstream sees its own credentials, and only in requests that never left it.
func TestCredentialsOfMirrorsNeverCross(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	ca := fetchtest.NewAuthority(t)
	for kind, settings := range map[string]func(secret string) map[string]any{
		"basic":  func(x string) map[string]any { return map[string]any{"username": "robot", "password": x} },
		"bearer": func(x string) map[string]any { return map[string]any{"bearer_token": x} },
		"header": func(x string) map[string]any { return map[string]any{"header": "X-Api-Key", "header_value": x} },
		"path":   func(x string) map[string]any { return map[string]any{"path_token": x} },
	} {
		t.Run(kind, func(t *testing.T) {
			a, b := newMirror(t, s, "a-"+kind), newMirror(t, s, "b-"+kind)
			secure := overTLS(t, s, "s-"+kind, fetchtest.NewWith(t, ca.Issue(time.Now().Add(time.Hour), "127.0.0.1"), nil))
			all := []*mirror{a, b, secure}
			secret := map[*mirror]string{}
			for i, m := range all {
				secret[m] = fmt.Sprintf("secret-%d-%s", i, canary)
				set := settings(secret[m])
				if m == secure {
					set["ca_bundle"] = string(ca.PEM())
				}
				m.set(set)
				var h http.Handler = m.ch
				if kind == "path" {
					h = both(below("/t/"+secret[m], m.ch), m.ch)
				}
				m.up.Fallback(h)
			}
			want := map[*mirror]map[string]string{}
			for i, m := range all {
				want[m] = map[string]string{}
				prefix := "/"
				if kind == "path" {
					prefix = "/t/" + secret[m] + "/"
				}
				for k, target := range []string{
					a.up.URL, b.up.URL, secure.up.URL, strings.Replace(m.up.URL, "127.0.0.1", "localhost", 1), strings.Replace(m.up.URL, "://", "://robot:x@", 1),
				} {
					for c, code := range []int{301, 302, 303, 307, 308} {
						body := content(9300+100*i+10*k+c+1000*len(kind), 400)
						path := m.ch.Add("noarch", fmt.Sprintf("f%d-%d", k, code), "1.0", body)
						file := fmt.Sprintf("/files/%s/%d/%d", m.name, k, code)
						m.up.Script(prefix+path, fetchtest.Redirect(code, target+file))
						for _, up := range all {
							up.up.Script(file, fetchtest.File(body))
							up.up.Script("/t/"+secret[up]+file, fetchtest.File(body))
						}
						// https that carried credentials does not go on over http; nobody vouches for the other name.
						switch {
						case m == secure && strings.HasPrefix(target, "http://"):
							want[m][path] = "UPSTREAM_REDIRECT_REFUSED"
						case m != secure && target == secure.up.URL, m == secure && strings.Contains(target, "localhost"):
							want[m][path] = "UPSTREAM_REFUSED" // an authority that this remote does not know, a host that is not in the certificate
						}
					}
				}
			}
			for _, m := range all {
				if diff := cmp.Diff(want[m], m.sync(nil).failures()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", m.name, diff)
				}
			}
			for _, m := range all {
				seen := 0
				for _, q := range m.up.Requests() {
					text := fmt.Sprint(q.Path, q.Query, q.Header, basicOf(q))
					for _, other := range all {
						if other != m && strings.Contains(text, secret[other]) {
							t.Errorf("%s saw the credentials of %s: %+v", m.name, other.name, q)
						}
					}
					own := strings.Contains(text, secret[m])
					if own {
						seen++
					}
					if own && strings.Contains(q.Path, "/files/") && (!strings.Contains(q.Path, "/files/"+m.name+"/") || strings.HasPrefix(q.Host, "localhost")) {
						t.Errorf("%s got its credentials from elsewhere: %+v", m.name, q)
					}
				}
				if seen == 0 {
					t.Errorf("%s never saw its credentials, so this proves nothing", m.name)
				}
			}
		})
	}
	leaks(t, s)
}

// both tries one handler after the other: what the first does not have the second may.
func both(first, second http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/t/") {
			first.ServeHTTP(w, r)
			return
		}
		second.ServeHTTP(w, r)
	})
}

// basicOf is what Basic authentication says, decoded.
func basicOf(q fetchtest.Request) string {
	r := http.Request{Header: q.Header}
	user, password, _ := r.BasicAuth()
	return user + ":" + password
}
