package sample

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// largeDir is the one subdir of a Large that has packages, where the index is longest.
const largeDir = "linux-64"

// LargePerName is how many files of a Large share a package name, about as many as in the largest public channels.
const LargePerName = 16

// Large is an upstream with so many packages that nobody wants them on a disk: each is made when it is asked for, from
// the seed and its number, and its bytes are those that the index promises. Its records look like those of real
// channels: some six hundred bytes, with dependencies.
//
// It answers like a static server, with strong ETags, until Forget makes it one that knows no conditional requests.
type Large struct {
	// URL of the channel, without a slash at its end.
	URL string

	seed   uint64
	server *http.Server
	done   chan struct{}

	mu      sync.Mutex
	facts   []largeFacts
	order   []int // numbers of the listed packages by file name
	byName  map[string]int
	index   []byte // repodata.json.zst of largeDir
	level   zstd.EncoderLevel
	stamp   int
	forgets bool

	requests    atomic.Int64
	notModified atomic.Int64
	first, last atomic.Int64 // UnixNano of the first request for a package and the end of the last answer
}

type largeFacts struct {
	name, filename, version string
	size                    int64
	sha256                  [32]byte
	md5                     [16]byte
}

// ServeLarge makes n packages' records and serves them on a free loopback port until Close.
func ServeLarge(n int, seed uint64) (*Large, error) {
	l := &Large{seed: seed, done: make(chan struct{}), byName: map[string]int{}, level: zstd.SpeedDefault}
	if err := l.Add(n); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("no loopback port for the upstream: %w", err)
	}
	l.URL = "http://" + ln.Addr().String()
	l.server = &http.Server{Handler: http.HandlerFunc(l.serve), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(l.done)
		_ = l.server.Serve(ln) // ends with Close; there is nobody to tell about anything else
	}()
	return l, nil
}

// Close stops serving.
func (l *Large) Close() error {
	err := l.server.Close()
	<-l.done
	return err
}

// Len is how many packages are listed.
func (l *Large) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.facts)
}

// Filename returns the file name of the i-th package.
func (l *Large) Filename(i int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.facts[i].filename
}

// Digest returns the SHA-256 of the i-th package as lower-case hex.
func (l *Large) Digest(i int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return hex.EncodeToString(l.facts[i].sha256[:])
}

// Requests is how many requests for packages came in, NotModified how many requests were answered 304.
func (l *Large) Requests() int64 { return l.requests.Load() }

// NotModified is how many requests were answered 304.
func (l *Large) NotModified() int64 { return l.notModified.Load() }

// Downloading returns how long it was from the first request for a package to the end of the last answer, since this
// was asked last.
func (l *Large) Downloading() time.Duration {
	first, last := l.first.Swap(0), l.last.Swap(0)
	if first == 0 {
		return 0
	}
	return time.Duration(last - first)
}

