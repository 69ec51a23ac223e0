package mirrortest

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// lose deletes a stored blob.
func lose(t *testing.T, s *platformtest.Stack, sha256 string) {
	t.Helper()
	found := false
	err := filepath.WalkDir(filepath.Join(s.DataDir, "blobs"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(strings.ReplaceAll(path, "/", ""), sha256) {
			found = true
			return os.Remove(path)
		}
		return err
	})
	if err != nil || !found {
		t.Fatalf("%s: found %v, %v", sha256, found, err)
	}
}

type report struct {
	Checked           int
	Repaired, Removed []struct{ Path, Reason string }
}

func validate(t *testing.T, s *platformtest.Stack, channel string) (r report) {
	t.Helper()
	if err := json.Unmarshal(run(t, s, channel, "validate_packages").Result, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRepairs: what is lost comes back from where it was had, with what it takes to be let in there.
func TestRepairs(t *testing.T) {
	s := platformtest.Start(t)
	u, ch := newUpstream(t, 4, 51)
	locked := func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "reader" && password == "a secret" {
			return false
		}
		w.WriteHeader(401)
		return true
	}
	u.answerBy(locked)
	mirror(t, s, "private-upstream", strings.Replace(u.URL, "://", "://reader:a%20secret@", 1))
	run(t, s, "private-upstream", "synchronize_repodata")
	u.take()

	t.Run("from the upstream, with its credentials", func(t *testing.T) {
		lose(t, s, ch.Files[0].SHA256)
		r := validate(t, s, "private-upstream")
		if r.Checked != 4 || len(r.Removed) != 0 || len(r.Repaired) != 1 || r.Repaired[0].Path != ch.Files[0].Path || !strings.Contains(r.Repaired[0].Reason, "fetched from "+u.URL) {
			t.Errorf("%+v", r)
		}
		if asked := u.take(); len(asked) != 1 || asked[0] != "GET "+ch.Files[0].Path+" 200" {
			t.Errorf("%q", asked)
		}
	})
	t.Run("from a registered mirror, without them, and behind a redirect", func(t *testing.T) {
		copies, _ := newUpstream(t, 4, 51)
		seen := ""
		copies.answerBy(func(w http.ResponseWriter, r *http.Request) bool {
			seen += r.Header.Get("Authorization")
			if strings.HasPrefix(r.URL.Path, "/api/channels/") {
				_, _ = w.Write([]byte(`{"mirror_channel_url": "` + s.URL + `/get/private-upstream"}`))
				return true
			}
			if rest, ok := strings.CutPrefix(r.URL.Path, "/get/copy/"); ok {
				http.Redirect(w, r, copies.URL+"/"+rest, http.StatusTemporaryRedirect)
				return true
			}
			return false
		})
		s.Admin().In(t).Must(201, "POST", "/api/channels/private-upstream/mirrors", obj{"url": copies.URL + "/get/copy"})
		u.answerBy(always(503))
		defer u.answerBy(locked)
		lose(t, s, ch.Files[1].SHA256)
		r := validate(t, s, "private-upstream")
		if len(r.Removed) != 0 || len(r.Repaired) != 1 || !strings.Contains(r.Repaired[0].Reason, copies.URL+"/get/copy") {
			t.Errorf("%+v", r)
		}
		if seen != "" {
			t.Errorf("the mirror was sent %q", seen)
		}
		s.Anonymous().In(t).Must(200, "GET", "/get/private-upstream/"+ch.Files[1].Path, nil)
	})
	t.Run("from nowhere: it leaves the channel", func(t *testing.T) {
		u.answerBy(always(404))
		var mirrors []struct{ ID string }
		s.Admin().In(t).Must(200, "GET", "/api/channels/private-upstream/mirrors", nil).JSON(&mirrors)
		s.Admin().In(t).Must(200, "DELETE", "/api/channels/private-upstream/mirrors/"+mirrors[0].ID, nil)
		lose(t, s, ch.Files[2].SHA256)
		if r := validate(t, s, "private-upstream"); len(r.Removed) != 1 || r.Removed[0].Path != ch.Files[2].Path {
			t.Errorf("%+v", r)
		}
		eventually(t, "the file to be gone", func() bool { // gateways remember for a second what stands at a path
			return s.Anonymous().In(t).Do("GET", "/get/private-upstream/"+ch.Files[2].Path, nil).Status == 404
		})
	})
}

// TestGenerateIndexes: a new revision of the same files, whose index files were made of the database.
func TestGenerateIndexes(t *testing.T) {
	s := platformtest.Start(t)
	u, ch := newUpstream(t, 4, 52)
	mirror(t, s, "m", u.URL)
	run(t, s, "m", "synchronize_repodata")
	quiet(t, s)
	subdir, _, _ := strings.Cut(ch.Files[0].Path, "/")
	read := func() (bodies []string) {
		for _, name := range []string{subdir + "/repodata.json", subdir + "/repodata_shards.msgpack.zst", "noarch/repodata.json", subdir + "/run_exports.json"} {
			bodies = append(bodies, string(s.Anonymous().In(t).Must(200, "GET", "/get/m/"+name, nil).Body))
		}
		return bodies
	}
	head := func() (n int) {
		var got struct{ Head int }
		s.Admin().In(t).Must(200, "GET", "/entrepot/v1/channels/m", nil).JSON(&got)
		return got.Head
	}
	before, was := read(), head()
	var result struct {
		Revision int
		Subdirs  []string
	}
	if err := json.Unmarshal(run(t, s, "m", "generate_indexes").Result, &result); err != nil {
		t.Fatal(err)
	}
	if head() != was+1 || result.Revision != was+1 || len(result.Subdirs) != 2 {
		t.Errorf("revision %d after %d; %+v", head(), was, result)
	}
	quiet(t, s)
	for i, body := range read() {
		if body != before[i] {
			t.Errorf("index file %d says something else than before", i)
		}
	}
	if got := s.Anonymous().Must(200, "GET", "/get/m/"+subdir+"/repodata.json", nil).Header.Get("Entrepot-Revision"); got != "" && got != jsonNumber(was+1) {
		t.Errorf("repodata.json is of revision %s, not %d", got, was+1)
	}
	var revisions struct {
		Revisions []struct {
			Number, Added, Removed int
			Cause                  string
		}
	}
	s.Admin().Must(200, "GET", "/entrepot/v1/channels/m/revisions", nil).JSON(&revisions)
	if r := revisions.Revisions[0]; r.Cause != "generate" || r.Number != was+1 || r.Added+r.Removed != 0 {
		t.Errorf("%+v", r)
	}
	t.Run("shards that were lost come back", func(t *testing.T) {
		for _, digest := range query[string](t, s, `SELECT encode(digest, 'hex') FROM channels.conda_shards`) {
			lose(t, s, digest)
		}
		run(t, s, "m", "generate_indexes")
		for _, digest := range query[string](t, s, `SELECT encode(digest, 'hex') FROM channels.conda_shards WHERE subdir = $1`, subdir) {
			s.Anonymous().In(t).Must(200, "GET", "/get/m/"+subdir+"/shards/"+digest+".msgpack.zst", nil)
		}
	})
}

func jsonNumber(n int) string {
	data, _ := json.Marshal(n)
	return string(data)
}
