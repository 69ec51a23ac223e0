package matchspec

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

func TestEveryFormPrintsCanonically(t *testing.T) {
	for _, c := range [][2]string{
		// Plain names and versions.
		{"numpy", "numpy"},
		{"NumPy", "numpy"},
		{"numpy *", "numpy"},
		{"numpy # the old one", "numpy"},
		{"numpy 1.8", "numpy==1.8"},
		{"numpy==1.8", "numpy==1.8"},
		{"numpy=1.8", "numpy=1.8"},
		{"numpy =1.8", "numpy=1.8"},
		{"numpy 1.8.*", "numpy=1.8"},
		{"numpy=1.8.*", "numpy=1.8"},
		{"numpy=1.8.*=*", "numpy=1.8"},
		{"numpy[version=1.8.*]", "numpy=1.8"},
		{"numpy=1.8=*", "numpy==1.8"},
		{"numpy 1.8 *", "numpy==1.8"},
		{"numpy[version=1.8]", "numpy==1.8"},
		{"numpy 1.8*", "numpy=1.8"},
		{"numpy=1.8=py39*", "numpy==1.8[build=py39*]"},
		{"numpy ==1.8 b", "numpy==1.8=b"},
		{"numpy 1.8 b", "numpy==1.8=b"},
		{"numpy>=1.8,<2|==1.9.3", "numpy[version='>=1.8,<2|==1.9.3']"},
		{"numpy >= 1.8", "numpy[version='>=1.8']"},
		{"numpy   =  1.0  =  2", "numpy==1.0=2"},
		{"numpy 1.8|1.9", "numpy[version='1.8|1.9']"},
		{"numpy (>=1,<2)|3", "numpy[version='(>=1,<2)|3']"},
		{"numpy=", "numpy"},
		{"python >=3.8,<3.9.0a0 *_cpython", "python[version='>=3.8,<3.9.0a0',build=*_cpython]"},
		// Channels, subdirs, files.
		{"conda-forge::numpy=1.8", "conda-forge::numpy=1.8"},
		{"conda-forge/linux-64::numpy", "conda-forge/linux-64::numpy"},
		{"conda-forge/label/dev::numpy", "conda-forge/label/dev::numpy"},
		{"*/linux-64::numpy", "numpy[subdir=linux-64]"},
		{"https://host/c:ns:numpy", "https://host/c::numpy"},
		{"numpy[channel=c,subdir=noarch]", "c/noarch::numpy"},
		{"https://host/c/linux-64/foo-1.0-py27_0.conda", "https://host/c/linux-64::foo==1.0=py27_0"},
		{"/tmp/c/noarch/x264-1%21164-h0_0.tar.bz2", "file:///tmp/c/noarch::x264==1!164=h0_0"},
		{"/some/where/package-1-2.conda", "*[url=file:///some/where/package-1-2.conda]"},
		// Brackets.
		{`numpy[version=">=1,<2", build='*_0']`, "numpy[version='>=1,<2',build=*_0]"},
		{"numpy 1.8[version=1.9,build=b]", "numpy==1.9=b"},
		{"numpy[build_number='>=7']", "numpy[build_number='>=7']"},
		{"numpy[license=MIT,md5=ABCDEF]", "numpy[md5=abcdef,license=mit]"},
		{"numpy[fn='a b.conda']", "numpy[fn='a b.conda']"},
		{"numpy(optional)", "numpy"},
		{"numpy[build=b](target=x,optional)", "numpy[build=b]"},
		{"blas[track_features=mkl,features=f]", "blas[track_features=mkl,features=f]"},
		{"mkl@", "*[track_features=mkl]"},
		{"@mkl", "*[track_features=mkl]"},
		{"numpy[build='^py(39|310)$']", "numpy[build='^py(39|310)$']"},
		// CEP 43, 44, 45.
		{"numpy[extras=[test, docs]]", "numpy[extras=['test','docs']]"},
		{"numpy[extras=test]", "numpy[extras=['test']]"},
		{"numpy[flags=['gpu:*',cuda]]", "numpy[flags=['gpu:*','cuda']]"},
		{`numpy >=2[when="python>=3.9 and __unix"]`, "numpy[version='>=2',when='python>=3.9 and __unix']"},
	} {
		got := outcome(c[0], Options{})
		if got != c[1] {
			t.Errorf("%q: got %q, want %q", c[0], got, c[1])
			continue
		}
		if again := outcome(got, Options{}); again != got {
			t.Errorf("%q: canonical %q parses to %q", c[0], got, again)
		}
	}
}

