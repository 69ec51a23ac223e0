package sync

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// at serves bytes with a Last-Modified of its own; a zero time leaves it out.
func at(modified time.Time, data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", fetchtest.ETag(data))
		if !modified.IsZero() {
			w.Header().Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
		}
		if r.Header.Get("If-None-Match") == fetchtest.ETag(data) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	}
}

// A compressed index that somebody has ceased to write does not hide what the plain one says.
func TestAForgottenCompressedIndexIsNotBelieved(t *testing.T) {
	now := fetchtest.Modified
	for name, tc := range map[string]struct {
		zst, plain time.Time // Last-Modified
		plainIs    string    // "newer", "same", "missing", "broken", "refused"
		doubt      bool
		want       string
		warned     bool
		asked      int // for the plain one, HEAD and GET
	}{
		"both of one time":                     {now, now, "newer", false, "zst", false, 1},
		"written a little later":               {now, now.Add(10 * time.Minute), "newer", false, "zst", false, 1},
		"written much later":                   {now, now.Add(time.Hour), "newer", false, "plain", true, 2},
		"written much later, the same":         {now, now.Add(time.Hour), "same", false, "zst", false, 2},
		"written earlier":                      {now, now.Add(-time.Hour), "newer", false, "zst", false, 1},
		"a little later, and files disagree":   {now, now.Add(time.Minute), "newer", true, "plain", true, 2},
		"at the same time, and files disagree": {now, now, "newer", true, "zst", false, 1},
		"without times":                        {time.Time{}, time.Time{}, "newer", false, "zst", false, 0},
		"without times, and files disagree":    {time.Time{}, time.Time{}, "newer", true, "plain", true, 1},
		"the same without times, in doubt":     {time.Time{}, time.Time{}, "same", true, "zst", false, 1},
		"not there":                            {now, now, "missing", true, "zst", false, 1},
		"much later but broken":                {now, now.Add(time.Hour), "broken", false, "zst", false, 2},
		"a server that refuses HEAD":           {now, now.Add(time.Hour), "refused", false, "zst", false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.ch.Add("noarch", "old", "1", []byte("old"))
			stale := b.ch.Index("noarch")
			b.up.Script("/noarch/repodata.json.zst", at(tc.zst, synctest.Zstd(stale)))
			plain := stale
			if tc.plainIs != "same" {
				b.ch.Add("noarch", "fresh", "1", []byte("fresh"))
				plain = b.ch.Index("noarch")
			}
			h := at(tc.plain, plain)
			switch tc.plainIs {
			case "missing":
				h = fetchtest.Status(404)
			case "broken":
				h = at(tc.plain, plain[:len(plain)/2])
			case "refused":
				h = fetchtest.Status(405)
			}
			b.up.Script("/noarch/repodata.json", h)
			u := b.upstream()
			u.doubted = map[string]bool{"noarch": tc.doubt}
			found, warnings, err := u.survey(t.Context(), []string{"noarch"}, false)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{"zst": "noarch/repodata.json.zst", "plain": "noarch/repodata.json"}[tc.want]
			if found[0].IndexPath != want || found[0].err != nil {
				t.Errorf("read was %s, want %s (%v)", found[0].IndexPath, want, found[0].err)
			}
			if records := map[bool]int64{true: 2, false: 1}[tc.want == "plain"]; found[0].Records != records {
				t.Errorf("%d records, want %d", found[0].Records, records)
			}
			if tc.warned != (len(warnings) == 1 && strings.Contains(warnings[0], "repodata.json.zst")) {
				t.Errorf("warnings: %q", warnings)
			}
			if n := b.up.Count("/noarch/repodata.json"); n != tc.asked {
				t.Errorf("the plain one was asked for %d times, want %d", n, tc.asked)
			}
		})
	}
	t.Run("a server that refuses HEAD is asked so once", func(t *testing.T) {
		b := setup(t)
		for _, subdir := range []string{"noarch", "linux-64", "osx-64", "win-64"} {
			b.ch.Add(subdir, "a", "1", []byte(subdir))
			b.up.Script("/"+subdir+"/repodata.json", fetchtest.Status(405))
		}
		u := b.upstream()
		for range 3 {
			if _, _, err := u.survey(t.Context(), []string{"noarch", "linux-64", "osx-64", "win-64"}, true); err != nil {
				t.Fatal(err)
			}
		}
		heads := 0
		for _, r := range b.up.Requests() {
			if r.Method == http.MethodHead {
				heads++
			}
		}
		if heads > indexFetches { // those that were under way with the first
			t.Errorf("%d requests", heads)
		}
	})
}
