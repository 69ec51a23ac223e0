package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

const (
	// readers is how many requests are under way at most: an edge whose database is away answers slowly.
	readers = 256
	// indexShare: every how many-th request is for an index. The others are for files that some index lists.
	indexShare = 4
	// pastShare: every how many-th request is for a former revision, unless one is under way: the answer may have to be
	// built.
	pastShare = 128
	// readTimeout is longer than an honest edge needs to say that it cannot answer.
	readTimeout   = 15 * time.Second
	maxViolations = 20
)

// reading is what a reader saw.
type reading struct {
	Polls int64 `json:"polls"`
	// PerSecond is the rate outside of declared outages.
	PerSecond  float64  `json:"polls_per_second"`
	Indexes    int64    `json:"indexes_read"`
	Files      int64    `json:"files_read"`
	Past       int64    `json:"former_revisions_read"`
	Outages    int64    `json:"outages"`
	Violations []string `json:"violations"`

	lies []error
}

// reader asks for everything, all the time, at a fixed rate, whatever the answers are.
type reader struct {
	url    string
	client *http.Client
	cancel context.CancelFunc
	group  sync.WaitGroup

	polls, indexes, files, past, outages atomic.Int64
	inPast                               atomic.Bool

	mu      sync.Mutex
	began   time.Time // when there was something to read
	windows []*window
	steady  int64 // requests outside of declared outages
	streak  int   // answers since the last one that did not come
	paths   []*indexFile
	listed  []listedFile
	known   map[string]bool // of listed
	turn    int
	next    int // of paths
	bad     []error
}

// indexFile is what is known of one index.
type indexFile struct {
	path     string // <channel>/<subdir>/<file>
	family   string // equal for encodings of one file
	accept   string
	revision int64
	sum      [32]byte            // of the newest
	has      map[string][32]byte // what the newest lists
	seen     bool
	content  map[int64]indexAt // by revision
	// upstream is what a proxy's index comes from; nil for other channels, whose indexes have revisions.
	upstream *growing
}

// indexAt is an index at a revision: the digests of the document and of what it lists.
type indexAt struct{ content, listing [32]byte }

// listedFile is a file that an index listed.
type listedFile struct {
	path   string
	sha256 string
	size   int64
}

func startReader(url string, rate int) *reader {
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{
		url: url, cancel: cancel, known: map[string]bool{},
		client: &http.Client{Timeout: readTimeout, Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}},
	}
	r.group.Go(func() { r.loop(ctx, rate) })
	return r
}

// watch adds a channel's subdirs to what is read.
func (r *reader) watch(channel string, subdirs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range subdirs {
		for _, f := range forms {
			r.add(channel+"/"+s+"/", f, nil)
		}
	}
	r.add(channel+"/", form{name: channelData, family: channelData}, nil)
}

// watchProxy adds a proxy channel's subdirs.
func (r *reader) watchProxy(channel string, up *growing, subdirs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range subdirs {
		for _, f := range forms {
			if f.proxied {
				r.add(channel+"/"+s+"/", f, up)
			}
		}
	}
}

func (r *reader) add(base string, f form, up *growing) {
	if r.began.IsZero() {
		r.began = time.Now()
	}
	r.paths = append(r.paths, &indexFile{path: base + f.name, family: base + f.family, accept: f.accept, upstream: up, content: map[int64]indexAt{}})
}

// loop starts a request whenever one is due. It does not wait for answers, so that a slow platform is asked as often.
func (r *reader) loop(ctx context.Context, rate int) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	slots := make(chan struct{}, readers)
	owed, last := 0.0, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			owed = min(owed+now.Sub(last).Seconds()*float64(rate), float64(rate)/2)
			last = now
		}
		for ; owed >= 1; owed-- {
			ask := r.pick()
			if ask == nil {
				break
			}
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			r.group.Go(func() {
				defer func() { <-slots }()
				ask(ctx)
			})
		}
	}
}

