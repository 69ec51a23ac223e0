package version

import (
	"fmt"
	"regexp"
	"strings"
)

// Spec selects versions. It is immutable and safe to share; the zero value
// matches nothing. Make one with [ParseSpec].
type Spec struct {
	source string
	root   node
}

// node is a clause or a combination of nodes.
type node interface{ match(Version) bool }

// Limits of ParseSpec; real repodata stays below a tenth of each.
const (
	maxSpecLength = 16 << 10
	maxSpecDepth  = 64 // nested parentheses
)

// ParseSpec reads a version spec (CEP 29, part "version"):
//
//	spec   = group { "|" group }             one of the groups must match
//	group  = factor { "," factor }           all factors must match
//	factor = clause | "(" spec ")"
//	clause = "*" | op version | op version ".*" | version | version "*" | glob | regex
//	op     = "=" "==" "!=" "<" "<=" ">" ">=" "~="
//
// A bare version means equality, a trailing asterisk the family of the version
// (see [Version.StartsWith]), an asterisk elsewhere a glob and ^…$ a regular
// expression; glob and regex look at the text of the version as written.
// "=v" is the family of v, "!=v.*" everything outside it, "~=1.2.3" means
// ">=1.2.3,1.2.*". A ".*" after one of the other operators is ignored.
//
// Regular expressions are Go's: look-around and back-references, which CEP 29
// discourages, are refused by name. Errors are *[ParseError].
func ParseSpec(s string) (Spec, error) {
	source := strings.TrimSpace(s)
	p := specParser{rest: source}
	if source == "" {
		return Spec{}, &ParseError{Text: s, Reason: "it is empty", Spec: true}
	}
	if len(source) > maxSpecLength {
		return Spec{}, &ParseError{Text: s, Reason: fmt.Sprintf("it is longer than %d bytes", maxSpecLength), Spec: true}
	}
	root, err := p.alternatives(0)
	if err == nil && p.rest != "" {
		err = fmt.Errorf("unexpected %q", p.rest[:1])
	}
	if err != nil {
		return Spec{}, &ParseError{Text: s, Reason: err.Error(), Spec: true}
	}
	return Spec{source: source, root: root}, nil
}

// MustParseSpec is ParseSpec for literals in code; it panics on an error.
func MustParseSpec(s string) Spec {
	spec, err := ParseSpec(s)
	if err != nil {
		panic(err)
	}
	return spec
}

// Match reports whether the spec selects v.
func (s Spec) Match(v Version) bool { return s.root != nil && s.root.match(v) }

// String returns the text that was parsed, without surrounding white space.
func (s Spec) String() string { return s.source }

// IsZero reports whether s is the zero value, which ParseSpec never returns.
func (s Spec) IsZero() bool { return s.root == nil }

// IsAny reports whether the spec is a plain "*".
func (s Spec) IsAny() bool { _, ok := s.root.(anyVersion); return ok }

// Exact returns the version if the spec is a single equality, written "1.2" or
// "==1.2".
func (s Spec) Exact() (Version, bool) {
	if c, ok := s.root.(relation); ok && c.op == opEqual {
		return c.version, true
	}
	return Version{}, false
}

type specParser struct{ rest string }

