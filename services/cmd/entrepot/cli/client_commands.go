package cli

import (
	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
)

// ClientCommands returns the commands that talk to a server.
func ClientCommands() []*cobra.Command { return client.Commands(Version) }