func TestMistakesAreRefusedWithTheirPosition(t *testing.T) {
	for _, c := range []struct {
		in     string
		strict bool
		pos    int
	}{
		{"", false, 0},
		{"   ", false, 3},
		{"# only a comment", false, 0},
		{">=1.0", false, 0},
		{"bla/bla", false, 3},
		{"numpy >=", false, 6},
		{"numpy ==", false, 6},
		{"numpy[unknown=1]", false, 6},
		{"numpy[version='1]", false, 5},
		{"numpy[extras=[a,,b]]", false, 16},
		{"numpy[extras=[a,b]", false, 5},
		{"numpy[extras=Test]", false, 13},
		{"numpy[flags=a:b:c]", false, 15},
		{"numpy[build_number=x]", false, 19},
		{"numpy[version=[1]]", false, 14},
		{"numpy[when='a and']", false, 17},
		{"numpy[when='(a']", false, 14},
		{"numpy[when='a b[when=c]']", false, 21},
		{"numpy[when='a* and b']", false, 12},
		{"::numpy", false, 0},
		{"foo; if bar", false, 3},
		{"numpy >=1.0.0*b!", false, 6},
		{"^(aaaa$", false, 0},
		{"numpy[version='(?=a)^x(?=y)$']", false, 15},
		{"a[fn=1][fn=2]", false, 7},
		{"a]b", false, 1},
		// Only strict input is held to these.
		{"numpy[version=1,version=2]", true, 16},
		{"numpy[a,b]", true, 6},
		{"numpy[]", true, 6},
		{"numpy=", true, 5},
		{"ray[build=d] >=2", true, 13},
		{"numpy if bar", true, 5},
		{"numpy[md5=12]", true, 10},
		{"numpy[when='  ']", true, 12},
	} {
		_, err := Parse(c.in, Options{Strict: c.strict})
		var pe *ParseError
		if !errors.As(err, &pe) {
			t.Errorf("%q: got %v, want a *ParseError", c.in, err)
			continue
		}
		if pe.Text != c.in || pe.Pos != c.pos {
			t.Errorf("%q: got position %d (%v), want %d", c.in, pe.Pos, err, c.pos)
		}
		if _, err := Parse(c.in, Options{}); c.strict && err != nil && c.in != "numpy[md5=12]" {
			t.Errorf("%q: lenient: %v", c.in, err)
		}
	}
}

func candidate(name, v, build string) *Candidate {
	return &Candidate{Name: name, Version: version.MustParse(v), Build: build}
}

func TestAnEqualSignBeforeABuildIsEqualityForTheTools(t *testing.T) {
	// CEP 29: the family 1.8. conda 26.7.1 and rattler's lenient parser: exactly 1.8. rattler's strict parser: the family.
	lenient := MustParse("pkg =1.8 b")
	if got := lenient.Canonical(); got != "pkg==1.8=b" || lenient.Match(candidate("pkg", "1.8.1", "b")) {
		t.Errorf("lenient: %s, matches 1.8.1: %v", got, lenient.Match(candidate("pkg", "1.8.1", "b")))
	}
	var warnings []string
	strict, err := Parse("pkg =1.8 b", Options{Strict: true, Warn: func(_ int, m string) { warnings = append(warnings, m) }})
	if err != nil {
		t.Fatal(err)
	}
	if got := strict.Canonical(); got != "pkg=1.8[build=b]" || !strict.Match(candidate("pkg", "1.8.1", "b")) || len(warnings) != 1 {
		t.Errorf("strict: %s, warnings %q", got, warnings)
	}
	// Joined by equal signs it is equality for everybody.
	if s, err := Parse("pkg=1.8=b", Options{Strict: true}); err != nil || s.Match(candidate("pkg", "1.8.1", "b")) {
		t.Errorf("pkg=1.8=b matches 1.8.1 (%v)", err)
	}
}

func TestNotEqualExcludesOneVersionAndNotItsFamily(t *testing.T) {
	// CEP 29's words would exclude the family; no implementation does.
	for _, strict := range []bool{false, true} {
		s, err := Parse("pkg!=1.8", Options{Strict: strict})
		if err != nil {
			t.Fatal(err)
		}
		if s.Match(candidate("pkg", "1.8.0", "b")) || !s.Match(candidate("pkg", "1.8.1", "b")) {
			t.Errorf("strict=%v: !=1.8 must exclude 1.8 and keep 1.8.1", strict)
		}
		s, err = Parse("pkg!=1.8.*", Options{Strict: strict})
		if err != nil || s.Match(candidate("pkg", "1.8.1", "b")) {
			t.Errorf("strict=%v: !=1.8.* must exclude 1.8.1 (%v)", strict, err)
		}
	}
}

