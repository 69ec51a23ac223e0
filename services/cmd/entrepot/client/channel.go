package client

import (
	"bufio"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) channelCommand() *cobra.Command {
	return group("channel", "Make, mirror, show and delete channels",
		a.channelCreateCommand(), a.channelListCommand(), a.channelShowCommand(), a.channelSyncCommand(), a.channelRemoteCommand(), a.channelMetricsCommand(),
		a.channelImportCommand(), a.channelMemberCommand(), a.channelMirrorCommand(), a.channelConfigCommand(), a.channelScheduleCommand(), a.channelWebhookCommand(), a.channelDeleteCommand())
}

func kindName(k channelsv1.ChannelKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "CHANNEL_KIND_"))
}

func (a *app) channelListCommand() *cobra.Command {
	var query, namespace string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List the channels that you may read", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			resp, err := c.Channels(cmd.Context(), query, namespace, limit)
			if err != nil {
				return fmt.Errorf("list channels: %w", err)
			}
			rows := [][]string{{"NAME", "KIND", "PRIVATE", "PACKAGES", "FILES", "SIZE", "UPDATED", "UPSTREAM"}}
			for _, ch := range resp.GetChannels() {
				rows = append(rows, []string{
					ch.GetName(), kindName(ch.GetKind()), yesNo(ch.GetPrivate()), fmt.Sprint(ch.GetPackageCount()), fmt.Sprint(ch.GetFileCount()),
					progress.Bytes(ch.GetSize()), when(ch.GetUpdateTime()), orDash(ch.GetMirror().GetUrl()),
				})
			}
			return printList(a, cmd, resp.GetChannels(), rows)
		}),
	}
	c.Flags().StringVar(&query, "query", "", "only names that contain this")
	c.Flags().StringVar(&namespace, "namespace", "", "only channels of this namespace")
	c.Flags().IntVar(&limit, "limit", 0, "at most this many; 0 means all")
	a.outputFlag(c)
	return c
}

func (a *app) channelShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show NAME", Short: "Show a channel", Args: want("NAME"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			ch, err := c.Channel(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("show channel %s: %w", args[0], err)
			}
			lines := channelLines(ch, c.ChannelURL(ch.GetName()))
			if a.output == "table" && ch.GetKind() == channelsv1.ChannelKind_CHANNEL_KIND_MIRROR {
				st, err := c.SyncStatus(cmd.Context(), ch.GetName())
				if err != nil {
					return fmt.Errorf("show the last sync of %s: %w", args[0], err)
				}
				lines = append(lines, syncLines(st)...)
			}
			return a.printOne(cmd, ch, lines)
		}),
	}
	a.outputFlag(c)
	return c
}

func channelLines(ch *channelsv1.Channel, url string) [][]string {
	lines := [][]string{
		{"Name:", ch.GetName()},
		{"URL:", url},
		{"Kind:", kindName(ch.GetKind())},
		{"Namespace:", ch.GetNamespace()},
		{"Description:", orDash(ch.GetDescription())},
		{"Private:", yesNo(ch.GetPrivate())},
		{"Revision:", fmt.Sprint(ch.GetHead())},
		{"Content:", fmt.Sprintf("%d packages, %d files, %s", ch.GetPackageCount(), ch.GetFileCount(), progress.Bytes(ch.GetSize()))},
		{"Members:", fmt.Sprint(ch.GetMemberCount())},
		{"Created:", when(ch.GetCreateTime())},
		{"Updated:", when(ch.GetUpdateTime())},
	}
	if ch.SizeLimit != nil {
		lines = append(lines, []string{"Size limit:", progress.Bytes(ch.GetSizeLimit())})
	}
	if m := ch.GetMirror(); m != nil {
		removal := "keep"
		if m.GetRemovalPolicy() == channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE {
			removal = "prune"
		}
		lines = append(lines, []string{"Upstream:", m.GetUrl()}, []string{"Removal:", removal})
		for _, l := range []struct {
			name string
			list []string
		}{{"Include:", m.GetIncludelist()}, {"Exclude:", m.GetExcludelist()}, {"Proxied:", m.GetProxylist()}, {"Subdirs:", m.GetSubdirs()}} {
			if len(l.list) > 0 {
				lines = append(lines, []string{l.name, strings.Join(l.list, ", ")})
			}
		}
	}
	return lines
}