func (p *specParser) alternatives(depth int) (node, error) {
	if depth > maxSpecDepth {
		return nil, fmt.Errorf("more than %d nested parentheses", maxSpecDepth)
	}
	var nodes oneOf
	for {
		n, err := p.group(depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		if !p.take('|') {
			if len(nodes) == 1 {
				return nodes[0], nil
			}
			return nodes, nil
		}
	}
}

func (p *specParser) group(depth int) (node, error) {
	var nodes allOf
	for {
		n, err := p.factor(depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
		if !p.take(',') {
			if len(nodes) == 1 {
				return nodes[0], nil
			}
			return nodes, nil
		}
	}
}

func (p *specParser) factor(depth int) (node, error) {
	if p.take('(') {
		n, err := p.alternatives(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.take(')') {
			return nil, fmt.Errorf("missing closing parenthesis")
		}
		return n, nil
	}
	p.space()
	end := strings.IndexAny(p.rest, "()|,")
	if strings.HasPrefix(p.rest, "^") {
		// A regular expression may hold any of the separators: it ends with
		// its dollar sign.
		i := strings.IndexByte(p.rest, '$')
		if i < 0 {
			return nil, fmt.Errorf("a regular expression must end with '$'")
		}
		end = i + 1
	} else if end < 0 {
		end = len(p.rest)
	}
	clause := strings.TrimSpace(p.rest[:end])
	p.rest = p.rest[end:]
	p.space()
	return parseClause(clause)
}

func (p *specParser) space() { p.rest = strings.TrimLeft(p.rest, " \t") }

func (p *specParser) take(c byte) bool {
	p.space()
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// operators in an order in which a longer one is tried before its prefix.
var operators = []string{"==", "!=", "<=", ">=", "~=", "=", "<", ">"}

func parseClause(s string) (node, error) {
	switch {
	case s == "":
		return nil, fmt.Errorf("a clause is empty")
	case s[0] == '^' || s[len(s)-1] == '$':
		if s[0] != '^' || s[len(s)-1] != '$' {
			return nil, fmt.Errorf("a regular expression must begin with '^' and end with '$'")
		}
		return parseRegex(s)
	case strings.IndexByte("=<>!~", s[0]) >= 0:
		return parseRelation(s)
	case s == "*":
		return anyVersion{}, nil
	case strings.Contains(strings.TrimRight(s, "*"), "*"):
		return parseGlob(s)
	case s[len(s)-1] == '*':
		return newRelation(opStartsWith, strings.TrimRight(strings.TrimRight(s, "*"), "."))
	}
	return newRelation(opEqual, s)
}

func parseRelation(s string) (node, error) {
	var op string
	for _, o := range operators {
		if strings.HasPrefix(s, o) {
			op = o
			break
		}
	}
	operand := s[len(op):]
	if op == "" || operand == "" || strings.IndexByte("=<>!~", operand[0]) >= 0 {
		return nil, fmt.Errorf("%q is no operator with a version", abbreviate(s))
	}
	if strings.ContainsAny(operand, " \t\r\n\v\f") {
		return nil, fmt.Errorf("white space in the clause %q", abbreviate(s))
	}
	base, fuzzy := strings.CutSuffix(operand, ".*")
	switch op {
	case "=":
		return newRelation(opStartsWith, base)
	case "==":
		return newRelation(opEqual, base)
	case "!=":
		if fuzzy {
			return newRelation(opNotStartsWith, base)
		}
		return newRelation(opNotEqual, base)
	case "<":
		return newRelation(opLess, base)
	case "<=":
		return newRelation(opLessEqual, base)
	case ">":
		return newRelation(opGreater, base)
	case ">=":
		return newRelation(opGreaterEqual, base)
	}
	if fuzzy {
		return nil, fmt.Errorf("'~=' with '.*'")
	}
	i := strings.LastIndexByte(base, '.')
	if i < 0 {
		return nil, fmt.Errorf("'~=' needs a version of two segments or more")
	}
	floor, err := newRelation(opGreaterEqual, base)
	if err != nil {
		return nil, err
	}
	family, err := newRelation(opStartsWith, base[:i])
	if err != nil {
		return nil, err
	}
	return allOf{floor, family}, nil
}

// parseGlob turns 1.*.3 into an anchored expression over the version's text.
func parseGlob(s string) (node, error) {
	if i := strings.IndexFunc(lower(s), func(r rune) bool { return !allowed(r) && r != '-' }); i >= 0 {
		return nil, fmt.Errorf("the glob %q contains characters that no version has", abbreviate(s))
	}
	pieces := strings.Split(s, "*")
	for i := range pieces {
		pieces[i] = regexp.QuoteMeta(pieces[i])
	}
	re, err := regexp.Compile("^(?:" + strings.Join(pieces, ".*") + ")$")
	if err != nil {
		return nil, fmt.Errorf("the glob %q: %w", abbreviate(s), err)
	}
	return pattern{re}, nil
}

// lookArounds are constructs of other engines that RE2 refuses with a message
// which does not help the author of a spec.
var lookArounds = []struct{ mark, name string }{
	{"(?=", "look-ahead"},
	{"(?!", "negative look-ahead"},
	{"(?<=", "look-behind"},
	{"(?<!", "negative look-behind"},
	{"(?>", "an atomic group"},
	{"(?P=", "a back-reference"},
	{"(?(", "a conditional"},
}

var backReference = regexp.MustCompile(`(?:^|[^\\])(?:\\\\)*\\[1-9]`)

func parseRegex(s string) (node, error) {
	for _, l := range lookArounds {
		if strings.Contains(s, l.mark) {
			return nil, fmt.Errorf("the regular expression uses %s (%s), which is not supported", l.name, l.mark)
		}
	}
	if backReference.MatchString(s) {
		return nil, fmt.Errorf("the regular expression uses a back-reference, which is not supported")
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("the regular expression does not compile: %w", err)
	}
	return pattern{re}, nil
}
