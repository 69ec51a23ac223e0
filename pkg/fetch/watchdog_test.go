package fetch

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// Stall checks in exact time, on a reader that needs no socket.
func TestWatchdog(t *testing.T) {
	type read struct {
		takes time.Duration
		n     int
	}
	for _, tc := range []struct {
		name  string
		reads []read
		idle  time.Duration // the caller's own time between reads
		after time.Duration // when it barks, 0: never
	}{
		{"a body that never comes is given up when the window ends", []read{{time.Hour, 1}}, 0, 10 * time.Second},
		{"a drip is given up when the window ends", []read{{time.Second, 1}, {time.Second, 1}, {time.Hour, 1}}, 0, 10 * time.Second},
		{"just enough is enough", []read{{9 * time.Second, 1000}, {9 * time.Second, 1000}, {9 * time.Second, 1000}}, 0, 0},
		{"a good window does not pay for the next", []read{{9 * time.Second, 5000}, {time.Hour, 1}}, 0, 20 * time.Second},
		{"the caller's time does not count", []read{{time.Second, 100}, {time.Second, 100}, {time.Second, 100}}, time.Hour, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				barked := make(chan struct{})
				w := watchdog{clock: realClock{}, window: 10 * time.Second, floor: 1000, bark: func() { close(barked) }}
				began := time.Now()
				for _, r := range tc.reads {
					time.Sleep(tc.idle)
					w.begin()
					select {
					case <-time.After(r.takes):
						if w.end(r.n) {
							t.Fatal("late at the end of a read")
						}
					case <-barked:
						if got := time.Since(began); got != tc.after || !w.end(0) || !w.stalled() {
							t.Errorf("barked after %s, want %s", got, tc.after)
						}
						return
					}
				}
				w.stop()
				if tc.after != 0 {
					t.Error("did not bark")
				}
			})
		})
	}
	t.Run("a stale timer of an earlier read does nothing", func(t *testing.T) {
		w := watchdog{clock: realClock{}, window: time.Minute, floor: 1, bark: func() { t.Error("barked") }}
		w.expire()
		w.begin()
		w.expire()
		w.end(1)
		w.expire()
	})
}

func TestParseContentRange(t *testing.T) {
	for in, ok := range map[string]bool{
		"bytes 0-0/1": true, "bytes 5-9/*": true, "bytes 5-4/10": false, "bytes */10": false, "0-1/2": false, "bytes 0-1": false,
		"bytes -1-2/3": false, "bytes a-b/c": false, "": false, "bytes 0-1/-5": false, "bytes 99999999999999999999-1/2": false,
	} {
		if _, _, _, got := parseContentRange(in); got != ok {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestHostsAreForgotten(t *testing.T) {
	c, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r, err := c.Remote(RemoteConfig{BaseURL: "http://h.example/"})
	if err != nil {
		t.Fatal(err)
	}
	u := *r.base
	for i := range 5 * mostHosts {
		u.Host = "h" + time.Duration(i).String() + ".example"
		h, release, err := c.acquire(t.Context(), &u)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			h.until = time.Now().Add(time.Hour) // braked: must be remembered
		}
		release()
		release() // a second time does no harm
	}
	if n := len(c.hosts.m); n > mostHosts {
		t.Errorf("%d hosts remembered", n)
	}
	u.Host = "h0s.example"
	if _, _, err := c.acquire(t.Context(), &u); reasonOf(err) != ReasonThrottled {
		t.Errorf("the brake is forgotten: %v", err)
	}
}

func TestUnreadBodiesStopCleanly(t *testing.T) {
	var w watchdog
	w.stop() // before the first read
	if w.stalled() {
		t.Error("stalled")
	}
	c := counter{r: io.LimitReader(zeros{}, 10)}
	if n, _ := io.Copy(io.Discard, &c); n != 10 || c.n != 10 {
		t.Errorf("%d, %d", n, c.n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