func syncLines(st *syncv1.SyncStatus) (lines [][]string) {
	if p := st.GetPoll(); p != nil {
		lines = append(lines, []string{"Last poll:", when(p.GetPollTime())}, []string{"Last change:", when(p.GetChangeTime())})
		if p.GetError() != "" {
			lines = append(lines, []string{"Poll failed:", p.GetError()})
		}
	}
	if st.GetLast() == nil {
		return append(lines, []string{"Last sync:", "never"})
	}
	l := st.GetLast()
	lines = append(lines,
		[]string{"Last sync:", when(st.GetLastTime())},
		[]string{"", fmt.Sprintf("revision %d: %d added, %d unchanged, %d removed, %d failed", l.GetRevision(), l.GetAdded(), l.GetUnchanged(), l.GetRemoved(), l.GetFailed())})
	for _, f := range l.GetFailures() {
		lines = append(lines, []string{"Failed:", f.GetPath() + ": " + f.GetError()})
	}
	return lines
}

func (a *app) channelSyncCommand() *cobra.Command {
	var follow bool
	var every time.Duration
	req := &syncv1.StartSyncRequest{}
	c := &cobra.Command{
		Use: "sync NAME", Short: "Bring a mirror up to date", Args: want("NAME"),
		Long: "Starts a sync, or names the one that is queued or running. With --follow its progress is shown until it has ended;\nthe exit code is then 1 if it failed or if a file could not be had. Ctrl-C stops the watching, not the sync.",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if every < 0 || every > 0 && every < time.Minute {
				return fault.Field("--every", "--every must be a minute or more, not %s", every)
			}
			req.Channel = args[0]
			if cmd.Flags().Changed("every") {
				seconds := int64(every / time.Second)
				req.RepeatEverySeconds = &seconds
			}
			return a.sync(cmd, c, req, follow)
		}),
	}
	c.Flags().BoolVar(&follow, "follow", false, "show the progress until the sync has ended")
	c.Flags().BoolVar(&req.Inspect, "inspect", false, "compare each package's own metadata with the index too")
	c.Flags().BoolVar(&req.Force, "force", false, "read the upstream's index even if it has not changed")
	c.Flags().DurationVar(&every, "every", 0, "again this long after each run, such as 6h; 0 ends the repetition")
	a.outputFlag(c)
	return c
}

// sync starts a sync and follows it if that was asked for.
func (a *app) sync(cmd *cobra.Command, c *restclient.Client, req *syncv1.StartSyncRequest, follow bool) error {
	job, err := c.StartSync(cmd.Context(), req)
	if err != nil {
		return fmt.Errorf("sync %s: %w", req.GetChannel(), err)
	}
	if follow {
		note(cmd, "sync of %s is job %d", req.GetChannel(), job.GetNumber())
		return a.follow(cmd, c, fmt.Sprint(job.GetNumber()))
	}
	if a.output != "table" {
		return a.printOne(cmd, job, nil)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "sync of %s is job %d, %s; follow it with:  entrepot job follow %d\n", req.GetChannel(), job.GetNumber(), stateName(job.GetState()), job.GetNumber())
	return nil
}

func (a *app) channelDeleteCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "delete NAME", Short: "Delete a channel with all it holds", Args: want("NAME"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if !yes {
				if err := confirm(cmd, args[0]); err != nil {
					return err
				}
			}
			if err := c.DeleteChannel(cmd.Context(), args[0]); err != nil {
				return fmt.Errorf("delete channel %s: %w", args[0], err)
			}
			note(cmd, "deleted channel %s", args[0])
			return nil
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// confirm lets a person type the channel's name; where nobody can be asked, --yes must have been given.
func confirm(cmd *cobra.Command, name string) error {
	if _, ok := terminal(cmd.InOrStdin()); !ok {
		return fault.Field("--yes", "deleting %s cannot be undone, and nobody can be asked here; add --yes", name)
	}
	note(cmd, "Deleting %s with all its packages cannot be undone. Type its name to go on:", name)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != name {
		return fault.New(fault.Invalid, "not deleted: that was not %s", name)
	}
	return nil
}
