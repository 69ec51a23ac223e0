package quetz

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

const (
	metricDownload = "download"
	// maxZeros bounds a filled series: eleven years of hours.
	maxZeros = 100_000
)

var intervals = map[string]metricsv1.Interval{
	"H": metricsv1.Interval_INTERVAL_HOUR, "D": metricsv1.Interval_INTERVAL_DAY, "M": metricsv1.Interval_INTERVAL_MONTH, "Y": metricsv1.Interval_INTERVAL_YEAR,
}

// metricsQuery is what both routes take.
type metricsQuery struct {
	period, metric, platform string
	start, end               *time.Time
	fillZeros                bool
}

type metricPoint struct {
	Timestamp string `json:"timestamp"`
	Count     int64  `json:"count"`
}

type metricSeries struct {
	Series []metricPoint `json:"series"`
}

type versionMetrics struct {
	ServerTimestamp string        `json:"server_timestamp"`
	Period          string        `json:"period"`
	MetricName      string        `json:"metric_name"`
	Total           int64         `json:"total"`
	Series          []metricPoint `json:"series"`
}

func readMetricsQuery(r *http.Request) (q metricsQuery, err error) {
	if err := normaliseQuery(r); err != nil {
		return q, err
	}
	v := r.URL.Query()
	q.period, q.metric, q.platform = "D", metricDownload, v.Get("platform")
	if s := v.Get("period"); s != "" {
		if _, ok := intervals[s]; !ok {
			return q, queryProblem("period", "enum", "Input should be 'H', 'D', 'M' or 'Y'", s)
		}
		q.period = s
	}
	if s := v.Get("metric_name"); s != "" {
		q.metric = s
	}
	for _, b := range []struct {
		name string
		to   **time.Time
	}{{"start", &q.start}, {"end", &q.end}} {
		s := v.Get(b.name)
		if s == "" {
			continue
		}
		// A plus in a query is a blank, also the one before a zone.
		t, err := parseTime(strings.ReplaceAll(s, " ", "+"))
		if err != nil {
			t, err = parseTime(s)
		}
		if err != nil || t.Year() < 1 || t.Year() > 9999 {
			return q, queryProblem(b.name, "datetime_from_date_parsing", "Input should be a valid datetime or date", s)
		}
		*b.to = &t
	}
	if s := v.Get("fill_zeros"); s != "" {
		if q.fillZeros, err = parseBool(s); err != nil {
			return q, queryProblem("fill_zeros", "bool_parsing", "Input should be a valid boolean, unable to interpret input", s)
		}
	}
	return q, nil
}

func timestamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

func metricPoints(points []*metricsv1.Point) []metricPoint {
	out := make([]metricPoint, len(points))
	for i, p := range points {
		out[i] = metricPoint{naive(p.GetTime().AsTime()), p.GetCount()}
	}
	return out
}

// channelMetrics writes the series of all files of a channel as they come in, page by page: there may be many.
func (d *dialect) channelMetrics(w http.ResponseWriter, r *http.Request) error {
	channel := r.PathValue("channel")
	if _, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: channel}); err != nil {
		return err
	}
	q, err := readMetricsQuery(r)
	if err != nil {
		return err
	}
	req := &metricsv1.ListFileMetricsRequest{
		Channel: channel, Interval: intervals[q.period], Start: timestamp(q.start), End: timestamp(q.end), Subdir: q.platform, PageSize: 1000,
	}
	head, err := edge.MarshalJSON(struct {
		ServerTimestamp string `json:"server_timestamp"`
		Period          string `json:"period"`
		MetricName      string `json:"metric_name"`
	}{naive(time.Now()), q.period, q.metric})
	if err != nil {
		return err
	}
	begun := false
	write := func(s string) error {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/json")
			s = strings.TrimSuffix(strings.TrimSpace(string(head)), "}") + `,"packages":{` + s
		}
		_, err := w.Write([]byte(s))
		return err
	}
	sep := ""
	err = func() error {
		for q.metric == metricDownload { // nothing else is counted
			page, err := d.Metrics.ListFileMetrics(r.Context(), req)
			if err != nil {
				return err
			}
			for _, f := range page.GetFiles() {
				key, err := edge.MarshalJSON(f.GetPath())
				if err != nil {
					return err
				}
				series, err := edge.MarshalJSON(metricSeries{metricPoints(f.GetSeries())})
				if err != nil {
					return err
				}
				if err := write(sep + strings.TrimSpace(string(key)) + ":" + strings.TrimSpace(string(series))); err != nil {
					return err
				}
				sep = ","
			}
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				return nil
			}
		}
		return nil
	}()
	if err != nil && begun { // half an object must not look whole
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		return err
	}
	return ignoreGone(write("}}"))
}