// Add lists n further packages: new names if there are none yet, else new versions of names spread over all.
func (l *Large) Add(n int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := len(l.facts)
	facts := make([]largeFacts, n)
	names := (from + LargePerName - 1) / LargePerName
	var g errgroup.Group
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		g.Go(func() error {
			for k := w; k < n; k += workers {
				i := from + k
				name, version := i/LargePerName, fmt.Sprintf("1.%d.0", i%LargePerName)
				if names > 0 {
					name, version = k*names/n, fmt.Sprintf("2.0.%d", i)
				}
				f := largeFacts{name: largeName(name), version: version}
				f.filename = f.name + "-" + version + "-" + largeBuild(i) + ".conda"
				data, err := l.make(i, f)
				if err != nil {
					return err
				}
				f.size, f.sha256, f.md5 = int64(len(data)), sha256.Sum256(data), md5.Sum(data)
				facts[k] = f
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	l.facts = append(l.facts, facts...)
	for i := from; i < len(l.facts); i++ {
		l.byName[l.facts[i].filename] = i
		l.order = append(l.order, i)
	}
	slices.SortFunc(l.order, func(a, b int) int { return strings.Compare(l.facts[a].filename, l.facts[b].filename) })
	return l.write()
}

// Repack writes the index anew with the same records in other bytes, as a server does that builds its index every hour.
func (l *Large) Repack() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = 3 - l.level // SpeedFastest and SpeedDefault in turn
	return l.write()
}

// Forget makes the upstream answer conditional requests with 200, or heed them again.
func (l *Large) Forget(yes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgets = yes
}

// write makes the index. The caller holds the lock.
func (l *Large) write() error {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(l.level), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	w := repodata.NewWriter(z, repodata.Info{Subdir: largeDir})
	var record []byte
	for _, i := range l.order {
		record = l.facts[i].record(record[:0], i)
		if err := w.Record(repodata.Conda, l.facts[i].filename, record); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	l.index = bytes.Clone(out.Bytes())
	l.stamp++
	return nil
}

func largeName(n int) string { return fmt.Sprintf("package-%06d", n) }

func largeBuild(i int) string { return fmt.Sprintf("py312h%07x_0", i) }

// largeIndex is the info/index.json of a package without its closing brace.
func (f largeFacts) index(dst []byte, i int) []byte {
	return fmt.Appendf(dst, `{"build":%q,"build_number":0,"constrains":["%s-other >=1.0","yet-another <3"],`+
		`"depends":["__glibc >=2.17,<3.0.a0","libgcc >=13","libstdcxx >=13","%s >=1.%d,<3","numpy >=1.19,<3","python >=3.12,<3.13.0a0","python_abi 3.12.* *_cp312"],`+
		`"license":"BSD-3-Clause","license_family":"BSD"`, largeBuild(i), f.name, largeName(i%977), i%7)
}

func (f largeFacts) record(dst []byte, i int) []byte {
	return fmt.Appendf(f.index(dst, i), `,"md5":"%x","name":%q,"sha256":"%x","size":%d,"subdir":%q,"timestamp":%d,"version":%q}`,
		f.md5, f.name, f.sha256, f.size, largeDir, firstBuild+int64(i)*1000, f.version)
}

// make makes the i-th package: a valid one, with one small file.
func (l *Large) make(i int, f largeFacts) ([]byte, error) {
	d, err := dist.New(f.name, f.version, largeBuild(i), dist.Conda)
	if err != nil {
		return nil, err
	}
	payload := random(rand.New(rand.NewPCG(l.seed, uint64(i))), 64)
	sum := sha256.Sum256(payload)
	path := "share/" + f.name + "/data.bin"
	index := fmt.Appendf(f.index(nil, i), `,"name":%q,"subdir":%q,"timestamp":%d,"version":%q}`, f.name, largeDir, firstBuild+int64(i)*1000, f.version)
	paths := fmt.Appendf(nil, `{"paths":[{"_path":%q,"path_type":"hardlink","sha256":%q,"size_in_bytes":%d}],"paths_version":1}`,
		path, hex.EncodeToString(sum[:]), len(payload))
	return tinyArchive(d, []tinyFile{{"info/index.json", index}, {"info/paths.json", paths}}, []tinyFile{{path, payload}})
}

func (l *Large) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	dir, filename, _ := strings.Cut(path, "/")
	l.mu.Lock()
	i, listed := l.byName[filename]
	var f largeFacts
	if listed && dir == largeDir {
		f = l.facts[i]
	}
	index, stamp, forgets := l.index, l.stamp, l.forgets
	l.mu.Unlock()
	if forgets {
		r.Header.Del("If-None-Match")
		r.Header.Del("If-Modified-Since")
	}
	w = &largeRecorder{w, l}
	etag := func(s string) { w.Header().Set("ETag", strconv.Quote(s)) }
	switch {
	case f.filename != "":
		l.requests.Add(1)
		l.first.CompareAndSwap(0, time.Now().UnixNano())
		data, err := l.make(i, f)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		etag(hex.EncodeToString(f.sha256[:8]))
		http.ServeContent(w, r, filename, time.Time{}, bytes.NewReader(data))
		l.last.Store(time.Now().UnixNano())
	case path == largeDir+"/repodata.json.zst":
		etag(fmt.Sprintf("index-%d", stamp))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(index))
	case path == "noarch/repodata.json":
		etag("empty")
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"info":{"subdir":"noarch"},"packages":{},"packages.conda":{}}`)
	case path == "channeldata.json":
		etag("channeldata")
		data, err := json.Marshal(map[string]any{"channeldata_version": 1, "packages": map[string]any{}, "subdirs": []string{largeDir, dist.Noarch}})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	default:
		http.NotFound(w, r)
	}
}

// largeRecorder counts 304s on their way out.
type largeRecorder struct {
	http.ResponseWriter
	l *Large
}

func (s *largeRecorder) WriteHeader(status int) {
	if status == http.StatusNotModified {
		s.l.notModified.Add(1)
	}
	s.ResponseWriter.WriteHeader(status)
}
