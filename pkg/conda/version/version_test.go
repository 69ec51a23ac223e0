package version

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// vectors opens a table from the shared data folder beside the repository. The
// folder is large and optional; the tables in this file hold the same traps.
func vectors(t testing.TB, name string) [][]string {
	t.Helper()
	path := filepath.Join("..", "..", "..", "..", "shared", "data", "04-vectors", name)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no vectors at %s; the embedded tables still run", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dec, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var rows [][]string
	sc := bufio.NewScanner(dec)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		rows = append(rows, strings.Split(sc.Text(), "\t"))
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestRealVersionPairsCompareAsCondaDoes(t *testing.T) {
	rows := vectors(t, "version_pairs.conda_vs_rattler.tsv.zst")
	parsed := map[string]Version{}
	parse := func(s string) (Version, bool) {
		v, ok := parsed[s]
		if !ok {
			var err error
			if v, err = Parse(s); err != nil {
				v = Version{}
			}
			parsed[s] = v
		}
		return v, !v.IsZero()
	}
	wrong := 0
	for _, r := range rows {
		a, okA := parse(r[0])
		b, okB := parse(r[1])
		got := "E"
		if okA && okB {
			got = []string{"-1", "0", "1"}[Compare(a, b)+1]
			if back := []string{"1", "0", "-1"}[Compare(b, a)+1]; back != got {
				t.Errorf("%s against %s is not antisymmetric", r[0], r[1])
			}
		}
		if got != r[2] {
			if wrong++; wrong < 20 {
				t.Errorf("%s against %s: got %s, conda says %s", r[0], r[1], got, r[2])
			}
		}
	}
	if wrong > 0 || len(rows) < 100_000 {
		t.Fatalf("%d of %d pairs differ", wrong, len(rows))
	}
}

func TestRealVersionsParse(t *testing.T) {
	rows := vectors(t, "rattler_parsed_versions.txt.zst")
	n := 0
	for _, r := range rows {
		s, _, ok := strings.Cut(r[0], "=")
		if !ok || strings.HasPrefix(s, "#") {
			continue
		}
		n++
		if v, err := Parse(s); err != nil || v.String() != s {
			t.Errorf("Parse(%q) = %v, %v", s, v, err)
		}
	}
	if n < 19_000 {
		t.Fatalf("only %d versions in the table", n)
	}
}

// ascending holds CEP 33's own list and conda's traps: each line is smaller
// than the next, and the versions on one line are equal.
var ascending = [][]string{
	{"*"},
	{"0.4", "0.4.0"},
	{"0.4.1.rc", "0.4.1.RC"},
	{"0.4.1+local"},
	{"0.4.1", "0.4.1+0"},
	{"0.4.1+1.local"},
	{"0.5a1"},
	{"0.5b3"},
	{"0.5C1"},
	{"0.5"},
	{"0.9.6"},
	{"0.960923"},
	{"1.0"},
	{"1.0.1_"},
	{"1.0.1a"},
	{"1.1dev1"},
	{"1.1_"},
	{"1.1a1"},
	{"1.1rc"},
	{"1.1.0dev1", "1.1.dev1"},
	{"1.1.0rc", "1.1.rc"},
	{"1.1.0", "1.1"},
	{"1.1.0post1", "1.1.post1"},
	{"1.1post1"},
	{"1996.07.12"},
	{"20231105123456"},
	{"18446744073709551615"},
	{"18446744073709551616", "00018446744073709551616.0"},
	{"99999999999999999999"},
	{"100000000000000000000"},
	{"1!0.4.1"},
	{"1!2.15.1_ALPHA", "1!2.15.1.alpha", "1!2.15.1-alpha"},
	{"1!3.1.1.6"},
	{"2!0.4.1"},
}

func TestTheTrapsAreOrdered(t *testing.T) {
	for i, row := range ascending {
		for j, other := range ascending {
			for _, a := range row {
				for _, b := range other {
					want := 0
					if i < j {
						want = -1
					} else if i > j {
						want = 1
					}
					if got := Compare(MustParse(a), MustParse(b)); got != want {
						t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
					}
				}
			}
		}
	}
	if Compare(MustParse("1.0adev"), MustParse("1.0a")) <= 0 {
		t.Error("1.0adev is a word, not a dev release, and sorts after 1.0a")
	}
}

func TestBrokenVersionsAreRefusedWithAReason(t *testing.T) {
	for in, reason := range map[string]string{
		"":                        "empty",
		"  \t":                    "empty",
		"3.5&1":                   "characters",
		"1.0 beta":                "characters",
		"5.5++":                   "local version separator",
		"5.5+1+2":                 "local version separator",
		"5.5..mw":                 "empty segment",
		"1__0":                    "empty segment",
		"1.__0":                   "empty segment",
		"5.5.":                    "empty segment",
		".5":                      "empty segment",
		"+local":                  "main part",
		"1!+local":                "main part",
		"1.0+":                    "local part",
		"1.0+a..b":                "local part",
		"5.5!":                    "epoch",
		"!5":                      "epoch",
		"a!5":                     "epoch",
		"1!2!3":                   "epoch",
		"1-2_3":                   "mixes",
		"1.\x00":                  "characters",
		"\u212a1":                 "characters",
		strings.Repeat("1", 2000): "longer",
	} {
		_, err := Parse(in)
		var pe *ParseError
		if !errors.As(err, &pe) || !strings.Contains(pe.Reason, reason) || pe.Spec {
			t.Errorf("Parse(%.20q): error %v should speak of %q", in, err, reason)
		}
	}
}

// literal draws texts that are versions or nearly so.
func literal() *rapid.Generator[string] {
	return rapid.StringMatching(`([0-2]!)?([0-9]{1,3}|dev|post|rc|a|b1|[0-9]{1,2}(a|rc|dev|post|\*)[0-9]?|[1-9][0-9]{17,22})([._](0|[0-9]{1,2}|dev|post1?|rc|x))*_?(\+(0|[a-z]{1,3}|[0-9])(\.[0-9a-z]{1,2})?)?`)
}

func drawVersion(t *rapid.T, label string) Version {
	s := literal().Draw(t, label)
	v, err := Parse(s)
	if err != nil {
		t.Fatalf("generator made %q: %v", s, err)
	}
	return v
}

func TestTheOrderIsTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawVersion(t, "a"), drawVersion(t, "b"), drawVersion(t, "c")
		if Compare(a, a) != 0 {
			t.Fatal("not reflexive")
		}
		if Compare(a, b) != -Compare(b, a) {
			t.Fatal("not antisymmetric")
		}
		s := []Version{a, b, c}
		slices.SortFunc(s, Compare)
		if Compare(s[0], s[1]) > 0 || Compare(s[1], s[2]) > 0 || Compare(s[0], s[2]) > 0 {
			t.Fatalf("not transitive: %v", s)
		}
		if a.Equal(b) && Compare(a, c) != Compare(b, c) {
			t.Fatal("equal versions differ against a third")
		}
	})
}

func TestPrintingAndParsingIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawVersion(t, "v")
		again, err := Parse(" " + v.String() + "\n")
		if err != nil || !again.Equal(v) || again.String() != v.String() {
			t.Fatalf("%s came back as %s, %v", v, again, err)
		}
		upper, err := Parse(strings.ToUpper(v.String()))
		if err != nil || !upper.Equal(v) {
			t.Fatalf("case changed the order of %s", v)
		}
		if !v.StartsWith(v) {
			t.Fatalf("%s does not start with itself", v)
		}
	})
}

func TestTrailingZerosAndFamiliesAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := MustParse(rapid.StringMatching(`[0-9]{1,3}(\.[0-9]{1,3}){0,4}`).Draw(t, "v"))
		if !MustParse(v.String() + ".0").Equal(v) {
			t.Fatal("a trailing zero changed the version")
		}
		child := MustParse(v.String() + "." + rapid.StringMatching(`[0-9]{1,3}|a|dev`).Draw(t, "child"))
		if !child.StartsWith(v) {
			t.Fatalf("%s does not start with %s", child, v)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, row := range ascending {
		for _, s := range row {
			f.Add(s)
		}
	}
	f.Add("1__0")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s)
		if err != nil {
			var pe *ParseError
			if !errors.As(err, &pe) || !v.IsZero() {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		w, err := Parse(v.String())
		if err != nil || Compare(v, w) != 0 || !v.StartsWith(w) {
			t.Fatalf("%q does not survive a round trip: %v", s, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		_, _ = Parse("2.15.1.post20231105")
	}
}

func BenchmarkCompare(b *testing.B) {
	x, y := MustParse("2.15.1.post1"), MustParse("2.15.1")
	for b.Loop() {
		Compare(x, y)
	}
}
