package version

import (
	"cmp"
	"strings"
)

// Compare returns -1 if a is older than b, 1 if it is newer and 0 if the two
// are equal in the sense of CEP 33 (1.1 and 1.1.0 are, although they print
// differently). It is a total order and fits slices.SortFunc.
func Compare(a, b Version) int {
	if c := compareParts(a.main, b.main); c != 0 {
		return c
	}
	return compareParts(a.local, b.local)
}

// Compare is [Compare] as a method.
func (v Version) Compare(o Version) int { return Compare(v, o) }

// Equal reports whether the two versions are equal in the order. It lets
// go-cmp compare versions, too.
func (v Version) Equal(o Version) bool { return Compare(v, o) == 0 }

// Less reports whether v is older than o.
func (v Version) Less(o Version) bool { return Compare(v, o) < 0 }

func compareParts(a, b parts) int {
	for i := range max(a.len(), b.len()) {
		if c := compareRuns(a.segment(i), b.segment(i)); c != 0 {
			return c
		}
	}
	return 0
}

func compareRuns(a, b []run) int {
	for i := range max(len(a), len(b)) {
		if c := compareRun(at(a, i), at(b, i)); c != 0 {
			return c
		}
	}
	return 0
}

// at returns run i, or the integer 0 where there is none.
func at(s []run, i int) run {
	if i < len(s) {
		return s[i]
	}
	return run{kind: integer}
}

func compareRun(a, b run) int {
	if c := cmp.Compare(a.kind, b.kind); c != 0 {
		return c
	}
	switch a.kind {
	case integer:
		return cmp.Compare(a.num, b.num)
	case bigger:
		if c := cmp.Compare(len(a.str), len(b.str)); c != 0 {
			return c
		}
	}
	return strings.Compare(a.str, b.str)
}

// StartsWith reports whether v lies in the family that p names: all elements
// of p but the last are equal, and the last is equal if it is a number or a
// prefix if it is a word. 1.2.3 and 1.2g start with 1.2, 1.20 does not, and 1
// starts with 1.0. If p has a local part, the main parts must be equal and the
// rule applies to the local parts (CEP 29, "fuzzy equality").
func (v Version) StartsWith(p Version) bool {
	have, want := v.main, p.main
	if p.local.len() > 0 {
		if compareParts(v.main, p.main) != 0 {
			return false
		}
		have, want = v.local, p.local
	}
	last := want.len() - 1
	if last < 0 {
		return true // the zero value names everything
	}
	for i := range last {
		if compareRuns(have.segment(i), want.segment(i)) != 0 {
			return false
		}
	}
	a, b := have.segment(last), want.segment(last)
	n := len(b) - 1
	for i := range n {
		if compareRun(at(a, i), b[i]) != 0 {
			return false
		}
	}
	x, y := at(a, n), b[n]
	if y.kind == text {
		return x.kind == text && strings.HasPrefix(x.str, y.str)
	}
	return compareRun(x, y) == 0
}
