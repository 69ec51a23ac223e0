package channels

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

const (
	// maxNames is how many names are kept at most, at some 25 bytes each; a search of more is the database's work alone.
	maxNames = 8_000_000
	// channelWeight is what a channel counts beside its names, as so many of them.
	channelWeight = 16
	// namesIdle is after which time without a search the names of a channel go. Those of a channel that another process has
	// deleted are never searched again.
	namesIdle = time.Hour
	// namesPatches is how often new names are put in before all are read again: names that were deleted stay until then.
	namesPatches = 200
)

// nameTable is the names of the channels that were searched: those searched last, of all channels together within a bound.
// Each channel is read by one search at a time, for all that wait for it.
type nameTable struct {
	most int // names; 0 is maxNames

	mu       sync.Mutex
	channels map[uuid.UUID]*namesEntry
	flights  map[uuid.UUID]chan struct{} // closed when the one who reads the channel is done
	weight   int
}

type namesEntry struct {
	names *channelNames
	used  time.Time
}

func (e *namesEntry) weight() int { return e.names.len() + channelWeight }

// fresh reports whether the names are those of the channel as it was found, or newer.
func (n *channelNames) fresh(x *searched) bool {
	return n != nil && n.head >= x.Head && !n.updated.Before(x.UpdatedAt)
}

// claim gives the channels the names that are kept and fresh. Of the others it returns those that the caller is to read,
// after which done must be called; or else one to wait for that somebody reads.
func (t *nameTable) claim(all []searched, now time.Time) (mine []*searched, wait <-chan struct{}, done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	flight := make(chan struct{})
	for i := range all {
		x := &all[i]
		if x.names.fresh(x) {
			continue
		}
		x.names = nil
		if e := t.channels[x.ID]; e != nil {
			e.used, x.names = now, e.names // or at least what to put new names into
			if e.names.fresh(x) {
				continue
			}
		}
		if f := t.flights[x.ID]; f != nil {
			wait = f
			continue
		}
		if t.flights == nil {
			t.flights = make(map[uuid.UUID]chan struct{})
		}
		t.flights[x.ID] = flight
		mine = append(mine, x)
	}
	return mine, wait, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, x := range mine {
			delete(t.flights, x.ID)
		}
		close(flight)
	}
}

// keep keeps what was read, and lets go what was not searched for longest.
func (t *nameTable) keep(read []*searched, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.channels == nil {
		t.channels = make(map[uuid.UUID]*namesEntry)
	}
	for _, x := range read {
		t.remove(x.ID)
		e := &namesEntry{x.names, now}
		t.channels[x.ID] = e
		t.weight += e.weight()
	}
	most := t.most
	if most == 0 {
		most = maxNames
	}
	byUse := slices.SortedFunc(maps.Keys(t.channels), func(a, b uuid.UUID) int { return t.channels[a].used.Compare(t.channels[b].used) })
	for _, id := range byUse {
		if t.weight <= most && now.Sub(t.channels[id].used) < namesIdle {
			break
		}
		t.remove(id)
	}
}

// drop forgets a channel.
func (t *nameTable) drop(id uuid.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(id)
}

// remove is drop; the lock is held.
func (t *nameTable) remove(id uuid.UUID) {
	if e := t.channels[id]; e != nil {
		t.weight -= e.weight()
		delete(t.channels, id)
	}
}

// freshNames gives each channel its names as of now or later.
func (s *Service) freshNames(ctx context.Context, all []searched) error {
	for {
		mine, wait, done := s.names.claim(all, s.now())
		if len(mine) > 0 {
			err := readNames(ctx, s.pool, mine)
			if err == nil {
				s.names.keep(mine, s.now())
			}
			done()
			if err != nil {
				return err
			}
			continue
		}
		if wait == nil {
			return nil
		}
		select {
		case <-wait: // who read may have failed, or have seen the channel before we did
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readNames reads the names of channels, all in one round: of those of which there are some already, what came since.
func readNames(ctx context.Context, db pg.DB, channels []*searched) error {
	var q pgx.Batch
	for _, x := range channels {
		old := x.names
		collect := func(take func([]byte)) func(pgx.Rows) error {
			return func(rows pgx.Rows) error {
				var name []byte
				_, err := pgx.ForEachRow(rows, []any{(*rawText)(&name)}, func() error {
					take(name)
					return nil
				})
				return err
			}
		}
		if old != nil && old.patches < namesPatches {
			// Times within a channel never run backwards, and each publication has its own.
			q.Queue(`SELECT name FROM channels.packages WHERE channel_id = $1 AND created_at > $2 ORDER BY name`, x.ID, old.updated).Query(func(rows pgx.Rows) error {
				var fresh [][]byte
				err := collect(func(name []byte) { fresh = append(fresh, bytes.Clone(name)) })(rows)
				x.names = old.with(fresh)
				x.names.head, x.names.updated = x.Head, x.UpdatedAt // or newer
				return err
			})
			continue
		}
		n := &channelNames{start: []uint32{0}, head: x.Head, updated: x.UpdatedAt}
		q.Queue(`SELECT name FROM channels.packages WHERE channel_id = $1 ORDER BY name`, x.ID).Query(func(rows pgx.Rows) error {
			err := collect(n.add)(rows)
			n.text, n.start = slices.Clip(n.text), slices.Clip(n.start)
			x.names = n
			return err
		})
	}
	return pg.Classify(db.SendBatch(ctx, &q).Close())
}

// with returns the names and further ones, which are in order.
func (n *channelNames) with(fresh [][]byte) *channelNames {
	out := &channelNames{patches: n.patches + 1, text: n.text, start: n.start, exact: n.exact}
	if len(fresh) == 0 {
		return out
	}
	out.text, out.start, out.exact = make([]byte, 0, len(n.text)+32*len(fresh)), make([]uint32, 1, len(n.start)+len(fresh)), nil
	var put []int // before which of the old names new ones were put
	from := 0
	upTo := func(to int) {
		shift := uint32(len(out.text)) - n.start[from] // modulo 2³², and back
		out.text = append(out.text, n.text[n.start[from]:n.start[to]]...)
		for _, start := range n.start[from+1 : to+1] {
			out.start = append(out.start, start+shift)
		}
		from = to
	}
	for _, name := range fresh {
		i := from + sort.Search(n.len()-from, func(k int) bool { return bytes.Compare(n.name(from+k), name) >= 0 })
		upTo(i)
		if i == n.len() || !bytes.Equal(n.name(i), name) {
			out.add(name)
			put = append(put, i)
		}
	}
	upTo(n.len())
	for i, name := range n.exact {
		if out.exact == nil {
			out.exact = make(map[int]string, len(n.exact))
		}
		out.exact[i+sort.SearchInts(put, i+1)] = name
	}
	return out
}
