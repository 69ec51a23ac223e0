package condacli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/image"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// imageRequest is what image is asked for.
type imageRequest struct {
	assembly
	output     string
	tag        string
	prefix     string
	base       string
	docker     bool
	zstd       bool
	everything bool
	env        []string
	labels     []string
	entrypoint []string
	cmd        []string
	workdir    string
	user       string
}

// imageReport is what image prints with --json.
type imageReport struct {
	Status     string          `json:"status"`
	Output     string          `json:"output"`
	Platform   string          `json:"platform"`
	Digest     string          `json:"digest"`
	Config     string          `json:"config_digest"`
	Bytes      int64           `json:"bytes"` // of the layers, compressed
	Packages   int             `json:"packages"`
	Layers     []imageLayer    `json:"layers"`
	Clobbers   []clobberedPath `json:"clobbers,omitempty"`
	Activation []string        `json:"activation_scripts,omitempty"` // that nothing has run
	Timings    packTimings     `json:"timings_ms"`
}

type imageLayer struct {
	Digest    string `json:"digest"`
	DiffID    string `json:"diff_id"`
	Bytes     int64  `json:"bytes"`
	MediaType string `json:"media_type"`
	What      string `json:"what"`
}

func (a *app) imageCommand() *cobra.Command {
	var r imageRequest
	c := &cobra.Command{
		Use: "image --lock FILE -o DIR|FILE.tar [flags]", Short: "Make a container image of an environment",
		Long: `Make a container image of the packages of a lock file: a layer for each of the largest packages, the rest in buckets, and
one small layer for what belongs to the environment. No container tool and no Python is needed. Layers depend on nothing but
their packages, so images share them, and the same lock gives the same digests on any machine.

The output is an OCI image layout in a directory or, if its name ends in .tar, one file that docker load, podman load and
skopeo read. Without --base the image holds the environment alone: there is no shell in it, and no C library, unless
packages bring them.`,
		Example: `  entrepot conda image --lock pixi.lock -o image.tar --tag team/env:1 --base ./debian-layout
  entrepot conda image --lock pixi.lock -o ./layout --cmd python`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.image(cmd.Context(), &r, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	r.register(c)
	c.Flags().StringVarP(&r.output, "output", "o", "", "directory of an OCI image layout, or a file whose name ends in .tar")
	c.Flags().StringVar(&r.tag, "tag", "", "name of the image, such as team/env:1")
	c.Flags().StringVar(&r.prefix, "prefix", image.DefaultPrefix, "where the environment lies in the image")
	c.Flags().StringVar(&r.base, "base", "", "OCI image layout of the image to build on")
	c.Flags().BoolVar(&r.docker, "docker", false, "use Docker's media types in the manifest")
	c.Flags().BoolVar(&r.zstd, "zstd", false, "compress layers with zstd instead of gzip")
	c.Flags().BoolVar(&r.everything, "include-everything", false, "keep static libraries and source maps ("+strings.Join(image.DefaultExclude, ", ")+"), which images do without")
	c.Flags().StringArrayVar(&r.env, "env", nil, "NAME=VALUE to set; may be given many times")
	c.Flags().StringArrayVar(&r.labels, "label", nil, "NAME=VALUE to describe the image with; may be given many times")
	c.Flags().StringArrayVar(&r.entrypoint, "entrypoint", nil, "word of the entry point; may be given many times")
	c.Flags().StringArrayVar(&r.cmd, "cmd", nil, "word of the command; may be given many times")
	c.Flags().StringVar(&r.workdir, "workdir", "", "working directory")
	c.Flags().StringVar(&r.user, "user", "", "user that the image runs as")
	return c
}

// options are the flags as the builder takes them.
func (r *imageRequest) options(a *app) (image.Options, error) {
	o := image.Options{
		Prefix: r.prefix, Docker: r.docker, Zstd: r.zstd, Env: r.env, Entrypoint: r.entrypoint, Cmd: r.cmd, WorkDir: r.workdir, User: r.user,
		RefuseClobbers: r.strict, Tool: "entrepot " + a.version, Exclude: append([]string{}, r.exclude...), Labels: map[string]string{},
	}
	if r.output == "" {
		return o, fault.Field("--output", "name a directory, or a file that ends in .tar, with --output")
	}
	if !r.everything {
		o.Exclude = append(o.Exclude, image.DefaultExclude...)
	}
	for _, v := range r.env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			return o, fault.Field("--env", "--env must be NAME=VALUE, not %q", v)
		}
	}
	for _, v := range r.labels {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return o, fault.Field("--label", "--label must be NAME=VALUE, not %q", v)
		}
		o.Labels[name] = value
	}
	return o, nil
}

