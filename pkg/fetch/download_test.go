package fetch_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

func sha(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// download runs one Download against one scripted path.
func download(t *testing.T, req fetch.DownloadRequest, script ...http.HandlerFunc) (*sink, fetch.Result, *fetchtest.Upstream, error) {
	t.Helper()
	up := fetchtest.New(t)
	up.Script("/f", script...)
	r := newRemote(t, newClient(t), up.URL)
	req.Path = "f"
	if req.MaxSize == 0 {
		req.MaxSize = 64 << 20
	}
	s := &sink{}
	res, err := r.Download(t.Context(), req, s)
	return s, res, up, err
}

func TestDownload(t *testing.T) {
	data, other := noise(1, 300_000), noise(2, 300_000)
	known := fetch.DownloadRequest{Size: int64(len(data)), SHA256: sha(data)}
	unknown := fetch.DownloadRequest{Size: fetch.UnknownSize}

	t.Run("a whole file", func(t *testing.T) {
		sum512 := sha512.Sum512(data)
		req := known
		req.MD5, req.SHA512 = fmt.Sprintf("%X", md5.Sum(data)), fmt.Sprintf("%x", sum512)
		s, res, up, err := download(t, req, fetchtest.File(data))
		if err != nil || !bytes.Equal(s.Bytes(), data) {
			t.Fatal(err)
		}
		want := fetch.Result{
			Size: int64(len(data)), SHA256: sha(data), ETag: fetchtest.ETag(data), LastModified: fetchtest.Modified,
			ContentType: "application/octet-stream", FinalURL: up.URL + "/f", Attempts: 1,
		}
		if d := cmp.Diff(want, res); d != "" {
			t.Error(d)
		}
	})

	// Each row: what the upstream does, what is known of the file, and what must come of it.
	for _, tc := range []struct {
		name     string
		req      fetch.DownloadRequest
		script   []http.HandlerFunc
		asked    int
		resumes  int
		restarts int
		reason   string
	}{
		{"is resumed where it broke off", known, []http.HandlerFunc{fetchtest.CutFile(data, 100_000), fetchtest.CutFile(data, 150_000), fetchtest.File(data)}, 3, 2, 0, ""},
		{"is resumed by its ETag alone", unknown, []http.HandlerFunc{fetchtest.CutFile(data, 100_000), fetchtest.File(data)}, 2, 1, 0, ""},
		{"starts again when the ETag has changed", unknown, []http.HandlerFunc{fetchtest.CutFile(other, 100_000), fetchtest.File(data)}, 2, 0, 1, ""},
		{"starts again when a mirror ignores If-Range", known, []http.HandlerFunc{fetchtest.CutFile(other, 100_000), fetchtest.IgnoreIfRange(fetchtest.File(data))}, 3, 0, 1, ""},
		{"starts again when ranges are ignored", known, []http.HandlerFunc{fetchtest.CutFile(data, 100_000), fetchtest.IgnoreRange(fetchtest.File(data))}, 2, 0, 1, ""},
		{"starts again when the wrong range comes", known, []http.HandlerFunc{fetchtest.CutFile(data, 100_000), fetchtest.WrongRange(data, 100), fetchtest.File(data)}, 3, 0, 1, ""},
		{"starts again after 416", known, []http.HandlerFunc{fetchtest.CutFile(data, 100_000), fetchtest.Status(416), fetchtest.File(data)}, 3, 0, 1, ""},
		{"starts again without ETag and digest", unknown, []http.HandlerFunc{fetchtest.Truncate(data, 100_000, fetchtest.RightLength), fetchtest.File(data)}, 2, 0, 1, ""},
		{"is resumed without ETag if a digest is known", known, []http.HandlerFunc{fetchtest.Truncate(data, 100_000, fetchtest.RightLength), fetchtest.File(data)}, 2, 1, 0, ""},
		{"two versions glued together are noticed and fetched anew", known, []http.HandlerFunc{fetchtest.Truncate(other, 100_000, fetchtest.RightLength), fetchtest.File(data)}, 3, 1, 1, ""},
		{"cut chunked body", known, []http.HandlerFunc{fetchtest.Truncate(data, 100_000, fetchtest.ChunkedLength), fetchtest.File(data)}, 2, 1, 0, ""},
		{"cut without length, size known", known, []http.HandlerFunc{fetchtest.Truncate(data, 100_000, fetchtest.NoLength), fetchtest.File(data)}, 2, 1, 0, ""},
		{"reset, 500, then fine", known, []http.HandlerFunc{fetchtest.Reset(), fetchtest.Status(500), fetchtest.File(data)}, 3, 0, 0, ""},
		{"403 then 200", known, []http.HandlerFunc{fetchtest.Status(403), fetchtest.File(data)}, 2, 0, 0, ""},
		{"only the final chunk is missing", known, []http.HandlerFunc{fetchtest.Truncate(data, len(data), fetchtest.ChunkedLength)}, 1, 0, 0, ""},
		{"gzip encoding is decoded", known, []http.HandlerFunc{fetchtest.Gzip(data)}, 1, 0, 0, ""},

		{"cut for ever", known, []http.HandlerFunc{fetchtest.IgnoreRange(fetchtest.CutFile(data, 100_000))}, 4, 0, 3, fetch.ReasonTruncated},
		{"truncated with a length to match", known, []http.HandlerFunc{fetchtest.Truncate(data, 100_000, fetchtest.WrongLength)}, 1, 0, 0, fetch.ReasonSize},
		{"truncated without length, nothing known", unknown, []http.HandlerFunc{fetchtest.Truncate(data, 100_000, fetchtest.NoLength)}, 1, 0, 0, fetch.ReasonTruncated},
		{"wrong bytes of the right size", known, []http.HandlerFunc{fetchtest.File(other)}, 1, 0, 0, fetch.ReasonDigest},
		{"the right digest and the wrong size", fetch.DownloadRequest{Size: int64(len(data)) + 1, SHA256: sha(data)}, []http.HandlerFunc{fetchtest.File(data)}, 1, 0, 0, fetch.ReasonSize},
		{"longer than expected", known, []http.HandlerFunc{fetchtest.Endless(data)}, 1, 0, 0, fetch.ReasonTooLarge},
		{"endless, nothing known", unknown, []http.HandlerFunc{fetchtest.Endless(data)}, 1, 0, 0, fetch.ReasonTooLarge},
		{"404", known, []http.HandlerFunc{fetchtest.Status(404)}, 1, 0, 0, fetch.ReasonNotFound},
		{"a bomb", fetch.DownloadRequest{Size: fetch.UnknownSize}, []http.HandlerFunc{fetchtest.GzipBomb(1 << 30)}, 1, 0, 0, fetch.ReasonTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := tc.req
			if tc.name == "endless, nothing known" {
				req.MaxSize = 1 << 20
			}
			s, res, up, err := download(t, req, tc.script...)
			if n := up.Count("/f"); n != tc.asked {
				t.Errorf("asked %d times, want %d", n, tc.asked)
			}
			if tc.reason != "" {
				kind := fault.Upstream
				if tc.reason == fetch.ReasonNotFound {
					kind = fault.NotFound
				}
				wantReason(t, err, kind, tc.reason)
				if !strings.Contains(err.Error(), up.URL+"/f") {
					t.Errorf("the error names no URL: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.Bytes(), data) || res.Resumes != tc.resumes || s.restarts != tc.restarts || res.Attempts != tc.asked || res.Size != int64(len(data)) {
				t.Errorf("%d bytes, right %v, %d restarts, %+v", s.Len(), bytes.Equal(s.Bytes(), data), s.restarts, res)
			}
		})
	}

	t.Run("a resumed request is guarded by If-Range", func(t *testing.T) {
		_, _, up, err := download(t, known, fetchtest.CutFile(data, 100_000), fetchtest.File(data))
		if err != nil {
			t.Fatal(err)
		}
		h := up.Requests()[1].Header
		if h.Get("Range") != "bytes=100000-" || h.Get("If-Range") != fetchtest.ETag(data) {
			t.Errorf("%v", h)
		}
	})
	t.Run("a large file survives more breaks than there are attempts", func(t *testing.T) {
		big := noise(3, 10<<20)
		script := make([]http.HandlerFunc, 0, 10)
		for range 8 {
			script = append(script, fetchtest.CutFile(big, 1<<20+1000))
		}
		s, res, _, err := download(t, fetch.DownloadRequest{Size: int64(len(big)), SHA256: sha(big)}, append(script, fetchtest.File(big))...)
		if err != nil || !bytes.Equal(s.Bytes(), big) || res.Resumes != 8 || s.restarts != 0 {
			t.Errorf("%+v, %v", res, err)
		}
	})
	t.Run("an empty file", func(t *testing.T) {
		s, res, _, err := download(t, fetch.DownloadRequest{Size: 0, SHA256: sha(nil)}, fetchtest.File(nil))
		if err != nil || s.Len() != 0 || res.SHA256 != sha(nil) {
			t.Errorf("%+v, %v", res, err)
		}
		_, _, _, err = download(t, fetch.DownloadRequest{Size: 0}, fetchtest.File([]byte("x")))
		wantReason(t, err, fault.Upstream, fetch.ReasonSize)
	})
	t.Run("not modified leaves the sink alone", func(t *testing.T) {
		s, res, _, err := download(t, fetch.DownloadRequest{Size: fetch.UnknownSize, IfNoneMatch: fetchtest.ETag(data)}, fetchtest.File(data))
		if err != nil || !res.NotModified || s.Len() != 0 || s.restarts != 0 {
			t.Errorf("%+v, %v", res, err)
		}
	})
	t.Run("an error of the sink comes back as it is, at once", func(t *testing.T) {
		up := fetchtest.New(t)
		up.Script("/f", fetchtest.File(data))
		full := errors.New("disk full")
		_, err := newRemote(t, newClient(t), up.URL).Download(t.Context(), fetch.DownloadRequest{Path: "f", Size: -1, MaxSize: 1 << 20}, brokenSink{full})
		if err != full || up.Count("/f") != 1 {
			t.Errorf("%v after %d requests", err, up.Count("/f"))
		}
	})
	t.Run("a sink that hashes is believed", func(t *testing.T) {
		up := fetchtest.New(t)
		up.Script("/f", fetchtest.CutFile(other, 1000), fetchtest.IgnoreRange(fetchtest.File(data)))
		s := &hashingSink{h: sha256.New()}
		req := known
		req.Path = "f"
		res, err := newRemote(t, newClient(t), up.URL).Download(t.Context(), req, s)
		if err != nil || res.SHA256 != sha(data) {
			t.Errorf("%+v, %v", res, err)
		}
		req.SHA256 = sha(other)
		_, err = newRemote(t, newClient(t), up.URL).Download(t.Context(), req, s)
		wantReason(t, err, fault.Upstream, fetch.ReasonDigest)
	})
	t.Run("bad requests are refused", func(t *testing.T) {
		for _, req := range []fetch.DownloadRequest{{Size: -2, MaxSize: 1}, {Size: -1}, {Size: 10, MaxSize: 5}, {Size: 1, SHA256: "abc"}, {Size: 1, MD5: strings.Repeat("z", 32)}} {
			if _, _, _, err := download(t, req); !fault.Is(err, fault.Invalid) && req.Size != -1 {
				t.Errorf("%+v: %v", req, err)
			}
		}
	})
}

func TestDownloadTo(t *testing.T) {
	data := noise(1, 3000)
	up := fetchtest.New(t)
	up.Script("/f", fetchtest.CutFile(data, 100), fetchtest.File(data))
	up.Script("/bad", fetchtest.File(noise(2, 3000)))
	r := newRemote(t, newClient(t), up.URL)
	calls := 0
	res, err := r.DownloadTo(t.Context(), fetch.DownloadRequest{Path: "f", Size: 3000, SHA256: sha(data)}, func(rd io.Reader) error {
		calls++
		b, err := io.ReadAll(rd)
		if !bytes.Equal(b, data) {
			t.Errorf("%d bytes", len(b))
		}
		return err
	})
	if err != nil || calls != 1 || res.Size != 3000 {
		t.Errorf("%d calls, %+v, %v", calls, res, err)
	}
	_, err = r.DownloadTo(t.Context(), fetch.DownloadRequest{Path: "bad", Size: 3000, SHA256: sha(data)}, func(io.Reader) error {
		t.Error("called with unverified bytes")
		return nil
	})
	wantReason(t, err, fault.Upstream, fetch.ReasonDigest)
	stop := errors.New("stop")
	if _, err := r.DownloadTo(t.Context(), fetch.DownloadRequest{Path: "f", Size: 3000}, func(io.Reader) error { return stop }); err != stop {
		t.Errorf("got %v", err)
	}
}

type brokenSink struct{ err error }

func (s brokenSink) Write([]byte) (int, error) { return 0, s.err }
func (s brokenSink) Restart() error            { return nil }

type hashingSink struct{ h hash.Hash }

func (s *hashingSink) Write(p []byte) (int, error) { return s.h.Write(p) }
func (s *hashingSink) Restart() error              { s.h.Reset(); return nil }
func (s *hashingSink) SumSHA256() [32]byte         { return [32]byte(s.h.Sum(nil)) }

// Many tiny files at once: the rate that a first sync of a channel's shards needs.
func BenchmarkTinyFiles(b *testing.B) {
	up := fetchtest.New(b)
	data := noise(1, 1000)
	up.Fallback(fetchtest.File(data))
	c := newClient(b, func(c *fetch.Config) { c.PerHost = 32 })
	r := newRemote(b, c, up.URL)
	req := fetch.DownloadRequest{Path: "f", Size: 1000, SHA256: sha(data)}
	b.SetParallelism(16) // times GOMAXPROCS of two: 32
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.DownloadTo(context.Background(), req, func(io.Reader) error { return nil }); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "files/s")
}
