package condacli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

func (a *app) solveCommand() *cobra.Command {
	var flags channelFlags
	var p problem
	var platforms, machineFlags []string
	var asJSON, batch bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "solve [flags] SPEC…", Short: "Find packages that fit together",
		Long: `Find a set of packages that holds what the specs ask for and all that it needs, and print it.

With --batch every line of standard input is a request such as {"specs": ["python >=3.12", "numpy"]} and is answered by one
line of JSON; the channels are read once. A request may also have "file" (an environment.yml whose dependencies are added),
"constraints", "virtual_packages" (the whole set), "channel_priority", "strategy", "encoding", "exclude_newer" and "timeout_ms".

With --platform given several times the same is solved for each of them, over channels that are read once. What is printed as
JSON then is {"platforms": {"linux-64": …, "osx-arm64": …}}, and the exit code is 1 if it cannot be met on one of them.`,
		Example: `  entrepot conda solve -c ./channel 'python >=3.12' numpy
  entrepot conda solve --platform linux-64 --virtual-package __glibc=2.17 --json -c https://host/channel scipy`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Specs, p.TimeoutMS = args, timeout.Milliseconds()
			switch {
			case batch && len(args) > 0:
				return fault.New(fault.Invalid, "--batch reads its specs from standard input, so give none as arguments")
			case !batch && len(args) == 0 && p.File == "":
				return fault.New(fault.Invalid, "SPEC is missing (see '%s --help')", cmd.CommandPath())
			}
			if len(platforms) > 0 {
				flags.platform = platforms[0]
			}
			channels, err := flags.resolve(a)
			if err != nil {
				return err
			}
			s := &solver{app: a, flags: &flags, channels: channels, machines: map[string][]virtual.Package{}, defaults: p, warn: warnTo(cmd.ErrOrStderr()), errs: cmd.ErrOrStderr()}
			for _, platform := range append([]string{flags.platform}, platforms...) {
				if err := dist.CheckSubdir(platform); err != nil {
					return fault.Field("--platform", "--platform: %v", err)
				}
				if s.machines[platform], err = a.machine(platform, machineFlags); err != nil {
					return err
				}
			}
			if batch {
				return s.batch(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
			}
			return s.one(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), p, asJSON)
		},
	}
	flags.registerChannels(c)
	c.Flags().StringArrayVar(&platforms, "platform", nil, "subdir to read, such as linux-64 or osx-arm64; may be given many times (default: this machine's)")
	c.Flags().StringArrayVar(&machineFlags, "virtual-package", nil, "NAME=VERSION[=BUILD] that the machine has, instead of what was detected; NAME= if it has none")
	c.Flags().StringArrayVar(&p.Constraints, "constraint", nil, "spec that a package must meet if it is needed at all")
	c.Flags().StringVar(&p.Priority, "channel-priority", "strict", "strict, flexible or disabled")
	c.Flags().StringVar(&p.Strategy, "strategy", "highest", "highest, lowest or lowest-direct")
	c.Flags().StringVar(&p.Encoding, "encoding", "auto", "auto, plain or shared: how clauses are made, which decides between equally good answers where a search meets conflicts")
	c.Flags().StringVarP(&p.File, "file", "f", "", "environment.yml whose dependencies are asked for, too; its channels are not")
	c.Flags().StringVar(&p.ExcludeNewer, "exclude-newer", "", "leave out what appeared after this RFC 3339 time or date")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&batch, "batch", false, "answer requests from standard input, one JSON object a line")
	return c
}

// warnTo prints the first few warnings: a channel with one broken record often has a thousand.
func warnTo(w io.Writer) func(error) {
	const most = 10
	n := 0
	return func(err error) {
		switch n++; {
		case n <= most:
			fmt.Fprintln(w, "entrepot: warning:", err)
		case n == most+1:
			fmt.Fprintln(w, "entrepot: warning: … and more of this kind (-q silences them)")
		}
	}
}

// solver answers problems over the same channels.
type solver struct {
	app      *app
	flags    *channelFlags
	channels []gateway.Channel
	machines map[string][]virtual.Package // by platform
	hints    bool                         // look for missing names on other platforms
	defaults problem
	warn     func(error)
	errs     io.Writer
}

