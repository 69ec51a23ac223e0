package stack_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// times notes when a behaviour was asked for.
type times struct {
	mu gosync.Mutex
	at []time.Time
}

func (n *times) note(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.at = append(n.at, time.Now())
		n.mu.Unlock()
		h(w, r)
	}
}

func (n *times) all() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]time.Time{}, n.at...)
}

// An upstream that says 429 is left alone for as long as it wishes, all of it and nothing else; nothing of it fails.
func TestABusyUpstreamIsLeftAloneForAWhile(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m, other := newMirror(t, s, "busy"), newMirror(t, s, "idle")
	var paths []string
	for i := range 60 {
		paths = append(paths, m.ch.Add("noarch", fmt.Sprintf("p%02d", i), "1.0", content(i, 500)))
	}
	otherPath := other.ch.Add("noarch", "q", "1.0", content(99, 500))
	var asked times
	busy := make(chan struct{})
	var once gosync.Once
	m.up.Fallback(asked.note(m.ch.ServeHTTP))
	throttle := func(w http.ResponseWriter, r *http.Request) {
		fetchtest.Status(429, "Retry-After", "2")(w, r)
		once.Do(func() { close(busy) })
	}
	m.up.Script("/"+paths[20], asked.note(throttle), asked.note(m.ch.ServeHTTP))
	m.watch(0, "noarch")
	j := m.start(nil)
	select {
	case <-busy:
	case <-time.After(30 * time.Second):
		t.Fatal("it was never asked for the file")
	}
	since := time.Now()
	if r := other.sync(nil); r.Added != 1 || time.Since(since) > 1900*time.Millisecond {
		t.Errorf("another host: %+v after %s", r, time.Since(since))
	}
	other.good(otherPath)
	j = m.wait(j.ID, ended)
	if j.State != "JOB_STATE_SUCCEEDED" || j.Result.Added != 60 || j.Result.Failed != 0 {
		t.Fatalf("%+v", j)
	}
	// Those that were under way may arrive; then nothing does until the time is over.
	for _, at := range asked.all() {
		if d := at.Sub(since); d > 500*time.Millisecond && d < 1800*time.Millisecond {
			t.Errorf("it was asked %s after it had said to wait 2 s", d)
		}
	}
	m.indexed("noarch", paths...)
	m.good(paths...)

	t.Run("so is one whose index is throttled", func(t *testing.T) {
		m := newMirror(t, s, "busyindex")
		path := m.ch.Add("noarch", "a", "1.0", content(1, 500))
		m.up.Script("/noarch/repodata.json.zst", fetchtest.Status(429, "Retry-After", "1"), m.ch.ServeHTTP)
		if r := m.sync(nil); r.Added != 1 || r.Failed != 0 {
			t.Errorf("%+v", r)
		}
		m.good(path)
	})
	t.Run("one that wishes for an hour is not waited for: the files are named, and had the next time", func(t *testing.T) {
		m := newMirror(t, s, "busyhour")
		good := m.ch.Add("linux-64", "a", "1.0", content(7001, 500))
		m.sync(nil)
		path := m.ch.Add("noarch", "b", "1.0", content(7002, 500))
		m.up.Script("/"+path, fetchtest.Status(429, "Retry-After", "3600"))
		r := m.sync(nil)
		if diff := cmp.Diff(map[string]string{path: "UPSTREAM_STATUS"}, r.failures()); diff != "" || !strings.Contains(r.Failures[0].Error, "429") {
			t.Errorf("%+v\n%s", r, diff)
		}
		m.good(good)
		m.admin().Must(404, "GET", "/get/busyhour/"+path, nil)
	})
	t.Run("403 and then 200 is what busy mirrors do", func(t *testing.T) {
		m := newMirror(t, s, "shy")
		path := m.ch.Add("noarch", "a", "1.0", content(1, 500))
		m.up.Script("/noarch/repodata.json.zst", fetchtest.Status(403), m.ch.ServeHTTP)
		m.up.Script("/"+path, fetchtest.Status(403), m.ch.ServeHTTP)
		if r := m.sync(nil); r.Added != 1 || r.Failed != 0 {
			t.Errorf("%+v", r)
		}
		m.good(path)
	})
}

