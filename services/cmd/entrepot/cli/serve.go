package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the platform, or some targets of it",
		Long: `Run the platform. Without flags everything runs in this process: a private PostgreSQL, an embedded NATS server, a
directory of blobs, all services and worker pools, on loopback addresses. Ctrl-C stops it in order.

The first start makes a server owner and writes the API key to <data-dir>/admin-key.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			p, err := platform.New(cfg, platform.Options{
				GCPercent: gcPercent(os.Getenv("GOGC")), Version: Version, PGBin: os.Getenv("ENTREPOT_PG_BIN"),
				OnReady: func(r platform.Ready) { announce(cmd.OutOrStdout(), r, cfg.Dev) },
			})
			if err != nil {
				return err
			}
			return p.Run(cmd.Context())
		},
	}
	addSettings(cmd)
	return cmd
}

// announce prints where the platform is. The first key is shown on a terminal only: elsewhere output ends up in logs. In
// development it is shown anywhere, in the words that scripts made for Quetz look for.
func announce(w io.Writer, r platform.Ready, dev bool) {
	if r.URL != "" {
		fmt.Fprintf(w, "Entrepot is ready at %s\n", r.URL)
	} else {
		fmt.Fprintf(w, "Entrepot is ready; health at http://%s/healthz/ready\n", r.OpsAddr)
	}
	if !r.AdminKeyNew {
		return
	}
	fmt.Fprintf(w, "The first administrator's API key is in %s\n", r.AdminKeyFile)
	f, ok := w.(*os.File)
	if !dev && (!ok || !term.IsTerminal(int(f.Fd()))) {
		return
	}
	key, err := os.ReadFile(r.AdminKeyFile)
	switch {
	case err != nil:
	case dev:
		fmt.Fprintf(w, "Test API key created for user \"alice\": %s\n", strings.TrimSpace(string(key)))
	default:
		fmt.Fprintf(w, "  %s\n", strings.TrimSpace(string(key)))
	}
}

// gcPercent: the live heap of a server is small, and serving small files makes much short-lived garbage, so that Go's
// default collects several times a second. GOGC still decides if it is set.
func gcPercent(gogc string) int {
	if gogc != "" {
		return 0
	}
	return 250
}
