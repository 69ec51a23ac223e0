package condacli

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/conda/link"
	"github.com/entrepot-dev/entrepot/pkg/conda/pkgcache"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// prefixFlags are common to the commands that change an environment.
type prefixFlags struct {
	prefix      string
	packages    string
	target      string
	scripts     bool
	sandbox     string
	pyc         string
	copy        bool
	forceFrozen bool
	foreign     bool
	escapes     bool
	strict      bool
	noSync      bool
	asJSON      bool
}

func (f *prefixFlags) register(c *cobra.Command) {
	c.Flags().StringVarP(&f.prefix, "prefix", "p", "", "directory of the environment")
	c.Flags().StringVar(&f.packages, "package-cache", "", "where unpacked packages are kept; links need it on the environment's file system (default: packages in ENTREPOT_CACHE_DIR, else entrepot/packages in the user's cache directory)")
	c.Flags().BoolVar(&f.scripts, "link-scripts", false, "run the link scripts of packages, in a sandbox without network")
	c.Flags().StringVar(&f.sandbox, "sandbox", "require", "for scripts and compiling: require (run nothing where it cannot be had in full), try (as much of it as there is) or off")
	c.Flags().StringVar(&f.pyc, "compile-pyc", "off", "byte code of noarch python packages: off, unchecked-hash or timestamp")
	c.Flags().BoolVar(&f.copy, "copy", false, "copy files instead of linking them")
	c.Flags().BoolVar(&f.forceFrozen, "force-frozen", false, "change the environment although it is frozen")
	c.Flags().BoolVar(&f.foreign, "move-foreign", false, "move files that belong to no package out of the way, below "+install.ForeignDir+", instead of refusing")
	c.Flags().BoolVar(&f.escapes, "allow-outside-links", false, "accept packages whose symbolic links lead out of the environment")
	c.Flags().BoolVar(&f.strict, "refuse-clobbers", false, "refuse packages that have a path in common")
	c.Flags().BoolVar(&f.noSync, "no-sync", false, "do not wait until files are on the disk")
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
}

// options are the flags as the installer takes them.
func (f *prefixFlags) options(a *app, channels *channelFlags, platform string, errs io.Writer) (install.Options, error) {
	o := install.Options{
		Platform: platform, Target: f.target, Copy: f.copy, ForceFrozen: f.forceFrozen, RefuseClobbers: f.strict, NoSync: f.noSync,
		Scripts: f.scripts, Pyc: install.PycMode(f.pyc), Now: a.now, Tool: "entrepot version: " + a.version,
	}
	switch o.Pyc {
	case install.PycOff, install.PycUnchecked, install.PycTimestamp:
	default:
		return o, fault.Field("--compile-pyc", "--compile-pyc must be off, unchecked-hash or timestamp, not %q", f.pyc)
	}
	switch f.sandbox {
	case "require":
	case "try":
		o.Sandbox.Try = true
	case "off":
		o.Sandbox.Off = true
	default:
		return o, fault.Field("--sandbox", "--sandbox must be require, try or off, not %q", f.sandbox)
	}
	if f.foreign {
		o.Foreign = install.Warn
	}
	if f.escapes {
		o.Escapes = install.Warn
	}
	var err error
	if o.Cache, err = f.cache(a, errs); err != nil {
		return o, err
	}
	if o.Source, err = channels.packageSource(); err != nil {
		return o, err
	}
	return o, nil
}

// cache opens the package cache.
func (f *prefixFlags) cache(a *app, errs io.Writer) (*pkgcache.Cache, error) {
	dir := f.packages
	if base := a.getenv("ENTREPOT_CACHE_DIR"); dir == "" && base != "" {
		dir = filepath.Join(base, "packages")
	}
	if dir == "" {
		channels, err := gateway.DefaultCacheDir()
		if err != nil {
			return nil, fault.Field("--package-cache", "name a directory with --package-cache: %v", err)
		}
		dir = filepath.Join(filepath.Dir(channels), "packages")
	}
	opts := pkgcache.Options{NoSync: f.noSync, Progress: fetchProgress(errs)}
	if f.escapes {
		opts.Limits.Links = verbatimLinks
	}
	return pkgcache.Open(dir, opts)
}

