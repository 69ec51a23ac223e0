package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/client"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// scenario is one run of the demo.
type scenario struct {
	options
	cmd   *cobra.Command
	c     *restclient.Client
	key   string // how a shell gets the key of a platform that the demo started
	found findings

	hosted, mirror string // channel names
	upstream       *sample.Upstream
	upstreamURL    string
	kept           string // the data directory that is left behind, if any
}

// say tells a person what happens.
func (s *scenario) say(format string, args ...any) {
	fmt.Fprintf(s.cmd.ErrOrStderr(), format+"\n", args...)
}

// run starts everything, runs the scenario, and ends everything again.
func run(cmd *cobra.Command, start StartFunc, o options) (err error) {
	s := &scenario{options: o, cmd: cmd, hosted: "demo-hosted", mirror: "demo-mirror", upstreamURL: strings.TrimRight(o.upstream, "/")}
	ctx, cancel := context.WithCancelCause(cmd.Context())
	defer cancel(nil)
	var closers []func() error
	defer func() {
		for _, f := range slices.Backward(closers) {
			if e := f(); e != nil {
				s.say("while ending: %v", e)
				if err == nil {
					err = &exitError{code: exitDiffers}
				}
			}
		}
	}()
	if o.server != "" {
		err = s.connect()
	} else {
		closers, err = s.start(ctx, cancel, start)
	}
	if err != nil {
		return s.why(ctx, notStarted(err))
	}
	defer s.c.CloseIdle()
	if o.upstream == "" {
		closeUpstream, err := s.serveUpstream()
		if err != nil {
			return notStarted(err)
		}
		closers = append(closers, closeUpstream)
	}
	if o.server != "" {
		closers = append(closers, func() error { return s.deleteChannels(ctx) })
	}
	if err := s.play(ctx); err != nil {
		return s.why(ctx, err)
	}
	s.report()
	if !o.exit {
		s.tryThis()
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			return &exitError{exitDiffers, cause}
		}
		s.say("\nending …")
	}
	if !s.found.held() {
		return &exitError{code: exitDiffers}
	}
	return nil
}

// why tells an interruption from an error, and the platform's end from what it caused.
func (s *scenario) why(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case s.cmd.Context().Err() != nil:
		s.say("\ninterrupted")
		return &exitError{code: exitInterrupted}
	case cause != nil:
		return &exitError{exitDiffers, cause}
	}
	var coded *exitError
	if errors.As(err, &coded) {
		return err
	}
	return &exitError{exitDiffers, err}
}

// play is the scenario itself. Errors are what kept it from going on; what did not hold goes to s.found.
func (s *scenario) play(ctx context.Context) error {
	yardstick, err := s.yardstick(ctx)
	if err != nil {
		return notStarted(err)
	}
	if s.upstream != nil {
		if err := s.playHosted(ctx); err != nil {
			return err
		}
	}
	return s.playMirror(ctx, yardstick)
}

// create makes a channel: open to all on a platform of our own, so that clients need no key; private elsewhere.
func (s *scenario) create(ctx context.Context, name string, mirror *channelsv1.MirrorSettings) error {
	private := s.server != ""
	err := s.again(ctx, func(first bool) error {
		_, err := s.c.CreateChannel(ctx, &channelsv1.CreateChannelRequest{
			Name: name, Private: &private, Description: "made by entrepot demo", Mirror: mirror,
		})
		return unless(first, err, fault.Conflict)
	})
	if err != nil {
		return fmt.Errorf("create channel %s: %w", name, client.Explain(err, s.c))
	}
	return nil
}

// uploads is how many packages the hosted channel gets.
const uploads = 8

