package sample

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Upstream serves a channel on a loopback port, the way a static web server does: strong ETags, Last-Modified, ranges,
// HEAD and 304.
type Upstream struct {
	// Channel is what Build wrote. Its digests stay those of the index, whatever Corrupt does later.
	Channel *Channel
	// URL of the channel, without a slash at its end.
	URL string

	root   *os.Root
	server *http.Server
	done   chan struct{}
	stop   func() error

	requests    atomic.Int64
	notModified atomic.Int64

	mu      sync.Mutex
	byPath  map[string]int64
	corrupt map[string]bool
}

// Serve builds a channel in dir and serves it on a free loopback port until Close.
func Serve(dir string, opts Options) (*Upstream, error) {
	ch, err := Build(dir, opts)
	if err != nil {
		return nil, err
	}
	return ServeChannel(ch)
}

// ServeChannel serves a channel that was built before.
func ServeChannel(ch *Channel) (*Upstream, error) {
	root, err := os.OpenRoot(ch.Dir)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("no loopback port for the upstream: %w", err)
	}
	u := &Upstream{
		Channel: ch, URL: "http://" + l.Addr().String(), root: root, done: make(chan struct{}),
		byPath: map[string]int64{}, corrupt: map[string]bool{},
	}
	u.server = &http.Server{Handler: http.HandlerFunc(u.serve), ReadHeaderTimeout: 10 * time.Second}
	u.stop = sync.OnceValue(func() error {
		err := u.server.Close()
		<-u.done
		return errors.Join(err, root.Close())
	})
	go func() {
		defer close(u.done)
		_ = u.server.Serve(l) // ends with Close; there is nobody to tell about anything else
	}()
	return u, nil
}

// Close stops serving. It may be called twice.
func (u *Upstream) Close() error { return u.stop() }

// Requests is how many requests came in.
func (u *Upstream) Requests() int64 { return u.requests.Load() }

// NotModified is how many of them were answered 304.
func (u *Upstream) NotModified() int64 { return u.notModified.Load() }

// RequestsOf is how many requests came in for a path.
func (u *Upstream) RequestsOf(path string) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.byPath[path]
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	u.requests.Add(1)
	u.mu.Lock()
	u.byPath[path]++
	u.mu.Unlock()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	f, err := u.root.Open(filepath.FromSlash(path))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, st.ModTime().UnixNano(), st.Size()))
	w.Header().Set("Content-Type", contentType(path))
	http.ServeContent(&statusRecorder{w, u}, r, "", st.ModTime(), f)
}

func contentType(path string) string {
	if strings.HasSuffix(path, ".json") {
		return "application/json"
	}
	return "application/octet-stream"
}

// statusRecorder counts 304s on their way out.
type statusRecorder struct {
	http.ResponseWriter
	u *Upstream
}

func (s *statusRecorder) WriteHeader(status int) {
	if status == http.StatusNotModified {
		s.u.notModified.Add(1)
	}
	s.ResponseWriter.WriteHeader(status)
}

// ReadFrom keeps sendfile working through the recorder.
func (s *statusRecorder) ReadFrom(r io.Reader) (int64, error) { return io.Copy(s.ResponseWriter, r) }

// Corrupt spoils n packages that are not spoilt yet: some bytes in the middle are flipped, the size stays, and the
// index goes on naming the old digests. Which ones depends on the channel alone. It returns their paths, sorted.
func (u *Upstream) Corrupt(n int) ([]string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var sound []string
	for _, f := range u.Channel.Files {
		if !u.corrupt[f.Path] {
			sound = append(sound, f.Path)
		}
	}
	if n < 0 || n > len(sound) {
		return nil, fmt.Errorf("cannot spoil %d of %d packages", n, len(sound))
	}
	rng := rand.New(rand.NewPCG(23, uint64(len(sound))))
	rng.Shuffle(len(sound), func(i, j int) { sound[i], sound[j] = sound[j], sound[i] })
	chosen := sound[:n]
	slices.Sort(chosen)
	for _, path := range chosen {
		if err := u.flip(path); err != nil {
			return nil, fmt.Errorf("spoil %s: %w", path, err)
		}
		u.corrupt[path] = true
	}
	return chosen, nil
}

// flipped is how many bytes Corrupt inverts: enough that no checksum can miss it.
const flipped = 16

func (u *Upstream) flip(path string) error {
	f, err := u.root.OpenFile(filepath.FromSlash(path), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, min(flipped, st.Size()))
	at := (st.Size() - int64(len(b))) / 2
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	for i := range b {
		b[i] = ^b[i]
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Close())
}
