// Package progress shows a person how far something has come.
//
// On a terminal that is one line which is redrawn in place: a bar, items and bytes done, a smoothed rate and the time
// that is left. Anywhere else (a log, a pipe) it is a plain line now and then, so that a log of a long sync stays
// readable.
package progress

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// State is how far the work has come. Zero totals mean unknown.
type State struct {
	Done, Total       int64
	Bytes, TotalBytes int64
	// Message says what is being done.
	Message string
}

// Options say where and how progress is shown.
type Options struct {
	// Terminal says that the writer understands carriage returns.
	Terminal bool
	// Width returns the terminal's columns; nil means 80.
	Width func() int
	// Unit is what is counted, in the plural; default "files".
	Unit string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Every is the least time between two plain lines; 0 means 3 s. A terminal is redrawn ten times a second at most.
	Every time.Duration
}

// Meter shows one piece of work. It is safe for concurrent use.
type Meter struct {
	w    io.Writer
	opts Options

	mu       sync.Mutex
	start    time.Time
	shown    time.Time
	line     string // what stands on the terminal's line now
	state    State
	itemRate rate
	byteRate rate
}

// redraw is the least time between two drawings on a terminal; an eye sees no more.
const redraw = 100 * time.Millisecond

// New starts a meter. It shows nothing before the first Update.
func New(w io.Writer, opts Options) *Meter {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Width == nil {
		opts.Width = func() int { return 80 }
	}
	if opts.Every == 0 {
		opts.Every = 3 * time.Second
	}
	if opts.Unit == "" {
		opts.Unit = "files"
	}
	return &Meter{w: w, opts: opts, start: opts.Now()}
}

// Update shows a new state, unless the last one was shown just now.
func (m *Meter) Update(s State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.opts.Now()
	if s.Done < m.state.Done || s.Bytes < m.state.Bytes {
		m.itemRate, m.byteRate = rate{}, rate{} // the work began anew: another attempt
	}
	m.itemRate.add(now, s.Done)
	m.byteRate.add(now, s.Bytes)
	m.state = s
	least := m.opts.Every
	if m.opts.Terminal {
		least = redraw
	}
	last := m.shown
	if last.IsZero() && !m.opts.Terminal {
		last = m.start // what is done at once leaves no line in a log
	}
	if !last.IsZero() && now.Sub(last) < least {
		return
	}
	m.shown = now
	m.draw()
}

// Println writes a line above the bar.
func (m *Meter) Println(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
	fmt.Fprintln(m.w, line)
	if m.opts.Terminal && !m.shown.IsZero() {
		m.draw()
	}
}

// Done takes the bar away. It returns how long the work took. The caller prints what came of it.
func (m *Meter) Done() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clear()
	m.shown = time.Time{}
	return m.opts.Now().Sub(m.start)
}

func (m *Meter) clear() {
	if m.line != "" {
		fmt.Fprint(m.w, "\r"+strings.Repeat(" ", utf8.RuneCountInString(m.line))+"\r")
		m.line = ""
	}
}

func (m *Meter) draw() {
	if !m.opts.Terminal {
		fmt.Fprintln(m.w, strings.Join(append([]string{"…"}, m.facts()...), "  "))
		return
	}
	line := m.barLine(m.opts.Width())
	m.clear()
	fmt.Fprint(m.w, line)
	m.line = line
}

// barLine fits into width: what matters least is left out first.
func (m *Meter) barLine(width int) string {
	facts := m.facts()
	for n := len(facts); n > 0; n-- {
		text := strings.Join(facts[:n], "  ")
		room := width - utf8.RuneCountInString(text) - 5
		if m.state.Total > 0 && room >= 10 {
			return bar(m.state.Done, m.state.Total, min(room, 30)) + "  " + text
		}
		if room >= 0 && m.state.Total <= 0 {
			return text
		}
	}
	text := []rune(facts[0])
	return string(text[:max(0, min(len(text), width-1))])
}

func bar(done, total int64, width int) string {
	full := int(math.Round(float64(width) * float64(min(done, total)) / float64(total)))
	return "[" + strings.Repeat("█", full) + strings.Repeat("░", width-full) + "]"
}

// facts are the parts of the line, the most wanted first.
func (m *Meter) facts() []string {
	s := m.state
	var out []string
	if s.Total > 0 {
		out = append(out, fmt.Sprintf("%d/%d %s", s.Done, s.Total, m.opts.Unit))
	} else if s.Message != "" {
		return []string{s.Message}
	} else {
		out = append(out, fmt.Sprintf("%d %s", s.Done, m.opts.Unit))
	}
	switch {
	case s.TotalBytes > 0:
		out = append(out, Bytes(s.Bytes)+" of "+Bytes(s.TotalBytes))
	case s.Bytes > 0:
		out = append(out, Bytes(s.Bytes))
	}
	if r := m.byteRate.perSecond; r > 0 {
		out = append(out, Bytes(int64(r))+"/s")
	} else if r := m.itemRate.perSecond; r > 0 {
		out = append(out, fmt.Sprintf("%.0f/s", r))
	}
	if eta, ok := m.eta(); ok {
		out = append(out, "ETA "+Duration(eta))
	}
	if s.Message != "" {
		out = append(out, s.Message)
	}
	return out
}

// eta goes by bytes where their total is known: files differ in size.
func (m *Meter) eta() (time.Duration, bool) {
	left, r := float64(m.state.Total-m.state.Done), m.itemRate.perSecond
	if m.state.TotalBytes > 0 {
		left, r = float64(m.state.TotalBytes-m.state.Bytes), m.byteRate.perSecond
	}
	if left <= 0 || r <= 0 {
		return 0, false
	}
	seconds := left / r
	if seconds > 100*3600 {
		return 0, false // nobody believes it
	}
	return time.Duration(seconds * float64(time.Second)), true
}

// rate is how fast a counter grows, smoothed: what was long ago counts ever less.
type rate struct {
	at        time.Time
	value     int64
	perSecond float64
}

// smoothing is the time after which an old speed counts for a third.
const smoothing = 4 * time.Second

func (r *rate) add(now time.Time, value int64) {
	if r.at.IsZero() {
		r.at, r.value = now, value
		return
	}
	dt := now.Sub(r.at)
	if dt < redraw { // too short to tell a speed
		return
	}
	speed := float64(value-r.value) / dt.Seconds()
	if r.perSecond == 0 {
		r.perSecond = speed
	} else {
		weight := 1 - math.Exp(-dt.Seconds()/smoothing.Seconds())
		r.perSecond += weight * (speed - r.perSecond)
	}
	r.at, r.value = now, value
}