func (a *app) image(ctx context.Context, r *imageRequest, out, errs io.Writer) error {
	o, err := r.options(a)
	if err != nil {
		return err
	}
	start := a.now()
	packages, cache, err := r.load(ctx, a, errs)
	if err != nil {
		return err
	}
	defer cache.Close()
	if r.base != "" {
		if o.Base, err = baseImage(r.base, r.platform); err != nil {
			return fault.Field("--base", "--base: %v", err)
		}
	}
	fetched := a.now()
	show, end := r.progress(errs)
	o.Platform, o.Cache, o.Workers, o.Progress = r.platform, cache, r.workers, show
	var img *image.Image
	err = r.renewal.again(ctx, packages, func() error {
		var err error
		img, err = r.write(ctx, packages, o)
		return err
	})
	end()
	if err != nil {
		return assemblyError(err)
	}
	defer img.Close()
	r.warn(errs, img.Clobbers)
	if len(img.Activation) > 0 && !r.quiet {
		fmt.Fprintf(errs, "entrepot: warning: nothing has run %s; set what they would with --env\n", strings.Join(img.Activation, ", "))
	}
	rep, err := r.report(img)
	if err != nil {
		return err
	}
	rep.Timings = packTimings{millis(fetched.Sub(start)), millis(a.now().Sub(fetched))}
	if r.asJSON {
		return writeJSON(out, rep, "  ")
	}
	_, err = fmt.Fprintf(out, "%s: %d packages, %d layers, %.1f MiB, %s\n", r.output, rep.Packages, len(rep.Layers), float64(rep.Bytes)/(1<<20), rep.Digest)
	return err
}

// write builds and writes the image; a cached layer that turns out to be damaged is made again once.
func (r *imageRequest) write(ctx context.Context, packages []segment.Package, o image.Options) (img *image.Image, err error) {
	for range 2 {
		if img, err = image.Build(ctx, packages, o); err != nil {
			if errors.Is(err, segment.ErrBroken) {
				continue
			}
			return nil, err
		}
		if strings.HasSuffix(r.output, ".tar") {
			err = replaceBy(r.output, func(w io.Writer) error { return img.WriteTar(ctx, w, r.tag) })
		} else {
			err = img.WriteLayout(ctx, r.output, r.tag)
		}
		if err == nil {
			return img, nil
		}
		img.Close()
		if !errors.Is(err, segment.ErrBroken) {
			break
		}
	}
	return nil, err
}

func (r *imageRequest) report(img *image.Image) (*imageReport, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	rep := &imageReport{
		Status: "built", Output: r.output, Platform: r.platform, Digest: digest.String(), Config: m.Config.Digest.String(),
		Packages: img.Packages, Clobbers: clobbered(img.Clobbers), Activation: img.Activation,
	}
	var what []string
	for _, h := range cf.History {
		if !h.EmptyLayer {
			what = append(what, h.Comment)
		}
	}
	for i, l := range m.Layers {
		layer := imageLayer{Digest: l.Digest.String(), DiffID: cf.RootFS.DiffIDs[i].String(), Bytes: l.Size, MediaType: string(l.MediaType)}
		if i < len(what) {
			layer.What = what[i]
		}
		rep.Bytes += l.Size
		rep.Layers = append(rep.Layers, layer)
	}
	return rep, nil
}

// baseImage opens the image for a platform in a layout.
func baseImage(dir, platform string) (v1.Image, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	return imageOf(index, platform, 0)
}

func imageOf(index v1.ImageIndex, platform string, depth int) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	arch, err := image.Platform(platform)
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex() && depth < 3:
			inner, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			if img, err := imageOf(inner, platform, depth+1); err == nil {
				return img, nil
			}
		case d.MediaType.IsImage():
			img, err := index.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			if cf, err := img.ConfigFile(); err == nil && cf.OS == arch.OS && cf.Architecture == arch.Architecture {
				return img, nil
			}
		}
	}
	return nil, fmt.Errorf("there is no image for %s/%s in it", arch.OS, arch.Architecture)
}
