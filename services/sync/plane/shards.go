package plane

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/sync"
)

const (
	// maxShard bounds a shard as it is received; unpacked it has at most 64 MiB.
	maxShard = 64 << 20
	// maxShardIndex bounds an index of shards as it is received; the largest public one has less than a megabyte.
	maxShardIndex = 64 << 20
	// maxNarrowed bounds how many shards the lists can make us read while an index is read.
	maxNarrowed = 10_000
)

// fetchShards gets the index of shards and rewrites it, so that files and shards are found here. nil means that it has
// not changed.
func (p *Plane) fetchShards(ctx context.Context, c *channel, remote *fetch.Remote, k familyKey, old *state) (*state, error) {
	req := conditional(old, join(k.dir, nameShards), false)
	req.MaxSize = maxShardIndex
	info, res, err := p.download(ctx, remote, req, nil, blob.PutOptions{})
	if err != nil {
		if s := fetch.StatusOf(err); s == 501 || s == 405 { // as good as "no shards": clients say so too
			err = fault.New(fault.NotFound, "%w", err)
		}
		return nil, err
	}
	if res.NotModified {
		if same, err := p.unchanged(ctx, c, k, old, res); same || err != nil {
			return nil, err
		}
		return p.fetchShards(ctx, c, remote, k, nil)
	}
	st := &state{
		Source: req.Path, ETag: res.ETag, LastModified: timeOf(res.LastModified), SourceDigest: info.Digest[:],
		Generation: generationOf(c, info.Digest), ModifiedAt: res.LastModified,
	}
	if st.ModifiedAt.IsZero() {
		st.ModifiedAt = time.Now()
	}
	if old != nil {
		if old.Generation == st.Generation {
			return st, nil
		}
		st.Former = old.Facts
	}
	return st, p.readShards(ctx, c, remote, k, st, info)
}

func (p *Plane) readShards(ctx context.Context, c *channel, remote *fetch.Remote, k familyKey, st *state, info blob.Info) error {
	data, err := blob.ReadAll(ctx, p.deps.Blobs, info.Digest, maxShardIndex)
	if err != nil {
		return err
	}
	ix, err := repodata.ParseIndex(data, repodata.ParseOptions{Problem: func(*repodata.Error) error { return nil }})
	if err != nil {
		return fault.New(fault.Upstream, "the index of shards cannot be read: %w", err)
	}
	if ix.BaseURL != "" {
		u, err := sync.JoinBase(remote.BaseURL(), st.Source, ix.BaseURL)
		if err != nil {
			return err
		}
		st.Base = u.String()
	}
	// Also an empty one: then shards lie beside the index.
	u, err := sync.JoinBase(remote.BaseURL(), st.Source, "./"+ix.ShardsBaseURL)
	if strings.Contains(ix.ShardsBaseURL, "://") || strings.HasPrefix(ix.ShardsBaseURL, "/") {
		u, err = sync.JoinBase(remote.BaseURL(), st.Source, ix.ShardsBaseURL)
	}
	if err != nil {
		return err
	}
	st.ShardsBase = u.String()
	if narrowed(c.mirror()) {
		if err := p.narrowShards(ctx, c, k, st, ix); err != nil {
			return err
		}
	}
	facts := &factsBuilder{}
	for name, d := range ix.Shards {
		facts.add(name, fact{sha256: d[:], size: -1})
		facts.add(shardsDir+"/"+repodata.ShardPath(d), fact{sha256: d[:], size: -1})
	}
	ix.BaseURL, ix.ShardsBaseURL = "", shardsDir+"/"
	out, err := repodata.BuildIndex(*ix)
	if err != nil {
		return fault.New(fault.Upstream, "the index of shards cannot be written again: %w", err)
	}
	put, err := p.deps.Blobs.Put(ctx, bytes.NewReader(out), blob.PutOptions{})
	if err != nil {
		return err
	}
	finfo, err := facts.put(ctx, p.deps.Blobs)
	if err != nil {
		return err
	}
	for _, b := range []blob.Info{put, finfo} {
		if err := p.hold(ctx, b); err != nil {
			return err
		}
	}
	doc := document{put.Digest, put.Size}
	st.Facts, st.Body = finfo.Digest[:], body{doc, string(repodata.Zstd)}
	st.Documents = map[string]document{join(k.dir, nameShards): doc}
	return nil
}

