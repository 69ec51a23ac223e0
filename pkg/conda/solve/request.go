package solve

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

// ChannelPriority says what it means that one channel comes before another.
type ChannelPriority uint8

const (
	// Strict takes a name only from the first channel that has it. It is the default.
	Strict ChannelPriority = iota
	// Flexible prefers the first channel before it looks at versions.
	Flexible
	// Disabled looks at versions only.
	Disabled
)

// Strategy says which versions are preferred.
type Strategy uint8

const (
	// Highest prefers the newest version of everything. It is the default.
	Highest Strategy = iota
	// Lowest prefers the oldest version of everything.
	Lowest
	// LowestDirect prefers the oldest version of what the request names, and the newest of the rest: what a library
	// does to test the lower bounds it declares.
	LowestDirect
)

// Encoding says how requirements and constraints become clauses. Both ways have the same solutions. Where a search
// meets conflicts they may end at different ones, because the order of clauses decides what is learnt first.
type Encoding uint8

const (
	// Auto begins with Plain and goes over to Shared where that meets many conflicts. It is the default.
	Auto Encoding = iota
	// Plain gives each package clauses of its own, as rattler did before resolvo 0.12.
	Plain
	// Shared lets packages share what they need and forbid in common, as rattler does since resolvo 0.12.
	Shared
)

// Request is a problem to solve.
type Request struct {
	Specs       []matchspec.Spec // what must be in the solution
	Constraints []matchspec.Spec // what a package must fit if it is in the solution
	Virtual     []virtual.Package

	// Favoured packages are preferred where they fit: usually what is installed already.
	Favoured []*Package
	// Locked packages exclude all others of their name. They need not become part of the solution.
	Locked []*Package

	Priority ChannelPriority
	Strategy Strategy
	Encoding Encoding
	Newer    Newer
	// Exclude has packages that must not be chosen, by [Package.Location], each with a reason.
	Exclude map[string]string
	// Overrides replace dependencies of packages.
	Overrides []Override

	Limits Limits
	// Now is the clock for Limits.Time; nil is time.Now.
	Now func() time.Time
	// Elsewhere, if set, names the subdirs that have packages of a name which this index lacks. It is asked for the
	// hints of an explanation only.
	Elsewhere func(name string) []string
}

// Newer excludes packages that appeared after a point in time. What counts is when a channel first listed a package
// (CEP 47) or, where that is not known, when it was built.
type Newer struct {
	Than      time.Time            // zero is no limit
	ByChannel map[string]time.Time // instead of Than for a channel; a zero time is no limit
	ByPackage map[string]time.Time // instead of both for a name
	// KeepUnknown keeps packages of which no time is known; by default they are excluded where there is a limit.
	KeepUnknown bool
}

// Override replaces each package's dependencies on the name of With by With.
type Override struct {
	With matchspec.Spec
}

// compiled is a request in the terms of a view.
type compiled struct {
	request      *Request
	requirements []requirement
	constraints  []*spec
	locked       map[string]int32
	favoured     map[string]int32
	direct       map[string]bool
	fromChannel  map[string][]matchspec.Pattern
	first        map[string]int32 // by name: channel that has it, under strict priority
	newer        bool
}

// ErrNoSpecs is returned for a request that asks for nothing.
var ErrNoSpecs = errors.New("the request names no packages")

