package index

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

// staleShards is how long a shard stays that no index names any more: clients that hold an older index still ask for it.
const staleShards = 7 * 24 * time.Hour

// PinnedLines are the lines that current_repodata.json keeps beside the newest versions.
var PinnedLines = map[string][]string{"python": {"3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"}}

// listing is a subdir's records as they are published, in the order of the documents.
type listing struct {
	subdir  string
	records []listed
	removed []string
}

type listed struct {
	bucket  repodata.Bucket
	key     string
	name    string
	raw     []byte
	exports []byte
	entry   *entry
}

// list applies the patches and brings the records into order.
func (b *builder) list(s *subdir) (*listing, error) {
	patch := b.opts.Patches[s.name]
	l := &listing{subdir: s.name}
	for file, e := range s.known {
		stem, format, _ := dist.SplitExtension(file)
		r := listed{bucket: repodata.Conda, key: file, entry: e}
		if format == dist.TarBz2 {
			r.bucket = repodata.TarBz2
		}
		if e.Schema >= 3 { // CEP 48: older clients must not see it
			r.key, r.bucket = stem, repodata.V3Conda
			if format == dist.TarBz2 {
				r.bucket = repodata.V3TarBz2
			}
		}
		if patch.Removed(r.bucket, r.key) {
			l.removed = append(l.removed, file)
			continue
		}
		var err error
		if r.raw, err = patch.Record(r.bucket, r.key, e.Record); err == nil {
			r.exports, err = patch.RunExports(r.bucket, r.key, e.RunExports)
		}
		if err != nil {
			return nil, fmt.Errorf("patch of %s: %w", file, err)
		}
		d, err := dist.ParseFilename(file)
		if err != nil {
			return nil, err
		}
		r.name = d.Name
		l.records = append(l.records, r)
	}
	slices.SortFunc(l.records, func(x, y listed) int {
		if c := bucketOrder(x.bucket) - bucketOrder(y.bucket); c != 0 {
			return c
		}
		return strings.Compare(x.key, y.key)
	})
	slices.Sort(l.removed)
	return l, nil
}

func bucketOrder(b repodata.Bucket) int {
	return slices.Index([]repodata.Bucket{repodata.TarBz2, repodata.Conda, repodata.V3Conda, repodata.V3TarBz2}, b)
}

func (l *listing) entries() iter.Seq2[repodata.Entry, error] {
	return func(yield func(repodata.Entry, error) bool) {
		for _, r := range l.records {
			if !yield(repodata.Entry{Bucket: r.bucket, Key: r.key, Raw: r.raw}, nil) {
				return
			}
		}
	}
}

