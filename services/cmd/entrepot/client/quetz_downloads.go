package client

import (
	"context"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/quetzdb"
)

const (
	// countFiles and countPoints bound a call about counts.
	countFiles  = 500
	countPoints = 20_000
)

// periods of Quetz, the ones to be taken first: hours are kept here as days, and a year says least.
var periods = []struct {
	name     string
	interval metricsv1.Interval
}{{"D", metricsv1.Interval_INTERVAL_DAY}, {"M", metricsv1.Interval_INTERVAL_MONTH}, {"Y", metricsv1.Interval_INTERVAL_YEAR}}

// moveDownloads moves the download counts. Each download is in a row of every period; of each file those are taken that
// add up to most, the finest first.
func (m *quetzMove) moveDownloads(ctx context.Context, ch *quetzdb.Channel) error {
	points, err := m.db.Downloads(ctx, ch.Name)
	if err != nil {
		return err
	}
	totals := map[string]int64{}
	if err := m.db.Versions(ctx, ch.Name, func(v quetzdb.Version) error {
		totals[v.Platform+"/"+v.Filename] = v.Downloads
		return nil
	}); err != nil {
		return err
	}
	var batch []*metricsv1.ImportedCounts
	n := 0
	flush := func() error {
		if len(batch) == 0 || m.opts.dryRun {
			batch, n = nil, 0
			return nil
		}
		source := "Quetz " + m.db.Name
		_, err := m.c.ImportCounts(ctx, &metricsv1.ImportCountsRequest{
			Channel: ch.Name, SourceId: uuid.NewSHA1(uuid.NameSpaceURL, []byte(source+"#"+ch.Name)).String(), Source: clip(source, 300), Files: batch,
		})
		batch, n = nil, 0
		return err
	}
	for i := 0; i < len(points); {
		j := i
		for j < len(points) && points[j].Path == points[i].Path {
			j++
		}
		counts, sum := countsOf(points[i:j])
		if counts != nil {
			batch, n = append(batch, counts), n+len(counts.GetSeries())
			m.report.Downloads += sum
		}
		totals[points[i].Path] = max(totals[points[i].Path]-sum, 0)
		i = j
		if len(batch) == countFiles || n >= countPoints {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	for _, left := range totals {
		m.report.DownloadsLost += left // only a number: Quetz does not know when
	}
	return flush()
}

// countsOf chooses one period of a file's points.
func countsOf(points []quetzdb.Point) (best *metricsv1.ImportedCounts, most int64) {
	for _, p := range periods {
		counts := &metricsv1.ImportedCounts{Path: points[0].Path, Interval: p.interval}
		var sum int64
		seen := map[int64]*metricsv1.Point{}
		for _, x := range points {
			if x.Period != p.name || x.At.IsZero() {
				continue
			}
			sum += x.Count
			if at := seen[x.At.Unix()]; at != nil {
				at.Count += x.Count
				continue
			}
			point := &metricsv1.Point{Time: timestamppb.New(x.At), Count: x.Count}
			seen[x.At.Unix()] = point
			counts.Series = append(counts.Series, point)
		}
		if sum > most {
			best, most = counts, sum
		}
	}
	return best, most
}
