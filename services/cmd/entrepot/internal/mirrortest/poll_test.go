package mirrortest

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// pollNow has a channel's poll fall due and waits for its end.
func pollNow(t *testing.T, s *platformtest.Stack, channel string) job {
	t.Helper()
	before := len(jobsOf(t, s, channel, "sync.poll"))
	if n := len(query[int](t, s, `UPDATE jobs.schedules SET next_at = now(), jitter = '0' WHERE kind = 'sync.poll' AND resource = $1 RETURNING 1`, "channel/"+channel)); n != 1 {
		t.Fatalf("%d polls of %s", n, channel)
	}
	var all []job
	eventually(t, "the poll", func() bool { all = jobsOf(t, s, channel, "sync.poll"); return len(all) > before })
	return ended(t, s, all[len(all)-1].ID)
}

type pollResult struct {
	Asked, NotModified, Reason, JobID string
}

func (j job) poll(t *testing.T) (r pollResult) {
	t.Helper()
	if j.State != "JOB_STATE_SUCCEEDED" {
		t.Fatalf("the poll: %s %s", j.State, j.Error)
	}
	var raw map[string]any
	if err := json.Unmarshal(j.Result, &raw); err != nil {
		t.Fatal(err)
	}
	text := func(key string) string { s, _ := raw[key].(string); return s }
	return pollResult{text("asked"), text("not_modified"), text("reason"), text("job_id")}
}

