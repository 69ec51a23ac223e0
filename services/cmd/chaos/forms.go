package main

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// form is one of the index files of a subdir, or of a channel.
type form struct {
	name string
	// family is equal for encodings of one document: at one revision they say the same.
	family string
	// accept is sent as Accept-Encoding.
	accept string
	// proxied: a proxy has it of an upstream that has repodata.json.
	proxied bool
}

// forms of a subdir. What is not made with the revision, or right after it, is not there at first, and then of an older
// revision than the others: that is its documented lag. It never goes back, and at one revision it agrees with them.
var forms = []form{
	{"repodata.json", "repodata", "", true},
	{"repodata.json.zst", "repodata", "", true},
	{"repodata_shards.msgpack.zst", "shards", "", false},
	{"repodata.json", "repodata", "gzip", true},
	{"repodata.json.bz2", "repodata", "", true},
	{"current_repodata.json", "current", "", true},
	{"run_exports.json", "exports", "", false},
	{"run_exports.json.zst", "exports", "", false},
}

const channelData = "channeldata.json"

// listing is what an index file says.
type listing struct {
	// has are its names, with the digests of shards. Names of packages where a newer version takes the place of another.
	has map[string][32]byte
	// plain is the file without its compression.
	plain []byte
	files []listedFile
}

// digest is equal for listings of the same files, however they are written.
func (l *listing) digest() (sum [32]byte) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(l.has)) {
		fmt.Fprintln(h, name)
	}
	for _, f := range slices.SortedFunc(slices.Values(l.files), func(a, b listedFile) int { return strings.Compare(a.path, b.path) }) {
		fmt.Fprintln(h, f.path, f.sha256, f.size)
	}
	h.Sum(sum[:0])
	return sum
}

// parseIndex reads an index file by its path, <channel>/<subdir>/<file>.
func parseIndex(path string, body []byte) (*listing, error) {
	l := &listing{has: map[string][32]byte{}, plain: body}
	if strings.HasSuffix(path, ".msgpack.zst") {
		ix, err := repodata.ParseIndex(body, repodata.ParseOptions{})
		if err != nil {
			return nil, err
		}
		l.has = ix.Shards
		return l, nil
	}
	var err error
	switch {
	case strings.HasSuffix(path, ".zst"):
		l.plain, err = unzstd(body)
	case strings.HasSuffix(path, ".bz2"):
		l.plain, err = io.ReadAll(bzip2.NewReader(bytes.NewReader(body)))
	}
	if err != nil {
		return nil, err
	}
	type record struct {
		Name   string `json:"name"`
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	}
	var doc struct {
		Packages map[string]record `json:"packages"`
		Conda    map[string]record `json:"packages.conda"`
	}
	if err := json.Unmarshal(l.plain, &doc); err != nil {
		return nil, err
	}
	base := path[:strings.LastIndexByte(path, '/')+1]
	file := strings.TrimPrefix(path, base)
	for _, m := range []map[string]record{doc.Packages, doc.Conda} {
		for name, rec := range m {
			switch {
			case strings.HasPrefix(file, "current_"):
				l.has[rec.Name] = [32]byte{}
			default:
				l.has[name] = [32]byte{}
			}
			if strings.Contains(file, "repodata") {
				l.files = append(l.files, listedFile{base + name, rec.SHA256, rec.Size})
			}
		}
	}
	return l, nil
}

func unzstd(body []byte) ([]byte, error) {
	d, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(d)
}

// decode undoes a Content-Encoding.
func decode(coding string, body []byte) ([]byte, error) {
	switch coding {
	case "", "identity":
		return body, nil
	case "zstd":
		return unzstd(body)
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	}
	return nil, fmt.Errorf("Content-Encoding %s was not asked for", coding)
}
