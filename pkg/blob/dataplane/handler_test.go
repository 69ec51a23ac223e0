package dataplane_test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func TestUpload(t *testing.T) {
	data := blobtest.Bytes(1, 300<<10)
	sum, md5sum := blob.Sum(data), md5.Sum(data)
	plain := fmt.Sprintf(`{"digest":"%s","size":%d}`, sum, len(data))
	withMD5 := fmt.Sprintf(`{"digest":"%s","md5":"%s","size":%d}`, sum, hex.EncodeToString(md5sum[:]), len(data))
	b := setup(t, openDir(t))
	token := b.sign(t, grant.Write, blob.Digest{})
	for _, c := range []struct {
		method, query string
		status        int
		body          string // a prefix, without it: not compared
	}{
		{"PUT", "", 201, plain},
		{"POST", "", 201, plain}, // that it was there already is not told
		{"PUT", "?hash=md5", 201, withMD5},
		{"PUT", "?sha256=" + sum.String(), 201, plain},
		{"PUT", "?md5=" + hex.EncodeToString(md5sum[:]), 201, withMD5},
		{"PUT", "?size=307200", 201, plain},
		{"PUT", "?size=307201", 400, `{"kind":"invalid","reason":"BLOB_MISMATCH"`},
		{"PUT", "?sha256=" + strings.Repeat("0", 64), 400, `{"kind":"invalid","reason":"BLOB_MISMATCH"`},
		{"PUT", "?md5=" + strings.Repeat("0", 32), 400, `{"kind":"invalid","reason":"BLOB_MISMATCH"`},
		{"PUT", "?sha256=../../etc/passwd", 400, `{"kind":"invalid"`},
		{"PUT", "?md5=zz", 400, `{"kind":"invalid"`},
		{"PUT", "?size=-1", 400, `{"kind":"invalid"`},
		{"PUT", "?hash=sha1", 400, `{"kind":"invalid"`},
		{"DELETE", "", 405, ""},
		{"GET", "", 405, ""},
	} {
		resp, body := b.do(t, c.method, "/blobs"+c.query, token, bytes.NewReader(data))
		if resp.StatusCode != c.status || !strings.HasPrefix(body, c.body) {
			t.Errorf("%s %s: status %d, body %s", c.method, c.query, resp.StatusCode, body)
		}
	}
	if _, body := b.do(t, "GET", "/blobs/"+sum.String(), b.sign(t, grant.Read, sum), nil); body != string(data) {
		t.Errorf("read back %d bytes", len(body))
	}
	if resp, _ := b.do(t, "PUT", "/blobs/"+sum.String(), token, nil); resp.StatusCode != 405 {
		t.Errorf("PUT of a blob's own path: status %d", resp.StatusCode)
	}
}

func TestUploadBounds(t *testing.T) {
	b := setup(t, &blobtest.Memory{}, func(o *dataplane.Options) { o.MaxUpload = 2000 })
	small := func(g *grant.Grant) { g.MaxSize = 1000 }
	bound := blob.Sum([]byte("this and nothing else"))
	chunked := func(n int) io.Reader { return io.MultiReader(bytes.NewReader(make([]byte, n))) }
	for name, c := range map[string]struct {
		token  string
		body   io.Reader
		status int
	}{
		"within the grant's":        {b.sign(t, grant.Write, blob.Digest{}, small), bytes.NewReader(make([]byte, 1000)), 201},
		"over the grant's":          {b.sign(t, grant.Write, blob.Digest{}, small), bytes.NewReader(make([]byte, 1001)), 413},
		"over the grant's, chunked": {b.sign(t, grant.Write, blob.Digest{}, small), chunked(1001), 413},
		"over the plane's":          {b.sign(t, grant.Write, blob.Digest{}), bytes.NewReader(make([]byte, 2001)), 413},
		"over the plane's, chunked": {b.sign(t, grant.Write, blob.Digest{}), chunked(2001), 413},
		"what the grant is for":     {b.sign(t, grant.Write, bound), strings.NewReader("this and nothing else"), 201},
		"what it is not for":        {b.sign(t, grant.Write, bound), strings.NewReader("something else"), 400},
	} {
		if resp, body := b.do(t, "PUT", "/blobs", c.token, c.body); resp.StatusCode != c.status {
			t.Errorf("%s: status %d, %s", name, resp.StatusCode, body)
		}
	}
}

