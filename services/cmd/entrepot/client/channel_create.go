package client

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) channelCreateCommand() *cobra.Command {
	var private, follow, start, noSync bool
	var removal string
	req := &channelsv1.CreateChannelRequest{}
	mirror := &channelsv1.MirrorSettings{}
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a channel: a hosted one, or a mirror of another", Args: want("NAME"),
		Long: `Makes a channel. With --mirror it is a copy of an upstream channel, and its first sync starts at once unless --no-sync
says otherwise. Anyone may read a channel unless it is made with --private.`,
		Example: `  entrepot channel create tools
  entrepot channel create forge --mirror https://conda.example.org/forge --include numpy- --follow`,
	}
	c.RunE = a.run(func(cmd *cobra.Command, client *restclient.Client, args []string) error {
		req.Name, req.Private = args[0], &private
		if mirror.Url == "" {
			for _, f := range []string{"removal", "include", "exclude", "subdir", "follow", "sync", "no-sync"} {
				if cmd.Flags().Changed(f) {
					return fault.Field("--"+f, "--%s is about mirrors; name the upstream with --mirror URL", f)
				}
			}
		} else {
			switch removal {
			case "keep":
				mirror.RemovalPolicy = channelsv1.RemovalPolicy_REMOVAL_POLICY_KEEP
			case "prune":
				mirror.RemovalPolicy = channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE
			default:
				return fault.Field("--removal", "--removal must be keep or prune, not %q", removal)
			}
			req.Mirror = mirror
		}
		start = start && !noSync
		if follow && !start {
			return fault.Field("--follow", "--follow has nothing to show without a sync")
		}
		ch, err := client.CreateChannel(cmd.Context(), req)
		if err != nil {
			return fmt.Errorf("create channel %s: %w", args[0], err)
		}
		readers := "anyone may read it"
		if ch.GetPrivate() {
			readers = "only members may read it"
		}
		note(cmd, "created %s channel %s; %s", kindName(ch.GetKind()), ch.GetName(), readers)
		if req.Mirror == nil || !start {
			return a.printOne(cmd, ch, channelLines(ch, client.ChannelURL(ch.GetName())))
		}
		if a.output == "table" {
			fmt.Fprintln(cmd.OutOrStdout(), client.ChannelURL(ch.GetName()))
		}
		return a.sync(cmd, client, &syncv1.StartSyncRequest{Channel: ch.GetName()}, follow)
	})
	f := c.Flags()
	f.StringVar(&mirror.Url, "mirror", "", "URL of the upstream channel to mirror")
	f.BoolVar(&private, "private", false, "only members may read it")
	f.StringVar(&req.Description, "description", "", "what it holds, for a person")
	f.StringVar(&req.Namespace, "namespace", "", "the tenant it belongs to (default: default)")
	f.StringVar(&removal, "removal", "keep", "what happens to files that the upstream drops: keep or prune")
	f.StringSliceVar(&mirror.Includelist, "include", nil, "mirror only files whose name begins with this; may be repeated")
	f.StringSliceVar(&mirror.Excludelist, "exclude", nil, "do not mirror files whose name begins with this; may be repeated")
	f.StringSliceVar(&mirror.Subdirs, "subdir", nil, "mirror only this subdir; may be repeated")
	f.BoolVar(&start, "sync", true, "start a sync of a mirror")
	f.BoolVar(&noSync, "no-sync", false, "do not start a sync of a mirror")
	f.BoolVar(&follow, "follow", false, "show the sync's progress until it has ended")
	a.outputFlag(c)
	return c
}
