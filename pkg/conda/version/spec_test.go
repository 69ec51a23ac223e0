package version

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRealSpecsMatchAsCondaDoes(t *testing.T) {
	rows := vectors(t, "versionspec_match.conda_vs_rattler.tsv.zst")
	type parsed struct {
		spec Spec
		err  error
	}
	specs := map[string]parsed{}
	versions := map[string]Version{} // zero: no version
	wrong := 0
	for _, r := range rows {
		p, ok := specs[r[0]]
		if !ok {
			p.spec, p.err = ParseSpec(r[0])
			specs[r[0]] = p
		}
		v, ok := versions[r[1]]
		if !ok {
			v, _ = Parse(r[1])
			versions[r[1]] = v
		}
		got := "0"
		if p.err != nil || v.IsZero() {
			got = "E"
		} else if p.spec.Match(v) {
			got = "1"
		}
		if got != r[2] {
			if wrong++; wrong < 20 {
				t.Errorf("%s on %s: got %s, conda says %s (%v)", r[0], r[1], got, r[2], p.err)
			}
		}
	}
	if wrong > 0 || len(rows) < 100_000 {
		t.Fatalf("%d of %d rows differ", wrong, len(rows))
	}
}

func TestSpecsSelect(t *testing.T) {
	for _, c := range []struct{ spec, yes, no string }{
		{"*", "0 1.0 2!3+x", ""},
		{"1.8", "1.8 1.8.0", "1.8.1 1.7"},
		{"==1.8", "1.8 1.8.0", "1.8.1"},
		{"==1.8.*", "1.8", "1.8.1"},
		{"=1.2", "1.2 1.2.3 1.2g 1.2.post1", "1.20 1.3"},
		{"1.2.*", "1.2 1.2.3 1.2g 1.2.post1", "1.20"},
		{"1.8*", "1.8 1.8.7", "1.80"},
		{"1.0.*", "1 1.0 1.0.5", "1.1"},
		{"1.2a*", "1.2alpha1 1.2a", "1.2b 1.2"},
		{"!=1.8", "1.8.1 1.7", "1.8 1.8.0"},
		{"!=1.8.*", "1.7 1.80", "1.8 1.8.1"},
		{">=1.8.*", "1.8 1.9", "1.7"},
		{"<=1.*", "1 0.9", "1.1"},
		{"~=1.2.3", "1.2.3 1.2.9", "1.2.2 1.3"},
		{">=1.8,<2|==3.1", "1.8 1.9 3.1", "2.0 1.7 3.2"},
		{">=1,(<2|>3)", "1.5 4", "2.5 0.5"},
		{" >=1 , <2 ", "1.5", "2"},
		{"1.*.3", "1.2.3 1.9.9.3", "1.2.4 11.2.3"},
		{"2.7.*.*", "2.7.1.2 2.7.1.", "2.7"},
		{"^1\\.[0-9]+$", "1.10", "1.1.1 21.1"},
		{"^(1|2),?$|3", "1 2 3", "4"},
		{"1.0+abc.*", "1.0+abc.1 1.0+abcd", "1.0 1.0+ab 1.1+abc"},
		{"==3.7b_", "3.7b_", "3.7b 3.7"},
		{">=2023.10.31.12345678901234567890", "2023.10.31.12345678901234567891", "2023.10.31.1"},
		{"1.8|1.9", "1.8 1.9", "1.10"},
	} {
		spec, err := ParseSpec(c.spec)
		if err != nil {
			t.Errorf("%s: %v", c.spec, err)
			continue
		}
		for _, v := range strings.Fields(c.yes) {
			if w, err := Parse(v); err == nil && !spec.Match(w) {
				t.Errorf("%s does not match %s", c.spec, v)
			}
		}
		for _, v := range strings.Fields(c.no) {
			if spec.Match(MustParse(v)) {
				t.Errorf("%s matches %s", c.spec, v)
			}
		}
	}
}

func TestBrokenSpecsAreRefusedWithAReason(t *testing.T) {
	for in, reason := range map[string]string{
		"":                                 "empty",
		"1.8,":                             "empty",
		"|1":                               "empty",
		"()":                               "empty",
		"(1.8":                             "closing parenthesis",
		"1.8)":                             "unexpected",
		">":                                "operator",
		"=>1":                              "operator",
		"!1":                               "operator",
		"~1":                               "operator",
		">= 1":                             "white space",
		"=2.127=mkl":                       "characters",
		"~=1.2.*":                          "'~='",
		"~=1":                              "'~='",
		"^1.2":                             "'$'",
		"1.2$":                             "'^'",
		"^1(?!2)$":                         "negative look-ahead",
		"^(?<=1)2$":                        "look-behind",
		"^(1)\\1$":                         "back-reference",
		"^(1$":                             "compile",
		"1.*/3":                            "glob",
		strings.Repeat("(", 100) + "1":     "nested",
		strings.Repeat("1.0|", 5000) + "1": "longer",
	} {
		_, err := ParseSpec(in)
		var pe *ParseError
		if !errors.As(err, &pe) || !strings.Contains(pe.Error(), reason) || !pe.Spec {
			t.Errorf("ParseSpec(%.20q): error %v should speak of %q", in, err, reason)
		}
	}
}

func TestAnExactSpecNamesItsVersion(t *testing.T) {
	for in, want := range map[string]string{"1.2": "1.2", "==1.2": "1.2", "=1.2": "", "1.2|1.3": "", "*": ""} {
		if v, ok := MustParseSpec(in).Exact(); ok != (want != "") || v.String() != want {
			t.Errorf("Exact(%s) = %s, %v", in, v, ok)
		}
	}
	if !MustParseSpec(" * ").IsAny() || MustParseSpec("1*").IsAny() {
		t.Error("IsAny is wrong")
	}
	if (Spec{}).Match(MustParse("1")) {
		t.Error("the zero spec matches")
	}
}

func TestComplementaryClausesNeverAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, w := drawVersion(t, "v"), drawVersion(t, "w")
		s := strings.ReplaceAll(v.String(), "*", "x")
		for _, pair := range [][2]string{{"==", "!="}, {"<", ">="}, {">", "<="}} {
			a, b := MustParseSpec(pair[0]+s), MustParseSpec(pair[1]+s)
			if a.Match(w) == b.Match(w) {
				t.Fatalf("%s and %s agree on %s", a, b, w)
			}
		}
		both := MustParseSpec(">=" + s + ",<=" + s)
		if both.Match(w) != MustParseSpec("=="+s).Match(w) {
			t.Fatalf("%s is not equality on %s", both, w)
		}
	})
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{">=1.8,<2|==1.*", "^a(b|c)$", "~=1.2", "1.*.3", "((1))", "=2.127=mkl"} {
		f.Add(s, "1.8.3")
	}
	f.Fuzz(func(t *testing.T, s, v string) {
		spec, err := ParseSpec(s)
		if err != nil {
			return
		}
		w, err := Parse(v)
		if err != nil {
			return
		}
		again, err := ParseSpec(spec.String())
		if err != nil || again.Match(w) != spec.Match(w) {
			t.Fatalf("%q does not survive a round trip: %v", s, err)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	s, v := MustParseSpec(">=1.8,<2.0a0"), MustParse("1.21.3")
	for b.Loop() {
		s.Match(v)
	}
}