func TestPolls(t *testing.T) {
	s := platformtest.Start(t)
	u, ch := newUpstream(t, 5, 31)
	subdir, _, _ := strings.Cut(ch.Files[0].Path, "/")
	mirror(t, s, "m", u.URL)
	admin := s.Admin()
	set := admin.Must(200, "PUT", "/entrepot/v1/channels/m/schedules/poll", obj{"repeat_every_seconds": 3600, "start_at": time.Now().Add(time.Hour)})
	var made struct {
		Action             string
		RepeatEverySeconds int `json:"repeat_every_seconds"`
		JitterSeconds      int `json:"jitter_seconds"`
	}
	set.JSON(&made)
	if made.Action != "poll" || made.RepeatEverySeconds != 3600 || made.JitterSeconds != 360 {
		t.Errorf("%s", set.Body)
	}

	t.Run("a mirror that was never read is synchronised", func(t *testing.T) {
		r := pollNow(t, s, "m").poll(t)
		if r.Asked != "" && r.Asked != "0" || r.Reason != "the upstream's index has not been read yet" {
			t.Errorf("%+v", r)
		}
		if j := ended(t, s, r.JobID); j.State != "JOB_STATE_SUCCEEDED" || j.Owner != "service:sync" || j.Action != "synchronize_repodata" {
			t.Errorf("%+v", j)
		}
		quiet(t, s)
		u.take()
	})
	unchanged := []string{"GET " + subdir + "/repodata.json.zst If-None-Match 304", "GET noarch/repodata.json.zst If-None-Match 304"}
	t.Run("an upstream that has not changed is asked once for each index, and nothing else happens", func(t *testing.T) {
		r := pollNow(t, s, "m").poll(t)
		if diff := cmp.Diff(pollResult{Asked: "2", NotModified: "2"}, r); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(unchanged, u.take()); diff != "" {
			t.Error(diff)
		}
		if n := len(jobsOf(t, s, "m", "sync.channel")); n != 1 {
			t.Errorf("%d syncs", n)
		}
		var status struct {
			Poll struct {
				PollTime   time.Time  `json:"poll_time"`
				ChangeTime *time.Time `json:"change_time"`
			}
		}
		admin.In(t).Must(200, "GET", "/entrepot/v1/channels/m/sync", nil).JSON(&status)
		if time.Since(status.Poll.PollTime) > time.Minute || status.Poll.ChangeTime != nil {
			t.Errorf("%+v", status)
		}
	})
	t.Run("a change starts a sync, and the poll leaves the bytes to it", func(t *testing.T) {
		u.build(t, 6, 31)
		r := pollNow(t, s, "m").poll(t)
		if r.Reason != subdir+"/repodata.json.zst has changed" {
			t.Errorf("%+v", r)
		}
		ended(t, s, r.JobID)
		asked := u.take()
		if len(asked) == 0 || asked[0] != "GET "+subdir+"/repodata.json.zst If-None-Match 200" {
			t.Errorf("%q", asked)
		}
		var files struct {
			TotalSize int `json:"total_size"`
		}
		admin.In(t).Must(200, "GET", "/entrepot/v1/channels/m/files", nil).JSON(&files)
		if files.TotalSize != 6 {
			t.Errorf("%d files", files.TotalSize)
		}
		quiet(t, s)
		u.take()
		if r := pollNow(t, s, "m").poll(t); r.JobID != "" {
			t.Errorf("a second sync of one change: %+v", r)
		}
	})
	t.Run("other lists are a reason, too", func(t *testing.T) {
		admin.In(t).Must(200, "PATCH", "/api/channels/m", obj{"metadata": obj{"excludelist": []string{"nothing-of-that-name"}}})
		r := pollNow(t, s, "m").poll(t)
		if r.Reason != "the last synchronisation left something undone" || r.NotModified != "2" {
			t.Errorf("%+v", r)
		}
		ended(t, s, r.JobID)
		quiet(t, s)
		if r := pollNow(t, s, "m").poll(t); r.JobID != "" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("a sync that left files out is tried again, but not with every poll", func(t *testing.T) {
		more := u.build(t, 7, 31)
		fresh := more.Files[len(more.Files)-1].Path
		u.answerBy(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, fresh) {
				w.WriteHeader(404)
			}
			return strings.HasSuffix(r.URL.Path, fresh)
		})
		url, told := receiver(t)
		hook, _ := addHook(t, s, "m", url, "sync.failed")
		defer func() { admin.In(t).Must(200, "DELETE", "/entrepot/v1/channels/m/webhooks/"+hook, nil) }()
		ended(t, s, pollNow(t, s, "m").poll(t).JobID)
		quiet(t, s)
		again := pollNow(t, s, "m").poll(t)
		if again.Reason != "the last synchronisation left something undone" {
			t.Fatalf("%+v", again)
		}
		ended(t, s, again.JobID)
		quiet(t, s)
		if r := pollNow(t, s, "m").poll(t); r.JobID != "" {
			t.Errorf("tried again at once: %+v", r)
		}
		rest := func(minutes int) {
			t.Helper()
			query[int](t, s, `UPDATE sync.polls SET retried_at = now() - $1::int * interval '1 minute' RETURNING 1`, minutes)
		}
		rest(16)
		ended(t, s, pollNow(t, s, "m").poll(t).JobID)
		quiet(t, s)
		rest(16)
		if r := pollNow(t, s, "m").poll(t); r.JobID != "" {
			t.Errorf("the third time a quarter of an hour is enough: %+v", r)
		}
		if m := next(t, told); m.Event != "sync.failed" || len(m.Paths) != 1 || m.Paths[0] != fresh {
			t.Errorf("%s", m.body)
		}
		if len(told) != 0 {
			t.Errorf("one broken file is told again: %s", (<-told).body)
		}
		u.answerBy(nil)
		rest(31)
		ended(t, s, pollNow(t, s, "m").poll(t).JobID)
		quiet(t, s)
		if r := pollNow(t, s, "m").poll(t); r.JobID != "" {
			t.Errorf("%+v", r)
		}
		u.take()
	})
	t.Run("an upstream that cannot be asked is told of once", func(t *testing.T) {
		url, told := receiver(t)
		addHook(t, s, "m", url, "sync.failed")
		u.answerBy(always(401))
		for range 2 {
			j := pollNow(t, s, "m")
			if j.State != "JOB_STATE_DEAD" || !strings.Contains(j.Error, "401") {
				t.Errorf("%+v", j)
			}
		}
		m := <-told
		if m.Event != "sync.failed" || !strings.Contains(m.Error, "401") || m.Channel.Name != "m" {
			t.Errorf("%+v", m)
		}
		quiet(t, s)
		if n := len(told); n != 0 {
			t.Errorf("told %d times more", n)
		}
		var status struct{ Poll struct{ Error string } }
		admin.In(t).Must(200, "GET", "/entrepot/v1/channels/m/sync", nil).JSON(&status)
		if !strings.Contains(status.Poll.Error, "401") {
			t.Errorf("%+v", status)
		}
		u.answerBy(nil)
		pollNow(t, s, "m").poll(t)
		admin.In(t).Must(200, "GET", "/entrepot/v1/channels/m/sync", nil).JSON(&status)
		if status.Poll.Error != "" {
			t.Errorf("%+v", status)
		}
	})
	t.Run("polls are nothing that the dialect shows, and go with their channel", func(t *testing.T) {
		admin.In(t).Must(200, "DELETE", "/api/channels/m", nil)
		quiet(t, s)
		body := string(admin.In(t).Must(200, "GET", "/api/jobs?status=pending&status=running&status=success&status=failed&status=cancelled&limit=-1", nil).Body)
		for _, word := range []string{"forget", "poll"} {
			if strings.Contains(body, word) {
				t.Errorf("%s is shown: %s", word, body)
			}
		}
		if n := query[int](t, s, `SELECT (SELECT count(*) FROM sync.polls)::int + (SELECT count(*) FROM jobs.schedules WHERE kind LIKE 'sync.%')::int`)[0]; n != 0 {
			t.Errorf("%d rows are left", n)
		}
		if all := query[string](t, s, `SELECT DISTINCT state FROM jobs.jobs WHERE kind = 'sync.forget'`); !slices.Equal(all, []string{"succeeded"}) {
			t.Errorf("%q", all)
		}
	})
}

