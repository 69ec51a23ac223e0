package metricstest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

const naive = "2006-01-02T15:04:05"

// mirror is a server that says what a test wants it to.
type mirror struct {
	*httptest.Server
	mu      sync.Mutex
	queries []string
	answer  func(w http.ResponseWriter, r *http.Request)
}

func newMirror(t *testing.T, of string) *mirror {
	m := &mirror{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/channels/") {
			fmt.Fprintf(w, `{"name":"m","mirror_channel_url":%q,"mirror_mode":"mirror"}`, of)
			return
		}
		m.mu.Lock()
		m.queries = append(m.queries, r.URL.Path+"?"+r.URL.RawQuery)
		answer := m.answer
		m.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) say(answer func(w http.ResponseWriter, r *http.Request)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer, m.queries = answer, nil
}

func (m *mirror) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.queries
}

// awayFromTheHour waits if the hour is about to turn, for tests that speak of the present one.
func awayFromTheHour() {
	if into := time.Since(time.Now().Truncate(time.Hour)); into > 58*time.Minute {
		time.Sleep(time.Hour - into + 6*time.Second)
	} else if into < 6*time.Second {
		time.Sleep(6*time.Second - into)
	}
}

type points map[string][]map[string]any

func at(t time.Time, n any) map[string]any {
	return map[string]any{"timestamp": t.UTC().Format(naive), "count": n}
}

func (p points) serve(w http.ResponseWriter, _ *http.Request) {
	packages := map[string]any{}
	for path, series := range p {
		packages[path] = map[string]any{"series": series}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"server_timestamp": time.Now().UTC().Format(naive), "period": "H", "metric_name": "download", "packages": packages,
	})
}

func register(t *testing.T, s *platformtest.Stack, channel, url string) string {
	t.Helper()
	s.Admin().Must(201, "POST", "/api/channels/"+channel+"/mirrors", map[string]any{"url": url})
	var all []struct{ ID, URL string }
	s.Admin().Must(200, "GET", "/api/channels/"+channel+"/mirrors", nil).JSON(&all)
	for _, m := range all {
		if m.URL == url {
			return m.ID
		}
	}
	t.Fatalf("%s is not registered", url)
	return ""
}

func pull(t *testing.T, s *platformtest.Stack, channel string) string {
	t.Helper()
	return finished(t, s.Admin(), s.Admin().Must(200, "PUT", "/api/channels/"+channel+"/actions", map[string]any{"action": "synchronize_metrics"}))
}

