package fetchtest

import (
	"compress/gzip"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Body answers 200 with b and its length. It knows no ranges and sends no ETag; see File.
func Body(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		write(w, r, b)
	}
}

// Status answers with a status, a short body, and header fields given as name, value pairs.
func Status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		setAll(w, header)
		w.WriteHeader(code)
		if code != http.StatusNoContent && code != http.StatusNotModified {
			_, _ = io.WriteString(w, http.StatusText(code)+"\n")
		}
	}
}

// With adds header fields (name, value pairs) to another behaviour.
func With(h http.HandlerFunc, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		setAll(w, header)
		h(w, r)
	}
}

// Redirect sends the client elsewhere.
func Redirect(code int, location string) http.HandlerFunc {
	return Status(code, "Location", location)
}

// Length is what a truncated body says about its length.
type Length int

// The lengths a truncated body can announce.
const (
	RightLength   Length = iota // that of the whole: the client sees it break off
	WrongLength                 // that of the part: it looks complete
	NoLength                    // none, and the connection closes: it looks complete too
	ChunkedLength               // chunked, without the final chunk
)

// Truncate sends the first n bytes of b and cuts the connection.
func Truncate(b []byte, n int, announce Length) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch announce {
		case RightLength:
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		case WrongLength:
			w.Header().Set("Content-Length", strconv.Itoa(n))
			write(w, r, b[:n])
			return
		case NoLength:
			raw(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b[:n])
			return
		}
		write(w, r, b[:n])
		flush(w)
		panic(http.ErrAbortHandler)
	}
}

// Drip sends b with its length in pieces of n bytes, with a pause before each.
func Drip(b []byte, n int, pause time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.WriteHeader(http.StatusOK)
		flush(w)
		for rest := b; len(rest) > 0; {
			if !wait(r, pause) {
				return
			}
			k := min(n, len(rest))
			write(w, r, rest[:k])
			flush(w)
			rest = rest[k:]
		}
	}
}

// HeaderDrip sends a response header byte by byte, with a pause before each, and never finishes it.
func HeaderDrip(pause time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		gone := make(chan struct{})
		go func() { // the request's context does not end with a hijacked connection
			defer close(gone)
			_, _ = conn.Read(make([]byte, 1))
		}()
		defer func() { conn.Close(); <-gone }()
		head := "HTTP/1.1 200 OK\r\nX-Drip: "
		for i := 0; ; i++ {
			c := byte('x')
			if i < len(head) {
				c = head[i]
			}
			if _, err := conn.Write([]byte{c}); err != nil {
				return
			}
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-gone:
				t.Stop()
				return
			}
		}
	}
}

// Endless repeats b in chunks until the client leaves.
func Endless(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
			flush(w)
		}
	}
}

// Hang sends nothing until the client leaves.
func Hang() http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
}

// Slow waits before another behaviour.
func Slow(pause time.Duration, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if wait(r, pause) {
			h(w, r)
		}
	}
}

// Gate waits for a channel before another behaviour.
func Gate(open <-chan struct{}, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-open:
			h(w, r)
		case <-r.Context().Done():
		}
	}
}

// Reset cuts the connection with a RST instead of an answer.
func Reset() http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler) // HTTP/2 resets the stream
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = conn.Close()
	}
}

// GzipBomb sends size zero bytes under Content-Encoding: gzip, a thousandth of that on the wire.
func GzipBomb(size int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed)
		zeros := make([]byte, 1<<20)
		for left := size; left > 0 && r.Context().Err() == nil; left -= int64(len(zeros)) {
			if _, err := z.Write(zeros[:min(left, int64(len(zeros)))]); err != nil {
				return
			}
		}
		_ = z.Close()
	}
}

// Gzip sends b under Content-Encoding: gzip, whatever the client accepts.
func Gzip(b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(b)
		_ = z.Close()
	}
}

func setAll(w http.ResponseWriter, header []string) {
	for i := 0; i+1 < len(header); i += 2 {
		w.Header().Add(header[i], header[i+1])
	}
}

func write(w http.ResponseWriter, r *http.Request, b []byte) {
	if r.Method != http.MethodHead {
		_, _ = w.Write(b)
	}
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// raw takes the connection over, for answers that net/http would not send.
func raw(w http.ResponseWriter, head string, b []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	_, _ = conn.Write(append([]byte(head), b...))
}

// wait pauses and reports whether the client is still there.
func wait(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
		return false
	}
}
