package upkeeptest

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func channel(t *testing.T, s *platformtest.Stack, name string) {
	t.Helper()
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": name, "private": false})
}

func upload(s *platformtest.Stack, channel string, f file) *platformtest.Response {
	return s.Admin().Do("POST", "/api/channels/"+channel+"/upload/"+f.name+"?sha256="+f.sha256, f.data)
}

// run starts a job of upkeep over REST and waits for its result.
func run(t *testing.T, s *platformtest.Stack, path string, dryRun bool) (result map[string]any) {
	t.Helper()
	var job struct {
		ID, State, Error string
		Result           map[string]any
	}
	s.Admin().Must(200, "POST", "/entrepot/v1/storage/"+path, map[string]any{"dry_run": dryRun}).JSON(&job)
	eventually(t, path, func() bool {
		s.Admin().Must(200, "GET", "/entrepot/v1/jobs/"+job.ID, nil).JSON(&job)
		return job.State == "JOB_STATE_SUCCEEDED" || job.State == "JOB_STATE_DEAD"
	})
	if job.State != "JOB_STATE_SUCCEEDED" {
		t.Fatalf("%s: %s %s", path, job.State, job.Error)
	}
	return job.Result
}

func TestADamagedDiskIsFoundAndNeverServed(t *testing.T) {
	s := platformtest.Start(t)
	channel(t, s, "main")
	all := files(t)[:4]
	for _, f := range all {
		if resp := upload(s, "main", f); resp.Status != 201 {
			t.Fatalf("%d %s", resp.Status, resp.Body)
		}
	}
	onDisk := func(f file) string { return filepath.Join(s.DataDir, "blobs", "sha256", f.sha256[:2], f.sha256) }
	flipped, lost := all[0], all[1]
	rotten := bytes.Clone(flipped.data)
	rotten[len(rotten)/2] ^= 1
	if err := os.WriteFile(onDisk(flipped), rotten, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(onDisk(lost)); err != nil {
		t.Fatal(err)
	}
	if r := run(t, s, "scrub", true); r["corrupt"] != "1" || r["missing"] != "1" {
		t.Errorf("dry run: %v", r)
	}
	if r := run(t, s, "scrub", false); r["corrupt"] != "1" || r["missing"] != "1" {
		t.Errorf("scrub: %v", r)
	}
	for _, f := range all {
		resp := s.Admin().Do("GET", "/channels/main/"+f.path, nil)
		switch damaged := f.sha256 == flipped.sha256 || f.sha256 == lost.sha256; {
		case damaged && resp.Status == 200:
			t.Errorf("%s is served", f.path)
		case !damaged && (resp.Status != 200 || !bytes.Equal(resp.Body, f.data)):
			t.Errorf("%s: %d", f.path, resp.Status)
		}
	}
	var found struct {
		Findings []struct {
			Sha256, Problem string
			Quarantined     bool
			Owners          []string
		}
	}
	s.Admin().Must(200, "GET", "/entrepot/v1/storage/findings", nil).JSON(&found)
	problems := map[string]string{}
	for _, f := range found.Findings {
		problems[f.Sha256] = f.Problem
		if len(f.Owners) != 1 || !strings.HasPrefix(f.Owners[0], "channels.channel/") {
			t.Errorf("owners of %s: %v", f.Sha256, f.Owners)
		}
	}
	if len(problems) != 2 || problems[flipped.sha256] != "PROBLEM_CORRUPT" || problems[lost.sha256] != "PROBLEM_MISSING" {
		t.Errorf("findings: %v", problems)
	}
	s.User("bob").Must(403, "GET", "/entrepot/v1/storage/findings", nil)
	if status, metrics := get(t, "GET", "http://"+s.OpsAddr+"/metrics", "", nil); status != 200 ||
		!bytes.Contains(metrics, []byte(`entrepot_storage_findings`)) || !bytes.Contains(metrics, []byte(`entrepot_storage_scrub_found_total`)) {
		t.Errorf("metrics: %d\n%s", status, grep(metrics, "entrepot_storage"))
	}

	// The same bytes again, into another channel: both have them.
	channel(t, s, "other")
	for _, f := range []file{flipped, lost} {
		if resp := upload(s, "other", f); resp.Status != 201 {
			t.Errorf("%d %s", resp.Status, resp.Body)
		}
		if resp := s.Admin().Must(200, "GET", "/channels/main/"+f.path, nil); !bytes.Equal(resp.Body, f.data) {
			t.Errorf("%s is not what was uploaded", f.path)
		}
	}
	if r := run(t, s, "scrub", false); r["resolved"] != "2" || r["corrupt"] != "0" && r["corrupt"] != nil {
		t.Errorf("scrub afterwards: %v", r)
	}
}

func grep(data []byte, what string) (lines string) {
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, what) {
			lines += line
		}
	}
	return lines
}

