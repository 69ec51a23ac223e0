package metrics

import (
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// period is the time that a point stands for, in the numbers of the proto and the database; a longer one is greater.
type period int16

const (
	hour  = period(metricsv1.Interval_INTERVAL_HOUR)
	day   = period(metricsv1.Interval_INTERVAL_DAY)
	month = period(metricsv1.Interval_INTERVAL_MONTH)
	year  = period(metricsv1.Interval_INTERVAL_YEAR)
)

func parsePeriod(i metricsv1.Interval) (period, error) {
	switch {
	case i == metricsv1.Interval_INTERVAL_UNSPECIFIED:
		return day, nil
	case i < metricsv1.Interval_INTERVAL_HOUR || i > metricsv1.Interval_INTERVAL_YEAR:
		return 0, fault.Field("interval", "there is no interval %d", i)
	}
	return period(i), nil
}

// trunc is what PostgreSQL's date_trunc calls the period.
func (p period) trunc() string { return [...]string{"", "hour", "day", "month", "year"}[p] }

// floor returns when the period that t is in begins.
func (p period) floor(t time.Time) time.Time {
	t = t.UTC()
	switch p {
	case hour:
		return t.Truncate(time.Hour)
	case day:
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	case month:
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
}

// ceil returns when the first period begins that does not begin before t.
func (p period) ceil(t time.Time) time.Time {
	f := p.floor(t)
	if f.Equal(t) {
		return f
	}
	switch p {
	case hour:
		return f.Add(time.Hour)
	case day:
		return f.AddDate(0, 0, 1)
	case month:
		return f.AddDate(0, 1, 0)
	}
	return f.AddDate(1, 0, 0)
}

// The times that PostgreSQL and the dialects can write.
var (
	earliest = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
)

// newWindow reads what a request asks for. A bound that lies within a period leaves that period out at the start and in
// at the end, since it is the beginning of a period that counts.
func newWindow(i metricsv1.Interval, start, end *timestamppb.Timestamp) (w window, err error) {
	if w.period, err = parsePeriod(i); err != nil {
		return w, err
	}
	w.from, w.to = earliest, latest
	for _, b := range []struct {
		field string
		t     *timestamppb.Timestamp
		to    *time.Time
	}{{"start", start, &w.from}, {"end", end, &w.to}} {
		if b.t == nil {
			continue
		}
		if b.t.CheckValid() != nil {
			return w, fault.Field(b.field, "%s is not a time", b.field)
		}
		t := w.period.ceil(b.t.AsTime())
		if t.Before(earliest) {
			t = earliest
		}
		if t.After(latest) {
			t = latest
		}
		*b.to = t
	}
	return w, nil
}

// bounded reports whether the window leaves anything out.
func (w window) bounded() bool { return w.from.After(earliest) || w.to.Before(latest) }
