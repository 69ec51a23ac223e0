package apitest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// quetzJob is Quetz's Job.
type quetzJob struct {
	ItemsSpec          *string `json:"items_spec"`
	Manifest           string  `json:"manifest"`
	StartAt            *string `json:"start_at"`
	RepeatEverySeconds *int64  `json:"repeat_every_seconds"`
	ID                 int64   `json:"id"`
	OwnerID            string  `json:"owner_id"`
	Created            string  `json:"created"`
	Status             string  `json:"status"`
}

type jobPage struct {
	Pagination struct {
		Skip, Limit     int64
		AllRecordsCount int64 `json:"all_records_count"`
	}
	Result []quetzJob
}

// await waits until a job has ended, and returns its status and the native result.
func awaitJob(t *testing.T, c *platformtest.Client, id int64) (status string, result json.RawMessage) {
	t.Helper()
	var job quetzJob
	if !soon(t, func() bool {
		c.In(t).Must(200, "GET", fmt.Sprintf("/api/jobs/%d", id), nil).JSON(&job)
		return job.Status != "pending" && job.Status != "running"
	}) {
		t.Fatalf("job %d is still %s", id, job.Status)
	}
	var native struct {
		Result json.RawMessage
		Error  string
	}
	c.In(t).Must(200, "GET", fmt.Sprintf("/entrepot/v1/jobs/%d", id), nil).JSON(&native)
	if native.Error != "" {
		t.Logf("job %d: %s", id, native.Error)
	}
	return job.Status, native.Result
}

