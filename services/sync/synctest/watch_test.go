package synctest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server serves a channel as a mirror would, at revision 1, and lets a test lie.
func server(t *testing.T, lie func(n int64, w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	t.Helper()
	ch := NewChannel()
	path := ch.Add("noarch", "a", "1", []byte("bytes of a"))
	doc := ch.Index("noarch")
	shard, digest, err := repodata.BuildShard(repodata.Shard{Records: []repodata.ShardRecord{{
		Bucket: repodata.Conda, Key: "a-1-0.conda", Raw: repodata.Key(repodata.Key(doc, "packages.conda"), "a-1-0.conda"),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	index, err := repodata.BuildIndex(repodata.ShardIndex{Subdir: "noarch", BaseURL: "./", ShardsBaseURL: "./shards/", Shards: map[string][32]byte{"a": digest}})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"/noarch/repodata.json": doc, "/noarch/repodata.json.zst": Zstd(doc), "/noarch/repodata_shards.msgpack.zst": index,
		"/noarch/shards/" + repodata.ShardPath(digest): shard, "/" + path: ch.File(path),
	}
	var n atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Entrepot-Revision", "1")
		if lie != nil && lie(n.Add(1), w, r) {
			return
		}
		data, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s
}

func watchFor(url string, d time.Duration) Report {
	w := Watch(WatchConfig{URL: url, Rate: 400})
	time.Sleep(d)
	return w.Stop()
}

func TestAnHonestServerIsBelieved(t *testing.T) {
	r := watchFor(server(t, nil).URL, 400*time.Millisecond)
	if len(r.Violations) != 0 || r.Files == 0 || r.Indexes == 0 {
		t.Errorf("%+v", r)
	}
}

func TestEveryLieIsSeen(t *testing.T) {
	is := func(r *http.Request, suffix string) bool { return strings.HasSuffix(r.URL.Path, suffix) }
	status := func(w http.ResponseWriter, code int) bool { w.WriteHeader(code); return true }
	body := func(w http.ResponseWriter, text string) bool { _, _ = w.Write([]byte(text)); return true }
	for name, tc := range map[string]struct {
		lie func(n int64, w http.ResponseWriter, r *http.Request) bool
		say string
	}{
		"a listed file is not there": {func(_ int64, w http.ResponseWriter, r *http.Request) bool { return is(r, ".conda") && status(w, 404) }, "status 404"},
		"a file has other bytes": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			return is(r, ".conda") && body(w, "bytes of b")
		}, "wrong sha256"},
		"a file is cut": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			if !is(r, ".conda") {
				return false
			}
			w.Header().Set("Content-Length", "10")
			return body(w, "bytes")
		}, "broke off"},
		"an index comes and goes": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			return is(r, "repodata.json") && n > 20 && status(w, 404)
		}, "repodata.json: status 404"},
		"an index fails": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			return is(r, "repodata.json.zst") && status(w, 500)
		}, "status 500"},
		"an index is no JSON": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			return is(r, "repodata.json.zst") && status(w, 404) || is(r, "repodata.json") && body(w, "{")
		}, "unexpected end of JSON"},
		"one revision, two contents": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			return is(r, "repodata.json") && n%2 == 0 && body(w, `{"packages":{}}`)
		}, "two contents"},
		"the compressed one is another": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			return is(r, "repodata.json.zst") && body(w, string(Zstd([]byte(`{"packages":{}}`))))
		}, "two contents"},
		"a revision goes back": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if is(r, "repodata_shards.msgpack.zst") && n < 20 {
				w.Header().Set("Entrepot-Revision", "7")
			}
			return false
		}, "revision 1 after 7"},
		"no revision is told": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			w.Header().Del("Entrepot-Revision")
			return false
		}, "no Entrepot-Revision"},
		"a shard is another": {func(_ int64, w http.ResponseWriter, r *http.Request) bool {
			return strings.Contains(r.URL.Path, "/shards/") && body(w, "shard")
		}, "wrong digest"},
		"the connection is cut": {func(n int64, w http.ResponseWriter, r *http.Request) bool {
			if n%40 < 20 { // net/http asks again by itself while it has used connections left
				panic(http.ErrAbortHandler)
			}
			return false
		}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := watchFor(server(t, tc.lie).URL, 600*time.Millisecond)
			if !strings.Contains(strings.Join(r.Violations, "\n"), tc.say) {
				t.Errorf("%+v", r)
			}
		})
	}
}

// While an edge is broken on purpose only its silence is excused, never what it says.
func TestTheWatcherToleratesSilenceAndNothingElse(t *testing.T) {
	failing := func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	lying := func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, ".conda") {
			return false
		}
		_, _ = w.Write([]byte("bytes of b"))
		return true
	}
	watch := func(t *testing.T, tolerate bool, urls ...string) Report {
		w := Watch(WatchConfig{URL: urls[0], More: urls[1:], Rate: 400})
		w.Tolerate(tolerate)
		time.Sleep(600 * time.Millisecond)
		return w.Stop()
	}
	t.Run("an edge that fails is no violation, and is left alone where there is another", func(t *testing.T) {
		t.Parallel()
		bad, good := server(t, failing), server(t, nil)
		r := watch(t, true, bad.URL, good.URL)
		if len(r.Violations) > 0 || r.Unanswered == 0 || r.Files == 0 || r.Rate() < 200 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("without being told it is one", func(t *testing.T) {
		t.Parallel()
		bad, good := server(t, failing), server(t, nil)
		if r := watch(t, false, bad.URL, good.URL); len(r.Violations) == 0 || r.Unanswered > 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("wrong bytes are one at any time", func(t *testing.T) {
		t.Parallel()
		if r := watch(t, true, server(t, lying).URL); !strings.Contains(strings.Join(r.Violations, "\n"), "wrong sha256") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("it ends when it is told so", func(t *testing.T) {
		t.Parallel()
		w := Watch(WatchConfig{URL: server(t, failing).URL, Rate: 400})
		w.Tolerate(true)
		w.Tolerate(true) // again does not turn it off
		w.Tolerate(false)
		time.Sleep(300 * time.Millisecond)
		if r := w.Stop(); len(r.Violations) == 0 {
			t.Errorf("%+v", r)
		}
	})
}
