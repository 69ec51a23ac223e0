package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// limit is what the whole may take, for a machine that is far slower than it should be.
const limit = 10 * time.Minute

func main() {
	bin := flag.String("entrepot", "bin/entrepot", "the program under test")
	s3 := flag.String("s3", "bin/versitygw", "the S3 server")
	hold := flag.Duration("hold", holdFault, "how long each fault of a part lasts")
	only := flag.String("only", "", "play only the scenes whose names have one of these words, after the start")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx, *bin, *s3, *hold, strings.Fields(*only)); err != nil {
		fmt.Fprintln(os.Stderr, "cluster-test:", err)
		cancel()
		stop()
		os.Exit(1)
	}
}

// stage is what the scenes play on.
type stage struct {
	*cluster
	s3bin   string
	hold    time.Duration
	began   time.Time
	key     string
	front   *balancer
	client  *restclient.Client // by the balancer
	reader  *synctest.Watcher
	writer  *writer
	watched *sample.Channel // what writer uploads
	busy    *sample.Channel // what is uploaded while something is stopped
	table   table
}

func (s *stage) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

// scene is one part of the play; the first and the last are always played.
type scene struct {
	name string
	play func(context.Context) error
}

func run(ctx context.Context, bin, s3bin string, hold time.Duration, only []string) (err error) {
	for _, b := range []*string{&bin, &s3bin} {
		if *b, err = filepath.Abs(*b); err != nil {
			return err
		}
		if _, err := os.Stat(*b); err != nil {
			return fmt.Errorf("%w; run 'make cluster-test'", err)
		}
	}
	// Short, as the path of a unix socket may have 107 bytes; passable, for PostgreSQL may run as another account.
	root, err := os.MkdirTemp("/tmp", "ect-")
	if err != nil {
		return err
	}
	if err := os.Chmod(root, 0o711); err != nil {
		return err
	}
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	l := newLauncher(alive)
	s := &stage{s3bin: s3bin, hold: hold, began: time.Now()}
	defer func() {
		s.end(l)
		if err != nil {
			s.logs(root)
			return
		}
		err = os.RemoveAll(root)
	}()
	p := &parts{}
	if p.postgres, err = startPostgres(ctx, root); err != nil {
		return err
	}
	if s.cluster, err = newCluster(l, root, bin, p); err != nil {
		return err
	}
	scenes := []scene{
		{"start", s.startAll},
		{"demo", s.demo},
		{"proxy", s.proxy},
		{"kill a worker and a gateway in mid-sync", s.killInMidSync},
		{"revoke", s.revoke},
		{"health of PostgreSQL", s.healthOfPostgres},
		{"health of NATS", s.healthOfNATS},
		{"health of S3", s.healthOfS3},
		{"shutdown of a gateway", s.stopGateway},
		{"shutdown of channels", s.stopChannels},
		{"shutdown of jobs", s.stopJobs},
		{"shutdown of a worker", s.stopWorker},
		{"shutdown with a dead upstream", s.stopWorkerDeadUpstream},
		{"a second signal", s.secondSignal},
		{"end", s.endAll},
		{"one process", s.oneProcess},
	}
	for i, scene := range scenes {
		if i > 0 && scene.name != "end" && !wanted(scene.name, only) {
			continue
		}
		fmt.Printf("\n%s\n", scene.name)
		if err := scene.play(ctx); err != nil {
			if ctx.Err() != nil {
				err = errors.Join(context.Cause(ctx), err)
			}
			return fmt.Errorf("%s: %w", scene.name, err)
		}
	}
	fmt.Println()
	s.table.print(os.Stdout)
	fmt.Printf("\nEverything held, in %s.\n", time.Since(s.began).Round(time.Second))
	return nil
}

func wanted(name string, words []string) bool {
	for _, w := range words {
		if strings.Contains(name, w) {
			return true
		}
	}
	return len(words) == 0
}

