package edge

import (
	"io"
	"net/http"
	"strings"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Downloads of packages are counted here, where it is known what was sent. A download counts once: when its first byte
// goes out, or when the client is sent elsewhere for it. So a download that breaks off counts, and what resumes it does
// not; HEAD, 304 and errors never do.

// DownloadCounter notes downloads; it must not wait for anything.
type DownloadCounter interface {
	// Count notes one download of a path of a channel, given by its UUID.
	Count(channel, path string)
}

// isPackage reports whether a path is one of a package, as opposed to an index file.
func isPackage(path string) bool {
	return strings.HasSuffix(path, ".conda") || strings.HasSuffix(path, ".tar.bz2")
}

// observe returns a writer for an answer, and what is to be called when that has ended, however it did.
func (f *Files) observe(w http.ResponseWriter, r *http.Request, res *channelsv1.ResolveResponse, path string) (http.ResponseWriter, func()) {
	if f.deps.Downloads == nil || r.Method != http.MethodGet || res.GetIndex() || !isPackage(path) {
		return w, func() {}
	}
	dw := &downloadWriter{ResponseWriter: w}
	return dw, func() {
		if dw.downloaded(r) {
			f.deps.Downloads.Count(res.GetChannel().GetId(), path)
		}
	}
}

// downloadWriter notes what an answer was and whether it had bytes.
type downloadWriter struct {
	http.ResponseWriter
	status int
	sent   bool
}

func (w *downloadWriter) downloaded(r *http.Request) bool {
	switch w.status {
	case http.StatusOK:
		return w.sent
	case http.StatusPartialContent:
		if ranges := w.Header().Get("Content-Range"); ranges != "" {
			return w.sent && strings.HasPrefix(ranges, "bytes 0-")
		}
		return w.sent && fromStart(r) // several ranges
	case http.StatusTemporaryRedirect:
		return r.Header.Get("Range") == "" || fromStart(r)
	}
	return false
}

// fromStart reports whether one of the ranges that a request asks for begins with the first byte.
func fromStart(r *http.Request) bool {
	ranges, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	for part := range strings.SplitSeq(ranges, ",") {
		if first, _, _ := strings.Cut(part, "-"); ok && strings.Trim(first, " \t") != "" && strings.Trim(first, "0 \t") == "" {
			return true
		}
	}
	return false
}

// WriteHeader implements http.ResponseWriter.
func (w *downloadWriter) WriteHeader(code int) {
	if w.status == 0 && code >= 200 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *downloadWriter) Write(p []byte) (int, error) {
	w.implicit()
	n, err := w.ResponseWriter.Write(p)
	w.sent = w.sent || n > 0
	return n, err
}

// ReadFrom keeps the way on which the kernel sends files by itself.
func (w *downloadWriter) ReadFrom(src io.Reader) (n int64, err error) {
	w.implicit()
	if rf, ok := w.ResponseWriter.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	}
	w.sent = w.sent || n > 0
	return n, err
}

// Flush lets what is there out.
func (w *downloadWriter) Flush() {
	if f, ok := w.ResponseWriter.(http.Flusher); ok {
		w.implicit()
		f.Flush()
	}
}

// Unwrap serves http.ResponseController.
func (w *downloadWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *downloadWriter) implicit() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
}
