package metricstest

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestSeries: the dialect's hours, days, months and years; quetz.md §2.7, §16.
func TestSeries(t *testing.T) {
	s := platformtest.Start(t)
	files := upload(t, s, "channel0")
	f, g := files[0], files[1]
	type obj = map[string]any
	at := func(points ...any) (out []obj) { // time, count, time, count, …
		for i := 0; i < len(points); i += 2 {
			out = append(out, obj{"time": points[i], "count": points[i+1]})
		}
		return out
	}
	s.Admin().Must(200, "POST", "/entrepot/v1/channels/channel0/metrics/imports", obj{
		"source_id": "5b6f4c1e-3a0b-4f5e-9a53-6a1f0b7f0c01", "source": "the past", "files": []obj{
			{"path": f.path(), "interval": "INTERVAL_HOUR", "series": at(
				"2025-12-31T22:00:00Z", 1, "2025-12-31T23:00:00Z", 2, "2026-01-01T00:00:00Z", 4, "2026-01-01T02:00:00Z", 8, "2026-03-05T05:00:00Z", 16)},
			{"path": g.path(), "interval": "INTERVAL_HOUR", "series": at("2026-01-01T00:00:00Z", 32)},
		},
	})
	anon := s.Anonymous()
	version := fmt.Sprintf("/metrics/channels/channel0/packages/%s/versions/%s/%s", f.pkg, f.platform, f.name)
	series := func(t *testing.T, query string) (out []string) {
		t.Helper()
		var got struct {
			Period     string
			MetricName string `json:"metric_name"`
			Total      int
			Series     []struct {
				Timestamp string
				Count     int
			}
		}
		anon.In(t).Must(200, "GET", version+"?"+query, nil).JSON(&got)
		sum := 0
		for _, p := range got.Series {
			out = append(out, fmt.Sprintf("%s %d", p.Timestamp, p.Count))
			sum += p.Count
		}
		if got.Total != sum || got.MetricName != "download" || got.Series == nil {
			t.Errorf("%+v", got)
		}
		return out
	}
	for query, want := range map[string][]string{
		"period=H": {"2025-12-31T22:00:00 1", "2025-12-31T23:00:00 2", "2026-01-01T00:00:00 4", "2026-01-01T02:00:00 8", "2026-03-05T05:00:00 16"},
		"":         {"2025-12-31T00:00:00 3", "2026-01-01T00:00:00 12", "2026-03-05T00:00:00 16"},
		"period=M": {"2025-12-01T00:00:00 3", "2026-01-01T00:00:00 12", "2026-03-01T00:00:00 16"},
		"period=Y": {"2025-01-01T00:00:00 3", "2026-01-01T00:00:00 28"},
		// The start belongs to it, the end does not.
		"period=H&start=2025-12-31T23:00:00&end=2026-01-01T02:00:00":  {"2025-12-31T23:00:00 2", "2026-01-01T00:00:00 4"},
		"period=D&start=2026-01-01T00:00:00Z&end=2026-03-05T00:00:00": {"2026-01-01T00:00:00 12"},
		"period=H&start=2026-01-01T02:00:00%2B01:00&end=2026-02-01":   {"2026-01-01T02:00:00 8"},
		"period=H&start=2027-01-01T00:00:00":                          nil,
		// Filled: a point for each period, both bounds rounded down and there.
		"period=H&start=2025-12-31T22:59:00&end=2026-01-01T02:30:00&fill_zeros=true": {
			"2025-12-31T22:00:00 0", "2025-12-31T23:00:00 2", "2026-01-01T00:00:00 4", "2026-01-01T01:00:00 0", "2026-01-01T02:00:00 8",
		},
		"period=M&fill_zeros=True": {"2025-12-01T00:00:00 3", "2026-01-01T00:00:00 12", "2026-02-01T00:00:00 0", "2026-03-01T00:00:00 16"},
		"period=Y&fill_zeros=1":    {"2025-01-01T00:00:00 3", "2026-01-01T00:00:00 28"},
		"period=D&start=2027-01-01T00:00:00&end=2027-01-02T12:00:00&fill_zeros=on": {"2027-01-01T00:00:00 0", "2027-01-02T00:00:00 0"},
	} {
		t.Run(query, func(t *testing.T) {
			if diff := cmp.Diff(want, series(t, query)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("of a channel: by file, of one platform, within bounds", func(t *testing.T) {
		for query, want := range map[string]string{
			"period=H&start=2026-01-01T00:00:00&end=2026-01-01T01:00:00": f.path() + " 2026-01-01T00:00:00 4, " + g.path() + " 2026-01-01T00:00:00 32",
			"period=Y&end=2026-01-01T00:00:00":                           f.path() + " 2025-01-01T00:00:00 3",
			"platform=win-64":                                            "",
			"period=Y&start=2026-01-01T00:00:00&platform=" + f.platform:  f.path() + " 2026-01-01T00:00:00 28, " + g.path() + " 2026-01-01T00:00:00 32",
		} {
			got := decode(t, anon.In(t).Must(200, "GET", "/metrics/channels/channel0?"+query, nil).Body)
			var lines []string
			for _, file := range []string{f.path(), g.path()} {
				if p, ok := got["packages"].(obj)[file]; ok {
					for _, point := range p.(obj)["series"].([]any) {
						lines = append(lines, fmt.Sprintf("%s %v %v", file, point.(obj)["timestamp"], point.(obj)["count"]))
					}
				}
			}
			if f.platform != g.platform && strings.Contains(query, "platform="+f.platform) {
				want, _, _ = strings.Cut(want, ", ")
			}
			if all := strings.Join(lines, ", "); all != want || len(got["packages"].(obj)) > 2 {
				t.Errorf("%s: %s, want %s", query, all, want)
			}
		}
	})
	t.Run("a file that nobody asked for has a total of 0", func(t *testing.T) {
		h := files[2]
		path := fmt.Sprintf("/metrics/channels/channel0/packages/%s/versions/%s/%s", h.pkg, h.platform, h.name)
		for query, want := range map[string]string{
			"":              `"total":0,"series":[]`,
			"?fill_zeros=1": `"total":0,"series":[]`,
			"?fill_zeros=1&start=2026-01-01&end=2026-01-02": `"total":0,"series":[{"timestamp":"2026-01-01T00:00:00","count":0},{"timestamp":"2026-01-02T00:00:00","count":0}]`,
		} {
			if got := string(anon.In(t).Must(200, "GET", path+query, nil).Body); !strings.Contains(got, want) {
				t.Errorf("%s: %s", query, got)
			}
		}
	})
	t.Run("what cannot be is refused", func(t *testing.T) {
		for query, text := range map[string]string{
			"period=W": "Input should be 'H', 'D', 'M' or 'Y'", "start=soon": "start", "end=2026-13-01": "end", "fill_zeros=perhaps": "valid boolean",
			"period=H&fill_zeros=1&start=1000-01-01T00:00:00&end=2999-01-01T00:00:00": "",
		} {
			if got := anon.In(t).Must(422, "GET", version+"?"+query, nil); !strings.Contains(string(got.Body), text) {
				t.Errorf("%s: %s", query, got.Body)
			}
		}
		anon.In(t).Must(404, "GET", "/metrics/channels/channel0/packages/"+f.pkg+"/versions/"+f.platform+"/"+url.PathEscape("none-1.0-0.conda"), nil)
	})
}