// TestPollsOfAnOldServer: one that knows no If-None-Match, and one that has neither ETag nor time.
func TestPollsOfAnOldServer(t *testing.T) {
	s := platformtest.Start(t)
	u, _ := newUpstream(t, 3, 32)
	u.answerBy(func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("If-None-Match"); return false })
	mirror(t, s, "old", u.URL)
	s.Admin().Must(200, "PUT", "/entrepot/v1/channels/old/schedules/poll", obj{"repeat_every_seconds": 3600, "start_at": time.Now().Add(time.Hour)})
	run(t, s, "old", "synchronize_repodata")
	u.take()
	r := pollNow(t, s, "old").poll(t)
	if diff := cmp.Diff(pollResult{Asked: "2", NotModified: "2"}, r); diff != "" {
		t.Error(diff)
	}
	if asked := u.take(); len(asked) != 2 || !strings.HasSuffix(asked[0], " 200") {
		t.Errorf("%q", asked)
	}
}

// TestPollsOfAnUpstreamWithoutMarks: what has neither ETag nor time is synchronised now and then, and not with every poll.
func TestPollsOfAnUpstreamWithoutMarks(t *testing.T) {
	s := platformtest.Start(t)
	u, _ := newUpstream(t, 3, 33)
	u.answerBy(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "repodata") {
			return false
		}
		data, err := os.ReadFile(filepath.Join(u.dir, filepath.FromSlash(r.URL.Path)))
		if err != nil {
			return false
		}
		_, _ = w.Write(data)
		return true
	})
	mirror(t, s, "bare", u.URL)
	s.Admin().Must(200, "PUT", "/entrepot/v1/channels/bare/schedules/poll", obj{"repeat_every_seconds": 3600, "start_at": time.Now().Add(time.Hour)})
	run(t, s, "bare", "synchronize_repodata")
	quiet(t, s)
	first := pollNow(t, s, "bare").poll(t)
	if !strings.HasSuffix(first.Reason, " came without ETag and time") {
		t.Fatalf("%+v", first)
	}
	// There may be one more for another subdir, and then there is none for a while.
	for range 2 {
		quiet(t, s)
		pollNow(t, s, "bare").poll(t)
	}
	quiet(t, s)
	u.take()
	if r := pollNow(t, s, "bare").poll(t); r.JobID != "" || len(u.take()) != 0 {
		t.Errorf("%+v", r)
	}
	for range 3 { // the pause stays as it is, since the upstream may well have changed
		query[int](t, s, `UPDATE sync.polls SET retried_at = now() - interval '16 minutes' RETURNING 1`)
		r := pollNow(t, s, "bare").poll(t)
		if r.JobID == "" {
			t.Fatal("it is not synchronised any more")
		}
		ended(t, s, r.JobID)
		quiet(t, s)
	}
}
