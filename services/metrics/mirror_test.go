package metrics

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// readAnswer reads what a mirror said of the three hours before noon.
func readAnswer(t *testing.T, text string) (*answer, string, error) {
	t.Helper()
	var refused int64
	a := &answer{from: noon.Add(-3 * time.Hour), until: noon, refused: &refused}
	serverTime, err := a.read(json.NewDecoder(strings.NewReader(text)))
	return a, serverTime, err
}

func TestAnswersOfMirrors(t *testing.T) {
	const good = `{"timestamp":"2026-11-21T11:00:00","count":3}`
	t.Run("points are taken or refused one by one", func(t *testing.T) {
		for point, want := range map[string][2]int64{ // taken, refused
			good: {1, 0},
			`{"timestamp":"2026-11-21T09:00:00","count":1}`:          {1, 0}, // the first hour
			`{"timestamp":"2026-11-21T10:00:00.000000","count":1}`:   {1, 0},
			`{"timestamp":"2026-11-21T12:00:00+02:00","count":1}`:    {1, 0}, // with a zone
			`{"timestamp":"2026-11-21T08:00:00","count":1}`:          {0, 1}, // before it
			`{"timestamp":"2026-11-21T12:00:00","count":1}`:          {0, 1}, // not over
			`{"timestamp":"2099-01-01T00:00:00","count":1}`:          {0, 1},
			`{"timestamp":"2026-11-21T11:30:00","count":1}`:          {0, 1},
			`{"timestamp":"2026-11-21T11:00:00","count":0}`:          {0, 1},
			`{"timestamp":"2026-11-21T11:00:00","count":-1}`:         {0, 1},
			`{"timestamp":"2026-11-21T11:00:00","count":9000000000}`: {0, 1},
			`{"timestamp":"yesterday","count":1}`:                    {0, 1},
		} {
			a, _, err := readAnswer(t, `{"period":"H","more":[{}],"packages":{"noarch/a-1-0.conda":{"series":[`+point+`]}}}`)
			if got := [2]int64{int64(len(a.counts)), *a.refused}; err != nil || got != want {
				t.Errorf("%s: %v, %v; want %v", point, got, err, want)
			}
		}
	})
	t.Run("names that no file of a channel has are refused", func(t *testing.T) {
		for _, path := range []string{"", "a-1-0.conda", "noarch/../a-1-0.conda", "/noarch/a-1-0.conda", "x/noarch/a-1-0.conda", "noarch/repodata.json", "noarch/a\\u0000-1-0.conda"} {
			a, _, err := readAnswer(t, `{"packages":{"`+path+`":{"series":[`+good+`]}}}`)
			if err != nil || len(a.counts) != 0 || len(a.paths) != 0 || *a.refused != 1 {
				t.Errorf("%q: %v, %+v", path, err, a)
			}
		}
	})
	t.Run("what is no answer is an error", func(t *testing.T) {
		for _, text := range []string{
			"", "null", "[]", "1", "{", `{"period":"H"}`, `{"period":"D","packages":{}}`, `{"packages":[]}`, `{"packages":null}`, `{"packages":{"noarch/a-1-0.conda":7}}`,
			`{"packages":{"noarch/a-1-0.conda":{"series":[{"count":"many"}]}}}`, `{"packages":{"noarch/a-1-0.conda":{"series":[`,
		} {
			if _, _, err := readAnswer(t, text); err == nil {
				t.Errorf("%q was read", text)
			}
		}
	})
	t.Run("hours that are not over by the mirror's own clock wait", func(t *testing.T) {
		now := noon.Add(3 * time.Minute)
		for serverTime, want := range map[time.Time]time.Time{
			noon.Add(2 * time.Minute): noon, noon.Add(-time.Minute): noon.Add(-time.Hour),
			noon.Add(-24 * time.Hour): noon, // that is no clock
			noon.Add(24 * time.Hour):  noon,
		} {
			a, said, err := readAnswer(t, fmt.Sprintf(`{"server_timestamp":%q,"packages":{"noarch/a-1-0.conda":{"series":[%s]}}}`, serverTime.Format(naive), good))
			if err != nil {
				t.Fatal(err)
			}
			a.behind(said, now)
			wantPoints := 1
			if want.Before(noon) {
				wantPoints = 0 // the point is of the hour that is not over
			}
			if diff := cmp.Diff(want, a.until); diff != "" || len(a.counts) != wantPoints {
				t.Errorf("%v: %d points %s", serverTime, len(a.counts), diff)
			}
		}
	})
}

func TestInside(t *testing.T) {
	for _, row := range []struct {
		public, endpoint, want string
		ok                     bool
	}{
		{"https://conda.example.org", "https://conda.example.org/metrics/channels/x", "x", true},
		{"https://conda.example.org/", "HTTPS://Conda.Example.Org/metrics/channels/x/", "x", true},
		{"https://conda.example.org", "https://conda.example.org/other", "", true},
		{"https://conda.example.org", "https://conda.example.org/metrics/channels/x/y", "", true},
		{"https://conda.example.org", "https://conda.example.org.evil/metrics/channels/x", "", false},
		{"https://conda.example.org", "http://conda.example.org/metrics/channels/x", "", false},
		{"", "http://conda.example.org/metrics/channels/x", "", false},
	} {
		w := &worker{WorkerDeps: WorkerDeps{PublicURL: row.public}}
		if got, ok := w.inside(row.endpoint); got != row.want || ok != row.ok {
			t.Errorf("%s at %s: %q, %v", row.endpoint, row.public, got, ok)
		}
	}
}
