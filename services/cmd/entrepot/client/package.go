package client

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) packageCommand() *cobra.Command {
	return group("package", "Upload and list packages", a.packageUploadCommand(), a.packageListCommand())
}

func (a *app) packageListCommand() *cobra.Command {
	var query string
	var limit int
	c := &cobra.Command{
		Use: "list CHANNEL", Short: "List a channel's packages", Args: want("CHANNEL"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			resp, err := c.Packages(cmd.Context(), args[0], query, limit)
			if err != nil {
				return fmt.Errorf("list packages of %s: %w", args[0], err)
			}
			rows := [][]string{{"NAME", "VERSION", "FILES", "SUBDIRS", "UPDATED", "SUMMARY"}}
			for _, p := range resp.GetPackages() {
				rows = append(rows, []string{p.GetName(), orDash(p.GetCurrentVersion()), fmt.Sprint(p.GetFileCount()), strings.Join(p.GetSubdirs(), ","), when(p.GetUpdateTime()), p.GetSummary()})
			}
			return printList(a, cmd, resp.GetPackages(), rows)
		}),
	}
	c.Flags().StringVar(&query, "query", "", "only names that contain this")
	c.Flags().IntVar(&limit, "limit", 0, "at most this many; 0 means all")
	a.outputFlag(c)
	return c
}

func (a *app) packageUploadCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "upload CHANNEL FILE…", Short: "Upload packages into a hosted channel", Args: want("CHANNEL", "FILE…"),
		Long: `Uploads .conda and .tar.bz2 files one after another. Each is sent with its SHA-256, so what was damaged on the way is
refused. Sending the same bytes again changes nothing and is no error. A file that fails does not stop the next one.`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			return a.upload(cmd, c, args[0], args[1:], force)
		}),
	}
	c.Flags().BoolVar(&force, "force", false, "replace files of the same name")
	a.outputFlag(c)
	return c
}

// local is a file to be uploaded.
type local struct {
	path string
	size int64
}

func (a *app) upload(cmd *cobra.Command, c *restclient.Client, channel string, paths []string, force bool) error {
	var files []local
	var total int64
	for _, p := range paths { // all are looked at before the first one is sent
		if _, err := dist.ParseFilename(filepath.Base(p)); err != nil {
			return fault.Field("FILE", "%s is not named like a package: %v", p, err)
		}
		st, err := os.Stat(p)
		switch {
		case err != nil:
			return fault.Field("FILE", "cannot read: %v", err)
		case !st.Mode().IsRegular():
			return fault.Field("FILE", "%s is not a file", p)
		}
		files = append(files, local{p, st.Size()})
		total += st.Size()
	}
	meter := NewMeter(cmd.ErrOrStderr(), a.getenv, "packages")
	state := progress.State{Total: int64(len(files)), TotalBytes: total}
	var sent []*channelsv1.File
	rows := [][]string{{"FILE", "RESULT", "SIZE", "SHA256"}}
	var failures []error
	for _, f := range files {
		before := state.Bytes
		file, fresh, err := a.uploadOne(cmd, c, channel, f, force, func(n int64) {
			state.Bytes += n
			meter.Update(state)
		})
		if cmd.Context().Err() != nil {
			meter.Done()
			note(cmd, "interrupted: %d of %d files were uploaded", len(sent), len(files))
			return quiet{exitInterrupted}
		}
		state.Done, state.Bytes = state.Done+1, before+f.size
		meter.Update(state)
		if err != nil {
			meter.Println(fmt.Sprintf("failed: %s: %s", printable(f.path), printable(err.Error())))
			failures = append(failures, err)
			continue
		}
		result := "uploaded"
		if !fresh {
			result = "already there"
		}
		sent = append(sent, file)
		rows = append(rows, []string{file.GetPath(), result, progress.Bytes(file.GetSize()), file.GetSha256()})
	}
	took := meter.Done()
	if len(sent) > 0 || a.output != "table" {
		if err := printList(a, cmd, sent, rows); err != nil {
			return err
		}
	}
	if len(failures) > 0 {
		// All of one kind, such as "not allowed", keep that kind's exit code.
		err := failures[0]
		for _, f := range failures[1:] {
			if fault.KindOf(f) != fault.KindOf(err) {
				return fault.New(fault.Internal, "%d of %d files were not uploaded", len(failures), len(files))
			}
		}
		return fault.New(fault.KindOf(err), "%d of %d files were not uploaded: %w", len(failures), len(files), err)
	}
	if len(sent) > 1 {
		note(cmd, "%d packages, %s in %s", len(sent), progress.Bytes(total), progress.Duration(took))
	}
	return nil
}

func (a *app) uploadOne(cmd *cobra.Command, c *restclient.Client, channel string, f local, force bool, moved func(int64)) (*channelsv1.File, bool, error) {
	r, err := os.Open(f.path)
	if err != nil {
		return nil, false, err
	}
	defer r.Close()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return nil, false, err
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, false, err
	}
	file, fresh, err := c.Upload(cmd.Context(), restclient.Upload{
		Channel: channel, Filename: filepath.Base(f.path), Body: &counted{r, moved}, Size: f.size,
		SHA256: hex.EncodeToString(h.Sum(nil)), Force: force,
	})
	if err != nil {
		return nil, false, fmt.Errorf("upload %s: %w", filepath.Base(f.path), err)
	}
	return file, fresh, nil
}

// counted tells how much was read.
type counted struct {
	r     io.Reader
	moved func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.moved(int64(n))
	}
	return n, err
}
