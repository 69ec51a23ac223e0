package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(realMain(os.Args[1:])) }

func realMain(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	var err error
	switch {
	case len(args) > 0 && args[0] == "process":
		err = runProcess(ctx, args[1:])
	default:
		var code int
		if code, err = isolate(ctx); err == nil && code >= 0 {
			return code
		}
		if err == nil {
			err = control(ctx, args, os.Stdout)
		}
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	return 0
}

// options of a whole run.
type options struct {
	quick     bool
	keep      bool
	unguard   bool // run without guards too
	seed      uint64
	rate      int
	parallel  int
	entrepot  string // the program that is shipped
	self      string // this one
	unguarded string // this one with removable guards, if there is one build for all
	source    string // where variants are built from
	root      string // for everything that is made
	report    string
	pg        *database
}

// control is the command line: it chooses scenarios, runs them, and says what came of it.
func control(ctx context.Context, args []string, out io.Writer) (err error) {
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	var o options
	only := f.String("scenario", "", "only these, by `name,name`")
	list := f.Bool("list", false, "list the scenarios and their guards")
	full := f.Bool("full", false, "large numbers: 2,000 jobs, a minute without NATS")
	f.BoolVar(&o.quick, "quick", false, "small numbers, within minutes (the default)")
	f.BoolVar(&o.unguard, "guards", true, "run each scenario also without its guard, and demand that it fails")
	f.BoolVar(&o.keep, "keep", false, "leave directories and logs behind")
	f.Uint64Var(&o.seed, "seed", 1, "of the generated packages")
	f.IntVar(&o.rate, "rate", 250, "requests a second of each scenario's reader")
	f.IntVar(&o.parallel, "parallel", runtime.NumCPU()+1, "scenarios at a time")
	f.StringVar(&o.entrepot, "entrepot", "bin/entrepot", "the program under test")
	f.StringVar(&o.source, "source", ".", "directory that programs without guards are built from")
	tableOf := f.String("table", "", "print the table of a report `file` in Markdown, and do nothing else")
	f.StringVar(&o.report, "report", "", "write the numbers to this `file`, as JSON")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *full && o.quick {
		return errors.New("--quick and --full exclude each other")
	}
	o.quick = !*full
	if *tableOf != "" {
		return printReport(out, *tableOf)
	}
	chosen, err := choose(*only)
	if err != nil {
		return err
	}
	if *list {
		for _, s := range chosen {
			fmt.Fprintf(out, "%-16s %-14s %s\n", s.name, s.guard, s.title)
		}
		return nil
	}
	if o.self, err = os.Executable(); err != nil {
		return err
	}
	if o.entrepot, err = filepath.Abs(o.entrepot); err != nil {
		return err
	}
	if _, err := os.Stat(o.entrepot); err != nil {
		return fmt.Errorf("%w; build it with 'make build', or name it with --entrepot", err)
	}
	// A short path: sockets of PostgreSQL must fit into 107 bytes. Its account must be able to pass.
	if o.root, err = os.MkdirTemp("/tmp", "chaos-"); err != nil {
		return err
	}
	if err := os.Chmod(o.root, 0o711); err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(out, "chaos: logs are in", o.root)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(o.root)) }()
	}
	if o.pg, err = startDatabase(ctx, o.root); err != nil {
		return err
	}
	defer o.pg.stop()

	began := time.Now()
	results := runAll(ctx, &o, chosen, out)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	printTable(out, results)
	if o.report != "" {
		if err := writeReport(o.report, &o, results, time.Since(began)); err != nil {
			return err
		}
	}
	failed := 0
	for _, r := range results {
		if !r.OK {
			failed++
		}
	}
	fmt.Fprintf(out, "\n%d of %d runs are as they must be, in %s\n", len(results)-failed, len(results), time.Since(began).Round(time.Second))
	if failed > 0 {
		return fmt.Errorf("%d of %d runs failed", failed, len(results))
	}
	return nil
}

// choose picks scenarios by name; no names mean all.
func choose(names string) ([]scenario, error) {
	if names == "" {
		return scenarios, nil
	}
	var chosen []scenario
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q; --list names them", name)
		}
		chosen = append(chosen, scenarios[i])
	}
	return chosen, nil
}
