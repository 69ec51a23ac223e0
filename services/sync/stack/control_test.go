package stack_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// Upstreams on inner addresses are refused unless allowed, at once and for good; loopback is in development only.
func TestUpstreamsOnInnerAddressesAreRefused(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient), platformtest.WithConfig(func(c *platform.Config) { c.Dev = false }))
	for i, url := range []string{"http://10.1.2.3/c", "http://192.168.1.1:8080/c", "http://169.254.169.254/latest", "http://[::1]/c", "http://[::ffff:10.0.0.1]/c"} {
		m := &mirror{t: t, stack: s, name: fmt.Sprintf("inner%d", i)}
		m.create(url)
		j := m.wait(m.start(nil).ID, ended)
		if j.State != "JOB_STATE_DEAD" || !strings.Contains(j.Error, "--egress-allow") {
			t.Errorf("%s: %s %q", url, j.State, j.Error)
		}
	}
	m := newMirror(t, s, "loopback")
	path := m.ch.Add("noarch", "a", "1.0", content(1, 300))
	if j := m.wait(m.start(nil).ID, ended); j.State != "JOB_STATE_DEAD" || len(m.up.Requests()) != 0 {
		t.Errorf("loopback: %s %q, %d requests", j.State, j.Error, len(m.up.Requests()))
	}
	s.Restart(func(c *platform.Config) { c.EgressAllow = []string{"127.0.0.0/8"} })
	if r := m.sync(nil); r.Added != 1 {
		t.Errorf("%+v", r)
	}
	m.good(path)
}

// slowMirror has n files that each take a while.
func slowMirror(t *testing.T, s *platformtest.Stack, name string, n int, pause time.Duration) *mirror {
	t.Helper()
	m := newMirror(t, s, name)
	for i := range n {
		path := m.ch.Add("noarch", fmt.Sprintf("p%03d", i), "1.0", content(i, 1000))
		m.up.Script("/"+path, fetchtest.Slow(pause, m.ch.ServeHTTP))
	}
	return m
}

// files counts the requests for package files.
func files(up *fetchtest.Upstream) (n int) {
	for _, r := range up.Requests() {
		if strings.HasSuffix(r.Path, ".conda") {
			n++
		}
	}
	return n
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestACancelledSyncEndsWithinASecondAndShowsNothing(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := slowMirror(t, s, "cancelled", 200, 100*time.Millisecond)
	stop := m.watch(0, "noarch")
	j := m.start(nil)
	waitFor(t, "some files are had", func() bool { return files(m.up) > 60 })
	began := time.Now()
	m.admin().Must(200, "POST", "/entrepot/v1/jobs/"+j.ID+":cancel", map[string]any{})
	m.wait(j.ID, func(j job) bool { return j.State == "JOB_STATE_CANCELLED" })
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
	asked := files(m.up)
	if got := m.listed(); len(got) != 0 {
		t.Errorf("%d files are listed", len(got))
	}
	// The next sync begins where the storage stands.
	if r := m.sync(nil); r.Added != 200 || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	if n := files(m.up); n > 200+24+10 || n < 200 {
		t.Errorf("%d requests for 200 files, %d of them before", n, asked)
	}
	stop()
}

func TestAChannelThatIsDeletedMeanwhileEndsItsSync(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := slowMirror(t, s, "deleted", 100, 100*time.Millisecond)
	m.admin().Must(200, "POST", "/entrepot/v1/channels/deleted:sync", map[string]any{"repeat_every_seconds": 10, "start_at": time.Now().Add(time.Hour).Format(time.RFC3339)})
	j := m.start(map[string]any{"force": true})
	waitFor(t, "some files are had", func() bool { return files(m.up) > 20 })
	m.admin().Must(200, "DELETE", "/api/channels/deleted", nil)
	m.wait(j.ID, func(j job) bool { return j.State == "JOB_STATE_CANCELLED" || j.State == "JOB_STATE_DEAD" })
	m.admin().Must(404, "GET", "/get/deleted/noarch/repodata.json", nil)

	// A new channel of that name has nothing to do with it.
	other := newMirror(t, s, "deleted")
	path := other.ch.Add("noarch", "new", "1.0", content(1, 100))
	if r := other.sync(nil); r.Added != 1 || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	if diff := cmp.Diff([]string{path}, other.listed()); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// A schedule outlives its channel by one run, which cleans up.
func TestAScheduleEndsWithItsChannel(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "scheduled")
	m.ch.Add("noarch", "a", "1.0", content(1, 100))
	m.sync(map[string]any{"repeat_every_seconds": 10})
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	count := func() (n int) {
		if err := conn.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM sync.subdirs) + (SELECT count(*) FROM sync.status) +
			(SELECT count(*) FROM refs.refs WHERE owner_kind = 'sync.index') + (SELECT count(*) FROM jobs.schedules WHERE name LIKE 'sync/%')`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if count() < 4 {
		t.Fatalf("%d rows", count())
	}
	m.admin().Must(200, "DELETE", "/api/channels/scheduled", nil)
	if _, err := conn.Exec(t.Context(), `UPDATE jobs.schedules SET next_at = now() WHERE name LIKE 'sync/%'`); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all is forgotten", func() bool { return count() == 0 })
}

// A sync that is asked for while one runs joins it; one that is asked for twice afterwards finds nothing to do.
func TestASyncIsJoined(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "joined")
	path := m.ch.Add("noarch", "a", "1.0", content(1, 100))
	open := make(chan struct{})
	m.up.Script("/"+path, fetchtest.Gate(open, m.ch.ServeHTTP))
	first := m.start(nil)
	waitFor(t, "it runs", func() bool { return m.up.Count("/"+path) == 1 })
	if second := m.start(nil); second.ID != first.ID {
		t.Errorf("a second job %s beside %s", second.ID, first.ID)
	}
	close(open)
	m.wait(first.ID, ended)
	m.up.Reset()
	began := time.Now()
	if r := m.sync(nil); r.NotModified != 1 || r.Unchanged != 1 {
		t.Errorf("%+v", r)
	}
	t.Logf("a sync without changes took %s", time.Since(began))
	for _, r := range m.up.Requests() {
		if r.Path == "/noarch/repodata.json.zst" && r.Header.Get("If-None-Match") == "" {
			t.Error("the index was asked for without its ETag")
		}
		if r.Method != http.MethodGet && (r.Method != http.MethodHead || r.Path != "/noarch/repodata.json") { // is that one newer?
			t.Errorf("%s %s", r.Method, r.Path)
		}
	}
}
