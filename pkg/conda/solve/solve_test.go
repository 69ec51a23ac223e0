package solve

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/version"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

func mustVersion(s string) version.Version { return version.MustParse(s) }

func want(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheNewestVersionsThatFitAreChosen(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", needs("b >=1")), pkg("a 2", needs("b >=1", "c 1.*")), pkg("a 3", needs("c 2.*", "b <2")),
		pkg("b 1", nil), pkg("b 2", nil), pkg("b 3", nil),
		pkg("c 1.5", nil), pkg("c 2.0", needs("b >=2")),
	))
	want(t, solve(t, ix, Request{}, "a"), "a 2, b 3, c 1.5")
	want(t, solve(t, ix, Request{}, "a 1"), "a 1, b 3")
	want(t, solve(t, ix, Request{}, "b=1", "c"), "b 1, c 1.5")
}

func TestConstraintsOnlyForbid(t *testing.T) {
	for _, others := range []int{0, 5} { // one by one, and shared
		var packages []*Package
		for i := range others {
			packages = append(packages, pkg("b 0."+string(rune('0'+i)), nil))
		}
		packages = append(packages, pkg("a 1", nil, constrains("b >=2")), pkg("b 1", nil), pkg("b 2", nil), pkg("d 1", needs("b <2")))
		ix := index(t, channel("c", packages...))
		want(t, solve(t, ix, Request{}, "a"), "a 1")
		want(t, solve(t, ix, Request{}, "a", "b"), "a 1, b 2")
		if got := solve(t, ix, Request{}, "a", "d"); !strings.HasPrefix(got, "the request cannot be met") {
			t.Errorf("got %s", got)
		}
		want(t, solve(t, ix, Request{Constraints: parseSpecs(t, "b <2")}, "b"), "b 1")
	}
}

func TestAPackageThatConstrainsItselfAwayIsNotChosen(t *testing.T) {
	ix := index(t, channel("c", pkg("a 1", nil), pkg("a 2", nil, constrains("a <2"))))
	want(t, solve(t, ix, Request{}, "a"), "a 1")
}

func TestVirtualPackagesDecide(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", needs("__glibc >=2.17")), pkg("a 2", needs("__glibc >=2.28")), pkg("a 3", needs("__cuda")),
		pkg("b 1", nil, constrains("__glibc >=2.28")),
		pkg("m 1", needs("__archspec 1 x86_64_v3")), pkg("m 0", nil),
	))
	old := []virtual.Package{{Name: "__glibc", Version: "2.17", Build: "0"}}
	want(t, solve(t, ix, Request{Virtual: old}, "a"), "a 1")
	want(t, solve(t, ix, Request{Virtual: goldenMachine}, "a"), "a 2")
	want(t, solve(t, ix, Request{Virtual: goldenMachine}, "m"), "m 1")
	want(t, solve(t, ix, Request{Virtual: old}, "m"), "m 0")
	if got := solve(t, ix, Request{Virtual: old}, "b"); !strings.Contains(got, "__glibc") {
		t.Errorf("got %s", got)
	}
}

