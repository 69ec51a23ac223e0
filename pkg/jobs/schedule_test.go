package jobs_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

func TestSchedules(t *testing.T) {
	request := jobs.EnqueueParams{Kind: kind, Args: wrapperspb.String("tick"), Resource: "channel/1", Principal: jobs.Principal{Name: "mirror", Data: []byte("m")}}
	setup := func(t *testing.T) *bundle {
		b := setup(t)
		b.handle(jobs.KindSpec{}, func(_ context.Context, job *jobs.Job[args]) (any, error) {
			b.note(job.Args.GetValue() + " " + job.Principal.Name)
			return nil, nil
		})
		return b
	}
	upsert := func(b *bundle, s jobs.Schedule) jobs.Schedule {
		b.t.Helper()
		s.Name, s.Job = "sync", request
		got, err := b.client.UpsertSchedule(b.t.Context(), b.pool, s)
		if err != nil {
			b.t.Fatal(err)
		}
		return got
	}
	ran := func(b *bundle, n int) func() bool {
		return func() bool {
			return b.count(`SELECT count(*) FROM jobs.jobs WHERE state = 'succeeded' AND schedule_id IS NOT NULL`) >= n
		}
	}

	t.Run("a job with a start waits for it", func(t *testing.T) {
		b := setup(t)
		b.start()
		at := time.Now().Add(300 * time.Millisecond)
		res := b.enqueue("later", func(p *jobs.EnqueueParams) { p.StartAt = at })
		if info := b.get(res.JobID); info.State != jobs.Scheduled || info.StartAt.Sub(at).Abs() > time.Millisecond {
			t.Errorf("%s at %s", info.State, info.StartAt)
		}
		info := b.ends(res.JobID, jobs.Succeeded)
		if early := at.Sub(info.StartedAt); early > time.Millisecond {
			t.Errorf("started %s too early", early)
		}
	})

	t.Run("a scheduled job is outside coalescing until it is due", func(t *testing.T) {
		b := setup(t)
		key := func(p *jobs.EnqueueParams) { p.CoalesceKey = "k" }
		later := b.enqueue("later", key, func(p *jobs.EnqueueParams) { p.StartAt = time.Now().Add(time.Hour) })
		now := b.enqueue("now", key)
		if now.Joined || now.JobID == later.JobID {
			t.Errorf("%+v joined %+v", now, later)
		}
	})

	t.Run("a schedule repeats, as its principal", func(t *testing.T) {
		b := setup(t)
		b.start()
		s := upsert(b, jobs.Schedule{RepeatEvery: time.Second})
		b.comes("two ticks", ran(b, 2))
		infos, _, err := b.client.List(t.Context(), jobs.Filter{ScheduleID: s.ID, Resource: "channel/1"}, jobs.Page{})
		if err != nil || len(infos) < 2 {
			t.Fatalf("%v %v", infos, err)
		}
		if got := b.noted()[0]; got != "tick mirror" {
			t.Errorf("ran %q", got)
		}
		all, err := b.client.ListSchedules(t.Context(), "default")
		if err != nil || len(all) != 1 || all[0].LastAt.IsZero() || !all[0].NextAt.After(all[0].LastAt) {
			t.Errorf("%+v %v", all, err)
		}
	})

	t.Run("cron fires", func(t *testing.T) {
		b := setup(t)
		b.start()
		upsert(b, jobs.Schedule{Cron: "* * * * * *"}) // each second
		b.comes("a tick", ran(b, 1))
	})

	t.Run("cron is read in its time zone", func(t *testing.T) {
		b := setup(t)
		s := upsert(b, jobs.Schedule{Cron: "30 4 * * *", TimeZone: "Asia/Tokyo", StartAt: time.Date(2040, 3, 1, 0, 0, 0, 0, time.UTC)})
		if want := time.Date(2040, 3, 1, 19, 30, 0, 0, time.UTC); !s.NextAt.Equal(want) {
			t.Errorf("next %s, want %s", s.NextAt.UTC(), want)
		}
	})

	t.Run("a start that is itself a tick counts", func(t *testing.T) {
		b := setup(t)
		start := time.Date(2040, 3, 1, 4, 30, 0, 0, time.UTC)
		if s := upsert(b, jobs.Schedule{Cron: "30 4 * * *", StartAt: start}); !s.NextAt.Equal(start) {
			t.Errorf("next %s", s.NextAt)
		}
	})

	t.Run("a start alone fires once", func(t *testing.T) {
		b := setup(t)
		b.start()
		upsert(b, jobs.Schedule{StartAt: time.Now().Add(-time.Hour)})
		b.comes("its tick", ran(b, 1))
		all, err := b.client.ListSchedules(t.Context(), "")
		if err != nil || len(all) != 1 || !all[0].NextAt.IsZero() {
			t.Errorf("%+v %v", all, err)
		}
	})

	t.Run("missed ticks fire once and stay on their grid", func(t *testing.T) {
		b := setup(t)
		origin := time.Now().Add(-10 * time.Hour).Truncate(time.Second)
		upsert(b, jobs.Schedule{RepeatEvery: time.Hour, StartAt: origin})
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = $1`, origin.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.comes("a tick", ran(b, 1))
		all, err := b.client.ListSchedules(t.Context(), "default")
		if err != nil {
			t.Fatal(err)
		}
		next := all[0].NextAt
		if next.Before(time.Now()) || next.Sub(origin)%time.Hour != 0 {
			t.Errorf("next %s from %s", next, origin)
		}
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 1 {
			t.Errorf("%d jobs", n)
		}
	})

	t.Run("ticks do not pile up behind a queued job", func(t *testing.T) {
		b := setup(t)
		b.dispatcher() // nobody works
		upsert(b, jobs.Schedule{RepeatEvery: time.Second})
		b.comes("three ticks", func() bool {
			return b.count(`SELECT count(*) FROM jobs.schedules WHERE last_at > created_at + interval '1500 milliseconds'`) == 1
		})
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 1 {
			t.Errorf("%d jobs", n)
		}
	})

	t.Run("saving a schedule again does not put it off, changing its times does", func(t *testing.T) {
		b := setup(t)
		first := upsert(b, jobs.Schedule{Cron: "0 0 1 1 *", TimeZone: "Europe/Berlin"})
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = next_at - interval '1 minute'`); err != nil {
			t.Fatal(err)
		}
		again := upsert(b, jobs.Schedule{Cron: "0 0 1 1 *", TimeZone: "Europe/Berlin"})
		if again.ID != first.ID || !again.NextAt.Equal(first.NextAt.Add(-time.Minute)) {
			t.Errorf("%+v after %+v", again, first)
		}
		if changed := upsert(b, jobs.Schedule{Cron: "0 0 2 1 *", TimeZone: "Europe/Berlin"}); changed.NextAt.Equal(again.NextAt) {
			t.Error("the new time was not taken")
		}
		argsType, raw := again.Job.RawArgs()
		want := wrapperspb.String("tick")
		if argsType != string(want.ProtoReflect().Descriptor().FullName()) || len(raw) == 0 {
			t.Errorf("arguments %s %x", argsType, raw)
		}
	})

	t.Run("a paused or deleted schedule is silent", func(t *testing.T) {
		b := setup(t)
		b.start()
		upsert(b, jobs.Schedule{RepeatEvery: time.Second, Paused: true, StartAt: time.Now().Add(-time.Minute)})
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = now()`); err != nil {
			t.Fatal(err)
		}
		b.ends(b.enqueue("other").JobID, jobs.Succeeded)
		if err := b.client.DeleteSchedule(t.Context(), b.pool, "default", "sync"); err != nil {
			t.Fatal(err)
		}
		if err := b.client.DeleteSchedule(t.Context(), b.pool, "default", "sync"); !fault.Is(err, fault.NotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 1 {
			t.Errorf("%d jobs", n)
		}
	})

	t.Run("each tick's job starts up to the jitter later", func(t *testing.T) {
		b := setup(t)
		b.dispatcher(func(c *jobs.DispatcherConfig) { c.Rand = func() float64 { return 0.5 } })
		upsert(b, jobs.Schedule{StartAt: time.Now().Add(-time.Minute), Jitter: time.Hour})
		b.comes("its tick", func() bool { return b.count(`SELECT count(*) FROM jobs.jobs`) == 1 })
		if n := b.count(`SELECT count(*) FROM jobs.jobs j, jobs.schedules s WHERE j.state = 'scheduled' AND j.start_at = s.last_at + interval '30 minutes'`); n != 1 {
			t.Error("it does not start half an hour later")
		}
		for _, s := range []jobs.Schedule{{RepeatEvery: time.Minute, Jitter: 2 * time.Minute}, {Cron: "@daily", Jitter: -1}, {Cron: "@daily", Jitter: 25 * time.Hour}, {Cron: "* * * * *", Jitter: 2 * time.Minute}, {Cron: "0 3,4 * * *", Jitter: 2 * time.Hour}} {
			s.Name, s.Job = "bad", request
			if _, err := b.client.UpsertSchedule(t.Context(), b.pool, s); !fault.Is(err, fault.Invalid) {
				t.Errorf("%+v: %v", s, err)
			}
		}
	})

	t.Run("what a clock that was ahead left behind is reckoned anew", func(t *testing.T) {
		b := setup(t)
		ahead := func() {
			t.Helper()
			if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = next_at + interval '20 years', last_at = now() + interval '20 years'`); err != nil {
				t.Fatal(err)
			}
		}
		cron, every := jobs.Schedule{Name: "cron", Job: request, Cron: "0 4 * * *"}, jobs.Schedule{Name: "every", Job: request, RepeatEvery: time.Hour, StartAt: time.Now().Add(-90 * time.Minute).Truncate(time.Second)}
		future := jobs.Schedule{Name: "future", Job: request, RepeatEvery: time.Hour, StartAt: time.Now().Add(100 * time.Hour).Truncate(time.Second)}
		set := func(s jobs.Schedule) time.Time {
			t.Helper()
			got, err := b.client.UpsertSchedule(t.Context(), b.pool, s)
			if err != nil {
				t.Fatal(err)
			}
			return got.NextAt
		}
		want := map[string]time.Time{"cron": set(cron), "every": set(every), "future": set(future)}
		ahead()
		for _, s := range []jobs.Schedule{cron, every, future} {
			if got := set(s); !got.Equal(want[s.Name]) {
				t.Errorf("%s saved again is due at %s, not %s", s.Name, got, want[s.Name])
			}
		}
		ahead()
		b.dispatcher()
		b.comes("the right times", func() bool {
			all, err := b.client.ListSchedules(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if !s.NextAt.Equal(want[s.Name]) {
					return false
				}
			}
			return len(all) == 3
		})
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 0 {
			t.Errorf("%d jobs before any tick", n)
		}
		// A tick that has just fired is not fired again, because the clock was set back a little.
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = next_at + interval '1 day', last_at = next_at + interval '1 second' WHERE name = 'cron'`); err != nil {
			t.Fatal(err)
		}
		near := cron
		near.Cron = time.Now().UTC().Add(2*time.Minute).Format("4 15") + " * * *"
		tick := set(near)
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = $1::timestamptz + interval '1 day', last_at = $1 WHERE name = 'cron'`, tick); err != nil {
			t.Fatal(err)
		}
		if got := set(near); !got.Equal(tick.AddDate(0, 0, 1)) {
			t.Errorf("a tick that has fired at %s is due again at %s", tick, got)
		}
	})

	t.Run("a tick that cannot be reckoned does not end a schedule", func(t *testing.T) {
		b := setup(t)
		upsert(b, jobs.Schedule{Cron: "0 4 * * *", TimeZone: "Asia/Tokyo"})
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET time_zone = 'Mars/Olympus', next_at = now() - interval '1 second'`); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.comes("its tick", ran(b, 1))
		fired := func() jobs.Schedule {
			t.Helper()
			all, err := b.client.ListSchedules(t.Context(), "default")
			if err != nil || len(all) != 1 {
				t.Fatalf("%+v %v", all, err)
			}
			return all[0]
		}
		s := fired()
		if in := time.Until(s.NextAt); s.LastError == "" || in < 50*time.Minute || in > 70*time.Minute {
			t.Fatalf("next in %s, %q", in, s.LastError)
		}
		// The next look is not a tick, whatever it finds.
		again := func(zone string) jobs.Schedule {
			t.Helper()
			if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET time_zone = $1, next_at = now() - interval '1 second'`, zone); err != nil {
				t.Fatal(err)
			}
			b.comes("another look", func() bool { return b.count(`SELECT count(*) FROM jobs.schedules WHERE next_at > now()`) == 1 })
			return fired()
		}
		if s := again("Mars/Olympus"); s.LastError == "" {
			t.Errorf("%+v", s)
		}
		if s := again("Asia/Tokyo"); s.LastError != "" || s.NextAt.UTC().Hour() != 19 {
			t.Errorf("%+v", s)
		}
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 1 {
			t.Errorf("%d jobs of one tick", n)
		}
	})

	t.Run("one that stopped for good goes on", func(t *testing.T) {
		b := setup(t)
		want := upsert(b, jobs.Schedule{Cron: "@weekly", TimeZone: "America/Havana"}).NextAt
		if _, err := b.pool.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = NULL, last_error = 'tried so hard'`); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.comes("its next tick", func() bool {
			all, err := b.client.ListSchedules(t.Context(), "default")
			return err == nil && len(all) == 1 && all[0].NextAt.Equal(want) && all[0].LastError == ""
		})
	})

	t.Run("several dispatchers fire each tick once", func(t *testing.T) {
		b := setup(t)
		for i := range 40 {
			job := request
			job.Resource, job.Coalesce = fmt.Sprintf("channel/%d", i), jobs.None
			s := jobs.Schedule{Name: fmt.Sprintf("s%d", i), Job: job, StartAt: time.Now().Add(time.Second)}
			if _, err := b.client.UpsertSchedule(t.Context(), b.pool, s); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 { // the office falls vacant all the time, so all of them fire
			b.dispatcher(func(c *jobs.DispatcherConfig) { c.LeaderTTL = time.Millisecond })
		}
		b.comes("all ticks", func() bool { return b.count(`SELECT count(*) FROM jobs.schedules WHERE next_at IS NULL`) == 40 })
		if n := b.count(`SELECT count(*) FROM jobs.jobs`); n != 40 {
			t.Errorf("%d jobs of 40 ticks", n)
		}
		if n := b.count(`SELECT count(DISTINCT resource) FROM jobs.jobs`); n != 40 {
			t.Errorf("%d resources", n)
		}
	})

	t.Run("schedules are found by the beginning of their names", func(t *testing.T) {
		b := setup(t)
		for _, name := range []string{"a/1", "a/2", "a_3", "b"} {
			if _, err := b.client.UpsertSchedule(t.Context(), b.pool, jobs.Schedule{Name: name, Job: request, Cron: "@daily"}); err != nil {
				t.Fatal(err)
			}
		}
		all, err := b.client.SchedulesOf(t.Context(), b.pool, "default", "a/", "b", "c")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range all {
			names = append(names, s.Name)
		}
		if diff := cmp.Diff([]string{"a/1", "a/2", "b"}, names); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a schedule belongs to its transaction", func(t *testing.T) {
		b := setup(t)
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.client.UpsertSchedule(t.Context(), tx, jobs.Schedule{Name: "s", Job: request, RepeatEvery: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		all, err := b.client.ListSchedules(t.Context(), "")
		if err != nil || len(all) != 0 {
			t.Errorf("%v %v", all, err)
		}
	})

	t.Run("schedules that cannot be are refused", func(t *testing.T) {
		b := setup(t)
		for name, s := range map[string]jobs.Schedule{
			"no times":  {Name: "s", Job: request},
			"both":      {Name: "s", Job: request, Cron: "* * * * *", RepeatEvery: time.Hour},
			"bad cron":  {Name: "s", Job: request, Cron: "61 * * * *"},
			"no cron":   {Name: "s", Job: request, Cron: "often"},
			"bad zone":  {Name: "s", Job: request, Cron: "* * * * *", TimeZone: "Mars/Olympus"},
			"too often": {Name: "s", Job: request, RepeatEvery: time.Millisecond},
			"no name":   {Job: request, Cron: "* * * * *"},
			"no kind":   {Name: "s", Job: jobs.EnqueueParams{Args: wrapperspb.String("")}, Cron: "* * * * *"},
		} {
			if _, err := b.client.UpsertSchedule(t.Context(), b.pool, s); !fault.Is(err, fault.Invalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	b := jobs.Backoff{Initial: time.Second, Max: 10 * time.Second}
	var got []time.Duration
	for n := 1; n <= 6; n++ {
		got = append(got, b.Delay(n, 0.5))
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if low, high := b.Delay(1, 0), b.Delay(1, 1); low != 800*time.Millisecond || high != 1200*time.Millisecond {
		t.Errorf("jitter %s to %s", low, high)
	}
	if d := b.Delay(1000, 0.5); d != 10*time.Second {
		t.Errorf("after 1000 failures %s", d)
	}
}
