package channels

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// namesOf keeps names as a look at all rows does.
func namesOf(all ...string) *channelNames {
	slices.Sort(all)
	n := &channelNames{start: []uint32{0}}
	for _, name := range slices.Compact(all) {
		n.add([]byte(name))
	}
	return n
}

func (n *channelNames) all() (out []string) {
	for i := range n.len() {
		out = append(out, string(n.name(i))+" "+string(n.lower(i)))
	}
	return out
}

func TestNewNamesArePutWhereTheyBelong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-cA-C_]{1,4}`)
		old, fresh := rapid.SliceOf(name).Draw(t, "old"), rapid.SliceOf(name).Draw(t, "fresh")
		want := namesOf(append(slices.Clone(old), fresh...)...)
		slices.Sort(fresh)
		var add [][]byte
		for _, s := range slices.Compact(fresh) {
			add = append(add, []byte(s))
		}
		before := namesOf(old...)
		was := before.all()
		if d := cmp.Diff(want.all(), before.with(add).all()); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
		if d := cmp.Diff(was, before.all()); d != "" {
			t.Fatalf("what others look through was changed:\n%s", d)
		}
	})
}

func TestNamesAreKeptWithinBounds(t *testing.T) {
	now := time.Unix(1e9, 0)
	channel := func(names int) *searched {
		x := &searched{ID: uuid.New(), Head: 2, UpdatedAt: now, names: namesOf()}
		for i := range names {
			x.names.add(fmt.Appendf(nil, "p%06d", i))
		}
		x.names.head, x.names.updated = x.Head, x.UpdatedAt
		return x
	}
	// kept reports which of the channels are kept.
	kept := func(table *nameTable, all ...*searched) (out []bool) {
		weight := 0
		for _, e := range table.channels {
			weight += e.weight()
		}
		if weight != table.weight {
			t.Errorf("weight %d is taken for %d", weight, table.weight)
		}
		for _, x := range all {
			out = append(out, table.channels[x.ID] != nil)
		}
		return out
	}
	a, b, c := channel(400), channel(400), channel(400)
	t.Run("what was searched longest ago goes first", func(t *testing.T) {
		table := &nameTable{most: 1000}
		table.keep([]*searched{a}, now)
		table.keep([]*searched{b}, now.Add(time.Second))
		if mine, wait, _ := table.claim([]searched{{ID: a.ID, Head: a.Head, UpdatedAt: a.UpdatedAt}}, now.Add(2*time.Second)); mine != nil || wait != nil {
			t.Fatal("what is kept is read again")
		}
		table.keep([]*searched{c}, now.Add(3*time.Second))
		if d := cmp.Diff([]bool{true, false, true}, kept(table, a, b, c)); d != "" {
			t.Error(d)
		}
	})
	t.Run("what nobody searches goes, and what was deleted", func(t *testing.T) {
		table := new(nameTable)
		table.keep([]*searched{a, b}, now)
		table.drop(b.ID)
		if d := cmp.Diff([]bool{true, false}, kept(table, a, b)); d != "" {
			t.Error(d)
		}
		table.keep([]*searched{c}, now.Add(namesIdle))
		if d := cmp.Diff([]bool{false, false, true}, kept(table, a, b, c)); d != "" {
			t.Error(d)
		}
	})
}

func TestAChannelsNamesAreReadByOneForAll(t *testing.T) {
	table := new(nameTable)
	now := time.Unix(1e9, 0)
	id := uuid.New()
	ask := func(head int64) []searched {
		return []searched{{ID: id, Head: head, UpdatedAt: now.Add(time.Duration(head))}}
	}
	first := ask(2)
	mine, _, done := table.claim(first, now)
	if len(mine) != 1 {
		t.Fatal("nobody reads")
	}
	second := ask(2)
	others, wait, _ := table.claim(second, now)
	if len(others) != 0 || wait == nil {
		t.Fatal("both read")
	}
	later := ask(3)
	mine[0].names = namesOf("a")
	mine[0].names.head, mine[0].names.updated = first[0].Head, first[0].UpdatedAt
	table.keep(mine, now)
	done()
	<-wait
	if others, wait, _ := table.claim(second, now); len(others) != 0 || wait != nil || second[0].names != mine[0].names {
		t.Error("what the other one read is not taken")
	}
	if again, _, done := table.claim(later, now); len(again) != 1 || again[0].names != mine[0].names {
		t.Error("names of an older head are taken, or none to put new ones into are given")
	} else {
		done()
	}
}

func TestASearchThatNobodyWaitsForEnds(t *testing.T) {
	n := namesOf()
	for i := range 20 * nextPatience {
		n.add(fmt.Appendf(nil, "lib%08d", i))
	}
	all := []searched{{names: n}}
	q := newNameQuery([]nameTerm{{values: [][]byte{[]byte("lib")}}, {values: [][]byte{[]byte("x")}}})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the client went away")
	cancel(gone)
	if i := q.next(ctx, n, 0); i != n.len() {
		t.Errorf("found %d", i)
	}
	never := func(proposal) (bool, error) { return true, nil }
	if err := q.merge(ctx, all, never); !errors.Is(err, gone) {
		t.Error(err)
	}
	if err := q.ranked(ctx, all, "lib", never); !errors.Is(err, gone) {
		t.Error(err)
	}
	if !bytes.Equal(n.name(0), []byte("lib00000000")) {
		t.Error("the names were changed")
	}
	// It does not look through all of them first.
	looked := newNameQuery([]nameTerm{{values: [][]byte{[]byte("00081919")}, negate: false}, {values: [][]byte{[]byte("lib")}, negate: false}})
	looked.driver = []byte("lib")
	if i := looked.next(t.Context(), n, 0); i != 81919 {
		t.Errorf("found %d", i)
	}
	if i := looked.next(ctx, n, 0); i != n.len() {
		t.Errorf("found %d although nobody waits", i)
	}
}
