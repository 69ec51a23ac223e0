package cli

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/demo"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

func demoCommand() *cobra.Command { return demo.Command(startDemo) }

// startDemo starts the whole platform for the demo, as serve would, on ports that are free.
func startDemo(ctx context.Context, opts demo.StartOptions) (*demo.Platform, error) {
	cfg := platform.DefaultConfig()
	cfg.DataDir, cfg.HTTPAddr = opts.DataDir, opts.HTTPAddr
	cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	if opts.AllowLoopback {
		cfg.EgressAllow = []string{"127.0.0.0/8", "::1/128"}
	}
	if opts.Quiet {
		cfg.Log.Level = "warn"
	}
	started := make(chan platform.Ready, 1)
	p, err := platform.New(cfg, platform.Options{
		Version: Version, PGBin: os.Getenv("ENTREPOT_PG_BIN"), OnReady: func(r platform.Ready) { started <- r },
	})
	if err != nil {
		return nil, err
	}
	// The platform outlives ctx's end by the time that an orderly stop takes.
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended, done := make(chan struct{}), make(chan error, 1)
	var failure error
	go func() {
		failure = p.Run(run)
		close(ended)
		done <- failure
	}()
	stop := func(ctx context.Context) error {
		cancel()
		select {
		case <-ended:
			return failure
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case r := <-started:
		key, err := os.ReadFile(r.AdminKeyFile)
		if err != nil {
			return nil, errors.Join(err, stop(context.WithoutCancel(ctx)))
		}
		return &demo.Platform{URL: r.URL, AdminKey: strings.TrimSpace(string(key)), Stop: stop, Done: done}, nil
	case <-ended:
		return nil, failure
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), stop(context.WithoutCancel(ctx)))
	}
}
