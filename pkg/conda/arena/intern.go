package arena

import (
	"bytes"
	"errors"
	"hash/maphash"
	"math"
)

// interner gives equal strings one id: an open hash table of ids over the slab. An entry has 32 bits of the hash beside the
// id, so that a string is compared with little but its equal, and the table grows without reading the slab.
type interner struct {
	slab  []byte
	offs  []uint32 // by id: where the string begins; one more than there are strings
	table []entry
	used  int
	seed  maphash.Seed
}

type entry struct{ hash, id uint32 } // id 0: free

var errFull = errors.New("the strings of the index need more than 4 GiB")

func (s *interner) init() {
	s.seed = maphash.MakeSeed()
	s.offs = []uint32{0, 0} // the empty string
	s.table = make([]entry, 1<<12)
}

// str returns a string of the interner, valid until the next one is added.
func (s *interner) str(id uint32) []byte { return s.slab[s.offs[id]:s.offs[id+1]] }

func (s *interner) intern(b []byte) uint32 {
	if len(b) == 0 {
		return 0
	}
	h := uint32(maphash.Bytes(s.seed, b))
	mask := uint32(len(s.table) - 1)
	for i := h & mask; ; i = (i + 1) & mask {
		e := s.table[i]
		if e.id == 0 {
			break
		}
		if e.hash == h && bytes.Equal(s.str(e.id), b) {
			return e.id
		}
	}
	if s.used++; 4*s.used > 3*len(s.table) {
		s.grow()
	}
	id := uint32(len(s.offs) - 1)
	s.slab = append(s.slab, b...)
	s.offs = append(s.offs, uint32(len(s.slab)))
	s.place(entry{h, id})
	return id
}

// full reports whether ids or offsets are about to overflow.
func (s *interner) full() bool { return len(s.slab) > math.MaxUint32-64<<20 }

func (s *interner) place(e entry) {
	mask := uint32(len(s.table) - 1)
	i := e.hash & mask
	for s.table[i].id != 0 {
		i = (i + 1) & mask
	}
	s.table[i] = e
}

func (s *interner) grow() {
	old := s.table
	s.table = make([]entry, 2*len(old))
	for _, e := range old {
		if e.id != 0 {
			s.place(e)
		}
	}
}
