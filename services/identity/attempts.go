package identity

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// attempts slows down who tries passwords: so many in a window for one name from one address, and more for one address
// with any names. It is kept in memory, by each replica for itself. A name alone is not limited, or anybody could keep
// anybody from logging in.
type attempts struct {
	mu    sync.Mutex
	tries *lru.Cache[string, window]
}

type window struct {
	n    int
	ends time.Time
}

const (
	attemptWindow     = 5 * time.Minute
	attemptsPerName   = 10
	attemptsPerSource = 100
	attemptEntries    = 65536 // bounds the memory that strangers can take: about 150 bytes each
)

func newAttempts() *attempts {
	tries, err := lru.New[string, window](attemptEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &attempts{tries: tries}
}

func attemptKeys(name, address string) (both, source string) {
	source = address
	if ip, err := netip.ParseAddr(address); err == nil && ip.Unmap().Is6() {
		if net, err := ip.WithZone("").Prefix(64); err == nil { // one customer has as many addresses as they like
			source = net.String()
		}
	}
	return source + "|" + strings.ToLower(name), source
}

// take counts an attempt before it is made, so that many at once are as many. It returns how long to wait, if there were
// too many already.
func (a *attempts) take(name, address string, now time.Time) time.Duration {
	both, source := attemptKeys(name, address)
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, limit := range map[string]int{both: attemptsPerName, source: attemptsPerSource} {
		if w, ok := a.tries.Get(key); ok && now.Before(w.ends) && w.n >= limit {
			return w.ends.Sub(now)
		}
	}
	for _, key := range []string{both, source} {
		w, ok := a.tries.Get(key)
		if !ok || !now.Before(w.ends) {
			w = window{ends: now.Add(attemptWindow)}
		}
		w.n++
		a.tries.Add(key, w)
	}
	return 0
}

// succeeded takes back what was counted for the name: it was the right person.
func (a *attempts) succeeded(name, address string) {
	both, source := attemptKeys(name, address)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tries.Remove(both)
	if w, ok := a.tries.Get(source); ok && w.n > 0 {
		w.n--
		a.tries.Add(source, w)
	}
}