// write makes a subdir's files: shards, the documents, then what is derived of them.
func (b *builder) write(ctx context.Context, s *subdir) error {
	l, err := b.list(s)
	if err != nil {
		return err
	}
	s.listed = len(l.records)
	if b.opts.NoShards {
		err = errors.Join(b.remove(s.name+"/"+shardIndex), b.root.RemoveAll(s.name+"/shards"))
	} else {
		err = b.writeShards(ctx, l)
	}
	if err != nil {
		return err
	}
	info := repodata.Info{Subdir: s.name}
	whole := new(bytes.Buffer)
	w := repodata.NewWriter(whole, info)
	for _, r := range l.records {
		if err := w.Record(r.bucket, r.key, r.raw); err != nil {
			return err
		}
	}
	for _, file := range l.removed {
		if err := w.Removed(file); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	forms := []repodata.Encoding{repodata.Plain, repodata.Zstd}
	if b.opts.Bzip2 {
		forms = append(forms, repodata.Bzip2)
	} else if err := b.remove(s.name + "/repodata.json.bz2"); err != nil { // it would go on saying what was once true
		return err
	}
	if err := b.document(s.name+"/repodata.json", whole.Bytes(), forms...); err != nil {
		return err
	}
	current := new(bytes.Buffer)
	w = repodata.NewWriter(current, info)
	if err := repodata.WriteCurrent(w, l.entries(), repodata.CurrentOptions{Pins: PinnedLines}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := b.document(s.name+"/current_repodata.json", current.Bytes(), repodata.Plain); err != nil {
		return err
	}
	exports := new(bytes.Buffer)
	re := repodata.NewRunExportsWriter(exports, s.name)
	for _, r := range l.records {
		if r.bucket.V3() {
			continue // that document has no place for it; the shards carry it
		}
		if err := re.Record(r.bucket, r.key, r.exports); err != nil {
			return err
		}
	}
	if err := re.Close(); err != nil {
		return err
	}
	if err := b.document(s.name+"/run_exports.json", exports.Bytes(), repodata.Plain, repodata.Zstd); err != nil {
		return err
	}
	b.collect(l)
	if s.stale {
		return b.writeCache(s)
	}
	return nil
}

const shardIndex = "repodata_shards.msgpack.zst"

// writeShards writes a shard for each name, then the index that names them.
func (b *builder) writeShards(ctx context.Context, l *listing) error {
	dir := l.subdir + "/shards"
	if err := b.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	byName := map[string]*repodata.Shard{}
	shard := func(name string) *repodata.Shard {
		if byName[name] == nil {
			byName[name] = new(repodata.Shard)
		}
		return byName[name]
	}
	for _, r := range l.records {
		s := shard(r.name)
		s.Records = append(s.Records, repodata.ShardRecord{Bucket: r.bucket, Key: r.key, Raw: r.raw, RunExports: r.exports})
	}
	for _, file := range l.removed {
		if d, err := dist.ParseFilename(file); err == nil {
			s := shard(d.Name)
			s.Removed = append(s.Removed, file)
		}
	}
	names := slices.Sorted(maps.Keys(byName))
	digests := make([][32]byte, len(names))
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range max(1, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(names) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				data, digest, err := repodata.BuildShard(*byName[names[i]])
				if err != nil {
					return fmt.Errorf("shard of %s: %w", names[i], err)
				}
				digests[i] = digest
				file := dir + "/" + repodata.ShardPath(digest)
				if info, err := b.root.Stat(file); err == nil && info.Size() == int64(len(data)) {
					continue
				}
				if err := b.replace(file, data); err != nil {
					return err
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	ix := repodata.ShardIndex{Subdir: l.subdir, ShardsBaseURL: "./shards/", Shards: make(map[string][32]byte, len(names))}
	keep := make(map[string]bool, len(names))
	for i, name := range names {
		ix.Shards[name] = digests[i]
		keep[hex.EncodeToString(digests[i][:])] = true
	}
	data, err := repodata.BuildIndex(ix)
	if err != nil {
		return err
	}
	if err := b.document(l.subdir+"/"+shardIndex, data, repodata.Plain); err != nil {
		return err
	}
	return b.dropShards(dir, keep)
}

// dropShards deletes shards that no index has named for a while.
func (b *builder) dropShards(dir string, keep map[string]bool) error {
	list, err := fs.ReadDir(b.root.FS(), dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		digest, ok := strings.CutSuffix(e.Name(), ".msgpack.zst")
		if !ok || keep[digest] {
			continue
		}
		info, err := e.Info()
		if err == nil && b.opts.Now().Sub(info.ModTime()) > staleShards {
			err = b.remove(dir + "/" + e.Name())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// collect takes a subdir into channeldata.json.
func (b *builder) collect(l *listing) {
	b.data.AddSubdir(l.subdir)
	for _, r := range l.records {
		rec, err := repodata.ParseRecord(r.raw)
		if err != nil {
			continue // it is listed; only the web pages miss it
		}
		b.data.Add(repodata.ChannelFile{
			Name: rec.Name, Version: rec.Version, BuildNumber: rec.BuildNumber, Subdir: l.subdir, Timestamp: rec.Timestamp,
			License: rec.License, RunExports: r.exports, Facts: r.entry.Facts,
		})
	}
}

func (b *builder) writeChannelData() error {
	var buf bytes.Buffer
	if err := b.data.Write(&buf); err != nil {
		return err
	}
	return b.document("channeldata.json", buf.Bytes(), repodata.Plain)
}

// document writes a file in several encodings. The packed forms follow from the plain one, so they are made only if that
// is new or if they are missing.
func (b *builder) document(name string, data []byte, forms ...repodata.Encoding) error {
	old, err := b.root.ReadFile(name)
	same := err == nil && bytes.Equal(old, data)
	for _, enc := range slices.Backward(forms) { // the plain one last: if this is cut short, the next run sees that it differs
		if enc == repodata.Plain {
			if !same {
				if err := b.replace(name, data); err != nil {
					return err
				}
			}
			continue
		}
		file := name + "." + string(enc)
		if _, err := b.root.Stat(file); same && err == nil {
			continue
		}
		var buf bytes.Buffer
		w, err := repodata.NewEncoder(&buf, enc)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		if err := b.replace(file, buf.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// replace puts a file in place in one step.
func (b *builder) replace(name string, data []byte) error {
	dir, base := path.Split(name)
	if dir != "" {
		if err := b.root.MkdirAll(path.Clean(dir), 0o755); err != nil {
			return err
		}
	}
	tmp := dir + "." + base + ".new"
	f, err := b.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	if err = errors.Join(err, f.Close()); err == nil {
		err = b.root.Rename(tmp, name)
	}
	if err != nil {
		err = errors.Join(err, b.remove(tmp))
	}
	return err
}

func (b *builder) remove(name string) error {
	if err := b.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
