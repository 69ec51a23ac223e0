package solve

import "math/bits"

// A literal is a variable that must be true, or one that must be false: the variable doubled, plus one if negated.
type literal int32

func yes(v int32) literal          { return literal(v << 1) }
func no(v int32) literal           { return literal(v<<1 | 1) }
func (l literal) variable() int32  { return int32(l >> 1) }
func (l literal) satisfying() int8 { return int8(1 - 2*(l&1)) }
func literalOf(v int32, value int8) literal {
	if value > 0 {
		return yes(v)
	}
	return no(v)
}

// clauseKind tells why a clause is there, which an explanation needs.
type clauseKind uint8

const (
	clauseRequires   clauseKind = iota // parent → one of a list
	clauseGate                         // parent → the gate of a list
	clauseAtMostOne                    // candidate → a bit of its number
	clauseConstrains                   // parent → not that candidate
	clauseViolates                     // candidate → the violation of a constraint
	clauseForbids                      // parent → not the violation of a constraint
	clauseLock                         // root → not that candidate
	clauseExcluded                     // not that candidate
	clauseCondition                    // candidate → a condition holds
	clauseLearnt
)

// clause is a disjunction of literals. A clause of two literals has them in a and b. A requirement has ¬parent in a,
// then its condition's literals, then its list. An assertion has its one literal in a.
type clause struct {
	kind clauseKind
	a, b literal
	// list is the place in lists of a requirement, in learnt of a learnt clause, in reasons of an exclusion; that of
	// the constraint's spec in constraints.
	list int32
	cond int32 // of a requirement: 1 + the place in conds; 0 is none
}

// watch holds the two literals of a clause that are looked after, and the clauses that follow it in their lists.
type watch struct {
	lit  [2]literal
	next [2]int32
}

const none = -1

// candidateList is a requirement's candidates, shared by all who have the same requirement.
type candidateList struct {
	spec      *spec
	vars      []int32
	name      int32 // for the activity
	gate      int32 // variable, 0 if there is none
	satisfied int32 // a variable that was true when the list was last looked at
}

// parent is a variable with requirements.
type parent struct {
	variable int32
	requires []int32 // clauses, in the order they were added
}

// sat is a conflict-driven search for an assignment that satisfies all clauses. It knows nothing of packages, but
// that variables carry the name of one for the activity.
type sat struct {
	clauses []clause
	watches []watch
	heads   []int32 // by literal: first clause that watches it

	value  []int8 // by variable: 1, -1, or 0 for unassigned
	level  []int32
	reason []int32 // clause that forced it; of a decision the requirement it serves
	trail  []int32
	queue  int // trail[queue:] is not propagated yet

	lists   []candidateList
	conds   [][]literal
	learnt  [][]literal
	causes  [][]int32 // of learnt clauses
	asserts []int32   // clauses of one literal

	parents   []parent
	parentAt  []int32  // by variable: place in parents, or none
	installed []uint64 // bit per parent: it is true

	nameOf   []int32   // by variable: name of its package, or none
	activity []float32 // by name

	seen []bool // scratch of learn

	budget *budget
	stats  Stats
}

// decay is applied to all activities after a conflict. It is float32 arithmetic on purpose: ties between activities
// must fall as they do in the solver this one follows.
const decay float32 = 0.95

func (s *sat) newVariable(name int32) int32 {
	v := int32(len(s.value))
	s.value = append(s.value, 0)
	s.level = append(s.level, 0)
	s.reason = append(s.reason, none)
	s.parentAt = append(s.parentAt, none)
	s.nameOf = append(s.nameOf, name)
	s.seen = append(s.seen, false)
	s.heads = append(s.heads, none, none)
	s.budget.use(48)
	return v
}

// add appends a clause that watches two literals, or none if first is negative.
func (s *sat) add(c clause, first, second literal) int32 {
	id := int32(len(s.clauses))
	s.clauses = append(s.clauses, c)
	w := watch{lit: [2]literal{none, none}, next: [2]int32{none, none}}
	if first >= 0 {
		w.lit = [2]literal{first, second}
		for i, l := range w.lit {
			w.next[i] = s.heads[l]
			s.heads[l] = id
		}
	} else {
		s.asserts = append(s.asserts, id)
	}
	s.watches = append(s.watches, w)
	s.budget.use(36)
	return id
}

// binary adds a clause of two literals.
func (s *sat) binary(kind clauseKind, a, b literal, list int32) int32 {
	return s.add(clause{kind: kind, a: a, b: b, list: list}, a, b)
}

// unit adds a clause of one literal.
func (s *sat) unit(kind clauseKind, a literal, list int32) int32 {
	return s.add(clause{kind: kind, a: a, b: none, list: list}, none, none)
}

// require adds ¬parent ∨ cond… ∨ list…
func (s *sat) require(v int32, list int32, cond []literal) int32 {
	c := clause{kind: clauseRequires, a: no(v), b: none, list: list}
	if cond != nil {
		s.conds = append(s.conds, cond)
		c.cond = int32(len(s.conds))
	}
	var id int32
	switch {
	case len(cond) > 0:
		id = s.add(c, c.a, cond[0])
	case len(s.lists[list].vars) > 0:
		id = s.add(c, c.a, yes(s.lists[list].vars[0]))
	default:
		id = s.add(c, none, none)
	}
	at := s.parentAt[v]
	if at < 0 {
		at = int32(len(s.parents))
		s.parentAt[v] = at
		s.parents = append(s.parents, parent{variable: v})
		if int(at)>>6 >= len(s.installed) {
			s.installed = append(s.installed, 0)
		}
	}
	s.parents[at].requires = append(s.parents[at].requires, id)
	return id
}

