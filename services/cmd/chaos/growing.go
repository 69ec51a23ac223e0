package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

const (
	growSteps = 100
	growEvery = 400 * time.Millisecond
	growFiles = 4 * growSteps
)

// growing is an upstream whose index gets longer and longer, for a proxy. Nothing that it listed ever goes.
type growing struct {
	url     string
	channel *sample.Channel
	server  *http.Server
	group   sync.WaitGroup
	stop    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	now     int                 // the step that is served
	indexes []map[string][]byte // by step: path → bytes
	listed  map[string]int      // digest of a listing by subdir → its step; what was served
	sums    []map[string]string // by step: subdir → that digest
	sizes   []map[string]int    // by step: subdir → files
	fetched int
}

// growUpstream starts one.
func growUpstream(dir string, seed uint64) (*growing, error) {
	ch, err := sample.Build(dir, sample.Options{Packages: growFiles, Tiny: true, Seed: seed})
	if err != nil {
		return nil, err
	}
	g := &growing{channel: ch, stop: make(chan struct{}), listed: map[string]int{}}
	if err := g.makeIndexes(); err != nil {
		return nil, err
	}
	g.publish(0)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g.url = "http://" + l.Addr().String()
	g.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(g.serve)}
	g.group.Go(func() { _ = g.server.Serve(l) }) // ends with close
	g.group.Go(g.grow)
	return g, nil
}

// makeIndexes makes the index files of all steps.
func (g *growing) makeIndexes() error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	defer z.Close()
	g.indexes = make([]map[string][]byte, growSteps)
	g.sums, g.sizes = make([]map[string]string, growSteps), make([]map[string]int, growSteps)
	for step := range growSteps {
		g.indexes[step], g.sums[step], g.sizes[step] = map[string][]byte{}, map[string]string{}, map[string]int{}
	}
	for _, subdir := range g.channel.Subdirs {
		data, err := os.ReadFile(filepath.Join(g.channel.Dir, subdir, "repodata.json"))
		if err != nil {
			return err
		}
		var doc map[string]json.RawMessage
		var all map[string]json.RawMessage
		if err := json.Unmarshal(data, &doc); err != nil {
			return err
		}
		if err := json.Unmarshal(doc["packages.conda"], &all); err != nil {
			return err
		}
		names := slices.Sorted(maps.Keys(all))
		for step := range growSteps {
			part := map[string]json.RawMessage{}
			for _, name := range names[:max(1, len(names)*(step+1)/growSteps)] {
				part[name] = all[name]
			}
			if doc["packages.conda"], err = json.Marshal(part); err != nil {
				return err
			}
			text, err := json.Marshal(doc)
			if err != nil {
				return err
			}
			path := subdir + "/repodata.json"
			l, err := parseIndex("x/"+path, text)
			if err != nil {
				return err
			}
			sum := l.names()
			g.indexes[step][path], g.indexes[step][path+".zst"] = text, z.EncodeAll(text, nil)
			g.sums[step][subdir], g.sizes[step][subdir] = subdir+hex.EncodeToString(sum[:]), len(part)
		}
	}
	return nil
}

// names is the digest of a listing that does not depend on where it is.
func (l *listing) names() [32]byte {
	files := make([]string, 0, len(l.files))
	for _, f := range l.files {
		files = append(files, filepath.Base(f.path)+" "+f.sha256)
	}
	slices.Sort(files)
	return sha256.Sum256([]byte(strings.Join(files, "\n")))
}

// publish serves a step from now on.
func (g *growing) publish(step int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, sum := range g.sums[step] {
		g.listed[sum] = step
	}
	g.now = max(g.now, step)
}

func (g *growing) grow() {
	tick := time.NewTicker(growEvery)
	defer tick.Stop()
	for step := 1; step < growSteps-1; step++ { // the last is for finish
		select {
		case <-tick.C:
			g.publish(step)
		case <-g.stop:
			return
		}
	}
}

// published says whether an index of a proxy lists what the upstream has listed at some time. Only current_repodata.json
// is a selection.
func (g *growing) published(path string, l *listing) bool {
	parts := strings.Split(path, "/")
	if strings.HasPrefix(parts[len(parts)-1], "current_") {
		return true
	}
	sum := l.names()
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.listed[parts[len(parts)-2]+hex.EncodeToString(sum[:])]
	return ok
}

func (g *growing) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if isPackage(path) {
		g.mu.Lock()
		g.fetched++
		g.mu.Unlock()
		http.ServeFile(w, r, filepath.Join(g.channel.Dir, filepath.FromSlash(path)))
		return
	}
	g.mu.Lock()
	data, ok := g.indexes[g.now][path]
	g.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	sum := sha256.Sum256(data)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
	http.ServeContent(w, r, path, time.Time{}, bytes.NewReader(data))
}

// finish serves the last step, of which there are no more.
func (g *growing) finish() {
	g.once.Do(func() { close(g.stop) })
	g.publish(growSteps - 1)
}

// last is how many files a subdir has in the end.
func (g *growing) last(subdir string) int { return g.sizes[growSteps-1][subdir] }

// steps is how many indexes of a subdir were served.
func (g *growing) steps() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.listed) / len(g.channel.Subdirs)
}

// gets is how many requests for packages came.
func (g *growing) gets() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fetched
}

func (g *growing) close() {
	g.once.Do(func() { close(g.stop) })
	g.server.Close()
	g.group.Wait()
}
