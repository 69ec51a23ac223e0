package synctest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// WatchConfig says what is read.
type WatchConfig struct {
	// URL of the channel, without a slash at the end.
	URL string
	// More are URLs of the same channel at further edges; requests go to all of them in turn.
	More []string
	// Key is sent as X-API-Key, if not empty.
	Key string
	// Subdirs to read; default noarch.
	Subdirs []string
	// Rate of requests a second; default 250.
	Rate int
	// Settle is how long an index may go on to list what is no longer served before that counts as a violation: the
	// large files follow a revision that removes or replaces files by one build. Default 0: never.
	Settle time.Duration
}

// Report is what a watcher saw.
type Report struct {
	Requests   int64
	Files      int64 // package files that were read and compared with their record
	Indexes    int64
	Unanswered int64 // no answer, or a status of 500 and more, while that was tolerated
	Elapsed    time.Duration
	Violations []string
}

// Rate is in requests a second, answered or not.
func (r Report) Rate() float64 { return float64(r.Requests+r.Unanswered) / r.Elapsed.Seconds() }

// Watcher reads a channel as clients do, all the time, and believes nothing: every file of every index that it sees must
// be served with the size and digest that the index says, an index once there stays there, revisions do not go back, and
// one path at one revision has one content, in all its encodings.
type Watcher struct {
	cfg    WatchConfig
	edges  []string
	client *http.Client
	began  time.Time
	cancel context.CancelFunc
	group  sync.WaitGroup
	tokens chan struct{}
	total  atomic.Int64
	files  atomic.Int64
	idx    atomic.Int64
	turn   atomic.Uint64
	faults atomic.Int64 // changes with each call of Tolerate; odd while it is on
	missed atomic.Int64

	mu       sync.Mutex
	revision map[string]int64 // by URL, the newest seen: another edge may be a moment behind
	seen     map[string]bool  // paths of indexes that are there
	away     map[string]time.Time
	content  map[string]string // by path without compression and revision: digest of the content
	listed   map[string]map[string]want
	bad      []string
}

// want is what an index says of a file.
type want struct {
	sha  string
	size int64
}

// Watch starts reading; Stop ends it.
func Watch(cfg WatchConfig) *Watcher {
	if len(cfg.Subdirs) == 0 {
		cfg.Subdirs = []string{"noarch"}
	}
	if cfg.Rate == 0 {
		cfg.Rate = 250
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{
		cfg: cfg, edges: append([]string{cfg.URL}, cfg.More...), cancel: cancel, began: time.Now(), tokens: make(chan struct{}, 64),
		client: &http.Client{
			Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 32},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		revision: map[string]int64{}, seen: map[string]bool{}, away: map[string]time.Time{}, content: map[string]string{}, listed: map[string]map[string]want{},
	}
	w.group.Go(func() { w.tick(ctx) })
	for _, subdir := range cfg.Subdirs {
		for _, read := range []func(context.Context, string) error{w.plain, w.compressed, w.shards} {
			w.group.Go(func() { w.loop(ctx, func() error { return read(ctx, subdir) }) })
		}
	}
	for range 6 {
		w.group.Go(func() { w.loop(ctx, func() error { return w.anyFile(ctx) }) })
	}
	return w
}

// Stop ends the reading and tells what was seen.
func (w *Watcher) Stop() Report {
	w.cancel()
	w.group.Wait()
	w.client.CloseIdleConnections()
	w.mu.Lock()
	defer w.mu.Unlock()
	return Report{
		Requests: w.total.Load(), Files: w.files.Load(), Indexes: w.idx.Load(), Unanswered: w.missed.Load(), Elapsed: time.Since(w.began), Violations: slices.Clone(w.bad),
	}
}

// Tolerate says whether an edge or what is behind it is being broken on purpose: a request that is not answered, or with
// a status of 500 and more, is no violation then. What is answered has to be right at all times.
func (w *Watcher) Tolerate(on bool) {
	for n := w.faults.Load(); (n%2 == 1) != on; n = w.faults.Load() {
		w.faults.CompareAndSwap(n, n+1)
	}
}

// patience is how long an answer is waited for while none has to come.
const patience = 2 * time.Second

// errUnanswered stands for what Tolerate tolerates.
var errUnanswered = errors.New("not answered, as was to be expected")

// tick hands out as many requests a second as asked for; what was missed is caught up in part.
func (w *Watcher) tick(ctx context.Context) {
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	var owed float64
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			owed = min(owed+now.Sub(last).Seconds()*float64(w.cfg.Rate), 64)
			last = now
			for owed >= 1 {
				select {
				case w.tokens <- struct{}{}:
					owed--
					continue
				default:
				}
				break
			}
		}
	}
}

