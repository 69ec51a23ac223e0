package quetz

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitShell(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "  ": nil, "a b": {"a", "b"}, `"a b" c`: {"a b", "c"}, `'a "b' c`: {`a "b`, "c"}, `a\ b`: {"a b"}, `"a\"b"`: {`a"b`}, `"a\b"`: {`a\b`}, `'a\b'`: {`a\b`},
		`key:"a b"`: {"key:a b"}, `""`: {""}, "a\tb\nc": {"a", "b", "c"}, `a''b`: {"ab"}, "é ☃": {"é", "☃"},
	} {
		got, err := splitShell(in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", in, err, diff)
		}
	}
	for _, in := range []string{`"`, `'`, `\`, `a "b`, `a 'b" c`, `x\`} {
		if got, err := splitShell(in); err == nil {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// What is split can be searched for, or is refused; nothing else.
func FuzzParseSearch(f *testing.F) {
	for _, s := range []string{"a NOT b", `"x y" -channel:a,b`, "NOT", "::", "-:", "NOT NOT NOT x", `\\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		terms, err := parseSearch(s, packageKeys)
		if err != nil {
			return
		}
		for _, term := range terms {
			if len(term.GetValues()) == 0 || (term.GetField() != "name" && !packageKeys[term.GetField()]) {
				t.Fatalf("%q: %v", s, term)
			}
			for _, v := range term.GetValues() {
				if v == "" {
					t.Fatalf("%q: an empty value: %v", s, term)
				}
			}
		}
	})
}
