package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
)

// subdir is one subdir of one channel while it is read.
type subdir struct {
	loader  *loader
	channel *Channel
	subdir  string
	index   *index // nil if the channel lacks the subdir

	mu   sync.Mutex
	have map[string][]*solve.Package // by name, in the order of the index
}

// index is what a subdir offers, by name.
type index struct {
	names   func(yield func(string) bool)
	records func(ctx context.Context, name string, yield func(repodata.Entry) error) error
	// base is put before file names: an absolute URL.
	base string
}

// open takes the first index that the channel has.
func (s *subdir) open(ctx context.Context) error {
	for _, try := range []func(context.Context) (*index, error){
		s.shards, s.whole("repodata.json.zst"), s.whole("repodata.json.bz2"), s.whole("repodata.json"),
	} {
		ix, err := try(ctx)
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s/%s: %w", s.channel.URL, s.subdir, err)
		}
		s.index = ix
		return nil
	}
	return nil
}

// read brings the packages of a name.
func (s *subdir) read(ctx context.Context, name string) error {
	var list []*solve.Package
	seen := map[string]bool{}
	err := s.index.records(ctx, name, func(e repodata.Entry) error {
		rec, err := repodata.ParseRecord(e.Raw)
		if err != nil {
			s.loader.warn(err)
			return nil
		}
		p := &solve.Package{Record: rec, Channel: s.channel.URL, FileName: e.Bucket.Filename(e.Key)}
		switch {
		case seen[p.FileName]:
			s.loader.warn(fmt.Errorf("%s/%s is listed twice", s.subdir, p.FileName))
			return nil
		case rec.Name != name:
			s.loader.warn(fmt.Errorf("%s/%s says that it is %s", s.subdir, p.FileName, rec.Name))
			return nil
		}
		seen[p.FileName] = true
		if p.Subdir == "" {
			p.Subdir = s.subdir
		}
		if p.Record.URL == "" && s.index.base != "" {
			p.Record.URL = s.index.base + p.FileName
		} else if p.Record.URL != "" {
			p.Record.URL = resolve(s.base(), p.Record.URL)
		}
		list = append(list, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s/%s: %s: %w", s.channel.URL, s.subdir, name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[name] = list
	return nil
}

// base is where the subdir's own files are.
func (s *subdir) base() string { return s.channel.URL + "/" + s.subdir + "/" }

// resolve makes a reference of an index absolute (CEP 15, CEP 16); base ends in a slash. An empty one is the base itself.
func resolve(base, ref string) string {
	switch {
	case ref == "":
		return base
	case strings.Contains(ref, "://"):
		return ref
	case strings.HasPrefix(ref, "/"):
		scheme, rest, ok := strings.Cut(base, "://")
		host, _, _ := strings.Cut(rest, "/")
		if !ok {
			return ref
		}
		return scheme + "://" + host + ref
	}
	scheme, rest, ok := strings.Cut(base, "://")
	if !ok {
		return joined(base, ref)
	}
	return scheme + "://" + joined(rest, ref)
}

func joined(base, ref string) string {
	out := path.Join(base, ref)
	if strings.HasSuffix(ref, "/") || strings.HasSuffix(ref, ".") {
		out += "/"
	}
	return out
}

// baseOf is what is put before file names; empty if they lie beside the index, so that packages need no URL of their own.
func (s *subdir) baseOf(baseURL string) string {
	base := resolve(s.base(), baseURL)
	if !strings.HasSuffix(base, "/") {
		base += "/"
	}
	if base == s.base() {
		return ""
	}
	return base
}

// whole reads a file that has all records.
func (s *subdir) whole(file string) func(context.Context) (*index, error) {
	return func(ctx context.Context) (*index, error) {
		data, err := s.loader.read(ctx, s.channel, s.subdir+"/"+file, s.loader.opts.MaxFile, false)
		if err != nil {
			return nil, err
		}
		if enc := repodata.EncodingOf(file); enc != repodata.Plain {
			dec, err := repodata.NewDecoder(bytes.NewReader(data), enc, repodata.DecodeLimits{Size: s.loader.opts.MaxIndex})
			if err != nil {
				return nil, err
			}
			defer dec.Close()
			buf := bytes.NewBuffer(make([]byte, 0, min(int64(len(data))*8, s.loader.opts.MaxIndex)))
			if _, err := io.Copy(buf, dec); err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			data = buf.Bytes()
		}
		sparse, err := repodata.OpenSparse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		problem := func(e *repodata.Error) error {
			s.loader.warn(fmt.Errorf("%s/%s: %w", s.subdir, file, e))
			return nil
		}
		return &index{
			names: sparse.Names, base: s.baseOf(sparse.Info.BaseURL),
			records: func(_ context.Context, name string, yield func(repodata.Entry) error) error {
				return sparse.Records(name, problem, yield)
			},
		}, nil
	}
}

const (
	maxShardIndex = 128 << 20
	maxShard      = 64 << 20
)

// shards reads the sharded index (CEP 16).
func (s *subdir) shards(ctx context.Context) (*index, error) {
	const file = "repodata_shards.msgpack.zst"
	data, err := s.loader.read(ctx, s.channel, s.subdir+"/"+file, maxShardIndex, false)
	if err != nil {
		return nil, err
	}
	problem := func(e *repodata.Error) error { s.loader.warn(fmt.Errorf("%s/%s: %w", s.subdir, file, e)); return nil }
	ix, err := repodata.ParseIndex(data, repodata.ParseOptions{Problem: problem})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	shards := resolve(s.base(), ix.ShardsBaseURL)
	if !strings.HasSuffix(shards, "/") {
		shards += "/"
	}
	return &index{
		names: func(yield func(string) bool) {
			for name := range ix.Shards {
				if !yield(name) {
					return
				}
			}
		},
		base: s.baseOf(ix.BaseURL),
		records: func(ctx context.Context, name string, yield func(repodata.Entry) error) error {
			digest, ok := ix.Shards[name]
			if !ok {
				return nil
			}
			shard, err := s.shard(ctx, shards+repodata.ShardPath(digest), digest)
			if err != nil {
				return err
			}
			for _, r := range shard.Records {
				if err := yield(repodata.Entry{Bucket: r.Bucket, Key: r.Key, Raw: r.Raw}); err != nil {
					return err
				}
			}
			return nil
		},
	}, nil
}

// shard reads one shard and checks that it is the one that the index means.
func (s *subdir) shard(ctx context.Context, url string, digest [32]byte) (*repodata.Shard, error) {
	at := url
	if rest, ok := strings.CutPrefix(url, s.channel.URL+"/"); ok {
		at = rest
	}
	data, err := s.loader.read(ctx, s.channel, at, maxShard, true)
	if missing(err) {
		return nil, fmt.Errorf("the index names a shard that is not there (%s): the channel changes, try again", url)
	}
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(data) != digest {
		return nil, fmt.Errorf("%s is not what the index says: its digest differs", url)
	}
	return repodata.ParseShard(data, repodata.ParseOptions{Problem: func(e *repodata.Error) error {
		s.loader.warn(fmt.Errorf("%s: %w", url, e))
		return nil
	}})
}
