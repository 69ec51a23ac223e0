package client

import (
	"fmt"

	"github.com/spf13/cobra"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) channelMemberCommand() *cobra.Command {
	return group("member", "Say who may do what in a channel", a.memberListCommand(), a.memberAddCommand(), a.memberRemoveCommand())
}

func (a *app) memberListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list CHANNEL", Short: "List a channel's members", Args: want("CHANNEL"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			members, err := c.Members(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("list the members of %s: %w", args[0], err)
			}
			rows := [][]string{{"USER", "NAME", "ROLE"}}
			for _, m := range members {
				rows = append(rows, []string{m.GetUser().GetUsername(), m.GetUser().GetName(), m.GetRole()})
			}
			return printList(a, cmd, members, rows)
		}),
	}
	a.outputFlag(c)
	return c
}

func (a *app) memberAddCommand() *cobra.Command {
	var role string
	c := &cobra.Command{
		Use: "add CHANNEL USER", Short: "Give a user a role in a channel, or another one", Args: want("CHANNEL", "USER"),
		Long: `Gives a user a role in a channel: member (reads, also if the channel is private), maintainer (uploads, deletes, syncs, changes
settings) or owner (replaces files, says who is a member).`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			m, err := c.SetMember(cmd.Context(), args[0], args[1], role)
			if err != nil {
				return fmt.Errorf("add %s to %s: %w", args[1], args[0], err)
			}
			note(cmd, "%s is %s of %s", m.GetUser().GetUsername(), m.GetRole(), args[0])
			return nil
		}),
	}
	c.Flags().StringVar(&role, "role", "member", "owner, maintainer or member")
	return c
}

func (a *app) memberRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove CHANNEL USER", Short: "Take a user's role in a channel away", Args: want("CHANNEL", "USER"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := c.RemoveMember(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("remove %s from %s: %w", args[1], args[0], err)
			}
			note(cmd, "%s has no role in %s any more", args[1], args[0])
			return nil
		}),
	}
}

func (a *app) channelMirrorCommand() *cobra.Command {
	return group("mirror", "Register other servers' copies of a channel", a.mirrorListCommand(), a.mirrorAddCommand(), a.mirrorRemoveCommand())
}

func (a *app) mirrorListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list CHANNEL", Short: "List a channel's registered mirrors", Args: want("CHANNEL"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			mirrors, err := c.Mirrors(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("list the mirrors of %s: %w", args[0], err)
			}
			rows := [][]string{{"ID", "URL", "CONFIRMED", "REGISTERED"}}
			for _, m := range mirrors {
				rows = append(rows, []string{m.GetId(), m.GetUrl(), yesNo(m.GetConfirmed()), when(m.GetCreateTime())})
			}
			return printList(a, cmd, mirrors, rows)
		}),
	}
	a.outputFlag(c)
	return c
}

func (a *app) mirrorAddCommand() *cobra.Command {
	req := &channelsv1.RegisterMirrorRequest{}
	c := &cobra.Command{
		Use: "add CHANNEL URL", Short: "Register another server's copy of a channel", Args: want("CHANNEL", "URL"),
		Long: `Registers a copy of the channel that another Entrepot or Quetz server keeps. URL is where its clients find it, such as
https://mirror.example.org/get/tools; where its API and its download counts are follows from that unless it is said. The
other server is asked whether the channel is a mirror at all.`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			req.Url = args[1]
			m, err := c.RegisterMirror(cmd.Context(), args[0], req)
			if err != nil {
				return fmt.Errorf("register %s: %w", args[1], err)
			}
			return a.printOne(cmd, m, [][]string{
				{"ID:", m.GetId()}, {"URL:", m.GetUrl()}, {"API:", m.GetApiEndpoint()}, {"Counts:", m.GetMetricsEndpoint()}, {"Confirmed:", yesNo(m.GetConfirmed())},
			})
		}),
	}
	c.Flags().StringVar(&req.ApiEndpoint, "api-endpoint", "", "its API, such as https://mirror.example.org/api/channels/tools")
	c.Flags().StringVar(&req.MetricsEndpoint, "metrics-endpoint", "", "its counts, such as https://mirror.example.org/metrics/channels/tools")
	a.outputFlag(c)
	return c
}

func (a *app) mirrorRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove CHANNEL ID", Short: "Forget a registered mirror", Args: want("CHANNEL", "ID"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := c.DeleteMirror(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("forget the mirror %s: %w", args[1], err)
			}
			note(cmd, "forgot the mirror %s of %s", args[1], args[0])
			return nil
		}),
	}
}
