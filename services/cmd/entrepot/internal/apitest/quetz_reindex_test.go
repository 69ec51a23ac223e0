package apitest

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// sampleUpstream serves a channel of small packages and counts requests.
func sampleUpstream(t *testing.T, packages int) (base string, ch *sample.Channel, requests func() int) {
	dir := t.TempDir()
	ch, err := sample.Build(dir, sample.Options{Packages: packages})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	files := http.FileServer(http.Dir(dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		mu.Unlock()
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, ch, func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// TestQuetzReindex: the database is lost, the blobs are not; quetz.md §7, §9.
func TestQuetzReindex(t *testing.T) {
	base, ch, requests := sampleUpstream(t, 12)
	empty := pgtest.NewURL(t, platform.Schemas...) // outlives the platform
	w := &world{Stack: platformtest.Start(t)}
	alice, bob := w.Admin().In(t), w.User("bob").In(t)
	hosted := packages(t)[:3]
	alice.Must(201, "POST", "/api/channels", map[string]any{"name": "mir", "private": false, "mirror_mode": "mirror", "mirror_channel_url": base})
	bob.Must(201, "POST", "/api/channels", map[string]any{"name": "hosted", "private": false})
	for _, p := range hosted {
		bob.Must(201, "POST", "/api/channels/hosted/upload/"+p.filename+"?sha256=", p.data)
	}
	bob.Must(200, "DELETE", "/api/channels/hosted/packages/"+hosted[2].name+"/versions/"+hosted[2].subdir+"/"+hosted[2].filename, nil)
	files := func(channel string) int {
		var list struct {
			TotalSize int `json:"total_size"`
		}
		w.Admin().In(t).Must(200, "GET", "/entrepot/v1/channels/"+channel+"/files", nil).JSON(&list)
		return list.TotalSize
	}
	if !soon(t, func() bool { return files("mir") == len(ch.Files) }) {
		t.Fatalf("%d files of %d were mirrored", files("mir"), len(ch.Files))
	}
	settled := func() bool {
		return w.exec(t, "SELECT 1 FROM jobs.jobs WHERE state IN ('queued', 'running', 'scheduled') AND kind LIKE 'channels.%'") == 0
	}
	if !soon(t, settled) {
		t.Fatal("the indexes are not built")
	}
	record := string(w.Anonymous().In(t).Must(200, "GET", "/get/mir/"+firstSubdir(ch)+"/repodata.json", nil).Body)
	t.Run("with the database there, what was deleted stays deleted", func(t *testing.T) {
		var job quetzJob
		bob.In(t).Must(200, "PUT", "/api/channels/hosted/actions", `{"action":"reindex"}`).JSON(&job)
		if status, result := awaitJob(t, bob, job.ID); status != "success" || !strings.Contains(string(result), `"added":0`) || files("hosted") != 2 {
			t.Errorf("%s %s, %d files", status, result, files("hosted"))
		}
	})

	before := requests()
	w.Restart(platformtest.WithConfig(func(c *platform.Config) {
		w.DatabaseURL = empty
		c.DatabaseURL = config.NewSecret(empty)
	}))
	w.Forget()
	alice = w.Admin().In(t)
	alice.Must(404, "GET", "/api/channels/mir", nil)

	t.Run("a mirror comes back without one request", func(t *testing.T) {
		alice.In(t).Must(201, "POST", "/api/channels", map[string]any{
			"name": "mir", "private": false, "mirror_mode": "mirror", "mirror_channel_url": base, "actions": []any{"reindex"},
		})
		if !soon(t, func() bool { return files("mir") == len(ch.Files) }) {
			t.Fatalf("%d files of %d came back", files("mir"), len(ch.Files))
		}
		for _, f := range ch.Files[:3] {
			alice.In(t).Must(200, "GET", "/get/mir/"+f.Path, nil)
		}
		if n := requests(); n != before {
			t.Errorf("%d requests to the upstream", n-before)
		}
		if !soon(t, func() bool {
			return string(w.Anonymous().In(t).Do("GET", "/get/mir/"+firstSubdir(ch)+"/repodata.json", nil).Body) == record
		}) {
			t.Error("the index is not the one that was there")
		}
	})
	t.Run("a later sync fetches nothing that is there", func(t *testing.T) {
		var job quetzJob
		alice.In(t).Must(200, "PUT", "/api/channels/mir/actions", `{"action":"synchronize_repodata"}`).JSON(&job)
		status, result := awaitJob(t, alice, job.ID)
		var sync struct{ Added, Unchanged, Bytes int }
		if err := json.Unmarshal(result, &sync); err != nil || status != "success" || sync.Added != 0 || sync.Unchanged != len(ch.Files) {
			t.Errorf("%s %s %v", status, result, err)
		}
	})
	t.Run("a hosted channel comes back only by the server's people", func(t *testing.T) {
		bob := w.User("bob").In(t)
		bob.Must(201, "POST", "/api/channels", map[string]any{"name": "Hosted", "private": false})
		var job quetzJob
		bob.Must(200, "PUT", "/api/channels/hosted/actions", `{"action":"reindex"}`).JSON(&job)
		if _, result := awaitJob(t, bob, job.ID); !strings.Contains(string(result), "only a maintainer of the server may bring them back") || files("hosted") != 0 {
			t.Errorf("%s, %d files", result, files("hosted"))
		}
		alice.In(t).Must(200, "PUT", "/api/channels/hosted/actions", `{"action":"reindex"}`).JSON(&job)
		if _, result := awaitJob(t, alice, job.ID); !strings.Contains(string(result), `"added":2`) {
			t.Errorf("%s", result)
		}
		var p struct{ Summary string }
		bob.In(t).Must(200, "GET", "/api/channels/hosted/packages/"+hosted[0].name, nil).JSON(&p)
		if p.Summary == "" {
			t.Error("the package says nothing of itself any more")
		}
		alice.In(t).Must(200, "PUT", "/api/channels/hosted/actions", `{"action":"reindex"}`).JSON(&job)
		if _, result := awaitJob(t, alice, job.ID); !strings.Contains(string(result), `"added":0`) {
			t.Errorf("again: %s", result)
		}
	})
}

func firstSubdir(ch *sample.Channel) string {
	subdir, _, _ := strings.Cut(ch.Files[0].Path, "/")
	return subdir
}

// TestQuetzPackageStore: a directory laid out as Quetz's store comes in by reindex.
func TestQuetzPackageStore(t *testing.T) {
	store := t.TempDir()
	if _, err := sample.Build(filepath.Join(store, "old"), sample.Options{Packages: 8}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store, "old", "noarch", "broken-1-0.conda"), []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	w := &world{Stack: platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) { c.PackageStore = store }))}
	bob := w.User("bob").In(t)
	bob.Must(201, "POST", "/api/channels", map[string]any{"name": "old", "actions": []any{"reindex"}})
	var page jobPage
	bob.Must(200, "GET", "/api/jobs?status=pending&status=running&status=success", nil).JSON(&page)
	status, result := awaitJob(t, bob, page.Result[0].ID)
	var got struct {
		Added  int
		Failed []struct{ Path, Reason string }
	}
	if err := json.Unmarshal(result, &got); err != nil || status != "success" {
		t.Fatalf("%s %s %v", status, result, err)
	}
	formats := map[string]int{}
	if err := filepath.WalkDir(filepath.Join(store, "old"), func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".conda") || strings.HasSuffix(path, ".tar.bz2") {
			formats[filepath.Ext(path)]++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(formats) != 2 || got.Added != formats[".conda"]+formats[".bz2"]-1 {
		t.Errorf("%d added of %v", got.Added, formats)
	}
	if len(got.Failed) != 1 || got.Failed[0].Path != "noarch/broken-1-0.conda" {
		t.Errorf("%+v", got.Failed)
	}
}

// TestQuetzValidate: rotten and missing bytes are found, repaired from upstream, or unlisted.
func TestQuetzValidate(t *testing.T) {
	base, ch, _ := sampleUpstream(t, 6)
	w := &world{Stack: platformtest.Start(t)}
	alice, bob := w.Admin().In(t), w.User("bob").In(t)
	alice.Must(201, "POST", "/api/channels", map[string]any{"name": "mir", "private": false, "mirror_mode": "mirror", "mirror_channel_url": base})
	bob.Must(201, "POST", "/api/channels", map[string]any{"name": "hosted", "private": false})
	hosted := packages(t)[:3]
	for _, p := range hosted {
		bob.Must(201, "POST", "/api/channels/hosted/upload/"+p.filename+"?sha256=", p.data)
	}
	var job quetzJob
	alice.Must(200, "PUT", "/api/channels/mir/actions", `{"action":"synchronize_repodata"}`).JSON(&job)
	awaitJob(t, alice, job.ID)
	damage := func(sha256 string, how func(path string) error) {
		t.Helper()
		found := false
		if err := filepath.WalkDir(filepath.Join(w.DataDir, "blobs"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(strings.ReplaceAll(path, "/", ""), sha256) {
				found = true
				return how(path)
			}
			return err
		}); err != nil || !found {
			t.Fatalf("%s: found %v, %v", sha256, found, err)
		}
	}
	rot := func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 1
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o644)
	}
	damage(ch.Files[0].SHA256, rot)
	damage(ch.Files[1].SHA256, os.Remove)
	damage(hosted[0].sha256, rot)
	type report struct {
		Checked           int
		Repaired, Removed []struct{ Path, Reason string }
	}
	run := func(channel string) (r report) {
		t.Helper()
		alice.In(t).Must(200, "PUT", "/api/channels/"+channel+"/actions", `{"action":"validate_packages"}`).JSON(&job)
		status, result := awaitJob(t, alice, job.ID)
		if err := json.Unmarshal(result, &r); err != nil || status != "success" {
			t.Fatalf("%s %s %v", status, result, err)
		}
		return r
	}
	if r := run("mir"); r.Checked != len(ch.Files) || len(r.Repaired) != 2 || len(r.Removed) != 0 {
		t.Errorf("mirror: %+v", r)
	}
	if r := run("mir"); len(r.Repaired) != 0 {
		t.Errorf("again: %+v", r)
	}
	if r := run("hosted"); r.Checked != 3 || len(r.Removed) != 1 || r.Removed[0].Path != hosted[0].subdir+"/"+hosted[0].filename || !strings.Contains(r.Removed[0].Reason, "not those of its digest") {
		t.Errorf("hosted: %+v", r)
	}
	alice.Must(404, "GET", "/api/channels/hosted/packages/"+hosted[0].name+"/versions/"+hosted[0].subdir+"/"+hosted[0].filename, nil)
	bob.Must(201, "POST", "/api/channels/hosted/upload/"+hosted[0].filename+"?sha256=", hosted[0].data)
	if r := run("hosted"); len(r.Removed) != 0 || r.Checked != 3 {
		t.Errorf("uploaded again: %+v", r)
	}
}
