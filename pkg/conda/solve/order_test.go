package solve

import (
	"strings"
	"testing"
)

// sorted returns the builds of what a spec selects, best first.
func sorted(t *testing.T, ix *Index, r Request, text string) string {
	t.Helper()
	r.Specs = parseSpecs(t, text)
	v, c, err := ix.compile(&r)
	if err != nil {
		t.Fatal(err)
	}
	s := c.requirements[len(c.requirements)-1].spec
	var out []string
	for _, id := range v.candidates(s, c.low(s.name)) {
		out = append(out, v.cand(id).build)
	}
	return strings.Join(out, " ")
}

func TestCandidatesAreOrderedKeyByKey(t *testing.T) {
	for _, c := range []struct {
		story string
		want  string
		repo  []*Package
	}{
		{"track_features count only as there or not", "plain two one", []*Package{
			pkg("a 9", nil, build("one", 0), features("x")), pkg("a 9", nil, build("two", 1), features("x", "y")), pkg("a 1", nil, build("plain", 0)),
		}},
		{"versions go before build numbers", "new old9 old1", []*Package{
			pkg("a 1", nil, build("old1", 1)), pkg("a 1.0", nil, build("old9", 9)), pkg("a 2", nil, build("new", 0)),
		}},
		{"shared dependencies are compared in the order of their names", "b2 b1c2 b1c1", []*Package{
			pkg("a 1", needs("b 1", "c 1"), build("b1c1", 0)), pkg("a 1", needs("c 2", "b 1"), build("b1c2", 0)), pkg("a 1", needs("b 2", "c 1"), build("b2", 0)),
		}},
		{"a dependency that not all have does not count", "x y", []*Package{
			pkg("a 1", needs("b 1"), build("x", 0)), pkg("a 1", needs("c 2"), build("y", 0)),
		}},
		{"a spec with a candidate beats one without", "can cannot", []*Package{
			pkg("a 1", needs("b 7"), build("cannot", 0), built(5000e8)), pkg("a 1", needs("b 1"), build("can", 0)),
		}},
		{"of two specs on a name the most restrictive counts", "wide narrow", []*Package{
			pkg("a 1", needs("b <3", "b 1"), build("narrow", 0)), pkg("a 1", needs("b <3"), build("wide", 0)),
		}},
		{"dependencies without features are better", "b1 b3", []*Package{
			pkg("a 1", needs("b 3"), build("b3", 0)), pkg("a 1", needs("b 1"), build("b1", 0)),
		}},
		{"then the newest build, one without a time last", "new old none", []*Package{
			pkg("a 1", nil, build("none", 0)), pkg("a 1", nil, build("old", 0), built(2000e8)), pkg("a 1", nil, build("new", 0), built(3000e8)),
		}},
		{"and at last the name of the file, whatever the order of the repodata", "x y z", []*Package{
			pkg("a 1", nil, build("z", 0)), pkg("a 1", nil, build("y", 0)), pkg("a 1", nil, build("x", 0)),
		}},
		{"what cannot be parsed goes to the end of its equals", "good bad", []*Package{
			pkg("a 1", needs("b ]["), build("bad", 0), built(5000e8)), pkg("a 1", needs("b 1"), build("good", 0)),
		}},
	} {
		ix := index(t, channel("c", append(c.repo, pkg("b 1", nil), pkg("b 2", nil), pkg("b 3", nil, features("f")), pkg("c 1", nil), pkg("c 2", nil))...))
		if got := sorted(t, ix, Request{}, "a"); got != c.want {
			t.Errorf("%s: got %s, want %s", c.story, got, c.want)
		}
	}
}

func TestTheStrategyTurnsVersionsAndDependenciesButNotBuilds(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", needs("b 1"), build("1b1", 0)), pkg("a 1", needs("b 2"), build("1b2", 0)), pkg("a 1", nil, build("1n", 5)),
		pkg("a 2", nil, build("2", 0)), pkg("b 1", nil), pkg("b 2", nil),
	))
	want(t, sorted(t, ix, Request{}, "a"), "2 1n 1b2 1b1")
	want(t, sorted(t, ix, Request{Strategy: Lowest}, "a"), "1n 1b1 1b2 2")
	want(t, sorted(t, ix, Request{Strategy: LowestDirect}, "a"), "1n 1b2 1b1 2")
}

func TestEqualsAreComparedWithinTheMatchOfOneSpec(t *testing.T) {
	// x and y share only b; with z in the group there is no name that all have, and the time decides.
	ix := index(t, channel("c",
		pkg("a 1", needs("b 1"), build("x_0", 0), built(3000e8)), pkg("a 1", needs("b 2"), build("y_0", 0), built(2000e8)),
		pkg("a 1", needs("c 1"), build("z", 0), built(1000e8)), pkg("b 1", nil), pkg("b 2", nil), pkg("c 1", nil),
	))
	want(t, sorted(t, ix, Request{}, "a"), "x_0 y_0 z")
	want(t, sorted(t, ix, Request{}, "a * *_0"), "y_0 x_0")
}

func TestVirtualPackagesOfOneRequestDoNotSortForAnother(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", needs("__glibc <2.20"), build("a_old", 0)), pkg("a 1", needs("__glibc >=2.20"), build("b_new", 0)),
	))
	for range 2 { // the second time from what the index keeps
		want(t, sorted(t, ix, Request{Virtual: goldenMachine}, "a"), "b_new a_old")
		want(t, sorted(t, ix, Request{}, "a"), "a_old b_new")
	}
}
