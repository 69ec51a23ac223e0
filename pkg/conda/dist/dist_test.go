package dist

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

func TestFileNamesSplitFromTheRight(t *testing.T) {
	for in, want := range map[string]Dist{
		"zlib-1.2.11-h7b6447c_3.conda":                 {"zlib", "1.2.11", "h7b6447c_3", Conda},
		"zlib-1.2.11-h7b6447c_3.tar.bz2":               {"zlib", "1.2.11", "h7b6447c_3", TarBz2},
		"x264-1!164.3095-h166bdaf_2.conda":             {"x264", "1!164.3095", "h166bdaf_2", Conda},
		"pytorch-1.0+cu12.1-0.conda":                   {"pytorch", "1.0+cu12.1", "0", Conda},
		"backend-with-compatible-api-0.1.0-h4_0.conda": {"backend-with-compatible-api", "0.1.0", "h4_0", Conda},
		"_libgcc_mutex-0.1-main.tar.bz2":               {"_libgcc_mutex", "0.1", "main", TarBz2},
		"a-1.conda-2.tar.bz2":                          {"a", "1.conda", "2", TarBz2},
	} {
		got, err := ParseFilename(in)
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("ParseFilename(%s): %v\n%s", in, err, cmp.Diff(want, got))
		}
		if got.Filename() != in || got.Twin().Twin() != got || got.Twin().Stem() != got.Stem() {
			t.Errorf("%s prints as %s", in, got.Filename())
		}
	}
}

func TestBadFileNamesAreRefusedByField(t *testing.T) {
	long := strings.Repeat("a", 65)
	for in, field := range map[string]string{
		"":                       "filename",
		"zlib-1.2.11-0.zip":      "filename",
		".conda":                 "filename",
		"zlib-1.conda":           "filename",
		"-1-0.conda":             "filename",
		"zlib--0.conda":          "version",
		"zlib-1-.conda":          "build",
		"Zlib-1-0.conda":         "name",
		"__glibc-1-0.conda":      "name",
		"../zlib-1-0.conda":      "name",
		"/zlib-1-0.conda":        "name",
		"a/b-1-0.conda":          "name",
		"a\\b-1-0.conda":         "name",
		"a\x00-1-0.conda":        "name",
		"a%2f-1-0.conda":         "name",
		"x264-1%21164-0.conda":   "version",
		"zlib-1.2/../..-0.conda": "version",
		"zlib-1 -0.conda":        "version",
		"zlib-1.*-0.conda":       "version",
		"zlib-1..2-0.conda":      "version",
		"zlib-1-0/..conda":       "build",
		"zlib-1-h 0.conda":       "build",
		"zlib-1-ü.conda":         "build",
		long + "-1-0.conda":      "name",
		"zlib-" + strings.Repeat("1", 65) + "-0.conda": "version",
		"zlib-1-" + long + ".conda":                    "build",
		strings.Repeat("a", 300) + "-1-0.conda":        "filename",
	} {
		_, err := ParseFilename(in)
		var e *Error
		if !errors.As(err, &e) || e.Field != field {
			t.Errorf("ParseFilename(%.30q): %v, want an error about the %s", in, err, field)
		}
	}
}

// The standard's expression, its look-ahead written as a prefix test.
var (
	cep26Name    = regexp.MustCompile(`^(([a-z0-9])|([a-z0-9_]))[._-]?([a-z0-9]+(\.|-|_|$))*$`)
	cep26Virtual = regexp.MustCompile(`^__[a-z0-9][._-]?([a-z0-9]+(\.|-|_|$))*$`)
)

func TestNamesAgreeWithTheStandardsExpression(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[a-c_.A0\-]{0,8}`).Draw(t, "name")
		want := cep26Name.MatchString(s) && !strings.HasPrefix(s, "__")
		if ValidName(s) != want {
			t.Fatalf("ValidName(%q) = %v", s, !want)
		}
		if want := cep26Virtual.MatchString("__" + s); ValidVirtualName("__"+s) != want {
			t.Fatalf("ValidVirtualName(__%s) = %v", s, !want)
		}
	})
}

func TestEveryPublishedNameIsValid(t *testing.T) {
	names := []string{"python", "_libgcc_mutex", "r-base", "libstdcxx-ng", "ruamel.yaml", "7zip", "jpeg"}
	path := filepath.Join("..", "..", "..", "..", "shared", "data", "07-names", "conda-forge-output-names.txt.zst")
	if packed, err := os.ReadFile(path); err == nil {
		dec, _ := zstd.NewReader(nil)
		defer dec.Close()
		plain, err := dec.DecodeAll(packed, nil)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.Fields(string(plain))...)
	}
	for _, n := range names {
		if err := CheckName(n); err != nil {
			t.Error(err)
		}
	}
}

func TestSubdirs(t *testing.T) {
	known := KnownSubdirs()
	if !slices.IsSorted(known) {
		t.Error("the list must be sorted for the binary search")
	}
	for _, s := range known {
		if !ValidSubdir(s) || !KnownSubdir(s) {
			t.Errorf("%s is known but invalid", s)
		}
	}
	known[0] = "changed"
	if KnownSubdir("changed") {
		t.Error("the list can be changed from outside")
	}
	for _, s := range []string{"", "linux", "linux-64-x", "Linux-64", "linux_64", "../noarch", "linux-", "-64", "noarch/", strings.Repeat("a", 32) + "-64"} {
		if ValidSubdir(s) {
			t.Errorf("%q is valid", s)
		}
	}
	if !ValidSubdir("plan9-mips") || KnownSubdir("plan9-mips") {
		t.Error("an unknown platform is valid but not known")
	}
}

func TestLabelsAndChannels(t *testing.T) {
	for s, want := range map[string]bool{
		"main": true, "dev/nightly": true, "rc-1.0_x": true,
		"": false, "1a": false, "a//b": false, "a/..": false, "a/./b": false, "a/": false, "a b": false, "ü": false,
		strings.Repeat("a", 129): false,
	} {
		if ValidLabel(s) != want {
			t.Errorf("ValidLabel(%q) = %v", s, !want)
		}
	}
	for s, want := range map[string]bool{
		"conda-forge": true, "_x": true, "r.x": true, "": false, ".": false, "..": false, "-a": false, "A": false, "a/b": false,
	} {
		if (CheckChannel(s) == nil) != want {
			t.Errorf("CheckChannel(%q) = %v", s, !want)
		}
	}
}

func FuzzParseFilename(f *testing.F) {
	f.Add("zlib-1.2.11-h7b6447c_3.tar.bz2")
	f.Add("../a-1-0.conda")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseFilename(s)
		if err != nil {
			return
		}
		if d.Filename() != s {
			t.Fatalf("%q prints as %q", s, d.Filename())
		}
		if len(s) > MaxFilename || filepath.Base(s) != s || !filepath.IsLocal(s) || strings.ContainsAny(s, "\\/\x00%: ") {
			t.Fatalf("%q is no plain path component", s)
		}
	})
}