// TestPull: a mirror's whole hours come over once, whatever it says besides.
func TestPull(t *testing.T) {
	awayFromTheHour()
	s := platformtest.Start(t)
	files := upload(t, s, "channel0")
	f, g := files[0].path(), files[1].path()
	m := newMirror(t, s.URL+"/get/channel0")
	id := register(t, s, "channel0", m.URL+"/get/m")
	admin := s.Admin()
	now := time.Now().UTC().Truncate(time.Hour)
	hours := func(n int) time.Time { return now.Add(time.Duration(-n) * time.Hour) }
	sum := func() int { return total(t, admin, "channel0") }

	m.say(points{
		f:                                {at(hours(3), 2), at(hours(2), 1), at(hours(2), 1)}, // an hour twice
		g:                                {at(hours(2), 4)},
		"linux-64/unknown-1.0-0.conda":   {at(hours(2), 100)},
		"../../etc/passwd":               {at(hours(2), 100)},
		"linux-64/repodata.json":         {at(hours(2), 100)},
		files[2].path():                  {at(now, 100), at(now.Add(24*time.Hour), 100), at(hours(2), -5), at(hours(2).Add(time.Minute), 100), at(hours(2), 2_000_000_000), {"timestamp": "soon", "count": 100}},
		"no/such/linux-64/f-1-0.tar.bz2": {at(hours(2), 100)},
	}.serve)
	if status := pull(t, s, "channel0"); status != "success" || sum() != 7 {
		t.Fatalf("%s, %d downloads, want 7", status, sum())
	}
	if diff := cmp.Diff([]string{"/metrics/channels/m?period=H&end=" + now.Format(naive)}, m.asked()); diff != "" {
		t.Error(diff)
	}
	// The same hour again: nothing is due, and nobody is asked.
	m.say(points{f: {at(hours(2), 1)}}.serve)
	if status := pull(t, s, "channel0"); status != "success" || sum() != 7 || len(m.asked()) != 0 {
		t.Errorf("%s, %d downloads, asked %v", status, sum(), m.asked())
	}

	// Two hours earlier the cursor was two hours earlier.
	rewind := func(n int) {
		t.Helper()
		if got := query[int](t, s, `UPDATE metrics.pulls SET pulled_until = $1 RETURNING 1`, hours(n)); len(got) != 1 {
			t.Fatalf("%d pulls", len(got))
		}
	}
	rewind(2)
	m.say(func(w http.ResponseWriter, r *http.Request) { // it breaks off
		rec := httptest.NewRecorder()
		points{f: {at(hours(2), 2)}, g: {at(hours(1), 1)}}.serve(rec, r)
		w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
		_, _ = io.WriteString(w, rec.Body.String()[:rec.Body.Len()/2])
	})
	job := admin.Must(200, "PUT", "/api/channels/channel0/actions", map[string]any{"action": "synchronize_metrics"})
	eventually(t, "the failed attempt", func() bool { return len(m.asked()) > 0 })
	eventually(t, "the pull's error", func() bool {
		var p struct{ Pulls []struct{ Error string } }
		admin.Must(200, "GET", "/entrepot/v1/channels/channel0/metrics/pulls", nil).JSON(&p)
		return len(p.Pulls) == 1 && strings.Contains(p.Pulls[0].Error, "cannot be read")
	})
	if sum() != 7 {
		t.Errorf("%d downloads after a pull that broke off, want 7", sum())
	}
	m.say(points{f: {at(hours(3), 50), at(hours(2), 2)}, g: {at(hours(1), 1)}}.serve) // the 50 are of an hour that is in
	if status := finished(t, admin, job); status != "success" || sum() != 10 {
		t.Errorf("%s, %d downloads, want 10", status, sum())
	}
	if diff := cmp.Diff([]string{"/metrics/channels/m?period=H&start=" + hours(2).Format(naive) + "&end=" + now.Format(naive)}, m.asked()); diff != "" {
		t.Error(diff)
	}

	t.Run("one that fails does not stop another", func(t *testing.T) {
		bad := newMirror(t, s.URL+"/get/channel0")
		for _, answer := range []http.HandlerFunc{
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
			func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"packages":[]}`) },
			func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"period":"D","packages":{}}`) },
			func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `null`) },
			func(w http.ResponseWriter, _ *http.Request) {
				http.Redirect(w, &http.Request{}, m.URL, http.StatusFound)
			},
		} {
			bad.say(answer)
			badID := register(t, s, "channel0", bad.URL+"/get/m")
			before := sum()
			rewindOne := query[int](t, s, `UPDATE metrics.pulls SET pulled_until = $1 WHERE mirror_id = $2 RETURNING 1`, hours(1), id)
			m.say(points{f: {at(hours(1), 1)}}.serve)
			if status := pull(t, s, "channel0"); status != "success" || sum() != before+1 || len(rewindOne) != 1 {
				t.Errorf("%s, %d downloads, want %d", status, sum(), before+1)
			}
			admin.Must(200, "DELETE", "/api/channels/channel0/mirrors/"+badID, nil)
		}
	})
	t.Run("what a mirror brought can be taken back", func(t *testing.T) {
		if got := fetch(t, s.URL, "/get/channel0/"+f, 3); got != 3 {
			t.Fatal(got)
		}
		settled(t, admin, "channel0", sum()+3)
		admin.Must(200, "DELETE", "/entrepot/v1/channels/channel0/metrics/pulls/"+id, nil)
		if sum() != 3 {
			t.Errorf("%d downloads, want 3", sum())
		}
		if n := query[int](t, s, `SELECT sum(n)::int FROM metrics.series s JOIN metrics.items i ON i.id = s.item_id WHERE i.path <> ''`)[0]; n != 3 {
			t.Errorf("the files' series have %d, want 3", n)
		}
		admin.Must(404, "DELETE", "/entrepot/v1/channels/channel0/metrics/pulls/"+id, nil)
	})
	t.Run("only hosted channels pull, and only who may", func(t *testing.T) {
		admin.Must(201, "POST", "/api/channels", map[string]any{"name": "m", "private": false, "mirror_channel_url": m.URL + "/get/x", "mirror_mode": "mirror", "actions": []string{}})
		admin.Must(405, "PUT", "/api/channels/m/actions", map[string]any{"action": "synchronize_metrics"})
		if got := admin.Do("POST", "/entrepot/v1/channels/m/metrics/pulls", map[string]any{}); got.Status/100 != 4 {
			t.Errorf("%d %s", got.Status, got.Body)
		}
		s.User("bob").Must(403, "PUT", "/api/channels/channel0/actions", map[string]any{"action": "synchronize_metrics"})
		s.Anonymous().Must(401, "PUT", "/api/channels/channel0/actions", map[string]any{"action": "synchronize_metrics"})
	})
	t.Run("registering a mirror has its counts pulled by themselves", func(t *testing.T) {
		if n := query[int](t, s, `SELECT count(*) FROM jobs.schedules WHERE kind = 'metrics.pull'`)[0]; n != 1 {
			t.Errorf("%d schedules", n)
		}
		admin.Must(200, "DELETE", "/api/channels/channel0", nil)
		if n := query[int](t, s, `SELECT count(*) FROM jobs.schedules WHERE kind = 'metrics.pull'`)[0]; n != 0 {
			t.Errorf("%d schedules after the channel", n)
		}
	})
}

