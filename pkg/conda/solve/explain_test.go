package solve

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
)

var update = flag.Bool("update", false, "write the golden explanations")

func TestExplanations(t *testing.T) {
	locked := pkg("b 1", nil)
	many := func(n int) []*Package {
		var out []*Package
		for v := range n {
			out = append(out, pkg(fmt.Sprintf("many %d", v), needs(fmt.Sprintf("b ==%d.5", v))))
		}
		return out
	}
	for _, c := range []struct {
		name  string
		repos []Repo
		r     Request
		specs []string
	}{
		{
			"unknown name",
			[]Repo{channel("c", pkg("numpy 1", nil), pkg("scikit-learn 1", nil))},
			Request{Elsewhere: func(string) []string { return []string{"osx-arm64", "win-64"} }},
			[]string{"nunpy", "scikit_learn"},
		},
		{"no version fits", []Repo{channel("c", pkg("a 1", nil), pkg("a 2", nil))}, Request{}, []string{"a >=3"}},
		{"two requests exclude each other", []Repo{channel("c", pkg("a 1", needs("b <2")), pkg("b 1", nil), pkg("b 2", nil))}, Request{}, []string{"a", "b >=2"}},
		{"a chain", []Repo{channel("c", pkg("a 1", needs("b")), pkg("b 1", needs("c")), pkg("b 2", needs("c")), pkg("c 1", needs("d >=2")), pkg("d 1", nil))}, Request{}, []string{"a"}},
		{"builds merge", []Repo{channel("c",
			pkg("a 1", needs("python 3.9.*"), build("py39", 0)), pkg("a 2", needs("python 3.9.*"), build("py39", 0)),
			pkg("a 2", needs("python 3.10.*"), build("py310", 0)), pkg("python 3.9.1", nil), pkg("python 3.10.2", nil), pkg("python 3.12.0", nil),
		)}, Request{}, []string{"a", "python >=3.11"}},
		{"constraint", []Repo{channel("c", pkg("a 1", nil, constrains("b >=2")), pkg("b 1", nil))}, Request{}, []string{"a", "b"}},
		{"shared constraint", []Repo{channel("c", pkg("a 1", nil, constrains("b >=9")), pkg("b 1", nil), pkg("b 2", nil), pkg("b 3", nil), pkg("b 4", nil))}, Request{}, []string{"a", "b"}},
		{"root constraint", []Repo{channel("c", pkg("a 1", nil))}, Request{Constraints: parseSpecs(t, "a >=2")}, []string{"a"}},
		{"locked", []Repo{channel("c", locked, pkg("b 2", nil), pkg("a 1", needs("b 2")))}, Request{Locked: []*Package{locked}}, []string{"a"}},
		{
			"excluded",
			[]Repo{channel("c", pkg("a 1", nil, built(1600e9)), pkg("a 2", nil, built(1700e9)))},
			Request{Newer: Newer{Than: time.UnixMilli(1500e9)}},
			[]string{"a"},
		},
		{"strict priority", []Repo{channel("first", pkg("a 1", nil)), channel("second", pkg("a 2", nil))}, Request{}, []string{"a 2"}},
		{"unparsable", []Repo{channel("c", pkg("a 1", needs("b[c=d]")))}, Request{}, []string{"a"}},
		{
			"missing virtual package",
			[]Repo{channel("c", pkg("a 1", needs("__cuda >=12")), pkg("b 1", needs("__glibc >=2.28")))},
			Request{Virtual: []virtual.Package{{Name: "__glibc", Version: "2.17", Build: "0"}}},
			[]string{"a"},
		},
		{
			"old virtual package",
			[]Repo{channel("c", pkg("b 1", needs("__glibc >=2.28")))},
			Request{Virtual: []virtual.Package{{Name: "__glibc", Version: "2.17", Build: "0"}}},
			[]string{"b"},
		},
		{"condition", []Repo{channel("c", pkg("a 1", needs("b[when=x]")), pkg("x 1", nil))}, Request{}, []string{"a", "x"}},
		{"extra", []Repo{channel("c", pkg("a 1", nil, extra("test", "b >=3")), pkg("b 1", nil))}, Request{}, []string{"a[extras=[test]]"}},
		{"said once", []Repo{channel("c", pkg("a 1", needs("p")), pkg("a 2", needs("q")), pkg("p 1", needs("x")), pkg("q 1", needs("x")),
			pkg("x 1", needs("z <2")), pkg("x 2", needs("z <2")), pkg("z 1", nil), pkg("z 2", nil))}, Request{}, []string{"a", "z 2"}},
		{"no build fits", []Repo{channel("c",
			pkg("torch 2.1", nil, build("cpu_0", 0)), pkg("torch 2.1", nil, build("cpu_1", 1)), pkg("torch 2.0", nil, build("cuda118_0", 0)),
		)}, Request{}, []string{"torch 2.1 cuda*"}},
		{"a pure python package without its python", []Repo{channel("c",
			pkg("tool 1", needs("python >=3.12")), pkg("python 3.9.1", nil), pkg("python 3.10.2", nil),
		)}, Request{}, []string{"tool"}},
		{"a circle", []Repo{channel("c",
			pkg("a 1", needs("b >=2")), pkg("b 1", nil), pkg("b 2", needs("a >=2")),
		)}, Request{}, []string{"a"}},
		{"a pin and what others need", []Repo{channel("c",
			pkg("numpy 1.26.4", nil), pkg("numpy 2.0.1", nil), pkg("numpy 2.1.0", nil),
			pkg("pandas 2.2.2", needs("numpy >=1.26,<3")), pkg("scipy 1.14", needs("numpy >=2")), pkg("tensorflow 2.16", needs("numpy >=1.23,<2")),
		)}, Request{}, []string{"pandas", "scipy", "tensorflow"}},
		{"a channel that lacks the package", []Repo{channel("https://h/one", pkg("a 1", nil)), channel("https://h/two", pkg("b 1", nil))}, Request{}, []string{"two::a"}},
		{"revoked", []Repo{channel("c", revoked(pkg("a 1", nil)))}, Request{}, []string{"a"}},
		{"no flags", []Repo{channel("c", pkg("blas 1", nil, flags("openblas")), pkg("blas 2", nil, flags("openblas")))}, Request{}, []string{"blas[flags=[mkl]]"}},
		{"only for other systems", []Repo{channel("c", pkg("a 1", needs("__win")))}, Request{Virtual: goldenMachine}, []string{"a"}},
		{
			"a cut-off for one package",
			[]Repo{channel("c", pkg("a 1", needs("b >=2")), pkg("b 1", nil, built(1500e9)), pkg("b 2", nil, built(1700e9)))},
			Request{Newer: Newer{ByPackage: map[string]time.Time{"b": time.UnixMilli(1600e9)}}},
			[]string{"a"},
		},
		{"many kinds", []Repo{channel("c", many(12)...)}, Request{}, []string{"many"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := c.r
			r.Specs = parseSpecs(t, c.specs...)
			_, err := index(t, c.repos...).Solve(t.Context(), r)
			var unsolvable *UnsolvableError
			if !errors.As(err, &unsolvable) {
				t.Fatalf("got %v", err)
			}
			got := strings.Join(c.specs, " ") + "\n\n" + err.Error() + "\n"
			path := filepath.Join("testdata", "explain", strings.ReplaceAll(c.name, " ", "_")+".txt")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func revoked(p *Package) *Package {
	p.Revoked = true
	return p
}

func TestALongExplanationIsCut(t *testing.T) {
	_, err := index(t, pigeons(6)).Solve(t.Context(), Request{Specs: parseSpecs(t, "all")})
	if n := strings.Count(fmt.Sprint(err), "\n"); n > 2*maxReasonLines {
		t.Errorf("%d lines", n)
	}
}

func TestNamesThatAreCloseAreFound(t *testing.T) {
	ix := index(t, channel("c", pkg("scikit-learn 1", nil), pkg("numpy 1", nil), pkg("numba 1", nil), pkg("zlib 1", nil)))
	for name, want := range map[string]string{
		"scikitlearn": "scikit-learn", "scikit.learn": "scikit-learn", "numpi": "numpy", "nump": "numpy", "tensorflow": "", "lib": "", "zlibs": "zlib",
	} {
		if got := strings.Join(ix.nearest(name), " "); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
