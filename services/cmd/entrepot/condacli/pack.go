package condacli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/pack"
	"github.com/entrepot-dev/entrepot/pkg/conda/segment"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// assembly is what pack and image are made of: the packages of a lock file.
type assembly struct {
	lock        string
	environment string
	platform    string
	offline     bool
	quiet       bool
	asJSON      bool
	packages    string
	segments    string
	limit       int64
	workers     int
	strict      bool
	exclude     []string

	renewal  renewal      // made by load
	channels channelFlags // for their credentials
	hashes   hashFlags
}

func (f *assembly) register(c *cobra.Command) {
	c.Flags().StringVar(&f.lock, "lock", "", "pixi.lock, conda-lock.yml or explicit list that says which packages")
	c.Flags().StringVar(&f.environment, "environment", "default", "environment of a pixi.lock")
	c.Flags().StringVar(&f.platform, "platform", "", "platform of the lock, such as linux-64 (default: this machine's)")
	c.Flags().BoolVar(&f.offline, "offline", false, "ask no server: all packages must be in the package cache, or files")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "no warnings")
	f.channels.registerAccess(c)
	f.hashes.register(c)
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&f.packages, "package-cache", "", "where unpacked packages are kept (default: packages in ENTREPOT_CACHE_DIR, else entrepot/packages in the user's cache directory)")
	c.Flags().StringVar(&f.segments, "segment-cache", "", "where finished pieces are kept (default: segments beside the package cache)")
	c.Flags().Int64Var(&f.limit, "segment-cache-size", 20<<10, "size that the pieces are kept below, in MiB")
	c.Flags().IntVarP(&f.workers, "jobs", "j", 0, "how many packages are worked on at a time (default: the processors)")
	c.Flags().BoolVar(&f.strict, "refuse-clobbers", false, "refuse packages that have a path in common")
	c.Flags().StringArrayVar(&f.exclude, "exclude", nil, "leave out files whose path in the environment fits the pattern, in which * is anything; may be given many times")
}

