package solve

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// validator judges solutions by the meaning of a request, from the records alone: it shares no code with the search,
// its encoding or its index, only match specs and versions, which are checked against vectors of their own.
type validator struct {
	repos  []Repo
	listed map[*Package]bool
	first  map[string]string // by name: the first channel that has it
}

func newValidator(repos ...Repo) *validator {
	v := &validator{repos: repos, listed: map[*Package]bool{}, first: map[string]string{}}
	for _, r := range repos {
		for _, p := range r.Packages {
			v.listed[p] = true
			// What cannot be parsed is no candidate, so it does not claim the name.
			if _, err := version.Parse(p.Version); err != nil {
				continue
			}
			if _, ok := v.first[p.Name]; !ok {
				v.first[p.Name] = strings.TrimRight(r.Channel, "/")
			}
		}
	}
	return v
}

// judge returns what is wrong with a solution, or "".
func (v *validator) judge(sol *Solution, r *Request) string {
	byName := map[string]*Package{}
	for _, p := range sol.Packages {
		if byName[p.Name] != nil {
			return "two packages of " + p.Name
		}
		byName[p.Name] = p
		if problem := v.allowed(p, r); problem != "" {
			return problem
		}
	}
	if problem := check(sol, r); problem != "" {
		return problem
	}
	if extra := superfluous(sol, r, byName); extra != "" {
		return extra + " was not asked for by anything"
	}
	return ""
}

// allowed checks what a request says of each file by itself.
func (v *validator) allowed(p *Package, r *Request) string {
	if !v.listed[p] && !slices.Contains(r.Locked, p) && !slices.Contains(r.Favoured, p) {
		return p.String() + " is in no repo"
	}
	for _, l := range r.Locked {
		if l.Name == p.Name && (l.Version != p.Version || l.Build != p.Build || l.Subdir != p.Subdir || strings.TrimRight(l.Channel, "/") != strings.TrimRight(p.Channel, "/")) {
			return p.String() + " is not the locked one"
		}
	}
	if p.Revoked {
		return p.String() + " is revoked"
	}
	if reason, ok := r.Exclude[p.Location()]; ok {
		return p.String() + " is excluded: " + reason
	}
	if problem := tooNew(p, &r.Newer); problem != "" {
		return problem
	}
	channel := strings.TrimRight(p.Channel, "/")
	pinned := false
	for i := range r.Specs {
		if name, _ := r.Specs[i].ExactName(); name == p.Name && !r.Specs[i].Channel.IsZero() {
			pinned = true
			if !matchspec.MatchChannel(r.Specs[i].Channel, p.Channel) {
				return p.String() + " is from " + p.Channel
			}
		}
	}
	if !pinned && r.Priority == Strict && v.listed[p] && channel != v.first[p.Name] {
		return fmt.Sprintf("%s is from %s, and %s has the name", p, channel, v.first[p.Name])
	}
	return ""
}

func tooNew(p *Package, n *Newer) string {
	limit := n.Than
	for channel, t := range n.ByChannel {
		if strings.TrimRight(channel, "/") == strings.TrimRight(p.Channel, "/") {
			limit = t
		}
	}
	if t, ok := n.ByPackage[p.Name]; ok {
		limit = t
	}
	at := p.IndexedTimestamp
	if at == 0 {
		at = p.Timestamp
	}
	if limit.IsZero() || at == 0 && n.KeepUnknown {
		return ""
	}
	if at == 0 || time.UnixMilli(at).After(limit) {
		return fmt.Sprintf("%s is of %d, the limit is %v", p, at, limit)
	}
	return ""
}

