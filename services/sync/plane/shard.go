package plane

import (
	"context"
	"net/http"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// serveShard answers with a shard that an index of ours names, or did before the last change: clients may still have it.
func (p *Plane) serveShard(w http.ResponseWriter, r *http.Request, c *channel, path, dir, name string) error {
	k := familyKey{familyShards, dir}
	st, err := p.held(r.Context(), c, k)
	if err != nil {
		return err
	}
	if st == nil {
		v, err := p.index(r.Context(), c, k)
		if err != nil {
			return err
		}
		st = v.state
	}
	for _, digest := range [][]byte{st.Facts, st.Former} {
		if len(digest) == 0 {
			continue
		}
		index, err := openFacts(r.Context(), p.deps.Blobs, digest)
		if err != nil {
			return err
		}
		_, ok, err := index.find(shardsDir + "/" + name)
		index.Close()
		if err != nil {
			return err
		}
		if ok {
			rec := record{fact: fact{sha256: shardDigest(name), size: -1}, base: st.ShardsBase, dir: dir, name: name, max: maxShard}
			f, err := p.fly(r.Context(), c, path, rec)
			if err != nil {
				return err
			}
			defer p.leave(f)
			err = p.follow(w, r, f)
			if fault.Is(err, fault.NotFound) && narrowed(c.mirror()) { // it may be one that we wrote, and lost
				return p.rewritten(w, r, c, k, rec, err)
			}
			return err
		}
	}
	return unlisted(dir, shardsDir+"/"+name)
}

// rewritten answers with a shard that only we have, since the lists left out parts of it. It is made again from upstream's
// index, if that has not changed; otherwise the next revalidation makes others.
func (p *Plane) rewritten(w http.ResponseWriter, r *http.Request, c *channel, k familyKey, rec record, lost error) error {
	ctx := r.Context()
	have := func(ctx context.Context) (bool, error) {
		_, _, err := p.stored(ctx, rec)
		if fault.Is(err, fault.NotFound) {
			return false, nil
		}
		return err == nil, err
	}
	tried := c.key("rewritten\x00" + k.String() + rec.name)
	if err := p.negative.get(tried); err != nil {
		return err
	}
	if err := p.leases.with(ctx, c.id, "index:"+k.String(), have, func(ctx context.Context) error {
		remote, err := p.deps.Open(ctx, c.GetChannel())
		if err != nil {
			return err
		}
		_, err = p.fetchShards(ctx, c, remote, k, nil)
		return err
	}); err != nil {
		return err
	}
	info, modified, err := p.stored(ctx, rec)
	if fault.Is(err, fault.NotFound) {
		p.negative.put(tried, lost, p.cfg.NegativeTTL)
		return lost
	}
	if err != nil {
		return err
	}
	p.tel.request(ctx, outcomeMiss)
	return p.answer(w, resolved(&channelsv1.ProxiedFile{
		Sha256: info.Digest[:], Size: info.Size, Want: rec.want(), UpdateTime: timestamppb.New(modified),
	}), view{})
}
