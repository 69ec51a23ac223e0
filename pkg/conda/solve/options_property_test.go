package solve

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// rich is a small universe with everything that a request can ask about: two channels, times, flags, extras, conditions.
type rich struct {
	repos []Repo
	names []string
	all   []*Package
}

func drawRich(t *rapid.T) rich {
	u := rich{names: []string{"a", "b", "c", "d"}[:rapid.IntRange(2, 4).Draw(t, "names")]}
	name := rapid.SampledFrom(u.names)
	spec := rapid.Custom(func(t *rapid.T) string {
		s := name.Draw(t, "name") + rapid.SampledFrom([]string{"", "", " 1", " >=2", " <2", " !=1"}).Draw(t, "version")
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			s += "[when='" + name.Draw(t, "when") + rapid.SampledFrom([]string{"", "<2", ">=2"}).Draw(t, "limit") + "']"
		case 1:
			s += "[extras=[x]]"
		case 2:
			s += "[flags=[f]]"
		}
		return s
	})
	plain := spec.Filter(func(s string) bool { return s[len(s)-1] != ']' })
	for _, ch := range []string{"https://h/one", "https://h/two"} {
		var packages []*Package
		for _, name := range u.names {
			for v := range rapid.IntRange(0, 2).Draw(t, "versions of "+name) {
				p := pkg(fmt.Sprintf("%s %d", name, v+1), rapid.SliceOfN(spec, 0, 2).Draw(t, "depends"),
					constrains(rapid.SliceOfN(plain, 0, 1).Draw(t, "constrains")...))
				p.Timestamp = 1_000_000_000_000 * rapid.Int64Range(0, 3).Draw(t, "time")
				if rapid.IntRange(0, 2).Draw(t, "flagged") == 0 {
					p.Flags = []string{"f"}
				}
				if rapid.IntRange(0, 2).Draw(t, "has an extra") == 0 {
					p.ExtraDepends = map[string][]string{"x": {plain.Draw(t, "extra")}}
				}
				packages = append(packages, p)
			}
		}
		u.all = append(u.all, packages...)
		u.repos = append(u.repos, channel(ch, packages...))
	}
	return u
}

func drawRequest(t *rapid.T, u rich) Request {
	r := Request{
		Priority: rapid.SampledFrom([]ChannelPriority{Strict, Flexible, Disabled}).Draw(t, "priority"),
		Strategy: rapid.SampledFrom([]Strategy{Highest, Lowest, LowestDirect}).Draw(t, "strategy"),
		Encoding: rapid.SampledFrom([]Encoding{Auto, Plain, Shared}).Draw(t, "encoding"),
	}
	name := rapid.SampledFrom(u.names)
	for range rapid.IntRange(1, 2).Draw(t, "specs") {
		r.Specs = append(r.Specs, matchspec.MustParse(
			rapid.SampledFrom([]string{"", "", "", "one::", "two::"}).Draw(t, "channel")+name.Draw(t, "root")+
				rapid.SampledFrom([]string{"", "", " >=2", " 1", "[extras=[x]]"}).Draw(t, "limit")))
	}
	if rapid.IntRange(0, 2).Draw(t, "constrained") == 0 {
		r.Constraints = append(r.Constraints, matchspec.MustParse(name.Draw(t, "constraint")+" <2"))
	}
	if rapid.IntRange(0, 2).Draw(t, "cut off") == 0 {
		r.Newer.Than = time.UnixMilli(2_000_000_000_000)
		r.Newer.KeepUnknown = rapid.Bool().Draw(t, "keeps unknown")
		if rapid.Bool().Draw(t, "by package") {
			r.Newer.ByPackage = map[string]time.Time{name.Draw(t, "cut off name"): time.UnixMilli(1_000_000_000_000)}
		}
	}
	if len(u.all) == 0 {
		return r
	}
	one := rapid.SampledFrom(u.all)
	if rapid.IntRange(0, 3).Draw(t, "locks") == 0 {
		r.Locked = []*Package{one.Draw(t, "locked")}
	}
	if rapid.IntRange(0, 2).Draw(t, "favours") == 0 {
		r.Favoured = []*Package{one.Draw(t, "favoured")}
	}
	if rapid.IntRange(0, 3).Draw(t, "excludes") == 0 {
		r.Exclude = map[string]string{one.Draw(t, "excluded").Location(): "a test"}
	}
	return r
}

