package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/lifecycle"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/backup"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

func backupCommand() *cobra.Command {
	var withBlobs bool
	cmd := &cobra.Command{
		Use: "backup DIR|FILE.tar", Short: "Write database, keys and the list of blobs to a directory or a tar",
		Long: `Back up an installation, which may run: a dump of the database, the master key, the settings without secrets, and a list
of the blobs that the dump refers to. With --blobs the blobs are copied, too; without, copy the blob store by other means
afterwards, for example with rsync or the replication of your object store.

The backup holds the keys of the installation. It is readable by you only; keep it so.
Exit code 1 if blobs are missing or damaged; the backup is written all the same.`,
		Example: "  entrepot backup --blobs /mnt/backup/$(date +%F)\n  entrepot backup /mnt/backup/$(date +%F).tar",
		Args:    oneArg("DIR|FILE.tar"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			settings, err := config.Show(cfg)
			if err != nil {
				return err
			}
			store, err := blob.Open(cmd.Context(), cfg.Blobs(), blob.OpenOptions{})
			if err != nil {
				return err
			}
			defer store.Close()
			return withServer(cmd, cfg, true, func(ctx context.Context, url string) error {
				sum, err := backup.Write(ctx, args[0], backup.Source{
					DatabaseURL: url, Blobs: store, MasterKeyFile: cfg.MasterKey(), Config: settings,
					Version: Version, Schemas: platform.Schemas, PGBin: os.Getenv("ENTREPOT_PG_BIN"), WithBlobs: withBlobs, Tell: teller(cmd),
				})
				if err != nil {
					return err
				}
				what := "listed"
				if withBlobs {
					what = "copied"
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: database %s, %d blobs (%s) %s\n", args[0],
					progress.Bytes(sum.Files["database.dump"].Size), sum.Blobs.Count, progress.Bytes(sum.Blobs.Bytes), what)
				if sum.Blobs.Damaged > 0 {
					return fmt.Errorf("%d blobs are missing or damaged and are not in the backup", sum.Blobs.Damaged)
				}
				return nil
			})
		},
	}
	addSettings(cmd)
	cmd.Flags().BoolVar(&withBlobs, "blobs", false, "copy the blobs, too")
	return cmd
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restore DIR|FILE.tar", Short: "Build an installation anew from a backup",
		Long: `Restore a backup into a data directory that holds no installation, or into the empty database of --database-url. Nothing is
overwritten. Blobs are put into the blob store unless they are there; those that neither has are listed.

Exit code 1 if blobs are missing: the rest is restored and can be served.`,
		Example: "  entrepot restore --data-dir /var/lib/entrepot /mnt/backup/2026-11-21\n  entrepot serve --data-dir /var/lib/entrepot",
		Args:    oneArg("DIR|FILE.tar"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := loadSettings(cmd)
			if err != nil {
				return err
			}
			if err := freeDir(cfg); err != nil {
				return err
			}
			var r *backup.Report
			err = withServer(cmd, cfg, false, func(ctx context.Context, url string) error {
				store, err := blob.Open(ctx, cfg.Blobs(), blob.OpenOptions{})
				if err != nil {
					return err
				}
				defer store.Close()
				r, err = backup.Read(ctx, args[0], backup.Target{
					DatabaseURL: url, Blobs: store, MasterKeyFile: cfg.MasterKey(), Schemas: platform.Schemas, PGBin: os.Getenv("ENTREPOT_PG_BIN"), Tell: teller(cmd),
				})
				return err
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "restored the backup of %s (version %s): %d blobs from it, %d were there\n",
				r.Summary.Created.Format(time.RFC3339), r.Summary.Version, r.Restored, r.Present)
			for _, d := range r.Missing {
				fmt.Fprintf(cmd.OutOrStdout(), "missing %s\n", d)
			}
			if len(r.Missing) > 0 {
				return fmt.Errorf("%d blobs are missing; the files that they are cannot be served until they are in %s", len(r.Missing), storeName(cfg))
			}
			return nil
		},
	}
	addSettings(cmd)
	return cmd
}

func oneArg(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return &exitError{exitUsage, fmt.Errorf("name one %s (see '%s --help')", name, cmd.CommandPath())}
		}
		return nil
	}
}

// storeName says where blobs belong. A URL may hold a secret.
func storeName(cfg platform.Config) string {
	if cfg.BlobURL.IsZero() {
		return cfg.Blobs()
	}
	return "the store of blob_url"
}

// teller prints what is being done, beside the output.
func teller(cmd *cobra.Command) func(string, ...any) {
	return func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
}

// freeDir refuses a data directory that holds an installation. Blobs may be there: they are named by their contents.
func freeDir(cfg platform.Config) error {
	for _, name := range []string{"postgres", "nats"} {
		path := filepath.Join(cfg.DataDir, name)
		entries, err := os.ReadDir(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
			continue
		}
		if err != nil {
			return err
		}
		if name == "postgres" && !cfg.DatabaseURL.IsZero() || name == "nats" && !cfg.NATSURL.IsZero() {
			continue // another installation's, which this one does not touch
		}
		return fault.New(fault.Precondition, "%s holds an installation (%s); restore into an empty directory, or move that one away", cfg.DataDir, path).WithReason("NOT_EMPTY")
	}
	return nil
}

// withServer finds the database: the configured one, the private one of a server that runs here (if that is allowed), or
// the private one, which is started for as long as f takes.
func withServer(cmd *cobra.Command, cfg platform.Config, running bool, f func(ctx context.Context, url string) error) error {
	ctx := cmd.Context()
	if err := os.MkdirAll(cfg.DataDir, 0o711); err != nil {
		return err
	}
	private := filepath.Join(cfg.DataDir, "postgres")
	unlock, err := lifecycle.LockDir(cfg.DataDir)
	var locked *fault.Error
	if running && errors.As(err, &locked) && locked.Reason == "DATA_DIR_LOCKED" {
		url := cfg.DatabaseURL.Reveal()
		if url == "" {
			if url, err = pg.RunningURL(private); err != nil {
				return err
			}
		}
		return f(ctx, url)
	}
	if err != nil {
		return err
	}
	defer unlock()
	if url := cfg.DatabaseURL.Reveal(); url != "" {
		return f(ctx, url)
	}
	_, err = os.Stat(private)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh && running {
		return fault.New(fault.NotFound, "there is no installation in %s", cfg.DataDir)
	}
	server, err := pg.StartEmbedded(ctx, pg.EmbeddedConfig{DataDir: private, BinDir: os.Getenv("ENTREPOT_PG_BIN"), Durable: true})
	if err != nil {
		return err
	}
	err = f(ctx, server.URL())
	if serr := server.Stop(context.WithoutCancel(ctx)); err == nil {
		err = serr
	}
	if err != nil && fresh {
		// A restore that failed leaves the directory as free as it found it, so that it can be tried again.
		err = errors.Join(err, os.RemoveAll(private))
	}
	return err
}
