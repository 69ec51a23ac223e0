package progress

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// clock is moved by the test.
type clock struct{ t time.Time }

func (c *clock) now() time.Time            { return c.t }
func (c *clock) tick(d time.Duration)      { c.t = c.t.Add(d) }
func newClock() *clock                     { return &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} }
func state(done, total, bytes int64) State { return State{Done: done, Total: total, Bytes: bytes} }

func TestALogGetsALineNowAndThen(t *testing.T) {
	var out strings.Builder
	c := newClock()
	m := New(&out, Options{Now: c.now, Unit: "packages"})
	for i := range int64(100) {
		m.Update(state(i, 100, i*1000))
		c.tick(100 * time.Millisecond)
	}
	m.Println("a word in between")
	if d := m.Done(); d != 10*time.Second {
		t.Errorf("took %s", d)
	}
	want := `…  30/100 packages  30.0 kB  10.0 kB/s  ETA 7.00s
…  60/100 packages  60.0 kB  10.0 kB/s  ETA 4.00s
…  90/100 packages  90.0 kB  10.0 kB/s  ETA 1.00s
a word in between
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Error(d)
	}
}

func TestATerminalHasOneLineThatFits(t *testing.T) {
	for _, width := range []int{5, 20, 40, 60, 80, 200} {
		var out strings.Builder
		c := newClock()
		m := New(&out, Options{Now: c.now, Terminal: true, Width: func() int { return width }})
		for i := range int64(20) {
			m.Update(State{Done: i, Total: 20, Bytes: i << 20, TotalBytes: 20 << 20, Message: "downloading a long tale"})
			c.tick(150 * time.Millisecond)
		}
		m.Println("above")
		m.Done()
		for _, line := range strings.FieldsFunc(out.String(), func(r rune) bool { return r == '\r' || r == '\n' }) {
			if n := utf8.RuneCountInString(line); n >= max(width, 6) {
				t.Errorf("width %d: a line of %d: %q", width, n, line)
			}
		}
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Errorf("width %d: %d line breaks for one printed line", width, n)
		}
	}
}

func TestTheRateIsSmoothedAndBeginsAnewWithTheWork(t *testing.T) {
	c := newClock()
	m := New(&strings.Builder{}, Options{Now: c.now})
	for i := range int64(10) {
		m.Update(state(i, 100, i*1000))
		c.tick(time.Second)
	}
	m.Update(state(10, 100, 1_009_000)) // one second at a megabyte
	if r := m.byteRate.perSecond; r < 100_000 || r > 300_000 {
		t.Errorf("one fast second made the rate %.0f", r)
	}
	c.tick(time.Second)
	m.Update(state(0, 100, 0))
	if r := m.byteRate.perSecond; r != 0 {
		t.Errorf("a second attempt begins with the rate %.0f", r)
	}
}

func TestSizesAndTimesAreShort(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 12345: "12.3 kB", 999_499: "999 kB", 999_999: "1.00 MB", 123_456_789: "123 MB", 5e12: "5.00 TB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		412 * time.Millisecond: "0.41s", 12400 * time.Millisecond: "12s", 185 * time.Second: "3m05s", 130 * time.Minute: "2h10m",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
}
