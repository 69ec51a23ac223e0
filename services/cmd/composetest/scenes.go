package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
)

// uploads is how many packages the hosted channel gets.
const uploads = 6

// uploads makes a hosted channel that has to outlive everything below.
func (s *stage) uploads(ctx context.Context) (err error) {
	if s.ours, err = sample.Build(filepath.Join(s.dir, "ours"), sample.Options{Seed: 2, Packages: uploads, Tiny: true}); err != nil {
		return err
	}
	private := false
	if _, err := s.client.CreateChannel(ctx, &channelsv1.CreateChannelRequest{Name: s.hosted, Private: &private}); err != nil {
		return err
	}
	if err := scenario.Upload(ctx, s.client, s.hosted, s.ours, s.ours.Files...); err != nil {
		return err
	}
	return s.check(ctx, s.hosted, s.ours, uploads)
}

// killWorker kills the worker that runs a sync, once it has a part of the files.
func (s *stage) killWorker(ctx context.Context) error {
	ch, err := sample.Build(filepath.Join(s.dir, "slow"), sample.Options{Seed: 3, Packages: packages, Tiny: true})
	if err != nil {
		return err
	}
	if s.slow, err = scenario.Serve(ch, s.host, time.Second); err != nil {
		return err
	}
	defer s.slow.Close()
	private := false
	if _, err := s.client.CreateChannel(ctx, &channelsv1.CreateChannelRequest{
		Name: s.mirror, Private: &private, Mirror: &channelsv1.MirrorSettings{Url: s.slow.URL},
	}); err != nil {
		return err
	}
	job, err := s.client.StartSync(ctx, &syncv1.StartSyncRequest{Channel: s.mirror})
	if err != nil {
		return err
	}
	s.slowJob = fmt.Sprint(job.GetNumber())
	victim, err := s.slow.AwaitFiles(ctx, packages/4)
	if err != nil {
		return err
	}
	id, err := s.containerAt(ctx, victim, "sync-worker")
	if err != nil {
		return err
	}
	if err := s.docker(ctx, "kill", "--signal", "KILL", id); err != nil {
		return err
	}
	before := s.slow.Files(victim)
	s.say("killed the worker at %s after %d of %d files", victim, before, packages)
	s.slow.SetDelay(0)
	if job, err = s.client.Follow(ctx, s.slowJob, func(*jobsv1.JobEvent) {}); err != nil {
		return err
	}
	if job.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED {
		return fmt.Errorf("job %s ended as %v: %s", s.slowJob, job.GetState(), job.GetError())
	}
	others := s.slow.AllFiles() - s.slow.Files(victim)
	if before >= packages || others == 0 {
		return fmt.Errorf("the killed worker had %d files and the others %d: nobody took over", before, others)
	}
	s.say("another worker ended the job: %d more files downloaded", others)
	return s.check(ctx, s.mirror, ch, packages)
}

// check compares a channel with its source.
func (s *stage) check(ctx context.Context, channel string, want *sample.Channel, n int) error {
	if err := scenario.Check(ctx, s.client, channel, want, n); err != nil {
		return err
	}
	s.say("%s: %d files and its index compared", channel, n)
	return nil
}