func TestLockedPackagesExcludeOthersAndFavouredOnesAreTriedFirst(t *testing.T) {
	one, two := pkg("b 1", nil), pkg("b 2", nil)
	ix := index(t, channel("c", pkg("a 1", needs("b")), pkg("d 1", needs("b >=2")), one, two, pkg("b 3", nil)))
	want(t, solve(t, ix, Request{Favoured: []*Package{one}}, "a"), "a 1, b 1")
	want(t, solve(t, ix, Request{Favoured: []*Package{one}}, "a", "d"), "a 1, b 3, d 1")
	want(t, solve(t, ix, Request{Locked: []*Package{two}}, "a", "d"), "a 1, b 2, d 1")
	if got := solve(t, ix, Request{Locked: []*Package{one}}, "d"); !strings.Contains(got, "is not the locked one, b 1 0") {
		t.Errorf("got %s", got)
	}
	t.Run("also when the index lacks them", func(t *testing.T) {
		gone := pkg("b 0.5", needs("e"))
		channel("c", gone)
		ix := index(t, channel("c", pkg("a 1", needs("b")), pkg("b 1", nil), pkg("e 1", nil)))
		want(t, solve(t, ix, Request{Locked: []*Package{gone}}, "a"), "a 1, b 0.5, e 1")
		want(t, solve(t, ix, Request{Favoured: []*Package{gone}}, "a"), "a 1, b 0.5, e 1")
		want(t, solve(t, ix, Request{}, "a"), "a 1, b 1")
	})
	t.Run("an excluded lock is an error that names both reasons", func(t *testing.T) {
		got := solve(t, ix, Request{Locked: []*Package{one}, Exclude: map[string]string{one.Location(): "it is broken"}}, "a")
		want(t, got, "b is locked to b 1 0, which is excluded: it is broken")
	})
	t.Run("an excluded favourite is forgotten", func(t *testing.T) {
		got := solve(t, ix, Request{Favoured: []*Package{one}, Exclude: map[string]string{one.Location(): "it is broken"}}, "a")
		want(t, got, "a 1, b 3")
	})
}

func TestChannelPriority(t *testing.T) {
	setup := func() *Index {
		return index(t,
			channel("https://h/first", pkg("a 1", nil), pkg("only 1", nil)),
			channel("https://h/second/", pkg("a 2", nil), pkg("b 1", nil)))
	}
	want(t, solve(t, setup(), Request{}, "a", "b", "only"), "a 1, b 1, only 1")
	want(t, solve(t, setup(), Request{Priority: Flexible}, "a"), "a 1")
	want(t, solve(t, setup(), Request{Priority: Flexible}, "a >1"), "a 2")
	want(t, solve(t, setup(), Request{Priority: Disabled}, "a"), "a 2")
	want(t, solve(t, setup(), Request{}, "second::a"), "a 2")
	if got := solve(t, setup(), Request{}, "a >1"); !strings.Contains(got, "strict priority") {
		t.Errorf("got %s", got)
	}
	if got := solve(t, setup(), Request{}, "second::only"); !strings.Contains(got, "it is not from the requested channel second") {
		t.Errorf("got %s", got)
	}
}

func TestOneChannelInTwoSpellingsIsOneChannel(t *testing.T) {
	ix := index(t, channel("https://h/c", pkg("a 1", nil)), Repo{Channel: "https://h/c/", Subdir: "noarch", Packages: []*Package{pkg("a 2", nil)}})
	want(t, solve(t, ix, Request{}, "a"), "a 2")
}

func TestNewerPackagesAreExcluded(t *testing.T) {
	day := func(d int) time.Time { return time.Date(2026, 1, d, 0, 0, 0, 0, time.UTC) }
	ms := func(d int) int64 { return day(d).UnixMilli() }
	ix := index(t, channel("c",
		pkg("a 1", nil, built(ms(1))), pkg("a 2", nil, built(ms(10))), pkg("a 3", nil),
		// Built long ago, listed lately (CEP 47): what counts is the listing.
		pkg("b 1", nil, built(ms(1))), pkg("b 2", nil, built(ms(2)), indexed(ms(20))),
	))
	want(t, solve(t, ix, Request{Newer: Newer{Than: day(5)}}, "a", "b"), "a 1, b 1")
	want(t, solve(t, ix, Request{Newer: Newer{Than: day(15)}}, "a", "b"), "a 2, b 1")
	want(t, solve(t, ix, Request{Newer: Newer{Than: day(25), KeepUnknown: true}}, "a", "b"), "a 3, b 2")
	want(t, solve(t, ix, Request{Newer: Newer{Than: day(5), ByPackage: map[string]time.Time{"a": day(12)}}}, "a", "b"), "a 2, b 1")
	want(t, solve(t, ix, Request{Newer: Newer{Than: day(5), ByChannel: map[string]time.Time{"c": {}}}}, "a", "b"), "a 3, b 2")
	if got := solve(t, ix, Request{Newer: Newer{Than: day(5)}}, "a >1"); !strings.Contains(got, "it appeared after 2026-01-05") {
		t.Errorf("got %s", got)
	}
}

