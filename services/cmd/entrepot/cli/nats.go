package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
)

// natsOptions are the flags of `entrepot nats`.
type natsOptions struct{ listen, dir, tokenFile, opsAddr string }

func natsCommand() *cobra.Command {
	var o natsOptions
	cmd := &cobra.Command{
		Use:   "nats",
		Short: "Run the embedded NATS server by itself, for installations of several processes",
		Long: `Run a NATS server with JetStream that writes every message to disk before it acknowledges it. It is what 'entrepot serve'
embeds, on a TCP address, for the other processes to use as --nats-url. Beyond a loopback address clients must present a token.

With --ops-addr it answers /healthz/live and /healthz/ready there; ready means that a message was kept and delivered.
'entrepot health --ops-addr …' asks.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runNATS(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "127.0.0.1:4222", "host:port")
	f.StringVar(&o.dir, "data-dir", "entrepot-nats", "where streams are kept")
	f.StringVar(&o.tokenFile, "token-file", "", "file with the token that clients present")
	f.StringVar(&o.opsAddr, "ops-addr", "", "host:port of health probes (default: none)")
	return cmd
}

func runNATS(cmd *cobra.Command, o natsOptions) error {
	log, err := telemetry.NewLogger(cmd.ErrOrStderr(), "info", "text")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return err
	}
	unlock, err := lifecycle.LockDir(o.dir)
	if err != nil {
		return err
	}
	defer unlock()
	token, err := readSecretFile(o.tokenFile)
	if err != nil {
		return err
	}
	group := lifecycle.New(lifecycle.Options{Log: log})
	var server *bus.Server
	var probe *bus.Bus
	group.Add(lifecycle.Module{
		Name: "nats",
		Start: func(context.Context) (err error) {
			if server, err = bus.StartEmbedded(bus.EmbeddedConfig{StoreDir: filepath.Join(o.dir, "jetstream"), Listen: o.listen, Token: token, Log: log}); err != nil {
				return err
			}
			nc, err := server.Conn(bus.Options{Name: "entrepot nats health", Token: token, Log: log})
			if err == nil {
				probe, err = bus.New(nc)
			}
			if err != nil {
				server.Stop()
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "NATS is ready at %s\n", server.URL())
			return nil
		},
		Stop:  func(context.Context) error { probe.Close(); server.Stop(); return nil },
		Check: func(ctx context.Context) error { return probe.Probe(ctx) },
	})
	if o.opsAddr != "" {
		group.Add(opsOf(group, o.opsAddr))
	}
	return group.Run(cmd.Context())
}

// opsOf is a module that answers health probes about its group.
func opsOf(group *lifecycle.Group, addr string) lifecycle.Module {
	mux := http.NewServeMux()
	group.HandleHealth(mux)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	return lifecycle.Module{
		Name: "ops",
		Start: func(ctx context.Context) error {
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			go func() {
				if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
					group.Fail("ops", err)
				}
			}()
			return nil
		},
		Stop: func(ctx context.Context) error {
			if err := server.Shutdown(ctx); err != nil {
				return server.Close()
			}
			return nil
		},
	}
}