// load fetches and unpacks the packages, and opens the cache of segments. The caller closes it.
func (f *assembly) load(ctx context.Context, a *app, errs io.Writer) ([]segment.Package, *segment.Cache, error) {
	if f.lock == "" {
		return nil, nil, fault.Field("--lock", "name a lock file with --lock")
	}
	if f.workers <= 0 {
		f.workers = runtime.GOMAXPROCS(0)
	}
	if f.limit < 1 {
		return nil, nil, fault.Field("--segment-cache-size", "--segment-cache-size must be at least 1")
	}
	r := installRequest{lock: f.lock, environment: f.environment}
	r.platform, r.prefixFlags.packages = f.platform, f.packages
	want, err := r.locked(a)
	if err != nil {
		return nil, nil, err
	}
	f.platform = r.platform
	cache, err := r.cache(a, errs)
	if err != nil {
		return nil, nil, err
	}
	err = f.hashes.check(want, func(w install.Warning) {
		if !f.quiet {
			fmt.Fprintln(errs, "entrepot: warning:", w)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	f.channels.offline = f.offline
	if err := f.channels.access(a); err != nil {
		return nil, nil, err
	}
	source, err := f.channels.packageSource()
	if err != nil {
		return nil, nil, err
	}
	f.renewal = renewal{cache: cache, source: source, errs: errs, done: map[string]bool{}}
	entries, err := install.Fetch(ctx, want, cache, source)
	if err != nil {
		return nil, nil, err
	}
	list := make([]segment.Package, len(want))
	for i := range want {
		list[i] = segment.Package{Package: want[i], Dir: entries[i].Dir}
	}
	dir := f.segments
	if dir == "" {
		if dir, err = segmentDir(a, f.packages); err != nil {
			return nil, nil, err
		}
	}
	segments, err := segment.OpenCache(dir, f.limit<<20)
	return list, segments, err
}

func segmentDir(a *app, packages string) (string, error) {
	if base := a.getenv("ENTREPOT_CACHE_DIR"); base != "" {
		return filepath.Join(base, "segments"), nil
	}
	if packages != "" {
		return filepath.Join(filepath.Dir(filepath.Clean(packages)), "segments"), nil
	}
	channels, err := gateway.DefaultCacheDir()
	if err != nil {
		return "", fault.Field("--segment-cache", "name a directory with --segment-cache: %v", err)
	}
	return filepath.Join(filepath.Dir(channels), "segments"), nil
}

// progress counts packages on one line of a terminal.
func (f *assembly) progress(w io.Writer) (show func(done, total int), end func()) {
	if !terminal(w) {
		return nil, func() {}
	}
	return func(done, total int) { fmt.Fprintf(w, "\r\x1b[K%d of %d packages", done, total) }, func() { fmt.Fprint(w, "\r\x1b[K") }
}

// warn tells of paths that several packages have.
func (f *assembly) warn(w io.Writer, list []link.Clobber) {
	if f.quiet {
		return
	}
	for i, c := range list {
		if i == 5 {
			fmt.Fprintf(w, "entrepot: warning: and %d more paths\n", len(list)-i)
			return
		}
		fmt.Fprintf(w, "entrepot: warning: %s is that of %s; %s have it too\n", c.Path, c.Winner, strings.Join(c.Losers, ", "))
	}
}

// assemblyError gives an error its kind: what is wrong with packages is not a fault of this program.
func assemblyError(err error) error {
	if errors.As(err, new(*link.Error)) || errors.As(err, new(*link.ClobberError)) {
		return fault.New(fault.Precondition, "%w", err)
	}
	return err
}

func clobbered(list []link.Clobber) []clobberedPath {
	var out []clobberedPath
	for _, c := range list {
		out = append(out, clobberedPath{c.Path, c.Winner, c.Losers})
	}
	return out
}

// packRequest is what pack is asked for.
type packRequest struct {
	assembly
	output string
	format string
	prefix string
	root   string
	links  bool
	force  bool
}

// packReport is what pack prints with --json.
type packReport struct {
	Status    string          `json:"status"`
	File      string          `json:"file"`
	Format    pack.Format     `json:"format"`
	Platform  string          `json:"platform"`
	Prefix    string          `json:"prefix,omitempty"`
	Packages  int             `json:"packages"`
	Files     int             `json:"files"`
	Relocated int             `json:"relocated"`
	Bytes     int64           `json:"bytes"`
	SHA256    string          `json:"sha256"`
	Clobbers  []clobberedPath `json:"clobbers,omitempty"`
	Timings   packTimings     `json:"timings_ms"`
}

type packTimings struct {
	Fetch float64 `json:"fetch"`
	Write float64 `json:"write"`
}

func (a *app) packCommand() *cobra.Command {
	var r packRequest
	c := &cobra.Command{
		Use: "pack --lock FILE [-o FILE] [flags]", Short: "Write an environment into an archive that can be unpacked elsewhere",
		Long: `Write the packages of a lock file into an archive as conda-pack does. No environment is installed for it, and no Python is
needed. Where the archive is unpacked, run bin/conda-unpack once, and source bin/activate:

  mkdir env && tar -xf env.tar.gz -C env && env/bin/conda-unpack && . env/bin/activate

With --dest-prefix the place is known, files have it in them, and conda-unpack is not needed. The same lock gives the same
bytes, on any machine. Finished pieces are kept, so the next archive that shares packages is made in no time.`,
		Example: `  entrepot conda pack --lock pixi.lock -o env.tar.gz
  entrepot conda pack --lock conda-lock.yml --platform linux-aarch64 --dest-prefix /opt/env -o env.tar.zst`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.pack(cmd.Context(), &r, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	r.register(c)
	c.Flags().StringVarP(&r.output, "output", "o", "", "file to write, - for standard output (default: the environment's name)")
	c.Flags().StringVar(&r.format, "format", "", "tar.gz, tar.zst, tar or zip (default: by the name of the file, else tar.gz)")
	c.Flags().StringVar(&r.prefix, "dest-prefix", "", "absolute path where the archive will be unpacked")
	c.Flags().StringVar(&r.root, "arcroot", "", "directory in the archive that the environment lies in")
	c.Flags().BoolVar(&r.links, "zip-symlinks", false, "put symbolic links into a zip, instead of copies")
	c.Flags().BoolVarP(&r.force, "force", "f", false, "replace a file that is there")
	return c
}

func (r *packRequest) check() (pack.Format, error) {
	format, err := pack.TarGz, error(nil)
	switch {
	case r.format != "":
		if format, err = pack.ParseFormat(r.format); err != nil {
			return "", fault.Field("--format", "%v", err)
		}
	case r.output != "" && r.output != "-":
		if format, err = pack.FormatOf(r.output); err != nil {
			return "", fault.Field("--output", "%v", err)
		}
	}
	if r.output == "" {
		r.output = r.environment + "." + string(format)
	}
	if r.prefix != "" && !strings.HasPrefix(r.prefix, "/") {
		return "", fault.Field("--dest-prefix", "--dest-prefix must be absolute")
	}
	if _, err := os.Lstat(r.output); err == nil && r.output != "-" && !r.force {
		return "", fault.Field("--output", "%s is there already; --force replaces it", r.output)
	}
	if r.output == "-" && r.asJSON {
		return "", fault.Field("--json", "--json does not go with an archive on standard output")
	}
	return format, nil
}

func (a *app) pack(ctx context.Context, r *packRequest, out, errs io.Writer) error {
	format, err := r.check()
	if err != nil {
		return err
	}
	start := a.now()
	packages, cache, err := r.load(ctx, a, errs)
	if err != nil {
		return err
	}
	defer cache.Close()
	fetched := a.now()
	show, end := r.progress(errs)
	o := pack.Options{
		Format: format, Platform: r.platform, Prefix: strings.TrimRight(r.prefix, "/"), Root: r.root, Exclude: r.exclude, ZipLinks: r.links,
		RefuseClobbers: r.strict, Cache: cache, Workers: r.workers, Tool: "entrepot " + a.version, Progress: show,
	}
	var res *pack.Result
	write := func(w io.Writer) error {
		var err error
		res, err = pack.Write(ctx, w, packages, o)
		return err
	}
	err = r.renewal.again(ctx, packages, func() error {
		if r.output != "-" {
			return replaceBy(r.output, write)
		}
		to := &begun{Writer: out}
		err := write(to)
		if to.yes && err != nil {
			return fault.New(fault.Internal, "what was written to standard output is not complete: %v", err)
		}
		return err
	})
	end()
	if err != nil {
		return assemblyError(err)
	}
	r.warn(errs, res.Clobbers)
	if r.output == "-" {
		return nil
	}
	if r.asJSON {
		return writeJSON(out, packReport{
			Status: "packed", File: r.output, Format: format, Platform: r.platform, Prefix: o.Prefix, Packages: res.Packages, Files: res.Files,
			Relocated: res.Relocated, Bytes: res.Bytes, SHA256: res.SHA256, Clobbers: clobbered(res.Clobbers),
			Timings: packTimings{millis(fetched.Sub(start)), millis(a.now().Sub(fetched))},
		}, "  ")
	}
	_, err = fmt.Fprintf(out, "%s: %d packages, %d files, %.1f MiB, sha256:%s\n", r.output, res.Packages, res.Files, float64(res.Bytes)/(1<<20), res.SHA256)
	return err
}

// replaceBy writes a file beside its place and renames it. A cached piece that turns out to be damaged is made again once.
func replaceBy(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); errors.Is(err, segment.ErrBroken) {
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			if err = f.Truncate(0); err == nil {
				err = write(f)
			}
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