func TestOfTwinsTheBetterFormatIsTakenUnlessItIsExcluded(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", nil, extension(".tar.bz2"), built(1000)), pkg("a 1", nil, built(9000)), pkg("a 1", nil, extension(".whl"), built(500)),
	))
	file := func(r Request) string {
		r.Specs = parseSpecs(t, "a")
		sol, err := ix.Solve(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		return sol.Packages[0].FileName
	}
	want(t, file(Request{}), "a-1-0.conda")
	want(t, file(Request{Newer: Newer{Than: time.UnixMilli(2000)}}), "a-1-0.tar.bz2")
	want(t, file(Request{Newer: Newer{Than: time.UnixMilli(700)}}), "a-1-0.whl")
	if ix.Len() != 1 {
		t.Errorf("%d candidates, want 1", ix.Len())
	}
	if _, err := NewIndex([]Repo{channel("c", pkg("a 1", nil), pkg("a 1", nil))}); err == nil {
		t.Error("the same file twice is no error")
	}
}

func TestStrategies(t *testing.T) {
	ix := index(t, channel("c", pkg("a 1", needs("b")), pkg("a 2", needs("b")), pkg("b 1", nil), pkg("b 2", nil)))
	want(t, solve(t, ix, Request{Strategy: Highest}, "a"), "a 2, b 2")
	want(t, solve(t, ix, Request{Strategy: Lowest}, "a"), "a 1, b 1")
	want(t, solve(t, ix, Request{Strategy: LowestDirect}, "a"), "a 1, b 2")
	want(t, solve(t, ix, Request{Strategy: LowestDirect}, "a", "b"), "a 1, b 1")
}

func TestConditionsCountOnlyWhileTheyHold(t *testing.T) {
	ix := index(t, channel("c",
		pkg("python 3.8", nil), pkg("python 3.12", nil),
		pkg("a 1", needs("python", "backport[when='python<3.9']", `win[when="__win or (x and y)"]`)),
		pkg("backport 1", nil), pkg("win 1", nil), pkg("x 1", nil), pkg("y 1", nil),
		pkg("hard 1", needs("python", "nothing[when='python>=3.9']")),
		pkg("deep 1", needs("x", "y[when=x]", "win[when=y]")),
	))
	want(t, solve(t, ix, Request{}, "a"), "a 1, python 3.12")
	want(t, solve(t, ix, Request{}, "a", "python=3.8"), "a 1, backport 1, python 3.8")
	want(t, solve(t, ix, Request{Virtual: []virtual.Package{{Name: "__win", Version: "0", Build: "0"}}}, "a"), "a 1, python 3.12, win 1")
	want(t, solve(t, ix, Request{}, "a", "x"), "a 1, python 3.12, x 1")
	want(t, solve(t, ix, Request{}, "a", "x", "y"), "a 1, python 3.12, win 1, x 1, y 1")
	// The condition itself is given up where what it asks for cannot be had.
	want(t, solve(t, ix, Request{}, "hard"), "hard 1, python 3.8")
	// One condition can make another one true.
	want(t, solve(t, ix, Request{}, "deep"), "deep 1, win 1, x 1, y 1")
	want(t, solve(t, ix, Request{}, "x", "y[when=x]"), "x 1, y 1")
	if got := solve(t, ix, Request{}, "hard", "python>=3.9"); !strings.Contains(got, "nothing (when python[version='>=3.9']), which nothing provides") {
		t.Errorf("got %s", got)
	}
}

