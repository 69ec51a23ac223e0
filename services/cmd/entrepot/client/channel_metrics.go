package client

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// metricIntervals are what --interval takes, with the form that a point's time is shown in.
var metricIntervals = map[string]struct {
	interval metricsv1.Interval
	layout   string
}{
	"hour":  {metricsv1.Interval_INTERVAL_HOUR, "2006-01-02 15:04"},
	"day":   {metricsv1.Interval_INTERVAL_DAY, time.DateOnly},
	"month": {metricsv1.Interval_INTERVAL_MONTH, "2006-01"},
	"year":  {metricsv1.Interval_INTERVAL_YEAR, "2006"},
}

func (a *app) channelMetricsCommand() *cobra.Command {
	var interval, since string
	var top int32
	var pull bool
	c := &cobra.Command{
		Use: "metrics NAME", Short: "Show how often a channel's packages were downloaded", Args: want("NAME"),
		Long: `Shows the downloads of a channel: since counting began, per day (or another interval), and the packages and files with the
most. Downloads from registered mirrors are among them; --pull asks the mirrors for theirs now instead.`,
		Example: `  entrepot channel metrics forge --top 20
  entrepot channel metrics forge --interval hour --since 48h
  entrepot channel metrics forge --interval month --since 2026-01-01 -o json`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			kind, ok := metricIntervals[interval]
			if !ok {
				return fault.Field("--interval", "--interval takes hour, day, month or year, not %s", interval)
			}
			if top < 0 || top > 1000 {
				return fault.Field("--top", "--top must lie between 0 and 1000")
			}
			start, err := sinceTime(since, a.now())
			if err != nil {
				return err
			}
			if pull {
				job, err := c.StartPull(cmd.Context(), args[0])
				if err != nil {
					return fmt.Errorf("pull the counts of the mirrors of %s: %w", args[0], err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "pull is job %d, %s; follow it with:  entrepot job follow %d\n", job.GetNumber(), stateName(job.GetState()), job.GetNumber())
				return nil
			}
			m, err := c.ChannelMetrics(cmd.Context(), &metricsv1.GetChannelMetricsRequest{Channel: args[0], Interval: kind.interval, Start: start, Top: top})
			if err != nil {
				return fmt.Errorf("show the downloads of %s: %w", args[0], err)
			}
			return a.printOne(cmd, m, metricLines(m, kind.layout))
		}),
	}
	c.Flags().StringVar(&interval, "interval", "day", "what a line stands for: hour, day, month or year")
	c.Flags().StringVar(&since, "since", "", "only since then: a time back, such as 48h or 30d, or a date")
	c.Flags().Int32Var(&top, "top", 10, "how many packages and files to name; 0: none")
	c.Flags().BoolVar(&pull, "pull", false, "ask the registered mirrors for their counts")
	a.outputFlag(c)
	return c
}

// sinceTime reads --since; empty is the beginning.
func sinceTime(s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return timestamppb.New(t), nil
		}
	}
	back := s
	unit := time.Duration(1)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		back, unit = days+"h", 24
	}
	d, err := time.ParseDuration(back)
	if err != nil || d <= 0 || d > 100*365*time.Hour {
		return nil, fault.Field("--since", "--since takes a time back such as 48h or 30d, a date, or a time with zone, not %s", s)
	}
	return timestamppb.New(now.Add(-d * unit)), nil
}

func metricLines(m *metricsv1.ChannelMetrics, layout string) [][]string {
	lines := [][]string{{"Channel:", m.GetChannel()}, {"Downloads:", fmt.Sprint(m.GetTotal())}}
	if m.GetCount() != m.GetTotal() {
		lines = append(lines, []string{"Shown:", fmt.Sprint(m.GetCount())})
	}
	for _, p := range m.GetSeries() {
		lines = append(lines, []string{p.GetTime().AsTime().UTC().Format(layout), fmt.Sprint(p.GetCount())})
	}
	for _, list := range []struct {
		title string
		all   []*metricsv1.NamedCount
	}{{"Packages:", m.GetTopPackages()}, {"Files:", m.GetTopFiles()}} {
		for i, n := range list.all {
			if i == 0 {
				lines = append(lines, []string{list.title})
			}
			lines = append(lines, []string{n.GetName(), fmt.Sprint(n.GetCount())})
		}
	}
	return lines
}
