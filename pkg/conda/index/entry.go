package index

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // indexes have it
	"crypto/sha256"
	"encoding/json"
	"io"
	"maps"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// entry is what an index needs to know of a package file. It is kept between runs.
type entry struct {
	File     string `json:"fn"`
	Size     int64  `json:"size"`
	Modified int64  `json:"mtime"` // nanoseconds since 1970
	// Record is the package's, as it is before patches.
	Record     json.RawMessage        `json:"record"`
	Schema     int                    `json:"schema,omitempty"` // schema_version of index.json
	RunExports json.RawMessage        `json:"run_exports,omitempty"`
	Facts      *repodata.PackageFacts `json:"facts,omitempty"`
}

// cacheVersion is raised when entries would come out differently: older caches are read again then.
const cacheVersion = 1

type cacheHead struct {
	Version int `json:"version"`
}

func cachePath(subdir string) string { return ".cache/" + subdir + ".entrepot.zst" }

// maxEntry bounds one entry of the cache: it holds a record and little else.
const maxEntry = 16 << 20

// readCache returns what was kept of a subdir. A cache that cannot be read is as good as none.
func (b *builder) readCache(subdir string) map[string]*entry {
	f, err := b.root.Open(cachePath(subdir))
	if err != nil {
		return nil
	}
	defer f.Close()
	dec, err := zstd.NewReader(bufio.NewReader(f), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return nil
	}
	defer dec.Close()
	sc := bufio.NewScanner(dec)
	sc.Buffer(make([]byte, 64<<10), maxEntry)
	var head cacheHead
	if !sc.Scan() || json.Unmarshal(sc.Bytes(), &head) != nil || head.Version != cacheVersion {
		return nil
	}
	out := map[string]*entry{}
	for sc.Scan() {
		e := new(entry)
		if json.Unmarshal(sc.Bytes(), e) != nil {
			return nil
		}
		out[e.File] = e
	}
	if sc.Err() != nil {
		return nil
	}
	return out
}

func (b *builder) writeCache(s *subdir) error {
	var buf bytes.Buffer
	enc, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	out := json.NewEncoder(enc)
	out.SetEscapeHTML(false)
	err = out.Encode(cacheHead{cacheVersion})
	for _, file := range slices.Sorted(maps.Keys(s.known)) {
		if err == nil {
			err = out.Encode(s.known[file])
		}
	}
	if err == nil {
		err = enc.Close()
	}
	if err == nil {
		err = b.replace(cachePath(s.name), buf.Bytes())
	}
	return err
}

// readPackage opens a package file and makes its entry.
func (b *builder) readPackage(ctx context.Context, subdir, file string) (*entry, error) {
	f, err := b.root.Open(subdir + "/" + file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	info, err := archive.Inspect(ctx, f, stat.Size(), file, b.opts.Limits, archive.Subdir(subdir), archive.KeepPaths())
	if err != nil {
		return nil, err
	}
	facts := repodata.FileFacts{Size: stat.Size(), Subdir: subdir}
	sha, sum := sha256.New(), md5.New() //nolint:gosec // see the import
	if _, err := io.Copy(io.MultiWriter(sha, sum), io.NewSectionReader(f, 0, stat.Size())); err != nil {
		return nil, err
	}
	sha.Sum(facts.SHA256[:0])
	sum.Sum(facts.MD5[:0])
	if info.Index.SchemaVersion >= 3 {
		facts.IndexedTimestamp = b.opts.Now().UnixMilli() // CEP 47; records before it have no such key in any index
	}
	record, err := repodata.HostedRecord(info.IndexJSON, facts)
	if err != nil {
		return nil, err
	}
	e := &entry{File: file, Size: stat.Size(), Modified: stat.ModTime().UnixNano(), Record: record, Schema: info.Index.SchemaVersion}
	e.RunExports = json.RawMessage("{}") // the package was looked into: it exports nothing
	if info.RunExportsJSON != nil {
		if e.RunExports, err = repodata.NormalizeRunExports(info.RunExportsJSON); err != nil {
			return nil, err
		}
	}
	if known := Facts(info, b.opts.Limits); known != (repodata.PackageFacts{}) {
		e.Facts = &known
	}
	return e, nil
}
