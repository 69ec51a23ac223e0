package client

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) adminUserCommand() *cobra.Command {
	return group("user", "Make, show and shut out users", a.userListCommand(), a.userCreateCommand(), a.userPasswordCommand(),
		a.userDisableCommand(true), a.userDisableCommand(false), a.userLinkCommand())
}

func (a *app) userListCommand() *cobra.Command {
	var query string
	c := &cobra.Command{
		Use: "list", Short: "List users", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			users, err := c.Users(cmd.Context(), query)
			if err != nil {
				return fmt.Errorf("list users: %w", err)
			}
			rows := [][]string{{"USER", "NAME", "ROLE", "STATE", "CREATED"}}
			for _, u := range users {
				state := "active"
				if u.GetDisabled() {
					state = "disabled"
				}
				rows = append(rows, []string{u.GetUsername(), printable(u.GetName()), cmp.Or(u.GetRole(), noRole), state, when(u.GetCreateTime())})
			}
			return printList(a, cmd, users, rows)
		}),
	}
	c.Flags().StringVar(&query, "query", "", "only names that contain this")
	a.outputFlag(c)
	return c
}

func (a *app) userCreateCommand() *cobra.Command {
	var name, role, passwordFile string
	var ask bool
	c := &cobra.Command{
		Use: "create USER", Short: "Make a user", Args: want("USER"),
		Long: `Makes a user. With --password it asks for a password without echo, with --password-file it reads one; without either the user
has none, and gets in by a login provider that is linked, or not at all.`,
		Example: "  entrepot admin user create bob --name 'Bob B.' --role member --password",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			password := ""
			if ask || passwordFile != "" {
				var err error
				if password, err = readPassword(cmd, passwordFile, "New password for "+args[0], true); err != nil {
					return err
				}
			}
			u, err := c.CreateUser(cmd.Context(), &identityv1.CreateUserRequest{Username: args[0], Name: name, Role: role})
			if err != nil {
				return fmt.Errorf("create user %s: %w", args[0], err)
			}
			if password != "" {
				if err := c.SetPassword(cmd.Context(), u.GetUsername(), "", password); err != nil {
					return fmt.Errorf("user %s is made, but has no password: %w", args[0], err)
				}
			}
			note(cmd, "made user %s", u.GetUsername())
			return nil
		}),
	}
	c.Flags().StringVar(&name, "name", "", "name that is shown (default: the login name)")
	c.Flags().StringVar(&role, "role", "", "role on the server: owner, maintainer or member (default: none)")
	c.Flags().BoolVar(&ask, "password", false, "ask for a password")
	c.Flags().StringVar(&passwordFile, "password-file", "", "file that holds the password; - is standard input")
	return c
}

func (a *app) userPasswordCommand() *cobra.Command {
	var passwordFile, oldFile string
	var remove bool
	c := &cobra.Command{
		Use: "password USER", Short: "Give a user a password; it ends all their logins", Args: want("USER"),
		Long: `Gives a user a password, or with --remove takes it away. Your own needs the old one. All logins of the user end; API keys stay.`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			me, err := c.Me(cmd.Context())
			if err != nil {
				return err
			}
			password, old := "", ""
			if strings.EqualFold(me.GetUser().GetUsername(), args[0]) && !remove {
				if old, err = readPassword(cmd, oldFile, "Old password (empty if there is none)", false); err != nil {
					return err
				}
			}
			if !remove {
				if password, err = readPassword(cmd, passwordFile, "New password for "+args[0], true); err != nil {
					return err
				}
			}
			if err := c.SetPassword(cmd.Context(), args[0], old, password); err != nil {
				return fmt.Errorf("set the password of %s: %w", args[0], err)
			}
			note(cmd, "%s has a new password; all logins have ended", args[0])
			return nil
		}),
	}
	c.Flags().StringVar(&passwordFile, "password-file", "", "file that holds the new password; - is standard input")
	c.Flags().StringVar(&oldFile, "old-password-file", "", "file that holds the old one")
	c.Flags().BoolVar(&remove, "remove", false, "take the password away")
	return c
}

func (a *app) userDisableCommand(disable bool) *cobra.Command {
	use, short, done := "disable", "Shut a user out: no login and no key works any more", "shut out everywhere within five seconds"
	if !disable {
		use, short, done = "enable", "Let a user in again", "let in again; logins have to be made anew"
	}
	return &cobra.Command{
		Use: use + " USER", Short: short, Args: want("USER"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			u, err := c.SetUserDisabled(cmd.Context(), args[0], disable)
			if err != nil {
				return fmt.Errorf("%s %s: %w", use, args[0], err)
			}
			note(cmd, "%s is %s", u.GetUsername(), done)
			return nil
		}),
	}
}

func (a *app) userLinkCommand() *cobra.Command {
	var unlink bool
	c := &cobra.Command{
		Use: "link USER PROVIDER SUBJECT", Short: "Let a user log in with an account at a login provider", Args: want("USER", "PROVIDER", "SUBJECT"),
		Long: `Ties an account at a login provider to a user. SUBJECT is who the provider says it is: the number of a GitHub user, the claim
sub of OpenID Connect, the name of a JupyterHub user. Users can do the same by themselves while they are logged in:
/auth/PROVIDER/login?link=true.`,
		Example: "  entrepot admin user link bob github 583231",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if err := c.LinkLogin(cmd.Context(), args[0], args[1], args[2], unlink); err != nil {
				return fmt.Errorf("link %s: %w", args[0], err)
			}
			note(cmd, "done")
			return nil
		}),
	}
	c.Flags().BoolVar(&unlink, "unlink", false, "untie it")
	return c
}

// readPassword gets a password from a file, a terminal without echo, or standard input. It is never an argument: those
// can be seen by everybody on the machine. A new one is asked for twice.
func readPassword(cmd *cobra.Command, file, prompt string, fresh bool) (string, error) {
	if file != "" && file != "-" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fault.Field("--password-file", "cannot read the password: %v", err)
		}
		return oneLine(string(data), fresh)
	}
	if f, ok := terminal(cmd.InOrStdin()); ok && file == "" {
		var got []string
		for i := range 2 {
			if i == 1 {
				if !fresh {
					break
				}
				prompt = "Once more"
			}
			fmt.Fprint(cmd.ErrOrStderr(), prompt+" (not shown): ")
			data, err := term.ReadPassword(int(f.Fd()))
			fmt.Fprintln(cmd.ErrOrStderr())
			if err != nil {
				return "", err
			}
			got = append(got, string(data))
		}
		if len(slices.Compact(got)) != 1 {
			return "", fault.New(fault.Invalid, "the two are not the same")
		}
		return oneLine(got[0], fresh)
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	return oneLine(line, fresh)
}

func oneLine(s string, needed bool) (string, error) {
	s = strings.TrimRight(s, "\r\n")
	switch {
	case s == "" && needed:
		return "", fault.New(fault.Invalid, "the password is empty")
	case strings.ContainsAny(s, "\r\n"):
		return "", fault.New(fault.Invalid, "the password must be one line")
	}
	return s, nil
}