func TestTheAdministratorsCommands(t *testing.T) {
	s := platformtest.Start(t)
	channel(t, s, "main")
	if resp := upload(s, "main", files(t)[0]); resp.Status != 201 {
		t.Fatalf("%d %s", resp.Status, resp.Body)
	}
	t.Setenv("ENTREPOT_API_KEY", s.AdminKey)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"gc", "--dry-run", "--follow"}, []string{"Stored:", "Would delete:", "Audit:", "Jobs:"}},
		{[]string{"gc", "--follow"}, []string{"Deleted:"}},
		{[]string{"scrub", "--follow", "--output", "json"}, []string{`"checked": `}},
		{[]string{"findings"}, []string{"SHA256"}},
		{[]string{"du"}, []string{"In use:", "Damaged:"}},
	} {
		out, errs, err := command(t, append([]string{"admin", "--server", s.URL}, c.args...)...)
		if err != nil {
			t.Errorf("%v: %v\n%s", c.args, err, errs)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v does not say %q:\n%s", c.args, want, out)
			}
		}
	}
	if out, errs, err := command(t, "admin", "gc", "--server", s.URL); err != nil || out != "" || !strings.Contains(errs, "follow it with") {
		t.Errorf("gc: %v\n%s%s", err, out, errs)
	}
	eventually(t, "the job", func() bool {
		var list struct{ Jobs []json.RawMessage }
		s.Admin().Must(200, "GET", "/entrepot/v1/jobs?kind=storage.gc&states=JOB_STATE_QUEUED&states=JOB_STATE_RUNNING", nil).JSON(&list)
		return len(list.Jobs) == 0
	})
}

// I6 and I1: real uploads, against a collector that has very little patience. What was acknowledged is there and listed.
// Without any patience the collector would be faster than each upload, and nothing would ever be acknowledged.
func TestUploadsRacingWithGarbageCollectionLoseNothing(t *testing.T) {
	s := platformtest.Start(t)
	pool, err := pgxpool.New(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	store, err := blob.OpenDir(filepath.Join(s.DataDir, "blobs"), blob.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, stop := context.WithCancel(t.Context())
	var collector, uploaders sync.WaitGroup
	var deleted atomic.Int64
	const grace = 100 * time.Millisecond
	collector.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(grace / 4) {
			err := store.List(t.Context(), blob.Digest{}, func(st blob.Stat) error {
				_, err := refs.Adopt(t.Context(), pool, refs.Blob{Digest: st.Digest, Size: st.Size})
				return err
			})
			if err == nil {
				_, err = refs.Mark(t.Context(), pool, grace, 1000)
			}
			if err == nil {
				var n int
				n, err = refs.Sweep(t.Context(), pool, grace, 1000, store.Delete)
				deleted.Add(int64(n))
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	const workers, rounds = 3, 4
	for w := range workers {
		uploaders.Go(func() {
			name := "race" + string(rune('a'+w))
			for round := range rounds { // the channel goes, and with it the last references; the same bytes come again
				channel(t, s, name)
				for _, f := range files(t)[w : w+6] { // the uploaders share some of them
					if !accepted(t, s, name, f) {
						return
					}
					resp := s.Admin().Do("GET", "/channels/"+name+"/"+f.path, nil)
					if resp.Status != 200 || !bytes.Equal(resp.Body, f.data) {
						t.Errorf("%s of %s was acknowledged: %d %s", f.path, name, resp.Status, resp.Body)
					}
				}
				if round < rounds-1 {
					s.Admin().Must(200, "DELETE", "/api/channels/"+name, nil)
				}
			}
		})
	}
	uploaders.Wait()
	stop()
	collector.Wait()
	if deleted.Load() == 0 {
		t.Error("nothing was deleted: nothing was raced")
	}
	for w := range workers {
		name := "race" + string(rune('a'+w))
		for _, f := range files(t)[w : w+6] {
			if resp := s.Admin().Do("GET", "/channels/"+name+"/"+f.path, nil); resp.Status != 200 || !bytes.Equal(resp.Body, f.data) {
				t.Errorf("in the end %s of %s is lost: %d", f.path, name, resp.Status)
			}
		}
	}
	if r := run(t, s, "scrub", false); r["missing"] != nil && r["missing"] != "0" {
		t.Errorf("something that is referred to is missing: %v", r)
	}
}

// accepted uploads until the server takes the file: it may say that the collector was faster, but not take it and lose it.
func accepted(t *testing.T, s *platformtest.Stack, channel string, f file) bool {
	var last *platformtest.Response
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		last = upload(s, channel, f)
		switch last.Status {
		case http.StatusCreated:
			return true
		case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusForbidden, http.StatusUnauthorized:
			t.Errorf("%s: %d %s", f.path, last.Status, last.Body)
			return false
		}
	}
	t.Errorf("%s was never taken: %d %s", f.path, last.Status, last.Body)
	return false
}