// A file that breaks off is continued only where what follows is of the same file; else it is had from zero. Whatever
// servers do with ranges, what is stored has the right bytes or is not stored.
func TestContinuedFilesAreOfOnePiece(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "resumed")
	const size, cut = 3 << 20, 1 << 20
	var good []string
	want := map[string]string{}
	add := func(name, reason string, script func(body []byte) []http.HandlerFunc) {
		body := content(3000+len(good)+len(want), size)
		path := m.ch.Add("noarch", name, "1.0", body)
		m.up.Script("/"+path, script(body)...)
		if reason != "" {
			want[path] = reason
			return
		}
		good = append(good, path)
	}
	other := content(4000, size)
	relabel := func(h http.HandlerFunc, etag string) http.HandlerFunc { // under an ETag that is not of its bytes
		return func(w http.ResponseWriter, r *http.Request) { h(&etagWriter{w, etag}, r) }
	}
	add("continued", "", func(b []byte) []http.HandlerFunc {
		return []http.HandlerFunc{fetchtest.CutFile(b, cut), fetchtest.File(b)}
	})
	add("changed-etag", "", func(b []byte) []http.HandlerFunc { // first another version, then the right one
		return []http.HandlerFunc{fetchtest.CutFile(other, cut), fetchtest.File(b)}
	})
	add("same-etag-other-bytes", "", func(b []byte) []http.HandlerFunc {
		return []http.HandlerFunc{relabel(fetchtest.CutFile(other, cut), `"v1"`), relabel(fetchtest.File(b), `"v1"`), relabel(fetchtest.File(b), `"v1"`)}
	})
	add("weak-etag", "", func(b []byte) []http.HandlerFunc {
		return []http.HandlerFunc{relabel(fetchtest.CutFile(b, cut), `W/"v1"`), relabel(fetchtest.File(b), `W/"v1"`)}
	})
	add("no-ranges", "", func(b []byte) []http.HandlerFunc {
		return []http.HandlerFunc{fetchtest.CutFile(b, cut), fetchtest.IgnoreRange(fetchtest.File(b))}
	})
	add("range-refused", "", func(b []byte) []http.HandlerFunc {
		return []http.HandlerFunc{fetchtest.CutFile(b, cut), fetchtest.Status(416), fetchtest.File(b)}
	})
	add("wrong-range", "", func(b []byte) []http.HandlerFunc {
		wrong := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", size-1, size))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(b[5:])
		}
		return []http.HandlerFunc{fetchtest.CutFile(b, cut), wrong, fetchtest.File(b)}
	})
	add("always-mixed", "DIGEST_MISMATCH", func(b []byte) []http.HandlerFunc { // each range from another version, and never the right whole
		mixed := append(bytes.Clone(b[:cut]), other[cut:]...)
		return []http.HandlerFunc{relabel(fetchtest.CutFile(b, cut), `"v1"`), relabel(fetchtest.File(mixed), `"v1"`)}
	})
	m.watch(0, "noarch")
	r := m.sync(nil)
	if diff := cmp.Diff(want, r.failures()); diff != "" || r.Added != int64(len(good)) {
		t.Errorf("added %d, failures (-want +got):\n%s", r.Added, diff)
	}
	for _, f := range r.Failures {
		t.Logf("%s: %s", f.Path, f.Error)
	}
	m.indexed("noarch", good...)
	m.good(good...)
}

// etagWriter replaces the ETag that is sent.
type etagWriter struct {
	http.ResponseWriter
	etag string
}

func (w *etagWriter) WriteHeader(code int) {
	w.Header().Set("ETag", w.etag)
	w.ResponseWriter.WriteHeader(code)
}

