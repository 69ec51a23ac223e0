package version

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseError says why a text is no version or no version spec.
type ParseError struct {
	Text   string // what was parsed, as given
	Reason string // in words, without the text
	Spec   bool   // true if a spec was asked for, false if a version
}

// Error implements error.
func (e *ParseError) Error() string {
	what := "version"
	if e.Spec {
		what = "version spec"
	}
	return fmt.Sprintf("invalid %s %q: %s", what, abbreviate(e.Text), e.Reason)
}

// abbreviate keeps hostile input out of messages that end up in logs.
func abbreviate(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// Version is a parsed version literal. The zero value equals version "0" and
// prints as the empty string. Versions are immutable and safe to share.
type Version struct {
	source string
	// Runs of all segments in one slice, so that a version costs two or
	// three allocations and a comparison walks contiguous memory. A segment
	// ends where the next begins; segment 0 is the epoch.
	main  parts
	local parts
}

// parts is a list of segments: segment i holds runs[ends[i-1]:ends[i]].
type parts struct {
	runs []run
	ends []uint16
}

func (p parts) len() int { return len(p.ends) }

func (p parts) segment(i int) []run {
	if i >= len(p.ends) {
		return nil
	}
	from := uint16(0)
	if i > 0 {
		from = p.ends[i-1]
	}
	return p.runs[from:p.ends[i]]
}

// kind orders runs of different sorts: strings come before numbers.
type kind uint8

const (
	text     kind = iota // compared by bytes
	integer              // fits num
	bigger               // digits longer than uint64; in str, without leading zeros
	infinity             // the word "post"
)

// run is a maximal sequence of digits, of asterisks or of other characters.
type run struct {
	kind kind
	num  uint64
	str  string
}

// devWord stands for the word "dev". In upper case it sorts below '_' and all
// (lower-case) letters and above '*', which is just where CEP 33 wants it.
const devWord = "DEV"

// maxLength bounds what Parse looks at. CEP 26 allows 64 bytes in a package's
// version; specs and hand-written inputs get generous room.
const maxLength = 1024

// Parse reads a version literal (CEP 33). Surrounding white space is dropped
// and letters are compared in lower case, but [Version.String] returns the
// trimmed text as it was written. The error is a *[ParseError].
func Parse(s string) (Version, error) {
	source := strings.TrimSpace(s)
	fail := func(reason string) (Version, error) {
		return Version{}, &ParseError{Text: s, Reason: reason}
	}
	if source == "" {
		return fail("it is empty")
	}
	if len(source) > maxLength {
		return fail(fmt.Sprintf("it is longer than %d bytes", maxLength))
	}
	norm := lower(source)
	if i := strings.IndexFunc(norm, func(r rune) bool { return !allowed(r) && r != '-' }); i >= 0 {
		return fail("it contains characters other than letters, digits and *.+!_-")
	}
	if strings.IndexByte(norm, '-') >= 0 {
		// A dash is tolerated as a separator, but not mixed with the proper one.
		if strings.IndexByte(norm, '_') >= 0 {
			return fail("it mixes '-' and '_'")
		}
		norm = strings.ReplaceAll(norm, "-", "_")
	}
	epoch, rest, found := strings.Cut(norm, "!")
	if !found {
		epoch, rest = "0", norm
	} else if strings.IndexByte(rest, '!') >= 0 {
		return fail("it has more than one epoch separator '!'")
	} else if epoch == "" || strings.Trim(epoch, "0123456789") != "" {
		return fail("its epoch is not an integer")
	}
	main, local, hasLocal := strings.Cut(rest, "+")
	if strings.IndexByte(local, '+') >= 0 {
		return fail("it has more than one local version separator '+'")
	}
	if main == "" {
		return fail("its main part is empty")
	}

	v := Version{source: source}
	v.main.add(epoch)
	// openssl's old scheme: 1.0.1_ is older than 1.0.1a. A closing underscore
	// is therefore a run of the last segment and not a separator.
	trailing := strings.HasSuffix(main, "_")
	if trailing {
		main = main[:len(main)-1]
	}
	if !v.main.split(main, trailing) {
		return fail("it has an empty segment")
	}
	if hasLocal && !v.local.split(local, false) {
		return fail("its local part has an empty segment")
	}
	return v, nil
}

// MustParse is Parse for literals in code; it panics on an error.
func MustParse(s string) Version {
	v, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return v
}

func allowed(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		return true
	}
	return strings.ContainsRune("*.+!_", r)
}

// lower is strings.ToLower for ASCII only: the Kelvin sign must not become a k.
func lower(s string) string {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if b[i] >= 'A' && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// split cuts s at dots and underscores and adds the segments. glue puts an
// underscore at the end of the last one. It reports false on an empty segment.
func (p *parts) split(s string, glue bool) bool {
	for {
		i := strings.IndexAny(s, "._")
		if i < 0 {
			break
		}
		if i == 0 {
			return false
		}
		p.add(s[:i])
		s = s[i+1:]
	}
	if glue {
		s += "_"
	}
	if s == "" {
		return false
	}
	p.add(s)
	return true
}

// add appends one segment, cut into runs.
func (p *parts) add(segment string) {
	if c := segment[0]; c < '0' || c > '9' {
		p.runs = append(p.runs, run{kind: integer}) // 1.rc means 1.0rc
	}
	for segment != "" {
		class, n := classOf(segment[0]), 1
		for n < len(segment) && classOf(segment[n]) == class {
			n++
		}
		p.runs = append(p.runs, newRun(segment[:n], class))
		segment = segment[n:]
	}
	p.ends = append(p.ends, uint16(len(p.runs)))
}

func classOf(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return '0'
	case c == '*':
		return '*'
	}
	return 'a'
}

func newRun(s string, class byte) run {
	switch {
	case class == '0':
		if n, err := strconv.ParseUint(s, 10, 64); err == nil {
			return run{kind: integer, num: n}
		}
		return run{kind: bigger, str: strings.TrimLeft(s, "0")}
	case s == "post":
		return run{kind: infinity}
	case s == "dev":
		return run{kind: text, str: devWord}
	}
	return run{kind: text, str: s}
}

// String returns the text that was parsed, without surrounding white space.
func (v Version) String() string { return v.source }

// IsZero reports whether v is the zero value, which Parse never returns.
func (v Version) IsZero() bool { return v.source == "" }
