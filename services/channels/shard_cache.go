package channels

import (
	"context"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// subdirShards is which shard each package of a subdir has, as of a revision.
type subdirShards struct {
	revision int64
	digests  map[string][32]byte
	names    []string // in order
}

// set puts in a shard and returns the one in whose place it stands.
func (s *subdirShards) set(name string, digest blob.Digest) (old blob.Digest, replaced bool) {
	old, replaced = s.digests[name]
	s.digests[name] = digest
	if !replaced {
		i, _ := slices.BinarySearch(s.names, name)
		s.names = slices.Insert(s.names, i, name)
	}
	return old, replaced
}

// cachedShards is how many shards of all subdirs together are remembered, at some 150 bytes each.
const cachedShards = 65_536

// shardCache remembers the shards of subdirs that were published to last, so that an upload to a channel of thousands of
// packages need not read them all. What it gives away is not in it any more until it comes back: a publication changes it.
type shardCache struct {
	mu      sync.Mutex
	entries map[shardKey]*subdirShards
	shards  int // in all entries
}

type shardKey struct {
	channel uuid.UUID
	subdir  string
}

// take removes and returns what is remembered, if it is of the revision in which the subdir changed last.
func (c *shardCache) take(key shardKey, revision int64) *subdirShards {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	c.drop(key)
	if e == nil || e.revision != revision {
		return nil
	}
	return e
}

// drop forgets an entry; the lock is held.
func (c *shardCache) drop(key shardKey) {
	if e := c.entries[key]; e != nil {
		c.shards -= len(e.names)
		delete(c.entries, key)
	}
}

// put remembers shards as of the revision that was just published.
func (c *shardCache) put(key shardKey, e *subdirShards) {
	if len(e.names) > cachedShards {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[shardKey]*subdirShards)
	}
	c.drop(key)
	for other := range c.entries { // any: those that are in use come back
		if c.shards+len(e.names) <= cachedShards {
			break
		}
		c.drop(other)
	}
	c.entries[key] = e
	c.shards += len(e.names)
}

// shardsOf returns the shards of a subdir that changed last in a revision; 0 is never.
func (s *Service) shardsOf(ctx context.Context, tx pgx.Tx, id uuid.UUID, subdir string, revision int64) (*subdirShards, error) {
	if e := s.shards.take(shardKey{id, subdir}, revision); e != nil {
		return e, nil
	}
	e := &subdirShards{digests: make(map[string][32]byte)}
	rows, err := tx.Query(ctx, `SELECT name, digest FROM channels.conda_shards WHERE channel_id = $1 AND subdir = $2 ORDER BY name`, id, subdir)
	if err != nil {
		return nil, pg.Classify(err)
	}
	var name string
	var digest blob.Digest
	_, err = pgx.ForEachRow(rows, []any{&name, &digest}, func() error {
		e.digests[name], e.names = digest, append(e.names, name)
		return nil
	})
	return e, pg.Classify(err)
}

// keepShards remembers what a publication has made, after its commit.
func (s *Service) keepShards(st *staging, revision int64) {
	for subdir, e := range st.adds.shards {
		e.revision = revision
		s.shards.put(shardKey{st.channel.ID, subdir}, e)
	}
}