func (w *Watcher) loop(ctx context.Context, read func() error) {
	for ctx.Err() == nil {
		err := read()
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, errUnanswered):
			w.missed.Add(1)
			select { // an edge that is away refuses faster than one can count
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		default:
			w.violation("%v", err)
		}
	}
}

func (w *Watcher) violation(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.bad) < 50 {
		w.bad = append(w.bad, fmt.Sprintf(format, args...))
	}
}

// response is an answer, read to its end.
type response struct {
	url      string
	status   int
	revision int64
	body     []byte
}

func (w *Watcher) get(ctx context.Context, path string) (*response, error) {
	select {
	case <-w.tokens:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	edge := w.edge()
	at := edge + "/" + path
	faults := w.faults.Load()
	if faults%2 == 1 { // the reading goes on, also where something stands still
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	r, err := w.ask(ctx, at)
	if err != nil || r.status >= http.StatusInternalServerError {
		if faults%2 == 1 || w.faults.Load() != faults {
			w.mu.Lock()
			w.away[edge] = time.Now().Add(awayFor)
			w.mu.Unlock()
			return nil, errUnanswered
		}
	}
	return r, err
}

// awayFor is how long an edge that did not answer is left alone while there is another one.
const awayFor = 250 * time.Millisecond

// edge returns the next edge whose turn it is.
func (w *Watcher) edge() string {
	first := w.turn.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range uint64(len(w.edges)) {
		if e := w.edges[(first+i)%uint64(len(w.edges))]; time.Now().After(w.away[e]) {
			return e
		}
	}
	return w.edges[first%uint64(len(w.edges))]
}

func (w *Watcher) ask(ctx context.Context, at string) (*response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	if w.cfg.Key != "" {
		req.Header.Set("X-API-Key", w.cfg.Key)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: the body broke off after %d bytes: %w", at, len(body), err)
	}
	w.total.Add(1)
	rev, _ := strconv.ParseInt(resp.Header.Get("Entrepot-Revision"), 10, 64)
	return &response{at, resp.StatusCode, rev, body}, nil
}

// index reads an index file; nil if it is not there, and never was. content is the file without its compression.
func (w *Watcher) index(ctx context.Context, path, family string, unpack func([]byte) ([]byte, error)) ([]byte, error) {
	w.mu.Lock()
	before, seen := maps.Clone(w.revision), w.seen[path]
	w.mu.Unlock()
	r, err := w.get(ctx, path)
	if err != nil {
		return nil, err
	}
	if r.status == http.StatusNotFound && !seen {
		return nil, nil
	}
	if r.status != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %.100s", path, r.status, r.body)
	}
	w.idx.Add(1)
	if r.revision == 0 {
		return nil, fmt.Errorf("%s: no Entrepot-Revision", path)
	}
	content, err := unpack(r.body)
	if err != nil {
		return nil, fmt.Errorf("%s@%d: %w", path, r.revision, err)
	}
	sum := sha256.Sum256(content)
	key := fmt.Sprintf("%s@%d", family, r.revision)
	w.mu.Lock()
	defer w.mu.Unlock()
	if was := before[r.url]; r.revision < was { // as it was before the request: others may have seen a newer one since
		return nil, fmt.Errorf("%s: revision %d after %d", r.url, r.revision, was)
	}
	w.revision[r.url], w.seen[path] = max(w.revision[r.url], r.revision), true
	if known, ok := w.content[key]; ok && known != hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("%s@%d: two contents of one revision", path, r.revision)
	}
	w.content[key] = hex.EncodeToString(sum[:])
	return content, nil
}