func (w *etagWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// An upstream that never rests, whose index is another one each time and whose files never are what it says, is read
// twice and then left; what is sound of it is had, and the reader sees nothing wrong.
func TestAnUpstreamThatNeverRestsIsReadTwice(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "restless")
	sound := m.ch.Add("noarch", "sound", "1.0", content(1, 500))
	m.sync(nil)
	m.watch(0, "noarch")
	path := m.ch.Add("noarch", "moving", "1.0", content(2, 500))
	n := 0
	var mu gosync.Mutex
	m.up.Script("/"+path, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		old := m.ch.File(path)
		m.ch.Add("noarch", "moving", "1.0", content(100+n, 500)) // published just after the file was asked for
		mu.Unlock()
		fetchtest.File(old[:len(old)-1])(w, r)
	})
	m.up.Reset()
	r := m.sync(nil)
	if diff := cmp.Diff(map[string]string{path: "DIGEST_MISMATCH"}, r.failures()); diff != "" {
		t.Errorf("%+v\n%s", r, diff)
	}
	if n := m.up.Count("/noarch/repodata.json.zst"); n < 2 || n > 4 {
		t.Errorf("the index was read %d times", n)
	}
	m.good(sound)
	m.admin().Must(404, "GET", "/get/restless/"+path, nil)
}

// modified serves bytes with a Last-Modified of their own.
func modified(at time.Time, data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", fetchtest.ETag(data))
		http.ServeContent(w, r, "", at, bytes.NewReader(data))
	}
}

// Forms of one index that disagree: the fresh one wins where that can be told, subdirs stand for themselves, and records
// that their files do not bear out fail file by file.
func TestIndexesOfMixedAge(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "mixed")
	day := fetchtest.Modified
	kept := m.ch.Add("noarch", "kept", "1.0", content(1, 500))
	replaced := m.ch.Add("noarch", "replaced", "1.0", content(2, 500))
	gone := m.ch.Add("noarch", "gone", "1.0", content(3, 500))
	native := m.ch.Add("linux-64", "native", "1.0", content(4, 500))
	m.up.Script("/noarch/repodata.json.zst", modified(day.Add(-30*24*time.Hour), synctest.Zstd(m.ch.Index("noarch")))) // forgotten a month ago
	m.up.Script("/linux-64/repodata.json.zst", modified(day.Add(-30*24*time.Hour), synctest.Zstd(m.ch.Index("linux-64"))))
	m.up.Script("/linux-64/repodata.json", modified(day.Add(-30*24*time.Hour), m.ch.Index("linux-64"))) // old, and all there is
	m.ch.Add("noarch", "replaced", "1.0", content(12, 600))
	m.ch.Remove(gone)
	fresh := m.ch.Add("noarch", "fresh", "1.0", content(5, 500))
	m.up.Script("/noarch/repodata.json", modified(day, m.ch.Index("noarch")))
	m.watch(0, "noarch", "linux-64")

	r := m.sync(nil)
	if r.Failed != 0 || r.Added != 4 || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "noarch/repodata.json.zst is 720h0m0s older than noarch/repodata.json") {
		t.Errorf("%+v", r)
	}
	m.indexed("noarch", kept, replaced, fresh)
	m.indexed("linux-64", native)
	m.good(kept, replaced, fresh, native)

	t.Run("without times, files that disagree with the compressed one tell", func(t *testing.T) {
		m := newMirror(t, s, "timeless")
		bare := func(data []byte) http.HandlerFunc {
			return fetchtest.With(fetchtest.Body(data), "ETag", fetchtest.ETag(data))
		}
		a := m.ch.Add("noarch", "a", "1.0", content(7011, 500))
		m.up.Script("/noarch/repodata.json.zst", bare(synctest.Zstd(m.ch.Index("noarch"))))
		m.ch.Add("noarch", "a", "1.0", content(7012, 500))
		b := m.ch.Add("noarch", "b", "1.0", content(7013, 500))
		m.up.Script("/noarch/repodata.json", bare(m.ch.Index("noarch")))
		if r := m.sync(nil); r.Failed != 0 || r.Added != 2 || len(r.Warnings) != 1 {
			t.Errorf("%+v", r)
		}
		m.good(a, b)
	})
	t.Run("records that no form bears out fail by name", func(t *testing.T) {
		m := newMirror(t, s, "lying")
		good := m.ch.Add("noarch", "good", "1.0", content(1, 500))
		m.sync(nil)
		want := map[string]string{}
		for i, key := range []string{"sha256", "md5", "size"} {
			path := m.ch.Add("noarch", "lies-"+key, "1.0", content(7020+i, 500))
			switch key {
			case "sha256":
				m.ch.Edit(path, key, strings.Repeat("0", 64))
			case "md5":
				m.ch.Edit(path, "sha256", nil)
				m.ch.Edit(path, key, strings.Repeat("0", 32))
			case "size":
				m.ch.Edit(path, key, 499)
			}
			want[path] = map[string]string{"sha256": "DIGEST_MISMATCH", "md5": "DIGEST_MISMATCH", "size": "UPSTREAM_TOO_LARGE"}[key]
		}
		r := m.sync(nil)
		if diff := cmp.Diff(want, r.failures()); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
		m.indexed("noarch", good)
		m.good(good)
	})
}

