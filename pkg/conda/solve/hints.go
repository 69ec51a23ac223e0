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
		if system := virtualSystems[s.name]; g == nil && system != "" {
			return fmt.Sprintf("%s is there on %s only, which the machine to solve for does not run", s.name, system)
		}
		if g == nil {
			return fmt.Sprintf("the virtual package %s is missing: the machine to solve for is not known to have it", s.name)
		}
		return fmt.Sprintf("the machine to solve for has %s %s", s.name, v.cand(g.cands[0]).versionText())
	}
	if g != nil {
		return v.close(s, g)
	}
	if v.ix.unread(s.name) {
		return fmt.Sprintf("packages of %s were not read, so nothing is known about them", s.name)
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

// virtualSystems are the virtual packages that only one system has.
var virtualSystems = map[string]string{"__win": "Windows", "__osx": "macOS", "__linux": "Linux", "__unix": "Unix"}

// close says what there is of a name of which a spec selects nothing: its versions, or if one of those fits, what else
// the spec asks for and there is not.
func (v *view) close(s *spec, g *group) string {
	var versions, fit []*version.Version
	var builds, flags []string
	for _, id := range g.cands {
		c := v.cand(id)
		versions = append(versions, c.version)
		if s.match.Version.IsZero() || s.match.Version.Match(*c.version) {
			fit = append(fit, c.version)
			p := c.Package()
			builds, flags = append(builds, p.Build), append(flags, p.Flags...)
		}
	}
	switch {
	case len(fit) == 0:
		return fmt.Sprintf("of %s there is %s", s.name, versionList(versions))
	case !s.match.Build.IsZero():
		return fmt.Sprintf("of %s %s there are only the builds %s", s.name, versionList(fit), textList(builds))
	case len(s.match.Flags) > 0 && len(flags) == 0:
		return fmt.Sprintf("%s %s has no flags", s.name, versionList(fit))
	case len(s.match.Flags) > 0:
		return fmt.Sprintf("%s %s has only the flags %s", s.name, versionList(fit), textList(flags))
	}
	return fmt.Sprintf("of %s there is %s, but nothing that is all that was asked for", s.name, versionList(versions))
}

// textList prints texts once each, sorted, and the first few of many.
func textList(texts []string) string {
	const most = 6
	slices.Sort(texts)
	texts = slices.Compact(texts)
	if len(texts) > most {
		return strings.Join(texts[:most-1], " | ") + fmt.Sprintf(" | … (%d in all)", len(texts))
	}
	return strings.Join(texts, " | ")
}

// unread reports whether a name that is missing may be in a part of a channel that was not read.
func (ix *Index) unread(name string) bool {
	if !ix.partial || ix.group(name) != nil {
		return false
	}
	for _, s := range ix.sources {
		if !s.Partial {
			continue
		}
		if s.Listed == nil {
			return true
		}
		for listed := range s.Listed {
			if listed == name {
				return true
			}
		}
	}
	return false
}

// listed returns all names that are known to be in the channels, whether they were read or not.
func (ix *Index) listed() []string {
	names := ix.Names()
	for _, s := range ix.sources {
		if s.Partial && s.Listed != nil {
			names = slices.AppendSeq(names, s.Listed)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
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
	for _, other := range ix.listed() {
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
