package client

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	settings "github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// noRole is how the absence of a role is written.
const noRole = "none"

func (a *app) adminRoleCommand() *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the users with their roles on the server", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			users, err := c.Users(cmd.Context(), "")
			if err != nil {
				return fmt.Errorf("list users: %w", err)
			}
			rows := [][]string{{"USER", "NAME", "ROLE"}}
			for _, u := range users {
				rows = append(rows, []string{u.GetUsername(), u.GetName(), cmp.Or(u.GetRole(), noRole)})
			}
			return printList(a, cmd, users, rows)
		}),
	}
	a.outputFlag(list)
	set := &cobra.Command{
		Use: "set USER owner|maintainer|member|none", Short: "Give a user a role on the server, or take it away", Args: want("USER", "ROLE"),
		Long: `Gives a user a role on the server: member (makes channels), maintainer (also sees and makes users, makes mirrors, looks after
storage; passes every check of a channel) or owner (also gives roles). Only an owner gives roles other than member.`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			role := args[1]
			if role == noRole {
				role = ""
			}
			u, err := c.SetUserRole(cmd.Context(), args[0], role)
			if err != nil {
				return fmt.Errorf("set the role of %s: %w", args[0], err)
			}
			note(cmd, "%s: %s", u.GetUsername(), cmp.Or(u.GetRole(), "no role on the server"))
			return nil
		}),
	}
	return group("role", "Show and change roles on the server", list, set)
}

func (a *app) adminQuotaCommand() *cobra.Command {
	var namespace string
	list := &cobra.Command{
		Use: "list", Short: "Show what channels take and may take", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			all, err := c.Channels(cmd.Context(), "", namespace, 0)
			if err != nil {
				return fmt.Errorf("list channels: %w", err)
			}
			channels := all.GetChannels()
			slices.SortStableFunc(channels, func(a, b *channelsv1.Channel) int {
				return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(b.GetSize(), a.GetSize()))
			})
			rows := [][]string{{"NAMESPACE", "CHANNEL", "SIZE", "LIMIT", "USED"}}
			var size int64
			for i, ch := range channels {
				limit, used := "-", "-"
				if ch.SizeLimit != nil {
					limit = progress.Bytes(ch.GetSizeLimit())
					if ch.GetSizeLimit() > 0 {
						used = fmt.Sprintf("%.0f %%", 100*float64(ch.GetSize())/float64(ch.GetSizeLimit()))
					}
				}
				rows = append(rows, []string{ch.GetNamespace(), ch.GetName(), progress.Bytes(ch.GetSize()), limit, used})
				size += ch.GetSize()
				if i+1 == len(channels) || channels[i+1].GetNamespace() != ch.GetNamespace() {
					rows = append(rows, []string{ch.GetNamespace(), "(together)", progress.Bytes(size), "", ""})
					size = 0
				}
			}
			return printList(a, cmd, channels, rows)
		}),
	}
	list.Flags().StringVar(&namespace, "namespace", "", "only channels of this namespace")
	a.outputFlag(list)
	set := &cobra.Command{
		Use: "set CHANNEL SIZE|none", Short: "Set how much a channel may hold", Args: want("CHANNEL", "SIZE"),
		Long:    "Sets how many bytes a channel's files may take together, such as 50GiB; none takes the limit away. What is there already stays.",
		Example: "  entrepot admin quota set tools 50GiB",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			to := &channelsv1.Channel{}
			var err error
			if to.SizeLimit, err = parseLimit(args[1]); err != nil {
				return err
			}
			ch, err := c.UpdateChannel(cmd.Context(), args[0], to, "size_limit")
			if err != nil {
				return fmt.Errorf("set the quota of %s: %w", args[0], err)
			}
			note(cmd, "%s has %s and takes %s", ch.GetName(), limitText(ch.SizeLimit), progress.Bytes(ch.GetSize()))
			return nil
		}),
	}
	namespaces := &cobra.Command{
		Use: "namespaces", Short: "Show what the channels of each namespace take and may take together", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			all, err := c.NamespaceUsage(cmd.Context())
			if err != nil {
				return fmt.Errorf("list namespaces: %w", err)
			}
			rows := [][]string{{"NAMESPACE", "CHANNELS", "SIZE", "LIMIT"}}
			for _, u := range all {
				limit := "-"
				if u.SizeLimit != nil {
					limit = progress.Bytes(u.GetSizeLimit())
				}
				rows = append(rows, []string{u.GetNamespace(), strconv.FormatInt(u.GetChannelCount(), 10), progress.Bytes(u.GetSize()), limit})
			}
			return printList(a, cmd, all, rows)
		}),
	}
	a.outputFlag(namespaces)
	setNamespace := &cobra.Command{
		Use: "set-namespace NAMESPACE SIZE|none", Short: "Set how much the channels of a namespace may hold together", Args: want("NAMESPACE", "SIZE"),
		Long: "Sets how many bytes the files of all channels of a namespace may take together, beside the limit that each may have; none\n" +
			"takes the limit away. A file that two of them have counts twice. What is there already stays.",
		Example: "  entrepot admin quota set-namespace science 500GiB",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			limit, err := parseLimit(args[1])
			if err != nil {
				return err
			}
			u, err := c.SetNamespaceLimit(cmd.Context(), args[0], limit)
			if err != nil {
				return fmt.Errorf("set the quota of namespace %s: %w", args[0], err)
			}
			note(cmd, "namespace %s has %s and takes %s", u.GetNamespace(), limitText(u.SizeLimit), progress.Bytes(u.GetSize()))
			return nil
		}),
	}
	return group("quota", "Show and change how much channels and namespaces may hold", list, set, namespaces, setNamespace)
}

// parseLimit reads a size, or none.
func parseLimit(s string) (*int64, error) {
	if s == noRole {
		return nil, nil
	}
	n, err := parseSize(s)
	return &n, err
}

func limitText(limit *int64) string {
	if limit == nil {
		return "no limit"
	}
	return "a limit of " + progress.Bytes(*limit)
}

// parseSize reads bytes as the configuration does, or a plain number.
func parseSize(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return n, nil
	}
	var b settings.Bytes
	if err := b.UnmarshalText([]byte(s)); err != nil || b < 0 {
		return 0, fault.Field("SIZE", "%q is not a size such as 500MB or 50GiB", s)
	}
	return int64(b), nil
}

func (a *app) adminAuditCommand() *cobra.Command {
	var actor, resource string
	var limit int
	c := &cobra.Command{
		Use: "audit", Short: "Show who changed what, newest first", Args: want(),
		Example: "  entrepot admin audit --resource channel/tools --limit 20",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			events, err := c.AuditEvents(cmd.Context(), actor, resource, limit)
			if err != nil {
				return fmt.Errorf("show the audit log: %w", err)
			}
			rows := [][]string{{"TIME", "ACTOR", "ACTION", "RESOURCE", "DETAILS"}}
			for _, e := range events {
				details := ""
				if e.GetDetails() != nil && len(e.GetDetails().GetFields()) > 0 {
					data, err := protojson.Marshal(e.GetDetails())
					if err != nil {
						return err
					}
					details = string(data)
				}
				rows = append(rows, []string{when(e.GetTime()), e.GetActor(), e.GetAction(), e.GetResource(), details})
			}
			return printList(a, cmd, events, rows)
		}),
	}
	c.Flags().StringVar(&actor, "actor", "", "only what this user or service did")
	c.Flags().StringVar(&resource, "resource", "", "only what was done to this, such as channel/tools or user/bob")
	c.Flags().IntVar(&limit, "limit", 50, "at most this many; 0 means all")
	a.outputFlag(c)
	return c
}
