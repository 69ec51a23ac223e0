package solve

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// universe is a small channel of which every selection can be tried.
type universe struct {
	packages []*Package
	names    []string
}

func drawUniverse(t *rapid.T) universe {
	names := []string{"a", "b", "c", "d", "e"}[:rapid.IntRange(2, 5).Draw(t, "names")]
	spec := rapid.Custom(func(t *rapid.T) string {
		s := rapid.SampledFrom(names).Draw(t, "name") +
			rapid.SampledFrom([]string{"", " 1", " 2", " >=2", " <3", " !=2", " 1|3", " *"}).Draw(t, "version")
		if rapid.IntRange(0, 5).Draw(t, "conditional") == 0 {
			s += "[when='" + rapid.SampledFrom(names).Draw(t, "when") + rapid.SampledFrom([]string{"", "<2", ">=2"}).Draw(t, "limit") + "']"
		}
		return s
	})
	u := universe{names: names}
	for _, name := range names {
		for v := range rapid.IntRange(0, 3).Draw(t, "versions of "+name) {
			u.packages = append(u.packages, pkg(fmt.Sprintf("%s %d", name, v+1),
				rapid.SliceOfN(spec, 0, 3).Draw(t, "depends"),
				constrains(rapid.SliceOfN(spec.Filter(func(s string) bool { return s[len(s)-1] != ']' }), 0, 1).Draw(t, "constrains")...)))
		}
	}
	return u
}

// solvable tries every selection.
func (u universe) solvable(r *Request) bool {
	byName := map[string][]*Package{}
	for _, p := range u.packages {
		byName[p.Name] = append(byName[p.Name], p)
	}
	var try func(i int, chosen []*Package) bool
	try = func(i int, chosen []*Package) bool {
		if i == len(u.names) {
			return check(&Solution{Packages: chosen}, r) == ""
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

func TestSolvingAgreesWithTryingEverything(t *testing.T) {
	solved, unsolved := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		u := drawUniverse(t)
		var specs []matchspec.Spec
		for range rapid.IntRange(1, 3).Draw(t, "specs") {
			specs = append(specs, matchspec.MustParse(rapid.SampledFrom(u.names).Draw(t, "root")+rapid.SampledFrom([]string{"", " 1", " >=2"}).Draw(t, "limit")))
		}
		for _, encoding := range []Encoding{Auto, Plain, Shared} {
			for _, strategy := range []Strategy{Highest, Lowest} {
				ix, err := NewIndex([]Repo{channel("c", u.packages...)})
				if err != nil {
					t.Fatal(err)
				}
				r := Request{Specs: specs, Strategy: strategy, Encoding: encoding}
				sol, err := ix.Solve(context.Background(), r)
				var unsolvable *UnsolvableError
				switch {
				case err == nil:
					solved++
					if problem := check(sol, &r); problem != "" {
						t.Fatalf("not valid: %s", problem)
					}
				case !errors.As(err, &unsolvable):
					t.Fatal(err)
				default:
					unsolved++
					if len(unsolvable.Reasons) == 0 {
						t.Fatal("no reasons")
					}
					if u.solvable(&r) {
						t.Fatalf("there is a solution, but: %v", err)
					}
				}
			}
		}
	})
	if solved == 0 || unsolved == 0 {
		t.Errorf("%d solved and %d not: the universes are too easy or too hard", solved, unsolved)
	}
}

func TestAnUnrelatedPackageChangesNoAnswer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := drawUniverse(t)
		specs := []matchspec.Spec{matchspec.MustParse(rapid.SampledFrom(u.names).Draw(t, "root"))}
		answer := func(packages []*Package) string {
			ix, err := NewIndex([]Repo{channel("c", packages...)})
			if err != nil {
				t.Fatal(err)
			}
			sol, err := ix.Solve(context.Background(), Request{Specs: specs})
			if err != nil {
				return err.Error()
			}
			return fmt.Sprint(files(sol))
		}
		before := answer(u.packages)
		after := answer(append([]*Package{pkg("unrelated 1", needs(u.names[0]))}, u.packages...))
		if before != after {
			t.Fatalf("%s became %s", before, after)
		}
		if again := answer(u.packages); again != before {
			t.Fatalf("%s became %s by itself", before, again)
		}
	})
}
