package platform

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGarbageIsBoundedByBytesAndNotByAShare(t *testing.T) {
	for live, want := range map[uint64]int{0: 250, 1 << 20: 250, 32 << 20: 100, 64 << 20: 50, 4 << 30: gcLeast} {
		if got := percent(live, 250); got != want {
			t.Errorf("with %d MiB alive the heap may grow by %d %%, want %d", live>>20, got, want)
		}
	}
}

func TestTheCollectorFollowsTheHeap(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	stop := pace(250)
	current := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	keep := make([]byte, 128<<20)
	for deadline := time.Now().Add(10 * time.Second); current() > 60; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("128 MiB are alive, and the heap may grow by %d %%", current())
		}
		runtime.GC()
	}
	runtime.KeepAlive(keep)
	stop()
	if got := current(); got != 100 {
		t.Errorf("%d %% are left behind", got)
	}
}