func TestMatchLooksAtEveryField(t *testing.T) {
	full := Candidate{
		Name: "numpy", Version: version.MustParse("1.8.2"), Build: "py39_3", BuildNumber: 3,
		Channel: "https://host/conda-forge", Subdir: "linux-64", FileName: "numpy-1.8.2-py39_3.conda",
		URL: "https://host/conda-forge/linux-64/numpy-1.8.2-py39_3.conda", MD5: "aa", SHA256: "bb",
		License: "BSD-3-Clause", LicenseFamily: "BSD", Features: "f", TrackFeatures: []string{"x", "mkl"}, Flags: []string{"cuda", "gpu:h100"},
	}
	for in, want := range map[string]bool{
		"numpy": true, "scipy": false, "num*": true, "^n.*y$": true, "*": true,
		"numpy 1.8.*": true, "numpy >=1.9": false, "numpy * PY39_3": true, "numpy * py38*": false, "numpy[build='^.*_3$']": true,
		"numpy[build_number='>2']": true, "numpy[build_number=2]": false, "numpy[build_number='0|>=3,<4']": true,
		"conda-forge::numpy": true, "https://host/conda-forge/::numpy": true, "forge::numpy": false, "conda-*::numpy": false,
		"conda-forge/linux-64::numpy": true, "conda-forge/noarch::numpy": false, "numpy[subdir=linux-*]": true,
		"numpy[fn=numpy-1.8.2-py39_3.conda]": true, "numpy[fn='*.tar.bz2']": false, "numpy[md5=AA]": true, "numpy[md5=ab]": false,
		"numpy[sha256=bb]": true, "numpy[sha256=bc]": false, "numpy[license='bsd*']": true, "numpy[license=mit]": false,
		"numpy[license_family=bsd]": true, "numpy[features=f]": true, "numpy[features=g]": false, "mkl@": true, "nomkl@": false,
		"numpy[flags=cuda]": true, "numpy[flags=[cuda,'gpu:*']]": true, "numpy[flags=[cuda,rocm]]": false,
		"https://host/conda-forge/linux-64/numpy-1.8.2-py39_3.conda":  true,
		"https://other/conda-forge/linux-64/numpy-1.8.2-py39_3.conda": false,
		"numpy[extras=test,when=nothing]":                             true,
	} {
		s := MustParse(in)
		if got := s.Match(&full); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func TestConditionsEvaluateWithAndBeforeOr(t *testing.T) {
	s := MustParse(`numpy[when="python<3.9 or a[version='>=1 , <2'] and (b or __unix)"]`)
	for _, c := range []struct {
		has  []string
		want bool
	}{
		{nil, false},
		{[]string{"python"}, true},
		{[]string{"a"}, false},
		{[]string{"a", "__unix"}, true},
		{[]string{"a", "b"}, true},
		{[]string{"b", "__unix"}, false},
	} {
		got := s.When.Eval(func(spec *Spec) bool {
			name, _ := spec.ExactName()
			for _, h := range c.has {
				if h == name {
					return true
				}
			}
			return false
		})
		if got != c.want {
			t.Errorf("with %v: got %v, want %v", c.has, got, c.want)
		}
	}
	if diff := cmp.Diff("python[version='<3.9'] or a[version='>=1,<2'] and (b or __unix)", s.When.String()); diff != "" {
		t.Error(diff)
	}
}

func TestChannelNamesAreReplaced(t *testing.T) {
	if got := outcome("pkgs/main/noarch::tzdata", condaNames); got != "defaults/noarch::tzdata" {
		t.Errorf("got %q", got)
	}
}

func TestPrintedSpecsParseBackToThemselves(t *testing.T) {
	word := rapid.StringMatching(`[a-z][a-z0-9_]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		in := word.Draw(t, "name") + rapid.SampledFrom([]string{"", " ", "=", "==", " >=", "!=", "~="}).Draw(t, "op") +
			rapid.SampledFrom([]string{"1.2", "1.2.*", "1.0a", "2,<3", "1|2.*"}).Draw(t, "version") +
			rapid.SampledFrom([]string{"", " b_0", "=py*", " *"}).Draw(t, "build") +
			rapid.SampledFrom([]string{"", "[build_number='>1']", "[when='a or b']", "[extras=[x,y],license=MIT]"}).Draw(t, "brackets")
		for _, opts := range []Options{{}, {Strict: true}} {
			s, err := Parse(in, opts)
			if err != nil {
				continue
			}
			again, err := Parse(s.Canonical(), opts)
			if err != nil || again.Canonical() != s.Canonical() {
				t.Fatalf("%q: %q parses to %q (%v)", in, s.Canonical(), again.Canonical(), err)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"numpy", "a::b=1=c", "x[version='>=1',when=\"a and (b or c[build='*']) \",extras=[a,'b']]", "ray[default] >=2",
		"https://h/c/noarch/a-1-0.conda", "^a.*$", "a@", "a (optional)", "a[b=[", "a[when='(((((a']", "*/x(:/[]",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		for _, opts := range []Options{{}, {Strict: true, Warn: func(pos int, _ string) {
			if pos < 0 || pos > len(in) {
				t.Errorf("a warning at %d of %d bytes", pos, len(in))
			}
		}}} {
			s, err := Parse(in, opts)
			var pe *ParseError
			if err != nil {
				if !errors.As(err, &pe) || pe.Pos < 0 || pe.Pos > len(in) {
					t.Fatalf("error %#v", err)
				}
				continue
			}
			s.Match(&Candidate{Name: "numpy", Version: version.MustParse("1"), Build: "x"})
			printed := s.Canonical()
			if printed == "" {
				t.Fatal("an empty canonical form")
			}
			again, err := Parse(printed, Options{})
			if err != nil || again.Canonical() != printed {
				t.Fatalf("%q is printed as %q, which is read as %q (%v)", in, printed, again.Canonical(), err)
			}
		}
	})
}
