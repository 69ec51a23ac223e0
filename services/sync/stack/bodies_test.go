package stack_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

func content(i, size int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "content %d;", i), size/10+1)[:size]
}

// One upstream sends some forty good files and one of each kind of bad body. Only the bad ones fail, each by its name;
// nothing of them is listed or served; and a reader that reads all the time sees nothing wrong.
func TestBadBodiesFailAlone(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "bodies")
	var all []string
	for i := range 30 {
		all = append(all, m.ch.Add("noarch", fmt.Sprintf("good%02d", i), "1.0", content(i, 3000)))
	}
	for i := range 4 { // over a mebibyte: these stream
		all = append(all, m.ch.Add("noarch", fmt.Sprintf("large%02d", i), "1.0", content(100+i, 2<<20)))
	}
	m.sync(nil)
	m.indexed("noarch", all...)
	stop := m.watch(0, "noarch")

	// The second revision has bad files beside further good ones, and takes back none of those of the first.
	want := map[string]string{}
	for i, size := range []int{3000, 2 << 20} {
		kind := []string{"small", "large"}[i]
		body, other := content(1007+i, size), content(2008, size)
		for name, bad := range map[string]struct {
			h      http.HandlerFunc
			reason string
		}{
			"cut-right":    {fetchtest.Truncate(body, size/2, fetchtest.RightLength), "UPSTREAM_TRUNCATED"},
			"cut-wrong":    {fetchtest.Truncate(body, size/2, fetchtest.WrongLength), "DIGEST_MISMATCH"},
			"cut-none":     {fetchtest.Truncate(body, size/2, fetchtest.NoLength), "UPSTREAM_TRUNCATED"},
			"cut-chunked":  {fetchtest.Truncate(body, size/2, fetchtest.ChunkedLength), "UPSTREAM_TRUNCATED"},
			"corrupt":      {fetchtest.File(append(bytes.Clone(body[:size-1]), body[size-1]^1)), "DIGEST_MISMATCH"},
			"wrong-digest": {fetchtest.File(other), "DIGEST_MISMATCH"},
			"longer":       {fetchtest.Body(append(bytes.Clone(body), "more"...)), "UPSTREAM_TOO_LARGE"},
			"missing":      {fetchtest.Status(404), "UPSTREAM_NOT_FOUND"},
			"gone":         {fetchtest.Status(410), "UPSTREAM_NOT_FOUND"},
			"denied":       {fetchtest.Status(403), "UPSTREAM_STATUS"},
			"broken":       {fetchtest.Status(500), "UPSTREAM_STATUS"},
			"slow":         {fetchtest.Drip(body, 1, 100*time.Millisecond), "UPSTREAM_TIMEOUT"},
			"hangs":        {fetchtest.Hang(), "UPSTREAM_TIMEOUT"},
			"header-drip":  {fetchtest.HeaderDrip(20 * time.Millisecond), "UPSTREAM_TIMEOUT"},
			"endless":      {fetchtest.Endless(body), "UPSTREAM_TOO_LARGE"},
			"loop":         {fetchtest.Redirect(302, "loop-"+kind+"-1.0-0.conda"), "UPSTREAM_REDIRECT_LOOP"},
			"to-private":   {fetchtest.Redirect(302, "http://10.255.255.1/x.conda"), "EGRESS_DENIED"},
			"to-metadata":  {fetchtest.Redirect(307, "http://169.254.169.254/latest/meta-data"), "EGRESS_DENIED"},
			"to-file":      {fetchtest.Redirect(302, "file:///etc/passwd"), "EGRESS_DENIED"},
			"gzip-bomb":    {fetchtest.GzipBomb(1 << 30), "UPSTREAM_TOO_LARGE"},
			"reset":        {fetchtest.Reset(), "UPSTREAM_REFUSED"},
		} {
			path := m.ch.Add("noarch", name+"-"+kind, "1.0", body)
			m.up.Script("/"+path, bad.h)
			want[path] = bad.reason
			// A good neighbour, so that the client does not take the whole server for sick.
			all = append(all, m.ch.Add("noarch", name+"-"+kind+"-ok", "1.0", content(1100+len(all), 2000)))
		}
	}
	// These only look bad.
	again := m.ch.Add("noarch", "second-time", "1.0", content(20, 2<<20))
	m.up.Script("/"+again, fetchtest.CutFile(m.ch.File(again), 1<<20))
	stale := m.ch.Add("noarch", "stale-cache", "1.0", content(21, 3000))
	m.up.Script("/"+stale, fetchtest.File(content(22, 3000)), fetchtest.File(m.ch.File(stale)))
	busy := m.ch.Add("noarch", "busy", "1.0", content(23, 3000))
	m.up.Script("/"+busy, fetchtest.Status(503), fetchtest.File(m.ch.File(busy)))
	all = append(all, again, stale, busy)

	r := m.sync(nil)
	if diff := cmp.Diff(want, r.failures()); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if r.Added != 3+int64(len(want)) || r.Unchanged != 34 || r.Removed != 0 || r.Failed != int64(len(want)) {
		t.Errorf("added %d, unchanged %d, removed %d, failed %d", r.Added, r.Unchanged, r.Removed, r.Failed)
	}
	for _, f := range r.Failures {
		if name, _, _ := strings.Cut(strings.TrimPrefix(f.Path, "noarch/"), "-1.0-0"); !strings.Contains(f.Error, name) && f.Reason != "DIGEST_MISMATCH" && f.Reason != "EGRESS_DENIED" {
			t.Errorf("the error of %s does not name it: %s", f.Path, f.Error)
		}
	}
	m.indexed("noarch", all...)
	slices.Sort(all)
	if diff := cmp.Diff(all, m.listed()); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	m.good(all...)
	for path := range want {
		m.admin().Must(404, "GET", "/get/bodies/"+path, nil)
	}

	// What failed is asked for again, and only that.
	m.up.Reset()
	for path := range want {
		m.up.Script("/"+path, fetchtest.File(m.ch.File(path)))
	}
	r = m.sync(nil)
	if r.Added != int64(len(want)) || r.Failed != 0 {
		t.Errorf("after the upstream was mended: added %d, failed %v", r.Added, r.failures())
	}
	for _, path := range all {
		if n := m.up.Count("/" + path); n != 0 {
			t.Errorf("%s was asked for %d times although it was there", path, n)
		}
	}
	report := stop()
	if report.Rate() < 200 || report.Files < 100 {
		t.Errorf("the reader was too slow to mean much: %.0f requests a second, %d files", report.Rate(), report.Files)
	}
	m.up.Reset()
	if r = m.sync(nil); r.Unchanged != int64(len(all)+len(want)) || r.Added+r.Failed+r.Removed != 0 || r.NotModified != 1 {
		t.Errorf("nothing new: %+v", r)
	}
}

