package version

import "regexp"

// operator is the relation between a candidate and the version of a clause.
type operator uint8

const (
	opEqual operator = iota
	opNotEqual
	opLess
	opLessEqual
	opGreater
	opGreaterEqual
	opStartsWith
	opNotStartsWith
)

type relation struct {
	op      operator
	version Version
}

func newRelation(op operator, s string) (node, error) {
	v, err := Parse(s)
	if err != nil {
		return nil, err
	}
	return relation{op, v}, nil
}

func (r relation) match(v Version) bool {
	switch r.op {
	case opStartsWith:
		return v.StartsWith(r.version)
	case opNotStartsWith:
		return !v.StartsWith(r.version)
	}
	c := Compare(v, r.version)
	switch r.op {
	case opEqual:
		return c == 0
	case opNotEqual:
		return c != 0
	case opLess:
		return c < 0
	case opLessEqual:
		return c <= 0
	case opGreater:
		return c > 0
	default:
		return c >= 0
	}
}

type anyVersion struct{}

func (anyVersion) match(Version) bool { return true }

// pattern is a glob or a regular expression over the version as written.
type pattern struct{ re *regexp.Regexp }

func (p pattern) match(v Version) bool { return p.re.MatchString(v.source) }

type oneOf []node

func (ns oneOf) match(v Version) bool {
	for _, n := range ns {
		if n.match(v) {
			return true
		}
	}
	return false
}

type allOf []node

func (ns allOf) match(v Version) bool {
	for _, n := range ns {
		if !n.match(v) {
			return false
		}
	}
	return true
}
