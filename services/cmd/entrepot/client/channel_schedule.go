package client

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) channelScheduleCommand() *cobra.Command {
	return group("schedule", "Have something done to a channel again and again",
		a.scheduleListCommand(), a.scheduleSetCommand(), a.scheduleRemoveCommand())
}

func (a *app) scheduleListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list CHANNEL", Short: "List a channel's schedules", Args: want("CHANNEL"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			list, err := c.Schedules(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("list the schedules of %s: %w", args[0], err)
			}
			rows := [][]string{{"NAME", "ACTION", "WHEN", "JITTER", "NEXT", "LAST", "ERROR"}}
			for _, s := range list {
				next := when(s.GetNextTime())
				if s.GetPaused() {
					next = "paused"
				}
				rows = append(rows, []string{s.GetName(), s.GetAction(), rhythm(s), orDash(seconds(s.GetJitterSeconds())), next, when(s.GetLastTime()), orDash(s.GetError())})
			}
			return printList(a, cmd, list, rows)
		}),
	}
	a.outputFlag(c)
	return c
}

// rhythm says how often a schedule is due.
func rhythm(s *channelsv1.Schedule) string {
	switch {
	case s.GetCron() != "" && s.GetTimeZone() != "" && s.GetTimeZone() != "UTC":
		return s.GetCron() + " " + s.GetTimeZone()
	case s.GetCron() != "":
		return s.GetCron()
	case s.GetRepeatEverySeconds() > 0:
		return "every " + seconds(s.GetRepeatEverySeconds())
	}
	return "once"
}

// seconds writes a duration; empty for none.
func seconds(n int64) string {
	if n == 0 {
		return ""
	}
	return (time.Duration(n) * time.Second).String()
}

func (a *app) scheduleSetCommand() *cobra.Command {
	set := &channelsv1.Schedule{}
	var name, start string
	var every, jitter time.Duration
	c := &cobra.Command{
		Use: "set CHANNEL ACTION", Short: "Make or replace a schedule", Args: want("CHANNEL", "ACTION"),
		Long: `Has ACTION done to CHANNEL by a cron expression, every so often, or once at a time to come. The actions are synchronize,
synchronize_repodata, poll, reindex, generate_indexes, validate_packages, synchronize_metrics, cleanup and cleanup_dry_run.

poll asks a mirror's upstream whether its indexes have changed, and synchronises if so; an upstream that has not changed
costs one small answer for each index. A channel may have several schedules of an action under different names.`,
		Example: `  entrepot channel schedule set forge synchronize_repodata --cron "30 4 * * 1-5" --time-zone Europe/Berlin --jitter 10m
  entrepot channel schedule set forge poll --every 5m
  entrepot channel schedule set forge validate_packages --cron @monthly`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			set.Action, set.RepeatEverySeconds = args[1], int64(every/time.Second)
			if every%time.Second != 0 || jitter%time.Second != 0 {
				return fault.Field("--every", "--every and --jitter take whole seconds")
			}
			if cmd.Flags().Changed("jitter") {
				n := int64(jitter / time.Second)
				set.JitterSeconds = &n
			}
			if start != "" {
				t, err := time.Parse(time.RFC3339, start)
				if err != nil {
					return fault.Field("--start-at", "--start-at takes a time such as 2027-01-31T04:00:00Z, not %q", start)
				}
				set.StartAt = timestamppb.New(t)
			}
			if name == "" {
				name = args[1]
			}
			made, err := c.SetSchedule(cmd.Context(), args[0], name, set)
			if err != nil {
				return fmt.Errorf("schedule %s on %s: %w", args[1], args[0], err)
			}
			return a.printOne(cmd, made, [][]string{
				{"Name:", made.GetName()},
				{"Action:", made.GetAction()},
				{"When:", rhythm(made)},
				{"Jitter:", orDash(seconds(made.GetJitterSeconds()))},
				{"Paused:", yesNo(made.GetPaused())},
				{"Next:", when(made.GetNextTime())},
			})
		}),
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "what it is called (default: the action)")
	f.StringVar(&set.Cron, "cron", "", "minute, hour, day of the month, month and day of the week; or @hourly, @daily, @weekly, @monthly, @yearly")
	f.StringVar(&set.TimeZone, "time-zone", "", "what --cron is read in, such as Europe/Berlin (default: UTC)")
	f.DurationVar(&every, "every", 0, "this often instead, such as 6h; at least 10s")
	f.DurationVar(&jitter, "jitter", 0, "begin up to this much later, each time another while (poll: a tenth of --every unless given)")
	f.StringVar(&start, "start-at", "", "not before this time, RFC 3339; alone: once at this time")
	f.BoolVar(&set.Paused, "paused", false, "keep it, but do nothing")
	a.outputFlag(c)
	return c
}

func (a *app) scheduleRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove CHANNEL NAME", Short: "End a schedule; what it began goes on", Args: want("CHANNEL", "NAME"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := c.DeleteSchedule(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("end the schedule %s: %w", args[1], err)
			}
			note(cmd, "ended the schedule %s of %s", args[1], args[0])
			return nil
		}),
	}
}
