package mirrortest

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// sorted orders what was asked at the same time.
func sorted(asked []string) []string { slices.Sort(asked); return asked }

// TestWhatAMirrorAsks: word by word, what a sync asks an upstream, and what it does not.
func TestWhatAMirrorAsks(t *testing.T) {
	s := platformtest.Start(t)
	u, ch := newUpstream(t, 5, 21)
	var files []string
	for _, f := range ch.Files {
		files = append(files, "GET "+f.Path+" 200")
	}
	subdirs := []string{ch.Files[0].Path[:strings.IndexByte(ch.Files[0].Path, '/')], "noarch"}
	indexes := func(line string) (out []string) {
		for _, d := range subdirs {
			out = append(out, strings.ReplaceAll(line, "SUBDIR", d))
		}
		return out
	}
	mirror(t, s, "m", u.URL)
	quiet(t, s)
	if asked := u.take(); len(asked) != 0 {
		t.Errorf("actions: [] asked %q", asked)
	}

	run(t, s, "m", "synchronize_repodata")
	want := slices.Concat([]string{"GET channeldata.json 200"}, indexes("GET SUBDIR/repodata.json.zst 200"), files)
	if diff := cmp.Diff(sorted(want), sorted(u.take())); diff != "" {
		t.Errorf("the first sync (-want +got):\n%s", diff)
	}

	unchanged := slices.Concat([]string{"GET channeldata.json If-None-Match 304"}, indexes("GET SUBDIR/repodata.json.zst If-None-Match 304"))
	run(t, s, "m", "synchronize_repodata")
	if diff := cmp.Diff(sorted(unchanged), sorted(u.take())); diff != "" {
		t.Errorf("nothing has changed (-want +got):\n%s", diff)
	}

	more := u.build(t, 6, 21)
	fresh := more.Files[slices.IndexFunc(more.Files, func(f sampleFile) bool { return !slices.Contains(files, "GET "+f.Path+" 200") })]
	run(t, s, "m", "synchronize_repodata")
	asked := sorted(u.take())
	packages := slices.DeleteFunc(slices.Clone(asked), func(l string) bool { return strings.Contains(l, "repodata") || strings.Contains(l, "channeldata") })
	if diff := cmp.Diff([]string{"GET " + fresh.Path + " 200"}, packages); diff != "" {
		t.Errorf("one file is new (-want +got):\n%s", diff)
	}
	for _, line := range asked {
		if strings.Contains(line, "repodata") && !strings.Contains(line, "If-None-Match") {
			t.Errorf("asked for without the ETag that was known: %s", line)
		}
	}
	if n := len(asked); n != len(subdirs)+2 {
		t.Errorf("%d requests: %q", n, asked)
	}

	t.Run("another mirror of the same files takes their bytes from storage", func(t *testing.T) {
		mirror(t, s, "again", u.URL)
		run(t, s, "again", "synchronize_repodata")
		want := sorted(slices.Concat([]string{"GET channeldata.json 200"}, indexes("GET SUBDIR/repodata.json.zst 200")))
		if diff := cmp.Diff(want, sorted(u.take())); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("only the chosen subdir, only what is included, nothing of a proxylist", func(t *testing.T) {
		name := strings.SplitN(strings.TrimPrefix(ch.Files[0].Path, subdirs[0]+"/"), "-", 2)[0]
		u2, ch2 := newUpstream(t, 5, 22)
		s.Admin().In(t).Must(200, "POST", "/entrepot/v1/channels", obj{"name": "chosen", "private": false, "mirror": obj{
			"url": u2.URL, "subdirs": []string{subdirs[0]}, "proxylist": []string{packageOf(ch2.Files[0].Path)},
		}})
		run(t, s, "chosen", "synchronize_repodata")
		var want []string
		for _, f := range ch2.Files {
			if strings.HasPrefix(f.Path, subdirs[0]+"/") && packageOf(f.Path) != packageOf(ch2.Files[0].Path) {
				want = append(want, "GET "+f.Path+" 200")
			}
		}
		want = append(want, "GET "+subdirs[0]+"/repodata.json.zst 200")
		if diff := cmp.Diff(sorted(want), sorted(u2.take())); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	})
}

// TestWhatAProxyAsks: what clients want is asked for once, and an index that is not fresh any more by its ETag.
func TestWhatAProxyAsks(t *testing.T) {
	s := platformtest.Start(t)
	u, ch := newUpstream(t, 5, 23)
	admin, anyone := s.Admin(), s.Anonymous()
	admin.Must(201, "POST", "/api/channels", obj{"name": "p", "private": false, "mirror_channel_url": u.URL, "mirror_mode": "proxy"})
	if asked := u.take(); len(asked) != 0 {
		t.Fatalf("a new proxy asked %q", asked)
	}
	file := ch.Files[0].Path
	subdir, _, _ := strings.Cut(file, "/")
	index := "/get/p/" + subdir + "/repodata.json"

	tag := anyone.Must(200, "GET", index, nil).Header.Get("ETag")
	first := u.take()
	if len(first) == 0 || slices.ContainsFunc(first, func(l string) bool {
		return strings.Contains(l, "If-") || !strings.HasPrefix(l, "GET ") && !strings.HasPrefix(l, "HEAD ")
	}) {
		t.Errorf("the first client: %q", first)
	}
	if got := len(slices.DeleteFunc(slices.Clone(first), func(l string) bool { return !strings.HasSuffix(l, " 200") || strings.HasPrefix(l, "HEAD ") })); got != 1 {
		t.Errorf("one index was wanted, and %q was asked", first)
	}
	for range 3 {
		anyone.In(t).Must(200, "GET", index, nil)
		anyone.In(t).Send(304, platformtest.Request{Method: "GET", Path: index, Header: http.Header{"If-None-Match": {tag}}})
		anyone.In(t).Must(200, "HEAD", index, nil)
		anyone.In(t).Must(200, "GET", index+".zst", nil)
	}
	if asked := u.take(); len(asked) != 0 {
		t.Errorf("while it is fresh: %q", asked)
	}

	anyone.Must(200, "HEAD", "/get/p/"+file, nil)
	if asked := u.take(); slices.ContainsFunc(asked, func(l string) bool { return strings.HasPrefix(l, "GET ") && strings.Contains(l, file) }) {
		t.Errorf("HEAD fetched the file: %q", asked)
	}
	for range 3 {
		anyone.In(t).Must(200, "GET", "/get/p/"+file, nil)
	}
	if diff := cmp.Diff([]string{"GET " + file + " 200"}, u.take()); diff != "" {
		t.Errorf("a file, three times (-want +got):\n%s", diff)
	}
	anyone.Must(404, "GET", "/get/p/"+subdir+"/no-such-1.0-0.conda", nil)
	if asked := u.take(); len(asked) != 0 {
		t.Errorf("what is not listed was asked for: %q", asked)
	}

	// A minute later: each index that is wanted is asked for by its ETag, and the files not at all.
	query[int](t, s, `UPDATE sync.proxy_indexes SET checked_at = checked_at - interval '5 minutes' RETURNING 1`)
	query[int](t, s, `UPDATE channels.proxied SET fresh_until = now() - interval '5 minutes' WHERE fresh_until IS NOT NULL RETURNING 1`)
	s.Restart() // for what processes remember
	s.Anonymous().Must(200, "GET", index, nil)
	var asked []string
	eventually(t, "the revalidation", func() bool { asked = append(asked, u.take()...); return len(asked) > 0 })
	for _, line := range asked {
		if !strings.HasSuffix(line, " If-None-Match 304") {
			t.Errorf("a revalidation: %q", line)
		}
	}
	s.Anonymous().Must(200, "GET", "/get/p/"+file, nil)
	if asked := u.take(); slices.ContainsFunc(asked, func(l string) bool { return strings.Contains(l, file) }) {
		t.Errorf("a stored file was asked for again: %q", asked)
	}
}

// TestANewSubdirIsToldAtOnce: mirrors ask for the subdirs that channeldata.json names, so one that is new must not wait
// there for the pause that is kept between two builds.
func TestANewSubdirIsToldAtOnce(t *testing.T) {
	s := platformtest.Start(t)
	u, ch := newUpstream(t, 2, 24)
	s.Admin().Must(201, "POST", "/api/channels", obj{"name": "fresh", "private": false})
	upload := func(path string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(u.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		s.Admin().In(t).Must(201, "POST", "/api/channels/fresh/upload/"+filepath.Base(path)+"?sha256=", data)
	}
	told := func() string {
		return string(s.Anonymous().In(t).Do("GET", "/get/fresh/channeldata.json", nil).Body)
	}
	subdir, _, _ := strings.Cut(ch.Files[0].Path, "/")
	eventually(t, "the first channeldata.json", func() bool { return strings.Contains(told(), "channeldata_version") })
	upload(ch.Files[0].Path)
	eventually(t, "the new subdir in channeldata.json", func() bool { return strings.Contains(told(), `"`+subdir+`"`) })
	put := func() int {
		return query[int](t, s, `SELECT count(*)::int FROM jobs.jobs WHERE kind = 'channels.extras' AND resource = 'channel/fresh' AND coalesce_key LIKE '%/' AND start_at IS NOT NULL`)[0]
	}
	if n := put(); n != 0 {
		t.Errorf("%d builds of channeldata.json were put off", n)
	}
	quiet(t, s)
	mirror(t, s, "copy", s.URL+"/get/fresh")
	if j := run(t, s, "copy", "synchronize_repodata"); !strings.Contains(string(j.Result), `"added":1`) {
		t.Errorf("%s", j.Result)
	}
}
