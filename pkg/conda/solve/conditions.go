package solve

import "strings"

// deferred is a conditional requirement that is not encoded yet. A condition becomes a variable that is true if one of
// the candidates it names is chosen, and so exactly means what CEP 43 says: with none chosen it does not hold, whatever
// is undecided.
type deferred struct {
	variable int32
	require  requirement
	done     bool
}

// encodeDeferred encodes the conditional requirements whose condition the present solution meets. It reports whether
// there were any: then the solution is not complete.
func (e *encoder) encodeDeferred() (bool, error) {
	var met []int
	for i := range e.deferred {
		d := &e.deferred[i]
		if !d.done && e.value[d.variable] > 0 && e.met(d.require.when) {
			met = append(met, i)
		}
	}
	for _, i := range met {
		d := &e.deferred[i]
		d.done = true
		if err := e.encodeConditional(d.variable, d.require); err != nil {
			return false, err
		}
	}
	if len(met) == 0 {
		return false, nil
	}
	return true, e.drain()
}

// met evaluates a condition on the present assignment.
func (e *encoder) met(when [][]*spec) bool {
	for _, all := range when {
		ok := true
		for _, s := range all {
			ok = ok && e.chosen(s)
		}
		if ok {
			return true
		}
	}
	return false
}

// chosen reports whether a candidate that the spec selects is in the present solution.
func (e *encoder) chosen(s *spec) bool {
	if s.extra != "" {
		v, ok := e.extraIDs[s.name]
		return ok && e.value[v] > 0
	}
	g := e.view.group(s.name)
	if g == nil {
		return false
	}
	matched := e.view.match(s, g)
	for i, id := range g.cands {
		if v := e.variables[id]; v != 0 && e.value[v] > 0 {
			return matched.has(int32(i))
		}
	}
	return false
}

// encodeConditional adds, for each way the condition can be met, ¬parent ∨ ¬condition… ∨ candidates….
func (e *encoder) encodeConditional(v int32, r requirement) error {
	e.enqueuePackage(r.spec)
	at, err := e.list(r.spec)
	if err != nil {
		return err
	}
	for _, all := range r.when {
		cond := make([]literal, len(all))
		texts := make([]string, len(all))
		for i, s := range all {
			cond[i], texts[i] = no(e.condition(s)), s.text
		}
		e.whenOf[e.require(v, at, cond)] = strings.Join(texts, " and ")
	}
	return nil
}

// condition returns a variable that is true if a candidate which the spec selects is chosen.
func (e *encoder) condition(s *spec) int32 {
	if s.extra != "" {
		if v, ok := e.extraIDs[s.name]; ok {
			return v
		}
		v := e.variable(e.nameID(s.name), none)
		e.extraIDs[s.name] = v
		return v
	}
	if v, ok := e.conditionOf[s]; ok {
		return v
	}
	v := e.variable(none, none)
	e.conditionOf[s] = v
	if g := e.view.group(s.name); g != nil {
		matched := e.view.match(s, g)
		for i, id := range g.cands {
			if matched.has(int32(i)) {
				e.binary(clauseCondition, no(e.variableOf(id)), yes(v), none)
			}
		}
	}
	return v
}