// TestQuetzJobs: actions and the jobs that they are; quetz.md §2.6, §7.
func TestQuetzJobs(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob, carol, dave, alice := w.User("bob").In(t), w.User("carol").In(t), w.User("dave").In(t), w.Admin().In(t)
	base := "/api/channels/" + ch.name
	var me struct{ User struct{ ID string } }
	bob.Must(200, "GET", "/api/me", nil).JSON(&me)
	start := func(t *testing.T, c *platformtest.Client, body string) (job quetzJob) {
		t.Helper()
		c.In(t).Must(200, "PUT", base+"/actions", body).JSON(&job)
		return job
	}
	path := func(id int64) string { return fmt.Sprintf("/api/jobs/%d", id) }

	t.Run("an action answers with a job, exactly", func(t *testing.T) {
		for action, manifest := range map[string]string{
			"generate_indexes": "generate_indexes", "reindex": "reindex", "cleanup": "pkgstore_cleanup", "cleanup_dry_run": "pkgstore_cleanup_dry_run",
		} {
			got := string(bob.In(t).Must(200, "PUT", base+"/actions", `{"action":"`+action+`"}`).Body)
			want := regexp.MustCompile(`^\{"items_spec":null,"manifest":"` + manifest + `","start_at":null,"repeat_every_seconds":null,"id":\d+,"owner_id":"` + me.User.ID +
				`","created":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?","status":"(pending|running|success)"\}$`)
			if !want.MatchString(got) {
				t.Errorf("%s: %s", action, got)
			}
			var job quetzJob
			if err := json.Unmarshal([]byte(got), &job); err != nil {
				t.Fatal(err)
			}
			if status, result := awaitJob(t, bob, job.ID); status != "success" {
				t.Errorf("%s: %s %s", action, status, result)
			}
		}
	})
	t.Run("cleanup drops packages without versions, the dry run tells them", func(t *testing.T) {
		bob.In(t).Must(201, "POST", base+"/packages", map[string]any{"name": "empty"})
		_, result := awaitJob(t, bob, start(t, bob, `{"action":"cleanup_dry_run"}`).ID)
		if string(result) != `{"dry_run":true,"packages":["empty"]}` {
			t.Errorf("%s", result)
		}
		bob.In(t).Must(200, "GET", base+"/packages/empty", nil)
		_, result = awaitJob(t, bob, start(t, bob, `{"action":"cleanup"}`).ID)
		if string(result) != `{"dry_run":false,"packages":["empty"]}` {
			t.Errorf("%s", result)
		}
		bob.In(t).Must(404, "GET", base+"/packages/empty", nil)
		bob.In(t).Must(200, "GET", base+"/packages/"+ch.pkg.name, nil)
	})
	t.Run("start_at ahead waits, past starts now; a repetition ends with a cancellation", func(t *testing.T) {
		job := start(t, bob, `{"action":"generate_indexes","start_at":"2099-01-01T00:00:00Z","repeat_every_seconds":3600}`)
		if job.Status != "pending" || job.StartAt == nil || *job.StartAt != "2099-01-01T00:00:00" || job.RepeatEverySeconds == nil || *job.RepeatEverySeconds != 3600 {
			t.Errorf("%+v", job)
		}
		var again quetzJob
		bob.In(t).Must(200, "GET", path(job.ID), nil).JSON(&again)
		if again.RepeatEverySeconds == nil || *again.RepeatEverySeconds != 3600 {
			t.Errorf("%+v", again)
		}
		if got := string(bob.In(t).Must(200, "PATCH", path(job.ID), `{"status":"cancelled"}`).Body); got != "null" {
			t.Errorf("%s", got)
		}
		bob.In(t).Must(200, "GET", path(job.ID), nil).JSON(&again)
		if again.Status != "cancelled" {
			t.Errorf("%+v", again)
		}
		if n := w.exec(t, `DELETE FROM jobs.schedules WHERE name LIKE 'action/%'`); n != 0 {
			t.Errorf("%d repetitions are left", n)
		}
		past := start(t, bob, `{"action":"reindex","start_at":"2001-01-01T00:00:00"}`)
		if status, _ := awaitJob(t, bob, past.ID); status != "success" {
			t.Errorf("%s", status)
		}
		for _, bad := range []string{`{"action":"reindex","start_at":"soon"}`, `{"action":"reindex","repeat_every_seconds":-1}`, `{"action":"dance"}`, `{}`} {
			bob.In(t).Must(422, "PUT", base+"/actions", bad)
		}
	})
	t.Run("the last index is built anew, and a second request gets the same job", func(t *testing.T) {
		body := `{"action":"generate_indexes","start_at":"2099-01-01T00:00:00"}`
		one := start(t, bob, body)
		two := start(t, bob, `{"action":"generate_indexes"}`)
		if two.ID == one.ID {
			t.Error("a job of the future took in one of now")
		}
		awaitJob(t, bob, two.ID)
		bob.In(t).Must(200, "PATCH", path(one.ID), `{"status":"cancelled"}`)
	})
	t.Run("lists: own, everybody's, by status, paged", func(t *testing.T) {
		list := func(c *platformtest.Client, query string) (p jobPage) {
			t.Helper()
			c.In(t).Must(200, "GET", "/api/jobs"+query, nil).JSON(&p)
			return p
		}
		if p := list(dave, "?status=success"); p.Pagination.AllRecordsCount != 0 || p.Result == nil {
			t.Errorf("dave: %+v", p)
		}
		all := list(bob, "?status=success&status=cancelled&limit=-1")
		if len(all.Result) < 6 || all.Pagination.Limit != -1 || all.Pagination.AllRecordsCount != int64(len(all.Result)) {
			t.Errorf("%+v", all)
		}
		for i, j := range all.Result {
			if i > 0 && j.ID <= all.Result[i-1].ID {
				t.Errorf("not by id: %d after %d", j.ID, all.Result[i-1].ID)
			}
		}
		if p := list(bob, "?status=success&status=cancelled&skip=1&limit=2"); len(p.Result) != 2 || p.Result[0].ID != all.Result[1].ID || p.Pagination.AllRecordsCount != all.Pagination.AllRecordsCount {
			t.Errorf("%+v", p)
		}
		if p := list(bob, "?status=success&limit=0"); len(p.Result) != 0 || p.Pagination.AllRecordsCount == 0 {
			t.Errorf("%+v", p)
		}
		if p := list(alice, "?status=cancelled"); p.Pagination.AllRecordsCount < 2 {
			t.Errorf("alice: %+v", p)
		}
		if p := list(bob, "?status=timeout&status=queued"); p.Pagination.AllRecordsCount != 0 {
			t.Errorf("%+v", p)
		}
		if got := string(dave.In(t).Must(200, "GET", "/api/jobs", nil).Body); got != `{"pagination":{"skip":0,"limit":20,"all_records_count":0},"result":[]}` {
			t.Errorf("%s", got)
		}
		if got := detail(t, bob.In(t).Must(422, "GET", "/api/jobs?status=pending,running", nil)); !strings.Contains(got, "Input should be 'pending', 'queued'") {
			t.Errorf("%s", got)
		}
	})
	t.Run("one task a job", func(t *testing.T) {
		done := start(t, bob, `{"action":"cleanup_dry_run"}`)
		awaitJob(t, bob, done.ID)
		got := string(bob.In(t).Must(200, "GET", path(done.ID)+"/tasks?status=success", nil).Body)
		want := fmt.Sprintf(`{"pagination":{"skip":0,"limit":20,"all_records_count":1},"result":[{"id":%[1]d,"job_id":%[1]d,"package_version":{},"created":%[2]q,"status":"success"}]}`, done.ID, done.Created)
		if got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		if got := string(bob.In(t).Must(200, "GET", path(done.ID)+"/tasks", nil).Body); got != `{"pagination":{"skip":0,"limit":20,"all_records_count":0},"result":[]}` {
			t.Errorf("by default what has not ended: %s", got)
		}
		bob.In(t).Must(422, "GET", path(done.ID)+"/tasks?status=timeout", nil)
		if got := detail(t, dave.In(t).Must(401, "GET", path(done.ID)+"/tasks", nil)); got != "Not allowed" {
			t.Errorf("%s", got)
		}
		if got := detail(t, bob.In(t).Must(404, "GET", "/api/jobs/99999999/tasks", nil)); got != "Job with id 99999999 not found" {
			t.Errorf("%s", got)
		}
	})
	t.Run("a job runs again: a cancelled one, and with force what has run", func(t *testing.T) {
		done := start(t, bob, `{"action":"cleanup_dry_run"}`)
		awaitJob(t, bob, done.ID)
		if got := string(bob.In(t).Must(200, "PATCH", path(done.ID), `{"status":"running"}`).Body); got != "null" {
			t.Errorf("%s", got)
		}
		if n := w.exec(t, "UPDATE jobs.jobs SET claim = claim WHERE seq = $1 AND claim = 1", done.ID); n != 1 {
			t.Error("what has run ran again without force")
		}
		bob.In(t).Must(200, "PATCH", path(done.ID), `{"status":"pending","force":true}`)
		if !soon(t, func() bool {
			return w.exec(t, "UPDATE jobs.jobs SET claim = claim WHERE seq = $1 AND claim = 2 AND state = 'succeeded'", done.ID) == 1
		}) {
			t.Error("it did not run again")
		}
		if got := detail(t, bob.In(t).Must(422, "PATCH", path(done.ID), `{"status":"success"}`)); !strings.Contains(got, "Input should be") {
			t.Errorf("%s", got)
		}
		bob.In(t).Must(422, "PATCH", path(done.ID), `{}`)
		if got := detail(t, dave.In(t).Must(401, "PATCH", path(done.ID), `{"status":"cancelled"}`)); got != "Not allowed" {
			t.Errorf("%s", got)
		}
	})
	t.Run("POST /api/jobs: built-in names only, for the server's people", func(t *testing.T) {
		var job quetzJob
		alice.In(t).Must(201, "POST", "/api/jobs", `{"manifest":"cleanup_dry_run","items_spec":"`+ch.pkg.name+`>=0,other"}`).JSON(&job)
		if job.Manifest != "cleanup_dry_run" || job.ItemsSpec == nil || *job.ItemsSpec != ch.pkg.name+">=0,other" {
			t.Errorf("%+v", job)
		}
		if status, result := awaitJob(t, alice, job.ID); status != "success" || string(result) != `{"channels":["`+ch.name+`"]}` {
			t.Errorf("%s %s", status, result)
		}
		for body, text := range map[string]string{
			`{"manifest":"dance","items_spec":"*"}`:        "invalid function dance: no such built-in function, please provide plugin name",
			`{"manifest":"plug:in","items_spec":"*"}`:      "invalid function plug:in",
			`{"manifest":"reindex"}`:                       "Field required",
			`{"items_spec":"*"}`:                           "Field required",
			`{"manifest":"reindex","items_spec":""}`:       "items_spec",
			`{"manifest":"reindex","items_spec":"x=1"}`:    "items_spec",
			`{"manifest":"reindex","items_spec":"X>=1"}`:   "items_spec",
			`{"manifest":"reindex","items_spec":"x>=1,,"}`: "items_spec",
		} {
			if got := detail(t, alice.In(t).Must(422, "POST", "/api/jobs", body)); !strings.Contains(got, text) {
				t.Errorf("%s: %s", body, got)
			}
		}
		if got := detail(t, bob.In(t).Must(401, "POST", "/api/jobs", `{"manifest":"reindex","items_spec":"*"}`)); got != "Not allowed" {
			t.Errorf("%s", got)
		}
	})
	t.Run("validate_packages finds nothing wrong", func(t *testing.T) {
		if got := detail(t, bob.In(t).Must(403, "PUT", base+"/actions", `{"action":"validate_packages"}`)); got != `["this operation requires owner or maintainer roles"]` {
			t.Errorf("%s", got)
		}
		status, result := awaitJob(t, alice, start(t, alice, `{"action":"validate_packages"}`).ID)
		if status != "success" || !strings.Contains(string(result), `"checked":1`) || !strings.Contains(string(result), `"removed":[]`) {
			t.Errorf("%s %s", status, result)
		}
	})
	t.Run("who lost the right to an action before it ran is refused then", func(t *testing.T) {
		job := start(t, carol, `{"action":"generate_indexes","start_at":"2099-01-01T00:00:00"}`)
		bob.In(t).Must(200, "DELETE", base+"/members?username=carol", nil)
		w.exec(t, "UPDATE jobs.jobs SET start_at = now() WHERE seq = $1", job.ID)
		bob.In(t).Must(200, "GET", path(job.ID), nil)
		if status, _ := awaitJob(t, alice, job.ID); status != "failed" {
			t.Errorf("%s", status)
		}
	})
}
