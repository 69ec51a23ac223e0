package client

import (
	"context"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/pkgtree"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// importOptions are how packages are taken from a tree.
type importOptions struct {
	subdirs            []string
	ignoreIndex        bool
	unlisted           bool
	dryRun, create     bool
	private            bool
	namespace, descrip string
}

func (a *app) channelImportCommand() *cobra.Command {
	var opts importOptions
	im := &importer{}
	c := &cobra.Command{
		Use: "import NAME DIR|s3://BUCKET/PREFIX", Short: "Bring a channel's packages from a directory or a bucket", Args: want("NAME", "DIR|s3://BUCKET/PREFIX"),
		Long: `Brings the packages of a tree <subdir>/<package file> into a hosted channel. They are sent in batches, and each batch
becomes visible at once. Every package is hashed, opened and checked by the server as an upload is; one that is refused is
named, and the others go on. If the tree has an index (repodata.json), its records are kept, patches included, and so is the
time at which a package was listed first; what the index does not name is left out. Without an index the packages speak for
themselves. Run it again after an interruption, or to bring what is new: what is there is not sent again.

An S3 URL may have the parameters endpoint, region, insecure and path_style; its credentials are AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY. The exit code is 1 if a package was refused.`,
		Example: `  entrepot channel import tools /srv/conda/tools --dry-run
  entrepot channel import tools 's3://packages/tools?endpoint=s3.example.org' --create --concurrency 8`,
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			if im.concurrency < 1 || im.concurrency > 64 {
				return fault.Field("--concurrency", "--concurrency must lie between 1 and 64")
			}
			im.c = c
			tree, err := pkgtree.Open(cmd.Context(), args[1], a.getenv)
			if err != nil {
				return err
			}
			defer tree.Close()
			return a.importTree(cmd, im, args[0], tree, opts)
		}),
	}
	f := c.Flags()
	f.BoolVar(&opts.dryRun, "dry-run", false, "only say what would be sent")
	f.BoolVar(&opts.create, "create", false, "make the channel if it is not there")
	f.BoolVar(&opts.private, "private", false, "with --create: only members may read it")
	f.StringVar(&opts.namespace, "namespace", "", "with --create: the tenant it belongs to (default: default)")
	f.StringVar(&opts.descrip, "description", "", "with --create: what it holds, for a person")
	f.StringSliceVar(&opts.subdirs, "subdir", nil, "only this subdir; may be repeated")
	f.BoolVar(&opts.ignoreIndex, "ignore-index", false, "let the packages speak for themselves, whatever the index says")
	f.BoolVar(&opts.unlisted, "unlisted", false, "bring packages too that the index does not name")
	f.BoolVar(&im.force, "force", false, "replace files of the same name and their records")
	f.IntVar(&im.concurrency, "concurrency", min(4, runtime.NumCPU()), "how many batches are sent at the same time")
	a.outputFlag(c)
	return c
}

func (a *app) importTree(cmd *cobra.Command, im *importer, channel string, tree pkgtree.Tree, opts importOptions) error {
	ctx := cmd.Context()
	has, err := a.importTarget(cmd, im.c, channel, opts)
	if err != nil {
		return err
	}
	report := &importReport{Channel: channel, DryRun: opts.dryRun}
	files, err := scanTree(ctx, tree, opts, report)
	if err != nil {
		return fmt.Errorf("read %s: %w", tree, err)
	}
	if files, err = im.sift(ctx, files, has, report); err != nil {
		return err
	}
	for _, f := range files {
		im.state.TotalBytes += f.Size
	}
	if opts.dryRun {
		report.Added, report.Bytes = len(files), im.state.TotalBytes
		return report.finish(a, cmd, nil)
	}
	im.state.Total = int64(len(files))
	im.backoff, im.meter = a.backoff, NewMeter(cmd.ErrOrStderr(), a.getenv, "packages")
	err = im.send(ctx, channel, files, report)
	took := im.meter.Done()
	if ctx.Err() != nil {
		note(cmd, "interrupted: %d of %d packages were imported; run the same command again to go on", report.Added, len(files))
		return quiet{exitInterrupted}
	}
	if err == nil && report.Added > 0 {
		note(cmd, "%d packages, %s in %s", report.Added, progress.Bytes(report.Bytes), progress.Duration(took))
	}
	return report.finish(a, cmd, err)
}

