package names_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/names"
)

func TestParseChannel(t *testing.T) {
	good := []string{
		"a", "A", "0", "conda-forge", "Bioconda", "r", "main", "a.b", "a..b", "c++", "x+1", "9lives", "a-", "a.", "T1", "searches",
		"tt", strings.Repeat("a", 50), "2024.1-rc+build", "test-channel", "MixedCase",
	}
	for _, s := range good {
		t.Run("takes "+s, func(t *testing.T) {
			got, err := names.ParseChannel(s)
			if err != nil || got.String() != s || got.Key() != strings.ToLower(s) {
				t.Fatalf("ParseChannel(%q) = %q, %v", s, got, err)
			}
		})
	}
	const (
		underscore = "_ should not be used in channel name"
		ascii      = "only ASCII characters should be used in channel name"
		signs      = "only letters, digits, ., - and + should be used in channel name"
		start      = "channel name should start with a letter or digit"
	)
	bad := map[string]string{
		"":                      "channel name should not be empty",
		"my_channel":            underscore,
		"_":                     underscore,
		"é_":                    underscore,
		"é":                     ascii,
		"channel\u00a0":         ascii,
		"\xff":                  ascii,
		"名":                     ascii,
		strings.Repeat("a", 51): "String should have at most 50 characters",
		"a/b":                   signs,
		"a b":                   signs,
		" a":                    signs,
		"a\x00":                 signs,
		"a\n":                   signs,
		"a@1":                   signs,
		"a%2e":                  signs,
		`a\b`:                   signs,
		"a:b":                   signs,
		"a~":                    signs,
		"a,b":                   signs,
		"a?":                    signs,
		"a#b":                   signs,
		"../x":                  signs,
		".":                     start,
		"..":                    start,
		".hidden":               start,
		"-rf":                   start,
		"+a":                    start,
		"search":                "search is reserved and cannot be used as channel name",
		"SEARCH":                "search is reserved and cannot be used as channel name",
		"t":                     "t is reserved and cannot be used as channel name",
		"T":                     "t is reserved and cannot be used as channel name",
	}
	for s, want := range bad {
		t.Run("refuses "+strings.ToValidUTF8(s, "?"), func(t *testing.T) {
			_, err := names.ParseChannel(s)
			wantField(t, err, "name", want)
		})
	}
}

func TestParsePackage(t *testing.T) {
	for _, s := range []string{"a", "numpy", "r-base", "_libgcc_mutex", "__glibc", "python.app", "3to2", "-", "...", "a..b", strings.Repeat("x", 1500)} {
		if got, err := names.ParsePackage(s); err != nil || got.String() != s {
			t.Errorf("ParsePackage(%.20q) = %.20q, %v", s, got, err)
		}
	}
	const pattern = `String should match pattern '^[a-z0-9-_\.]*$'`
	bad := map[string]string{
		"":                        "package name should not be empty",
		".":                       "package name should not be . or ..",
		"..":                      "package name should not be . or ..",
		strings.Repeat("x", 1501): "String should have at most 1500 characters",
		"Numpy":                   pattern,
		"a b":                     pattern,
		"a/b":                     pattern,
		"a\\b":                    pattern,
		"a\x00":                   pattern,
		"a\n":                     pattern,
		"é":                       pattern,
		"a+b":                     pattern,
		"a%2e":                    pattern,
		"a[b]":                    pattern,
	}
	for s, want := range bad {
		_, err := names.ParsePackage(s)
		wantField(t, err, "name", want)
	}
}

func TestParseNamespaceEnvironmentAndUser(t *testing.T) {
	for _, s := range []string{"default", "a", "A-b_c", "user@example.org", "a+b", "$x", "a&b", "a?b", "a^b", "~x", "a.b", "a=b", "_x", strings.Repeat("n", 255)} {
		if got, err := names.ParseNamespace(s); err != nil || got.String() != s {
			t.Errorf("ParseNamespace(%q) = %q, %v", s, got, err)
		}
		if got, err := names.ParseEnvironment(s); err != nil || got.String() != s {
			t.Errorf("ParseEnvironment(%q) = %q, %v", s, got, err)
		}
	}
	bad := map[string]string{
		"":                       "namespace should not be empty",
		".":                      "Namespace='.' is not valid: a name becomes a path",
		"..":                     "Namespace='..' is not valid: a name becomes a path",
		"...":                    "Namespace='...' is not valid: a name becomes a path",
		strings.Repeat("n", 256): "namespace should have at most 255 characters",
		"a/b":                    `Namespace='a/b' is not valid does not match regex ^[A-Za-z0-9-+_@$&?^~.=]+$`,
		"a*":                     `Namespace='a*' is not valid does not match regex ^[A-Za-z0-9-+_@$&?^~.=]+$`,
		"a b":                    `Namespace='"a b"' is not valid does not match regex ^[A-Za-z0-9-+_@$&?^~.=]+$`,
		"a\n":                    `Namespace='"a\n"' is not valid does not match regex ^[A-Za-z0-9-+_@$&?^~.=]+$`,
		"é":                      `Namespace='"\u00e9"' is not valid does not match regex ^[A-Za-z0-9-+_@$&?^~.=]+$`,
	}
	for s, want := range bad {
		_, err := names.ParseNamespace(s)
		wantField(t, err, "namespace", want)
		if _, err := names.ParseEnvironment(s); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseEnvironment(%q): %v", s, err)
		}
		if _, err := names.ParseUser(s); !fault.Is(err, fault.Invalid) {
			t.Errorf("ParseUser(%q): %v", s, err)
		}
	}
	for _, s := range []string{"alice", "alice@example.org", "_svc", "0", "a.b-c+d"} {
		if got, err := names.ParseUser(s); err != nil || got.String() != s {
			t.Errorf("ParseUser(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"-x", ".x", "@x", "$x", "=x", "~root"} {
		_, err := names.ParseUser(s)
		wantField(t, err, "username", "username should start with a letter, a digit or _")
	}
}

func wantField(t *testing.T, err error, field, message string) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) {
		t.Errorf("error %v is no fault", err)
		return
	}
	want := []fault.Violation{{Field: field, Description: message}}
	if f.Kind != fault.Invalid || f.Message != message {
		t.Errorf("got %v %q, want invalid %q", f.Kind, f.Message, message)
	}
	if d := cmp.Diff(want, f.Violations); d != "" {
		t.Errorf("violations (-want +got):\n%s", d)
	}
}
