package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings of a run; the defaults are what the published figures are measured with.
type settings struct {
	binary     string
	dir        string
	docs       string
	only       string
	cpuProfile string

	runs        int
	packages    int
	resyncs     int
	channelSize int
	uploads     int
	records     int
	clients     int
	duration    time.Duration
	connections int

	peer target
}

const (
	standardRuns        = 5
	standardPackages    = 2000
	standardResyncs     = 5
	standardChannelSize = 5000
	standardUploads     = 20
	standardRecords     = 200_000
	standardClients     = 1000
	standardDuration    = 5 * time.Second
	standardConnections = 32
)

// standard says whether the figures may be published.
func (s settings) standard() bool {
	return s.runs >= standardRuns && s.packages == standardPackages && s.resyncs >= standardResyncs && s.channelSize == standardChannelSize &&
		s.uploads >= standardUploads && s.records == standardRecords && s.clients == standardClients && s.duration >= standardDuration && s.connections == standardConnections && s.cpuProfile == ""
}

// fewRuns is for parts whose single runs are long.
const fewRuns = 3

// bench is one invocation.
type bench struct {
	settings
	machine machine
	command string
	// leftovers are directories to be removed at the end.
	leftovers []string
	// large is what several parts share; nil until one of them needs it.
	large *largeServer
}

// parts by name, in the order in which they run.
var parts = []struct {
	name string
	run  func(*bench, context.Context) (*report, error)
}{
	{"sync", (*bench).sync},
	{"news", (*bench).newsPart},
	{"upload", (*bench).upload},
	{"uploads", (*bench).uploadsPart},
	{"api", (*bench).apiPart},
	{"search", (*bench).searchPart},
	{"serve", (*bench).serve},
	{"proxy", (*bench).proxyPart},
	{"jobs", (*bench).jobsPart},
	{"metrics", (*bench).metricsPart},
	{"large", (*bench).largePart},
	{"clients", (*bench).clientsPart},
	{"index", (*bench).indexPart},
	{"solve", (*bench).solvePart},
	{"install", (*bench).installPart},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	b := &bench{command: "make bench"}
	if len(args) > 0 {
		b.command += " ARGS='" + strings.Join(args, " ") + "'"
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&b.binary, "binary", "bin/entrepot", "the server's `file`")
	fs.StringVar(&b.dir, "dir", "/var/tmp", "a `directory` on a real disk, for data directories")
	fs.StringVar(&b.docs, "docs", "docs", "the `directory` that the results are written to")
	fs.StringVar(&b.only, "only", "", "run these `parts` only: sync, news, upload, uploads, api, search, serve, proxy, jobs, metrics, large, clients, index, install, solve")
	fs.StringVar(&b.cpuProfile, "cpuprofile", "", "write the server's CPU profile of the first run's work to this `file`; nothing is published")
	fs.IntVar(&b.runs, "runs", standardRuns, "runs of each part")
	fs.IntVar(&b.packages, "packages", standardPackages, "packages of the upstream")
	fs.IntVar(&b.resyncs, "resyncs", standardResyncs, "syncs without news after each first sync")
	fs.IntVar(&b.channelSize, "channel-size", standardChannelSize, "packages of the channel that uploads go to")
	fs.IntVar(&b.uploads, "uploads", standardUploads, "uploads that are followed until they are listed")
	fs.IntVar(&b.records, "records", standardRecords, "records of the large channel")
	fs.IntVar(&b.clients, "clients", standardClients, "clients that fetch an index at a time")
	fs.DurationVar(&b.duration, "duration", standardDuration, "of each run of wrk")
	fs.IntVar(&b.connections, "connections", standardConnections, "of wrk")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || b.runs < 1 || b.packages < 8 || b.resyncs < 1 || b.channelSize < 8 || b.uploads < 1 || b.records < 1000 || b.clients < 1 {
		return fmt.Errorf("arguments %q cannot be used", args)
	}
	chosen, err := choose(b.only)
	if err != nil {
		return err
	}
	b.peer = target{name: "peer", url: strings.TrimSuffix(os.Getenv("PEER_URL"), "/"), key: os.Getenv("PEER_KEY")}
	if b.machine, err = describeMachine(b.dir); err != nil {
		return err
	}
	fmt.Println(b.machine)
	defer b.cleanUp()
	defer func() {
		if b.large != nil {
			err = errors.Join(err, b.large.close())
		}
	}()
	for _, p := range parts {
		if !slices.Contains(chosen, p.name) {
			continue
		}
		fmt.Printf("\n== %s\n", p.name)
		price, err := b.calm(ctx)
		if err != nil {
			return err
		}
		r, err := p.run(b, ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.Notes = append(r.Notes, fmt.Sprintf("Before it began, making a file of 2 kB took %v on this file system", price))
		r.Part, r.Time, r.Command, r.Machine = p.name, time.Now().UTC().Truncate(time.Second), b.command, b.machine
		r.Commit = commit(ctx)
		if r.Runs == 0 {
			r.Runs = b.runs
		}
		r.print(os.Stdout)
		if !b.standard() {
			fmt.Println("\nnot written: these are not the standard settings")
			continue
		}
		path, err := r.write(filepath.Join(b.docs, "benchmarks"))
		if err != nil {
			return err
		}
		fmt.Println("\nwritten:", path)
	}
	if !b.standard() {
		return nil
	}
	return render(b.docs)
}

func choose(only string) ([]string, error) {
	var known []string
	for _, p := range parts {
		known = append(known, p.name)
	}
	if only == "" {
		return known, nil
	}
	chosen := strings.Split(only, ",")
	for _, c := range chosen {
		if !slices.Contains(known, c) {
			return nil, fmt.Errorf("there is no part %q; there are %s", c, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}
