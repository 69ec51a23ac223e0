package edge

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// onlyReader hides what a reader could do beside reading and seeking, as a tracker of errors does.
type onlyReader struct{ io.ReadSeeker }

func TestRecorderHandsOutFilesAndMemoryAlike(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 1 << 10, 128<<10 + 1, 1 << 20} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		for name, open := range map[string]func() (io.ReadSeeker, error){
			"file":   func() (io.ReadSeeker, error) { return os.Open(path) },
			"memory": func() (io.ReadSeeker, error) { return onlyReader{bytes.NewReader(data)}, nil },
		} {
			status := make(chan int, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				content, err := open()
				if err != nil {
					t.Error(err)
					return
				}
				if c, ok := content.(io.Closer); ok {
					defer c.Close()
				}
				rec := &recorder{ResponseWriter: w}
				w.Header().Set("Content-Type", "application/octet-stream")
				http.ServeContent(rec, r, "", time.Time{}, content)
				status <- rec.status()
			}))
			for _, rng := range []string{"", "bytes=0-0"} {
				if rng != "" && size == 0 {
					continue
				}
				req, err := http.NewRequest(http.MethodGet, srv.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				want, code := data, http.StatusOK
				if rng != "" {
					req.Header.Set("Range", rng)
					want, code = data[:1], http.StatusPartialContent
				}
				resp, err := srv.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != code || <-status != code || resp.ContentLength != int64(len(want)) || !bytes.Equal(got, want) {
					t.Errorf("%s of %d bytes, range %q: %s, %d bytes, declared %d", name, size, rng, resp.Status, len(got), resp.ContentLength)
				}
			}
			srv.Close()
		}
	}
}

func TestRouterAnswersMissesOnce(t *testing.T) {
	var missed int
	d := &Dialect{
		Name: "a", Prefixes: []string{"/a"},
		Routes: []Route{
			{Method: "GET", Pattern: "/a/{name}", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.PathValue("name")) })},
			{Method: "GET", Pattern: "/", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "root") })},
		},
		NoRoute: func(w http.ResponseWriter, _ *http.Request, status int) { missed++; w.WriteHeader(status) },
	}
	rt, err := newRouter([]*Dialect{d})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		status       int
		body, allow  string
		pattern      string
		missed       int
	}{
		{"GET", "/a/x", 200, "x", "", "GET /a/{name}", 0},
		{"HEAD", "/a/x", 200, "x", "", "GET /a/{name}", 0},
		{"GET", "/", 200, "root", "", "GET /{$}", 0},
		{"POST", "/a/x", 405, "", "GET", "", 1},
		{"GET", "/b", 404, "", "", "", 1},
		{"PUT", "/b/c", 404, "", "", "", 1},
	} {
		missed = 0
		r, w := httptest.NewRequest(c.method, c.path, nil), httptest.NewRecorder()
		rt.route(w, r)
		if w.Code != c.status || w.Body.String() != c.body || w.Header().Get("Allow") != c.allow || r.Pattern != c.pattern || missed != c.missed {
			t.Errorf("%s %s: %d %q, Allow %q, pattern %q, %d misses", c.method, c.path, w.Code, w.Body, w.Header().Get("Allow"), r.Pattern, missed)
		}
	}
}
