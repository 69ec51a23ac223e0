package plane

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// memoEntries bounds what is remembered of failures: about 500 bytes each.
const memoEntries = 8192

// memo remembers errors for a while.
type memo struct {
	entries *lru.Cache[string, remembered]
	now     func() time.Time
}

type remembered struct {
	err   error
	until time.Time
}

func newMemo(now func() time.Time) *memo {
	entries, err := lru.New[string, remembered](memoEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &memo{entries, now}
}

func (m *memo) get(key string) error {
	e, ok := m.entries.Get(key)
	if !ok {
		return nil
	}
	if !m.now().Before(e.until) {
		m.entries.Remove(key)
		return nil
	}
	return e.err
}

func (m *memo) put(key string, err error, d time.Duration) {
	if d > 0 {
		m.entries.Add(key, remembered{err, m.now().Add(d)})
	}
}
