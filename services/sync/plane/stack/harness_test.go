// Package stack_test proves on the whole platform what services/sync/plane promises, over HTTP and against upstreams that
// count what they are asked.
package stack_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// brisk makes things happen in moments that take minutes otherwise.
func brisk(c *platform.Config) {
	c.Sync.Attempts, c.Sync.HeaderTimeout, c.Sync.StallTimeout = 2, 2*time.Second, 2*time.Second
	c.Proxy.LeaseTTL = 2 * time.Second
}

// alwaysStale makes every request ask upstream whether its index has changed.
func alwaysStale(c *platform.Config) {
	brisk(c)
	c.Proxy.IndexTTL, c.Proxy.RetryAfter = 0, 0
}

// proxy is a proxy channel and its upstream.
type proxy struct {
	t     testing.TB
	stack *platformtest.Stack
	name  string
	ch    *synctest.Channel
	up    *fetchtest.Upstream
}

func newProxy(t testing.TB, s *platformtest.Stack, name string, settings map[string]any) *proxy {
	t.Helper()
	p := &proxy{t: t, stack: s, name: name, ch: synctest.NewChannel(), up: fetchtest.New(t)}
	p.up.Fallback(p.ch)
	body := map[string]any{"name": name, "private": false, "mirror_channel_url": p.up.URL, "mirror_mode": "proxy"}
	maps.Copy(body, settings)
	p.admin().Must(201, "POST", "/api/channels", body)
	return p
}

func (p *proxy) admin() *platformtest.Client { return p.stack.Admin().In(p.t) }

func (p *proxy) anonymous() *platformtest.Client { return p.stack.Anonymous().In(p.t) }

func (p *proxy) path(path string) string { return "/get/" + p.name + "/" + path }

// get asks for a path, which must answer with the status.
func (p *proxy) get(status int, path string, header ...string) *platformtest.Response {
	p.t.Helper()
	return p.send(status, "GET", path, header...)
}

func (p *proxy) send(status int, method, path string, header ...string) *platformtest.Response {
	p.t.Helper()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return p.anonymous().Send(status, platformtest.Request{Method: method, Path: p.path(path), Header: h})
}

// gets is get for a file whose bytes are known.
func (p *proxy) gets(path string, want []byte) *platformtest.Response {
	p.t.Helper()
	r := p.get(200, path)
	if !bytes.Equal(r.Body, want) {
		p.t.Fatalf("%s: %d bytes that are not the %d expected", path, len(r.Body), len(want))
	}
	return r
}

// asked returns how often the upstream was asked for a path, by GET, since the last reset.
func (p *proxy) asked(path string) (n int) {
	for _, r := range p.up.Requests() {
		if r.Path == "/"+path && r.Method == http.MethodGet {
			n++
		}
	}
	return n
}

func (p *proxy) wantAsked(path string, n int) {
	p.t.Helper()
	if got := p.asked(path); got != n {
		p.t.Errorf("upstream was asked for %s %d times, want %d", path, got, n)
	}
}

// moment is longer than a gateway believes what it has heard.
func moment() { time.Sleep(1100 * time.Millisecond) }

// listed returns the file names in an index.
func listed(t testing.TB, r io.Reader, form string) []string {
	t.Helper()
	dec, err := repodata.NewDecoder(r, repodata.EncodingOf(form), repodata.DecodeLimits{})
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var doc struct {
		Packages map[string]json.RawMessage `json:"packages"`
		Conda    map[string]json.RawMessage `json:"packages.conda"`
	}
	if err := json.NewDecoder(dec).Decode(&doc); err != nil {
		t.Fatalf("%s: %v", form, err)
	}
	return slices.Sorted(func(yield func(string) bool) {
		for _, m := range []map[string]json.RawMessage{doc.Packages, doc.Conda} {
			for k := range m {
				if !yield(k) {
					return
				}
			}
		}
	})
}

// noise is n bytes that do not compress and do not repeat.
func noise(seed byte, n int) []byte {
	out := make([]byte, n)
	x := uint64(seed) + 0x9e3779b97f4a7c15
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = byte(x)
	}
	return out
}

func sumOf(t *testing.T, size int64) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, &patterned{size: size}); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
