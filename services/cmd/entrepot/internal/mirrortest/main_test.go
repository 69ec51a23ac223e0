// Package mirrortest tries on whole platforms what keeps mirrors up to date: schedules, polls of upstreams, what exactly
// upstreams are asked, what is told of failures, and how files come back that were lost.
package mirrortest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

type obj = map[string]any

// upstream serves a directory with ETags, as a CDN does, and notes each request word by word.
type upstream struct {
	*httptest.Server
	dir string

	mu    sync.Mutex
	asked []string
	// answer takes a request over, if it returns true.
	answer func(w http.ResponseWriter, r *http.Request) bool
}

// newUpstream serves small packages.
func newUpstream(t *testing.T, packages int, seed uint64) (*upstream, *sample.Channel) {
	t.Helper()
	u := &upstream{dir: t.TempDir()}
	ch := u.build(t, packages, seed)
	u.Server = httptest.NewServer(http.HandlerFunc(u.serve))
	t.Cleanup(u.Close)
	return u, ch
}

// build writes the channel; more packages than before are those of before and some more.
func (u *upstream) build(t *testing.T, packages int, seed uint64) *sample.Channel {
	t.Helper()
	ch, err := sample.Build(u.dir, sample.Options{Packages: packages, Tiny: true, Seed: seed})
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func (u *upstream) serve(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, status: 200}
	defer func() {
		line := []string{r.Method, strings.TrimPrefix(r.URL.Path, "/")}
		for _, name := range []string{"If-None-Match", "If-Modified-Since", "Range", "If-Range"} {
			if v := r.Header.Get(name); v != "" {
				line = append(line, name)
			}
		}
		line = append(line, fmt.Sprint(rec.status))
		u.mu.Lock()
		defer u.mu.Unlock()
		u.asked = append(u.asked, strings.Join(line, " "))
	}()
	u.mu.Lock()
	answer := u.answer
	u.mu.Unlock()
	if answer != nil && answer(rec, r) {
		return
	}
	data, err := os.ReadFile(filepath.Join(u.dir, filepath.FromSlash(r.URL.Path)))
	if err != nil {
		http.NotFound(rec, r)
		return
	}
	rec.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
	http.ServeContent(rec, r, r.URL.Path, time.Time{}, strings.NewReader(string(data)))
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// take returns what was asked since the last call.
func (u *upstream) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	asked := u.asked
	u.asked = nil
	return asked
}

func (u *upstream) answerBy(answer func(w http.ResponseWriter, r *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// always answers every request with a status.
func always(status int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	}
}

// query runs a statement on the platform's database and returns the first column of its rows.
func query[T any](t *testing.T, s *platformtest.Stack, sql string, args ...any) []T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// eventually waits for something that the platform does by itself.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for range 1200 { // a minute
		if ready() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

type job struct {
	ID     string
	Number int64
	Kind   string
	State  string
	Owner  string
	Action string
	Error  string
	Result json.RawMessage
}

// ended waits for the end of a job.
func ended(t *testing.T, s *platformtest.Stack, id any) (j job) {
	t.Helper()
	eventually(t, fmt.Sprintf("job %v", id), func() bool {
		s.Admin().In(t).Must(200, "GET", fmt.Sprintf("/entrepot/v1/jobs/%v", id), nil).JSON(&j)
		return j.State == "JOB_STATE_SUCCEEDED" || j.State == "JOB_STATE_DEAD" || j.State == "JOB_STATE_CANCELLED"
	})
	return j
}

// run has an action done as the server's owner, which must succeed.
func run(t *testing.T, s *platformtest.Stack, channel, action string) job {
	t.Helper()
	var started struct{ ID int64 }
	s.Admin().In(t).Must(200, "PUT", "/api/channels/"+channel+"/actions", obj{"action": action}).JSON(&started)
	j := ended(t, s, started.ID)
	if j.State != "JOB_STATE_SUCCEEDED" {
		t.Fatalf("%s: %s %s", action, j.State, j.Error)
	}
	return j
}

// jobsOf returns a channel's jobs of a kind, oldest first.
func jobsOf(t *testing.T, s *platformtest.Stack, channel, kind string) []job {
	t.Helper()
	var list struct{ Jobs []job }
	s.Admin().In(t).Must(200, "GET", "/entrepot/v1/jobs?oldest_first=true&kind="+kind+"&resource=channel/"+channel, nil).JSON(&list)
	return list.Jobs
}

// quiet waits until no job of the channels' runs or waits.
func quiet(t *testing.T, s *platformtest.Stack) {
	t.Helper()
	eventually(t, "all jobs to end", func() bool {
		return query[int](t, s, `SELECT count(*)::int FROM jobs.jobs WHERE state IN ('queued', 'running') OR state = 'scheduled' AND start_at < now() + interval '10 seconds'`)[0] == 0
	})
}

// mirror makes a mirror channel without a first sync.
func mirror(t *testing.T, s *platformtest.Stack, name, url string, more ...func(obj)) {
	t.Helper()
	body := obj{"name": name, "private": false, "mirror_channel_url": url, "mirror_mode": "mirror", "actions": []string{}}
	for _, f := range more {
		f(body)
	}
	s.Admin().In(t).Must(201, "POST", "/api/channels", body)
}

type sampleFile = sample.File

// packageOf is the package's name in a path.
func packageOf(path string) string {
	parts := strings.Split(path[strings.IndexByte(path, '/')+1:], "-")
	return strings.Join(parts[:len(parts)-2], "-")
}

// blocks holds all answers back until held is closed, and says when the first request is there.
func blocks(begun chan<- bool, held <-chan bool) func(http.ResponseWriter, *http.Request) bool {
	return func(http.ResponseWriter, *http.Request) bool {
		select {
		case begun <- true:
		default:
		}
		<-held
		return false
	}
}
