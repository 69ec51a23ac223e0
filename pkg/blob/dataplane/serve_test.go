package dataplane_test

import (
	"bytes"
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
)

// TestServing runs the same requests against a directory (sendfile), memory and ranged reads: no client sees a difference.
func TestServing(t *testing.T) {
	data := blobtest.Bytes(1, 3000)
	etag := `"` + blob.Sum(data).String() + `"`
	future, past := time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), time.Unix(0, 0).UTC().Format(http.TimeFormat)
	many := "bytes=0-0" + strings.Repeat(",0-0", 16)
	for name, store := range map[string]blob.Store{"directory": openDir(t), "memory": &blobtest.Memory{}, "ranged": &network{}} {
		b := setup(t, store)
		d := b.put(t, data)
		token := b.sign(t, grant.Read, d)
		for _, c := range []struct {
			name    string
			method  string
			headers []string
			status  int
			body    []byte // nil: not compared
			ranges  string // Content-Range
		}{
			{"whole", "GET", nil, 200, data, ""},
			{"head", "HEAD", nil, 200, []byte{}, ""},
			{"first byte", "GET", []string{"Range: bytes=0-0"}, 206, data[:1], "bytes 0-0/3000"},
			{"middle", "GET", []string{"Range: bytes=1000-1999"}, 206, data[1000:2000], "bytes 1000-1999/3000"},
			{"open end", "GET", []string{"Range: bytes=2990-"}, 206, data[2990:], "bytes 2990-2999/3000"},
			{"beyond the end", "GET", []string{"Range: bytes=2990-99999"}, 206, data[2990:], "bytes 2990-2999/3000"},
			{"suffix", "GET", []string{"Range: bytes=-7"}, 206, data[2993:], "bytes 2993-2999/3000"},
			{"suffix longer than the file", "GET", []string{"Range: bytes=-99999"}, 206, data, "bytes 0-2999/3000"},
			{"suffix of nothing", "GET", []string{"Range: bytes=-0"}, 416, nil, "bytes */3000"},
			{"after the end", "GET", []string{"Range: bytes=3000-"}, 416, nil, "bytes */3000"},
			{"backwards", "GET", []string{"Range: bytes=5-1"}, 200, data, ""},
			{"overflow", "GET", []string{"Range: bytes=99999999999999999999-"}, 416, nil, "bytes */3000"},
			{"an overflowing end", "GET", []string{"Range: bytes=2999-99999999999999999999"}, 206, data[2999:], "bytes 2999-2999/3000"},
			{"an overflowing suffix", "GET", []string{"Range: bytes=-99999999999999999999"}, 206, data, "bytes 0-2999/3000"},
			{"the largest suffix", "GET", []string{"Range: bytes=-9223372036854775807"}, 206, data, "bytes 0-2999/3000"},
			{"the largest end", "GET", []string{"Range: bytes=0-9223372036854775807"}, 206, data, "bytes 0-2999/3000"},
			{"negative", "GET", []string{"Range: bytes=--5"}, 200, data, ""},
			{"signs and spaces", "GET", []string{"Range: bytes=+1 - 2"}, 200, data, ""},
			{"spaces around", "GET", []string{"Range: Bytes= 0-1 ,"}, 206, data[:2], "bytes 0-1/3000"},
			{"no range", "GET", []string{"Range: bytes=-"}, 200, data, ""},
			{"no set", "GET", []string{"Range: bytes"}, 200, data, ""},
			{"another unit", "GET", []string{"Range: pages=1-2"}, 200, data, ""},
			{"two headers", "GET", []string{"Range: bytes=0-1", "Range: bytes=5-6"}, 200, data, ""},
			{"two ranges", "GET", []string{"Range: bytes=0-1,5-6"}, 206, nil, ""},
			{"many ranges", "GET", []string{"Range: " + many}, 200, data, ""},
			{"many empty ranges", "GET", []string{"Range: bytes=" + strings.Repeat(",", 900)}, 200, data, ""},
			{"a huge range header", "GET", []string{"Range: bytes=" + strings.Repeat("0", 100_000) + "-1"}, 200, data, ""},
			{"head of a range", "HEAD", []string{"Range: bytes=0-9"}, 206, []byte{}, "bytes 0-9/3000"},
			{"if-range matches", "GET", []string{"Range: bytes=0-1", "If-Range: " + etag}, 206, data[:2], "bytes 0-1/3000"},
			{"if-range of another", "GET", []string{"Range: bytes=0-1", `If-Range: "other"`}, 200, data, ""},
			{"if-range weak", "GET", []string{"Range: bytes=0-1", "If-Range: W/" + etag}, 200, data, ""},
			{"if-none-match", "GET", []string{"If-None-Match: " + etag}, 304, []byte{}, ""},
			{"if-none-match weak", "GET", []string{"If-None-Match: W/" + etag}, 304, []byte{}, ""},
			{"if-none-match list", "HEAD", []string{`If-None-Match: "a", ` + etag}, 304, []byte{}, ""},
			{"if-none-match star", "GET", []string{"If-None-Match: *"}, 304, []byte{}, ""},
			{"if-none-match other", "GET", []string{`If-None-Match: "a"`, "If-Modified-Since: " + future}, 200, data, ""},
			{"if-modified-since", "GET", []string{"If-Modified-Since: " + future}, 304, []byte{}, ""},
			{"if-modified-since long ago", "GET", []string{"If-Modified-Since: " + past}, 200, data, ""},
			{"if-match", "GET", []string{"If-Match: " + etag}, 200, data, ""},
			{"if-match of another", "GET", []string{`If-Match: "a"`}, 412, []byte{}, ""},
		} {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				resp, body := b.do(t, c.method, "/blobs/"+d.String(), token, nil, c.headers...)
				if resp.StatusCode != c.status || c.body != nil && body != string(c.body) {
					t.Fatalf("status %d with %d bytes, want %d with %d", resp.StatusCode, len(body), c.status, len(c.body))
				}
				if got := resp.Header.Get("Content-Range"); c.ranges != "" && got != c.ranges {
					t.Errorf("Content-Range %q, want %q", got, c.ranges)
				}
				if got := resp.Header.Get("ETag"); c.status < 400 && got != etag {
					t.Errorf("ETag %s, want %s", got, etag)
				}
				if c.method == "HEAD" && c.status == 200 && resp.ContentLength != 3000 {
					t.Errorf("Content-Length %d, want 3000", resp.ContentLength)
				}
				if c.status == 206 && strings.Contains(c.name, "two") && !strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/byteranges") {
					t.Errorf("Content-Type %s", resp.Header.Get("Content-Type"))
				}
			})
		}
	}
}

