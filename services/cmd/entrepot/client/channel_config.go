package client

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) channelConfigCommand() *cobra.Command {
	var client string
	c := &cobra.Command{
		Use: "config CHANNEL --for conda|mamba|pixi", Short: "Print what a package client must be told to use a channel", Args: want("CHANNEL"),
		Long: `Prints the settings that let conda, mamba or pixi install from a channel, to be appended to the file that the first line names.
For a private channel it also says how the client is given an API key; the key itself is never printed.`,
		Example: "  entrepot channel config tools --for conda >> ~/.condarc",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			write, ok := configSnippets[client]
			if !ok {
				return fault.Field("--for", "--for takes conda, mamba or pixi, not %q", client)
			}
			ch, err := c.Channel(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("show channel %s: %w", args[0], err)
			}
			at, err := url.Parse(c.ChannelURL(ch.GetName()))
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), write(at, ch.GetPrivate()))
			return err
		}),
	}
	c.Flags().StringVar(&client, "for", "", "conda, mamba or pixi")
	return c
}

// configSnippets write the settings of each client. Package clients read one file each, in YAML or TOML, where what begins
// with # is a comment, so that a snippet can be appended as it is.
var configSnippets = map[string]func(channel *url.URL, private bool) string{
	"conda": func(ch *url.URL, private bool) string {
		var b strings.Builder
		fmt.Fprintf(&b, "# ~/.condarc\nchannels:\n  - %s\n", ch)
		if private {
			// conda takes a token out of the URL before it shows or stores it.
			fmt.Fprintf(&b, "# The channel is private: put an API key (entrepot token create --role member@channel/…) into the URL,\n#   - %s\n", withToken(ch))
		}
		return b.String()
	},
	"mamba": func(ch *url.URL, private bool) string {
		var b strings.Builder
		fmt.Fprintf(&b, "# ~/.mambarc\nchannels:\n  - %s\n", ch)
		if private {
			fmt.Fprintf(&b, "# The channel is private: give mamba an API key in ~/.mamba/auth/authentication.json, readable by you only:\n"+
				"#   {%q: {\"type\": \"CondaToken\", \"token\": \"API_KEY\"}}\n", ch.Host)
		}
		return b.String()
	},
	"pixi": func(ch *url.URL, private bool) string {
		var b strings.Builder
		fmt.Fprintf(&b, "# pixi.toml, in [workspace]\nchannels = [%q]\n", ch)
		if private {
			fmt.Fprintf(&b, "# The channel is private: give pixi an API key once, with\n#   pixi auth login %s --conda-token API_KEY\n", ch.Host)
		}
		return b.String()
	},
}

func withToken(ch *url.URL) string {
	return ch.Scheme + "://" + ch.Host + "/t/API_KEY" + ch.EscapedPath()
}
