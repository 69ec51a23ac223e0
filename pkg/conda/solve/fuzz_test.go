package solve

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
)

// FuzzSolve reads a universe of up to four names and a request from bytes, and checks the answer against trying every
// selection: the fuzzer finds conflicts that random universes do not have.
func FuzzSolve(f *testing.F) {
	f.Add([]byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"), uint16(0))
	f.Add([]byte("conflicts are made of this, and of that, and of what constrains both"), uint16(0x1234))
	f.Fuzz(func(t *testing.T, data []byte, how uint16) {
		next := func(n int) int {
			if len(data) == 0 {
				return 0
			}
			b := int(data[0]) % n
			data = data[1:]
			return b
		}
		names := []string{"a", "b", "c", "d"}
		limits := []string{"", " 1", " >=2", " <2", " !=2", " 1|3", " >=9", " 2 h*"}
		spec := func() string {
			s := names[next(4)] + limits[next(len(limits))]
			if next(6) == 5 {
				s += "[when='" + names[next(4)] + []string{"", " >=2", " or b <2"}[next(3)] + "']"
			}
			return s
		}
		u := universe{names: names}
		for _, name := range names {
			for v := range next(4) {
				p := pkg(fmt.Sprintf("%s %d", name, v+1), nil, build(fmt.Sprintf("h%d", next(2)), 0))
				for range next(4) {
					p.Depends = append(p.Depends, spec())
				}
				if next(3) == 2 {
					p.Constrains = append(p.Constrains, names[next(4)]+limits[next(len(limits))])
				}
				if next(5) == 4 {
					p.TrackFeatures = []string{"f"}
				}
				u.packages = append(u.packages, p)
			}
		}
		repo := channel("c", u.packages...)
		ix, err := NewIndex([]Repo{repo})
		if err != nil {
			t.Fatal(err)
		}
		r := Request{
			Encoding: []Encoding{Auto, Plain, Shared}[how%3], Strategy: []Strategy{Highest, Lowest, LowestDirect}[how/3%3],
			Limits: Limits{Time: 10 * time.Second},
		}
		for range 1 + how/9%3 {
			r.Specs = append(r.Specs, matchspec.MustParse(names[next(4)]+limits[next(5)]))
		}
		sol, err := ix.Solve(t.Context(), r)
		var no *UnsolvableError
		switch {
		case err == nil:
			if problem := newValidator(repo).judge(sol, &r); problem != "" {
				t.Fatal(problem)
			}
		case !errors.As(err, &no):
			t.Fatal(err)
		case len(no.Reasons) == 0 || no.Error() == "":
			t.Fatal("no reasons")
		case u.solvable(&r):
			t.Fatalf("there is a solution, but: %v", err)
		}
	})
}
