package condacli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/gateway"
	"github.com/entrepot-dev/entrepot/pkg/conda/matchspec"
	"github.com/entrepot-dev/entrepot/pkg/conda/solve"
	"github.com/entrepot-dev/entrepot/pkg/conda/virtual"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// Answers of a solve, as its JSON spells them.
const (
	solved     = "solved"
	unsolvable = "unsolvable"
	failed     = "error" // of a line of --batch only
)

// answer is what a solve prints with --json.
type answer struct {
	Status      string   `json:"status"`
	Records     []record `json:"records"`
	Explanation string   `json:"explanation,omitempty"`
	Error       string   `json:"error,omitempty"`
	Timings     timings  `json:"timings_ms"`
}

type timings struct {
	Load  float64 `json:"load"`
	Solve float64 `json:"solve"`
}

// record is a chosen package.
type record struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Build       string   `json:"build"`
	BuildNumber uint64   `json:"build_number"`
	Subdir      string   `json:"subdir"`
	Channel     string   `json:"channel"`
	FileName    string   `json:"fn"`
	URL         string   `json:"url"`
	SHA256      string   `json:"sha256,omitempty"`
	MD5         string   `json:"md5,omitempty"`
	Size        uint64   `json:"size,omitempty"`
	Timestamp   int64    `json:"timestamp,omitempty"`
	License     string   `json:"license,omitempty"`
	Depends     []string `json:"depends"`
	Constrains  []string `json:"constrains,omitempty"`
}

func recordOf(p *solve.Package) record {
	depends := p.Depends
	if depends == nil {
		depends = []string{}
	}
	return record{
		Name: p.Name, Version: p.Version, Build: p.Build, BuildNumber: p.BuildNumber, Subdir: p.Subdir, Channel: p.Channel, FileName: p.FileName,
		URL: p.Location(), SHA256: p.SHA256, MD5: p.MD5, Size: p.Size, Timestamp: p.Timestamp, License: p.License,
		Depends: depends, Constrains: p.Constrains,
	}
}

// problem is what is asked: by flags and arguments, or by a line of --batch.
type problem struct {
	Specs []string `json:"specs"`
	// File is an environment.yml whose dependencies are asked for, too; its channels are not.
	File        string   `json:"file"`
	Constraints []string `json:"constraints"`
	// Virtual, if given, is the whole set of virtual packages.
	Virtual      []string `json:"virtual_packages"`
	Priority     string   `json:"channel_priority"`
	Strategy     string   `json:"strategy"`
	Encoding     string   `json:"encoding"`
	ExcludeNewer string   `json:"exclude_newer"`
	TimeoutMS    int64    `json:"timeout_ms"`
}

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