// A page instead of a file, as portals and broken caches send with 200: told as what it is, and the channel keeps all.
func TestPagesInsteadOfIndexes(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	page := fetchtest.With(fetchtest.Body([]byte("<html><body>Please log in</body></html>")), "Content-Type", "text/html")
	n := 0
	for name, tc := range map[string]struct {
		script func(m *mirror)
		text   string
	}{
		"a page for everything": {func(m *mirror) { m.up.Fallback(page) }, "repodata.json"},
		"a page for each form of the index": {func(m *mirror) {
			for _, f := range []string{"repodata.json.zst", "repodata.json.bz2", "repodata.json", "repodata_from_packages.json"} {
				m.up.Script("/noarch/"+f, page)
			}
		}, "repodata.json"},
		"a truncated frame and nothing else": {func(m *mirror) {
			m.up.Script("/noarch/repodata.json.zst", fetchtest.File(synctest.Zstd(m.ch.Index("noarch"))[:30]))
			m.up.Script("/noarch/repodata.json", fetchtest.Status(404))
		}, "repodata.json.zst"},
		"a frame that unpacks to terabytes": {func(m *mirror) {
			m.up.Script("/noarch/repodata.json.zst", fetchtest.File(bomb(t)))
			m.up.Script("/noarch/repodata.json", fetchtest.GzipBomb(1<<30))
		}, "repodata.json.zst"},
		"no JSON": {func(m *mirror) {
			m.up.Script("/noarch/repodata.json.zst", fetchtest.File(synctest.Zstd([]byte("no JSON at all"))))
			m.up.Script("/noarch/repodata.json", fetchtest.File([]byte("[1,2,3]")))
		}, "repodata.json.zst"},
		"nothing": {func(m *mirror) {
			m.up.Script("/noarch/repodata.json.zst", fetchtest.File(nil))
			m.up.Script("/noarch/repodata.json", fetchtest.File(nil))
		}, "repodata.json"},
	} {
		n++
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, s, fmt.Sprintf("page%d", n))
			path := m.ch.Add("noarch", "a", "1.0", content(1, 500))
			m.ch.Put("channeldata.json", []byte(`{"subdirs":["noarch"]}`))
			m.sync(nil)
			m.indexed("noarch", path)
			m.watch(0, "noarch")
			m.ch.Add("noarch", "b", "1.0", content(2, 500))
			tc.script(m)
			j := m.wait(m.start(map[string]any{"force": true}).ID, ended)
			if !strings.Contains(j.Error, tc.text) || !strings.Contains(j.Error, "127.0.0.1") {
				t.Errorf("the job's error does not name the index: %s %q", j.State, j.Error)
			}
			m.indexed("noarch", path)
			m.good(path)
		})
	}
}