// pick chooses what to ask for next.
func (r *reader) pick() func(context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.paths) == 0 {
		return nil
	}
	r.turn++
	if r.turn%pastShare == 0 {
		if f, revision, want := r.former(); f != nil && r.inPast.CompareAndSwap(false, true) {
			return func(ctx context.Context) {
				defer r.inPast.Store(false)
				r.formerIndex(ctx, f.path, revision, want)
			}
		}
	}
	if len(r.listed) == 0 || r.turn%indexShare == 0 {
		f := r.paths[r.next%len(r.paths)]
		r.next++
		return func(ctx context.Context) { r.index(ctx, f) }
	}
	f := r.listed[rand.N(len(r.listed))]
	return func(ctx context.Context) { r.file(ctx, f) }
}

func (r *reader) violation(promise, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bad) < maxViolations {
		r.bad = append(r.bad, breaks(promise, "%.1f s: %s", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...)))
	}
}

// answer is what a request got.
type answer struct {
	status   int
	revision int64
	body     []byte // without its Content-Encoding
}

// get asks for a path. ok is false if there was no answer, or one that says that there is none now. past says that it is
// of a former revision.
func (r *reader) get(ctx context.Context, path, accept string, past bool) (a answer, ok bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/channels/"+path, nil)
	if err != nil {
		r.violation(lieStatus, "%s: %v", path, err)
		return a, false
	}
	if accept != "" {
		req.Header.Set("Accept-Encoding", accept)
	}
	asked := time.Now()
	r.counted(asked)
	resp, err := r.client.Do(req)
	if err == nil {
		a.body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err != nil { // also a body that breaks off: its client knows, and asks again
		if ctx.Err() == nil {
			r.unanswered(path, past, asked, err.Error())
		}
		return a, false
	}
	switch a.status = resp.StatusCode; a.status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		r.unanswered(path, past, asked, fmt.Sprintf("status %d: %.200s", a.status, a.body))
		return a, false
	}
	r.mu.Lock()
	r.streak++
	r.mu.Unlock()
	if a.body, err = decode(resp.Header.Get("Content-Encoding"), a.body); err != nil {
		r.violation(lieBytes, "%s: %v", path, err)
		return a, false
	}
	a.revision, _ = strconv.ParseInt(resp.Header.Get("Entrepot-Revision"), 10, 64)
	return a, true
}

// index reads an index and compares it with what was read before this request.
func (r *reader) index(ctx context.Context, f *indexFile) {
	r.mu.Lock()
	before := *f
	r.mu.Unlock()
	a, ok := r.get(ctx, f.path, f.accept, false)
	if !ok || a.status == http.StatusNotFound && !before.seen {
		return
	}
	if a.status != http.StatusOK {
		r.violation(lieStatus, "%s: status %d: %.200s", f.path, a.status, a.body)
		return
	}
	r.indexes.Add(1)
	if a.revision < before.revision {
		r.violation(lieBack, "%s: revision %d after %d", f.path, a.revision, before.revision)
		return
	}
	sum := sha256.Sum256(a.body)
	if before.seen && sum == before.sum && a.revision == before.revision {
		return
	}
	if before.seen && f.upstream == nil && a.revision == before.revision {
		r.violation(lieTwo, "%s@%d: two contents of one revision", f.path, a.revision)
		return
	}
	l, err := parseIndex(f.path, a.body)
	if err != nil {
		r.violation(lieBytes, "%s@%d: %v", f.path, a.revision, err)
		return
	}
	for name := range before.has {
		if _, ok := l.has[name]; !ok {
			r.violation(lieForgot, "%s@%d: %s was listed at revision %d", f.path, a.revision, name, before.revision)
			return
		}
	}
	at := indexAt{sha256.Sum256(l.plain), l.digest()}
	if f.upstream != nil && !f.upstream.published(f.path, l) {
		r.violation(lieTwo, "%s: %d files, which its upstream never listed together", f.path, len(l.files))
		return
	}
	r.mu.Lock()
	if f.upstream == nil {
		for _, other := range r.paths {
			if c, ok := other.content[a.revision]; ok && other.family == f.family && c.content != at.content {
				r.mu.Unlock()
				r.violation(lieTwo, "%s@%d: another content than %s", f.path, a.revision, other.path)
				return
			}
		}
		f.content[a.revision] = at
	}
	if !f.seen || a.revision > f.revision || f.upstream != nil && len(l.has) >= len(f.has) {
		f.revision, f.sum, f.has, f.seen = a.revision, sum, l.has, true
	}
	for _, l := range l.files {
		if key := l.path + l.sha256; !r.known[key] {
			r.known[key] = true
			r.listed = append(r.listed, l)
		}
	}
	r.mu.Unlock()
	if strings.HasSuffix(f.path, ".msgpack.zst") {
		r.shards(ctx, f.path, before.has, l.has)
	}
}

