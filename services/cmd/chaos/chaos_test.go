package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryGuardHasItsScenario(t *testing.T) {
	used := map[string]string{}
	for _, s := range scenarios {
		if before, ok := used[s.guard]; ok {
			t.Errorf("%s and %s rest on %s", before, s.name, s.guard)
		}
		used[s.guard] = s.name
		if s.title == "" || s.symptom == "" || s.do == nil {
			t.Errorf("%s is not complete", s.name)
		}
	}
	for _, g := range guard.All {
		if used[g.Name] == "" {
			t.Errorf("nothing shows what is lost without %s", g.Name)
		}
		delete(used, g.Name)
	}
	for g, s := range used {
		t.Errorf("%s rests on %s, which is no guard", s, g)
	}
	for name := range slow {
		if position(name) < 0 {
			t.Errorf("slow names %s", name)
		}
	}
}

// A run without its guard has to fail, and for the reason that the guard is there for.
func TestAScenarioIsJudged(t *testing.T) {
	for _, row := range []struct {
		name, program string
		err           error
		ok            bool
	}{
		{"passes", "", nil, true},
		{"fails", "", breaks(lostJob, "job 1"), false},
		{"fails without its guard", "x", fmt.Errorf("x: %w", errors.Join(errors.New("slow"), breaks(lostJob, "2 jobs"))), true},
		{"passes without its guard", "x", nil, false},
		{"takes too long without its guard", "x", errors.New(lostJob), false},
		{"breaks something else without its guard", "x", breaks(doneTwice, "1 job"), false},
		{"could not be set up without its guard", "x", setup(breaks(lostJob, "1 job")), false},
	} {
		s := scenario{name: "a", guard: "Hold", symptom: lostJob, do: func(context.Context, *run) error { return row.err }}
		if got := execute(t.Context(), &options{quick: true}, s, row.program); got.OK != row.ok {
			t.Errorf("%s: %+v", row.name, got)
		}
	}
}

func TestTheReaderSees(t *testing.T) {
	content := []byte("bytes of a")
	sum := sha256.Sum256(content)
	index := func(names ...string) string {
		var b strings.Builder
		for i, n := range names {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `%q:{"sha256":%q,"size":%d}`, n, hex.EncodeToString(sum[:]), len(content))
		}
		return `{"packages":{},"packages.conda":{` + b.String() + `}}`
	}
	for _, row := range []struct {
		name   string
		answer func(n int64, w http.ResponseWriter, file bool)
		want   string // of a violation; empty: none
		out    bool   // outages are seen
		over   bool   // and declared
	}{
		{name: "an honest server", answer: func(_ int64, w http.ResponseWriter, file bool) {
			if file {
				_, _ = w.Write(content)
				return
			}
			w.Header().Set("Entrepot-Revision", "1")
			fmt.Fprint(w, index("a-1-0.conda"))
		}},
		{name: "a server that is away, as was said", out: true, over: true, answer: func(_ int64, w http.ResponseWriter, _ bool) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}},
		{name: "a server that is away", out: true, want: "outside of the declared outages", answer: func(_ int64, w http.ResponseWriter, _ bool) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}},
		{name: "a server that fails", want: "status 500", answer: func(_ int64, w http.ResponseWriter, _ bool) {
			w.WriteHeader(http.StatusInternalServerError)
		}},
		{name: "other bytes", want: "another digest", answer: func(_ int64, w http.ResponseWriter, file bool) {
			w.Header().Set("Entrepot-Revision", "1")
			if file {
				_, _ = w.Write(content[:4])
				return
			}
			fmt.Fprint(w, index("a-1-0.conda"))
		}},
		{name: "a file that is not there", want: "is listed, and answers 404", answer: func(_ int64, w http.ResponseWriter, file bool) {
			w.Header().Set("Entrepot-Revision", "1")
			if file {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			fmt.Fprint(w, index("a-1-0.conda"))
		}},
		{name: "an index that forgets", want: "was listed at revision 1", answer: func(n int64, w http.ResponseWriter, file bool) {
			if file {
				_, _ = w.Write(content)
				return
			}
			if n < 20 {
				w.Header().Set("Entrepot-Revision", "1")
				fmt.Fprint(w, index("a-1-0.conda", "b-1-0.conda"))
				return
			}
			w.Header().Set("Entrepot-Revision", "2")
			fmt.Fprint(w, index("a-1-0.conda"))
		}},
		{name: "an index that goes back", want: "revision 1 after 2", answer: func(n int64, w http.ResponseWriter, file bool) {
			if file {
				_, _ = w.Write(content)
				return
			}
			revision := "2"
			if n > 20 {
				revision = "1"
			}
			w.Header().Set("Entrepot-Revision", revision)
			fmt.Fprint(w, index("a-1-0.conda"))
		}},
		{name: "two contents of one revision", want: "two contents", answer: func(n int64, w http.ResponseWriter, file bool) {
			if file {
				_, _ = w.Write(content)
				return
			}
			w.Header().Set("Entrepot-Revision", "1")
			fmt.Fprint(w, index("a-1-0.conda")+strings.Repeat(" ", int(n)))
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Path, "/repodata.json") && !strings.HasSuffix(r.URL.Path, ".conda") {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				row.answer(n.Add(1), w, strings.HasSuffix(r.URL.Path, ".conda"))
			}))
			defer srv.Close()
			r := startReader(srv.URL, 400)
			if row.over {
				r.outage(time.Minute)()
			}
			r.watch("c", "noarch")
			deadline := time.Now().Add(20 * time.Second)
			for time.Now().Before(deadline) {
				r.mu.Lock()
				bad := fmt.Sprint(r.bad)
				r.mu.Unlock()
				if row.want != "" && strings.Contains(bad, row.want) || row.want == "" && r.polls.Load() > 200 {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			got := r.stop()
			switch {
			case row.want == "" && len(got.Violations) > 0:
				t.Errorf("violations: %q", got.Violations)
			case row.want != "" && !strings.Contains(strings.Join(got.Violations, "\n"), row.want):
				t.Errorf("violations %q, want one with %q", got.Violations, row.want)
			case row.out != (got.Outages > 0):
				t.Errorf("%d outages", got.Outages)
			}
		})
	}
}

func TestAReportTellsItsTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	results := []*result{
		{Scenario: "race", Title: "a race", OK: true, Queued: 6, Terminal: 6, LedgerRows: 6, Recover: 0.5, Reader: reading{Polls: 1000}},
		{Scenario: "race", Title: "a race", Without: "Head", OK: true, Error: "lost"},
	}
	if err := writeReport(path, &options{quick: true}, results, time.Second); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printReport(&out, path); err != nil {
		t.Fatal(err)
	}
	if want := "| a race | 6 | 0 | 6 | 0.50 s | 1000 | 0 | 0 | Head: fails |\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("got\n%s\nwant it to end with\n%s", out.String(), want)
	}
}

func TestTheRateIsReckonedWithoutOutages(t *testing.T) {
	began := time.Now()
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	for _, row := range []struct {
		name    string
		windows []*window
		want    float64
	}{
		{"none", nil, 10},
		{"one", []*window{{from: at(2), to: at(5)}}, 7},
		{"two that overlap", []*window{{from: at(2), to: at(5)}, {from: at(4), to: at(6)}}, 6},
		{"one inside of another", []*window{{from: at(2), to: at(7)}, {from: at(3), to: at(4)}}, 5},
		{"one that lasts", []*window{{from: at(8)}}, 8},
		{"one that goes on after the end", []*window{{from: at(8), to: at(12)}}, 8},
		{"one of the past only", []*window{{from: at(2), to: at(5), past: true}}, 10},
	} {
		r := &reader{began: began, windows: row.windows}
		if got := r.steadyTime(at(10)).Seconds(); got != row.want {
			t.Errorf("%s: %v s, want %v", row.name, got, row.want)
		}
	}
}

func TestAnOutageCoversWhoAskedInIt(t *testing.T) {
	w := &window{from: time.Unix(100, 0), to: time.Unix(110, 0)}
	for _, row := range []struct {
		asked, now int64
		want       bool
	}{{90, 95, false}, {90, 105, true}, {101, 105, true}, {109, 120, true}, {111, 112, false}} {
		if got := w.covers(time.Unix(row.asked, 0), time.Unix(row.now, 0)); got != row.want {
			t.Errorf("asked at %d, no answer at %d: %t", row.asked, row.now, got)
		}
	}
}

// An index of a proxy that mixes two states of its upstream is a lie, though all that it lists is true.
func TestAProxyMayOnlyListWhatItsUpstreamListed(t *testing.T) {
	g, err := growUpstream(t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	defer http.DefaultClient.CloseIdleConnections()
	read := func() *listing {
		resp, err := http.Get(g.url + "/noarch/repodata.json")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		l, err := parseIndex("p/noarch/repodata.json", body)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := read()
	g.finish()
	last := read()
	if len(first.files) >= len(last.files) || len(last.files) != g.last("noarch") {
		t.Fatalf("%d files at first, %d in the end, of %d", len(first.files), len(last.files), g.last("noarch"))
	}
	for _, l := range []*listing{first, last} {
		if !g.published("p/noarch/repodata.json", l) {
			t.Errorf("a listing of %d files was not published", len(l.files))
		}
	}
	last.files = last.files[1:]
	if g.published("p/noarch/repodata.json", last) {
		t.Error("a listing that lacks a file counts as published")
	}
}
