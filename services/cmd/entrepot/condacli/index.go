package condacli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/pkg/conda/index"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// indexed is what index prints with --json.
type indexed struct {
	Subdirs []indexedSubdir `json:"subdirs"`
	Millis  int64           `json:"timings_ms"`
}

type indexedSubdir struct {
	Subdir   string          `json:"subdir"`
	Packages int             `json:"packages"`
	Read     int             `json:"read"`
	Failed   []indexedFailed `json:"failed"`
}

type indexedFailed struct {
	File  string `json:"fn"`
	Error string `json:"error"`
}

func (a *app) indexCommand() *cobra.Command {
	var opts index.Options
	var asJSON bool
	var patches []string
	c := &cobra.Command{
		Use: "index [flags] DIR", Short: "Make the index files of a channel in a directory",
		Long: `Read the packages in the subdirs of a directory (noarch, linux-64, …) and write the files that clients ask for:
repodata.json and .json.zst, shards, current_repodata.json, run_exports.json and channeldata.json.

Packages that have not changed since the last time are not read again. A package that cannot be read is reported and left
out; the others are indexed all the same, and the exit code is 1.`,
		Example: `  entrepot conda index ./channel
  entrepot conda index --patch linux-64=patch_instructions.json ./channel`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fault.New(fault.Invalid, "give one DIR (see '%s --help')", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if opts.Patches, err = readPatches(patches); err != nil {
				return err
			}
			show, done := progressTo(cmd.ErrOrStderr())
			opts.Progress = show
			opts.Now = a.now
			start := a.now()
			report, err := index.Build(cmd.Context(), args[0], opts)
			done()
			if errors.Is(err, index.ErrNoChannel) {
				return fault.New(fault.Invalid, "%s: %w", args[0], err)
			}
			if err != nil {
				return err
			}
			return printReport(cmd, report, a.now().Sub(start), asJSON)
		},
	}
	c.Flags().StringArrayVar(&opts.Subdirs, "subdir", nil, "index only this subdir, and noarch; may be given many times")
	c.Flags().BoolVar(&opts.Force, "force", false, "read every package again")
	c.Flags().BoolVar(&opts.Bzip2, "bz2", false, "write repodata.json.bz2 too, for old clients")
	c.Flags().BoolVar(&opts.NoShards, "no-shards", false, "write no sharded index")
	c.Flags().StringArrayVar(&patches, "patch", nil, "SUBDIR=FILE: patch instructions for a subdir")
	c.Flags().IntVar(&opts.Parallel, "parallel", 0, "packages to read at a time (default: one per processor)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func readPatches(flags []string) (map[string]*repodata.PatchInstructions, error) {
	out := map[string]*repodata.PatchInstructions{}
	for _, text := range flags {
		subdir, file, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fault.Field("--patch", "--patch: %q is not SUBDIR=FILE", text)
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.Field("--patch", "--patch: %v", err)
		}
		if out[subdir], err = repodata.ParsePatch(raw); err != nil {
			return nil, fault.Field("--patch", "--patch: %s: %v", file, err)
		}
	}
	return out, nil
}

// progressTo counts on one line of a terminal; elsewhere it says nothing.
func progressTo(w io.Writer) (show func(index.Progress), done func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}
	}
	var last time.Time
	return func(p index.Progress) {
			if now := time.Now(); p.Done == p.Total || now.Sub(last) > 100*time.Millisecond {
				last = now
				fmt.Fprintf(w, "\rread %d of %d packages", p.Done, p.Total)
			}
		}, func() {
			if !last.IsZero() {
				fmt.Fprint(w, "\r\x1b[K")
			}
		}
}

func printReport(cmd *cobra.Command, report *index.Report, took time.Duration, asJSON bool) error {
	out := indexed{Subdirs: []indexedSubdir{}, Millis: took.Milliseconds()}
	packages, failed := 0, 0
	for _, s := range report.Subdirs {
		sub := indexedSubdir{Subdir: s.Subdir, Packages: s.Packages, Read: s.Read, Failed: []indexedFailed{}}
		for _, f := range s.Failed {
			sub.Failed = append(sub.Failed, indexedFailed{f.File, f.Err.Error()})
			fmt.Fprintf(cmd.ErrOrStderr(), "entrepot: %s/%s is left out: %v\n", s.Subdir, f.File, f.Err)
		}
		packages, failed = packages+s.Packages, failed+len(s.Failed)
		out.Subdirs = append(out.Subdirs, sub)
	}
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		if err := enc.Encode(out); err != nil {
			return err
		}
	} else {
		for _, s := range out.Subdirs {
			fmt.Fprintf(cmd.OutOrStdout(), "%-14s %6d packages, %d read\n", s.Subdir, s.Packages, s.Read)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d packages indexed in %s\n", packages, took.Round(time.Millisecond))
	}
	if failed > 0 {
		return negative{}
	}
	return nil
}
