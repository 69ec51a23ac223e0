package plane

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// record is what is known of a file before it is fetched.
type record struct {
	fact
	base, dir, name string // where upstream has it; see where
	max             int64  // bytes, if the size is not known
	// basis is the family that says so, and generation the one that it was of; empty if the name says it all.
	basis, generation string
}

// lookup finds what the upstream's index says of a package file. NotFound with reasonUnlisted means that there is an
// index which does not list it; with reasonNoIndex, that there is none.
//
// An index that is held will do, whatever its age: if it is wrong about the file, that shows, and it is read again. Only
// what it does not list makes it be asked for before its time is over.
func (p *Plane) lookup(ctx context.Context, c *channel, dir, name string) (record, error) {
	held, err := p.holdings(ctx, c, dir)
	if err != nil {
		return record{}, err
	}
	if len(held) == 0 {
		return p.lookupFirst(ctx, c, dir, name)
	}
	for _, h := range held {
		if rec, ok, err := p.find(ctx, c, h.k, h.st, name); ok || err != nil {
			return rec, err
		}
	}
	for _, h := range held {
		if h.st.age() < p.ttl(c, h.k) {
			continue
		}
		v, err := p.index(ctx, c, h.k)
		if err != nil {
			return record{}, err
		}
		if v.Generation == h.st.Generation {
			continue
		}
		if rec, ok, err := p.find(ctx, c, h.k, v.state, name); ok || err != nil {
			return rec, err
		}
	}
	return record{}, unlisted(dir, name)
}

const (
	reasonUnlisted = "NOT_LISTED"
	reasonNoIndex  = "NO_INDEX"
)

func unlisted(dir, name string) error {
	return fault.New(fault.NotFound, "the index of %s does not list %s", dir, name).WithReason(reasonUnlisted)
}

// lookupFirst reads the first index of a directory: that of shards if there is one, since it is small.
func (p *Plane) lookupFirst(ctx context.Context, c *channel, dir, name string) (record, error) {
	var broken error
	for _, family := range []string{familyShards, familyFull} {
		k := familyKey{family, dir}
		v, err := p.index(ctx, c, k)
		if err != nil {
			if ctx.Err() != nil {
				return record{}, context.Cause(ctx)
			}
			if !fault.Is(err, fault.NotFound) && broken == nil {
				broken = err
			}
			continue
		}
		rec, ok, err := p.find(ctx, c, k, v.state, name)
		if !ok && err == nil {
			err = unlisted(dir, name)
		}
		return rec, err
	}
	if broken != nil {
		return record{}, broken
	}
	return record{}, fault.New(fault.NotFound, "upstream has no index in %s", dir).WithReason(reasonNoIndex)
}

type holding struct {
	k  familyKey
	st *state
}

// holdings are the families of a directory that were read, the one that was checked last first.
func (p *Plane) holdings(ctx context.Context, c *channel, dir string) (out []holding, err error) {
	for _, family := range []string{familyShards, familyFull} {
		k := familyKey{family, dir}
		st, err := p.held(ctx, c, k)
		if err != nil {
			return nil, err
		}
		if st != nil {
			out = append(out, holding{k, st})
		}
	}
	slices.SortStableFunc(out, func(a, b holding) int { return cmp.Compare(a.st.Age, b.st.Age) })
	return out, nil
}

// find looks a file up in one family.
func (p *Plane) find(ctx context.Context, c *channel, k familyKey, st *state, name string) (record, bool, error) {
	index, err := openFacts(ctx, p.deps.Blobs, st.Facts)
	if err != nil {
		return record{}, false, err
	}
	defer index.Close()
	rec := record{base: st.Base, dir: k.dir, name: name, max: p.deps.MaxFileSize, basis: k.String(), generation: st.Generation}
	if k.family == familyFull {
		f, ok, err := index.find(name)
		rec.fact = f
		return rec, ok, err
	}
	pkg, ok := packageOf(name)
	if !ok {
		return rec, false, nil
	}
	f, ok, err := index.find(pkg)
	if !ok || err != nil {
		return rec, false, err
	}
	shard, err := p.shard(ctx, c, k.dir, st.ShardsBase, [32]byte(f.sha256))
	if err != nil {
		return rec, false, err
	}
	for _, r := range shard.Records {
		if r.Bucket.Filename(r.Key) == name {
			rec.fact, err = recordFact(r.Raw)
			return rec, err == nil, nil // one that cannot be read is one that cannot be had
		}
	}
	return rec, false, nil
}

// reread asks upstream again for the indexes of a directory, after a file was not what they say, and returns what they
// say now.
func (p *Plane) reread(ctx context.Context, c *channel, dir, name string) (record, error) {
	held, err := p.holdings(ctx, c, dir)
	if err != nil {
		return record{}, err
	}
	for _, h := range held {
		r, err := p.refresh(ctx, c, h.k, true, time.Now())
		if err != nil {
			return record{}, err
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			return record{}, context.Cause(ctx)
		}
	}
	return p.lookup(ctx, c, dir, name)
}

// same reports whether two records ask for the same bytes.
func (r record) same(other record) bool {
	return bytes.Equal(r.want(), other.want()) && r.size == other.size && r.base == other.base
}