// superfluous names a package to which nothing leads from the request.
func superfluous(sol *Solution, r *Request, byName map[string]*Package) string {
	reached := map[string]bool{}
	var todo []string
	follow := func(text string) {
		s, err := matchspec.Parse(text, matchspec.Options{})
		if err == nil {
			if name, _ := s.ExactName(); !reached[name] {
				reached[name] = true
				todo = append(todo, name)
			}
		}
	}
	for i := range r.Specs {
		follow(r.Specs[i].String())
	}
	for i := range r.Overrides {
		follow(r.Overrides[i].With.String())
	}
	for len(todo) > 0 {
		p := byName[todo[0]]
		todo = todo[1:]
		if p == nil {
			continue
		}
		for _, d := range p.Depends {
			follow(d)
		}
		for _, group := range sol.Extras[p.Name] {
			for _, d := range p.ExtraDepends[group] {
				follow(d)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if !reached[name] {
			return byName[name].String()
		}
	}
	return ""
}

// check judges what packages say of each other: every name once, every dependency met, nothing constrained away.
// Conditions and extras are evaluated on the solution itself.
func check(sol *Solution, r *Request) string {
	w := world{extras: sol.Extras, have: map[string]*matchspec.Candidate{}}
	for _, p := range sol.Packages {
		if w.have[p.Name] != nil {
			return "two packages of " + p.Name
		}
		w.have[p.Name] = toCandidate(p)
	}
	for _, p := range r.Virtual {
		v := &Package{}
		v.Name, v.Version, v.Build = p.Name, p.Version, p.Build
		w.have[p.Name] = toCandidate(v)
	}
	for i := range r.Specs {
		if !w.met(&r.Specs[i]) {
			return r.Specs[i].String() + " is not met"
		}
	}
	for i := range r.Constraints {
		if !w.tolerates(&r.Constraints[i]) {
			return r.Constraints[i].String() + " of the request is violated"
		}
	}
	for _, p := range sol.Packages {
		if problem := w.judge(p, r.Overrides); problem != "" {
			return problem
		}
	}
	return ""
}

// world is a solution as its packages see it.
type world struct {
	have   map[string]*matchspec.Candidate
	extras map[string][]string
}

func (w world) has(s *matchspec.Spec) bool {
	name, _ := s.ExactName()
	c := w.have[name]
	if c == nil || !s.Match(c) {
		return false
	}
	for _, e := range s.Extras {
		if !slices.Contains(w.extras[name], e) {
			return false
		}
	}
	return true
}

func (w world) met(s *matchspec.Spec) bool { return !s.When.Eval(w.has) || w.has(s) }

func (w world) tolerates(s *matchspec.Spec) bool {
	name, _ := s.ExactName()
	return w.have[name] == nil || s.Match(w.have[name])
}

func (w world) judge(p *Package, overrides []Override) string {
	depends := slices.Clone(p.Depends)
	for _, e := range w.extras[p.Name] {
		depends = append(depends, p.ExtraDepends[e]...)
	}
	for _, d := range depends {
		s, err := matchspec.Parse(d, matchspec.Options{})
		if err != nil {
			return fmt.Sprintf("%s needs %s: %v", p, d, err)
		}
		name, _ := s.ExactName()
		for i := range overrides {
			if other, _ := overrides[i].With.ExactName(); other == name {
				when := s.When
				s = overrides[i].With
				if s.When == nil {
					s.When = when
				}
			}
		}
		if !w.met(&s) {
			return fmt.Sprintf("%s needs %s", p, d)
		}
	}
	for _, d := range p.Constrains {
		s, err := matchspec.Parse(d, matchspec.Options{})
		if err != nil {
			return err.Error()
		}
		if !w.tolerates(&s) {
			return fmt.Sprintf("%s constrains %s", p, d)
		}
	}
	return ""
}

// toCandidate is a package as a match spec sees it, from its record.
func toCandidate(p *Package) *matchspec.Candidate {
	return &matchspec.Candidate{
		Name: p.Name, Version: mustVersion(p.Version), Build: p.Build, BuildNumber: p.BuildNumber,
		Subdir: p.Subdir, FileName: p.FileName, URL: p.Record.URL, MD5: p.MD5, SHA256: p.SHA256,
		License: p.License, LicenseFamily: p.LicenseFamily, Features: p.Features, TrackFeatures: p.TrackFeatures, Flags: p.Flags,
		Channel: p.Channel,
	}
}