// answers is what is printed of several platforms.
type answers struct {
	Platforms map[string]*answer `json:"platforms"`
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

// plain is the answer itself where there is one platform.
func (a *answers) plain() any {
	if len(a.Platforms) == 1 {
		for _, ans := range a.Platforms {
			return ans
		}
	}
	return a
}

// print is for people.
func (a *answers) print(out, errs io.Writer) error {
	for i, platform := range slices.Sorted(maps.Keys(a.Platforms)) {
		ans, title := a.Platforms[platform], ""
		if len(a.Platforms) > 1 {
			title = platform + ":\n"
			if i > 0 {
				title = "\n" + title
			}
		}
		if ans.Status != solved {
			fmt.Fprintln(errs, title+ans.Explanation)
			continue
		}
		if _, err := io.WriteString(out, title); err != nil {
			return err
		}
		if err := writeTable(out, ans.Records); err != nil {
			return err
		}
		var total uint64
		for _, r := range ans.Records {
			total += r.Size
		}
		if _, err := fmt.Fprintf(out, "\n%d packages, %s\n", len(ans.Records), size(total)); err != nil {
			return err
		}
	}
	return nil
}

// batch answers a problem a line. All of the channels is read, once: the second question usually is about other names.
func (s *solver) batch(ctx context.Context, in io.Reader, out io.Writer) error {
	list, load, err := s.load(ctx, nil)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	sc := bufio.NewScanner(in)
	sc.Buffer(make([]byte, 64<<10), 16<<20)
	for sc.Scan() {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		var line any
		if all, err := s.line(ctx, list, sc.Bytes()); err != nil {
			line = &answer{Status: failed, Error: err.Error(), Records: []record{}, Timings: timings{Load: load}}
		} else {
			for _, ans := range all.Platforms {
				ans.Timings.Load = load
			}
			line = all.plain()
		}
		load = 0
		if err := errors.Join(writeJSON(w, line, ""), w.Flush()); err != nil { // whoever asks waits for the answer
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return sc.Err()
}

// line answers one line of a batch; what is wrong with it is its own affair.
func (s *solver) line(ctx context.Context, list *solve.Platforms, data []byte) (*answers, error) {
	p := s.defaults
	p.Specs = nil
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, err
	}
	return s.all(ctx, list, p)
}

// answerOf is what is printed of a solve that took so many milliseconds.
func answerOf(sol *solve.Solution, err error, took float64) (*answer, error) {
	ans := &answer{Status: solved, Records: []record{}, Timings: timings{Solve: took}}
	var no *solve.UnsolvableError
	switch {
	case errors.As(err, &no):
		ans.Status, ans.Explanation = unsolvable, no.Error()
	case errors.Is(err, solve.ErrNoSpecs):
		return nil, fault.Field("specs", "%v", err)
	case err != nil:
		return nil, err
	default:
		for _, p := range sol.Packages {
			ans.Records = append(ans.Records, recordOf(p))
		}
	}
	return ans, nil
}

// request turns a problem into what the solver takes for a platform.
func (s *solver) request(p problem, platform string) (*solve.Request, error) {
	req := &solve.Request{Virtual: s.machines[platform], Limits: solve.Limits{Time: time.Duration(p.TimeoutMS) * time.Millisecond}}
	var err error
	if req.Specs, err = parseSpecs("SPEC", p.Specs); err != nil {
		return nil, err
	}
	if p.File != "" {
		env, err := readEnvironment(p.File)
		if err != nil {
			return nil, err
		}
		req.Specs = append(req.Specs, env.Specs(platform)...)
	}
	if req.Constraints, err = parseSpecs("constraint", p.Constraints); err != nil {
		return nil, err
	}
	if p.Virtual != nil {
		req.Virtual = nil
		for _, text := range p.Virtual {
			v, err := virtual.Parse(text)
			if err != nil {
				return nil, fault.Field("virtual_packages", "virtual_packages: %v", err)
			}
			req.Virtual = append(req.Virtual, v)
		}
	}
	var ok bool
	priorities := map[string]solve.ChannelPriority{"": solve.Strict, "strict": solve.Strict, "flexible": solve.Flexible, "disabled": solve.Disabled}
	if req.Priority, ok = priorities[p.Priority]; !ok {
		return nil, fault.Field("channel_priority", "channel priority must be strict, flexible or disabled, not %q", p.Priority)
	}
	strategies := map[string]solve.Strategy{"": solve.Highest, "highest": solve.Highest, "lowest": solve.Lowest, "lowest-direct": solve.LowestDirect}
	if req.Strategy, ok = strategies[p.Strategy]; !ok {
		return nil, fault.Field("strategy", "strategy must be highest, lowest or lowest-direct, not %q", p.Strategy)
	}
	encodings := map[string]solve.Encoding{"": solve.Auto, "auto": solve.Auto, "plain": solve.Plain, "shared": solve.Shared}
	if req.Encoding, ok = encodings[p.Encoding]; !ok {
		return nil, fault.Field("encoding", "encoding must be auto, plain or shared, not %q", p.Encoding)
	}
	if p.ExcludeNewer != "" {
		if req.Newer.Than, err = parseTime(p.ExcludeNewer); err != nil {
			return nil, fault.Field("exclude_newer", "exclude-newer: %q is neither an RFC 3339 time nor a date", p.ExcludeNewer)
		}
	}
	return req, nil
}

func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, text); err == nil {
			t = t.AddDate(0, 0, 1) // all of that day
		}
	}
	return t, err
}

func parseSpecs(what string, texts []string) ([]matchspec.Spec, error) {
	list := make([]matchspec.Spec, 0, len(texts))
	for _, text := range texts {
		spec, err := matchspec.Parse(text, matchspec.Options{})
		if err != nil {
			return nil, fault.New(fault.Invalid, "%s: %w", what, err)
		}
		list = append(list, spec)
	}
	return list, nil
}

func writeJSON(w io.Writer, v any, indent string) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

func writeTable(w io.Writer, records []record) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVERSION\tBUILD\tSUBDIR\tCHANNEL\tSIZE")
	for _, r := range records {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Version, r.Build, r.Subdir, lastPart(r.Channel), size(r.Size))
	}
	return t.Flush()
}

func lastPart(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// size prints bytes for a person; "-" if unknown.
func size(n uint64) string {
	switch {
	case n == 0:
		return "-"
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}
