package names_test

import (
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

// goodPaths are names that real channels and repositories use.
var goodPaths = []string{
	"a", "a/b", "noarch/repodata.json", "linux-64/x264-1!164.3095-h166bdaf_2.tar.bz2", "linux-64/x264-1%21164.3095-h166bdaf_2.tar.bz2",
	"linux-64/libstdcxx-ng-13.2.0+1-h1.conda", "Packages/c/c++-1.0-1.el9.x86_64.rpm", "repodata/repomd.xml", ".treeinfo", ".well-known/x",
	"a.b/c..d", "..a", "a..", "...a", "a...b", "-rf", "~root", "a b", "a b/c d", "données/été.txt", "名前/ファイル", "emoji-🎉", "100%", "50%/x",
	"a%zz", "%", "%%", "a%2", "%41", "%7e", "a%20b", "%e2%82%ac", "label/dev/noarch/x.conda", "x;y=z", "a=b&c", "a?b", "a#b", "ab:c", "1:b", "@x",
	"(1)", "[x]", "{y}", "$HOME", "`id`", "'q'", `"q"`, "<x>", "a|b", "a*b", "foo…bar", "a．b", "con", "nul", "x\u200cy",
	strings.Repeat("s", 255), strings.Repeat("s/", 511) + "st", strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 127)+"/", 8), "/"),
}

// badPaths builds the attack corpus: each way to say "up", "root" or "nothing", at each place of a path, and encoded.
func badPaths() []string {
	bad := []string{
		"", "/", "//", "/a", "//a", "/etc/passwd", "C:", "C:/x", "c:x", "Z:/", "file:///etc/passwd", "http://a//b",
		strings.Repeat("s", 256), "a/" + strings.Repeat("s", 256), strings.Repeat("s/", 512) + "s", strings.Repeat("é", 128),
		"\xff", "a/\xc0\xae\xc0\xae/b", "\xed\xa0\x80", "a\xf8", "%c0%ae%c0%ae/x", "%c1%9c", "%ff", "%e0%80%af",
		"%uff0e", "%u002e%u002e/x", "a%u2215b", "%U002E", "a\u2028b", "a\u2029b", "a\u202eb", "a\u200bb", ".\u200b.", "a\ufeffb", "\u2066a", "a\u0085b", "a\u009bb",
	}
	segments := []string{
		"", ".", "..", "...", "....", " ", "  ", ". ", "..  ", " ..", ". .", "\u3000", "．", "．．", "․․", "‥", "…", "。。", "｡", "﹒﹒",
		`\`, `..\`, `\..`, `..\..\x`, `a\b`, "\x00", "..\x00", "a\x00.conda", "\n", "a\r\nb", "\t", "\x1b[2J", "\x7f", "x\x01",
		"a⁄b", "a∕b", "a⧸b", "..／x", "a＼b", "a﹨b", "a∖b", "a⧵b",
	}
	for _, s := range segments {
		bad = append(bad, s+"/a", "a/"+s+"/b", "a/"+s)
	}
	encoded := []string{
		"%2e", "%2E", "%2e%2e", "%2e.", ".%2e", "%2e%2E%2f", "..%2f", "..%2fetc%2fpasswd", "%2f", "%2F", "%5c", "%5C", "..%5c", "..%5C..",
		"%00", "x%00.conda", "%0a", "%0d%0a", "%09", "%1f", "%7f", "%252e", "%252e%252e", "%252E.", "%252f", "%255c", "%2500", "%25252e", "%2525252525252e",
		"%25%32%65", "%2%35%32%65", "%2%65", "%%32%65", "%25c0%25ae", "%e2%80%a6", "%ef%bc%8f", "%ef%bc%8e%ef%bc%8e", "%e2%88%95", "%20", "%25%20", "foo%2ebar", "%2569%2e",
	}
	for _, s := range encoded {
		if s == "%25%20" { // decodes to "% ", which is a name like any other
			continue
		}
		bad = append(bad, s+"/a", "a/"+s+"/b", "a/"+s)
	}
	return bad
}

func TestCleanPath(t *testing.T) {
	for _, p := range goodPaths {
		t.Run("takes "+p[:min(len(p), 40)], func(t *testing.T) {
			got, err := names.CleanPath(p)
			if err != nil || got != p {
				t.Fatalf("CleanPath(%q) = %q, %v", p, got, err)
			}
			checkStays(t, got)
		})
	}
	bad := badPaths()
	if n := len(bad) + len(goodPaths); n < 300 {
		t.Fatalf("only %d vectors", n)
	}
	for i, p := range bad {
		t.Run(fmt.Sprintf("refuses %d", i), func(t *testing.T) {
			if got, err := names.CleanPath(p); err == nil {
				t.Fatalf("CleanPath(%q) = %q", p, got)
			} else if !fault.Is(err, fault.Invalid) {
				t.Fatalf("CleanPath(%q): %v is not Invalid", p, err)
			} else if strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 1000 {
				t.Fatalf("the message would spoil a log: %q", err)
			}
		})
	}
}

func TestCleanPathOptions(t *testing.T) {
	t.Run("one trailing slash is taken on request and removed", func(t *testing.T) {
		got, err := names.CleanPath("a/b/", names.AllowTrailingSlash())
		if err != nil || got != "a/b" {
			t.Fatalf("got %q, %v", got, err)
		}
		for _, p := range []string{"/", "//", "a//", "../", "a/../"} {
			if got, err := names.CleanPath(p, names.AllowTrailingSlash()); err == nil {
				t.Errorf("CleanPath(%q) = %q", p, got)
			}
		}
	})
	t.Run("the error names the caller's field and the path", func(t *testing.T) {
		_, err := names.CleanPath("a/../b", names.InField("location_href"))
		wantField(t, err, "location_href", "path a/../b: must not have a segment of dots or spaces")
	})
}

func checkStays(t *testing.T, p string) {
	t.Helper()
	if path.Clean(p) != p {
		t.Fatalf("%q is not clean", p)
	}
	if !filepath.IsLocal(p) {
		t.Fatalf("%q is not local", p)
	}
	const root = "/srv/root"
	for layer := p; ; {
		joined := filepath.Join(root, filepath.FromSlash(layer))
		if !strings.HasPrefix(joined, root+"/") {
			t.Fatalf("%q escapes as %q", p, joined)
		}
		if strings.ContainsAny(layer, "\\\x00") || !utf8.ValidString(layer) {
			t.Fatalf("%q hides %q", p, layer)
		}
		next, err := url.PathUnescape(layer)
		if err != nil || next == layer {
			return
		}
		layer = next
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, p := range goodPaths {
		f.Add(p)
	}
	for _, p := range badPaths() {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		got, err := names.CleanPath(p)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		if got != p {
			t.Fatalf("%q became %q", p, got)
		}
		checkStays(t, got)
	})
}

func BenchmarkCleanPath(b *testing.B) {
	for b.Loop() {
		if _, err := names.CleanPath("linux-64/libstdcxx-ng-13.2.0-h7e041cc_5.conda"); err != nil {
			b.Fatal(err)
		}
	}
}