// versionMetrics shows the series of one file. One that was never downloaded has none; one that never was is not found.
func (d *dialect) versionMetrics(w http.ResponseWriter, r *http.Request) error {
	channel, err := d.listedFor(r)
	if err != nil {
		return err
	}
	q, err := readMetricsQuery(r)
	if err != nil {
		return err
	}
	platform, filename := r.PathValue("platform"), r.PathValue("filename")
	missing := fault.New(fault.NotFound, "package version %s/%s not found", platform, filename)
	if parsed, err := dist.ParseFilename(filename); err != nil || !strings.EqualFold(parsed.Name, r.PathValue("package")) {
		return missing
	}
	got, err := d.Metrics.GetFileMetrics(r.Context(), &metricsv1.GetFileMetricsRequest{
		Channel: channel, Path: platform + "/" + filename, Interval: intervals[q.period], Start: timestamp(q.start), End: timestamp(q.end),
	})
	if err != nil {
		return err
	}
	if got.GetTotal() == 0 {
		if err := d.hasVersion(r, channel); err != nil {
			return err
		}
	}
	out := versionMetrics{ServerTimestamp: naive(time.Now()), Period: q.period, MetricName: q.metric, Series: []metricPoint{}}
	points := got.GetSeries()
	if q.metric != metricDownload || (q.platform != "" && q.platform != platform) {
		points = nil
	}
	for _, p := range points {
		out.Total += p.GetCount()
	}
	out.Series = metricPoints(points)
	if q.fillZeros {
		if out.Series, err = fillZeros(q, points); err != nil {
			return err
		}
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", out)
	return nil
}

// hasVersion reports whether the file that the route names is listed. What a proxy could have is not known.
func (d *dialect) hasVersion(r *http.Request, channel string) error {
	ch, err := d.Channels.GetChannel(r.Context(), &channelsv1.GetChannelRequest{Channel: channel})
	if err == nil && ch.GetKind() == channelsv1.ChannelKind_CHANNEL_KIND_PROXY {
		return nil
	}
	_, err = d.findVersion(r, channel)
	return err
}

// fillZeros gives each period from start to end a point, both rounded down and included. Bounds that were not given are
// the first and the last point.
func fillZeros(q metricsQuery, points []*metricsv1.Point) ([]metricPoint, error) {
	counts := map[time.Time]int64{}
	for _, p := range points {
		counts[p.GetTime().AsTime()] = p.GetCount()
	}
	start, end := q.start, q.end
	if len(points) > 0 {
		first, last := points[0].GetTime().AsTime(), points[len(points)-1].GetTime().AsTime()
		if start == nil {
			start = &first
		}
		if end == nil {
			end = &last
		}
	}
	out := []metricPoint{}
	if start == nil || end == nil {
		return out, nil
	}
	last := beginOf(q.period, *end)
	for t := beginOf(q.period, *start); !t.After(last); t = nextAfter(q.period, t) {
		if len(out) == maxZeros {
			return nil, queryProblem("start", "value_error", fmt.Sprintf("Value error, there would be more than %d points", maxZeros), naive(*start))
		}
		out = append(out, metricPoint{naive(t), counts[t]})
	}
	return out, nil
}

// beginOf rounds down to a period, in UTC.
func beginOf(period string, t time.Time) time.Time {
	t = t.UTC()
	switch period {
	case "H":
		return t.Truncate(time.Hour)
	case "D":
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	case "M":
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC)
}

func nextAfter(period string, t time.Time) time.Time {
	switch period {
	case "H":
		return t.Add(time.Hour)
	case "D":
		return t.AddDate(0, 0, 1)
	case "M":
		return t.AddDate(0, 1, 0)
	}
	return t.AddDate(1, 0, 0)
}

// downloads returns how often files were downloaded, by path: one question a page. The caller may see the files. Should
// metrics be away, the files are shown nevertheless, without their counts.
func (d *dialect) downloads(ctx context.Context, channel string, files []*channelsv1.File) map[string]int64 {
	if len(files) == 0 {
		return nil
	}
	paths := make([]string, len(files))
	for i, f := range files {
		paths[i] = f.GetPath()
	}
	got, err := d.Metrics.GetDownloadCounts(authn.WithSelf(ctx), &metricsv1.GetDownloadCountsRequest{Channel: channel, Paths: paths})
	if err != nil {
		slog.WarnContext(ctx, "package versions are shown without their downloads", "channel", channel, "error", err)
		return nil
	}
	out := make(map[string]int64, len(got.GetPaths()))
	for _, n := range got.GetPaths() {
		out[n.GetName()] = n.GetCount()
	}
	return out
}
