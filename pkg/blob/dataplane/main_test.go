package dataplane_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a data plane over a store, with a signer for its grants.
type bundle struct {
	store   blob.Store
	signer  *grant.Signer
	handler *dataplane.Handler
	server  *httptest.Server
	log     *bytes.Buffer
}

var key = grant.Key{ID: "1", Secret: []byte(strings.Repeat("k", 32))}

func setup(t *testing.T, store blob.Store, change ...func(*dataplane.Options)) *bundle {
	t.Helper()
	b := &bundle{store: store, log: &bytes.Buffer{}}
	var err error
	if b.signer, err = grant.NewSigner(key, nil); err != nil {
		t.Fatal(err)
	}
	v, err := grant.NewVerifier("data", nil, key)
	if err != nil {
		t.Fatal(err)
	}
	o := dataplane.Options{Store: store, Verifier: v, Log: slog.New(slog.NewTextHandler(b.log, nil))}
	for _, c := range change {
		c(&o)
	}
	if b.handler, err = dataplane.New(o); err != nil {
		t.Fatal(err)
	}
	b.server = httptest.NewServer(b.handler)
	t.Cleanup(b.server.Close)
	return b
}

func (b *bundle) sign(t *testing.T, m grant.Methods, d blob.Digest, change ...func(*grant.Grant)) string {
	t.Helper()
	g := grant.Grant{Digest: d, Methods: m, Expires: time.Now().Add(time.Minute), Audience: "data"}
	for _, c := range change {
		c(&g)
	}
	token, err := b.signer.Sign(g)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (b *bundle) put(t *testing.T, data []byte) blob.Digest {
	t.Helper()
	info, err := b.store.Put(t.Context(), bytes.NewReader(data), blob.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info.Digest
}

// do sends one request with headers given as "Name: value".
func (b *bundle) do(t *testing.T, method, path, token string, body io.Reader, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set(dataplane.GrantHeader, token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := b.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func openDir(t *testing.T) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(t.TempDir(), blob.DirOptions{Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// network is a store whose blobs are read by ranges, as those of S3 are; cut makes a read fail at that offset.
type network struct {
	blobtest.Memory
	cut int64
}

func (n *network) Open(ctx context.Context, d blob.Digest) (blob.Blob, error) {
	b, err := n.Memory.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	return blob.NewRanged(b.Size(), b.ModTime(), func(off, size int64) (io.ReadCloser, error) {
		if n.cut > 0 {
			size = max(0, min(size, n.cut-off))
		}
		return io.NopCloser(io.NewSectionReader(b, off, size)), nil
	}), nil
}

func (n *network) PresignGet(_ context.Context, d blob.Digest, ttl time.Duration, h blob.PresignHeaders) (*url.URL, error) {
	return &url.URL{Scheme: "https", Host: "s3.invalid", Path: "/" + d.String(), RawQuery: "ttl=" + ttl.String()}, nil
}
