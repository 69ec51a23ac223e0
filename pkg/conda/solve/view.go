package solve

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// view is an index as one kind of request sees it: with its virtual packages and its order of candidates. What it
// finds out about specs it keeps, so a service that solves for a few platforms pays for sorting once. Views are safe
// for concurrent use.
type view struct {
	key     string // "" for a view that belongs to a single request
	ix      *Index
	extra   []*candidate // ids follow those of the index
	overlay map[string]*group
	low     bool // compare dependencies for the lowest version
	ranked  bool // the channel comes before the version (flexible priority)

	// Of a view that belongs to one request:
	specs    *specTable // of the candidates that are not in the index
	override func([]requirement) []requirement
	ownDeps  sync.Map // id → *deps, of those candidates, and of all where override is set

	matches sync.Map // *spec → bitset
	orders  sync.Map // orderKey → *order
	sorted  sync.Map // sortedKey → []int32
	bests   sync.Map // *spec → best
}

// maxViews bounds the views an index keeps: sets of virtual packages are few in practice, but strangers choose them.
const maxViews = 8

// sharedView returns the view for a key, made if need be.
func (ix *Index) sharedView(key string, build func() (*view, error)) (*view, error) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	at := slices.IndexFunc(ix.views, func(v *view) bool { return v.key == key })
	if at >= 0 {
		v := ix.views[at]
		copy(ix.views[1:at+1], ix.views[:at])
		ix.views[0] = v
		return v, nil
	}
	v, err := build()
	if err != nil {
		return nil, err
	}
	v.key = key
	ix.views = slices.Insert(ix.views, 0, v)
	if len(ix.views) > maxViews {
		ix.views = ix.views[:maxViews]
	}
	return v, nil
}

// addExtra adds a candidate that is not in the index.
func (v *view) addExtra(p *Package, virtual bool, ver *version.Version) int32 {
	g := v.overlay[p.Name]
	if g == nil {
		g = &group{name: p.Name}
		if base := v.ix.group(p.Name); base != nil {
			g.cands, g.versions, g.verOf = slices.Clone(base.cands), slices.Clone(base.versions), slices.Clone(base.verOf)
		}
		v.overlay[p.Name] = g
	}
	id := int32(len(v.ix.cands) + len(v.extra))
	c := &candidate{
		version: ver, group: g, pos: int32(len(g.cands)), channel: int32(len(v.ix.channels)),
		feature: len(p.TrackFeatures) > 0, virtual: virtual,
	}
	c.pkgOf, c.build, c.number, c.timestamp = p, p.Build, p.BuildNumber, p.Timestamp
	v.extra = append(v.extra, c)
	g.append(id, ver)
	return id
}

func (v *view) cand(id int32) *candidate {
	if n := len(v.ix.cands); int(id) >= n {
		return v.extra[int(id)-n]
	}
	return v.ix.cands[id]
}

// group returns the candidates of a name, or nil.
func (v *view) group(name string) *group {
	if g, ok := v.overlay[name]; ok {
		return g
	}
	return v.ix.group(name)
}

// deps returns the dependencies of a candidate.
func (v *view) deps(id int32) *deps {
	c := v.cand(id)
	if c.virtual {
		return &deps{}
	}
	if outside := int(id) >= len(v.ix.cands); outside || v.override != nil {
		if d, ok := v.ownDeps.Load(id); ok {
			return d.(*deps)
		}
		table := v.ix.specs
		if outside {
			table = v.specs
		}
		d := table.dependencies(&c.file, v.override)
		v.ownDeps.Store(id, d)
		return d
	}
	if d := c.deps.Load(); d != nil {
		return d
	}
	d := v.ix.specs.dependencies(&c.file, nil)
	c.deps.Store(d)
	return d
}

// keeps reports whether the view may remember a spec: one that is shared must not collect those of each request.
func (v *view) keeps(s *spec) bool { return !s.local || v.key == "" }

// bitset has a bit for each candidate of a group.
type bitset []uint64

func (b bitset) has(i int32) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bitset) set(i int32)      { b[i>>6] |= 1 << (i & 63) }

// match returns which candidates of its group a spec selects. The group must not be nil.
func (v *view) match(s *spec, g *group) bitset {
	if b, ok := v.matches.Load(s); ok {
		return b.(bitset)
	}
	b := make(bitset, (len(g.cands)+63)/64)
	ms := s.match
	var fits []bool
	if !ms.Version.IsZero() {
		fits = make([]bool, len(g.versions))
		for i, ver := range g.versions {
			fits[i] = ms.Version.Match(*ver)
		}
	}
	for i, id := range g.cands {
		if fits != nil && !fits[g.verOf[i]] {
			continue
		}
		c := v.cand(id)
		if c.virtual {
			// A virtual package has a version and a build, and nothing else to ask for.
			if !ms.Build.Match(c.build) {
				continue
			}
		} else {
			mc := c.matchable(ms)
			if !ms.MatchAfterVersion(&mc) {
				continue
			}
		}
		b.set(int32(i))
	}
	if !v.keeps(s) {
		return b
	}
	actual, _ := v.matches.LoadOrStore(s, b)
	return actual.(bitset)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// compareBasic orders by what a candidate itself says: records with track_features last, the channel where its
// priority is flexible, then the version and the build number.
func compareBasic(a, b *candidate, low, ranked bool) int {
	if a.feature != b.feature {
		if a.feature {
			return 1
		}
		return -1
	}
	if ranked && a.channel != b.channel {
		return cmp.Compare(a.channel, b.channel)
	}
	if a.version != b.version {
		if c := version.Compare(*b.version, *a.version); c != 0 {
			if low {
				return -c
			}
			return c
		}
	}
	return cmp.Compare(b.number, a.number)
}

type orderKey struct {
	group *group
	low   bool
}

// order is a group sorted by compareBasic. Candidates of one class are equal in it.
type order struct {
	ids   []int32
	class []int32
}

func (v *view) order(g *group, low bool) *order {
	key := orderKey{g, low}
	if o, ok := v.orders.Load(key); ok {
		return o.(*order)
	}
	o := &order{ids: slices.Clone(g.cands), class: make([]int32, len(g.cands))}
	slices.SortStableFunc(o.ids, func(a, b int32) int { return compareBasic(v.cand(a), v.cand(b), low, v.ranked) })
	for i := 1; i < len(o.ids); i++ {
		o.class[i] = o.class[i-1]
		if compareBasic(v.cand(o.ids[i-1]), v.cand(o.ids[i]), low, v.ranked) != 0 {
			o.class[i]++
		}
	}
	actual, _ := v.orders.LoadOrStore(key, o)
	return actual.(*order)
}
