package solve

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// Package is one package as a channel offers it.
type Package struct {
	repodata.Record
	Channel  string // name or URL of the channel, without the subdir
	FileName string
}

// Location is where the package lies: the record's own URL, or channel, subdir and file name.
func (p *Package) Location() string {
	if p.Record.URL != "" {
		return p.Record.URL
	}
	return strings.TrimRight(p.Channel, "/") + "/" + p.Subdir + "/" + p.FileName
}

// String returns name, version and build.
func (p *Package) String() string { return p.Name + " " + p.Version + " " + p.Build }

// Repo is what one subdir of a channel offers: an arena, or packages. The order of the packages is that of the repodata: it
// decides between packages that are alike in everything else.
type Repo struct {
	Channel  string
	Subdir   string
	Packages []*Package

	// Arena has the packages where it is set, and Packages is not looked at.
	Arena *arena.Arena
	// Base is put before file names of the arena: an absolute URL ending in a slash. Empty means that files lie below
	// channel and subdir.
	Base string
	// Resolve makes the reference of a record of the arena absolute that says itself where its file is; nil leaves it.
	Resolve func(ref string) string
	// Partial says that the subdir has more names than these. An explanation then does not take a name that is missing for
	// one that the subdir lacks.
	Partial bool
	// Listed calls yield for each name that a partial repo's subdir has; nil if they are not known.
	Listed func(yield func(name string) bool)
}

// Index is a set of repos made ready for solving. It is immutable but for caches, and safe for concurrent use; make a
// new one when a repo changes.
//
// Of an arena nothing is copied but what solves come across: the candidates of a name are made when the first solve asks
// for them, and stay. A candidate points into the arena, and becomes a [Package] only when somebody wants to see it.
type Index struct {
	sources  []*source
	channels []string // in order of priority
	partial  bool
	total    int          // candidate ids are below it
	specs    *specTable   // parsed dependencies
	cands    []*candidate // by id; written before the group that has it is published
	groups   sync.Map     // name → *group

	making   sync.Mutex // for what follows
	next     int32      // id of the next candidate
	versions *versionTable
	problems []Problem

	mu    sync.Mutex
	views []*view   // most recently used first
	pool  sync.Pool // of *arrays
}

// Problem is a package that an index had to leave out.
type Problem struct {
	Package *Package
	Err     error
}

// source is a repo of an index.
type source struct {
	Repo
	rank   int32
	byName map[string][]*Package // if there is no arena
}

// candidate is a package, or a virtual one, as the solver handles it. Its id is its place in the index.
type candidate struct {
	file
	alts    []*file
	version *version.Version
	group   *group
	deps    atomic.Pointer[deps] // parsed on demand
	pos     int32                // in group.cands
	channel int32                // place in Index.channels
	feature bool                 // has track_features
	virtual bool
}

// group holds all candidates of one name.
type group struct {
	name     string
	cands    []int32            // ids in input order
	versions []*version.Version // distinct
	verOf    []int32            // of each of cands, its place in versions
}

// NewIndex prepares repos, given in order of priority: repos of one channel together, the platform's subdir before
// noarch. The same file twice in one repo is an error. A package whose version cannot be parsed is left out and
// reported by [Index.Problems].
func NewIndex(repos []Repo) (*Index, error) {
	ix := &Index{specs: newSpecTable(nil), versions: newVersionTable()}
	for i := range repos {
		s := &source{Repo: repos[i]}
		s.rank = int32(slices.Index(ix.channels, channelKey(s.Channel)))
		if s.rank < 0 {
			s.rank = int32(len(ix.channels))
			ix.channels = append(ix.channels, channelKey(s.Channel))
		}
		if s.Arena != nil {
			ix.total += s.Arena.Len()
		} else if err := s.sort(); err != nil {
			return nil, err
		}
		ix.partial = ix.partial || s.Partial
		ix.total += len(s.Packages)
		ix.sources = append(ix.sources, s)
	}
	ix.cands = make([]*candidate, ix.total)
	return ix, nil
}

// All returns the packages of a repo. Of an arena they are made for this call.
func (r *Repo) All() []*Package {
	if r.Arena == nil {
		return r.Packages
	}
	s := &source{Repo: *r}
	out := make([]*Package, 0, r.Arena.Len())
	for n := range r.Arena.All {
		out = append(out, recordFile(s, r.Arena.Rec(n)).Package())
	}
	return out
}

// sort groups packages by name.
func (s *source) sort() error {
	s.byName = make(map[string][]*Package, len(s.Packages))
	seen := make(map[string]bool, len(s.Packages))
	for _, p := range s.Packages {
		if seen[p.FileName] && p.FileName != "" {
			return fmt.Errorf("%s/%s lists %s twice", p.Channel, p.Subdir, p.FileName)
		}
		seen[p.FileName] = true
		s.byName[p.Name] = append(s.byName[p.Name], p)
	}
	return nil
}

// channelKey makes two spellings of one channel equal.
func channelKey(s string) string { return strings.TrimRight(s, "/") }

