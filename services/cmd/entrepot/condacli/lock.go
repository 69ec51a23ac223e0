package condacli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/envfile"
	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/lock"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// lockFormats are the forms that lock writes, with the usual names of their files.
var lockFormats = map[string]string{"pixi": "pixi.lock", "pixi6": "pixi.lock", "conda-lock": "conda-lock.yml", "explicit": "explicit.txt"}

// lockRequest is what lock is asked for.
type lockRequest struct {
	channelFlags
	file      string
	platforms []string
	machine   []string
	format    string
	output    string
	problem   problem
}

func (a *app) lockCommand() *cobra.Command {
	var r lockRequest
	c := &cobra.Command{
		Use: "lock [flags] [SPEC…]", Short: "Solve for one or more platforms and write down the exact packages",
		Long: `Solve for every platform and write a lock file, from which the same packages can be installed again. What is wanted comes
from an environment.yml, from arguments, or from both. Channels of the file come behind those given with -c.`,
		Example: `  entrepot conda lock -f environment.yml --platform linux-64 --platform osx-arm64
  entrepot conda lock -c ./channel --format explicit -o - 'python 3.12.*'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.problem.Specs = args
			return a.lock(cmd.Context(), &r, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	r.registerChannels(c)
	c.Flags().StringVarP(&r.file, "file", "f", "", "environment.yml to take names, channels and platforms from")
	c.Flags().StringArrayVar(&r.platforms, "platform", nil, "platform to lock for, such as linux-64; may be given many times (default: those of the file, else this machine's)")
	c.Flags().StringArrayVar(&r.machine, "virtual-package", nil, "NAME=VERSION[=BUILD] that the machines have; NAME= if they have none")
	c.Flags().StringVar(&r.format, "format", "pixi", "pixi, pixi6, conda-lock or explicit (one platform)")
	c.Flags().StringVarP(&r.output, "output", "o", "", "file to write, - for standard output (default: pixi.lock, conda-lock.yml or explicit.txt)")
	return c
}

func (a *app) lock(ctx context.Context, r *lockRequest, out, errs io.Writer) error {
	name, ok := lockFormats[r.format]
	if !ok {
		return fault.Field("--format", "--format must be pixi, pixi6, conda-lock or explicit, not %q", r.format)
	}
	env, err := r.environment(errs)
	if err != nil {
		return err
	}
	switch {
	case len(r.platforms) == 0 && len(env.Platforms) > 0:
		r.platforms = env.Platforms
	case len(r.platforms) == 0:
		r.platforms = []string{hostPlatform()}
	}
	slices.Sort(r.platforms)
	r.platforms = slices.Compact(r.platforms)
	if r.format == "explicit" && len(r.platforms) > 1 {
		return fault.Field("--format", "an explicit file is for one platform; there are %s", strings.Join(r.platforms, ", "))
	}
	for _, platform := range r.platforms {
		if err := dist.CheckSubdir(platform); err != nil || platform == dist.Noarch {
			return fault.Field("--platform", "%q is no platform such as linux-64", platform)
		}
	}
	locked := map[string][]lock.Package{}
	virtual := map[string][]string{}
	var channels []gateway.Channel
	for _, platform := range r.platforms {
		r.platform = platform
		if channels, err = r.resolve(a); err != nil {
			return err
		}
		specs, err := parseSpecs("SPEC", r.problem.Specs)
		if err != nil {
			return err
		}
		sol, machine, err := a.lockPlatform(ctx, r, channels, append(env.Specs(platform), specs...), errs)
		if err != nil {
			return err
		}
		locked[platform], virtual[platform] = sol, machine
		fmt.Fprintf(errs, "%s: %d packages\n", platform, len(sol))
	}
	data, err := r.write(locked, virtual, channels)
	if err != nil {
		return err
	}
	if r.output == "-" {
		_, err = out.Write(data)
		return err
	}
	if r.output == "" {
		r.output = name
	}
	if err := replaceFile(r.output, data); err != nil {
		return err
	}
	fmt.Fprintln(errs, "wrote", r.output)
	return nil
}

// readEnvironment reads an environment.yml.
func readEnvironment(name string) (*envfile.File, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fault.Field("--file", "%v", err)
	}
	env, err := envfile.Parse(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", name, err)
	}
	return env, nil
}

// environment reads the file, if there is one.
func (r *lockRequest) environment(errs io.Writer) (*envfile.File, error) {
	if r.file == "" {
		if len(r.problem.Specs) == 0 {
			return nil, fault.New(fault.Invalid, "give SPECs, or an environment.yml with -f")
		}
		return &envfile.File{}, nil
	}
	env, err := readEnvironment(r.file)
	if err != nil {
		return nil, err
	}
	if !r.quiet {
		for _, w := range env.Warnings {
			fmt.Fprintf(errs, "entrepot: warning: %s:%d:%d: %s\n", r.file, w.Line, w.Column, w.Msg)
		}
		if len(env.Pip) > 0 {
			fmt.Fprintf(errs, "entrepot: warning: %s: what stands under pip: is not locked\n", r.file)
		}
	}
	if len(env.Dependencies)+len(r.problem.Specs) == 0 {
		return nil, fault.New(fault.Invalid, "%s asks for nothing", r.file)
	}
	r.channels = append(r.channels, env.Channels...)
	return env, nil
}

// lockPlatform solves for one platform and brings the packages into the order of installation.
func (a *app) lockPlatform(ctx context.Context, r *lockRequest, channels []gateway.Channel, specs []matchspec.Spec, errs io.Writer) ([]lock.Package, []string, error) {
	machine, err := a.machine(r.platform, r.machine)
	if err != nil {
		return nil, nil, err
	}
	ix, err := a.index(ctx, &r.channelFlags, channels, machine, rootNames(specs), errs)
	if err != nil {
		return nil, nil, err
	}
	sol, err := ix.Solve(ctx, solve.Request{Specs: specs, Virtual: machine})
	if err != nil {
		var no *solve.UnsolvableError
		if errors.As(err, &no) {
			fmt.Fprintf(errs, "%s: %v\n", r.platform, no)
			return nil, nil, negative{}
		}
		return nil, nil, err
	}
	var names []string
	for _, v := range machine {
		names = append(names, v.String())
	}
	return inOrder(sol.Packages), names, nil
}

// inOrder sorts packages so that each comes behind what it depends on; cycles are cut where they were entered.
func inOrder(packages []*solve.Package) []lock.Package {
	byName := map[string]*solve.Package{}
	for _, p := range packages {
		byName[p.Name] = p
	}
	var out []lock.Package
	seen := map[string]bool{}
	var visit func(p *solve.Package)
	visit = func(p *solve.Package) {
		if seen[p.Name] {
			return
		}
		seen[p.Name] = true
		for _, text := range p.Depends {
			if spec, err := matchspec.Parse(text, matchspec.Options{}); err == nil {
				if name, ok := spec.ExactName(); ok && byName[name] != nil {
					visit(byName[name])
				}
			}
		}
		out = append(out, lock.Package{Manager: lock.Conda, Location: p.Location(), Record: p.Record, Channel: p.Channel, FileName: p.FileName})
	}
	for _, p := range packages {
		visit(p)
	}
	return out
}

func (r *lockRequest) write(locked map[string][]lock.Package, virtual map[string][]string, channels []gateway.Channel) ([]byte, error) {
	var urls []string
	for _, c := range channels {
		urls = append(urls, dist.WithoutSecrets(c.URL)) // who asks makes no difference to the hash of what is asked
	}
	switch r.format {
	case "explicit":
		return (&lock.Explicit{Platform: r.platforms[0], Packages: locked[r.platforms[0]]}).Bytes(), nil
	case "conda-lock":
		opts := lock.CondaLockOptions{Channels: urls, Hashes: map[string]string{}}
		if r.file != "" {
			opts.Sources = []string{filepath.ToSlash(r.file)}
		}
		for platform := range locked {
			opts.Hashes[platform] = r.inputHash(platform, urls, virtual[platform])
		}
		l, err := lock.NewCondaLock(locked, opts)
		if err != nil {
			return nil, err
		}
		return l.Bytes(), nil
	}
	version := 7
	if r.format == "pixi6" {
		version = 6
	}
	p, err := lock.NewPixi(version, map[string]lock.PixiEnvironment{"default": {Channels: urls, Packages: locked, VirtualPackages: virtual}})
	if err != nil {
		return nil, err
	}
	return p.Bytes(), nil
}

// inputHash changes when what was asked for changes.
func (r *lockRequest) inputHash(platform string, channels, virtual []string) string {
	data, _ := os.ReadFile(r.file) // it was read already; without a file there is none
	sum := sha256.Sum256([]byte(strings.Join([]string{platform, strings.Join(channels, " "), strings.Join(virtual, " "), strings.Join(r.problem.Specs, "\n"), string(data)}, "\x00")))
	return hex.EncodeToString(sum[:])
}

// replaceFile puts a file in place in one step.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
