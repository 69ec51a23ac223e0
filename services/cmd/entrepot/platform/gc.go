package platform

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

const (
	// gcSlack is how much garbage may lie about before the next collection, beside gcLeast.
	gcSlack = 32 << 20
	// gcLeast is the least growth between two collections, in per cent of what is alive: with hundreds of megabytes
	// alive, in the cache of hot files for instance, collecting after every gcSlack would cost more than it saves.
	gcLeast = 30
)

// pacer collects garbage seldom while little memory is in use and more often when there is much. Serving small files makes
// short-lived garbage by the megabyte beside a small heap, for which a high GOGC is right; with that a sync of a large
// channel would hold several times of what it needs.
type pacer struct {
	most int

	mu      sync.Mutex
	now     int // the percentage that is set
	stopped bool
}

// pace keeps the collector between gcLeast and most per cent until stop is called, which puts back what was before.
func pace(most int) (stop func()) {
	before := debug.SetGCPercent(most)
	p := &pacer{most: most, now: most}
	p.watch()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stopped = true
		debug.SetGCPercent(before)
	}
}

// watch is called after each collection, by an object that does not outlive one.
func (p *pacer) watch() {
	type sentinel struct{ _ [16]byte }
	runtime.AddCleanup(new(sentinel), func(p *pacer) {
		if p.adjust() {
			p.watch()
		}
	}, p)
}

func (p *pacer) adjust() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	if live[0].Value.Kind() != metrics.KindUint64 {
		return false
	}
	want := percent(live[0].Value.Uint64(), p.most)
	// Setting it stops the world for a moment; small steps are not worth that.
	if diff := want - p.now; diff > p.now/8 || diff < -p.now/8 {
		debug.SetGCPercent(want)
		p.now = want
	}
	return true
}

// percent returns the growth that leaves gcSlack of garbage beside so many live bytes.
func percent(live uint64, most int) int {
	if live == 0 {
		return most
	}
	return int(min(max(gcSlack*100/live, gcLeast), uint64(most)))
}