// end leaves nothing behind that runs, whatever happened.
func (s *stage) end(l *launcher) {
	if s.reader != nil {
		s.reader.Stop()
	}
	if s.writer != nil {
		s.writer.stop()
	}
	l.killAll()
	if s.cluster != nil && s.parts.postgres != nil {
		if pid, err := s.parts.postgres.pid(); err == nil {
			_ = thaw(pid) // a server that stands still hears no signal
		}
		_ = s.parts.postgres.server.Stop(context.Background())
	}
}

// logs shows what the processes said last, other than that all is well.
func (s *stage) logs(root string) {
	files, _ := filepath.Glob(filepath.Join(root, "*.log")) // the pattern is well-formed
	for _, f := range files {
		var lines []string
		for line := range strings.Lines(tail(f, 200)) {
			if !strings.Contains(line, "level=INFO") && strings.TrimSpace(line) != "" {
				lines = append(lines, strings.TrimRight(line, "\n"))
			}
		}
		if len(lines) > 0 {
			fmt.Fprintf(os.Stderr, "\n--- %s\n%s\n", f, strings.Join(lines[max(0, len(lines)-8):], "\n"))
		}
	}
	fmt.Fprintf(os.Stderr, "\nThe logs, and all directories, are in %s.\n", root)
}

// startAll starts everything, and the reader and the writer that go on until the end.
func (s *stage) startAll(ctx context.Context) (err error) {
	if s.parts.nats, err = newNATS(s.launcher, s.root, s.bin); err != nil {
		return err
	}
	if s.parts.s3, err = newS3(s.launcher, s.root, s.s3bin); err != nil {
		return err
	}
	for _, p := range []*part{s.parts.nats, s.parts.s3} {
		if err := p.start(ctx); err != nil {
			return err
		}
	}
	if err := s.migrate(); err != nil {
		return err
	}
	s.say("PostgreSQL, NATS and the S3 server run; the schemas are there")
	// Identity first: it makes the master key, which others seal with too.
	if err := s.start("identity"); err != nil {
		return err
	}
	if err := ready(ctx, s.nodes["identity"], 30*time.Second); err != nil {
		return err
	}
	for _, name := range s.order {
		if name != "identity" {
			if err := s.start(name); err != nil {
				return err
			}
		}
	}
	if err := s.allReady(ctx, time.Minute); err != nil {
		return err
	}
	s.say("%d processes are ready", len(s.order))
	if s.key, err = s.adminKey(); err != nil {
		return err
	}
	if s.front, err = balance(context.WithoutCancel(ctx), s.nodes["gateway-1"].http, s.nodes["gateway-2"].http); err != nil {
		return err
	}
	if s.client, err = restclient.New(restclient.Config{Server: s.front.url(), Key: s.key, UserAgent: "entrepot/clustertest"}); err != nil {
		return err
	}
	if s.watched, err = sample.Build(filepath.Join(s.root, "watched"), sample.Options{Seed: 11, Packages: 200, Tiny: true}); err != nil {
		return err
	}
	if s.busy, err = sample.Build(filepath.Join(s.root, "busy"), sample.Options{Seed: 31, Packages: 4}); err != nil {
		return err
	}
	for _, name := range []string{watchedName, busyName} {
		if err := s.createChannel(ctx, name, ""); err != nil {
			return err
		}
	}
	if err := scenario.Upload(ctx, s.client, watchedName, s.watched, s.watched.Files[:readFirst]...); err != nil {
		return err
	}
	s.writer = write(s.front.url(), s.key, s.watched, readFirst)
	s.reader = synctest.Watch(synctest.WatchConfig{
		URL: s.nodes["gateway-1"].url() + "/channels/" + watchedName, More: []string{s.nodes["gateway-2"].url() + "/channels/" + watchedName},
		Subdirs: s.watched.Subdirs, Rate: 320,
	})
	s.say("a reader compares what both gateways serve, and a writer uploads, from now on")
	return nil
}
