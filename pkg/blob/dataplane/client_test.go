package dataplane_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// clients are the same client over HTTP and in the handler's own process.
func clients(t *testing.T, b *bundle) map[string]*dataplane.Client {
	t.Helper()
	remote, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: b.server.URL + "/", HTTP: b.server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	local, err := dataplane.NewClient(dataplane.ClientOptions{Local: b.handler})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*dataplane.Client{"remote": remote, "local": local}
}

func TestClient(t *testing.T) {
	b := setup(t, openDir(t), func(o *dataplane.Options) { o.MaxUpload = 20 << 20 })
	for name, c := range clients(t, b) {
		t.Run(name, func(t *testing.T) {
			upload := b.sign(t, grant.Write, blob.Digest{})
			for i, size := range []int{0, 10, 9 << 20} {
				data := blobtest.Bytes(byte(i), size)
				sum, m := blob.Sum(data), blob.MD5(md5.Sum(data))
				want := blob.Info{Digest: sum, MD5: m, Size: int64(size), Created: true}
				for what, o := range map[string]blob.PutOptions{
					"asked": {MD5: true}, "expected": {Expect: &sum, ExpectMD5: &m, ExpectSize: &want.Size},
				} {
					info, err := c.Put(t.Context(), upload, bytes.NewReader(data), o)
					if diff := cmp.Diff(want, info); err != nil || diff != "" {
						t.Fatalf("%s: error %v (-want +got)\n%s", what, err, diff)
					}
				}
				f, err := c.Open(t.Context(), b.sign(t, grant.Read, sum), sum)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) || f.Size() != int64(size) {
					t.Errorf("read %d of %d bytes, %v", len(got), size, err)
				}
			}
		})
		t.Run(name+" gets the faults that the handler has", func(t *testing.T) {
			d, wrong, broken := b.put(t, []byte("x")), blob.Sum(nil), errors.New("the disk of the uploader")
			put := func(token string, r io.Reader, o blob.PutOptions) error {
				_, err := c.Put(t.Context(), token, r, o)
				return err
			}
			upload := b.sign(t, grant.Write, blob.Digest{})
			var me *blob.MismatchError
			if err := put(upload, bytes.NewReader([]byte("x")), blob.PutOptions{Expect: &wrong}); !errors.As(err, &me) || me.Field != "sha256" || me.Got != d.String() {
				t.Errorf("mismatch: %v", err)
			}
			if err := put(upload, bytes.NewReader(make([]byte, 21<<20)), blob.PutOptions{}); !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Unavailable) {
				t.Errorf("too large: %v", err) // over HTTP the answer may be lost under the body that is still being sent
			}
			if err := put("", bytes.NewReader(nil), blob.PutOptions{}); !fault.Is(err, fault.Unauthenticated) {
				t.Errorf("no grant: %v", err)
			}
			if err := put(b.sign(t, grant.Read, d), bytes.NewReader(nil), blob.PutOptions{}); !fault.Is(err, fault.Denied) {
				t.Errorf("wrong grant: %v", err)
			}
			if err := put(upload, iotest.ErrReader(broken), blob.PutOptions{}); !errors.Is(err, broken) {
				t.Errorf("broken body: %v", err)
			}
			if _, err := c.Open(t.Context(), b.sign(t, grant.Read, wrong), wrong); err == nil {
				// stored by the other client's turn
				_ = b.store.Delete(t.Context(), wrong)
			}
			if _, err := c.Open(t.Context(), b.sign(t, grant.Read, wrong), wrong); !fault.Is(err, fault.NotFound) {
				t.Errorf("absent: %v", err)
			}
			if _, err := c.Open(t.Context(), b.sign(t, grant.Read, d), wrong); !fault.Is(err, fault.Denied) {
				t.Errorf("another's grant: %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := c.Open(ctx, b.sign(t, grant.Read, d), d); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

func TestProxy(t *testing.T) {
	b := setup(t, openDir(t))
	data := blobtest.Bytes(1, 5000)
	d := b.put(t, data)
	meta := dataplane.Meta{ContentType: "application/zstd", ETagSuffix: "r7"}
	etag := `"` + d.String() + `-r7"`
	for name, c := range clients(t, b) {
		for _, tc := range []struct {
			method, token string
			header        [2]string
			status        int
			body          []byte
		}{
			{"GET", b.sign(t, grant.Read, d), [2]string{}, 200, data},
			{"HEAD", b.sign(t, grant.Read, d), [2]string{}, 200, nil},
			{"GET", b.sign(t, grant.Read, d), [2]string{"Range", "bytes=-10"}, 206, data[4990:]},
			{"GET", b.sign(t, grant.Read, d), [2]string{"If-None-Match", `"` + d.String() + `"`}, 200, data}, // the same bytes of another revision
			{"GET", "no call is made", [2]string{"If-None-Match", etag}, 304, nil},
		} {
			w, r := httptest.NewRecorder(), httptest.NewRequest(tc.method, "/", nil)
			if tc.header[0] != "" {
				r.Header.Set(tc.header[0], tc.header[1])
			}
			if err := c.Proxy(w, r, tc.token, d, meta); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if w.Code != tc.status || !bytes.Equal(w.Body.Bytes(), tc.body) || w.Header().Get("ETag") != etag {
				t.Errorf("%s %s %v: status %d with %d bytes, ETag %s", name, tc.method, tc.header, w.Code, w.Body.Len(), w.Header().Get("ETag"))
			}
		}
		w := httptest.NewRecorder()
		if err := c.Proxy(w, httptest.NewRequest("GET", "/", nil), "", d, meta); !fault.Is(err, fault.Unauthenticated) || w.Body.Len() != 0 {
			t.Errorf("%s without a grant: %v", name, err)
		}
	}
}

func TestAHotClientAsksOnce(t *testing.T) {
	mem, opens := &blobtest.Memory{}, atomic.Int64{}
	mem.Fail = func(op string, _ blob.Digest) error {
		if op == "open" {
			opens.Add(1)
		}
		return nil
	}
	b := setup(t, mem)
	d := b.put(t, []byte("hot"))
	c, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: b.server.URL, HTTP: b.server.Client(), Hot: blob.NewHot(1<<20, 0)})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w := httptest.NewRecorder()
		if err := c.Proxy(w, httptest.NewRequest("GET", "/", nil), b.sign(t, grant.Read, d), d, dataplane.Meta{}); err != nil || w.Body.String() != "hot" {
			t.Fatalf("%q, %v", w.Body, err)
		}
	}
	if n := opens.Load(); n != 2 { // HEAD and GET, once
		t.Errorf("%d opens, want 2", n)
	}
}

func TestTheGrantStaysHereWhenRedirected(t *testing.T) {
	var seen atomic.Value
	s3 := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Clone())
		http.ServeContent(w, r, "", time.Unix(1, 0), bytes.NewReader([]byte("from the bucket")))
	}))
	defer s3.Close()
	plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", "15")
			return
		}
		http.Redirect(w, r, s3.URL, http.StatusTemporaryRedirect)
	}))
	defer plane.Close()
	c, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: plane.URL, HTTP: plane.Client()})
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.Open(t.Context(), "secret", blob.Sum([]byte("from the bucket")))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || string(got) != "from the bucket" {
		t.Errorf("%q, %v", got, err)
	}
	if h := seen.Load().(http.Header); h.Get(dataplane.GrantHeader) != "" || h.Get("Range") == "" {
		t.Errorf("the bucket saw %v", h)
	}
}

func TestClientAddresses(t *testing.T) {
	for _, base := range []string{"", "storage:9092", "ftp://storage", "http://", "file:///etc"} {
		if _, err := dataplane.NewClient(dataplane.ClientOptions{BaseURL: base}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: error %v", base, err)
		}
	}
}