func (w *Watcher) plain(ctx context.Context, subdir string) error {
	path := subdir + "/repodata.json"
	data, err := w.index(ctx, path, path, func(b []byte) ([]byte, error) { return b, nil })
	if err != nil || data == nil {
		return err
	}
	_, err = w.document(subdir, data)
	return err
}

func (w *Watcher) compressed(ctx context.Context, subdir string) error {
	data, err := w.index(ctx, subdir+"/repodata.json.zst", subdir+"/repodata.json", unzstd)
	if err != nil || data == nil {
		return err
	}
	_, err = w.document(subdir, data)
	return err
}

func unzstd(b []byte) ([]byte, error) {
	d, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}

// document takes the files that a repodata.json lists.
func (w *Watcher) document(subdir string, data []byte) (map[string]want, error) {
	var doc struct {
		Packages map[string]record `json:"packages"`
		Conda    map[string]record `json:"packages.conda"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s/repodata.json: %w", subdir, err)
	}
	files := map[string]want{}
	for _, m := range []map[string]record{doc.Packages, doc.Conda} {
		for name, r := range m {
			files[subdir+"/"+name] = r.want()
		}
	}
	w.list(subdir+"/repodata.json", files)
	return files, nil
}

type record struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

func (r record) want() want { return want{r.SHA256, r.Size} }

func (w *Watcher) list(index string, files map[string]want) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listed[index] = files
}

// shards reads the shard index and every shard that it names.
func (w *Watcher) shards(ctx context.Context, subdir string) error {
	path := subdir + "/repodata_shards.msgpack.zst"
	data, err := w.index(ctx, path, path, func(b []byte) ([]byte, error) { return b, nil })
	if err != nil || data == nil {
		return err
	}
	ix, err := repodata.ParseIndex(data, repodata.ParseOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	names := slices.Collect(maps.Keys(ix.Shards))
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	files := map[string]want{}
	for _, name := range names[:min(len(names), 40)] {
		digest := ix.Shards[name]
		r, err := w.get(ctx, subdir+"/shards/"+repodata.ShardPath(digest))
		if err != nil {
			return err
		}
		if r.status != http.StatusOK || sha256.Sum256(r.body) != digest {
			return fmt.Errorf("%s: the shard of %s: status %d, or a wrong digest", path, name, r.status)
		}
		sh, err := repodata.ParseShard(r.body, repodata.ParseOptions{})
		if err != nil {
			return fmt.Errorf("%s: the shard of %s: %w", path, name, err)
		}
		for _, rec := range sh.Records {
			var v record
			if err := json.Unmarshal(rec.Raw, &v); err != nil {
				return fmt.Errorf("%s: the shard of %s: %w", path, name, err)
			}
			files[subdir+"/"+rec.Key] = v.want()
		}
	}
	w.list(path, files)
	return nil
}

// anyFile reads a file that some index lists, and compares.
func (w *Watcher) anyFile(ctx context.Context) error {
	index, path, say, ok := w.pick()
	if !ok {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
		return nil
	}
	deadline := time.Now().Add(w.cfg.Settle)
	for {
		r, err := w.get(ctx, path)
		if err != nil {
			return err
		}
		problem := compare(r, say)
		if problem == "" {
			w.files.Add(1)
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s, listed in %s: %s", path, index, problem)
		}
		// The index may have moved on. The loops read it all the time; what they saw last is asked for again.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
		w.mu.Lock()
		say, ok = w.listed[index][path]
		w.mu.Unlock()
		if !ok {
			return nil
		}
	}
}

func compare(r *response, say want) string {
	if r.status != http.StatusOK {
		return fmt.Sprintf("status %d", r.status)
	}
	if sum := sha256.Sum256(r.body); say.sha != "" && hex.EncodeToString(sum[:]) != say.sha {
		return "wrong sha256"
	}
	if say.size != 0 && int64(len(r.body)) != say.size {
		return fmt.Sprintf("%d bytes, not %d", len(r.body), say.size)
	}
	return ""
}

func (w *Watcher) pick() (index, path string, say want, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for index, files := range w.listed { // random enough
		for path, say := range files {
			return index, path, say, true
		}
	}
	return "", "", want{}, false
}
