package matchspec

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Pattern selects strings, without regard to case (CEP 29): a regular expression if it is written ^…$, a glob if it
// holds an asterisk, else the string itself. The zero value selects everything.
type Pattern struct {
	source string
	re     *regexp.Regexp // nil for an exact string and for "*"
}

// ParsePattern reads a pattern.
func ParsePattern(s string) (Pattern, error) {
	p := Pattern{source: s}
	var expr string
	switch {
	case strings.HasPrefix(s, "^") && strings.HasSuffix(s, "$"):
		expr = s
	case strings.HasPrefix(s, "^"):
		return Pattern{}, fmt.Errorf("a regular expression must begin with '^' and end with '$'")
	case strings.Trim(s, "*") == "":
		return p, nil // "*", or nothing to compare with
	case strings.Contains(s, "*"):
		pieces := strings.Split(s, "*")
		for i := range pieces {
			pieces[i] = regexp.QuoteMeta(pieces[i])
		}
		expr = "^(?:" + strings.Join(pieces, ".*") + ")$"
	default:
		return p, nil
	}
	re, err := regexp.Compile("(?i)" + expr)
	if err != nil {
		return Pattern{}, fmt.Errorf("the regular expression %q does not compile: %w", s, err)
	}
	p.re = re
	return p, nil
}

// Literal is a pattern for exactly s. It must not hold an asterisk.
func Literal(s string) Pattern { return Pattern{source: s} }

// IsZero reports whether the pattern was never set.
func (p Pattern) IsZero() bool { return p.source == "" }

// String returns the pattern as written.
func (p Pattern) String() string { return p.source }

// Exact returns the string if the pattern selects a single one.
func (p Pattern) Exact() (string, bool) {
	return p.source, p.source != "" && p.re == nil && p.source[0] != '*'
}

// Match reports whether the pattern selects s.
func (p Pattern) Match(s string) bool {
	switch {
	case p.source == "" || p.source == s:
		return true
	case p.re != nil:
		return p.re.MatchString(s)
	case p.source[0] == '*':
		return true
	}
	return strings.EqualFold(p.source, s)
}

func (p Pattern) matchAny(list []string) bool {
	for _, s := range list {
		if p.Match(s) {
			return true
		}
	}
	return false
}

// Numbers selects build numbers: alternatives of ranges, "3", ">=1,<7" or "0|>2". The zero value selects every one.
type Numbers struct {
	source string
	any    [][]bound
}

type bound struct {
	op string
	n  uint64
}

// ParseNumbers reads a selection of build numbers.
func ParseNumbers(s string) (Numbers, error) {
	n := Numbers{source: s}
	if strings.TrimSpace(s) == "*" {
		n.any = [][]bound{{}}
		return n, nil
	}
	for group := range strings.SplitSeq(s, "|") {
		var all []bound
		for clause := range strings.SplitSeq(group, ",") {
			clause = strings.TrimSpace(clause)
			digits := strings.TrimLeft(clause, "<>=! ")
			b := bound{op: strings.TrimSpace(clause[:len(clause)-len(digits)])}
			switch b.op {
			case "", "=", "==", "!=", "<", "<=", ">", ">=":
			default:
				return Numbers{}, fmt.Errorf("%q is no operator for a build number", b.op)
			}
			var err error
			if b.n, err = strconv.ParseUint(digits, 10, 64); err != nil {
				return Numbers{}, fmt.Errorf("%q is no build number", digits)
			}
			all = append(all, b)
		}
		n.any = append(n.any, all)
	}
	return n, nil
}

// IsZero reports whether the selection was never set.
func (n Numbers) IsZero() bool { return n.source == "" }

// String returns the selection as written.
func (n Numbers) String() string { return n.source }

// Match reports whether the selection holds v.
func (n Numbers) Match(v uint64) bool {
	if n.source == "" {
		return true
	}
	for _, all := range n.any {
		ok := true
		for _, b := range all {
			ok = ok && b.match(v)
		}
		if ok {
			return true
		}
	}
	return false
}

func (b bound) match(v uint64) bool {
	switch b.op {
	case "!=":
		return v != b.n
	case "<":
		return v < b.n
	case "<=":
		return v <= b.n
	case ">":
		return v > b.n
	case ">=":
		return v >= b.n
	}
	return v == b.n
}