// playHosted uploads a few packages of both formats and checks the hosted channel.
func (s *scenario) playHosted(ctx context.Context) error {
	files, err := s.sound(uploads)
	if err != nil {
		return err
	}
	if err := s.create(ctx, s.hosted, nil); err != nil {
		return err
	}
	began := time.Now()
	want := listing{}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(s.upstream.Channel.Dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return err
		}
		_, filename, _ := strings.Cut(f.Path, "/")
		err = s.again(ctx, func(bool) error { // the same bytes are no duplicate
			_, _, err := s.c.Upload(ctx, restclient.Upload{
				Channel: s.hosted, Filename: filename, Body: bytes.NewReader(data), Size: f.Size, SHA256: f.SHA256,
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("upload %s: %w", filename, client.Explain(err, s.c))
		}
		want[f.Path] = entry{SHA256: f.SHA256, MD5: f.MD5, Size: f.Size}
	}
	s.say("hosted     %s: %s uploaded", s.hosted, speed(len(files), time.Since(began)))
	return s.check(ctx, s.hosted, want, nil)
}

// sound picks n packages that were not spoilt: alternately of each format, as far as there are any.
func (s *scenario) sound(n int) ([]sample.File, error) {
	var byFormat [2][]sample.File
	for _, f := range s.upstream.Channel.Files {
		data, err := os.ReadFile(filepath.Join(s.upstream.Channel.Dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		if hexSHA(data) != f.SHA256 {
			continue
		}
		i := 0
		if strings.HasSuffix(f.Path, ".tar.bz2") {
			i = 1
		}
		byFormat[i] = append(byFormat[i], f)
	}
	var out []sample.File
	for i := 0; len(out) < n && (i < len(byFormat[0]) || i < len(byFormat[1])); i++ {
		for _, list := range byFormat {
			if i < len(list) && len(out) < n {
				out = append(out, list[i])
			}
		}
	}
	return out, nil
}

// playMirror mirrors the upstream and checks the mirror.
func (s *scenario) playMirror(ctx context.Context, want listing) error {
	if err := s.create(ctx, s.mirror, &channelsv1.MirrorSettings{Url: s.upstreamURL, RemovalPolicy: channelsv1.RemovalPolicy_REMOVAL_POLICY_PRUNE}); err != nil {
		return err
	}
	var job *jobsv1.Job
	err := s.again(ctx, func(bool) (err error) { // a second request joins the first one's job
		job, err = s.c.StartSync(ctx, &syncv1.StartSyncRequest{Channel: s.mirror})
		return err
	})
	if err != nil {
		return fmt.Errorf("sync %s: %w", s.mirror, client.Explain(err, s.c))
	}
	meter := client.NewMeter(s.cmd.ErrOrStderr(), s.getenv, "packages")
	job, err = client.FollowJob(ctx, s.c, fmt.Sprint(job.GetNumber()), meter)
	took := meter.Done()
	if err != nil {
		return fmt.Errorf("follow the sync: %w", client.Explain(err, s.c))
	}
	result, err := restclient.SyncResult(job)
	if err != nil {
		return fmt.Errorf("the sync's result cannot be read: %w", err)
	}
	if result == nil || job.GetState() == jobsv1.JobState_JOB_STATE_CANCELLED {
		hint := ""
		if s.server != "" && s.upstream != nil {
			hint = "\n  The platform must be able to reach this machine's loopback address (--egress-allow 127.0.0.0/8), or name another channel with --upstream."
		}
		s.found.problem("the sync of %s ended %s: %s%s", s.mirror, strings.ToLower(strings.TrimPrefix(job.GetState().String(), "JOB_STATE_")), job.GetError(), hint)
		return nil
	}
	s.say("mirror     %s: %s", s.mirror, client.Summary(job, took))
	for _, w := range result.GetWarnings() {
		s.say("           warning: %s", w)
	}
	refused := map[string]string{}
	for _, f := range result.GetFailures() {
		refused[f.GetPath()] = f.GetError()
	}
	if more := result.GetFailed() - int64(len(refused)); more > 0 {
		s.found.problem("the sync failed for %d more files, which it does not name", more)
	}
	return s.check(ctx, s.mirror, want, refused)
}

// check compares a channel with what it must hold and tells how long that took.
func (s *scenario) check(ctx context.Context, channel string, want listing, refused map[string]string) error {
	meter := client.NewMeter(s.cmd.ErrOrStderr(), s.getenv, "files")
	v := verifier{c: s.c, channel: channel, settle: s.settle, patience: s.patience(), found: &s.found, update: meter.Update}
	n, bytes, err := v.verify(ctx, want, refused)
	took := meter.Done()
	if err != nil {
		return fmt.Errorf("check %s: %w", channel, client.Explain(err, s.c))
	}
	s.say("           %s downloaded and compared (%s), 4 listings compared", speed(n, took), progress.Bytes(bytes))
	return nil
}

func speed(n int, took time.Duration) string {
	return fmt.Sprintf("%d packages in %s (%.0f/s)", n, progress.Duration(took), float64(n)/max(took.Seconds(), 1e-6))
}

// report names what did not hold: the paths on standard output, all else beside it.
func (s *scenario) report() {
	for _, path := range s.found.paths() {
		s.say("wrong      %s: %s", path, s.found.files[path])
	}
	for _, p := range s.found.problems {
		s.say("wrong      %s", p)
	}
	for _, path := range s.found.paths() {
		io.WriteString(s.cmd.OutOrStdout(), path+"\n")
	}
	if s.found.held() {
		s.say("\nEverything held: every byte is as it was written, and nothing else is listed.")
		return
	}
	s.say("\nDid not hold: files %d, other things %d. All else is served as it was written.", len(s.found.files), len(s.found.problems))
}

// tryThis prints commands for a person to go on with.
func (s *scenario) tryThis() {
	mirror := s.c.ChannelURL(s.mirror)
	s.say("\nTry it:")
	spec := "PACKAGE"
	if s.upstream != nil {
		spec = "ledger"
	}
	if s.server == "" {
		s.say(`  conda create -n demo --override-channels -c %[1]s %[2]s
  micromamba create -n demo -c %[1]s %[2]s
  pixi init demo --channel %[1]s && cd demo && pixi add %[2]s
  curl -s %[1]s/noarch/repodata.json | head -c 400`, mirror, spec)
		s.say(`
  export ENTREPOT_SERVER=%s ENTREPOT_API_KEY=%s
  entrepot channel list
  entrepot channel sync %s --follow --force
  entrepot package list %s`, s.c.Server(), s.key, s.mirror, s.mirror)
	} else {
		s.say("  entrepot channel show --server %s %s\n  The channels are private: clients put /t/<key> before /channels in %s", s.c.Server(), s.mirror, mirror)
	}
	end := "Ctrl-C ends it."
	switch {
	case s.server != "":
		end = "Ctrl-C ends the demo and deletes its channels."
	case s.kept != "":
		end = "Ctrl-C ends it. The data stays in " + s.kept + ": entrepot serve --data-dir " + s.kept
	default:
		end = "Ctrl-C ends it and deletes its data."
	}
	s.say("\n%s", end)
}
