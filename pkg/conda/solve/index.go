package solve

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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

// Repo is what one subdir of a channel offers. The order of the packages is that of the repodata: it decides between
// packages that are alike in everything else.
type Repo struct {
	Channel  string
	Subdir   string
	Packages []*Package
}

// Index is a set of repos made ready for solving. It is immutable but for caches, and safe for concurrent use; make a
// new one when a repo changes.
type Index struct {
	cands    []candidate
	groups   map[string]*group
	channels []string // in order of priority
	problems []Problem
	deps     []atomic.Pointer[deps] // of cands, parsed on demand
	specs    *specTable

	mu    sync.Mutex
	views []*view   // most recently used first
	pool  sync.Pool // of *arrays
}

// Problem is a package that an index had to leave out.
type Problem struct {
	Package *Package
	Err     error
}

// candidate is a package, or a virtual one, as the solver handles it. Its id is its place in the index.
type candidate struct {
	pkg     *Package // nil for an extra
	alts    []*Package
	version *version.Version
	group   *group
	pos     int32 // in group.cands
	channel int32 // place in Index.channels
	feature bool  // has track_features
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
	ix := &Index{groups: map[string]*group{}, specs: newSpecTable(nil)}
	versions := map[string]*version.Version{}
	total := 0
	for i := range repos {
		total += len(repos[i].Packages)
	}
	ix.cands = make([]candidate, 0, total)
	for i := range repos {
		rank := slices.Index(ix.channels, channelKey(repos[i].Channel))
		if rank < 0 {
			rank = len(ix.channels)
			ix.channels = append(ix.channels, channelKey(repos[i].Channel))
		}
		stems := make(map[string]int32, len(repos[i].Packages))
		for _, p := range repos[i].Packages {
			if err := ix.add(p, int32(rank), stems, versions); err != nil {
				return nil, err
			}
		}
	}
	ix.deps = make([]atomic.Pointer[deps], len(ix.cands))
	return ix, nil
}

// channelKey makes two spellings of one channel equal.
func channelKey(s string) string { return strings.TrimRight(s, "/") }

func (ix *Index) add(p *Package, rank int32, stems map[string]int32, versions map[string]*version.Version) error {
	stem, quality := splitFile(p.FileName)
	if id, ok := stems[stem]; ok && stem != "" {
		c := &ix.cands[id]
		if _, q := splitFile(c.pkg.FileName); q == quality {
			return fmt.Errorf("%s/%s lists %s twice", p.Channel, p.Subdir, p.FileName)
		} else if quality > q {
			// A twin in a better format takes the place of the worse one, which stays as a substitute.
			c.alts = append([]*Package{c.pkg}, c.alts...)
			c.pkg = p
		} else {
			c.alts = append(c.alts, p)
		}
		return nil
	}
	v, ok := versions[p.Version]
	if !ok {
		parsed, err := version.Parse(p.Version)
		if err != nil {
			ix.problems = append(ix.problems, Problem{p, err})
			return nil
		}
		v = &parsed
		versions[p.Version] = v
	}
	g := ix.groups[p.Name]
	if g == nil {
		g = &group{name: p.Name}
		ix.groups[p.Name] = g
	}
	id := int32(len(ix.cands))
	stems[stem] = id
	ix.cands = append(ix.cands, candidate{
		pkg: p, version: v, group: g, pos: int32(len(g.cands)), channel: rank,
		feature: len(p.TrackFeatures) > 0,
	})
	g.append(id, v)
	return nil
}

func (g *group) append(id int32, v *version.Version) {
	g.cands = append(g.cands, id)
	// Versions come in runs, since a repodata's file names are sorted.
	if n := len(g.versions); n == 0 || g.versions[n-1] != v {
		g.versions = append(g.versions, v)
	}
	g.verOf = append(g.verOf, int32(len(g.versions)-1))
}

// splitFile returns a file name's stem and how good its format is.
func splitFile(name string) (stem string, quality int) {
	for i, ext := range []string{".whl", ".tar.bz2", ".conda"} {
		if s, ok := strings.CutSuffix(name, ext); ok {
			return s, i + 1
		}
	}
	return name, 0
}

// Problems lists the packages that were left out.
func (ix *Index) Problems() []Problem { return ix.problems }

// Len returns how many packages can be chosen.
func (ix *Index) Len() int { return len(ix.cands) }

// Names returns all package names, sorted.
func (ix *Index) Names() []string {
	out := make([]string, 0, len(ix.groups))
	for name := range ix.groups {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Find returns the packages that a spec selects, best first in the order of the default strategy.
func (ix *Index) Find(spec *matchspec.Spec) []*Package {
	var ids []int32
	for _, g := range ix.groups {
		if !spec.Name.Match(g.name) {
			continue
		}
		for _, id := range g.cands {
			mc := ix.cands[id].matchable()
			if spec.MatchNamed(&mc) {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, func(a, b int32) int {
		ca, cb := &ix.cands[a], &ix.cands[b]
		return cmp.Or(strings.Compare(ca.group.name, cb.group.name), compareBasic(ca, cb, false, false), cmp.Compare(a, b))
	})
	out := make([]*Package, len(ids))
	for i, id := range ids {
		out[i] = ix.cands[id].pkg
	}
	return out
}

// matchable is the candidate as a match spec sees it.
func (c *candidate) matchable() matchspec.Candidate {
	p := c.pkg
	return matchspec.Candidate{
		Name: p.Name, Version: *c.version, Build: p.Build, BuildNumber: p.BuildNumber,
		Channel: p.Channel, Subdir: p.Subdir, FileName: p.FileName, URL: p.Record.URL, MD5: p.MD5, SHA256: p.SHA256,
		License: p.License, LicenseFamily: p.LicenseFamily, Features: p.Features, TrackFeatures: p.TrackFeatures, Flags: p.Flags,
	}
}

// published is when the package appeared, in milliseconds: when the channel first listed it (CEP 47), else when it was
// built; 0 if neither is known.
func published(p *Package) int64 {
	if p.IndexedTimestamp > 0 {
		return p.IndexedTimestamp
	}
	return p.Timestamp
}
