package solve

// root is the variable of the request itself. Its requirements are what the user asked for.
const root int32 = 0

// A list or a constraint from here on is shared by all who need it, by way of an extra variable, under [Shared]; below,
// plain clauses are fewer.
const (
	gateFrom       = 4
	constraintFrom = 4
)

// plainConstraints is how many packages a constraint forbids one by one under [Plain]: more than that would cost memory
// in proportion to the square of a name's history, which only channels with hundreds of builds of a name notice.
const plainConstraints = 512

// plainClauses is from how many clauses on constraints are shared under [Plain], too: no request to a channel of 35,000
// records comes to 250,000, and one to half a million records would need 100 MB for nothing else.
const plainClauses = 300_000

// encoder turns packages into clauses. It works through a queue in the order of discovery, because the order of
// clauses decides ties of the search.
//
// The whole closure of the request is encoded before the search begins, but for what stands behind a condition: that
// is encoded when a solution meets the condition, and then the search begins anew with what it has learnt.
type encoder struct {
	*sat
	*arrays
	view    *view
	request *compiled

	head     int // of tasks
	names    map[string]int32
	packages map[string]bool // names whose locks and exclusions are encoded

	listOf      map[*spec]int32
	atMostOne   map[string]*atMostOne
	pending     []string // names with new members of atMostOne, in order
	violationOf map[*spec]int32
	conditionOf map[*spec]int32
	constraints []*spec
	reasons     []string
	deferred    []deferred
	extraIDs    map[string]int32 // pseudo-package → variable
	whenOf      map[int32]string // conditional clause → its condition, for people

	shared bool // lists and constraints, see [Encoding]
}

// atMostOne numbers the candidates of a name in binary: each implies the bits of its number, so no two can be true.
type atMostOne struct {
	order []int32
	added int // of order, how many have clauses
	bits  []int32
}

type taskKind uint8

const (
	taskDependencies taskKind = iota
	taskPackage
	taskRequirement
	taskConstraint
)

type task struct {
	kind     taskKind
	id       int32 // candidate
	variable int32 // parent
	spec     *spec // of a requirement or constraint; of a package one that names it
}

func newEncoder(v *view, c *compiled, b *budget) *encoder {
	total := len(v.ix.cands) + len(v.extra)
	e := &encoder{
		arrays:      v.ix.arrays(total),
		view:        v,
		request:     c,
		names:       map[string]int32{},
		packages:    map[string]bool{},
		listOf:      map[*spec]int32{},
		atMostOne:   map[string]*atMostOne{},
		violationOf: map[*spec]int32{},
		conditionOf: map[*spec]int32{},
		extraIDs:    map[string]int32{},
		whenOf:      map[int32]string{},
	}
	e.sat = &e.arrays.sat
	e.budget = b
	b.use(int64(5 * total))
	e.variable(none, none) // root
	return e
}

// variable makes a variable, of a candidate or of nothing.
func (e *encoder) variable(name, candidate int32) int32 {
	v := e.newVariable(name)
	e.candidates = append(e.candidates, candidate)
	e.registered = append(e.registered, false)
	return v
}

func (e *encoder) nameID(name string) int32 {
	id, ok := e.names[name]
	if !ok {
		id = int32(len(e.activity))
		e.names[name] = id
		e.activity = append(e.activity, 0)
	}
	return id
}

func (e *encoder) variableOf(id int32) int32 {
	v := e.variables[id]
	if v == 0 {
		v = e.variable(e.nameID(e.view.cand(id).group.name), id)
		e.variables[id] = v
	}
	return v
}

// encodeRoot encodes the request and all it can lead to.
func (e *encoder) encodeRoot() error {
	e.enqueue(root, e.request.requirements, e.request.constraints)
	return e.drain()
}

// enqueue asks for the packages that a parent mentions, then for its requirements, then for its constraints.
func (e *encoder) enqueue(v int32, requirements []requirement, constraints []*spec) {
	for _, r := range requirements {
		if r.when == nil {
			e.enqueuePackage(r.spec)
		}
	}
	for _, c := range constraints {
		e.enqueuePackage(c)
	}
	for _, r := range requirements {
		if r.when == nil {
			e.tasks = append(e.tasks, task{kind: taskRequirement, variable: v, spec: r.spec})
		} else {
			e.deferred = append(e.deferred, deferred{variable: v, require: r})
		}
	}
	for _, c := range constraints {
		e.tasks = append(e.tasks, task{kind: taskConstraint, variable: v, spec: c})
	}
}

func (e *encoder) enqueuePackage(s *spec) {
	if !e.packages[s.name] {
		e.packages[s.name] = true
		e.tasks = append(e.tasks, task{kind: taskPackage, spec: s})
	}
}

func (e *encoder) drain() error {
	for e.head < len(e.tasks) {
		t := e.tasks[e.head]
		e.head++
		if err := e.budget.tick(); err != nil {
			return err
		}
		switch t.kind {
		case taskDependencies:
			e.encodeDependencies(t.id)
		case taskPackage:
			e.encodePackage(t.spec.name)
		case taskRequirement:
			if err := e.encodeRequirement(t.variable, t.spec); err != nil {
				return err
			}
		case taskConstraint:
			e.encodeConstraint(t.variable, t.spec)
		}
	}
	e.tasks, e.head = e.tasks[:0], 0
	e.encodeAtMostOne()
	return e.budget.look()
}

func (e *encoder) encodeDependencies(id int32) {
	d := e.view.deps(id)
	v := e.variableOf(id)
	if d.err != nil {
		e.exclude(v, d.err.Error())
		return
	}
	e.enqueue(v, d.requirements, d.constrains)
}

