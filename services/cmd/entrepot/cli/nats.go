package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

func natsCommand() *cobra.Command {
	var listen, dir, tokenFile string
	cmd := &cobra.Command{
		Use:   "nats",
		Short: "Run the embedded NATS server by itself, for installations of several processes",
		Long: `Run a NATS server with JetStream that writes every message to disk before it acknowledges it. It is what 'entrepot serve'
embeds, on a TCP address, for the other processes to use as --nats-url. Beyond a loopback address clients must present a token.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), "info", "text")
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			unlock, err := lifecycle.LockDir(dir)
			if err != nil {
				return err
			}
			defer unlock()
			token, err := readSecretFile(tokenFile)
			if err != nil {
				return err
			}
			server, err := bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: filepath.Join(dir, "jetstream"), Listen: listen, Token: token, Log: log})
			if err != nil {
				return err
			}
			defer server.Stop()
			fmt.Fprintf(cmd.OutOrStdout(), "NATS is ready at %s\n", server.URL())
			<-ctx.Done()
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:4222", "host:port")
	cmd.Flags().StringVar(&dir, "data-dir", "entrepot-nats", "where streams are kept")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the token that clients present")
	return cmd
}
