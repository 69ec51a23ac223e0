package condacli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

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
	Specs       []string `json:"specs"`
	Constraints []string `json:"constraints"`
	// Virtual, if given, is the whole set of virtual packages.
	Virtual      []string `json:"virtual_packages"`
	Priority     string   `json:"channel_priority"`
	Strategy     string   `json:"strategy"`
	ExcludeNewer string   `json:"exclude_newer"`
	TimeoutMS    int64    `json:"timeout_ms"`
}

func (a *app) solveCommand() *cobra.Command {
	var flags channelFlags
	var p problem
	var machineFlags []string
	var asJSON, batch bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "solve [flags] SPEC…", Short: "Find packages that fit together",
		Long: `Find a set of packages that holds what the specs ask for and all that it needs, and print it.

With --batch every line of standard input is a request such as {"specs": ["python >=3.12", "numpy"]} and is answered by one
line of JSON; the channels are read once. A request may also have "constraints", "virtual_packages" (the whole set),
"channel_priority", "strategy", "exclude_newer" and "timeout_ms".`,
		Example: `  entrepot conda solve -c ./channel 'python >=3.12' numpy
  entrepot conda solve --platform linux-64 --virtual-package __glibc=2.17 --json -c https://host/channel scipy`,
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Specs, p.TimeoutMS = args, timeout.Milliseconds()
			switch {
			case batch && len(args) > 0:
				return fault.New(fault.Invalid, "--batch reads its specs from standard input, so give none as arguments")
			case !batch && len(args) == 0:
				return fault.New(fault.Invalid, "SPEC is missing (see '%s --help')", cmd.CommandPath())
			}
			channels, err := flags.resolve(a)
			if err != nil {
				return err
			}
			machine, err := a.machine(flags.platform, machineFlags)
			if err != nil {
				return err
			}
			s := &solver{app: a, flags: &flags, channels: channels, machine: machine, defaults: p, warn: warnTo(cmd.ErrOrStderr())}
			if batch {
				return s.batch(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
			}
			return s.one(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), p, asJSON)
		},
	}
	flags.register(c)
	c.Flags().StringArrayVar(&machineFlags, "virtual-package", nil, "NAME=VERSION[=BUILD] that the machine has, instead of what was detected; NAME= if it has none")
	c.Flags().StringArrayVar(&p.Constraints, "constraint", nil, "spec that a package must meet if it is needed at all")
	c.Flags().StringVar(&p.Priority, "channel-priority", "strict", "strict, flexible or disabled")
	c.Flags().StringVar(&p.Strategy, "strategy", "highest", "highest, lowest or lowest-direct")
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
	machine  []virtual.Package
	defaults problem
	warn     func(error)
}

// load reads channels and makes them ready; nil names read everything.
func (s *solver) load(ctx context.Context, names []string) (*solve.Index, float64, error) {
	start := s.app.now()
	opts, err := s.flags.options(s.app, s.warn)
	if err != nil {
		return nil, 0, err
	}
	opts.Names = names
	res, err := gateway.Load(ctx, s.channels, opts)
	if err != nil {
		return nil, 0, err
	}
	ix, err := solve.NewIndex(res.Repos)
	if err != nil {
		return nil, 0, err
	}
	return ix, s.since(start), nil
}

func (s *solver) since(start time.Time) float64 {
	return float64(s.app.now().Sub(start).Microseconds()) / 1000
}

// one answers a single problem.
func (s *solver) one(ctx context.Context, out, errs io.Writer, p problem, asJSON bool) error {
	req, err := s.request(p)
	if err != nil {
		return err
	}
	ix, load, err := s.load(ctx, rootNames(req.Specs))
	if err != nil {
		return err
	}
	ans, err := s.solve(ctx, ix, req)
	if err != nil {
		return err
	}
	ans.Timings.Load = load
	switch {
	case asJSON:
		err = writeJSON(out, ans, "  ")
	case ans.Status == solved:
		if err = writeTable(out, ans.Records); err == nil {
			var total uint64
			for _, r := range ans.Records {
				total += r.Size
			}
			_, err = fmt.Fprintf(out, "\n%d packages, %s\n", len(ans.Records), size(total))
		}
	default:
		_, err = fmt.Fprintln(errs, ans.Explanation)
	}
	if err == nil && ans.Status != solved {
		err = negative{}
	}
	return err
}

// batch answers a problem a line. All of the channels is read, once: the second question usually is about other names.
func (s *solver) batch(ctx context.Context, in io.Reader, out io.Writer) error {
	ix, load, err := s.load(ctx, nil)
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
		ans := s.line(ctx, ix, sc.Bytes())
		ans.Timings.Load, load = load, 0
		if err := errors.Join(writeJSON(w, ans, ""), w.Flush()); err != nil { // whoever asks waits for the answer
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return sc.Err()
}

// line answers one line of a batch; what is wrong with it is its own affair.
func (s *solver) line(ctx context.Context, ix *solve.Index, data []byte) *answer {
	p := s.defaults
	p.Specs = nil
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	err := dec.Decode(&p)
	var req *solve.Request
	if err == nil {
		req, err = s.request(p)
	}
	var ans *answer
	if err == nil {
		ans, err = s.solve(ctx, ix, req)
	}
	if err != nil {
		return &answer{Status: failed, Error: err.Error(), Records: []record{}}
	}
	return ans
}

func (s *solver) solve(ctx context.Context, ix *solve.Index, req *solve.Request) (*answer, error) {
	start := s.app.now()
	sol, err := ix.Solve(ctx, *req)
	ans := &answer{Status: solved, Records: []record{}, Timings: timings{Solve: s.since(start)}}
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

// request turns a problem into what the solver takes.
func (s *solver) request(p problem) (*solve.Request, error) {
	req := &solve.Request{Virtual: s.machine, Limits: solve.Limits{Time: time.Duration(p.TimeoutMS) * time.Millisecond}}
	var err error
	if req.Specs, err = parseSpecs("SPEC", p.Specs); err != nil {
		return nil, err
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