// TestPullFromAnotherEntrepot: two installations, the second one a mirror of the first.
func TestPullFromAnotherEntrepot(t *testing.T) {
	awayFromTheHour()
	primary, second := platformtest.Start(t), platformtest.Start(t)
	f := upload(t, primary, "channel0")[0]
	second.Admin().Must(201, "POST", "/api/channels", map[string]any{
		"name": "copy", "private": false, "mirror_channel_url": primary.URL + "/get/channel0", "mirror_mode": "proxy",
	})
	if got := fetch(t, second.URL, "/get/copy/"+f.path(), 4); got != 4 {
		t.Fatalf("%d downloads", got)
	}
	// The proxy itself has downloaded the file once from the primary.
	settled(t, second.Anonymous(), "copy", 4)
	settled(t, primary.Anonymous(), "channel0", 1)
	query[int](t, second, `UPDATE metrics.series SET at = at - interval '3 hours' RETURNING 1`)
	register(t, primary, "channel0", second.URL+"/get/copy")
	for range 2 {
		if status := pull(t, primary, "channel0"); status != "success" {
			t.Fatal(status)
		}
		if n := total(t, primary.Anonymous(), "channel0"); n != 5 {
			t.Errorf("%d downloads, want 5", n)
		}
	}
	day := struct{ Total int }{}
	primary.Anonymous().Must(200, "GET", fmt.Sprintf("/metrics/channels/channel0/packages/%s/versions/%s/%s?period=Y", f.pkg, f.platform, f.name), nil).JSON(&day)
	if day.Total != 5 {
		t.Errorf("the version has %d", day.Total)
	}
}

// TestPullFromTheSameServer: a mirror at our own public address is not asked over the network.
func TestPullFromTheSameServer(t *testing.T) {
	awayFromTheHour()
	s := platformtest.Start(t)
	s.Restart(platformtest.WithConfig(func(c *platform.Config) { c.PublicURL = s.URL }))
	f := upload(t, s, "channel0")[0]
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{
		"name": "copy", "private": true, "mirror_channel_url": s.URL + "/get/channel0", "mirror_mode": "proxy",
	})
	s.Admin().Must(200, "GET", "/get/copy/"+f.path(), nil)
	settled(t, s.Admin(), "copy", 1)
	had := total(t, s.Admin(), "channel0")
	query[int](t, s, `UPDATE metrics.series SET at = at - interval '3 hours' RETURNING 1`)
	register(t, s, "channel0", s.URL+"/get/copy")
	if status := pull(t, s, "channel0"); status != "success" || total(t, s.Admin(), "channel0") != had+1 {
		t.Errorf("%s, %d downloads, want %d", status, total(t, s.Admin(), "channel0"), had+1)
	}
}
