package channels

import (
	"fmt"
	"testing"

	"github.com/google/uuid"
)

func TestShardsAreRememberedWithinBounds(t *testing.T) {
	var c shardCache
	entry := func(revision int64, n int) *subdirShards {
		e := &subdirShards{revision: revision, digests: make(map[string][32]byte)}
		for i := range n {
			e.set(fmt.Sprintf("p%06d", i), [32]byte{1})
		}
		return e
	}
	key := shardKey{uuid.New(), "noarch"}
	c.put(key, entry(3, 5))
	if e := c.take(key, 3); e == nil || len(e.names) != 5 || c.take(key, 3) != nil {
		t.Error("what was put in does not come out once")
	}
	c.put(key, entry(3, 5))
	if c.take(key, 4) != nil || c.take(key, 3) != nil {
		t.Error("shards of another revision came out")
	}
	c.put(key, entry(3, 5))
	c.put(key, entry(4, 7))
	if c.shards != 7 {
		t.Errorf("%d shards are counted", c.shards)
	}
	for i := range 10 {
		c.put(shardKey{uuid.New(), "noarch"}, entry(int64(i), cachedShards/4))
		total := 0
		for _, e := range c.entries {
			total += len(e.names)
		}
		if total != c.shards || total > cachedShards {
			t.Fatalf("%d shards are remembered, %d are counted", total, c.shards)
		}
	}
	big := shardKey{uuid.New(), "noarch"}
	c.put(big, entry(1, cachedShards+1))
	if c.take(big, 1) != nil {
		t.Error("a subdir was remembered that is larger than all may be")
	}
}
