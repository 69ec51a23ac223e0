package solve

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// UnsolvableError says that no set of packages meets a request, and why.
type UnsolvableError struct {
	// Reasons is the explanation as a tree: what the user asked for, what that needs, and so on down to where it fails.
	// All of Reasons taken together cannot be; each by itself may.
	Reasons []Reason
	Hints   []string // what the user may try or look at
	Stats   Stats
}

// Reason is a statement and what it rests on.
type Reason struct {
	Text    string
	Because []Reason
}

// Error prints the whole explanation.
func (e *UnsolvableError) Error() string {
	var b strings.Builder
	if len(e.Reasons) == 1 {
		b.WriteString("the request cannot be met:\n")
	} else {
		b.WriteString("the request cannot be met, because these exclude each other:\n")
	}
	printReasons(&b, e.Reasons, "")
	for _, h := range e.Hints {
		b.WriteString("hint: " + h + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func printReasons(b *strings.Builder, list []Reason, indent string) {
	for i, r := range list {
		branch, below := "├─ ", "│  "
		if i == len(list)-1 {
			branch, below = "└─ ", "   "
		}
		b.WriteString(indent + branch + r.Text + "\n")
		printReasons(b, r.Because, indent+below)
	}
}

// failure collects what an unsatisfiable core says about each variable.
type failure struct {
	e       *encoder
	needs   map[int32][]need   // variable → requirements in the core
	forbids map[int32][]string // variable → constraints it puts on others
	blocked map[int32]string   // variable → why it cannot be chosen whatever the rest
	opposed map[int32]bool     // variable that something else in the core stands against
	printed map[string]bool    // groups that were explained before
	told    map[need]bool      // requirements that were
	lines   int
	missing []*spec
}

type need struct {
	list int32
	when string
}

// Bounds of an explanation: more than this nobody reads.
const (
	maxReasonLines  = 120
	maxReasonGroups = 8
	maxReasonDepth  = 16
)

// explain turns the conflict that ended a search into words.
func (e *encoder) explain(conflict int32) *UnsolvableError {
	core := e.core(conflict)
	slices.Sort(core) // in the order of discovery, which is that of the request
	f := &failure{
		e: e, needs: map[int32][]need{}, forbids: map[int32][]string{}, blocked: map[int32]string{},
		opposed: map[int32]bool{}, printed: map[string]bool{}, told: map[need]bool{},
	}
	for _, id := range core {
		f.read(id)
	}
	out := &UnsolvableError{Stats: e.stats}
	for _, n := range f.needs[root] {
		out.Reasons = append(out.Reasons, f.requirement(n, 0))
	}
	for _, c := range f.forbids[root] {
		out.Reasons = append(out.Reasons, Reason{Text: "the request allows only " + readableText(c)})
	}
	out.Hints = f.hints()
	return out
}

func (f *failure) read(id int32) {
	e := f.e
	c := &e.clauses[id]
	switch c.kind {
	case clauseRequires:
		if v := c.a.variable(); v == root || e.lists[c.list].gate != v {
			f.need(v, need{c.list, e.whenOf[id]})
		}
	case clauseGate:
		f.need(c.b.variable(), need{list: c.list})
	case clauseConstrains:
		f.forbid(c.a.variable(), e.constraints[c.list].text)
		if c.b >= 0 {
			f.opposed[c.b.variable()] = true
		} else {
			f.blocked[c.a.variable()] = "forbids itself by " + e.constraints[c.list].text
		}
	case clauseForbids:
		f.forbid(c.a.variable(), e.constraints[c.list].text)
	case clauseViolates, clauseAtMostOne:
		f.opposed[c.a.variable()] = true
	case clauseLock:
		f.blocked[c.b.variable()] = "is not the locked one, " + f.label(c.list)
	case clauseExcluded:
		f.blocked[c.a.variable()] = "is excluded: " + e.reasons[c.list]
	}
}

func (f *failure) need(v int32, n need) {
	if !slices.Contains(f.needs[v], n) {
		f.needs[v] = append(f.needs[v], n)
	}
}

func (f *failure) forbid(v int32, text string) {
	if !slices.Contains(f.forbids[v], text) {
		f.forbids[v] = append(f.forbids[v], text)
	}
}

// label names a candidate in full.
func (f *failure) label(id int32) string { return f.e.view.cand(id).String() }

// requirement explains why a requirement cannot be met, or what it leaves.
func (f *failure) requirement(n need, depth int) Reason {
	list := &f.e.lists[n.list]
	text := readable(list.spec)
	if n.when != "" {
		text += " (when " + n.when + ")"
	}
	f.lines++
	if len(list.vars) == 0 {
		if !slices.Contains(f.missing, list.spec) {
			f.missing = append(f.missing, list.spec)
		}
		if f.e.view.ix.unread(list.spec.name) {
			return Reason{Text: text + ", of which nothing was read"}
		}
		return Reason{Text: text + ", which nothing provides"}
	}
	if list.spec.extra != "" {
		return Reason{Text: text} // a group can always be asked for; what it needs is said at its package
	}
	groups := f.groups(list.vars)
	if depth >= maxReasonDepth || f.lines > maxReasonLines {
		return Reason{Text: text + ", which fails, too (…)"}
	}
	if len(groups) == 1 && groups[0].leaf() && groups[0].blocked == "" {
		return Reason{Text: text + ", that is " + f.names(groups[0].vars)}
	}
	if f.told[n] {
		return Reason{Text: text + ", which fails as said above"}
	}
	f.told[n] = true
	r := Reason{Text: text}
	for i, g := range groups {
		if i == maxReasonGroups {
			r.Because = append(r.Because, Reason{Text: fmt.Sprintf("… and %d more kinds of candidates, which fail likewise", len(groups)-i)})
			break
		}
		r.Because = append(r.Because, f.group(g, depth+1))
	}
	return r
}

// alike is a set of candidates of a name for which the core says the same.
type alike struct {
	key     string
	vars    []int32
	needs   []need
	forbids []string
	blocked string
}

func (g *alike) leaf() bool { return len(g.needs) == 0 && len(g.forbids) == 0 }

func (f *failure) groups(vars []int32) []*alike {
	var out []*alike
	byKey := map[string]*alike{}
	for _, v := range vars {
		g := &alike{needs: f.needs[v], forbids: f.forbids[v], blocked: f.blocked[v]}
		if g.blocked != "" {
			g.needs, g.forbids = nil, nil // nothing else matters
		}
		g.key = fmt.Sprint(g.needs, g.forbids, g.blocked)
		if known := byKey[g.key]; known != nil {
			known.vars = append(known.vars, v)
			continue
		}
		g.vars = []int32{v}
		byKey[g.key] = g
		out = append(out, g)
	}
	return out
}

func (f *failure) group(g *alike, depth int) Reason {
	f.lines++
	names := f.names(g.vars)
	switch {
	case g.blocked != "":
		return Reason{Text: names + " " + g.blocked}
	case g.leaf():
		if f.opposed[g.vars[0]] {
			return Reason{Text: names + " does not go with the rest"}
		}
		return Reason{Text: names}
	}
	id := fmt.Sprint(g.key, g.vars)
	if f.printed[id] {
		return Reason{Text: names + ", which fails as said above"}
	}
	f.printed[id] = true
	r := Reason{Text: names + " needs"}
	if len(g.needs) == 0 {
		r.Text = names + " allows only"
	}
	for _, n := range g.needs {
		r.Because = append(r.Because, f.requirement(n, depth+1))
	}
	for _, c := range g.forbids {
		text := readableText(c)
		if len(g.needs) > 0 {
			text += " and no other, if it is there"
		}
		r.Because = append(r.Because, Reason{Text: text})
		f.lines++
	}
	// A single need without alternatives below it fits on the line.
	if len(r.Because) == 1 && len(r.Because[0].Because) == 0 {
		return Reason{Text: r.Text + " " + r.Because[0].Text}
	}
	return r
}

// names prints candidates of one name: the versions once each, ascending, and the middle of a long list left out.
func (f *failure) names(vars []int32) string {
	var versions []*version.Version
	name, full := "", ""
	for _, v := range vars {
		id := f.e.candidates[v]
		if id < 0 {
			for pseudo, p := range f.e.extraIDs {
				if p == v {
					return pseudo
				}
			}
			return "the group"
		}
		c := f.e.view.cand(id)
		name, full = c.group.name, c.String()
		versions = append(versions, c.version)
	}
	if len(vars) == 1 {
		return full
	}
	return name + " " + versionList(versions)
}

func versionList(versions []*version.Version) string {
	slices.SortFunc(versions, func(a, b *version.Version) int {
		return cmp.Or(version.Compare(*a, *b), strings.Compare(a.String(), b.String()))
	})
	versions = slices.CompactFunc(versions, func(a, b *version.Version) bool { return a.String() == b.String() })
	texts := make([]string, 0, 6)
	for i, v := range versions {
		if len(versions) > 6 && i >= 3 && i < len(versions)-2 {
			if i == 3 {
				texts = append(texts, "…")
			}
			continue
		}
		texts = append(texts, v.String())
	}
	return strings.Join(texts, " | ")
}

// readable prints a spec as people write it: "python >=3.9" and not "python[version='>=3.9']".
func readable(s *spec) string { return readableText(s.text) }

func readableText(text string) string {
	if spec, build, ok := strings.Cut(text, "[build="); ok && strings.Contains(spec, "=") && !strings.Contains(build, ",") {
		name, v, _ := strings.Cut(spec, "=")
		return name + " =" + v + " " + strings.Trim(strings.TrimSuffix(build, "]"), "'")
	}
	name, rest, ok := strings.Cut(text, "[version='")
	if !ok {
		return text
	}
	v, rest, ok := strings.Cut(rest, "'")
	switch {
	case !ok:
		return text
	case rest == "]":
		return name + " " + v
	case strings.HasPrefix(rest, ",build=") && !strings.Contains(rest[7:], ","):
		return name + " " + v + " " + strings.Trim(strings.TrimSuffix(rest[7:], "]"), "'")
	}
	return text
}
