package client

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) tokenCommand() *cobra.Command {
	return group("token", "Make, list and revoke API keys", a.tokenCreateCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var description, expires string
	var roles []string
	c := &cobra.Command{
		Use: "create", Short: "Make an API key", Args: want(),
		Long: `Makes an API key that acts as you, or only in the roles that --role names, and prints it: once, it cannot be shown again.
A role is written ROLE@RESOURCE: owner, maintainer or member, on server, channel/NAME or package/CHANNEL/NAME.`,
		Example: "  entrepot token create --description ci --expires 90d --role maintainer@channel/tools",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			req := &identityv1.CreateApiKeyRequest{Description: description}
			if expires != "" {
				at, err := expiry(expires, a.now())
				if err != nil {
					return err
				}
				req.ExpireTime = timestamppb.New(at)
			}
			for _, s := range roles {
				role, resource, ok := strings.Cut(s, "@")
				if !ok || resource == "" || !slices.Contains([]string{"owner", "maintainer", "member"}, role) {
					return fault.Field("--role", "--role must be like member@channel/NAME (owner, maintainer or member), not %q", s)
				}
				req.Roles = append(req.Roles, &identityv1.RoleGrant{Role: role, Resource: resource})
			}
			resp, err := c.CreateKey(cmd.Context(), req)
			if err != nil {
				return fmt.Errorf("create token: %w", err)
			}
			ends := "never expires"
			if t := resp.GetApiKey().GetExpireTime(); t != nil {
				ends = "expires " + when(t)
			}
			note(cmd, "key %s; %s. It is shown this once:", resp.GetApiKey().GetId(), ends)
			return a.printOne(cmd, resp, [][]string{{resp.GetSecret()}})
		}),
	}
	c.Flags().StringVar(&description, "description", "", "what it is for")
	c.Flags().StringVar(&expires, "expires", "", "when it ends: 12h, 90d, 4w, or a date such as 2027-01-31 (default: never)")
	c.Flags().StringSliceVar(&roles, "role", nil, "narrow it to this role, such as member@channel/main; may be repeated")
	a.outputFlag(c)
	return c
}

// expiry reads a time to come: a duration in hours, days or weeks, or a date, which counts to its end in UTC.
func expiry(s string, now time.Time) (time.Time, error) {
	bad := fault.Field("--expires", "--expires must be a time to come like 12h, 90d, 4w or 2027-01-31, not %q", s)
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		if at := day.Add(24 * time.Hour); at.After(now) {
			return at, nil
		}
		return time.Time{}, bad
	}
	units := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	unit, ok := units[s[len(s)-1]]
	n, err := strconv.ParseInt(s[:len(s)-1], 10, 32)
	const most = 100 * 365 * 24 * time.Hour
	if !ok || err != nil || n <= 0 || n > int64(most/unit) {
		return time.Time{}, bad
	}
	return now.Add(time.Duration(n) * unit), nil
}

func (a *app) tokenListCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List your API keys", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			resp, err := c.Keys(cmd.Context())
			if err != nil {
				return fmt.Errorf("list tokens: %w", err)
			}
			rows := [][]string{{"ID", "DESCRIPTION", "ROLES", "CREATED", "EXPIRES", "LAST USED"}}
			for _, k := range resp.GetApiKeys() {
				var roles []string
				for _, r := range k.GetRoles() {
					roles = append(roles, r.GetRole()+"@"+r.GetResource())
				}
				if roles == nil {
					roles = []string{"all of yours"}
				}
				rows = append(rows, []string{k.GetId(), orDash(k.GetDescription()), strings.Join(roles, ","), when(k.GetCreateTime()), when(k.GetExpireTime()), when(k.GetLastUsedTime())})
			}
			return printList(a, cmd, resp.GetApiKeys(), rows)
		}),
	}
	a.outputFlag(c)
	return c
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID", Short: "End an API key", Args: want("ID"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := c.RevokeKey(cmd.Context(), args[0]); err != nil {
				return fmt.Errorf("revoke token %s: %w", args[0], err)
			}
			note(cmd, "revoked %s; it works nowhere any more within five seconds", args[0])
			return nil
		}),
	}
}
