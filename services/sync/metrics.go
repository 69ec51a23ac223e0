package sync

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// syncMetrics count what runs came to. Labels are outcomes from a fixed list; which channel it was, the job says.
type syncMetrics struct {
	files, indexes, bytes metric.Int64Counter
}

func newSyncMetrics() *syncMetrics {
	m := otel.Meter("github.com/entrepot-dev/entrepot/services/sync")
	var s syncMetrics
	for _, c := range []struct {
		to               *metric.Int64Counter
		name, unit, what string
	}{
		{&s.files, "files", "", "Files of mirrors, by what a run did with them."},
		{&s.indexes, "indexes", "", "Upstream index files that runs looked at, by whether they had changed."},
		{&s.bytes, "downloaded.size", "By", "Bytes of packages downloaded for mirrors."},
	} {
		var err error
		if *c.to, err = m.Int64Counter("entrepot.sync."+c.name, metric.WithUnit(c.unit), metric.WithDescription(c.what)); err != nil {
			slog.Warn("a metric cannot be made", "metric", c.name, "error", err) // its name is refused: it stays silent
		}
	}
	return &s
}

var (
	filesAdded, filesUnchanged = outcome("added"), outcome("unchanged")
	filesRemoved, filesFailed  = outcome("removed"), outcome("failed")
	indexNew, indexSame        = outcome("changed"), outcome("not_modified")
	indexFailed                = outcome("failed")
)

func outcome(s string) metric.MeasurementOption {
	return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", s)))
}

// surveyed counts the indexes of one look at an upstream.
func (s *syncMetrics) surveyed(ctx context.Context, found []index) {
	for _, ix := range found {
		switch {
		case ix.err != nil:
			s.indexes.Add(ctx, 1, indexFailed)
		case ix.IndexPath == "": // the upstream has no such subdir
		case ix.changed:
			s.indexes.Add(ctx, 1, indexNew)
		default:
			s.indexes.Add(ctx, 1, indexSame)
		}
	}
}

// finished counts the files of a run that came to its end.
func (s *syncMetrics) finished(ctx context.Context, r *Result) {
	s.files.Add(ctx, r.Added, filesAdded)
	s.files.Add(ctx, r.Unchanged, filesUnchanged)
	s.files.Add(ctx, r.Removed, filesRemoved)
	s.files.Add(ctx, r.Failed, filesFailed)
	s.bytes.Add(ctx, r.Bytes)
}
