// Package stack_test proves on the whole platform what services/sync promises: that whatever an upstream or an uploader
// does wrong concerns that file alone, while readers see nothing but what is right.
package stack_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// impatient makes the platform give slow upstreams up in a second, not in minutes.
func impatient(c *platform.Config) {
	c.Sync.Attempts, c.Sync.HeaderTimeout, c.Sync.StallTimeout = 2, time.Second, 700*time.Millisecond
	c.Sync.MaxFileSize, c.Sync.MaxIndexSize = 64<<20, 64<<20
}

// job is what the native API says of a sync.
type job struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Error  string `json:"error"`
	Result result `json:"result"`
}

type result struct {
	Revision    int64     `json:"revision"`
	Added       int64     `json:"added"`
	Unchanged   int64     `json:"unchanged"`
	Removed     int64     `json:"removed"`
	Failed      int64     `json:"failed"`
	NotModified int64     `json:"not_modified"`
	Failures    []failure `json:"failures"`
	Warnings    []string  `json:"warnings"`
}

type failure struct {
	Path   string `json:"path"`
	Error  string `json:"error"`
	Reason string `json:"reason"`
}

// mirror is a mirror channel and its upstream.
type mirror struct {
	t     testing.TB
	stack *platformtest.Stack
	name  string
	ch    *synctest.Channel
	up    *fetchtest.Upstream
}

func newMirror(t testing.TB, s *platformtest.Stack, name string) *mirror {
	t.Helper()
	m := &mirror{t: t, stack: s, name: name, ch: synctest.NewChannel(), up: fetchtest.New(t)}
	m.up.Fallback(m.ch)
	m.create(m.up.URL)
	return m
}

func (m *mirror) create(url string) {
	m.t.Helper()
	m.stack.Admin().In(m.t).Must(201, "POST", "/api/channels", map[string]any{
		"name": m.name, "private": false, "mirror_channel_url": url, "mirror_mode": "mirror", "actions": []string{},
	})
}

func (m *mirror) admin() *platformtest.Client { return m.stack.Admin().In(m.t) }

// start asks for a sync.
func (m *mirror) start(body map[string]any) job {
	m.t.Helper()
	if body == nil {
		body = map[string]any{}
	}
	var j job
	resp := m.admin().Do("POST", "/entrepot/v1/channels/"+m.name+":sync", body)
	if resp.Status != http.StatusOK && resp.Status != http.StatusCreated {
		m.t.Fatalf("start a sync: %d %s", resp.Status, resp.Body)
	}
	resp.JSON(&j)
	return j
}

func (m *mirror) job(id string) (j job) {
	m.t.Helper()
	m.admin().Must(200, "GET", "/entrepot/v1/jobs/"+id, nil).JSON(&j)
	return j
}

// wait returns the job once until says so; a sync that failed an attempt ends the test unless until expects that.
func (m *mirror) wait(id string, until func(job) bool) job {
	m.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		j := m.job(id)
		if until(j) {
			return j
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("job is still %s: %s", j.State, j.Error)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func ended(j job) bool {
	return j.State == "JOB_STATE_SUCCEEDED" || j.State == "JOB_STATE_DEAD" || j.State == "JOB_STATE_CANCELLED" || j.Error != ""
}

// sync runs one to its end, which must be a good one.
func (m *mirror) sync(body map[string]any) result {
	m.t.Helper()
	j := m.wait(m.start(body).ID, ended)
	if j.State != "JOB_STATE_SUCCEEDED" {
		m.t.Fatalf("sync of %s: %s: %s", m.name, j.State, j.Error)
	}
	return j.Result
}

// failures gives the result's failures by path.
func (r result) failures() map[string]string {
	out := map[string]string{}
	for _, f := range r.Failures {
		out[f.Path] = f.Reason
	}
	return out
}

// watch starts a reader that is checked when the test ends. settle is for tests that replace or remove files.
func (m *mirror) watch(settle time.Duration, subdirs ...string) (stop func() synctest.Report) {
	w := synctest.Watch(synctest.WatchConfig{URL: m.stack.URL + "/get/" + m.name, Subdirs: subdirs, Settle: settle})
	var report *synctest.Report
	stop = func() synctest.Report {
		m.t.Helper()
		if report == nil {
			r := w.Stop()
			report = &r
			for _, v := range r.Violations {
				m.t.Errorf("the reader saw: %s", v)
			}
			m.t.Logf("the reader made %d requests, %.0f a second: %d indexes, %d files", r.Requests, r.Rate(), r.Indexes, r.Files)
		}
		return *report
	}
	m.t.Cleanup(func() { stop() })
	return stop
}

// listed returns what the channel's API lists.
func (m *mirror) listed() []string {
	m.t.Helper()
	var list struct {
		Files []struct {
			Path string `json:"path"`
		} `json:"files"`
	}
	m.admin().Must(200, "GET", "/entrepot/v1/channels/"+m.name+"/files?page_size=1000", nil).JSON(&list)
	out := []string{}
	for _, f := range list.Files {
		out = append(out, f.Path)
	}
	sort.Strings(out)
	return out
}

// indexed waits until repodata.json of a subdir lists exactly the paths.
func (m *mirror) indexed(subdir string, paths ...string) {
	m.t.Helper()
	sort.Strings(paths)
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := m.repodata(subdir)
		if cmp.Equal(paths, got) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s/repodata.json:\n%s", subdir, cmp.Diff(paths, got))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (m *mirror) repodata(subdir string) []string {
	m.t.Helper()
	r := m.admin().Do("GET", fmt.Sprintf("/get/%s/%s/repodata.json", m.name, subdir), nil)
	if r.Status != 200 {
		return nil
	}
	var doc struct {
		Packages map[string]json.RawMessage `json:"packages"`
		Conda    map[string]json.RawMessage `json:"packages.conda"`
	}
	r.JSON(&doc)
	out := []string{}
	for _, p := range []map[string]json.RawMessage{doc.Packages, doc.Conda} {
		for name := range p {
			out = append(out, subdir+"/"+name)
		}
	}
	sort.Strings(out)
	return out
}

// good checks that files are listed and served with upstream's bytes.
func (m *mirror) good(paths ...string) {
	m.t.Helper()
	for _, p := range paths {
		if got := m.admin().Must(200, "GET", "/get/"+m.name+"/"+p, nil).Body; string(got) != string(m.ch.File(p)) {
			m.t.Errorf("%s has other bytes than upstream's", p)
		}
	}
}
