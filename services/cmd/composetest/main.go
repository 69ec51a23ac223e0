package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/demo"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compose-test:", err)
		stop()
		os.Exit(1)
	}
}

// packages is how many each upstream has: enough that a sync takes some seconds when each file takes one.
const packages = 120

// stage is what the scenes play on.
type stage struct {
	cluster
	dir     string
	began   time.Time
	host    string // this machine as the containers see it
	key     string
	client  *restclient.Client
	ours    *sample.Channel    // uploaded into hosted
	slow    *scenario.Upstream // mirrored while a worker is killed
	hosted  string
	mirror  string
	slowJob string
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func run(ctx context.Context) error {
	c, err := newCluster(os.Getenv)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "entrepot-composetest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := &stage{cluster: c, dir: dir, began: time.Now(), hosted: "hosted", mirror: "mirror"}
	for _, scene := range []struct {
		name string
		play func(context.Context) error
	}{
		{"start", s.start},
		{"demo", s.demo},
		{"uploads", s.uploads},
		{"scale", s.scale},
		{"kill a worker in mid-job", s.killWorker},
		{"stop and start", s.restart},
	} {
		if err := scene.play(ctx); err != nil {
			return fmt.Errorf("%s: %w", scene.name, err)
		}
	}
	s.say("everything held")
	return nil
}

// start starts all containers and learns where they are.
func (s *stage) start(ctx context.Context) (err error) {
	if err := s.compose(ctx, "up", "-d"); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	if s.host, err = s.gatewayIP(ctx); err != nil {
		return err
	}
	s.say("%s: all parts healthy; this machine is %s to them", s.client.Server(), s.host)
	return nil
}

// connect waits for all parts and makes a client for the edge, whose port may be another after each start.
func (s *stage) connect(ctx context.Context) (err error) {
	if err := s.healthy(ctx); err != nil {
		return err
	}
	if s.key == "" {
		if s.key, err = s.adminKey(ctx); err != nil {
			return err
		}
	}
	addr, err := s.composeOutput(ctx, "port", "gateway", "8000")
	if err != nil {
		return err
	}
	s.client, err = restclient.New(restclient.Config{Server: "http://" + strings.TrimSpace(addr), Key: s.key, UserAgent: "entrepot/composetest"})
	return err
}

// demo plays the demo's scenario against the edge, with an upstream that the containers can reach.
func (s *stage) demo(ctx context.Context) error {
	ch, err := sample.Build(filepath.Join(s.dir, "demo"), sample.Options{Seed: 1})
	if err != nil {
		return err
	}
	up, err := scenario.Serve(ch, s.host, 0)
	if err != nil {
		return err
	}
	defer up.Close()
	if err := os.Setenv("ENTREPOT_API_KEY", s.key); err != nil {
		return err
	}
	cmd := demo.Command(func(context.Context, demo.StartOptions) (*demo.Platform, error) {
		return nil, errors.New("the platform is up already")
	})
	cmd.SetArgs([]string{"--exit", "--server", s.client.Server(), "--upstream", up.URL})
	cmd.SetOut(os.Stdout)
	cmd.SetErr(os.Stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		return fmt.Errorf("something did not hold: %w", err)
	}
	s.say("the demo's scenario held")
	return nil
}

// scale makes it three sync workers.
func (s *stage) scale(ctx context.Context) error {
	if err := s.compose(ctx, "up", "-d", "--no-recreate", "--scale", "sync-worker=3"); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	ids, err := s.containers(ctx, "sync-worker")
	if err != nil {
		return err
	}
	if len(ids) != 3 {
		return fmt.Errorf("%d sync workers run, not 3", len(ids))
	}
	s.say("three sync workers")
	return nil
}

// restart stops every container and starts it again.
func (s *stage) restart(ctx context.Context) error {
	if err := s.compose(ctx, "stop"); err != nil {
		return err
	}
	if left, err := s.containers(ctx, ""); err != nil || len(left) > 0 {
		return fmt.Errorf("%d containers still run: %w", len(left), err)
	}
	s.say("all stopped")
	if err := s.compose(ctx, "up", "-d", "--no-recreate", "--scale", "sync-worker=3"); err != nil {
		return err
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	s.say("all started again")
	if err := s.check(ctx, s.hosted, s.ours, uploads); err != nil {
		return err
	}
	if err := s.check(ctx, s.mirror, s.slow.Channel, packages); err != nil {
		return err
	}
	job, err := s.client.Job(ctx, s.slowJob)
	if err != nil {
		return err
	}
	if !restclient.Final(job.GetState()) {
		return fmt.Errorf("job %s ended before the stop, and is %v now", s.slowJob, job.GetState())
	}
	s.say("channels, job and key are as they were")
	return nil
}