func (f *prefixFlags) check(cmd *cobra.Command) error {
	if f.prefix == "" {
		return fault.Field("--prefix", "name the environment's directory with --prefix (see '%s --help')", cmd.CommandPath())
	}
	abs, err := filepath.Abs(f.prefix)
	if err != nil {
		return fault.Field("--prefix", "--prefix: %v", err)
	}
	if st, err := os.Stat(abs); err == nil && !st.IsDir() {
		return fault.Field("--prefix", "--prefix: %s is not a directory", abs)
	}
	f.prefix = abs
	return nil
}

// installRequest is what install is asked for.
type installRequest struct {
	channelFlags
	prefixFlags
	hashFlags
	lock        string
	environment string
	machine     []string
	dryRun      bool
	specs       []string
}

func (a *app) installCommand() *cobra.Command {
	var r installRequest
	c := &cobra.Command{
		Use: "install --prefix DIR (--lock FILE | SPEC…) [flags]", Short: "Install packages into an environment",
		Long: `Install packages into an environment, which is made if it does not exist.

With --lock the environment is afterwards exactly what the lock says (pixi.lock, conda-lock.yml or an explicit list): other
packages are removed. With SPECs they are added to what is there, which may change for them but is never removed.

All packages are fetched, checked and unpacked before the environment is touched. If anything fails, it is as it was; if the
process is killed, the next command that changes it restores or completes it first.`,
		Example: `  entrepot conda install --prefix ./env -c ./channel 'python >=3.12' numpy
  entrepot conda install --prefix ./env --lock pixi.lock --environment default`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.specs = args
			if err := cmp.Or(r.prefixFlags.check(cmd), r.hashFlags.valid()); err != nil {
				return err
			}
			switch {
			case r.lock == "" && len(args) == 0:
				return fault.New(fault.Invalid, "give SPECs, or a file with --lock (see '%s --help')", cmd.CommandPath())
			case r.lock != "" && len(args) > 0:
				return fault.Field("--lock", "--lock says already what is installed, so give no SPECs")
			}
			return a.install(cmd.Context(), &r, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	r.channelFlags.register(c)
	r.prefixFlags.register(c)
	r.hashFlags.register(c)
	c.Flags().StringVar(&r.lock, "lock", "", "install what this pixi.lock, conda-lock.yml or explicit list says")
	c.Flags().StringVar(&r.environment, "environment", "default", "environment of a pixi.lock")
	c.Flags().StringArrayVar(&r.machine, "virtual-package", nil, "NAME=VERSION[=BUILD] that the machine has; NAME= if it has none")
	c.Flags().StringVar(&r.target, "target-prefix", "", "absolute path to write into files instead of --prefix, where the environment will be moved")
	c.Flags().BoolVar(&r.dryRun, "dry-run", false, "only say what would be done")
	return c
}

func (a *app) install(ctx context.Context, r *installRequest, out, errs io.Writer) error {
	if r.target != "" && !filepath.IsAbs(r.target) {
		return fault.Field("--target-prefix", "--target-prefix must be absolute")
	}
	start := a.now()
	// Asked before anything is fetched; the installer asks again.
	if err := install.Frozen(r.prefix); err != nil && !r.forceFrozen {
		return frozen(err)
	}
	rep := newReport(r.prefix, "installed")
	warn := rep.warnTo(errs, r.quiet)
	for try := 1; ; try++ {
		res, err := a.attempt(ctx, r, rep, warn, out, errs)
		// Another process was quicker. What it installed is part of the question now.
		if errors.As(err, new(*install.ChangedError)) && try < mostAttempts {
			continue
		}
		if err != nil {
			return installError(err)
		}
		if res == nil {
			rep.Status = "dry-run"
			return rep.print(out, r.asJSON)
		}
		recovered := rep.Recovered
		rep.fill(res.Change)
		rep.result(res)
		rep.Recovered = cmp.Or(rep.Recovered, recovered)
		rep.Timings.Total = float64(a.now().Sub(start).Microseconds()) / 1000
		return rep.print(out, r.asJSON)
	}
}

// mostAttempts bounds how often it is decided anew what to install, because others keep changing the environment.
const mostAttempts = 10

// attempt decides what the environment should hold, and makes it so. A dry run has no result; the report says what would be
// done.
func (a *app) attempt(ctx context.Context, r *installRequest, rep *installReport, warn func(install.Warning), out, errs io.Writer) (*install.Result, error) {
	have, err := r.installed(ctx, rep, warn)
	if err != nil {
		return nil, err
	}
	var want []install.Package
	var specs map[string][]string
	if r.lock != "" {
		want, err = r.locked(a)
		if err == nil {
			err = r.access(a)
		}
	} else {
		want, specs, err = a.solved(ctx, r, have, out, errs)
	}
	if err == nil {
		err = r.hashFlags.check(want, warn)
	}
	if err != nil {
		return nil, err
	}
	if r.dryRun {
		change, err := install.Diff(have, want, r.platform, nil)
		if err != nil {
			return nil, fault.New(fault.Invalid, "%w", err)
		}
		rep.fill(change)
		return nil, nil
	}
	o, err := r.prefixFlags.options(a, &r.channelFlags, r.platform, errs)
	if err != nil {
		return nil, err
	}
	o.Specs, o.Command, o.Warn = specs, commandLine(r), warn
	if len(r.specs) > 0 {
		o.Requests = []install.Request{{Action: "update", Specs: openly(r.specs)}}
		o.From = have
	}
	show, done := installProgress(errs)
	o.Progress = show
	defer done()
	return install.Install(ctx, r.prefix, want, o)
}

// installed reads the environment. What an interrupted installation left is settled first, since only then it is known; a
// dry run changes nothing, and so cannot know.
func (r *installRequest) installed(ctx context.Context, rep *installReport, warn func(install.Warning)) ([]*install.Record, error) {
	if !r.dryRun {
		have, how, err := install.Settle(ctx, r.prefix, warn)
		if how != install.NothingToRecover {
			rep.Recovered = string(how)
		}
		return have, err
	}
	if install.Interrupted(r.prefix) {
		return nil, fault.New(fault.Precondition, "%s: an installation was interrupted, or is under way, so what is installed is not known ('entrepot conda repair' settles it)", r.prefix)
	}
	return install.Read(r.prefix)
}

// commandLine is what the history says was typed; channels may hold secrets, so only their names are kept.
func commandLine(r *installRequest) string {
	line := "entrepot conda install --prefix " + r.prefix
	if r.lock != "" {
		line += " --lock " + r.lock
	}
	for _, s := range openly(r.specs) {
		line += " " + s
	}
	return line
}

var urls = regexp.MustCompile(`(?i)https?://[^\s'"\],]+`)

// openly returns specs as they may be written down: the URL of a channel in them without secrets.
func openly(specs []string) []string {
	out := make([]string, len(specs))
	for i, s := range specs {
		out[i] = urls.ReplaceAllStringFunc(s, func(u string) string {
			channel, rest, ok := strings.Cut(u, "::")
			if ok {
				rest = "::" + rest
			}
			return dist.WithoutSecrets(channel) + rest
		})
	}
	return out
}

func frozen(err error) error {
	var f *install.FrozenError
	if errors.As(err, &f) {
		return fault.New(fault.Precondition, "%w (--force-frozen changes it all the same)", err)
	}
	return err
}

// installError gives an error of the installer its kind.
func installError(err error) error {
	var foreign *install.ForeignError
	var escape *install.EscapeError
	var clobber *link.ClobberError
	var plan *link.Error
	switch {
	case errors.As(err, new(*install.FrozenError)):
		return frozen(err)
	case errors.As(err, &foreign):
		return fault.New(fault.Precondition, "%w (--move-foreign moves them out of the way)", err)
	case errors.As(err, new(*install.ChangedError)):
		return fault.New(fault.LostRace, "%w, again and again", err)
	case errors.As(err, new(*install.SandboxError)):
		return fault.New(fault.Precondition, "%w (--sandbox try runs programs with as much of it as there is)", err)
	case errors.As(err, new(*install.OutsideError)), errors.As(err, new(*install.MetaLinkError)),
		errors.As(err, &escape), errors.As(err, &clobber), errors.As(err, &plan), errors.As(err, new(*install.RecordError)):
		return fault.New(fault.Precondition, "%w", err)
	}
	return err
}
