package dist

import (
	"fmt"
	"strings"

	"github.com/entrepot-dev/entrepot/pkg/conda/version"
)

// Longest identifiers in bytes (CEP 26).
const (
	MaxName      = 64
	MaxVersion   = 64
	MaxBuild     = 64
	MaxExtension = 16
	MaxFilename  = MaxName + MaxVersion + MaxBuild + 2 + MaxExtension + 1 // 211
	MaxSubdir    = 32
	MaxLabel     = 128
	MaxChannel   = 128 // one component of a channel's path
)

// ValidName reports whether s is the name of a real package: lower-case
// letters, digits, and single separators out of '.', '_' and '-' between them.
// One leading underscore is allowed (_libgcc_mutex); two begin a virtual package.
func ValidName(s string) bool { return CheckName(s) == nil }

// CheckName is [ValidName] with the reason.
//
// CEP 26 states the rule as a regular expression with a look-ahead,
//
//	^(([a-z0-9])|([a-z0-9_](?!_)))[._-]?([a-z0-9]+(\.|-|_|$))*$
//
// which is spelled out here by hand.
func CheckName(s string) error {
	bad := func(reason string) error { return &Error{"name", s, reason} }
	if err := length("name", s, MaxName); err != nil {
		return err
	}
	if strings.HasPrefix(s, "__") {
		return bad("names that begin with two underscores belong to virtual packages")
	}
	return nameTail(s, bad)
}

// ValidVirtualName reports whether s names a virtual package, such as __glibc.
func ValidVirtualName(s string) bool {
	rest, ok := strings.CutPrefix(s, "__")
	if !ok || len(s) > MaxName || rest == "" || rest[0] == '_' {
		return false
	}
	return nameTail(rest, func(r string) error { return &Error{"name", s, r} }) == nil
}

// nameTail checks all but the leading underscores' special case: a first
// character, one optional separator, then words that each end in one separator
// or at the end of the name.
func nameTail(rest string, bad func(string) error) error {
	if c := rest[0]; !lowerDigit(c) && c != '_' {
		return bad("it must begin with a lower-case letter, a digit or an underscore")
	}
	separators := 0
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case lowerDigit(c):
			separators = 0
		case c == '.' || c == '_' || c == '-':
			if separators++; separators > 1 {
				return bad("it has two separators in a row")
			}
		default:
			return bad(fmt.Sprintf("it contains %q; only lower-case letters, digits, '.', '_' and '-' are allowed", c))
		}
	}
	return nil
}

// ValidVersionString reports whether s can be a package's version: a literal
// that [version.Parse] accepts, of at most 64 bytes and without dashes, which
// separate the parts of a file name.
func ValidVersionString(s string) bool { return CheckVersionString(s) == nil }

// CheckVersionString is [ValidVersionString] with the reason.
func CheckVersionString(s string) error {
	if err := length("version", s, MaxVersion); err != nil {
		return err
	}
	if i := strings.IndexAny(s, "-* \t\r\n\v\f"); i >= 0 {
		return &Error{"version", s, fmt.Sprintf("it contains %q", s[i])}
	}
	v, err := version.Parse(s)
	if err != nil {
		if pe, ok := err.(*version.ParseError); ok {
			return &Error{"version", s, pe.Reason}
		}
		return &Error{"version", s, err.Error()}
	}
	if v.String() != s {
		return &Error{"version", s, "it has white space around it"}
	}
	return nil
}

// ValidBuild reports whether s is a build string: letters, digits, '_', '.'
// and '+', at most 64 bytes.
func ValidBuild(s string) bool { return CheckBuild(s) == nil }

// CheckBuild is [ValidBuild] with the reason.
func CheckBuild(s string) error {
	if err := length("build", s, MaxBuild); err != nil {
		return err
	}
	for i := range len(s) {
		if c := s[i]; !lowerDigit(c) && !(c >= 'A' && c <= 'Z') && c != '_' && c != '.' && c != '+' {
			return &Error{"build", s, fmt.Sprintf("it contains %q; only letters, digits, '_', '.' and '+' are allowed", c)}
		}
	}
	return nil
}

// ValidSubdir reports whether s is "noarch" or of the form platform-arch. It
// says nothing about whether a client knows it; see [KnownSubdir].
func ValidSubdir(s string) bool { return CheckSubdir(s) == nil }

// CheckSubdir is [ValidSubdir] with the reason.
func CheckSubdir(s string) error {
	if err := length("subdir", s, MaxSubdir); err != nil {
		return err
	}
	if s == Noarch {
		return nil
	}
	platform, arch, ok := strings.Cut(s, "-")
	if !ok || !word(platform) || !word(arch) {
		return &Error{"subdir", s, "it is neither noarch nor of the form platform-arch in lower-case letters and digits"}
	}
	return nil
}

// ValidLabel reports whether s is a channel label. Slashes are part of the
// standard; components that would walk a path are not.
func ValidLabel(s string) bool { return CheckLabel(s) == nil }

// CheckLabel is [ValidLabel] with the reason.
func CheckLabel(s string) error {
	if err := length("label", s, MaxLabel); err != nil {
		return err
	}
	if c := s[0] | 0x20; c < 'a' || c > 'z' {
		return &Error{"label", s, "it must begin with a letter"}
	}
	for i := range len(s) {
		if c := s[i]; !lowerDigit(c) && !(c >= 'A' && c <= 'Z') && !strings.ContainsRune("_-./", rune(c)) {
			return &Error{"label", s, fmt.Sprintf("it contains %q", c)}
		}
	}
	for p := range strings.SplitSeq(s, "/") {
		if p == "" || p == "." || p == ".." {
			return &Error{"label", s, "it has an empty, '.' or '..' component"}
		}
	}
	return nil
}

// CheckChannel checks one component of a channel's path.
func CheckChannel(s string) error {
	if err := length("channel", s, MaxChannel); err != nil {
		return err
	}
	for i := range len(s) {
		c := s[i]
		if lowerDigit(c) || c == '_' || i > 0 && (c == '.' || c == '-') {
			continue
		}
		return &Error{"channel", s, fmt.Sprintf("it contains %q at byte %d", c, i)}
	}
	return nil
}

func length(field, s string, most int) error {
	if s == "" {
		return &Error{field, s, "it is empty"}
	}
	if len(s) > most {
		return &Error{field, s, fmt.Sprintf("it is longer than %d bytes", most)}
	}
	return nil
}

func lowerDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func word(s string) bool {
	for i := range len(s) {
		if !lowerDigit(s[i]) {
			return false
		}
	}
	return s != ""
}