// load reads channels and makes them ready; nil names read everything.
func (s *solver) load(ctx context.Context, names []string) (*solve.Platforms, float64, error) {
	start := s.app.now()
	opts, err := s.flags.options(s.app, s.warn)
	if err != nil {
		return nil, 0, err
	}
	opts.Names = names
	platforms := slices.Sorted(maps.Keys(s.machines))
	opts.Subdirs = slices.DeleteFunc(slices.Clone(platforms), func(p string) bool { return p == dist.Noarch })
	opts.Subdirs = append(opts.Subdirs, dist.Noarch)
	res, err := gateway.Load(ctx, s.channels, opts)
	if err != nil {
		return nil, 0, err
	}
	for _, ch := range res.Channels {
		if ch.From != "" && !s.flags.quiet && s.errs != nil {
			fmt.Fprintf(s.errs, "entrepot: note: %s is read, too, because %s names it\n", ch.URL, ch.From)
		}
	}
	list, err := solve.NewPlatforms(res.Repos, platforms...)
	if err != nil {
		return nil, 0, err
	}
	return list, s.since(start), nil
}

// index reads channels for a single platform; see load.
func (a *app) index(ctx context.Context, flags *channelFlags, channels []gateway.Channel, machine []virtual.Package, names []string, errs io.Writer) (*solve.Index, error) {
	s := &solver{
		app: a, flags: flags, channels: channels, machines: map[string][]virtual.Package{flags.platform: machine}, warn: warnTo(errs), errs: errs,
	}
	defer a.frugal()()
	list, _, err := s.load(ctx, names)
	if err != nil {
		return nil, err
	}
	return list.Index(flags.platform), nil
}

func (s *solver) since(start time.Time) float64 {
	return float64(s.app.now().Sub(start).Microseconds()) / 1000
}

// frugal lets the collector run more often, until the function that it returns is called: nearly all that a command with
// one question has in memory are arenas, which hold no pointers and cost the collector nothing, so that it saves a third of
// the memory and no time. Whoever sets GOGC knows better.
func (a *app) frugal() func() {
	if a.getenv("GOGC") != "" {
		return func() {}
	}
	const percent = 25
	old := debug.SetGCPercent(percent)
	return func() { debug.SetGCPercent(old) }
}

// one answers a single problem.
func (s *solver) one(ctx context.Context, out, errs io.Writer, p problem, asJSON bool) error {
	defer s.app.frugal()()
	var names []string
	for platform := range s.machines {
		req, err := s.request(p, platform)
		if err != nil {
			return err
		}
		roots := rootNames(req.Specs)
		if roots == nil {
			names = nil
			break
		}
		names = append(names, roots...)
	}
	list, load, err := s.load(ctx, names)
	if err != nil {
		return err
	}
	s.hints = true // a batch has no time for them
	all, err := s.all(ctx, list, p)
	if err != nil {
		return err
	}
	met := true
	for _, ans := range all.Platforms {
		met = met && ans.Status == solved
		ans.Timings.Load = load
	}
	if asJSON {
		err = writeJSON(out, all.plain(), "  ")
	} else {
		err = all.print(out, errs)
	}
	if err == nil && !met {
		err = negative{}
	}
	return err
}

// all solves a problem for every platform.
func (s *solver) all(ctx context.Context, list *solve.Platforms, p problem) (*answers, error) {
	out := &answers{Platforms: map[string]*answer{}}
	requests := map[string]*solve.Request{}
	for _, platform := range list.Names() {
		var err error
		if requests[platform], err = s.request(p, platform); err != nil {
			return nil, err
		}
		if s.hints {
			requests[platform].Elsewhere = s.elsewhere(ctx)
		}
	}
	if len(requests) == 1 {
		platform := list.Names()[0]
		start := s.app.now()
		sol, err := list.Index(platform).Solve(ctx, *requests[platform])
		out.Platforms[platform], err = answerOf(sol, err, s.since(start))
		return out, err
	}
	start := s.app.now()
	for _, a := range list.Solve(ctx, func(platform string) (solve.Request, error) { return *requests[platform], nil }) {
		ans, err := answerOf(a.Solution, a.Err, s.since(start))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Platform, err)
		}
		out.Platforms[a.Platform] = ans
	}
	return out, nil
}
