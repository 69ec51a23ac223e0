package jobs

import (
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

// A cron expression speaks of what a clock on the wall shows, and twice a year that clock jumps. So its ticks are reckoned
// as if the wall's time were UTC, where nothing jumps, and then brought into the zone. There are two ways to do that, as
// in Vixie's cron:
//
//   - With an hour of * (or */2, …) the ticks go on as the hours do: those that the clock skips are not there, those that it
//     shows twice come twice.
//   - With hours that are named each tick of the wall's clock comes once: what the clock skips comes at the first moment
//     after it, and what it shows twice comes the first time.

// nextCron returns the first tick of a cron expression after t in a zone.
func nextCron(expr string, zone *time.Location, t time.Time) (time.Time, error) {
	segments, err := gronx.Segments(expr)
	if err != nil {
		return time.Time{}, err
	}
	t = t.In(zone)
	if strings.HasPrefix(segments[2], "*") || segments[2] == "?" {
		return nextRunning(expr, t)
	}
	for wall := onWall(t); ; {
		if wall, err = gronx.NextTickAfter(expr, wall, false); err != nil {
			return time.Time{}, err
		}
		// No earlier tick can lie after t: firstShown never runs backwards, and t is not before what it returns for t's own wall.
		if at := firstShown(wall, zone); at.After(t) {
			return at, nil
		}
	}
}

// nextRunning is nextCron for expressions that go on through the changes of the clock: it looks from each to the next.
func nextRunning(expr string, t time.Time) (time.Time, error) {
	from, include := onWall(t), false
	for {
		_, offset := t.Zone()
		_, end := t.ZoneBounds()
		wall, err := gronx.NextTickAfter(expr, from, include)
		if err != nil {
			return time.Time{}, err
		}
		at := wall.Add(-time.Duration(offset) * time.Second).In(t.Location())
		if end.IsZero() || at.Before(end) {
			return at, nil
		}
		t, from, include = end, onWall(end), true
	}
}

// onWall returns what a clock on the wall shows at t, as if that were UTC.
func onWall(t time.Time) time.Time {
	year, month, day := t.Date()
	return time.Date(year, month, day, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// firstShown returns when the wall's clock shows something for the first time, and if it skips that, the first moment after.
func firstShown(wall time.Time, zone *time.Location) time.Time {
	year, month, day := wall.Date()
	at := time.Date(year, month, day, wall.Hour(), wall.Minute(), wall.Second(), wall.Nanosecond(), zone)
	start, end := at.ZoneBounds()
	switch shown := onWall(at); {
	case shown.Before(wall): // skipped, and Date reckoned with the time after the change
		return end
	case shown.After(wall): // skipped, and Date reckoned with the time before it
		return start
	case start.IsZero():
		return at
	}
	_, before := start.Add(-1).Zone()
	if earlier := wall.Add(-time.Duration(before) * time.Second); earlier.Before(start) {
		return earlier.In(zone)
	}
	return at
}

// limited reports whether a cron expression has years, so that some day there is no tick any more.
func limited(expr string) bool {
	segments, err := gronx.Segments(expr)
	return err == nil && len(segments) > 6
}