// group returns the candidates of a name, or nil if there are none. They are made on first use.
func (ix *Index) group(name string) *group {
	if g, ok := ix.groups.Load(name); ok {
		return g.(*group)
	}
	found := false
	for _, s := range ix.sources {
		if s.Arena != nil && len(s.Arena.Find(name)) > 0 || len(s.byName[name]) > 0 {
			found = true
			break
		}
	}
	if !found {
		return nil
	}
	ix.making.Lock()
	defer ix.making.Unlock()
	if g, ok := ix.groups.Load(name); ok {
		return g.(*group)
	}
	g := &group{name: strings.Clone(name)}
	for _, s := range ix.sources {
		stems := map[string]int32{}
		for _, f := range s.files(name) {
			ix.add(g, s, f, stems)
		}
	}
	if len(g.cands) == 0 { // none has a version
		g = nil
	}
	ix.groups.Store(strings.Clone(name), g)
	return g
}

// files returns the files of a name: .tar.bz2 before .conda, each by file name. An index written by the usual tools has them
// in this order already; that it does not count in which order another one has them makes answers repeatable.
func (s *source) files(name string) []*file {
	type named struct {
		*file
		format int
		name   string
	}
	var list []named
	add := func(f *file, name string) {
		_, quality := splitFile(name)
		list = append(list, named{f, []int{4, 3, 1, 2}[quality], name})
	}
	for _, p := range s.byName[name] {
		add(fileOf(s, p), p.FileName)
	}
	if s.Arena != nil {
		for _, n := range s.Arena.Find(name) {
			r := s.Arena.Rec(n)
			add(recordFile(s, r), s.Arena.FileName(r))
		}
	}
	slices.SortStableFunc(list, func(a, b named) int {
		return cmp.Or(cmp.Compare(a.format, b.format), strings.Compare(a.name, b.name))
	})
	out := make([]*file, len(list))
	for i, f := range list {
		out[i] = f.file
	}
	return out
}

// add makes a file a candidate, or the twin of one.
func (ix *Index) add(g *group, s *source, f *file, stems map[string]int32) {
	stem, quality := f.stem()
	if id, ok := stems[stem]; ok && stem != "" {
		c := ix.cands[id]
		if _, q := c.stem(); quality > q {
			// A twin in a better format takes the place of the worse one, which stays as a substitute.
			worse := c.file.clone()
			c.alts = append([]*file{worse}, c.alts...)
			c.file.replace(f)
		} else {
			c.alts = append(c.alts, f)
		}
		return
	}
	v, err := ix.versions.parse(f.versionText())
	if err != nil {
		ix.problems = append(ix.problems, Problem{f.Package(), err})
		return
	}
	id := ix.next
	if int(id) >= ix.total {
		return // a snapshot that was made to deceive lists a record twice
	}
	ix.next++
	stems[stem] = id
	c := &candidate{version: v, group: g, pos: int32(len(g.cands)), channel: s.rank, feature: f.feature()}
	c.file.replace(f)
	ix.cands[id] = c
	g.append(id, v)
}

func (g *group) append(id int32, v *version.Version) {
	g.cands = append(g.cands, id)
	// Versions come in runs, since a repodata's file names are sorted.
	if n := len(g.versions); n == 0 || g.versions[n-1] != v {
		g.versions = append(g.versions, v)
	}
	g.verOf = append(g.verOf, int32(len(g.versions)-1))
}

// all makes the candidates of every name.
func (ix *Index) all() []*group {
	var out []*group
	for _, name := range ix.Names() {
		if g := ix.group(name); g != nil {
			out = append(out, g)
		}
	}
	return out
}

// Problems lists the packages that were left out. It looks at every name, which solves do not.
func (ix *Index) Problems() []Problem {
	ix.all()
	ix.making.Lock()
	defer ix.making.Unlock()
	return slices.Clone(ix.problems)
}

// Len returns how many packages can be chosen; a file in two formats is one. It looks at every name.
func (ix *Index) Len() int {
	n := 0
	for _, g := range ix.all() {
		n += len(g.cands)
	}
	return n
}

// Names returns all package names, sorted.
func (ix *Index) Names() []string {
	names := map[string]bool{}
	for _, s := range ix.sources {
		if s.Arena != nil {
			for name := range s.Arena.Names {
				if !names[name] {
					names[strings.Clone(name)] = true
				}
			}
		}
		for name := range s.byName {
			names[name] = true
		}
	}
	return sortedKeys(names)
}

// Find returns the packages that a spec selects, best first in the order of the default strategy.
func (ix *Index) Find(spec *matchspec.Spec) []*Package {
	defer runtime.KeepAlive(ix)
	var names []string
	if name, ok := spec.ExactName(); ok {
		names = []string{name}
	} else {
		names = slices.DeleteFunc(ix.Names(), func(name string) bool { return !spec.Name.Match(name) })
	}
	var ids []int32
	for _, name := range names {
		g := ix.group(name)
		if g == nil {
			continue
		}
		for _, id := range g.cands {
			mc := ix.cands[id].matchable(spec)
			if spec.MatchNamed(&mc) {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, func(a, b int32) int {
		ca, cb := ix.cands[a], ix.cands[b]
		return cmp.Or(strings.Compare(ca.group.name, cb.group.name), compareBasic(ca, cb, false, false), cmp.Compare(a, b))
	})
	out := make([]*Package, len(ids))
	for i, id := range ids {
		out[i] = ix.cands[id].Package()
	}
	return out
}
