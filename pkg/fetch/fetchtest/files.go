package fetchtest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Modified is the Last-Modified of every File.
var Modified = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// ETag is the strong ETag under which File and Static serve b.
func ETag(b []byte) string { return fmt.Sprintf(`"%x"`, sha256.Sum256(b)) }

// File serves b as a good server does: length, strong ETag, Last-Modified, conditional requests, ranges, If-Range, HEAD.
func File(b []byte) http.HandlerFunc {
	etag := ETag(b)
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", etag)
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", Modified, bytes.NewReader(b))
	}
}

// CutFile is File, but each answer breaks off after n bytes of body; ranges work, so a client that resumes gets there.
func CutFile(b []byte, n int) http.HandlerFunc {
	whole := File(b)
	return func(w http.ResponseWriter, r *http.Request) {
		whole(&cutter{ResponseWriter: w, left: n}, r)
	}
}

// cutter aborts the connection once left bytes are written.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	flush(c.ResponseWriter)
	panic(http.ErrAbortHandler)
}

// IgnoreRange makes a behaviour answer every range with the whole.
func IgnoreRange(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
		h(w, r)
	}
}

// IgnoreIfRange makes a behaviour serve the range although the file has changed: a broken mirror.
func IgnoreIfRange(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.Header.Del("If-Range")
		h(w, r)
	}
}

// WrongRange answers a range request with 206 and bytes from another offset, and says so.
func WrongRange(b []byte, start int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", ETag(b))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, len(b)-1, len(b)))
		w.Header().Set("Content-Length", strconv.Itoa(len(b)-start))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(b[start:])
	}
}

// Static serves a map of paths (without the leading slash) to contents, each as File does; other paths are 404.
func Static(files map[string][]byte) http.Handler {
	handlers := make(map[string]http.HandlerFunc, len(files))
	for p, b := range files {
		handlers[strings.TrimPrefix(p, "/")] = File(b)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, ok := handlers[strings.TrimPrefix(r.URL.Path, "/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h(w, r)
	})
}
