package client

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

func TestSince(t *testing.T) {
	now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"48h": now.Add(-48 * time.Hour), "30d": now.AddDate(0, 0, -30), "1.5d": now.Add(-36 * time.Hour),
		"2026-01-02": time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "2026-01-02T03:04:05+01:00": time.Date(2026, 1, 2, 2, 4, 5, 0, time.UTC),
	} {
		got, err := sinceTime(s, now)
		if err != nil || !got.AsTime().Equal(want) {
			t.Errorf("%s: %v, %v; want %v", s, got.AsTime(), err, want)
		}
	}
	if got, err := sinceTime("", now); got != nil || err != nil {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for _, s := range []string{"soon", "-3h", "0d", "d", "99999999h", "2026-13-01"} {
		if got, err := sinceTime(s, now); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
}

func TestMetricLines(t *testing.T) {
	got := metricLines(&metricsv1.ChannelMetrics{
		Channel: "forge", Total: 9, Count: 5,
		Series:      []*metricsv1.Point{{Time: timestamppb.New(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)), Count: 5}},
		TopPackages: []*metricsv1.NamedCount{{Name: "numpy", Count: 4}}, TopFiles: []*metricsv1.NamedCount{{Name: "noarch/a-1-0.conda", Count: 3}},
	}, "2006-01")
	want := [][]string{
		{"Channel:", "forge"}, {"Downloads:", "9"}, {"Shown:", "5"}, {"2026-03", "5"}, {"Packages:"}, {"numpy", "4"}, {"Files:"}, {"noarch/a-1-0.conda", "3"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
