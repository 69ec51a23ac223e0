package mirrortest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

type schedule struct {
	Name, Action, Cron, Error string
	TimeZone                  string `json:"time_zone"`
	RepeatEverySeconds        int    `json:"repeat_every_seconds"`
	JitterSeconds             int    `json:"jitter_seconds"`
	Paused                    bool
	NextTime                  *time.Time `json:"next_time"`
	LastTime                  *time.Time `json:"last_time"`
	LastJobID                 string     `json:"last_job_id"`
}

func schedules(t *testing.T, s *platformtest.Stack, channel string) (names []string, all map[string]schedule) {
	t.Helper()
	var list struct{ Schedules []schedule }
	s.Admin().In(t).Must(200, "GET", "/entrepot/v1/channels/"+channel+"/schedules", nil).JSON(&list)
	all = map[string]schedule{}
	for _, sc := range list.Schedules {
		names = append(names, sc.Name)
		all[sc.Name] = sc
	}
	return names, all
}

// command runs a command of the command line as the server's owner and returns its output.
func command(t *testing.T, s *platformtest.Stack, args ...string) (string, error) {
	t.Helper()
	t.Setenv("ENTREPOT_SERVER", s.URL)
	t.Setenv("ENTREPOT_API_KEY", s.AdminKey)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	root := &cobra.Command{Use: "entrepot", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(client.Commands("test")...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestSchedules(t *testing.T) {
	s := platformtest.Start(t)
	admin, bob, carol := s.Admin(), s.User("bob"), s.User("carol")
	u, _ := newUpstream(t, 3, 61)
	mirror(t, s, "m", u.URL)
	bob.Must(201, "POST", "/api/channels", obj{"name": "hosted", "private": false})
	bob.Must(201, "POST", "/api/channels/hosted/members", obj{"username": "carol", "role": "maintainer"})
	path := func(channel, name string) string { return "/entrepot/v1/channels/" + channel + "/schedules/" + name }

	t.Run("a cron expression is read in its time zone", func(t *testing.T) {
		var sc schedule
		admin.In(t).Must(200, "PUT", path("m", "nightly"), obj{"action": "synchronize_repodata", "cron": "30 4 * * *", "time_zone": "Asia/Tokyo", "jitter_seconds": 600}).JSON(&sc)
		if sc.Name != "nightly" || sc.NextTime == nil || sc.NextTime.UTC().Format("15:04") != "19:30" || !sc.NextTime.After(time.Now()) || sc.JitterSeconds != 600 {
			t.Errorf("%+v", sc)
		}
		admin.In(t).Must(200, "PUT", path("m", "synchronize"), obj{"cron": "@weekly", "paused": true})
		names, all := schedules(t, s, "m")
		if !slices.Equal(names, []string{"nightly", "synchronize"}) || all["synchronize"].Action != "synchronize" || !all["synchronize"].Paused {
			t.Errorf("%+v", all)
		}
	})
	t.Run("what cannot be is refused, and the field is named", func(t *testing.T) {
		for body, field := range map[*obj]string{
			{"cron": "* * * * * *"}:                            "schedule.cron",
			{"cron": "@reboot"}:                                "schedule.cron",
			{"cron": "61 * * * *"}:                             "cron",
			{"cron": "* * * * *", "time_zone": "Mars/Olympus"}: "time_zone",
			{"cron": "* * * * *", "repeat_every_seconds": 60}:  "cron",
			{}:                           "cron",
			{"repeat_every_seconds": 9}:  "schedule.repeat_every_seconds",
			{"repeat_every_seconds": -1}: "schedule.repeat_every_seconds",
			{"repeat_every_seconds": 60, "jitter_seconds": 61}:                           "jitter",
			{"cron": "* * * * *", "jitter_seconds": 100_000}:                             "schedule.jitter_seconds",
			{"cron": "* * * * *", "jitter_seconds": 61}:                                  "jitter",
			{"cron": "* * * * *", "action": "dance"}:                                     "schedule.action",
			{"cron": "* * * * *", "action": "synchronize_repodata", "name": "something"}: "schedule.name",
		} {
			got := string(admin.In(t).Must(400, "PUT", path("m", "synchronize_repodata"), *body).Body)
			if !strings.Contains(got, `"`+field+`"`) {
				t.Errorf("%v: %s", *body, got)
			}
		}
		admin.In(t).Must(400, "PUT", path("m", "a.b"), obj{"cron": "@daily", "action": "poll"})
		admin.In(t).Must(400, "PUT", path("m", "sync"), obj{"cron": "@daily", "action": "cleanup"})
		for channel, action := range map[string]string{"hosted": "poll", "m": "synchronize_metrics"} {
			if got := admin.In(t).Do("PUT", path(channel, action), obj{"cron": "@daily"}); got.Status/100 != 4 || !strings.Contains(string(got.Body), "not allowed for channel") {
				t.Errorf("%d %s", got.Status, got.Body)
			}
		}
		admin.In(t).Must(404, "DELETE", path("m", "nothing"), nil)
		admin.In(t).Must(404, "PUT", path("no-such", "poll"), obj{"cron": "@daily"})
	})
	t.Run("only who may have it done may schedule it", func(t *testing.T) {
		carol.In(t).Must(200, "PUT", path("hosted", "reindex"), obj{"cron": "@daily"})
		carol.In(t).Must(403, "PUT", path("hosted", "cleanup"), obj{"cron": "@daily"}) // the owner's
		bob.In(t).Must(403, "PUT", path("hosted", "validate_packages"), obj{"cron": "@daily"})
		bob.In(t).Must(200, "PUT", path("hosted", "cleanup"), obj{"cron": "@daily"})
		carol.In(t).Must(403, "DELETE", path("hosted", "cleanup"), nil)
		carol.In(t).Must(403, "PUT", path("hosted", "cleanup"), obj{"cron": "@daily", "action": "reindex"}) // which would end it
		admin.In(t).Must(200, "PUT", path("hosted", "generate_indexes"), obj{"cron": "@daily", "action": "validate_packages"})
		carol.In(t).Must(403, "PUT", "/api/channels/hosted/actions", obj{"action": "generate_indexes", "repeat_every_seconds": 3600})
		bob.In(t).Must(403, "PUT", path("hosted", "generate_indexes"), obj{"cron": "@daily"})
		if _, all := schedules(t, s, "hosted"); all["cleanup"].Action != "cleanup" || all["generate_indexes"].Action != "validate_packages" {
			t.Errorf("%+v", all)
		}
		if n := len(jobsOf(t, s, "hosted", "channels.generate")); n != 0 {
			t.Errorf("%d jobs of a refused request", n)
		}
		admin.In(t).Must(200, "DELETE", path("hosted", "generate_indexes"), nil)
		carol.In(t).Must(200, "PUT", "/api/channels/hosted/actions", obj{"action": "generate_indexes", "repeat_every_seconds": 3600})
		carol.In(t).Must(200, "PUT", path("hosted", "generate_indexes"), obj{"cron": "@daily"})
		quiet(t, s)
		admin.In(t).Must(400, "PUT", path("hosted", "synchronize_metrics"), obj{"cron": "@daily", "action": "reindex"})
		carol.In(t).Must(200, "DELETE", path("hosted", "reindex"), nil)
		s.User("dave").In(t).Must(403, "GET", "/entrepot/v1/channels/hosted/schedules", nil)
		s.Anonymous().In(t).Must(401, "GET", "/entrepot/v1/channels/hosted/schedules", nil)
		bob.In(t).Must(200, "DELETE", path("hosted", "cleanup"), nil)
	})
	t.Run("what began with repeat_every_seconds is listed, and can be ended", func(t *testing.T) {
		bob.In(t).Must(200, "PUT", "/api/channels/hosted/actions", obj{"action": "cleanup_dry_run", "repeat_every_seconds": 3600})
		admin.In(t).Must(200, "PUT", "/api/channels/m/actions", obj{"action": "synchronize", "repeat_every_seconds": 7200})
		quiet(t, s)
		_, hosted := schedules(t, s, "hosted")
		_, m := schedules(t, s, "m")
		if hosted["cleanup_dry_run"].Action != "cleanup_dry_run" || hosted["cleanup_dry_run"].RepeatEverySeconds != 3600 || m["sync"].Action != "synchronize" || m["sync"].RepeatEverySeconds != 7200 {
			t.Errorf("%+v %+v", hosted, m)
		}
		admin.In(t).Must(200, "DELETE", path("m", "sync"), nil)
		if names, _ := schedules(t, s, "m"); slices.Contains(names, "sync") {
			t.Errorf("%q", names)
		}
	})
	t.Run("a tick makes a job as a service, once, also of a request that waits already", func(t *testing.T) {
		before := len(jobsOf(t, s, "m", "sync.channel"))
		admin.In(t).Must(200, "PUT", path("m", "now"), obj{"action": "synchronize_repodata", "start_at": time.Now().Add(-time.Second)})
		var sc schedule
		eventually(t, "the tick", func() bool {
			_, all := schedules(t, s, "m")
			sc = all["now"]
			return sc.LastTime != nil
		})
		if sc.NextTime != nil {
			t.Errorf("once is not enough: %+v", sc)
		}
		j := ended(t, s, sc.LastJobID)
		if j.State != "JOB_STATE_SUCCEEDED" || j.Action != "synchronize_repodata" || j.Owner != "service:sync" {
			t.Errorf("%+v", j)
		}
		if n := len(jobsOf(t, s, "m", "sync.channel")); n != before+1 {
			t.Errorf("%d jobs of one tick", n-before)
		}
	})
	t.Run("from the command line", func(t *testing.T) {
		out, err := command(t, s, "channel", "schedule", "set", "m", "poll", "--every", "5m", "--start-at", "2099-01-01T00:00:00Z")
		if err != nil || !strings.Contains(out, "every 5m0s") || !strings.Contains(out, "30s") || !strings.Contains(out, "2099-01-01T00:00:00Z") {
			t.Errorf("%v %s", err, out)
		}
		if out, err = command(t, s, "channel", "schedule", "list", "m"); err != nil || !strings.Contains(out, "30 4 * * * Asia/Tokyo") || !strings.Contains(out, "paused") {
			t.Errorf("%v %s", err, out)
		}
		if out, err = command(t, s, "channel", "schedule", "remove", "m", "poll"); err != nil {
			t.Errorf("%v %s", err, out)
		}
		if _, err = command(t, s, "channel", "schedule", "set", "m", "poll", "--every", "1500ms"); err == nil {
			t.Error("one and a half seconds was taken")
		}
	})
	t.Run("a channel has so many and no more, and takes them along when it goes", func(t *testing.T) {
		for i := range 51 {
			got := admin.In(t).Do("PUT", path("m", fmt.Sprintf("n%d", i)), obj{"action": "reindex", "cron": "@yearly"})
			if got.Status != 200 && (i < 40 || !strings.Contains(string(got.Body), "at most 50 schedules")) {
				t.Fatalf("%d: %d %s", i, got.Status, got.Body)
			}
		}
		names, _ := schedules(t, s, "m")
		if len(names) != 50 {
			t.Errorf("%d schedules", len(names))
		}
		admin.In(t).Must(200, "DELETE", "/api/channels/m", nil)
		if left := query[string](t, s, `SELECT name FROM jobs.schedules WHERE resource = 'channel/m'`); len(left) != 0 {
			t.Errorf("%q are left", left)
		}
	})
}

// TestBuiltinJobs: POST /api/jobs for every name that there is.
func TestBuiltinJobs(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin()
	u, _ := newUpstream(t, 3, 62)
	mirror(t, s, "m1", u.URL)
	mirror(t, s, "m2", u.URL)
	quiet(t, s)
	type quetzJob struct {
		ID, Created            any
		Manifest, Status       string
		ItemsSpec              *string `json:"items_spec"`
		StartAt, RepeatEvery   any
		OwnerID                string `json:"owner_id"`
		PackageVersion, TaskID any
	}
	hosted := []string{"channel0", "channel1", "channel2"}
	everything := append(slices.Clone(hosted), "m1", "m2")
	for manifest, c := range map[string]struct {
		kind     string
		channels []string
	}{
		"synchronize":          {"sync.channel", []string{"m1", "m2"}},
		"synchronize_repodata": {"sync.channel", []string{"m1", "m2"}},
		"synchronize_metrics":  {"metrics.pull", hosted},
		"reindex":              {"channels.reindex", everything},
		"generate_indexes":     {"channels.generate", everything},
		"validate_packages":    {"channels.validate", everything},
		"cleanup":              {"channels.cleanup", everything},
		"cleanup_dry_run":      {"channels.cleanup", everything},
		"pkgstore_cleanup":     {"channels.cleanup", everything},
	} {
		t.Run(manifest, func(t *testing.T) {
			last := query[int64](t, s, `SELECT coalesce(max(seq), 0) FROM jobs.jobs`)[0]
			var j quetzJob
			admin.In(t).Must(201, "POST", "/api/jobs", obj{"manifest": manifest, "items_spec": "*"}).JSON(&j)
			if *j.ItemsSpec != "*" || j.Status != "pending" && j.Status != "running" && j.Status != "success" {
				t.Errorf("%+v", j)
			}
			done := ended(t, s, fmt.Sprintf("%.0f", j.ID))
			if want := `{"channels":["` + strings.Join(c.channels, `","`) + `"]}`; string(done.Result) != want {
				t.Errorf("%s, want %s", done.Result, want)
			}
			quiet(t, s)
			got := query[string](t, s, `SELECT resource || ' ' || state FROM jobs.jobs WHERE seq > $1 AND kind = $2 ORDER BY resource`, last, c.kind)
			var want []string
			for _, name := range c.channels {
				want = append(want, "channel/"+name+" succeeded")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			tasks := string(admin.In(t).Must(200, "GET", fmt.Sprintf("/api/jobs/%.0f/tasks?status=success", j.ID), nil).Body)
			if !strings.Contains(tasks, `"all_records_count":1`) || !strings.Contains(tasks, fmt.Sprintf(`"job_id":%.0f,"package_version":{}`, j.ID)) {
				t.Errorf("%s", tasks)
			}
		})
	}
	t.Run("it is the work that a channel's own action is, done once", func(t *testing.T) {
		begun, held := make(chan bool, 1), make(chan bool)
		u.answerBy(blocks(begun, held))
		var own struct{ ID int64 }
		admin.In(t).Must(200, "PUT", "/api/channels/m1/actions", obj{"action": "synchronize_repodata"}).JSON(&own)
		<-begun
		before := len(jobsOf(t, s, "m1", "sync.channel"))
		var j quetzJob
		admin.In(t).Must(201, "POST", "/api/jobs", obj{"manifest": "synchronize_repodata", "items_spec": "*"}).JSON(&j)
		ended(t, s, fmt.Sprintf("%.0f", j.ID))
		if n := len(jobsOf(t, s, "m1", "sync.channel")); n != before {
			t.Errorf("%d syncs beside the one that runs", n-before)
		}
		close(held)
		u.answerBy(nil)
		ended(t, s, own.ID)
		quiet(t, s)
	})
	t.Run("only with versions that the items select", func(t *testing.T) {
		var j quetzJob
		admin.In(t).Must(201, "POST", "/api/jobs", obj{"manifest": "synchronize_repodata", "items_spec": "no-such-package>=1"}).JSON(&j)
		if done := ended(t, s, fmt.Sprintf("%.0f", j.ID)); string(done.Result) != `{"channels":[]}` {
			t.Errorf("%s", done.Result)
		}
	})
}