// finish prints the report and makes the exit code: what stopped the import, or that something was refused.
func (r *importReport) finish(a *app, cmd *cobra.Command, err error) error {
	if perr := r.print(a, cmd); err == nil {
		err = perr
	}
	if err == nil && len(r.Problems) > 0 {
		err = fault.New(fault.Internal, "%d packages were refused", len(r.Problems))
	}
	return err
}

// importTarget returns what the channel has, and makes it if that was asked for.
func (a *app) importTarget(cmd *cobra.Command, c *restclient.Client, channel string, opts importOptions) (map[string]*channelsv1.File, error) {
	ch, err := c.Channel(cmd.Context(), channel)
	switch {
	case fault.Is(err, fault.NotFound) && opts.create && opts.dryRun:
		return nil, nil
	case fault.Is(err, fault.NotFound) && opts.create:
		_, err = c.CreateChannel(cmd.Context(), &channelsv1.CreateChannelRequest{Name: channel, Private: &opts.private, Namespace: opts.namespace, Description: opts.descrip})
		if err != nil {
			return nil, fmt.Errorf("create channel %s: %w", channel, err)
		}
		note(cmd, "created channel %s", channel)
		return nil, nil
	case fault.Is(err, fault.NotFound):
		return nil, fmt.Errorf("%w (--create makes it)", err)
	case err != nil:
		return nil, err
	case ch.GetKind() != channelsv1.ChannelKind_CHANNEL_KIND_HOSTED:
		return nil, fault.New(fault.Precondition, "%s is a %s channel; only hosted channels take packages", channel, kindName(ch.GetKind()))
	}
	return listed(cmd.Context(), c, channel)
}

// scanTree lists what a tree has to import.
func scanTree(ctx context.Context, tree pkgtree.Tree, opts importOptions, r *importReport) ([]restclient.Import, error) {
	subdirs, err := pkgtree.Subdirs(ctx, tree, "")
	if err != nil {
		return nil, err
	}
	if len(opts.subdirs) > 0 {
		for _, s := range opts.subdirs {
			if !slices.Contains(subdirs, s) {
				return nil, fault.Field("--subdir", "there is no subdir %s", s)
			}
		}
		subdirs = opts.subdirs
	}
	if len(subdirs) == 0 {
		return nil, fault.New(fault.Invalid, "there are no subdirs such as noarch or linux-64, so it is no channel")
	}
	var all []restclient.Import
	for _, subdir := range subdirs {
		files, err := scanSubdir(ctx, tree, subdir, opts, r)
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	return all, nil
}

func scanSubdir(ctx context.Context, tree pkgtree.Tree, subdir string, opts importOptions, r *importReport) (out []restclient.Import, err error) {
	files, err := tree.Files(ctx, subdir)
	if err != nil {
		return nil, err
	}
	var ix *pkgtree.Index
	if !opts.ignoreIndex {
		if ix, err = pkgtree.ReadIndex(ctx, tree, subdir); err != nil {
			return nil, err
		}
	}
	found := make(map[string]bool, len(files))
	for _, f := range files {
		if _, err := dist.ParseFilename(f.Name); err != nil {
			continue // index files, and whatever else lies there
		}
		r.Found++
		found[f.Name] = true
		name := path.Join(subdir, f.Name)
		item := restclient.Import{
			Subdir: subdir, Filename: f.Name, Size: f.Size,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return tree.Open(ctx, name) },
		}
		if ix != nil {
			record, ok := ix.Records[f.Name]
			if !ok && (!opts.unlisted || ix.Removed[f.Name]) {
				r.Unlisted++
				continue
			}
			if ok {
				item.Record = record
				if rec, err := repodata.ParseRecord(record); err == nil {
					item.SHA256 = rec.SHA256
				}
			}
		}
		out = append(out, item)
	}
	if ix == nil {
		return out, nil
	}
	for name := range ix.Records {
		if !found[name] {
			r.refuse(path.Join(subdir, name), "MISSING", fmt.Errorf("the index names it, and it is not there"))
		}
	}
	for _, p := range ix.Problems {
		r.refuse(subdir+"/repodata.json", "RECORD_INVALID", fmt.Errorf("%s", p))
	}
	return out, nil
}
