package repodata

import (
	"hash/maphash"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// guard stops a token or value that does not end. The decoder only asks for more input while everything it has buffered
// behind its last token belongs to the next one, so that difference is what the unfinished token has cost so far.
type guard struct {
	r    io.Reader
	dec  *jsontext.Decoder
	n    int64
	max  int64
	fail error
}

func (g *guard) Read(p []byte) (int, error) {
	if g.fail != nil {
		return 0, g.fail
	}
	if g.n-g.dec.InputOffset() > g.max {
		g.fail = &LimitError{What: "size of one JSON value", Limit: g.max}
		return 0, g.fail
	}
	n, err := g.r.Read(p)
	g.n += int64(n)
	return n, err
}

// nameSet remembers names by 128 bits of a keyed hash: 16 bytes for a name of fifty, and nobody outside can aim at a
// collision.
type nameSet struct {
	seeds [2]maphash.Seed
	seen  map[[2]uint64]struct{}
}

func newNameSet() nameSet {
	return nameSet{[2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, map[[2]uint64]struct{}{}}
}

// add reports whether name is new.
func (s nameSet) add(name string) bool {
	h := [2]uint64{maphash.String(s.seeds[0], name), maphash.String(s.seeds[1], name)}
	before := len(s.seen)
	s.seen[h] = struct{}{}
	return len(s.seen) > before
}