// solvable tries every selection, with the extras that it asks for itself.
func (u rich) solvable(v *validator, r *Request) bool {
	byName := map[string][]*Package{}
	for _, p := range u.all {
		if v.allowed(p, r) == "" {
			byName[p.Name] = append(byName[p.Name], p)
		}
	}
	var try func(i int, chosen []*Package) bool
	try = func(i int, chosen []*Package) bool {
		if i == len(u.names) {
			return check(&Solution{Packages: chosen, Extras: askedExtras(chosen, r)}, r) == ""
		}
		if try(i+1, chosen) {
			return true
		}
		for _, p := range byName[u.names[i]] {
			if try(i+1, append(chosen[:len(chosen):len(chosen)], p)) {
				return true
			}
		}
		return false
	}
	return try(0, nil)
}

// askedExtras grows the groups that a selection asks for until nothing is added. A condition is not looked at: conditional
// specs of these universes ask for no extras.
func askedExtras(chosen []*Package, r *Request) map[string][]string {
	out := map[string][]string{}
	ask := func(s *matchspec.Spec) (more bool) {
		name, _ := s.ExactName()
		for _, e := range s.Extras {
			if !slices.Contains(out[name], e) {
				out[name] = append(out[name], e)
				more = true
			}
		}
		return more
	}
	for i := range r.Specs {
		ask(&r.Specs[i])
	}
	for more := true; more; {
		more = false
		for _, p := range chosen {
			depends := slices.Clone(p.Depends)
			for _, e := range out[p.Name] {
				depends = append(depends, p.ExtraDepends[e]...)
			}
			for _, d := range depends {
				s := matchspec.MustParse(d)
				more = ask(&s) || more
			}
		}
	}
	return out
}

func TestAnyAnswerToAnyRequestIsValidAndFoundWhereThereIsOne(t *testing.T) {
	solved, unsolved, senseless := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		u := drawRich(t)
		r := drawRequest(t, u)
		ix, err := NewIndex(u.repos)
		if err != nil {
			t.Fatal(err)
		}
		v := newValidator(u.repos...)
		sol, err := ix.Solve(t.Context(), r)
		var no *UnsolvableError
		switch {
		case err == nil:
			solved++
			if problem := v.judge(sol, &r); problem != "" {
				t.Fatalf("not valid: %s", problem)
			}
		case errors.As(err, &no):
			unsolved++
			if u.solvable(v, &r) {
				t.Fatalf("there is a solution, but: %v", err)
			}
		case len(r.Locked) == 1 && v.allowed(r.Locked[0], &r) != "":
			senseless++ // a lock that is excluded
		default:
			t.Fatal(err)
		}
	})
	if solved == 0 || unsolved == 0 {
		t.Errorf("%d solved and %d not: the universes are too easy or too hard", solved, unsolved)
	}
	t.Logf("%d solved, %d not, %d had an excluded lock", solved, unsolved, senseless)
}

func TestAFavouredPackageIsChosenWhereItAloneIsAskedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := drawRich(t)
		if len(u.all) == 0 {
			return
		}
		p := rapid.SampledFrom(u.all).Draw(t, "favoured")
		ix, err := NewIndex(u.repos)
		if err != nil {
			t.Fatal(err)
		}
		exact := Request{Specs: []matchspec.Spec{matchspec.MustParse(p.Name)}, Priority: Disabled, Locked: []*Package{p}}
		if _, err := ix.Solve(t.Context(), exact); err != nil {
			return // it has no solution of its own
		}
		sol, err := ix.Solve(t.Context(), Request{Specs: exact.Specs, Priority: Disabled, Favoured: []*Package{p}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(sol.Packages, func(q *Package) bool { return q.Location() == p.Location() }) {
			t.Fatalf("%s is favoured and fits, chosen were %v", p, files(sol))
		}
	})
}

func TestAnUnrelatedPackageChangesNoAnswerToAnyRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := drawRich(t)
		r := drawRequest(t, u)
		answer := func(repos []Repo) string {
			ix, err := NewIndex(repos)
			if err != nil {
				t.Fatal(err)
			}
			sol, err := ix.Solve(t.Context(), r)
			if err != nil {
				return err.Error()
			}
			return fmt.Sprint(files(sol))
		}
		before := answer(u.repos)
		more := slices.Clone(u.repos)
		for i := range more {
			stranger := pkg("stranger 1", needs(u.names[0], "elsewhere >=2"), constrains(u.names[0]+" >=9"))
			stranger.Channel, stranger.Subdir = more[i].Channel, more[i].Subdir
			more[i].Packages = append([]*Package{stranger}, more[i].Packages...)
		}
		if after := answer(more); before != after {
			t.Fatalf("%s became %s", before, after)
		}
	})
}