func TestServeAnEmptyBlob(t *testing.T) {
	b := setup(t, openDir(t))
	d := b.put(t, nil)
	for _, r := range []string{"bytes=0-", "bytes=-5", ""} {
		if resp, body := b.do(t, "GET", "/blobs/"+d.String(), b.sign(t, grant.Read, d), nil, "Range: "+r); resp.StatusCode != 200 && resp.StatusCode != 206 || body != "" {
			t.Errorf("range %q: status %d, body %q", r, resp.StatusCode, body)
		}
	}
}

func TestServeSetsWhatMetaSays(t *testing.T) {
	mod := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w := httptest.NewRecorder()
	dataplane.Serve(w, httptest.NewRequest("GET", "/", nil), blob.FromBytes([]byte("{}"), time.Time{}), dataplane.Meta{
		Digest: blob.Sum([]byte("{}")), ETagSuffix: "rev-7\"\r\nX-Evil: 1", ContentType: "application/json",
		CacheControl: "max-age=30", Disposition: `attachment; filename="repodata.json"`, ModTime: mod,
	})
	for name, want := range map[string]string{
		"ETag":         `"` + blob.Sum([]byte("{}")).String() + `-rev-7X-Evil1"`,
		"Content-Type": "application/json", "Cache-Control": "max-age=30", "Content-Disposition": `attachment; filename="repodata.json"`,
		"Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT", "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes", "Content-Length": "2",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// readFromRecorder sees what net/http would be given to send.
type readFromRecorder struct {
	*httptest.ResponseRecorder
	sawFile bool
}

func (w *readFromRecorder) ReadFrom(r io.Reader) (int64, error) {
	if lr, ok := r.(*io.LimitedReader); ok {
		_, w.sawFile = lr.R.(syscall.Conn) // what net's sendfile looks for
	}
	return io.Copy(w.ResponseRecorder, r)
}

func TestServeKeepsSendfile(t *testing.T) {
	b := setup(t, openDir(t))
	d := b.put(t, blobtest.Bytes(2, 100_000))
	for _, ranges := range []string{"", "bytes=5-50000"} {
		r := httptest.NewRequest("GET", "/blobs/"+d.String(), nil)
		r.Header.Set(dataplane.GrantHeader, b.sign(t, grant.Read, d))
		r.Header.Set("Range", ranges)
		w := &readFromRecorder{ResponseRecorder: httptest.NewRecorder()}
		if b.handler.ServeHTTP(w, r); !w.sawFile {
			t.Errorf("range %q: the file is hidden from net/http (status %d)", ranges, w.Code)
		}
	}
}

func TestABlobThatBreaksOffCutsTheConnection(t *testing.T) {
	for _, size := range []int{3000, 3 << 20} {
		b := setup(t, &network{cut: int64(size) - 1000})
		d := b.put(t, blobtest.Bytes(3, size))
		req, _ := http.NewRequestWithContext(t.Context(), "GET", b.server.URL+"/blobs/"+d.String(), nil)
		req.Header.Set(dataplane.GrantHeader, b.sign(t, grant.Read, d))
		resp, err := b.server.Client().Do(req)
		if err != nil {
			continue // cut before the header left: as good
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			t.Errorf("%d of %d bytes looked whole", len(body), size)
		}
	}
}

func TestServeFromDifferentStoresIsTheSameBytes(t *testing.T) {
	data := blobtest.Bytes(4, 9<<20)
	for name, store := range map[string]blob.Store{"directory": openDir(t), "ranged": &network{}} {
		b := setup(t, store)
		d := b.put(t, data)
		if _, body := b.do(t, "GET", "/blobs/"+d.String(), b.sign(t, grant.Read, d), nil); !bytes.Equal([]byte(body), data) {
			t.Errorf("%s: %d bytes differ", name, len(body))
		}
	}
}

func BenchmarkServeSmallFromMemory(b *testing.B) {
	data := blobtest.Bytes(1, 2048)
	m := dataplane.Meta{Digest: blob.Sum(data)}
	r := httptest.NewRequest("GET", "/", nil)
	for b.Loop() {
		w := &discard{h: http.Header{}}
		dataplane.Serve(w, r, blob.FromBytes(data, time.Unix(1, 0)), m)
		if w.n != len(data) {
			b.Fatal(fmt.Errorf("%d bytes", w.n))
		}
	}
}

type discard struct {
	h http.Header
	n int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.n += len(p); return len(p), nil }
