// Package synctest has what tests of mirroring need on both sides of it: upstream channels that are made up on the spot
// (Channel), and a client that reads a mirror all the time and checks all that it is told (Watch).
//
// It is a test's tool: production code must not import it.
package synctest

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
)

// Channel is an upstream conda channel: files by path, and the records that its indexes list. It may be changed while
// it is served.
type Channel struct {
	mu      sync.Mutex
	files   map[string][]byte
	records map[string]map[string]map[string]any // subdir, file name
	removed map[string][]string
	info    map[string]map[string]any
}

// NewChannel returns an empty channel.
func NewChannel() *Channel {
	return &Channel{
		files: map[string][]byte{}, records: map[string]map[string]map[string]any{}, removed: map[string][]string{},
		info: map[string]map[string]any{},
	}
}

// Add lists a file with made-up bytes: a mirror that trusts the index does not look inside. It returns the path.
func (c *Channel) Add(subdir, name, version string, content []byte) string {
	filename := fmt.Sprintf("%s-%s-0.conda", name, version)
	c.add(subdir, filename, content, map[string]any{"name": name, "version": version, "build": "0", "build_number": 0, "depends": []string{}, "subdir": subdir})
	return subdir + "/" + filename
}

// AddPackage lists a real package.
func (c *Channel) AddPackage(t testing.TB, subdir, name, version string, format dist.Format) string {
	t.Helper()
	data, filename := Package(t, subdir, name, version, format)
	c.add(subdir, filename, data, map[string]any{"name": name, "version": version, "build": "0", "build_number": 0, "depends": []string{}, "subdir": subdir})
	return subdir + "/" + filename
}

// Package makes the bytes of a package; content makes it differ from others of its name.
func Package(t testing.TB, subdir, name, version string, format dist.Format, content ...string) (data []byte, filename string) {
	t.Helper()
	var buf bytes.Buffer
	meta := archive.Meta{Index: archive.Index{Name: name, Version: version, Build: "0", Subdir: subdir}}
	if subdir == "noarch" {
		meta.Index.Noarch = archive.NoarchGeneric
	}
	d, err := archive.Create(context.Background(), &buf, format, meta, []archive.Input{{Path: "share/" + name, Data: []byte(name + version + strings.Join(content, ""))}})
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), d.Filename()
}

func (c *Channel) add(subdir, filename string, content []byte, record map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sha, md := sha256.Sum256(content), md5.Sum(content)
	record["sha256"], record["md5"], record["size"] = hex.EncodeToString(sha[:]), hex.EncodeToString(md[:]), len(content)
	if c.records[subdir] == nil {
		c.records[subdir] = map[string]map[string]any{}
	}
	c.records[subdir][filename] = record
	c.files[subdir+"/"+filename] = content
}

// Edit changes a file's record; value nil removes the key.
func (c *Channel) Edit(path, key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	subdir, filename, _ := strings.Cut(path, "/")
	if value == nil {
		delete(c.records[subdir][filename], key)
		return
	}
	c.records[subdir][filename][key] = value
}

// List lists a record as it is, without a file.
func (c *Channel) List(subdir, filename string, record map[string]any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.records[subdir] == nil {
		c.records[subdir] = map[string]map[string]any{}
	}
	c.records[subdir][filename] = record
}

// Info sets a key of a subdir's info.
func (c *Channel) Info(subdir, key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.info[subdir] == nil {
		c.info[subdir] = map[string]any{}
	}
	c.info[subdir][key] = value
	if c.records[subdir] == nil {
		c.records[subdir] = map[string]map[string]any{}
	}
}

// Remove takes a file out, bytes and record.
func (c *Channel) Remove(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	subdir, filename, _ := strings.Cut(path, "/")
	delete(c.records[subdir], filename)
	delete(c.files, path)
}

// Removed lists names under `removed`.
func (c *Channel) Removed(subdir string, filenames ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed[subdir] = filenames
}

// File returns a file's bytes.
func (c *Channel) File(path string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.files[path]
}

// Put serves bytes at a path without listing them.
func (c *Channel) Put(path string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[path] = data
}

// Index returns a subdir's repodata.json, nil if there is no such subdir.
func (c *Channel) Index(subdir string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.index(subdir)
}

func (c *Channel) index(subdir string) []byte {
	records, ok := c.records[subdir]
	if !ok {
		return nil
	}
	info := map[string]any{"subdir": subdir}
	for k, v := range c.info[subdir] {
		info[k] = v
	}
	doc := map[string]any{"info": info, "repodata_version": 1, "removed": append([]string{}, c.removed[subdir]...)}
	conda, bz2 := map[string]any{}, map[string]any{}
	for filename, r := range records {
		if strings.HasSuffix(filename, ".conda") {
			conda[filename] = r
		} else {
			bz2[filename] = r
		}
	}
	doc["packages"], doc["packages.conda"] = bz2, conda
	data, err := json.Marshal(doc)
	if err != nil {
		panic(err) // of the test's own making
	}
	return data
}

var encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))

// Zstd compresses data into one frame.
func Zstd(data []byte) []byte { return encoder.EncodeAll(data, nil) }

// ServeHTTP serves files, `repodata.json` and `repodata.json.zst`, each with a strong ETag. What stands in files wins.
func (c *Channel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	subdir, filename, _ := strings.Cut(path, "/")
	c.mu.Lock()
	data, ok := c.files[path]
	if !ok && (filename == "repodata.json" || filename == "repodata.json.zst") {
		if data = c.index(subdir); data != nil {
			ok = true
			if strings.HasSuffix(filename, ".zst") {
				data = Zstd(data)
			}
		}
	}
	c.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	fetchtest.File(data)(w, r)
}
