package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
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
	for _, f := range s.ours.Files {
		data, err := os.ReadFile(filepath.Join(s.ours.Dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return err
		}
		_, name, _ := strings.Cut(f.Path, "/")
		up := restclient.Upload{Channel: s.hosted, Filename: name, Body: bytes.NewReader(data), Size: f.Size, SHA256: f.SHA256}
		if _, _, err := s.client.Upload(ctx, up); err != nil {
			return fmt.Errorf("upload %s: %w", name, err)
		}
	}
	return s.check(ctx, s.hosted, s.ours, uploads)
}

// killWorker kills the worker that runs a sync, once it has a part of the files.
func (s *stage) killWorker(ctx context.Context) error {
	ch, err := sample.Build(filepath.Join(s.dir, "slow"), sample.Options{Seed: 3, Packages: packages, Tiny: true})
	if err != nil {
		return err
	}
	if s.slow, err = serve(ch, s.host, time.Second); err != nil {
		return err
	}
	defer s.slow.close()
	private := false
	if _, err := s.client.CreateChannel(ctx, &channelsv1.CreateChannelRequest{
		Name: s.mirror, Private: &private, Mirror: &channelsv1.MirrorSettings{Url: s.slow.url},
	}); err != nil {
		return err
	}
	job, err := s.client.StartSync(ctx, &syncv1.StartSyncRequest{Channel: s.mirror})
	if err != nil {
		return err
	}
	s.slowJob = fmt.Sprint(job.GetNumber())
	victim, err := s.slow.awaitFiles(ctx, packages/4)
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
	before := s.slow.files(victim)
	s.say("killed the worker at %s after %d of %d files", victim, before, packages)
	s.slow.setDelay(0)
	if job, err = s.client.Follow(ctx, s.slowJob, func(*jobsv1.JobEvent) {}); err != nil {
		return err
	}
	if job.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED {
		return fmt.Errorf("job %s ended as %v: %s", s.slowJob, job.GetState(), job.GetError())
	}
	others := s.slow.allFiles() - s.slow.files(victim)
	if before >= packages || others == 0 {
		return fmt.Errorf("the killed worker had %d files and the others %d: nobody took over", before, others)
	}
	s.say("another worker ended the job: %d more files downloaded", others)
	return s.check(ctx, s.mirror, ch, packages)
}

// check compares a channel with its source: the index lists exactly the files, and each has the right bytes.
func (s *stage) check(ctx context.Context, channel string, want *sample.Channel, n int) error {
	if len(want.Files) != n {
		return fmt.Errorf("the sample has %d files, not %d", len(want.Files), n)
	}
	wanted := map[string]string{}
	for _, f := range want.Files {
		wanted[f.Path] = f.SHA256
	}
	// Indexes follow a revision in the background.
	var problem error
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(500 * time.Millisecond) {
		listed, err := s.listed(ctx, channel, want.Subdirs)
		if problem = err; err == nil && maps.Equal(listed, wanted) {
			break
		} else if err == nil {
			problem = fmt.Errorf("%s lists %d files, not the %d of its source", channel, len(listed), len(wanted))
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return problem
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		g.Go(func() error {
			data, err := s.read(ctx, channel, path)
			if err != nil {
				return err
			}
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != wanted[path] {
				return fmt.Errorf("%s/%s has other bytes than its source", channel, path)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	s.say("%s: %d files and its index compared", channel, n)
	return nil
}

// listed returns what the index of a channel names, with digests.
func (s *stage) listed(ctx context.Context, channel string, subdirs []string) (map[string]string, error) {
	out := map[string]string{}
	for _, subdir := range subdirs {
		data, err := s.read(ctx, channel, subdir+"/repodata.json")
		if err != nil {
			return nil, err
		}
		type record struct {
			SHA256 string `json:"sha256"`
		}
		var index struct {
			Packages map[string]record `json:"packages"`
			Conda    map[string]record `json:"packages.conda"`
		}
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, fmt.Errorf("%s/%s/repodata.json: %w", channel, subdir, err)
		}
		for _, m := range []map[string]record{index.Packages, index.Conda} {
			for name, r := range m {
				out[subdir+"/"+name] = r.SHA256
			}
		}
	}
	return out, nil
}

func (s *stage) read(ctx context.Context, channel, path string) ([]byte, error) {
	resp, err := s.client.Open(ctx, channel, path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s/%s: %s", channel, path, resp.Status)
	}
	return io.ReadAll(resp.Body)
}
