package condacli

import (
	"context"
	"crypto/md5" //nolint:gosec // indexes have it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// inspection is what inspect prints with --json.
type inspection struct {
	File       string          `json:"file"`
	Size       int64           `json:"size"`
	SHA256     string          `json:"sha256"`
	MD5        string          `json:"md5"`
	Index      json.RawMessage `json:"index"`
	About      json.RawMessage `json:"about,omitempty"`
	RunExports json.RawMessage `json:"run_exports,omitempty"`
	Link       json.RawMessage `json:"link,omitempty"`
	Verified   bool            `json:"verified"` // every file was read and hashed
	// Paths are spelled as in info/paths.json.
	Paths []archive.PathEntry `json:"paths,omitempty"`

	info *archive.Info
}

func (a *app) inspectCommand() *cobra.Command {
	var asJSON, paths, verify bool
	c := &cobra.Command{
		Use: "inspect [flags] FILE…", Short: "Show what a package file says about itself, and check it",
		Long: `Show the metadata of .conda and .tar.bz2 files. The reader is strict: a file that two programs could read in two ways is
refused. With --verify every file in the package is hashed and compared with its list of paths.`,
		Example: `  entrepot conda inspect --verify --json numpy-1.26.4-py312h1234567_0.conda`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fault.New(fault.Invalid, "FILE is missing (see '%s --help')", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			bad := 0
			for i, name := range args {
				in, err := inspect(cmd.Context(), name, paths, verify)
				if err != nil {
					bad++
					fmt.Fprintf(cmd.ErrOrStderr(), "entrepot: %s: %v\n", name, err)
					continue
				}
				if asJSON {
					err = writeJSON(cmd.OutOrStdout(), in, "  ")
				} else {
					if i > 0 {
						fmt.Fprintln(cmd.OutOrStdout())
					}
					err = writeInspection(cmd.OutOrStdout(), in)
				}
				if err != nil {
					return err
				}
			}
			if bad > 0 {
				return negative{}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, one object a file")
	c.Flags().BoolVar(&paths, "paths", false, "list the files in the package too")
	c.Flags().BoolVar(&verify, "verify", false, "read and hash every file in the package")
	return c
}

func inspect(ctx context.Context, name string, paths, verify bool) (*inspection, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("is no file")
	}
	read := archive.Inspect
	if verify {
		read = archive.Verify
	}
	var opts []archive.Option
	if paths {
		opts = append(opts, archive.KeepPaths())
	}
	info, err := read(ctx, f, stat.Size(), filepath.Base(name), archive.Limits{}, opts...)
	if err != nil {
		return nil, err
	}
	sha, sum := sha256.New(), md5.New() //nolint:gosec // see the import
	if _, err := io.Copy(io.MultiWriter(sha, sum), io.NewSectionReader(f, 0, stat.Size())); err != nil {
		return nil, err
	}
	in := &inspection{
		File: name, Size: stat.Size(), SHA256: hex.EncodeToString(sha.Sum(nil)), MD5: hex.EncodeToString(sum.Sum(nil)),
		Index: info.IndexJSON, About: info.AboutJSON, RunExports: info.RunExportsJSON, Link: info.LinkJSON, Verified: verify, info: info,
	}
	if paths {
		if in.Paths, err = info.Paths(archive.Limits{}); err != nil {
			return nil, err
		}
	}
	return in, nil
}

func writeInspection(w io.Writer, in *inspection) error {
	index := in.info.Index
	row := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-12s %s\n", key, value)
		}
	}
	row("file", in.File)
	row("name", index.Name)
	row("version", index.Version)
	row("build", index.Build)
	row("subdir", index.Subdir)
	row("license", string(index.License))
	row("size", fmt.Sprintf("%d bytes", in.Size))
	row("sha256", in.SHA256)
	row("md5", in.MD5)
	row("depends", strings.Join(index.Depends, "\n             "))
	row("constrains", strings.Join(index.Constrains, "\n             "))
	if about := in.info.About; about != nil {
		row("home", string(about.Home))
		row("summary", strings.Join(strings.Fields(string(about.Summary)), " "))
	}
	if in.Verified {
		row("verified", "every file has the digest that the package lists")
	}
	for _, p := range in.Paths {
		size := "?"
		if p.Size != nil {
			size = strconv.FormatInt(*p.Size, 10)
		}
		if _, err := fmt.Fprintf(w, "  %-9s %10s  %s\n", p.Type, size, p.Path); err != nil {
			return err
		}
	}
	return nil
}
