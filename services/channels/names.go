package channels

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"maps"
	"math"
	"slices"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// The names of all packages are kept in memory, some 25 bytes each, and looked through from the first to the last: what
// no index of a database does well, to find the first of very many names that hold a common part, in order, is a matter
// of milliseconds for a million names that lie side by side.
//
// They only propose. Each search first asks which channels there are and of which state, and reads the names of those
// that have moved on; and what is proposed is looked up, and compared again, in the database. So an answer is never older
// than the database, and what a caller may not read is decided there.

// channelNames is the names of one channel at one moment. It is not changed.
type channelNames struct {
	head    int64
	updated time.Time
	patches int // how often new names were put in since all were read

	text  []byte         // in lower case and in the order of the names, each followed by NUL, which no text has
	start []uint32       // of each name in text, and the end
	exact map[int]string // names that are not all lower case
}

// searched is a channel that a search looks into.
type searched struct {
	ID        uuid.UUID
	NameKey   string
	Head      int64
	UpdatedAt time.Time
	Packages  int64

	names *channelNames
}

// named returns the channels that fit, each with its names as of now or later; nil if these are too many to be kept.
func (s *Service) named(ctx context.Context, c *conditions) ([]searched, error) {
	rows, err := s.pool.Query(ctx, `SELECT id, name_key, head, updated_at, package_count AS packages FROM channels.channels c WHERE `+c.channels(), c.args)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (x searched, err error) {
		err = row.Scan(&x.ID, &x.NameKey, &x.Head, &x.UpdatedAt, &x.Packages)
		return x, err
	})
	if err != nil {
		return nil, pg.Classify(err)
	}
	total := int64(0)
	for _, x := range all {
		total += x.Packages
	}
	if total > maxNames {
		return nil, nil
	}
	return all, s.freshNames(ctx, all)
}

// rawText scans a text without a string of its own.
type rawText []byte

// ScanBytes implements pgtype.BytesScanner.
func (t *rawText) ScanBytes(src []byte) error {
	*t = append((*t)[:0], src...)
	return nil
}

// add takes the next name.
func (n *channelNames) add(name []byte) {
	lower := bytes.ToLower(name)
	if !bytes.Equal(lower, name) {
		if n.exact == nil {
			n.exact = make(map[int]string)
		}
		n.exact[len(n.start)-1] = string(name)
	}
	n.text = append(append(n.text, lower...), 0)
	n.start = append(n.start, uint32(len(n.text)))
}

func (n *channelNames) len() int { return len(n.start) - 1 }

func (n *channelNames) lower(i int) []byte { return n.text[n.start[i] : n.start[i+1]-1] }

// name returns the i-th name as it is. The bytes are not to be changed.
func (n *channelNames) name(i int) []byte {
	if n.exact != nil {
		if s, ok := n.exact[i]; ok {
			return []byte(s)
		}
	}
	return n.lower(i)
}

// nameTerm is a term of a search for names, in lower case.
type nameTerm struct {
	values [][]byte
	negate bool
}

func (t nameTerm) fits(name []byte) bool {
	for _, v := range t.values {
		if bytes.Contains(name, v) {
			return !t.negate
		}
	}
	return t.negate
}

// nameQuery is what a search asks of names: all terms.
type nameQuery struct {
	// driver is a part that every name must hold: the longest, for it is found fastest and least often.
	driver []byte
	terms  []nameTerm
}

func newNameQuery(terms []nameTerm) nameQuery {
	q := nameQuery{terms: terms}
	for _, t := range terms {
		if !t.negate && len(t.values) == 1 && len(t.values[0]) > len(q.driver) {
			q.driver = t.values[0]
		}
	}
	return q
}

// nextPatience is at how many names that do not fit a search looks whether anybody still waits for it.
const nextPatience = 4096

// next returns the first name from i on that fits, or n.len(): also when ctx has ended.
func (q nameQuery) next(ctx context.Context, n *channelNames, i int) int {
	looked := 0
	for end := n.len(); i < end; i++ {
		if looked++; looked%nextPatience == 0 && ctx.Err() != nil {
			return end
		}
		if len(q.driver) > 0 {
			from := n.start[i]
			at := bytes.Index(n.text[from:], q.driver)
			if at < 0 {
				return end
			}
			pos := from + uint32(at)
			i += sort.Search(end-i, func(k int) bool { return n.start[i+k+1] > pos })
		}
		name := n.lower(i)
		ok := true
		for _, t := range q.terms {
			if ok = t.fits(name); !ok {
				break
			}
		}
		if ok {
			return i
		}
	}
	return n.len()
}

// proposal is a package that a search may be about.
type proposal struct {
	channel *searched
	i       int
}

func (p proposal) name() []byte { return p.channel.names.name(p.i) }

// merge yields the proposals of all channels by name and channel, until yield returns false.
func (q nameQuery) merge(ctx context.Context, all []searched, yield func(proposal) (bool, error)) error {
	var h proposals
	for k := range all {
		x := &all[k]
		if i := q.next(ctx, x.names, 0); i < x.names.len() {
			h = append(h, pending{proposal{x, i}, x.names.name(i)})
		}
	}
	heap.Init(&h)
	for len(h) > 0 {
		p := h[0].proposal
		if more, err := yield(p); err != nil || !more {
			return err
		}
		if i := q.next(ctx, p.channel.names, p.i+1); i < p.channel.names.len() {
			h[0] = pending{proposal{p.channel, i}, p.channel.names.name(i)}
			heap.Fix(&h, 0)
		} else {
			heap.Pop(&h)
		}
	}
	return contextError(ctx)
}

// contextError is why ctx has ended; nil if it has not.
func contextError(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

type pending struct {
	proposal
	key []byte
}

type proposals []pending

func (h proposals) Len() int { return len(h) }
func (h proposals) Less(a, b int) bool {
	if c := bytes.Compare(h[a].key, h[b].key); c != 0 {
		return c < 0
	}
	return h[a].channel.NameKey < h[b].channel.NameKey
}
func (h proposals) Swap(a, b int) { h[a], h[b] = h[b], h[a] }
func (h *proposals) Push(x any)   { *h = append(*h, x.(pending)) }
func (h *proposals) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// ranked yields the proposals by how well they fit a word: that name itself, names that begin with it, the others, short
// names first. The word is compared as it was typed in lower case with the names as they are.
func (q nameQuery) ranked(ctx context.Context, all []searched, word string, yield func(proposal) (bool, error)) error {
	exact := []byte(word)
	found := make(map[int][]proposal) // by rank: by fit, then length
	for k := range all {
		x := &all[k]
		for i := q.next(ctx, x.names, 0); i < x.names.len(); i = q.next(ctx, x.names, i+1) {
			p := proposal{x, i}
			name := p.name()
			rank := utf8.RuneCount(name)
			switch {
			case bytes.Equal(name, exact):
				rank = math.MinInt
			case bytes.HasPrefix(name, exact):
				rank -= 1 << 20 // no name is as long
			}
			found[rank] = append(found[rank], p)
		}
	}
	if err := contextError(ctx); err != nil {
		return err
	}
	for _, rank := range slices.Sorted(maps.Keys(found)) { // those that nobody gets to see are not sorted
		slices.SortFunc(found[rank], func(a, b proposal) int {
			return cmp.Or(bytes.Compare(a.name(), b.name()), cmp.Compare(a.channel.NameKey, b.channel.NameKey))
		})
		for _, p := range found[rank] {
			if more, err := yield(p); err != nil || !more {
				return err
			}
		}
	}
	return nil
}