func TestExtrasAddTheirDependencies(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", needs("b"), extra("test", "t", "u[when=v]"), extra("docs", "d")),
		pkg("a 2", needs("b"), extra("docs", "gone")),
		pkg("b 1", nil), pkg("t 1", nil), pkg("u 1", nil), pkg("v 1", nil), pkg("d 1", nil),
		pkg("app 1", needs("a[extras=[docs]]")),
	))
	want(t, solve(t, ix, Request{}, "a"), "a 2, b 1")
	want(t, solve(t, ix, Request{}, "a=1[extras=[test]]"), "a 1, b 1, t 1")
	want(t, solve(t, ix, Request{}, "a=1[extras=[test]]", "v"), "a 1, b 1, t 1, u 1, v 1")
	want(t, solve(t, ix, Request{}, "app"), "a 1, app 1, b 1, d 1")
	want(t, solve(t, ix, Request{}, "a[extras=[unknown]]"), "a 2, b 1")
	sol, err := ix.Solve(t.Context(), Request{Specs: parseSpecs(t, "a 1[extras=[test,docs]]")})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]string{"a": {"docs", "test"}}, sol.Extras); diff != "" {
		t.Error(diff)
	}
}

func TestFlagsSelectVariants(t *testing.T) {
	ix := index(t, channel("c",
		pkg("a 1", nil, build("cpu", 1), flags("cpu")), pkg("a 1", nil, build("cuda", 0), flags("gpu:cuda", "x")),
	))
	want(t, solve(t, ix, Request{}, "a"), "a 1 cpu")
	want(t, solve(t, ix, Request{}, "a[flags=['gpu:*']]"), "a 1 cuda")
}

func TestOverridesReplaceDependencies(t *testing.T) {
	ix := index(t, channel("c", pkg("a 1", needs("b <2")), pkg("b 1", nil), pkg("b 2", nil)))
	want(t, solve(t, ix, Request{}, "a"), "a 1, b 1")
	specs := parseSpecs(t, "a")
	sol, err := ix.Solve(t.Context(), Request{Specs: specs, Overrides: []Override{{With: matchspec.MustParse("b >=2")}}})
	if err != nil || sol.Packages[1].Version != "2" {
		t.Errorf("got %v, %v", sol, err)
	}
	want(t, solve(t, ix, Request{}, "a"), "a 1, b 1") // and nothing of it stays behind
}

func TestABrokenRecordFailsAlone(t *testing.T) {
	revoked := pkg("a 4", nil)
	revoked.Revoked = true
	ix := index(t, channel("c",
		pkg("a 1", nil), pkg("a 2", needs("b >=1.x(")), pkg("a 3", nil, constrains("b[nonsense=1]")), revoked, pkg("a !!", nil),
		pkg("b 1", nil),
	))
	want(t, solve(t, ix, Request{}, "a"), "a 1")
	if got := solve(t, ix, Request{}, "a 2"); !strings.Contains(got, `dependency "b >=1.x("`) {
		t.Errorf("got %s", got)
	}
	if p := ix.Problems(); len(p) != 1 || p[0].Package.Version != "!!" {
		t.Errorf("got %v", p)
	}
}

func TestAnEmptyRequestIsRefused(t *testing.T) {
	want(t, solve(t, index(t), Request{}), ErrNoSpecs.Error())
	if got := solve(t, index(t), Request{}, "a*"); !strings.Contains(got, "exact name") {
		t.Errorf("got %s", got)
	}
}

func TestFindListsTheBestFirst(t *testing.T) {
	ix := index(t, channel("c", pkg("a 1", nil), pkg("a 10", nil), pkg("a 2", nil), pkg("ab 1", nil)))
	spec := matchspec.MustParse("a* <10")
	var got []string
	for _, p := range ix.Find(&spec) {
		got = append(got, p.String())
	}
	want(t, strings.Join(got, ", "), "a 2 0, a 1 0, ab 1 0")
	want(t, strings.Join(ix.Names(), " "), "a ab")
}