func (s *sat) truth(l literal) int8 { return s.value[l>>1] * l.satisfying() }

// assign sets a variable. It reports false if the variable has the other value.
func (s *sat) assign(l literal, level, reason int32) bool {
	v := l.variable()
	want := l.satisfying()
	if s.value[v] != 0 {
		return s.value[v] == want
	}
	s.value[v], s.level[v], s.reason[v] = want, level, reason
	s.trail = append(s.trail, v)
	if at := s.parentAt[v]; at >= 0 && want > 0 {
		s.installed[at>>6] |= 1 << (at & 63)
	}
	return true
}

// undo takes back the last assignment.
func (s *sat) undo() int32 {
	v := s.trail[len(s.trail)-1]
	s.trail = s.trail[:len(s.trail)-1]
	if at := s.parentAt[v]; at >= 0 {
		s.installed[at>>6] &^= 1 << (at & 63)
	}
	s.value[v] = 0
	s.queue = len(s.trail)
	return v
}

func (s *sat) undoTo(level int32) {
	for len(s.trail) > 0 && s.level[s.trail[len(s.trail)-1]] > level {
		s.undo()
	}
}

// propagate draws all conclusions from the assignments on the trail. It returns a clause that cannot be satisfied any
// more, or none.
func (s *sat) propagate(level int32) (conflict int32, err error) {
	for s.queue < len(s.trail) {
		v := s.trail[s.queue]
		s.queue++
		falsified := literalOf(v, -s.value[v])
		previous, previousSide := int32(none), 0
		for id := s.heads[falsified]; id >= 0; {
			if err := s.budget.tick(); err != nil {
				return none, err
			}
			w := &s.watches[id]
			side := 0
			if w.lit[0] != falsified {
				side = 1
			}
			other, next := w.lit[1-side], w.next[side]
			if s.truth(other) <= 0 {
				if l := s.replacement(&s.clauses[id], other); l >= 0 {
					if previous >= 0 {
						s.watches[previous].next[previousSide] = next
					} else {
						s.heads[falsified] = next
					}
					w.lit[side], w.next[side] = l, s.heads[l]
					s.heads[l] = id
					id = next
					continue
				}
				if !s.assign(other, level, id) {
					return id, nil
				}
			}
			previous, previousSide = id, side
			id = next
		}
	}
	return none, nil
}

// replacement finds the first literal of a clause that is not false and not watched already.
func (s *sat) replacement(c *clause, other literal) literal {
	switch c.kind {
	case clauseRequires:
		if c.a != other && s.truth(c.a) >= 0 {
			return c.a
		}
		if c.cond > 0 {
			for _, l := range s.conds[c.cond-1] {
				if l != other && s.truth(l) >= 0 {
					return l
				}
			}
		}
		for _, v := range s.lists[c.list].vars {
			if s.value[v] >= 0 && yes(v) != other {
				return yes(v)
			}
		}
	case clauseLearnt:
		for _, l := range s.learnt[c.list] {
			if l != other && s.truth(l) >= 0 {
				return l
			}
		}
	}
	return none
}

// literals appends a clause's literals, in order.
func (s *sat) literals(dst []literal, c *clause) []literal {
	if c.kind == clauseLearnt {
		return append(dst, s.learnt[c.list]...)
	}
	dst = append(dst, c.a)
	if c.kind == clauseRequires {
		if c.cond > 0 {
			dst = append(dst, s.conds[c.cond-1]...)
		}
		for _, v := range s.lists[c.list].vars {
			dst = append(dst, yes(v))
		}
	} else if c.b >= 0 {
		dst = append(dst, c.b)
	}
	return dst
}

// decide picks the next candidate to try, or none if every requirement is met.
//
// Requirements are looked at in the order in which their parents were first seen. The first open one is taken, unless
// a later one has both been in more conflicts and fewer candidates left. What the user asked for goes before what
// packages ask for.
func (s *sat) decide() (candidate, reason int32) {
	candidate, reason = none, none
	var bestActivity float32
	var bestCount int
	for word, set := range s.installed {
		for ; set != 0; set &= set - 1 {
			p := &s.parents[word<<6+bits.TrailingZeros64(set)]
			for _, id := range p.requires {
				c := &s.clauses[id]
				if c.cond > 0 && !s.holds(s.conds[c.cond-1]) {
					continue
				}
				list := &s.lists[c.list]
				if list.satisfied >= 0 && s.value[list.satisfied] > 0 {
					continue
				}
				first, count := s.open(list)
				if count == 0 {
					continue // met
				}
				activity := s.activity[list.name]
				if candidate >= 0 && (bestActivity >= activity || bestCount <= count) {
					continue
				}
				candidate, reason, bestActivity, bestCount = first, id, activity, count
			}
			if p.variable == root && candidate >= 0 {
				return candidate, reason
			}
		}
	}
	return candidate, reason
}

// holds reports whether all literals of a condition are false, that is, whether the condition is met.
func (s *sat) holds(cond []literal) bool {
	for _, l := range cond {
		if s.truth(l) >= 0 {
			return false
		}
	}
	return true
}

// open returns the first candidate that may still be chosen and how many there are; 0 if one is chosen already.
func (s *sat) open(list *candidateList) (first int32, count int) {
	first = none
	for _, v := range list.vars {
		switch s.value[v] {
		case 1:
			list.satisfied = v
			return v, 0
		case 0:
			if count++; first < 0 {
				first = v
			}
		}
	}
	return first, count
}