func TestGrantsAreAskedForBeforeAnything(t *testing.T) {
	b := setup(t, &blobtest.Memory{})
	d, other := b.put(t, []byte("mine")), b.put(t, []byte("theirs"))
	read, write := b.sign(t, grant.Read, d), b.sign(t, grant.Write, blob.Digest{})
	foreign, _ := grant.NewSigner(grant.Key{ID: "1", Secret: []byte(strings.Repeat("x", 32))}, nil)
	forged, _ := foreign.Sign(grant.Grant{Digest: d, Methods: grant.Read, Expires: time.Now().Add(time.Minute), Audience: "data"})
	past, _ := grant.NewSigner(key, func() time.Time { return time.Now().Add(-time.Hour) })
	expired, _ := past.Sign(grant.Grant{Digest: d, Methods: grant.Read, Expires: time.Now().Add(-time.Minute), Audience: "data"})
	for name, c := range map[string]struct {
		method, path, token string
		status              int
	}{
		"no grant":                   {"GET", "/blobs/" + d.String(), "", 401},
		"no grant, absent blob":      {"GET", "/blobs/" + blob.Sum([]byte("absent")).String(), "", 401},
		"forged":                     {"GET", "/blobs/" + d.String(), forged, 401},
		"expired":                    {"GET", "/blobs/" + d.String(), expired, 401},
		"another audience":           {"GET", "/blobs/" + d.String(), b.sign(t, grant.Read, d, func(g *grant.Grant) { g.Audience = "x" }), 401},
		"nonsense":                   {"GET", "/blobs/" + d.String(), "a.b", 401},
		"another blob's":             {"GET", "/blobs/" + other.String(), read, 403},
		"an upload's":                {"GET", "/blobs/" + d.String(), write, 403},
		"a write grant for the blob": {"HEAD", "/blobs/" + d.String(), b.sign(t, grant.Write, d), 403},
		"reading's for an upload":    {"PUT", "/blobs", read, 403},
		"none for an upload":         {"PUT", "/blobs", "", 401},
		"good":                       {"GET", "/blobs/" + d.String(), read, 200},
		"good, as a parameter":       {"GET", "/blobs/" + d.String() + "?grant=" + read, "", 200},
	} {
		resp, body := b.do(t, c.method, c.path, c.token, nil)
		if resp.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d: %s", name, resp.StatusCode, c.status, body)
		}
		if c.status == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
}

// endless counts what is read of it.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) { e.n += int64(len(p)); return len(p), nil }
func (e *endless) Close() error               { return nil }

func TestARefusedUploadIsNotRead(t *testing.T) {
	b := setup(t, &blobtest.Memory{})
	for name, token := range map[string]string{
		"anonymous": "", "read grant": b.sign(t, grant.Read, blob.Sum(nil)), "too small a grant": b.sign(t, grant.Write, blob.Digest{}, func(g *grant.Grant) { g.MaxSize = 10 }),
	} {
		body := &endless{}
		r := httptest.NewRequest("PUT", "/blobs", body)
		r.ContentLength = 1 << 30
		r.Header.Set(dataplane.GrantHeader, token)
		w := httptest.NewRecorder()
		if b.handler.ServeHTTP(w, r); w.Code < 400 || body.n != 0 || w.Header().Get("Connection") != "close" {
			t.Errorf("%s: status %d after %d bytes, Connection %q", name, w.Code, body.n, w.Header().Get("Connection"))
		}
	}
}

func TestBadPathsFindNothing(t *testing.T) {
	b := setup(t, openDir(t))
	d := b.put(t, []byte("x"))
	token := b.sign(t, grant.Read, d)
	for _, path := range []string{
		"/", "/blob", "/blobs/", "/blobs/..", "/blobs/../" + d.String(), "/blobs/./" + d.String(), "/blobs//" + d.String(),
		"/blobs/" + d.String() + "/", "/blobs/" + d.String()[:63], "/blobs/" + strings.ToUpper(d.String()), "/blobs/" + d.String() + "\x00",
		"/blobs/sha256:" + d.String(), "/blobs/../../etc/passwd", `/blobs/..\..\etc\passwd`, "/blobs/" + strings.Repeat("a", 100_000), "/x/blobs/" + d.String(),
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		r.Header.Set(dataplane.GrantHeader, token)
		w := httptest.NewRecorder()
		if b.handler.ServeHTTP(w, r); w.Code != 400 && w.Code != 404 {
			t.Errorf("%.80q: status %d", path, w.Code)
		}
	}
}

