package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

// readyLine begins what a process prints when it serves; the programs of the platform say it at some place of theirs.
const readyLine = "ready"

// runProcess is the role `chaos process`: a part of the platform, with the ledger's kind.
func runProcess(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("chaos process", flag.ContinueOnError)
	file := f.String("config", "", "YAML `file` with settings, as of entrepot serve")
	dir := f.String("ledger", "", "`directory` where held jobs are let go")
	name := f.String("name", "", "what the process is called in the ledger")
	slots := f.Int("slots", 4, "ledger jobs at a time")
	clock := f.Duration("clock", 0, "how wrong this process's clock is")
	if err := f.Parse(args); err != nil {
		return err
	}
	cfg, _, err := config.Load(platform.DefaultConfig(), config.Sources{File: *file})
	if err != nil {
		return err
	}
	opts := platform.Options{
		Version: "chaos", PGBin: os.Getenv("ENTREPOT_PG_BIN"), Jobs: registerLedger(*dir, *name, *slots, os.Stdout),
		OnReady: func(platform.Ready) { fmt.Println(*name, "is", readyLine) },
	}
	if *clock != 0 {
		opts.Clock = func() time.Time { return time.Now().Add(*clock) }
	}
	p, err := platform.New(cfg, opts)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}
