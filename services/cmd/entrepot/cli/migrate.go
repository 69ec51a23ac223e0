package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

func migrateCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "migrate", Short: "Bring the database's schemas up to this binary, or say where they are"}
	up := &cobra.Command{
		Use: "up", Short: "Apply the migrations that are missing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, pool *pgxpool.Pool) error {
				if err := pg.MigrateAll(ctx, pool, platform.Schemas...); err != nil {
					return err
				}
				return printStatus(ctx, cmd, pool)
			})
		},
	}
	status := &cobra.Command{
		Use: "status", Short: "Show each schema's version; exit code 1 if this binary does not work with one", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withDatabase(cmd, func(ctx context.Context, pool *pgxpool.Pool) error { return printStatus(ctx, cmd, pool) })
		},
	}
	for _, c := range []*cobra.Command{up, status} {
		addSettings(c)
		cmd.AddCommand(c)
	}
	return cmd
}

// withDatabase opens the configured database; the private one is started for as long as it takes.
func withDatabase(cmd *cobra.Command, f func(context.Context, *pgxpool.Pool) error) error {
	ctx := cmd.Context()
	cfg, err := loadSettings(cmd)
	if err != nil {
		return err
	}
	url := cfg.DatabaseURL.Reveal()
	if url == "" {
		if err := os.MkdirAll(cfg.DataDir, 0o711); err != nil {
			return err
		}
		unlock, err := lifecycle.LockDir(cfg.DataDir)
		if err != nil {
			return err
		}
		defer unlock()
		server, err := pg.StartEmbedded(ctx, pg.EmbeddedConfig{
			DataDir: filepath.Join(cfg.DataDir, "postgres"), BinDir: os.Getenv("ENTREPOT_PG_BIN"), Durable: true,
		})
		if err != nil {
			return err
		}
		defer func() {
			if err := server.Stop(context.WithoutCancel(ctx)); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), "entrepot:", err)
			}
		}()
		url = server.URL()
	}
	pool, err := pg.Open(ctx, url, pg.PoolConfig{AppName: "entrepot migrate"})
	if err != nil {
		return err
	}
	defer pool.Close()
	return f(ctx, pool)
}

func printStatus(ctx context.Context, cmd *cobra.Command, pool *pgxpool.Pool) error {
	all, err := pg.StatusAll(ctx, pool, platform.Schemas...)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SCHEMA\tAPPLIED\tKNOWN\tOLDEST\t")
	works := true
	for _, s := range all {
		note := ""
		switch {
		case s.Newer() && s.Works():
			note = "newer than this binary, which still works with it"
		case s.Newer():
			note = "too new for this binary"
		case !s.Current():
			note = "run 'entrepot migrate up'"
		}
		works = works && s.Works()
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\n", s.Schema, s.Applied, s.Known, s.Min, note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if !works {
		return &exitError{code: exitFailed}
	}
	return nil
}
