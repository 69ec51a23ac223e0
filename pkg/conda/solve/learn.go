package solve

// search looks for an assignment that satisfies all clauses, starting from nothing but what was learnt. It returns the
// clause that shows there is none, or none.
func (s *sat) search() (conflict int32, err error) {
	s.undoTo(-1)
	s.queue = 0
	level := int32(1)
	s.assign(yes(root), level, none)
	for _, id := range s.asserts {
		c := &s.clauses[id]
		l := c.a
		if c.kind == clauseLearnt {
			l = s.learnt[c.list][0]
		}
		if !s.assign(l, level, id) {
			return id, nil
		}
	}
	for {
		conflict, err := s.propagate(level)
		if err != nil {
			return none, err
		}
		if conflict >= 0 {
			if level == 1 {
				return conflict, nil
			}
			level = s.learn(conflict)
			if err := s.budget.conflict(); err != nil {
				return none, err
			}
			continue
		}
		candidate, reason := s.decide()
		if candidate < 0 {
			return none, nil
		}
		level++
		s.stats.Decisions++
		s.assign(yes(candidate), level, reason)
	}
}

// learn finds what in the decisions led to a conflict, forbids it by a new clause, and goes back to where that clause
// leaves a single choice, which it takes. It returns the new level.
//
// The clause is the first unique implication point: resolving the conflict with the reasons of the last assignments
// until just one literal of the current level is left.
func (s *sat) learn(conflict int32) int32 {
	var learnt []literal
	var causes, marked []int32
	var scratch []literal
	current := s.level[s.trail[len(s.trail)-1]]
	id, pivot := conflict, int32(none)
	open, back := 0, int32(0)
	for {
		causes = append(causes, id)
		scratch = s.literals(scratch[:0], &s.clauses[id])
		for _, l := range scratch {
			v := l.variable()
			if v == pivot || s.seen[v] {
				continue
			}
			s.seen[v] = true
			marked = append(marked, v)
			if s.level[v] == current {
				open++
			} else {
				learnt = append(learnt, literalOf(v, -s.value[v]))
				back = max(back, s.level[v])
			}
		}
		var value int8
		for {
			v := s.trail[len(s.trail)-1]
			value, id = s.value[v], s.reason[v]
			s.undo()
			if s.seen[v] {
				pivot = v
				break
			}
		}
		if open--; open <= 0 {
			learnt = append(learnt, literalOf(pivot, -value))
			break
		}
	}
	for _, v := range marked {
		s.seen[v] = false
	}
	s.stats.Conflicts++
	for _, l := range learnt {
		if name := s.nameOf[l.variable()]; name >= 0 {
			s.activity[name]++
		}
	}
	// The literal that will be set stands last, one of the level to go back to first: these two are watched.
	for i, l := range learnt[:len(learnt)-1] {
		if s.level[l.variable()] == back {
			learnt[0], learnt[i] = learnt[i], learnt[0]
			break
		}
	}
	last := learnt[len(learnt)-1]
	s.learnt = append(s.learnt, learnt)
	s.causes = append(s.causes, causes)
	s.budget.use(int64(4*len(learnt) + 4*len(causes) + 48))
	c := clause{kind: clauseLearnt, list: int32(len(s.learnt) - 1)}
	var learntID int32
	if len(learnt) == 1 {
		learntID = s.add(c, none, none)
	} else {
		learntID = s.add(c, learnt[0], last)
	}
	target := max(back, 1)
	s.undoTo(target)
	for i := range s.activity {
		s.activity[i] *= decay
	}
	s.assign(last, target, learntID)
	return target
}

// core returns the clauses behind a conflict at level 1: those that are not learnt, in the order they are met.
func (s *sat) core(conflict int32) []int32 {
	var out []int32
	seen := map[int32]bool{}
	involved := map[int32]bool{}
	var scratch []literal
	collect := func(id int32) {
		stack := []int32{id}
		for len(stack) > 0 {
			id := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if seen[id] {
				continue
			}
			seen[id] = true
			if c := &s.clauses[id]; c.kind == clauseLearnt {
				causes := s.causes[c.list]
				for i := len(causes) - 1; i >= 0; i-- {
					stack = append(stack, causes[i])
				}
			} else {
				out = append(out, id)
			}
		}
	}
	involve := func(id int32) {
		scratch = s.literals(scratch[:0], &s.clauses[id])
		for _, l := range scratch {
			involved[l.variable()] = true
		}
	}
	collect(conflict)
	involve(conflict)
	for i := len(s.trail) - 1; i >= 0; i-- {
		if v := s.trail[i]; v != root && involved[v] {
			collect(s.reason[v])
			involve(s.reason[v])
		}
	}
	return out
}