// Which files of a package the lists let in.
type share uint8

const (
	none share = iota
	some
	all
)

// shareOf goes by the package's name: all its files begin with the name and a hyphen.
func shareOf(m *channelsv1.MirrorSettings, name string) share {
	stem := name + "-"
	over := func(list []string) share { // how much of it the list's prefixes cover
		out := none
		for _, prefix := range list {
			switch {
			case strings.HasPrefix(stem, prefix):
				return all
			case strings.HasPrefix(prefix, stem):
				out = some
			}
		}
		return out
	}
	switch {
	case len(m.GetIncludelist()) > 0:
		return over(m.GetIncludelist())
	case len(m.GetExcludelist()) > 0:
		return all - over(m.GetExcludelist())
	}
	return all
}

// narrowShards applies the lists. A shard of which only a part is let in is written anew, under another digest.
func (p *Plane) narrowShards(ctx context.Context, c *channel, k familyKey, st *state, ix *repodata.ShardIndex) error {
	var parts []string
	for name := range ix.Shards {
		switch shareOf(c.mirror(), name) {
		case none:
			delete(ix.Shards, name)
		case some:
			parts = append(parts, name)
		}
	}
	if len(parts) > maxNarrowed {
		return fault.New(fault.Precondition, "the lists of channel %s take parts of %d packages", c.GetChannel().GetName(), len(parts))
	}
	slices.Sort(parts)
	req := &channelsv1.RecordProxiedRequest{ChannelId: c.id.String(), Settings: c.settings}
	for _, name := range parts {
		d := ix.Shards[name]
		shard, err := p.shard(ctx, c, k.dir, st.ShardsBase, d)
		if err != nil {
			return fmt.Errorf("shard of %s: %w", name, err)
		}
		keep := func(filename string) bool { return sync.Wanted(c.mirror(), filename) }
		shard.Records = slices.DeleteFunc(shard.Records, func(r repodata.ShardRecord) bool { return !keep(r.Bucket.Filename(r.Key)) })
		shard.Removed = slices.DeleteFunc(shard.Removed, func(filename string) bool { return !keep(filename) })
		if len(shard.Records) == 0 && len(shard.Removed) == 0 {
			delete(ix.Shards, name)
			continue
		}
		data, digest, err := repodata.BuildShard(*shard)
		if err != nil {
			return fault.New(fault.Upstream, "shard of %s: %w", name, err)
		}
		info, err := p.deps.Blobs.Put(ctx, bytes.NewReader(data), blob.PutOptions{})
		if err != nil {
			return err
		}
		if err := p.hold(ctx, info); err != nil {
			return err
		}
		ix.Shards[name] = digest
		req.Files = append(req.Files, &channelsv1.ProxiedFile{
			Path: join(k.dir, shardsDir+"/"+repodata.ShardPath(digest)), Sha256: digest[:], Size: info.Size, Want: digest[:], UpdateTime: timestamppb.New(st.ModifiedAt),
		})
	}
	if len(req.Files) == 0 {
		return nil
	}
	_, err := p.deps.Channels.RecordProxied(ctx, req)
	return err
}

// shard returns a shard, from storage or from upstream.
func (p *Plane) shard(ctx context.Context, c *channel, dir, base string, digest [32]byte) (*repodata.Shard, error) {
	data, err := blob.ReadAll(ctx, p.deps.Blobs, digest, maxShard)
	if fault.Is(err, fault.NotFound) {
		name := repodata.ShardPath(digest)
		f, err := p.fly(ctx, c, join(dir, shardsDir+"/"+name), record{fact: fact{sha256: digest[:], size: -1}, base: base, dir: dir, name: name, max: maxShard})
		if err != nil {
			return nil, err
		}
		defer p.leave(f)
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		if data, err = blob.ReadAll(ctx, p.deps.Blobs, digest, maxShard); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	s, err := repodata.ParseShard(data, repodata.ParseOptions{Problem: func(*repodata.Error) error { return nil }})
	if err != nil {
		return nil, fault.New(fault.Upstream, "a shard cannot be read: %w", err)
	}
	return s, nil
}
