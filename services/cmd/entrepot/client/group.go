package client

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) adminGroupCommand() *cobra.Command {
	var query string
	list := &cobra.Command{
		Use: "list", Short: "List groups", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			groups, err := c.Groups(cmd.Context(), query)
			if err != nil {
				return fmt.Errorf("list groups: %w", err)
			}
			rows := [][]string{{"GROUP", "MEMBERS", "DESCRIPTION"}}
			for _, g := range groups {
				rows = append(rows, []string{g.GetName(), fmt.Sprint(g.GetMembersCount()), orDash(printable(g.GetDescription()))})
			}
			return printList(a, cmd, groups, rows)
		}),
	}
	list.Flags().StringVar(&query, "query", "", "only names that contain this")
	show := &cobra.Command{
		Use: "show GROUP", Short: "Show who is in a group and what it may do", Args: want("GROUP"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			g, err := c.Group(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("show group %s: %w", args[0], err)
			}
			lines := [][]string{{"Group:", g.GetGroup().GetName()}, {"Description:", orDash(printable(g.GetGroup().GetDescription()))}}
			for _, m := range g.GetMembers() {
				lines = append(lines, []string{"Member:", m.GetUser().GetUsername() + strings.TrimSuffix(" (by "+m.GetSource()+")", " (by )")})
			}
			for _, r := range g.GetRoles() {
				lines = append(lines, []string{"Role:", r.GetRole() + " on " + r.GetResource()})
			}
			return a.printOne(cmd, g, lines)
		}),
	}
	a.outputFlag(list, show)
	var description string
	create := a.groupChange("create GROUP", "Make a group", []string{"GROUP"}, func(cmd *cobra.Command, c *restclient.Client, args []string) error {
		_, err := c.CreateGroup(cmd.Context(), args[0], description)
		return err
	})
	create.Flags().StringVar(&description, "description", "", "what it is for")
	return group("group", "Make groups, say who is in them, and give them roles", list, show, create,
		a.groupChange("delete GROUP", "Remove a group; its members lose what it gave them", []string{"GROUP"}, func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			return c.DeleteGroup(cmd.Context(), args[0])
		}),
		a.groupChange("add GROUP USER", "Put a user into a group", []string{"GROUP", "USER"}, func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			return c.AddGroupMember(cmd.Context(), args[0], args[1])
		}),
		a.groupChange("remove GROUP USER", "Take a user out of a group", []string{"GROUP", "USER"}, func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			return c.RemoveGroupMember(cmd.Context(), args[0], args[1])
		}),
		a.groupChange("role GROUP RESOURCE owner|maintainer|member|none", "Give a group a role on server, namespace/NAME, channel/NAME or package/CHANNEL/NAME",
			[]string{"GROUP", "RESOURCE", "ROLE"}, func(cmd *cobra.Command, c *restclient.Client, args []string) error {
				if !slices.Contains([]string{"owner", "maintainer", "member", noRole}, args[2]) {
					return fault.Field("ROLE", "ROLE must be owner, maintainer, member or none, not %q", args[2])
				}
				return c.SetGroupRole(cmd.Context(), args[0], args[1], strings.TrimSuffix(args[2], noRole))
			}),
	)
}

func (a *app) groupChange(use, short string, args []string, f func(*cobra.Command, *restclient.Client, []string) error) *cobra.Command {
	verb, _, _ := strings.Cut(use, " ")
	return &cobra.Command{
		Use: use, Short: short, Args: want(args...),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := f(cmd, c, args); err != nil {
				return fmt.Errorf("%s group %s: %w", cmp.Or(verb, "change"), args[0], err)
			}
			note(cmd, "done")
			return nil
		}),
	}
}
