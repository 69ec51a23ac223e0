package solve

import (
	"cmp"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

type sortedKey struct {
	spec *spec
	low  bool
}

// candidates returns what a spec selects, best first. The order is the contract of this package; see the package
// comment. low asks for the lowest version of this name first.
func (v *view) candidates(s *spec, low bool) []int32 {
	key := sortedKey{s, low}
	if ids, ok := v.sorted.Load(key); ok {
		return ids.([]int32)
	}
	g := v.group(s.name)
	if g == nil {
		return nil
	}
	matched := v.match(s, g)
	o := v.order(g, low)
	var ids []int32
	start, class := 0, int32(-1)
	for i, id := range o.ids {
		if o.class[i] != class {
			v.sortEquals(ids[start:])
			start, class = len(ids), o.class[i]
		}
		if matched.has(v.cand(id).pos) {
			ids = append(ids, id)
		}
	}
	v.sortEquals(ids[start:])
	if !v.keeps(s) {
		return ids
	}
	actual, _ := v.sorted.LoadOrStore(key, ids)
	return actual.([]int32)
}

// best is the highest version among the candidates of a spec, excluded ones included, and whether the first such
// candidate has track_features.
type best struct {
	version *version.Version // nil if there is none
	feature bool
}

func (v *view) best(s *spec) best {
	if b, ok := v.bests.Load(s); ok {
		return b.(best)
	}
	var out best
	if g := v.group(s.name); g != nil && s.extra == "" {
		matched := v.match(s, g)
		for i, id := range g.cands {
			if !matched.has(int32(i)) {
				continue
			}
			if c := v.cand(id); out.version == nil || out.version != c.version && version.Compare(*out.version, *c.version) < 0 {
				out = best{c.version, c.feature}
			}
		}
	}
	if v.keeps(s) {
		v.bests.Store(s, out)
	}
	return out
}

// compare puts the better one first: without features, then by version.
func (b best) compare(o best, low bool) int {
	if b.feature != o.feature {
		if b.feature {
			return 1
		}
		return -1
	}
	if b.version == o.version {
		return 0
	}
	c := version.Compare(*o.version, *b.version)
	if low {
		return -c
	}
	return c
}

// sortEquals orders candidates that are equal in name, version and build number by the versions their shared
// dependencies allow, then by age.
func (v *view) sortEquals(ids []int32) {
	if len(ids) < 2 {
		return
	}
	bests := v.sharedBests(ids)
	at := make(map[int32]int, len(ids))
	for i, id := range ids {
		at[id] = i
	}
	slices.SortStableFunc(ids, func(a, b int32) int {
		x, y := bests[at[a]], bests[at[b]]
		if (x == nil) != (y == nil) { // dependencies that cannot be parsed
			if x == nil {
				return 1
			}
			return -1
		}
		for i := range x {
			switch {
			case x[i].version == nil && y[i].version == nil:
				continue
			case x[i].version == nil:
				return 1
			case y[i].version == nil:
				return -1
			}
			if c := x[i].compare(y[i], v.low); c != 0 {
				return c
			}
		}
		return cmp.Compare(v.cand(b).timestamp, v.cand(a).timestamp)
	})
}

// sharedBests returns, for each candidate, the best version of each dependency that all of them have, in the order of
// the dependencies' names. It is nil for a candidate whose dependencies cannot be parsed.
func (v *view) sharedBests(ids []int32) [][]best {
	count := map[string]int{}
	all := make([]map[string][]*spec, len(ids))
	parsed := 0
	for i, id := range ids {
		d := v.deps(id)
		if d.err != nil {
			continue
		}
		parsed++
		all[i] = make(map[string][]*spec, len(d.requirements))
		for _, r := range d.requirements {
			if len(all[i][r.spec.name]) == 0 {
				count[r.spec.name]++
			}
			all[i][r.spec.name] = append(all[i][r.spec.name], r.spec)
		}
	}
	var names []string
	for name, n := range count {
		if n == parsed {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if x, y := strings.Contains(a, "["), strings.Contains(b, "["); x != y { // extras first
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	out := make([][]best, len(ids))
	for i, specs := range all {
		if specs == nil {
			continue
		}
		out[i] = make([]best, len(names))
		for k, name := range names {
			for _, s := range specs[name] {
				b := v.best(s)
				// Of several specs the most restrictive counts: with features, then the lower version.
				if b.version != nil && (out[i][k].version == nil || b.compare(out[i][k], false) > 0) {
					out[i][k] = b
				}
			}
		}
	}
	return out
}
