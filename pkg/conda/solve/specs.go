package solve

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/entrepot-dev/entrepot/pkg/conda/arena"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// spec is an interned match spec: two texts that mean the same are one spec, so that their candidates are found,
// sorted and encoded once.
type spec struct {
	name  string // of the group of candidates
	text  string // canonical, for people
	match *matchspec.Spec
	extra string // set for the pseudo-package name[extra], which has a single candidate
	local bool   // made by one request, so that caches which outlive it must not keep it
}

// requirement is a spec that counts under a condition.
type requirement struct {
	spec *spec
	// when is a disjunction of conjunctions: one of the lists must be met. nil is always.
	when [][]*spec
}

// deps are the parsed dependencies of one candidate.
type deps struct {
	requirements []requirement
	constrains   []*spec
	err          error // the candidate cannot be used, and why
}

// specTable interns specs. Parsed texts stay as long as the index; they are as many as the channel's distinct strings.
// What a request brings along goes into a table of its own with the index's as parent, so that strangers cannot fill
// the memory of a service.
type specTable struct {
	parent *specTable
	byText sync.Map // string → *parsedText
	mu     sync.Mutex
	byName map[string]*spec // canonical → spec
}

type parsedText struct {
	requirements []requirement
	err          error
}

func newSpecTable(parent *specTable) *specTable {
	return &specTable{parent: parent, byName: map[string]*spec{}}
}

var errNotExact = errors.New("a dependency needs the exact name of a package")

// requirements parses a dependency as repodata spells it. A spec with extras gives one requirement for each extra, and
// then one for the package.
func (t *specTable) requirements(text string) ([]requirement, error) {
	if p, ok := t.byText.Load(text); ok {
		return p.(*parsedText).requirements, p.(*parsedText).err
	}
	p := &parsedText{}
	text = strings.Clone(text) // it may be an arena's
	ms, err := matchspec.Parse(text, matchspec.Options{})
	if err == nil {
		ms.Channel = matchspec.Pattern{} // a package does not choose the channel of others
		p.requirements, err = t.intern(&ms)
	}
	if err != nil {
		p.err = fmt.Errorf("dependency %q: %w", text, err)
	}
	actual, _ := t.byText.LoadOrStore(text, p)
	return actual.(*parsedText).requirements, actual.(*parsedText).err
}

// intern turns a parsed spec into requirements.
func (t *specTable) intern(ms *matchspec.Spec) ([]requirement, error) {
	name, ok := ms.ExactName()
	if !ok {
		return nil, errNotExact
	}
	when, err := t.conjunctions(ms.When)
	if err != nil {
		return nil, err
	}
	var out []requirement
	for _, e := range ms.Extras {
		out = append(out, requirement{t.extra(name, e), when})
	}
	bare := *ms
	bare.Extras, bare.When = nil, nil
	return append(out, requirement{t.one(name, bare.WithoutCondition()), when}), nil
}

func (t *specTable) one(name string, ms matchspec.Spec) *spec {
	return t.named(&spec{name: name, text: ms.Canonical(), match: &ms})
}

func (t *specTable) extra(name, extra string) *spec {
	text := name + "[" + extra + "]"
	return t.named(&spec{name: text, text: text, extra: extra})
}

// named returns the spec of the same text, or makes this one it.
func (t *specTable) named(s *spec) *spec {
	if found := t.parent.lookup(s.text); found != nil {
		return found
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if found, ok := t.byName[s.text]; ok {
		return found
	}
	s.local = t.parent != nil
	t.byName[s.text] = s
	return s
}

func (t *specTable) lookup(text string) *spec {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byName[text]
}

// maxConjunctions bounds the normal form of a condition, which can grow exponentially.
const maxConjunctions = 64

// conjunctions brings a condition into disjunctive normal form.
func (t *specTable) conjunctions(c *matchspec.Condition) ([][]*spec, error) {
	if c == nil {
		return nil, nil
	}
	switch c.Op {
	case matchspec.Or:
		var out [][]*spec
		for _, term := range c.Terms {
			part, err := t.conjunctions(term)
			if err != nil {
				return nil, err
			}
			out = append(out, part...)
		}
		return checkConjunctions(out)
	case matchspec.And:
		out := [][]*spec{{}}
		for _, term := range c.Terms {
			part, err := t.conjunctions(term)
			if err != nil {
				return nil, err
			}
			out = crossJoin(out, part)
			if _, err := checkConjunctions(out); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	name, ok := c.Spec.ExactName()
	if !ok {
		return nil, errNotExact
	}
	all := []*spec{t.one(name, c.Spec.WithoutCondition())}
	for _, e := range c.Spec.Extras {
		all = append(all, t.extra(name, e))
	}
	return [][]*spec{all}, nil
}

func crossJoin(a, b [][]*spec) [][]*spec {
	out := make([][]*spec, 0, len(a)*len(b))
	for _, x := range a {
		for _, y := range b {
			out = append(out, append(append(make([]*spec, 0, len(x)+len(y)), x...), y...))
		}
	}
	return out
}

func checkConjunctions(c [][]*spec) ([][]*spec, error) {
	if len(c) > maxConjunctions {
		return nil, fmt.Errorf("the condition has more than %d alternatives", maxConjunctions)
	}
	return c, nil
}

// dependencies parses the dependencies of a package.
func (t *specTable) dependencies(f *file, override func([]requirement) []requirement) *deps {
	d := &deps{}
	depend := func(text string) error {
		rs, err := t.requirements(text)
		d.requirements = append(d.requirements, rs...)
		return err
	}
	constrain := func(text string) error {
		rs, err := t.requirements(text)
		if err == nil {
			// CEP 43 gives conditions to dependencies only: here they are ignored, as are extras.
			d.constrains = append(d.constrains, rs[len(rs)-1].spec)
		}
		return err
	}
	p := f.pkgOf
	if p == nil && f.rec.Flags&arena.ExtraDepends != 0 {
		p = f.Package()
	}
	var err error
	if p != nil {
		if err = each(p.Depends, depend); err == nil {
			err = each(p.Constrains, constrain)
		}
		if err == nil {
			err = t.extras(d, p)
		}
	} else {
		a := f.src.Arena
		d.requirements = make([]requirement, 0, len(a.Depends(f.rec)))
		if err = each(a.Depends(f.rec), func(id uint32) error { return depend(a.Str(id)) }); err == nil {
			err = each(a.Constrains(f.rec), func(id uint32) error { return constrain(a.Str(id)) })
		}
	}
	if err != nil {
		return &deps{err: err}
	}
	if override != nil {
		d.requirements = override(d.requirements)
	}
	return d
}

// each calls a function for the elements of a list, up to the first error.
func each[T any](list []T, f func(T) error) error {
	for _, v := range list {
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// extras parses groups of optional dependencies (CEP 44).
func (t *specTable) extras(d *deps, p *Package) error {
	for _, group := range sortedKeys(p.ExtraDepends) {
		gate := []*spec{t.extra(p.Name, group)}
		for _, text := range p.ExtraDepends[group] {
			rs, err := t.requirements(text)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if r.when == nil {
					r.when = [][]*spec{gate}
				} else {
					r.when = crossJoin([][]*spec{gate}, r.when)
				}
				d.requirements = append(d.requirements, r)
			}
		}
	}
	return nil
}
