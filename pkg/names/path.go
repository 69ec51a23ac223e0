package names

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Limits of a path in bytes. 255 is the longest name that ext4, xfs and S3 gateways on top of them store; 1024 is the
// longest key of S3.
const (
	MaxPath    = 1024
	MaxSegment = 255
)

// PathOption changes what CleanPath accepts.
type PathOption func(*pathRules)

type pathRules struct {
	field      string
	allowSlash bool
}

// AllowTrailingSlash accepts one slash at the end, which names a directory. CleanPath returns the path without it.
func AllowTrailingSlash() PathOption { return func(r *pathRules) { r.allowSlash = true } }

// InField sets the field that errors name; without it they name "path".
func InField(name string) PathOption { return func(r *pathRules) { r.field = name } }

// CleanPath checks a relative, "/"-separated, decoded path and returns it. The result is its own path.Clean, is not
// empty and stays below any directory it is joined to.
//
// It repairs nothing: "a//b" is an error and not "a/b", since two spellings of one file would be two rows and one blob.
// Refused are: absolute paths and drive letters; empty segments and segments of nothing but dots and spaces;
// backslashes, NUL, control characters, bidirectional overrides and zero-width spaces; signs that look like a slash;
// invalid UTF-8; a percent-encoded form of any of these, however often encoded; and what is too long.
// A percent sign by itself is a letter like any other: "x264-1%21164" is a file name.
func CleanPath(p string, opts ...PathOption) (string, error) {
	rules := pathRules{field: "path"}
	for _, o := range opts {
		o(&rules)
	}
	if rules.allowSlash && len(p) > 1 && strings.HasSuffix(p, "/") {
		p = p[:len(p)-1]
	}
	if why := pathProblem(p); why != "" {
		return "", fault.Field(rules.field, "path %s: %s", printable(p), why)
	}
	return p, nil
}

// pathProblem says what is wrong with p, or nothing.
func pathProblem(p string) string {
	switch {
	case p == "":
		return "must not be empty"
	case len(p) > MaxPath:
		return "must have at most " + strconv.Itoa(MaxPath) + " bytes"
	case p[0] == '/':
		return "must be relative"
	case len(p) > 1 && p[1] == ':' && alnum(p[0]) && p[0] > '9':
		return "must not begin with a drive letter"
	case !utf8.ValidString(p):
		return "must be valid UTF-8"
	}
	if !plainASCII(p) {
		for _, r := range p {
			if why := runeProblem(r); why != "" {
				return why
			}
		}
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "" {
			return "must not have an empty segment or a trailing slash"
		}
		if len(seg) > MaxSegment {
			return "must not have a segment of more than " + strconv.Itoa(MaxSegment) + " bytes"
		}
		if strings.TrimFunc(seg, dotOrSpace) == "" {
			return "must not have a segment of dots or spaces"
		}
	}
	return encodedProblem(p)
}

// plainASCII reports whether p has only signs that need no closer look; nearly every path does.
func plainASCII(p string) bool {
	for i := range len(p) {
		if c := p[i]; c < 0x20 || c >= 0x7f || c == '\\' {
			return false
		}
	}
	return true
}

func runeProblem(r rune) string {
	switch {
	case r == '\\':
		return "must not have a backslash"
	case unicode.IsControl(r):
		return "must not have control characters"
	case r == '\u2028', r == '\u2029':
		return "must not have line separators"
	case r == '\u200b', r == '\u2060', r == '\ufeff',
		r == '\u200e', r == '\u200f', r == '\u061c',
		r >= '\u202a' && r <= '\u202e', r >= '\u2066' && r <= '\u2069':
		return "must not have invisible or direction-changing characters"
	}
	switch r {
	// fraction slash, division slash, big solidus, fullwidth solidus; set minus, small, fullwidth and big reverse solidus
	case '\u2044', '\u2215', '\u29f8', '\uff0f', '\u2216', '\ufe68', '\uff3c', '\u29f5', '\u29f9':
		return "must not have characters that look like a slash"
	}
	return ""
}

// dotOrSpace includes the signs that compatibility normalisation (NFKC) turns into dots.
func dotOrSpace(r rune) bool {
	switch r {
	case '.', '\uff0e', '\u2024', '\u2025', '\u2026', '\ufe52', '\ufe19', '\uff61', '\u3002':
		return true
	}
	return unicode.IsSpace(r)
}

// encodedProblem peels percent-encoding off layer by layer, because a proxy, a framework and an object store in a row
// each may. Every layer is shorter than the one before, so it ends.
func encodedProblem(p string) string {
	const why = "must not have percent-encoded dots, slashes, backslashes or control characters"
	for strings.Contains(p, "%") {
		var b strings.Builder
		changed := false
		for i := 0; i < len(p); i++ {
			if p[i] != '%' {
				b.WriteByte(p[i])
				continue
			}
			// %u002e, an extension of old web servers that some filters still decode
			if i+5 < len(p) && (p[i+1] == 'u' || p[i+1] == 'U') && isHex(p[i+2:i+6]) {
				return why
			}
			if i+2 >= len(p) || !isHex(p[i+1:i+3]) {
				b.WriteByte(p[i])
				continue
			}
			n, _ := strconv.ParseUint(p[i+1:i+3], 16, 8)
			c := byte(n)
			if c == '.' || c == '/' || c == '\\' || c < 0x20 || c == 0x7f {
				return why
			}
			b.WriteByte(c)
			changed = true
			i += 2
		}
		if !changed {
			return ""
		}
		p = b.String()
		if !utf8.ValidString(p) { // overlong forms such as %c0%ae
			return "must not have percent-encoded bytes that are not UTF-8"
		}
		for _, r := range p {
			if runeProblem(r) != "" {
				return why
			}
		}
		for seg := range strings.SplitSeq(p, "/") {
			if strings.TrimFunc(seg, dotOrSpace) == "" {
				return why
			}
		}
	}
	return ""
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// printable makes a stranger's string fit for a message and a log line: quoted where needed, and not longer than it helps.
func printable(s string) string {
	const most = 120
	cut := s
	if len(cut) > most {
		cut = cut[:most]
	}
	q := strconv.QuoteToASCII(cut)
	if len(cut) < len(s) {
		return q + "…"
	}
	if q == `"`+s+`"` && !strings.ContainsAny(s, " ") && s != "" {
		return s
	}
	return q
}
