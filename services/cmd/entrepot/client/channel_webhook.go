package client

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) channelWebhookCommand() *cobra.Command {
	return group("webhook", "Have other servers told of what happens to a channel",
		a.webhookListCommand(), a.webhookAddCommand(), a.webhookRemoveCommand(), a.webhookDeliveriesCommand())
}

func (a *app) webhookListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list CHANNEL", Short: "List a channel's webhooks", Args: want("CHANNEL"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			hooks, err := c.Webhooks(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("list the webhooks of %s: %w", args[0], err)
			}
			rows := [][]string{{"ID", "URL", "EVENTS", "DISABLED", "CREATED"}}
			for _, w := range hooks {
				rows = append(rows, []string{w.GetId(), w.GetUrl(), strings.Join(w.GetEvents(), ","), yesNo(w.GetDisabled()), when(w.GetCreateTime())})
			}
			return printList(a, cmd, hooks, rows)
		}),
	}
	a.outputFlag(c)
	return c
}

func (a *app) webhookAddCommand() *cobra.Command {
	req := &channelsv1.CreateWebhookRequest{}
	c := &cobra.Command{
		Use: "add CHANNEL URL", Short: "Have a server told of what happens to a channel", Args: want("CHANNEL", "URL"),
		Long: `Has URL told by a POST when something happens to the channel: channel.published (its packages have changed) or sync.failed
(a mirror could not be brought up to date, or lacks files). Deliveries are signed with a secret, which is shown here and
never again: Entrepot-Signature is t=<seconds>,v1=<hex> of HMAC-SHA256 over "<seconds>.<body>". One that is not answered by
2xx is tried again for about three hours.`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			req.Url = args[1]
			made, err := c.CreateWebhook(cmd.Context(), args[0], req)
			if err != nil {
				return fmt.Errorf("add a webhook to %s: %w", args[0], err)
			}
			w := made.GetWebhook()
			return a.printOne(cmd, made, [][]string{
				{"ID:", w.GetId()}, {"URL:", w.GetUrl()}, {"Events:", strings.Join(w.GetEvents(), ", ")}, {"Secret:", made.GetSecret()},
			})
		}),
	}
	c.Flags().StringSliceVar(&req.Events, "event", nil, "tell of this: channel.published or sync.failed; may be repeated (default: all)")
	a.outputFlag(c)
	return c
}

func (a *app) webhookRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove CHANNEL ID", Short: "End a webhook", Args: want("CHANNEL", "ID"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := c.DeleteWebhook(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("end the webhook %s: %w", args[1], err)
			}
			note(cmd, "ended the webhook %s of %s", args[1], args[0])
			return nil
		}),
	}
}

func (a *app) webhookDeliveriesCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "deliveries CHANNEL ID", Short: "Show what became of the last messages to a webhook", Args: want("CHANNEL", "ID"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			list, err := c.Deliveries(cmd.Context(), args[0], args[1])
			if err != nil {
				return fmt.Errorf("list the deliveries to %s: %w", args[1], err)
			}
			rows := [][]string{{"ID", "EVENT", "TIME", "STATE", "ATTEMPTS", "STATUS", "ERROR"}}
			for _, d := range list {
				rows = append(rows, []string{
					d.GetId(), d.GetEvent(), when(d.GetCreateTime()), strings.ToLower(strings.TrimPrefix(d.GetState().String(), "STATE_")),
					fmt.Sprint(d.GetAttempts()), fmt.Sprint(d.GetStatus()), d.GetError(),
				})
			}
			return printList(a, cmd, list, rows)
		}),
	}
	a.outputFlag(c)
	return c
}