func (e *encoder) exclude(v int32, reason string) {
	e.reasons = append(e.reasons, reason)
	e.unit(clauseExcluded, no(v), int32(len(e.reasons)-1))
}

// encodePackage encodes what holds for a name whoever asks for it.
func (e *encoder) encodePackage(name string) {
	g := e.view.group(name)
	if g == nil {
		return
	}
	if locked, ok := e.request.locked[name]; ok {
		for _, id := range g.cands {
			if id != locked {
				e.binary(clauseLock, no(root), no(e.variableOf(id)), locked)
			}
		}
	}
	for _, id := range g.cands {
		if reason, ok := e.request.exclusion(e.view, id); ok {
			e.exclude(e.variableOf(id), reason)
		}
	}
}

// list returns the candidates of a requirement, made on first use.
func (e *encoder) list(s *spec) (int32, error) {
	if at, ok := e.listOf[s]; ok {
		return at, nil
	}
	l := candidateList{spec: s, name: e.nameID(s.name), satisfied: none}
	if s.extra != "" {
		v, ok := e.extraIDs[s.name]
		if !ok {
			v = e.variable(e.nameID(s.name), none)
			e.extraIDs[s.name] = v
		}
		l.vars = []int32{v}
	} else {
		ids := e.view.candidates(s, e.request.low(s.name))
		l.vars = make([]int32, 0, len(ids))
		if favoured, ok := e.request.favoured[s.name]; ok {
			for _, id := range ids {
				if id == favoured {
					l.vars = append(l.vars, e.variableOf(id))
				}
			}
		}
		front := len(l.vars)
		for _, id := range ids {
			if front == 0 || e.variableOf(id) != l.vars[0] {
				l.vars = append(l.vars, e.variableOf(id))
			}
		}
		for _, v := range l.vars {
			if !e.registered[v] {
				e.registered[v] = true
				e.register(s.name, v)
			}
		}
		for _, v := range l.vars {
			e.enqueueDependencies(e.candidates[v])
		}
	}
	e.budget.use(int64(8*len(l.vars) + 64))
	at := int32(len(e.lists))
	e.lists = append(e.lists, l)
	e.listOf[s] = at
	return at, e.budget.tick()
}

// enqueueDependencies asks for a candidate's dependencies. An excluded candidate's are not needed, but they are part of
// the order of discovery in the solver this one follows, and so of the answer where a tie decides.
func (e *encoder) enqueueDependencies(id int32) {
	if e.queued[id] {
		return
	}
	e.queued[id] = true
	e.tasks = append(e.tasks, task{kind: taskDependencies, id: id})
}

func (e *encoder) encodeRequirement(v int32, s *spec) error {
	at, err := e.list(s)
	if err != nil {
		return err
	}
	if v == root || !e.shared || len(e.lists[at].vars) < gateFrom {
		e.require(v, at, nil)
		return nil
	}
	gate := e.lists[at].gate
	if gate == 0 {
		gate = e.variable(none, none)
		e.lists[at].gate = gate
		e.require(gate, at, nil)
	}
	e.binary(clauseGate, yes(gate), no(v), at)
	return nil
}

// encodeConstraint forbids what a constraint does not match: one by one if that is little, else by a variable that
// says "the constraint is violated".
func (e *encoder) encodeConstraint(v int32, s *spec) {
	g := e.view.group(s.name)
	if g == nil {
		return
	}
	var wrong []int32
	matched := e.view.match(s, g)
	for i, id := range g.cands {
		if !matched.has(int32(i)) {
			wrong = append(wrong, e.variableOf(id))
		}
	}
	if len(wrong) == 0 {
		return
	}
	at := int32(len(e.constraints))
	e.constraints = append(e.constraints, s)
	limit := plainConstraints
	if e.shared || len(e.clauses) > plainClauses {
		limit = constraintFrom
	}
	if len(wrong) < limit {
		for _, w := range wrong {
			if w == v {
				e.unit(clauseConstrains, no(v), at) // it forbids itself
			} else {
				e.binary(clauseConstrains, no(v), no(w), at)
			}
		}
		return
	}
	violation, ok := e.violationOf[s]
	if !ok {
		violation = e.variable(none, none)
		e.violationOf[s] = violation
		for _, w := range wrong {
			e.binary(clauseViolates, no(w), yes(violation), at)
		}
	}
	e.binary(clauseForbids, no(v), no(violation), at)
}

// register makes a candidate one of which at most one may be chosen.
func (e *encoder) register(name string, v int32) {
	a := e.atMostOne[name]
	if a == nil {
		a = &atMostOne{}
		e.atMostOne[name] = a
	}
	if len(a.order) == a.added {
		e.pending = append(e.pending, name)
	}
	a.order = append(a.order, v)
}

// encodeAtMostOne adds the clauses of new members, and new bits where their number needs them.
func (e *encoder) encodeAtMostOne() {
	for _, name := range e.pending {
		a := e.atMostOne[name]
		id := e.nameID(name)
		for ; a.added < len(a.order); a.added++ {
			for a.added > 1<<len(a.bits)-1 {
				bit := e.variable(none, none)
				for i, v := range a.order[:a.added] {
					e.implyBit(v, bit, i>>len(a.bits)&1, id)
				}
				a.bits = append(a.bits, bit)
			}
			for k, bit := range a.bits {
				e.implyBit(a.order[a.added], bit, a.added>>k&1, id)
			}
		}
	}
	e.pending = e.pending[:0]
}

func (e *encoder) implyBit(v, bit int32, value int, name int32) {
	b := no(bit)
	if value == 1 {
		b = yes(bit)
	}
	e.binary(clauseAtMostOne, no(v), b, name)
}
