package solve

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// hints says, for every requirement that nothing provides, what comes close.
func (f *failure) hints() []string {
	var out []string
	for _, s := range f.missing {
		if h := f.hint(s); h != "" && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

func (f *failure) hint(s *spec) string {
	v := f.e.view
	g := v.group(s.name)
	if strings.HasPrefix(s.name, "__") {
		if g == nil {
			return fmt.Sprintf("the virtual package %s is missing: the machine to solve for is not known to have it", s.name)
		}
		return fmt.Sprintf("the machine to solve for has %s %s", s.name, v.cand(g.cands[0]).pkg.Version)
	}
	if g != nil {
		var versions []*version.Version
		for _, id := range g.cands {
			versions = append(versions, v.cand(id).version)
		}
		return fmt.Sprintf("of %s there is %s", s.name, versionList(versions))
	}
	var parts []string
	if near := v.ix.nearest(s.name); len(near) > 0 {
		parts = append(parts, "similar names are "+strings.Join(near, ", "))
	}
	if f.e.request.request.Elsewhere != nil {
		if subdirs := f.e.request.request.Elsewhere(s.name); len(subdirs) > 0 {
			parts = append(parts, "it exists for "+strings.Join(subdirs, ", "))
		}
	}
	if len(parts) == 0 {
		return fmt.Sprintf("no channel has a package %s", s.name)
	}
	return fmt.Sprintf("no channel has a package %s; %s", s.name, strings.Join(parts, "; "))
}

// nearest returns up to three names that a slip of the hand or another separator may have meant.
func (ix *Index) nearest(name string) []string {
	type hit struct {
		name     string
		distance int
	}
	limit := 2
	if len(name) < 9 {
		limit = len(name) / 4 // short names are close to too many others
	}
	plain := separators.Replace(name)
	var hits []hit
	for other := range ix.groups {
		if d := len(other) - len(name); d > limit || d < -limit {
			continue
		}
		d := distance(name, other, limit)
		if separators.Replace(other) == plain {
			d = 0
		}
		if d <= limit {
			hits = append(hits, hit{other, d})
		}
	}
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	out := make([]string, 0, 3)
	for _, h := range hits[:min(len(hits), 3)] {
		out = append(out, h.name)
	}
	return out
}

var separators = strings.NewReplacer("-", "", "_", "", ".", "")

// distance is the edit distance of two names (insertions, deletions, replacements), or limit+1 if it is more.
func distance(a, b string, limit int) int {
	previous := make([]int, len(b)+1)
	current := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		best := i
		for j := 1; j <= len(b); j++ {
			d := previous[j-1]
			if a[i-1] != b[j-1] {
				d = 1 + min(d, previous[j], current[j-1])
			}
			current[j] = d
			best = min(best, d)
		}
		if best > limit {
			return limit + 1
		}
		previous, current = current, previous
	}
	return previous[len(b)]
}
