package jobs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Times that a clock skips come at the first moment after, and once if it shows them twice; what goes on with the hours goes on.
func TestCronWhereTheClockChanges(t *testing.T) {
	const form = "2006-01-02 15:04 -0700"
	for _, c := range []struct {
		name, expr, zone, from string
		want                   []string
	}{
		{"midnight is skipped on a Sunday", "@weekly", "America/Havana", "2026-03-01 12:00", []string{"2026-03-08 01:00 -0400", "2026-03-15 00:00 -0400"}},
		{"as five fields", "0 0 * * 0", "America/Santiago", "2026-08-31 12:00", []string{"2026-09-06 01:00 -0300", "2026-09-13 00:00 -0300"}},
		{"half past is skipped, too", "30 0 * * 0", "America/Havana", "2026-03-01 12:00", []string{"2026-03-08 01:00 -0400", "2026-03-15 00:30 -0400"}},
		{"midnight on the first of a month is skipped", "0 0 1 * *", "America/Asuncion", "2017-09-15 00:00", []string{"2017-10-01 01:00 -0300", "2017-11-01 00:00 -0300"}},
		{"a Sunday's time is skipped in Europe", "30 2 * * 0", "Europe/Berlin", "2026-03-23 00:00", []string{"2026-03-29 03:00 +0200", "2026-04-05 02:30 +0200"}},
		{"a Sunday's time is skipped in America", "30 2 * * 0", "America/New_York", "2026-03-02 00:00", []string{"2026-03-08 03:00 -0400", "2026-03-15 02:30 -0400"}},
		{"a month's only time is skipped", "30 2 29 * *", "Europe/Berlin", "2026-03-01 00:00", []string{"2026-03-29 03:00 +0200", "2026-04-29 02:30 +0200"}},
		{"several skipped times are one", "*/10 2 * * *", "Europe/Berlin", "2026-03-28 02:45", []string{"2026-03-28 02:50 +0100", "2026-03-29 03:00 +0200", "2026-03-30 02:00 +0200"}},
		{"a time that is shown twice comes once", "30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", []string{"2026-10-25 02:30 +0200", "2026-10-26 02:30 +0100"}},
		{"a Sunday's time that is shown twice", "0 0 * * *", "America/Havana", "2026-10-31 12:00", []string{"2026-11-01 00:00 -0400", "2026-11-02 00:00 -0500"}},
		{
			"half hours go through the hour that is shown twice", "*/30 * * * *", "Europe/Berlin", "2026-10-25 01:31",
			[]string{"2026-10-25 02:00 +0200", "2026-10-25 02:30 +0200", "2026-10-25 02:00 +0100", "2026-10-25 02:30 +0100", "2026-10-25 03:00 +0100"},
		},
		{"hours go through it", "@hourly", "Europe/Berlin", "2026-10-25 01:30", []string{"2026-10-25 02:00 +0200", "2026-10-25 02:00 +0100", "2026-10-25 03:00 +0100"}},
		{"hours go over what is skipped", "15 * * * *", "Europe/Berlin", "2026-03-29 01:00", []string{"2026-03-29 01:15 +0100", "2026-03-29 03:15 +0200", "2026-03-29 04:15 +0200"}},
		{"hours begin where the clock goes on", "0 * * * *", "Europe/Berlin", "2026-03-29 01:00", []string{"2026-03-29 03:00 +0200", "2026-03-29 04:00 +0200"}},
		{"a whole day is skipped", "0 9 30 12 *", "Pacific/Apia", "2011-12-01 00:00", []string{"2011-12-31 00:00 +1400", "2012-12-30 09:00 +1400"}},
		{"a change by half an hour", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04 12:00", []string{"2026-04-05 01:45 +1100", "2026-04-06 01:45 +1030"}},
		{"a leap day", "0 0 29 2 *", "Europe/Berlin", "2026-03-01 00:00", []string{"2028-02-29 00:00 +0100", "2032-02-29 00:00 +0100"}},
		{"a century without one", "0 0 29 2 *", "UTC", "2096-03-01 00:00", []string{"2104-02-29 00:00 +0000"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			zone, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			at, err := time.ParseInLocation("2006-01-02 15:04", c.from, zone)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for range c.want {
				if at, err = nextCron(c.expr, zone, at); err != nil {
					t.Fatal(err)
				}
				got = append(got, at.Format(form))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Wherever one looks from, there is a tick after it, the same one from all moments before, and no zone stops a schedule.
func TestCronGoesOnInAllZones(t *testing.T) {
	for _, name := range []string{"UTC", "Europe/Berlin", "America/Havana", "America/Santiago", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu", "Africa/Cairo", "Asia/Beirut"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for expr, most := range map[string]time.Duration{
			"0 0 * * *": 25 * time.Hour, "30 2 * * *": 25 * time.Hour, "0 0 * * 0": 169 * time.Hour, "0 * * * *": time.Hour + 30*time.Minute, "*/30 * * * *": 30 * time.Minute,
		} {
			begin := time.Date(2025, 12, 31, 12, 0, 0, 0, time.UTC)
			last := begin
			for at := begin; at.Before(begin.AddDate(1, 1, 0)); {
				next, err := nextCron(expr, zone, at)
				if err != nil || !next.After(at) {
					t.Fatalf("%s in %s after %s: %s, %v", expr, name, at.In(zone), next, err)
				}
				if gap := next.Sub(last); last != begin && gap > most {
					t.Errorf("%s in %s: from %s to %s", expr, name, last.In(zone), next)
				}
				if early, err := nextCron(expr, zone, next.Add(-time.Second)); err != nil || !early.Equal(next) {
					t.Errorf("%s in %s: a second before %s the next is %s, %v", expr, name, next, early, err)
				}
				last, at = next, next
				if _, end := next.In(zone).ZoneBounds(); most < 24*time.Hour && end.Sub(next) > 48*time.Hour { // nothing happens till then
					at, last = end.Add(-24*time.Hour), begin
				} else if end.IsZero() {
					break
				}
			}
		}
	}
}

func TestCronThatNeverComes(t *testing.T) {
	for _, expr := range []string{"0 0 30 2 *", "0 0 0 1 1 * 2020", "nonsense"} {
		if at, err := nextCron(expr, time.UTC, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)); err == nil {
			t.Errorf("%s comes at %s", expr, at)
		}
	}
}