// A file's bytes and record change together; one that cannot be had keeps what the mirror has.
func TestReplacedFilesChangeWithTheirRecord(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "replaced")
	a := m.ch.Add("noarch", "a", "1.0", content(1, 2000))
	b := m.ch.Add("noarch", "b", "1.0", content(2, 2000))
	c := m.ch.Add("noarch", "c", "1.0", content(3, 2000))
	m.sync(nil)
	old := m.ch.File(b)
	m.ch.Add("noarch", "a", "1.0", content(11, 2100))
	m.ch.Add("noarch", "b", "1.0", content(12, 2100))
	m.up.Script("/"+b, fetchtest.Status(404))
	r := m.sync(nil)
	if diff := cmp.Diff(map[string]string{b: "UPSTREAM_NOT_FOUND"}, r.failures()); diff != "" || r.Added != 1 {
		t.Errorf("%+v\n%s", r, diff)
	}
	m.good(a, c)
	if got := m.admin().Must(200, "GET", "/get/replaced/"+b, nil).Body; !bytes.Equal(got, old) {
		t.Error("b lost what it had")
	}
	var list struct {
		Files []struct{ Path, Sha256 string }
	}
	m.admin().Must(200, "GET", "/entrepot/v1/channels/replaced/files", nil).JSON(&list)
	for _, f := range list.Files {
		body := m.admin().Must(200, "GET", "/get/replaced/"+f.Path, nil).Body
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != f.Sha256 {
			t.Errorf("%s: the API's digest is not that of the bytes", f.Path)
		}
	}
}

// An upstream that publishes while it is being read: its index is read once more, and what it says then is mirrored.
func TestAnUpstreamThatPublishesMeanwhileIsReadAgain(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "moving")
	for i := range 5 {
		m.ch.Add("noarch", fmt.Sprintf("p%d", i), "1.0", content(i, 2000))
	}
	path := m.ch.Add("noarch", "moving", "1.0", content(10, 2000))
	m.up.Script("/"+path, func(w http.ResponseWriter, r *http.Request) {
		m.ch.Add("noarch", "moving", "1.0", content(11, 2000)) // published between the index and the file
		m.ch.ServeHTTP(w, r)
	}, m.ch.ServeHTTP)
	if r := m.sync(nil); r.Failed != 0 || r.Added != 6 {
		t.Errorf("%+v", r)
	}
	m.good(path)
}

// Archives that are broken or lie about themselves are refused when the sync looks inside.
func TestSyncThatLooksInside(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "inside")
	good := []string{
		m.ch.AddPackage(t, "noarch", "good", "1.0", dist.Conda), m.ch.AddPackage(t, "noarch", "good", "1.0", dist.TarBz2),
		m.ch.AddPackage(t, "linux-64", "native", "2.0", dist.Conda),
	}
	lying, _ := synctest.Package(t, "noarch", "another", "1.0", dist.Conda)
	foreign, _ := synctest.Package(t, "osx-64", "foreign", "1.0", dist.Conda)
	bad := map[string]string{
		m.ch.Add("noarch", "lying", "1.0", lying):                   "BAD_PACKAGE",
		m.ch.Add("linux-64", "foreign", "1.0", foreign):             "BAD_PACKAGE",
		m.ch.Add("noarch", "garbage", "1.0", []byte("no archive")):  "BAD_PACKAGE",
		m.ch.Add("noarch", "cut", "1.0", lying[:len(lying)/2]):      "BAD_PACKAGE",
		m.ch.Add("noarch", "big-garbage", "1.0", content(1, 2<<20)): "BAD_PACKAGE",
	}
	m.watch(0, "noarch")
	for round := range 2 {
		r := m.sync(map[string]any{"inspect": true})
		if diff := cmp.Diff(bad, r.failures()); diff != "" {
			t.Errorf("round %d (-want +got):\n%s", round, diff)
		}
	}
	slices.Sort(good)
	if diff := cmp.Diff(good, m.listed()); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	m.good(good...)
}
