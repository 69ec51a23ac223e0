package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
)

// subdir is one subdir of one channel while it is read.
type subdir struct {
	loader  *loader
	channel *Channel
	subdir  string
	// found says that the channel has the subdir. Then either all is the whole of it, or names is its shard index, and parts
	// what was read of it.
	found bool
	all   *arena.Arena
	names *shardIndex

	mu    sync.Mutex
	parts *arena.Builder
	have  map[string]bool
}

// open takes the first index that the channel has. Shards come first where only some names matter: for all of them one file
// costs less than thousands.
func (s *subdir) open(ctx context.Context) error {
	tries := []func(context.Context) error{s.shards, s.whole("repodata.json.zst"), s.whole("repodata.json.bz2"), s.whole("repodata.json")}
	if s.loader.opts.Names == nil {
		tries[0], tries[1] = tries[1], tries[0]
	}
	for _, try := range tries {
		err := try(ctx)
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s/%s: %w", s.channel.URL, s.subdir, err)
		}
		s.found = true
		return nil
	}
	return nil
}

// relations are those that the subdir's index declares (CEP 42), as JSON.
func (s *subdir) relations() []byte {
	switch {
	case s.all != nil:
		return s.all.Info.ChannelRelations
	case s.names != nil:
		return s.names.ChannelRelations
	}
	return nil
}

// repo is what was read, as the solver takes it.
func (s *subdir) repo() (solve.Repo, error) {
	r := solve.Repo{
		Channel: s.channel.URL, Subdir: s.subdir, Arena: s.all,
		Resolve: func(ref string) string { return resolve(s.base(), ref) },
	}
	if s.all != nil {
		var err error
		r.Base, err = s.baseOf(s.all.Info.BaseURL)
		return r, err
	}
	var err error
	if r.Arena, err = s.builder().Finish(); err != nil || s.names == nil {
		return r, err
	}
	if r.Base, err = s.baseOf(s.names.BaseURL); err != nil {
		return r, err
	}
	r.Partial = len(s.have) < len(s.names.Shards)
	r.Listed = maps.Keys(s.names.Shards)
	return r, nil
}

func (s *subdir) builder() *arena.Builder {
	if s.parts == nil {
		s.parts = arena.NewBuilder(arena.Options{Subdir: s.subdir, Problem: s.loader.warn})
	}
	return s.parts
}

