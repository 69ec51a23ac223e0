package dataplane

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
)

// Meta is what the answer says about a blob beside its bytes.
type Meta struct {
	// Digest becomes the strong ETag.
	Digest blob.Digest
	// ETagSuffix tells representations apart that share their bytes, such as the revision of an index. Letters, digits, ".",
	// "_" and "-" only; others are dropped.
	ETagSuffix string
	// ContentType is application/octet-stream if empty. It is never guessed from the bytes.
	ContentType string
	// CacheControl and Disposition are headers that are left out if empty.
	CacheControl string
	Disposition  string
	// ModTime becomes Last-Modified; zero means the blob's.
	ModTime time.Time
}

// ETag returns the entity tag with its quotes.
func (m Meta) ETag() string {
	suffix := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return -1
	}, m.ETagSuffix)
	if suffix != "" {
		suffix = "-" + suffix
	}
	return `"` + m.Digest.String() + suffix + `"`
}

// Values that every answer shares; net/http only reads them.
var (
	nosniff    = []string{"nosniff"}
	byteRanges = []string{"bytes"}
)

func (m Meta) writeHeader(h http.Header) {
	// The names are in their canonical form already, so they need not be looked at again.
	h["Etag"] = []string{m.ETag()}
	h["X-Content-Type-Options"] = nosniff
	contentType := m.ContentType
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	h["Content-Type"] = []string{contentType}
	if m.CacheControl != "" {
		h["Cache-Control"] = []string{m.CacheControl}
	}
	if m.Disposition != "" {
		h.Set("Content-Disposition", m.Disposition)
	}
}

// Serve answers a GET or HEAD with the blob, which the caller closes: 200, 206, 304, 412 or 416 as RFC 9110 sections 13 and 14
// ask for. If the blob's bytes fail on the way it panics with http.ErrAbortHandler, which makes net/http cut the connection.
func Serve(w http.ResponseWriter, r *http.Request, b blob.Blob, m Meta) {
	m.writeHeader(w.Header())
	if m.ModTime.IsZero() {
		m.ModTime = b.ModTime()
	}
	if mem, ok := b.(blob.InMemory); ok && r.Method == http.MethodGet && unconditional(r.Header) {
		serveBytes(w, mem.Bytes(), m)
		return
	}
	r = withRange(r, b.Size())
	if _, ok := b.(syscall.Conn); ok {
		// The file itself, for sendfile. Should it be shorter than when it was opened, net/http notices that fewer bytes were
		// written than declared, and cuts the connection.
		http.ServeContent(w, r, "", m.ModTime, b)
		return
	}
	t := &tracker{ReadSeeker: b}
	http.ServeContent(w, r, "", m.ModTime, t)
	if t.err != nil {
		panic(http.ErrAbortHandler)
	}
}

// unconditional reports whether a request asks for the whole representation, whatever the client has.
func unconditional(h http.Header) bool {
	for _, name := range [...]string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if _, ok := h[name]; ok {
			return false
		}
	}
	return true
}

// serveBytes is what http.ServeContent comes to for most requests, without its questions.
func serveBytes(w http.ResponseWriter, data []byte, m Meta) {
	h := w.Header()
	h["Accept-Ranges"] = byteRanges
	h["Content-Length"] = []string{strconv.Itoa(len(data))}
	if !m.ModTime.IsZero() && m.ModTime.Unix() > 0 {
		h["Last-Modified"] = []string{m.ModTime.UTC().Format(http.TimeFormat)}
	}
	_, _ = w.Write(data) // a client that has gone needs no more
}

// tracker remembers that reading failed, which http.ServeContent keeps to itself.
type tracker struct {
	io.ReadSeeker
	err error
}

func (t *tracker) Read(p []byte) (int, error) {
	n, err := t.ReadSeeker.Read(p)
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}

// notModified answers 304 if the client has this very representation, and reports whether it did. It needs no blob.
func notModified(w http.ResponseWriter, r *http.Request, m Meta) bool {
	etag := m.ETag()
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == etag {
			m.writeHeader(w.Header())
			w.Header().Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}
