package image

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
)

// The number of layers. Overlay file systems of the kernel take 128 directories, of which one is the container's own.
const (
	maxLayers  = 127
	maxSingles = 100
	buckets    = 16
)

// DefaultPrefix is where the environment lies if nothing else is said, and DefaultExclude what is left out: archives that
// only linkers need, and maps that only debuggers of web pages do.
const DefaultPrefix = "/opt/conda"

// DefaultExclude are the patterns of files that images do without.
var DefaultExclude = []string{"*.a", "*.js.map"}

// Options say what the image is to be.
type Options struct {
	Platform string // of the environment, such as linux-64
	Prefix   string // where it lies; DefaultPrefix if empty
	// Exclude has patterns of paths that are left out; see segment.Options. nil is DefaultExclude, an empty list nothing.
	Exclude []string
	// Base is what the layers are put on; nil for nothing. It must be for the same platform.
	Base v1.Image
	// Docker makes a manifest of Docker's media types, instead of OCI's. The layers are the same.
	Docker bool
	// Zstd compresses layers with zstd instead of gzip. Not with Docker's media types, which have no name for it.
	Zstd bool

	Env        []string // NAME=value, above those of the base and of the packages
	Entrypoint []string
	Cmd        []string // nil is the base's, else /bin/sh
	WorkDir    string
	User       string
	Labels     map[string]string

	// RefuseClobbers refuses packages that have a path in common.
	RefuseClobbers bool

	Cache   *segment.Cache
	Workers int // how many segments are made at a time; 0 means 1
	Tool    string
	// Progress, if set, is told how many packages are ready.
	Progress func(done, total int)
}

// Image is an image that is ready to be written or pushed. Its layers lie in the cache. Close it.
type Image struct {
	v1.Image
	// Clobbers are paths that several packages have.
	Clobbers []link.Clobber
	// Activation are scripts that packages want to be run when the environment is activated, and that nothing has run.
	Activation []string
	Packages   int

	env *segment.Env
}

// Close lets the cache drop the layers. The image cannot be read any more then.
func (i *Image) Close() { i.env.Close() }

// Build makes an image of an environment.
func Build(ctx context.Context, packages []segment.Package, o Options) (_ *Image, err error) {
	arch, err := o.complete()
	if err != nil {
		return nil, err
	}
	dirs, err := above(o.Base, o.Prefix)
	if err != nil {
		return nil, err
	}
	env, err := segment.New(packages, segment.Options{
		Prefix: o.Prefix, Platform: o.Platform, Root: o.Prefix, Dirs: segment.DirsAll, Above: dirs, Exclude: o.Exclude, RefuseClobbers: o.RefuseClobbers,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			env.Close()
		}
	}()
	if err := refuseWhiteouts(env); err != nil {
		return nil, err
	}
	form := segment.Gzip
	if o.Zstd {
		form = segment.Zstd
	}
	groups, err := group(env, o.Base)
	if err != nil {
		return nil, err
	}
	done := 0
	segments, err := o.Cache.All(ctx, env, form, o.Workers, func(*segment.Part) {
		if done++; o.Progress != nil {
			o.Progress(done, len(env.Parts))
		}
	})
	if err != nil {
		return nil, err
	}
	last, err := o.Cache.Extras(ctx, env, form, func(hidden []map[string]segment.File) ([]segment.Extra, error) {
		return env.Meta(segments, hidden, o.Tool)
	})
	if err != nil {
		return nil, err
	}
	vars, err := env.Vars()
	if err != nil {
		return nil, err
	}
	layers, err := o.join(ctx, env, groups, segments, form)
	if err != nil {
		return nil, err
	}
	layers = append(layers, described{"environment", last})
	img := &Image{Clobbers: env.Clobbers, Activation: env.Activation(), Packages: len(packages), env: env}
	if img.Image, err = o.assemble(layers, form, arch, vars); err != nil {
		return nil, err
	}
	return img, nil
}

// complete fills in defaults and returns the image's architecture.
func (o *Options) complete() (arch v1.Platform, err error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if !path.IsAbs(o.Prefix) || path.Clean(o.Prefix) != o.Prefix || o.Prefix == "/" {
		return arch, fmt.Errorf("the prefix %q is not an absolute path below /", o.Prefix)
	}
	if strings.Contains(o.Prefix, "/"+whiteout) {
		return arch, fmt.Errorf("the prefix %q has a name that begins with %s, which deletes files in images", o.Prefix, whiteout)
	}
	if o.Exclude == nil {
		o.Exclude = DefaultExclude
	}
	if o.Docker && o.Zstd {
		return arch, fmt.Errorf("docker's media types have no name for layers in zstd")
	}
	return Platform(o.Platform)
}

// Platform is what images call a conda platform.
func Platform(subdir string) (arch v1.Platform, err error) {
	system, cpu, _ := strings.Cut(subdir, "-")
	names := map[string]v1.Platform{
		"64": {Architecture: "amd64"}, "32": {Architecture: "386"}, "aarch64": {Architecture: "arm64", Variant: "v8"},
		"armv7l": {Architecture: "arm", Variant: "v7"}, "armv6l": {Architecture: "arm", Variant: "v6"},
		"ppc64le": {Architecture: "ppc64le"}, "s390x": {Architecture: "s390x"}, "riscv64": {Architecture: "riscv64"},
	}
	arch, ok := names[cpu]
	if system != "linux" || !ok {
		return arch, fmt.Errorf("there are no images for %s", subdir)
	}
	arch.OS = "linux"
	return arch, nil
}

// layerGroup becomes a layer.
type layerGroup struct {
	what  string
	parts []*segment.Part
}