// leads calls yield for each spec that the packages of a name depend on.
func (s *subdir) leads(name string, yield func(string)) {
	if s.all != nil {
		s.all.Specs(name, yield)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts != nil {
		s.parts.Specs(name, yield)
	}
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
// Only a channel on this machine has packages on this machine: a stranger's index must not name its files.
func (s *subdir) baseOf(baseURL string) (string, error) {
	base := resolve(s.base(), baseURL)
	if !strings.HasSuffix(base, "/") {
		base += "/"
	}
	if base == s.base() {
		return "", nil
	}
	if onMachine(base) && !onMachine(s.channel.URL) {
		return "", fmt.Errorf("base_url is %q, and only a channel on this machine can have its packages there", baseURL)
	}
	return base, nil
}

func onMachine(url string) bool {
	scheme, _, ok := strings.Cut(url, ":")
	return ok && strings.EqualFold(scheme, "file")
}

// whole reads a file that has all records: from its snapshot if the file is as it was, else as a stream, of which a snapshot
// is made.
func (s *subdir) whole(file string) func(context.Context) error {
	return func(ctx context.Context) error {
		for distrusted := false; ; distrusted = true {
			a, err := s.loader.ask(ctx, s.channel, s.subdir+"/"+file, s.loader.opts.MaxFile, false, distrusted)
			if err != nil {
				return err
			}
			err = s.document(ctx, a, file)
			a.close()
			if errors.Is(err, errRotten) && !distrusted {
				continue // the source is asked then
			}
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return nil
		}
	}
}

func (s *subdir) document(ctx context.Context, a *answer, file string) error {
	body, size := a.body, a.size
	if a.kept != nil {
		if s.all = a.cache.snapshot(a.url, a.kept.Sum, s.subdir); s.all != nil {
			for _, text := range s.all.Problems {
				s.loader.warn(errors.New(text))
			}
			return nil
		}
		body, size = a.kept.reader(), a.kept.Size
	}
	enc := repodata.EncodingOf(file)
	if enc != repodata.Plain {
		size *= 6 // as repodata usually shrinks
	}
	in := &failing{ctx: ctx, r: body}
	var stream *ahead
	fail := func(err error) error {
		if stream != nil {
			stream.Close() // it reads from in
			stream = nil
		}
		return in.or(err)
	}
	dec, err := repodata.NewDecoder(in, enc, repodata.DecodeLimits{Size: s.loader.opts.MaxIndex})
	if err != nil {
		return fail(err)
	}
	defer dec.Close()
	stream = newAhead(dec)
	defer func() {
		if stream != nil {
			stream.Close()
		}
	}()
	records, err := arena.Read(stream, arena.Options{Subdir: s.subdir, Problem: s.loader.warn, Size: size})
	if err != nil {
		return fail(err)
	}
	if err := fail(nil); err != nil { // to the end, also of what stands behind the last frame
		return err
	}
	s.all = records
	sum := ""
	if a.kept != nil {
		sum = a.kept.Sum
	} else if sum, err = a.keep(); err != nil {
		s.loader.warn(err)
		return nil
	}
	if sum != "" {
		s.loader.warn(a.cache.putSnapshot(a.url, sum, records))
	}
	return nil
}

// failing remembers how a reader failed: decoders tell it in words of their own. It fails when its context ends, since a file
// on disk would be read to its end.
type failing struct {
	ctx context.Context
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (f *failing) Read(p []byte) (int, error) {
	if f.err == nil {
		f.err = context.Cause(f.ctx)
	}
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}

// or returns what the reader failed with, if anything: then err is but what that led to. It reads to the end, where a damaged
// copy is found out.
func (f *failing) or(err error) error {
	if f.err == nil {
		_, _ = io.Copy(io.Discard, f)
	}
	if f.err != nil {
		return f.err
	}
	return err
}

const (
	maxShardIndex = 128 << 20
	maxShard      = 64 << 20
)

// shardIndex is where the shards of a subdir are.
type shardIndex struct {
	*repodata.ShardIndex
	at string // what is put before a shard's file name
}

// shards reads the sharded index (CEP 16).
func (s *subdir) shards(ctx context.Context) error {
	const file = "repodata_shards.msgpack.zst"
	data, err := s.loader.read(ctx, s.channel, s.subdir+"/"+file, maxShardIndex, false)
	if err != nil {
		return err
	}
	problem := func(e *repodata.Error) error { s.loader.warn(fmt.Errorf("%s/%s: %w", s.subdir, file, e)); return nil }
	ix, err := repodata.ParseIndex(data, repodata.ParseOptions{Problem: problem})
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	at := resolve(s.base(), ix.ShardsBaseURL)
	if !strings.HasSuffix(at, "/") {
		at += "/"
	}
	s.names = &shardIndex{ix, at}
	return nil
}

// read brings the packages of a name, unless all of them are there.
func (s *subdir) read(ctx context.Context, name string) error {
	if s.names == nil {
		return nil
	}
	digest, ok := s.names.Shards[name]
	if !ok {
		return nil
	}
	shard, err := s.shard(ctx, s.names.at+repodata.ShardPath(digest), digest)
	if err != nil {
		return fmt.Errorf("%s/%s: %s: %w", s.channel.URL, s.subdir, name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have[name] = true
	b := s.builder()
	for _, r := range shard.Records {
		if repodata.NameOfKey(r.Bucket, r.Key) != name {
			s.loader.warn(fmt.Errorf("%s: %s is in the shard of %s", s.subdir, r.Key, name))
			continue
		}
		b.Add(r.Bucket, r.Key, r.Raw)
	}
	return nil
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