// compile prepares a request and chooses its view.
func (ix *Index) compile(r *Request) (*view, *compiled, error) {
	if len(r.Specs) == 0 {
		return nil, nil, ErrNoSpecs
	}
	c := &compiled{
		request: r, locked: map[string]int32{}, favoured: map[string]int32{}, direct: map[string]bool{},
		fromChannel: map[string][]matchspec.Pattern{}, first: map[string]int32{},
		newer: !r.Newer.Than.IsZero() || len(r.Newer.ByChannel) > 0 || len(r.Newer.ByPackage) > 0,
	}
	table := newSpecTable(ix.specs)
	v, err := ix.viewFor(r, c, table)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range r.Virtual {
		// A virtual package is there whether somebody asks for it or not.
		c.requirements = append(c.requirements, requirement{spec: table.one(p.Name, matchspec.Spec{Name: matchspec.Literal(p.Name)})})
	}
	for i := range r.Specs {
		// The channel of a spec is not matched but excludes the name's packages from others, for all who need them.
		bare := r.Specs[i]
		bare.Channel = matchspec.Pattern{}
		rs, err := table.intern(&bare)
		if err != nil {
			return nil, nil, fmt.Errorf("spec %q: %w", r.Specs[i].String(), err)
		}
		c.requirements = append(c.requirements, rs...)
		name := rs[len(rs)-1].spec.name
		c.direct[name] = true
		if channel := r.Specs[i].Channel; !channel.IsZero() {
			c.fromChannel[name] = append(c.fromChannel[name], channel)
		}
	}
	for i := range r.Constraints {
		rs, err := table.intern(&r.Constraints[i])
		if err != nil {
			return nil, nil, fmt.Errorf("constraint %q: %w", r.Constraints[i].String(), err)
		}
		c.constraints = append(c.constraints, rs[len(rs)-1].spec)
	}
	for name, id := range c.locked {
		if reason, out := c.exclusion(v, id); out {
			return nil, nil, fmt.Errorf("%s is locked to %s, which is excluded: %s", name, v.cand(id), reason)
		}
	}
	for name, id := range c.favoured {
		if _, out := c.exclusion(v, id); out {
			delete(c.favoured, name)
		}
	}
	return v, c, nil
}

// viewFor finds or makes the view of a request, and places its locked and favoured packages.
func (ix *Index) viewFor(r *Request, c *compiled, table *specTable) (*view, error) {
	build := func() (*view, error) {
		v := &view{ix: ix, overlay: map[string]*group{}, low: r.Strategy == Lowest, ranked: r.Priority == Flexible}
		for _, p := range r.Virtual {
			ver, err := version.Parse(p.Version)
			if err != nil {
				return nil, fmt.Errorf("virtual package %s: %w", p.Name, err)
			}
			pkg := &Package{}
			pkg.Name, pkg.Version, pkg.Build = p.Name, p.Version, p.Build
			v.addExtra(pkg, true, &ver)
		}
		return v, nil
	}
	outside := false
	place := func(v *view, list []*Package, into map[string]int32) error {
		for _, p := range list {
			id := ix.lookup(p)
			if id < 0 {
				outside = true
				if v == nil {
					continue
				}
				ver, err := version.Parse(p.Version)
				if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				id = v.addExtra(p, false, &ver)
			}
			into[p.Name] = id
		}
		return nil
	}
	place(nil, r.Locked, c.locked)
	place(nil, r.Favoured, c.favoured)
	if outside || len(r.Overrides) > 0 {
		// What others must not see, and what this request alone pays for.
		v, err := build()
		if err != nil {
			return nil, err
		}
		v.specs = table
		if v.override, err = overrides(r.Overrides, table); err != nil {
			return nil, err
		}
		if err := place(v, r.Favoured, c.favoured); err != nil {
			return nil, err
		}
		return v, place(v, r.Locked, c.locked)
	}
	names := make([]string, 0, len(r.Virtual))
	for _, p := range r.Virtual {
		names = append(names, p.String())
	}
	slices.Sort(names)
	key := fmt.Sprintf("low=%v ranked=%v %s", r.Strategy == Lowest, r.Priority == Flexible, strings.Join(names, " "))
	return ix.sharedView(key, build)
}

// lookup finds a package in the index: the same file, or one of the same name, version, build, subdir and digest.
func (ix *Index) lookup(p *Package) int32 {
	g := ix.group(p.Name)
	if g == nil {
		return none
	}
	for _, id := range g.cands {
		c := ix.cands[id]
		if c.versionText() != p.Version || c.build != p.Build {
			continue
		}
		q := c.Package()
		if q == p {
			return id
		}
		if q.Version == p.Version && q.Build == p.Build && q.Subdir == p.Subdir && channelKey(q.Channel) == channelKey(p.Channel) &&
			(p.SHA256 == "" || q.SHA256 == "" || p.SHA256 == q.SHA256) {
			return id
		}
	}
	return none
}

