package solve

import "slices"

// arrays is what a solve fills and the next one can fill again: some megabytes, which would otherwise grow anew from
// nothing each time.
type arrays struct {
	sat        sat
	tasks      []task
	variables  []int32 // by candidate id: its variable, 0 if it has none
	queued     []bool  // by candidate id: its dependencies are encoded
	candidates []int32 // by variable: its candidate id, or none
	registered []bool  // by variable: it is one of its name's atMostOne
}

// arrays returns empty arrays for so many candidates.
func (ix *Index) arrays(candidates int) *arrays {
	a, _ := ix.pool.Get().(*arrays)
	if a == nil {
		a = &arrays{}
	}
	old := a.sat
	a.sat = sat{
		clauses: old.clauses[:0], watches: old.watches[:0], heads: old.heads[:0],
		value: old.value[:0], level: old.level[:0], reason: old.reason[:0], trail: old.trail[:0],
		asserts: old.asserts[:0], parentAt: old.parentAt[:0], nameOf: old.nameOf[:0], activity: old.activity[:0],
		seen: old.seen[:0],
	}
	a.tasks, a.candidates, a.registered = a.tasks[:0], a.candidates[:0], a.registered[:0]
	a.variables = slices.Grow(a.variables[:0], candidates)[:candidates]
	a.queued = slices.Grow(a.queued[:0], candidates)[:candidates]
	clear(a.variables)
	clear(a.queued)
	return a
}

// maxKept is the most clauses that arrays may have room for to be kept: one monstrous request must not pin its memory.
const maxKept = 4 << 20

// release gives arrays back. Nothing may use them any more.
func (ix *Index) release(a *arrays) {
	if cap(a.sat.clauses) > maxKept {
		return
	}
	clear(a.tasks[:cap(a.tasks)]) // they point to specs of the request
	ix.pool.Put(a)
}
