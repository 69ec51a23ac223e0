package yamltree

import (
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// Whatever string is written, it is read as that string, by us and by a reader of its own.
func TestStringsSurvive(t *testing.T) {
	for _, s := range []string{
		"", " ", "a", "a b", "a: b", "a #b", "#a", "'", "''a", `"`, `\`, "- a", "-a", "-", "?", "? a", ":", "a:", ":a", "1", "1.0", "1.10", "1e3", "0x1F", "0o7", "007", "2_6_7",
		"null", "~", "true", "No", "on", "y", "=", "==1.0", "=1", ">=1,<2", "<1", "!x", "&x", "*x", "*", "|", ">", "%x", "@x", "`x", "[a]", "{a}", ",", "a,b", "---", "--- a", "...",
		".inf", "-.5", ".nan", "+1", "1.2.3", "2024-01-02", "1:30", "é", "日本", "a\tb", "a\nb", "a\nb\n", "a\n\n", "\na", " a", "a ", "a\x00b", "\u2028", "\ufeff", "\x7f", "a\r\nb",
		"  a\n b", "key: |\n  x", strings.Repeat("long ", 100),
	} {
		doc := NewMap().Add("k", Str(s)).Add(s, Strs([]string{s})).Append(nil)
		n, err := Parse(doc)
		if err != nil {
			t.Errorf("%q is written as %q: %v", s, doc, err)
			continue
		}
		v := n.Get("k")
		if v == nil || v.Kind != String || v.Text != s {
			t.Errorf("%q is written as %q and read as %+v", s, doc, v)
		}
		var other struct{ K any }
		if err := yaml.Unmarshal(NewMap().Add("k", Str(s)).Append(nil), &other); err != nil || other.K != s {
			t.Errorf("%q is written as %q and read elsewhere as %#v, %v", s, doc, other.K, err)
		}
	}
}

func TestDocumentsAreWrittenInBlockStyle(t *testing.T) {
	n, err := Parse([]byte(`{a: [1, {b: c, d: []}, [x, [z]]], "e f": {}, g: null, h: {i: 1.0}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := "a:\n- 1\n- b: c\n  d: []\n- - x\n  - - z\ne f: {}\ng: null\nh:\n  i: 1.0\n"
	got := string(n.Append(nil))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	again, err := Parse([]byte(got))
	if err != nil || string(again.Append(nil)) != got {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestDangerousDocumentsAreRefused(t *testing.T) {
	bomb := "a: &a [x, x]\n"
	for name, doc := range map[string]string{
		"alias": bomb + "b: *a\n", "anchor": bomb, "merge": "a: {<<: {b: 1}}\n", "tag": "a: !!binary aGk=\n", "two documents": "a: 1\n---\nb: 2\n",
		"twice": "a: 1\na: 2\n", "map as key": "{a: 1}: 2\n", "tabs": "a:\n\t- b\n", "open": "a: [1\n", "deep": strings.Repeat("[", 1000) + strings.Repeat("]", 1000),
		"large": strings.Repeat("#", maxSize+1),
	} {
		if n, err := Parse([]byte(doc)); err == nil {
			t.Errorf("%s was read as %+v", name, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 7\npackages:\n- conda: x\n  size: 1\n"))
	f.Add([]byte("a: 'b'\nc: |\n  d\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse(data)
		if err != nil {
			return
		}
		once := n.Append(nil)
		again, err := Parse(once)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", data, once, err)
		}
		if twice := again.Append(nil); string(once) != string(twice) {
			t.Fatalf("%q becomes %q, and that %q", data, once, twice)
		}
	})
}
