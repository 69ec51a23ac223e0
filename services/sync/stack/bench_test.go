package stack_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// BenchmarkFirstSync mirrors 2,000 tiny packages over loopback, end to end, and then asks again without changes. What
// a person waits for is the job: from the request to the state that says it has succeeded.
func BenchmarkFirstSync(b *testing.B) {
	const n = 2000
	s := platformtest.Start(b)
	var first, again time.Duration
	rounds := 0
	for b.Loop() {
		m := newMirror(b, s, fmt.Sprintf("bench%d", rounds))
		for i := range n {
			m.ch.Add("noarch", fmt.Sprintf("p%04d", i), "1.0", fmt.Appendf(nil, "round %d, file %d", rounds, i))
		}
		m.ch.Put("noarch/repodata.json.zst", synctest.Zstd(m.ch.Index("noarch")))
		began := time.Now()
		if r := m.sync(nil); r.Added != n {
			b.Fatalf("%+v", r)
		}
		first += time.Since(began)
		for range 5 {
			began = time.Now()
			if r := m.sync(nil); r.Unchanged != n || r.NotModified != 1 {
				b.Fatalf("%+v", r)
			}
			again += time.Since(began)
		}
		rounds++
	}
	b.ReportMetric(float64(n*rounds)/first.Seconds(), "packages/s")
	b.ReportMetric(float64(again.Milliseconds())/float64(5*rounds), "ms/unchanged")
}