// shards reads some of the shards that are new in an index.
func (r *reader) shards(ctx context.Context, path string, before, now map[string][32]byte) {
	base := path[:strings.LastIndexByte(path, '/')+1]
	left := 8
	for name, digest := range now {
		if before[name] == digest {
			continue
		}
		if left--; left < 0 {
			return
		}
		a, ok := r.get(ctx, base+"shards/"+repodata.ShardPath(digest), "", false)
		switch {
		case !ok:
		case a.status != http.StatusOK:
			r.violation(lieStatus, "%s: the shard of %s: status %d", path, name, a.status)
		case sha256.Sum256(a.body) != digest:
			r.violation(lieBytes, "%s: the shard of %s has other bytes", path, name)
		default:
			r.files.Add(1)
		}
	}
}

// file reads a listed file. Nothing is ever removed from these channels, so it must be there.
func (r *reader) file(ctx context.Context, f listedFile) { r.read(ctx, f, false) }

func (r *reader) read(ctx context.Context, f listedFile, past bool) {
	a, ok := r.get(ctx, f.path, "", past)
	if !ok {
		return
	}
	if a.status != http.StatusOK {
		r.violation(lieStatus, "%s is listed, and answers %d: %.200s", f.path, a.status, a.body)
		return
	}
	if sum := sha256.Sum256(a.body); hex.EncodeToString(sum[:]) != f.sha256 {
		r.violation(lieBytes, "%s has %d bytes (listed: %d) and another digest", f.path, len(a.body), f.size)
		return
	}
	r.files.Add(1)
}

// unread are index files of hosted and mirrored channels that were not seen yet, or lag behind what another lists.
func (r *reader) unread() (paths []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := map[string]*indexFile{} // repodata.json by directory
	for _, f := range r.paths {
		if f.upstream == nil && f.accept == "" && strings.HasSuffix(f.path, "/repodata.json") && len(f.has) > 0 {
			newest[strings.TrimSuffix(f.path, "repodata.json")] = f
		}
	}
	for _, f := range r.paths {
		base := f.path[:strings.LastIndexByte(f.path, '/')+1]
		for dir, n := range newest {
			// The channel's document may be older: it is of the head, and changes where its texts do.
			if f.upstream == nil && strings.HasPrefix(dir, base) && (!f.seen || base == dir && f.revision < n.revision) {
				paths = append(paths, fmt.Sprintf("%s (%s)", f.path, f.accept))
				break
			}
		}
	}
	return paths
}

// stop ends the reading. It may be called twice.
func (r *reader) stop() reading {
	r.cancel()
	r.group.Wait()
	r.client.CloseIdleConnections()
	r.mu.Lock()
	defer r.mu.Unlock()
	out := reading{
		Polls: r.polls.Load(), Indexes: r.indexes.Load(), Files: r.files.Load(), Past: r.past.Load(), Outages: r.outages.Load(),
		Violations: []string{}, lies: slices.Clone(r.bad),
	}
	for _, lie := range out.lies {
		out.Violations = append(out.Violations, lie.Error())
	}
	if t := r.steadyTime(time.Now()); t > 0 {
		out.PerSecond = float64(r.steady) / t.Seconds()
	}
	return out
}
