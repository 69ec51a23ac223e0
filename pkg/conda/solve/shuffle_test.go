package solve

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// puzzle is requests on repos: what is shuffled and renamed.
type puzzle struct {
	repos   []Repo
	virtual bool
	asked   [][]string
}

// puzzles returns the real problems, where there are any, and 200 made ones.
func puzzles(t *testing.T) map[string]puzzle {
	out := map[string]puzzle{}
	rnd := rand.New(rand.NewPCG(7, 7))
	for i := range 50 {
		made := puzzle{repos: []Repo{channel("https://h/c", randomChannel(rnd)...)}, virtual: true}
		list := made.repos[0].Packages
		for range 4 {
			var specs []string
			for range 1 + rnd.IntN(3) {
				specs = append(specs, list[rnd.IntN(len(list))].Name+[]string{"", "", " >=2", " <3"}[rnd.IntN(4)])
			}
			made.asked = append(made.asked, specs)
		}
		out[fmt.Sprintf("made %d", i)] = made
	}
	if repos, err := realRepos(); err == nil {
		real := puzzle{repos: repos, virtual: true}
		for _, g := range goldens(t, rattlerGoldens) {
			real.asked = append(real.asked, g.Specs)
		}
		out["real"] = real
	}
	return out
}

// answers solves every request and returns the files chosen, or nil where there are none.
func (p puzzle) answers(t *testing.T) [][]string {
	t.Helper()
	ix := index(t, p.repos...)
	var out [][]string
	for _, specs := range p.asked {
		r := Request{Specs: parseSpecs(t, specs...)}
		if p.virtual {
			r.Virtual = goldenMachine
		}
		sol, err := ix.Solve(t.Context(), r)
		var unsolvable *UnsolvableError
		if err != nil && !errors.As(err, &unsolvable) {
			t.Fatalf("%v: %v", specs, err)
		}
		if err != nil {
			out = append(out, nil)
			continue
		}
		out = append(out, files(sol))
	}
	return out
}

// shuffled is the same puzzle with the records of each repo in another order.
func (p puzzle) shuffled(rnd *rand.Rand) puzzle {
	q := p
	q.repos = slices.Clone(p.repos)
	for i := range q.repos {
		list := slices.Clone(q.repos[i].Packages)
		rnd.Shuffle(len(list), func(a, b int) { list[a], list[b] = list[b], list[a] })
		q.repos[i].Packages = list
	}
	return q
}

// renamed is the same puzzle with every name in other words; virtual packages keep theirs. The new names sort as the
// old ones do, because the order of candidates compares dependencies in the order of their names.
func (p puzzle) renamed(t *testing.T) puzzle {
	t.Helper()
	q := puzzle{virtual: p.virtual}
	for _, repo := range p.repos {
		r := Repo{Channel: repo.Channel, Subdir: repo.Subdir}
		for _, old := range repo.Packages {
			p := *old
			p.Name = rename(p.Name)
			p.FileName = rename(p.FileName)
			p.Depends = renameAll(p.Depends)
			p.Constrains = renameAll(p.Constrains)
			r.Packages = append(r.Packages, &p)
		}
		q.repos = append(q.repos, r)
	}
	for _, specs := range p.asked {
		q.asked = append(q.asked, renameAll(specs))
	}
	return q
}

const newName = "x9-" // not "x9.", since what ends in .conda is a file

func rename(s string) string {
	if strings.HasPrefix(s, "__") {
		return s
	}
	return newName + s
}

func renameAll(specs []string) []string {
	out := make([]string, len(specs))
	for i, text := range specs {
		s, err := matchspec.Parse(text, matchspec.Options{})
		out[i] = rename(text)
		if err == nil && !s.Channel.IsZero() { // the name is behind the channel
			before, name, _ := strings.Cut(text, "::")
			out[i] = before + "::" + rename(name)
		}
	}
	return out
}

func TestAnswersDoNotDependOnTheOrderOfRecords(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	asked, solved := 0, 0
	for name, p := range puzzles(t) {
		before, after := p.answers(t), p.shuffled(rnd).answers(t)
		for i := range before {
			asked++
			if before[i] != nil {
				solved++
			}
			if !slices.Equal(before[i], after[i]) {
				t.Errorf("%s %v: %v became %v", name, p.asked[i], except(before[i], after[i]), except(after[i], before[i]))
			}
		}
	}
	if asked < 200 || solved < 50 || solved == asked {
		t.Errorf("%d asked, %d solved: that is no test", asked, solved)
	}
	t.Logf("%d problems, %d solved", asked, solved)
}

func TestAnswersDoNotDependOnNames(t *testing.T) {
	asked, solved := 0, 0
	for name, p := range puzzles(t) {
		before, after := p.answers(t), p.renamed(t).answers(t)
		for i := range before {
			asked++
			if before[i] != nil {
				solved++
			}
			var want []string
			for _, f := range before[i] {
				subdir, file, _ := strings.Cut(f, "/")
				want = append(want, subdir+"/"+rename(file))
			}
			if !slices.Equal(want, after[i]) {
				t.Errorf("%s %v: %v became %v", name, p.asked[i], except(want, after[i]), except(after[i], want))
			}
		}
	}
	if asked < 200 || solved < 50 || solved == asked {
		t.Errorf("%d asked, %d solved: that is no test", asked, solved)
	}
	t.Logf("%d problems, %d solved", asked, solved)
}