func TestLargeBlobsCanBeRedirected(t *testing.T) {
	b := setup(t, &network{}, func(o *dataplane.Options) { o.RedirectMin = 1000 })
	small, large := b.put(t, make([]byte, 999)), b.put(t, make([]byte, 1000))
	get := func(method string, d blob.Digest, header string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/blobs/"+d.String(), nil)
		r.Header.Set(dataplane.GrantHeader, b.sign(t, grant.Read, d))
		r.Header.Set("If-None-Match", header)
		w := httptest.NewRecorder()
		b.handler.ServeHTTP(w, r)
		return w
	}
	if w := get("GET", large, ""); w.Code != 307 || w.Header().Get("Location") != "https://s3.invalid/"+large.String()+"?ttl=5m0s" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("large: status %d, headers %v", w.Code, w.Header())
	}
	if w := get("GET", small, ""); w.Code != 200 || w.Body.Len() != 999 {
		t.Errorf("small: status %d", w.Code)
	}
	if w := get("HEAD", large, ""); w.Code != 200 || w.Header().Get("Content-Length") != "1000" {
		t.Errorf("HEAD: status %d, headers %v", w.Code, w.Header())
	}
	if w := get("GET", large, `"`+large.String()+`"`); w.Code != 304 {
		t.Errorf("If-None-Match: status %d", w.Code)
	}
	if w := get("GET", blob.Sum([]byte("absent")), ""); w.Code != 404 {
		t.Errorf("absent: status %d", w.Code)
	}
}

func TestStoreFailures(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		secret string // must not reach the client, but the log
	}{
		"full":     {fault.New(fault.Unavailable, "put blob: %w", syscall.ENOSPC).WithReason(blob.ReasonFull), 507, ""},
		"broken":   {fault.New(fault.Unavailable, "put blob: %w", syscall.EIO).WithReason(blob.ReasonIO), 503, ""},
		"internal": {errors.New("password=hunter2"), 500, "hunter2"},
	} {
		mem := &blobtest.Memory{Fail: func(string, blob.Digest) error { return c.err }}
		b := setup(t, mem)
		resp, body := b.do(t, "PUT", "/blobs", b.sign(t, grant.Write, blob.Digest{}), strings.NewReader("x"))
		if resp.StatusCode != c.status || c.secret != "" && strings.Contains(body, c.secret) {
			t.Errorf("%s: status %d, body %s", name, resp.StatusCode, body)
		}
		if !strings.Contains(b.log.String(), "data plane request failed") || !strings.Contains(b.log.String(), c.secret) {
			t.Errorf("%s: log %q", name, b.log)
		}
	}
}

func TestAClientThatLeavesStoresNothing(t *testing.T) {
	store := openDir(t)
	b := setup(t, store)
	for _, size := range []int{0, 100, 1 << 20} {
		pr, pw := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "PUT", b.server.URL+"/blobs", pr)
		req.ContentLength = 2 << 20
		req.Header.Set(dataplane.GrantHeader, b.sign(t, grant.Write, blob.Digest{}))
		go func() {
			_, _ = pw.Write(make([]byte, size))
			pw.CloseWithError(errors.New("gone"))
		}()
		if resp, err := b.server.Client().Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("%d bytes: status %d", size, resp.StatusCode)
		}
	}
	b.server.Close() // waits for the handlers
	n := 0
	if err := store.List(t.Context(), blob.Digest{}, func(blob.Stat) error { n++; return nil }); n != 0 || err != nil {
		t.Errorf("%d blobs, %v", n, err)
	}
	blobtest.NoLeftovers(t, store)
}

func TestAnIdleUploadIsEnded(t *testing.T) {
	b := setup(t, &blobtest.Memory{}, func(o *dataplane.Options) { o.IdleTimeout = 50 * time.Millisecond })
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() { _, _ = pw.Write([]byte("and then silence")) }()
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", b.server.URL+"/blobs", pr)
	req.ContentLength = 1000
	req.Header.Set(dataplane.GrantHeader, b.sign(t, grant.Write, blob.Digest{}))
	resp, err := b.server.Client().Do(req)
	if err != nil {
		return // the connection was closed under the writing client
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("status %d", resp.StatusCode)
	}
}
