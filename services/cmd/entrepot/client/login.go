package client

import (
	"bufio"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) loginCommand() *cobra.Command {
	var keyFile, username, passwordFile string
	c := &cobra.Command{
		Use:   "login",
		Short: "Remember a server and a key",
		Long: `Checks an API key with the server and keeps both in $XDG_CONFIG_HOME/entrepot/client.yaml (readable by you alone).
The key comes from --key-file, else it is asked for without echo, else it is read from standard input.
With --username it asks for a password instead, and has the server make a key; the password is not kept.
Several servers can be kept; the last one that was logged in to is used when none is named.`,
		Example: "  entrepot login --server https://packages.example.org\n  entrepot login --key-file ~/.entrepot/admin-key\n  entrepot login --username bob",
		Args:    want(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.readConfig()
			if err != nil {
				return err
			}
			server, err := a.serverURL(cfg)
			if err != nil {
				return err
			}
			var key string
			if username != "" {
				key, err = a.keyForPassword(cmd, server, username, passwordFile)
			} else {
				key, err = a.askKey(cmd, keyFile, server)
			}
			if err != nil {
				return err
			}
			client, err := a.client(server, key)
			if err != nil {
				return err
			}
			defer client.CloseIdle()
			me, err := client.Me(cmd.Context())
			if err != nil {
				return Explain(err, client)
			}
			cfg.Current = server
			cfg.Servers[server] = login{User: me.GetUser().GetUsername(), Key: key}
			path, err := a.writeConfig(cfg)
			if err != nil {
				return err
			}
			if u, _ := restclient.ParseServer(server); u.Scheme == "http" && !loopback(u.Hostname()) {
				note(cmd, "warning: %s is not encrypted: whoever sees the traffic sees the key", server)
			}
			narrowed := ""
			if me.GetScoped() {
				narrowed = " (with a key that is narrowed to some roles)"
			}
			note(cmd, "logged in to %s as %s%s; kept in %s", server, me.GetUser().GetUsername(), narrowed, path)
			return nil
		},
	}
	c.Flags().StringVar(&keyFile, "key-file", "", "file that holds the API key; - is standard input")
	c.Flags().StringVar(&username, "username", "", "log in by this name and a password, and get a key")
	c.Flags().StringVar(&passwordFile, "password-file", "", "file that holds the password; - is standard input")
	c.MarkFlagsMutuallyExclusive("key-file", "username")
	return c
}

// keyForPassword has the server make a key for whoever knows the password. The key says where it is kept, so that its user
// finds it in the list.
func (a *app) keyForPassword(cmd *cobra.Command, server, username, file string) (string, error) {
	password, err := readPassword(cmd, file, "Password of "+username+" at "+server, false)
	if err != nil {
		return "", err
	}
	client, err := a.client(server, "")
	if err != nil {
		return "", err
	}
	defer client.CloseIdle()
	description := "entrepot login"
	if host, err := os.Hostname(); err == nil {
		description += " on " + host
	}
	made, err := client.KeyForPassword(cmd.Context(), username, password, description)
	if err != nil {
		return "", Explain(err, client)
	}
	return cleanKey(made.GetSecret())
}

func loopback(host string) bool {
	return host == "localhost" || host == "::1" || strings.HasPrefix(host, "127.")
}

// askKey gets the key for login. It is never an argument: those can be seen by everybody on the machine.
func (a *app) askKey(cmd *cobra.Command, file, server string) (string, error) {
	if file == "" {
		file = a.keyFile
	}
	if file != "" && file != "-" {
		data, err := os.ReadFile(file)
		if err != nil {
			return "", fault.Field("--key-file", "cannot read the key: %v", err)
		}
		return cleanKey(string(data))
	}
	if f, ok := terminal(cmd.InOrStdin()); ok && file == "" {
		note(cmd, "API key for %s (not shown):", server)
		data, err := term.ReadPassword(int(f.Fd()))
		if err != nil {
			return "", err
		}
		return cleanKey(string(data))
	}
	line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	return cleanKey(line)
}

func (a *app) logoutCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "logout",
		Short: "Forget a server and its key",
		Long:  "Forgets the key of the current server, or of the one that --server names. The key itself stays valid: 'entrepot token revoke' ends it.",
		Args:  want(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.readConfig()
			if err != nil {
				return err
			}
			server, err := a.serverURL(cfg)
			if err != nil {
				return err
			}
			gone := []string{server}
			if all {
				gone = nil
				for s := range cfg.Servers {
					gone = append(gone, s)
				}
				slices.Sort(gone)
			} else if _, ok := cfg.Servers[server]; !ok {
				note(cmd, "not logged in to %s", server)
				return nil
			}
			for _, s := range gone {
				delete(cfg.Servers, s)
				if cfg.Current == s {
					cfg.Current = ""
				}
			}
			if _, err := a.writeConfig(cfg); err != nil {
				return err
			}
			for _, s := range gone {
				note(cmd, "logged out of %s", s)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "forget every server")
	return c
}