// group gives the largest packages a layer each and puts the rest into buckets.
func group(env *segment.Env, base v1.Image) ([]layerGroup, error) {
	free := maxLayers - 1 - buckets // one is the environment's own
	if base != nil {
		layers, err := base.Layers()
		if err != nil {
			return nil, fmt.Errorf("base image: %w", err)
		}
		free -= len(layers)
	}
	if free < 1 {
		return nil, fmt.Errorf("the base image has too many layers: no more than %d fit into an image", maxLayers)
	}
	byName := func(a, b *segment.Part) int { return strings.Compare(a.Package.Name, b.Package.Name) }
	order := slices.Clone(env.Parts)
	slices.SortFunc(order, func(a, b *segment.Part) int { return cmp.Or(cmp.Compare(b.Size(), a.Size()), byName(a, b)) })
	singles := min(free, maxSingles, len(order))
	var out []layerGroup
	for _, p := range order[:singles] {
		out = append(out, layerGroup{p.Package.Name + "-" + p.Package.Version + "-" + p.Package.Build, []*segment.Part{p}})
	}
	var rest [buckets][]*segment.Part
	for _, p := range order[singles:] {
		p.Dirs = segment.DirsNone // a layer must not have a directory twice
		b := bucket(p.Package.Name)
		rest[b] = append(rest[b], p)
	}
	for _, b := range rest {
		if len(b) > 0 {
			// By name and not by size: so the order within a bucket stays what it was.
			slices.SortFunc(b, byName)
			out = append(out, layerGroup{fmt.Sprintf("%d packages", len(b)), b})
		}
	}
	return out, nil
}

// described is a finished layer and what it is.
type described struct {
	what string
	s    *segment.Segment
}

// join makes layers of groups.
func (o *Options) join(ctx context.Context, env *segment.Env, groups []layerGroup, segments []*segment.Segment, form segment.Form) ([]described, error) {
	of := map[*segment.Part]*segment.Segment{}
	for i, p := range env.Parts {
		of[p] = segments[i]
	}
	out := make([]described, len(groups))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, o.Workers))
	for i, group := range groups {
		out[i] = described{group.what, of[group.parts[0]]}
		if group.parts[0].Dirs != segment.DirsNone {
			continue
		}
		g.Go(func() (err error) {
			var list []*segment.Segment
			for _, p := range group.parts {
				list = append(list, of[p])
			}
			out[i].s, err = o.Cache.Join(ctx, env, list, segment.Directories(group.parts), form)
			return err
		})
	}
	return out, g.Wait()
}

// bucket is FNV-1a of a name, written out: it must never change.
func bucket(name string) int {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return int(h % buckets)
}

// assemble puts layers and configuration together.
func (o *Options) assemble(layers []described, form segment.Form, arch v1.Platform, vars []segment.Var) (v1.Image, error) {
	manifest, config, media := types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer
	switch {
	case o.Docker:
		manifest, config, media = types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer
	case form == segment.Zstd:
		media = types.OCILayerZStd
	}
	var img v1.Image = empty.Image
	if o.Base != nil {
		var err error
		if img, err = retype(o.Base, o.Docker); err != nil {
			return nil, err
		}
	}
	img = mutate.ConfigMediaType(mutate.MediaType(img, manifest), config)
	var adds []mutate.Addendum
	for _, l := range layers {
		adds = append(adds, mutate.Addendum{
			Layer: &layer{l.s, form, media}, MediaType: media,
			History: v1.History{Created: v1.Time{Time: segment.Time}, CreatedBy: "entrepot", Comment: l.what},
		})
	}
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	if o.Base != nil && (cf.Architecture != arch.Architecture || cf.OS != arch.OS) {
		return nil, fmt.Errorf("the base image is for %s/%s, the environment for %s/%s", cf.OS, cf.Architecture, arch.OS, arch.Architecture)
	}
	if o.Base == nil {
		cf.Variant = arch.Variant
	}
	cf.Architecture, cf.OS, cf.Author, cf.Container = arch.Architecture, arch.OS, "", ""
	cf.Created = v1.Time{Time: segment.Time}
	o.configure(&cf.Config, vars)
	return mutate.ConfigFile(img, cf)
}

// rootPath is PATH where a base image has none.
const rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (o *Options) configure(c *v1.Config, vars []segment.Var) {
	set := func(name, value string) {
		for i, v := range c.Env {
			if n, _, _ := strings.Cut(v, "="); n == name {
				c.Env[i] = name + "=" + value
				return
			}
		}
		c.Env = append(c.Env, name+"="+value)
	}
	search := rootPath
	for _, v := range c.Env {
		if rest, ok := strings.CutPrefix(v, "PATH="); ok && rest != "" {
			search = rest
		}
	}
	set("PATH", o.Prefix+"/bin:"+search)
	set("CONDA_PREFIX", o.Prefix)
	set("CONDA_DEFAULT_ENV", o.Prefix)
	set("CONDA_SHLVL", "1")
	for _, v := range vars {
		set(v.Name, v.Value)
	}
	for _, v := range o.Env {
		name, value, _ := strings.Cut(v, "=")
		set(name, value)
	}
	if len(o.Entrypoint) > 0 {
		c.Entrypoint, c.Cmd = o.Entrypoint, nil
	}
	switch {
	case o.Cmd != nil:
		c.Cmd = o.Cmd
	case len(c.Cmd) == 0 && len(c.Entrypoint) == 0:
		c.Cmd = []string{"/bin/sh"}
	}
	if o.WorkDir != "" {
		c.WorkingDir = o.WorkDir
	}
	if c.WorkingDir == "" {
		c.WorkingDir = "/"
	}
	if o.User != "" {
		c.User = o.User
	}
	if len(o.Labels) > 0 && c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for k, v := range o.Labels {
		c.Labels[k] = v
	}
}