// overrides compiles dependency overrides.
func overrides(list []Override, table *specTable) (func([]requirement) []requirement, error) {
	if len(list) == 0 {
		return nil, nil
	}
	with := map[string][]requirement{}
	for i := range list {
		rs, err := table.intern(&list[i].With)
		if err != nil {
			return nil, fmt.Errorf("override %q: %w", list[i].With.String(), err)
		}
		with[rs[len(rs)-1].spec.name] = rs
	}
	return func(rs []requirement) []requirement {
		var out []requirement
		for _, r := range rs {
			replacement, ok := with[r.spec.name]
			if !ok {
				out = append(out, r)
				continue
			}
			for _, n := range replacement {
				if n.when == nil {
					n.when = r.when
				}
				out = append(out, n)
			}
		}
		return out
	}, nil
}

// low reports whether the oldest version of a name is preferred.
func (c *compiled) low(name string) bool {
	return c.request.Strategy == Lowest || c.request.Strategy == LowestDirect && c.direct[name]
}

// exclusion says whether a candidate must not be chosen, and why.
func (c *compiled) exclusion(v *view, id int32) (string, bool) {
	cand := v.cand(id)
	if cand.virtual {
		return "", false
	}
	reason, out := c.excluded(&cand.file)
	if out {
		for _, alt := range cand.alts {
			if _, altOut := c.excluded(alt); !altOut {
				out = false
				break
			}
		}
	}
	if out {
		return reason, true
	}
	if wanted, ok := c.fromChannel[cand.group.name]; ok {
		for _, want := range wanted {
			if !matchspec.MatchChannel(want, cand.channelName()) {
				return fmt.Sprintf("it is not from the requested channel %s", want), true
			}
		}
		return "", false
	}
	if c.request.Priority != Strict || int(id) >= len(v.ix.cands) {
		return "", false
	}
	first, ok := c.first[cand.group.name]
	if !ok {
		first = cand.channel
		for _, other := range cand.group.cands {
			if int(other) < len(v.ix.cands) {
				first = min(first, v.cand(other).channel)
			}
		}
		c.first[cand.group.name] = first
	}
	if cand.channel != first {
		return fmt.Sprintf("the channel %s has the name and comes first (strict priority)", v.ix.channels[first]), true
	}
	return "", false
}

// excluded applies what depends on a single file.
func (c *compiled) excluded(f *file) (string, bool) {
	if f.revoked() {
		return "it was revoked by its channel", true
	}
	if len(c.request.Exclude) > 0 {
		if reason, ok := c.request.Exclude[f.location()]; ok {
			return reason, true
		}
	}
	if !c.newer {
		return "", false
	}
	n := &c.request.Newer
	limit := n.Than
	if t, ok := n.ByChannel[channelKey(f.channelName())]; ok {
		limit = t
	} else if t, ok := n.ByChannel[f.channelName()]; ok {
		limit = t
	}
	if t, ok := n.ByPackage[f.name()]; ok {
		limit = t
	}
	if limit.IsZero() {
		return "", false
	}
	at := f.published()
	switch {
	case at == 0 && !n.KeepUnknown:
		return "it is not known when it appeared, and there is a limit on that", true
	case at > limit.UnixMilli():
		return "it appeared after " + strings.TrimSuffix(limit.UTC().Format(time.RFC3339), "T00:00:00Z"), true
	}
	return "", false
}

// file returns the package of a candidate that may be used: itself, or the first of its twins that is not excluded.
func (c *compiled) file(cand *candidate) *Package {
	if _, out := c.excluded(&cand.file); out {
		for _, alt := range cand.alts {
			if _, altOut := c.excluded(alt); !altOut {
				return alt.Package()
			}
		}
	}
	return cand.Package()
}
