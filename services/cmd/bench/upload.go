package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// uploadPoll is how often each index file is asked for after an upload, with If-None-Match.
	uploadPoll = 2 * time.Millisecond
	// formFiles is how many packages go into one request when a channel is filled.
	formFiles = 250
	// fillPoll is how often the index of a channel being filled is asked for.
	fillPoll = 200 * time.Millisecond
	// visiblePatience is how long an upload may take to be listed before the benchmark gives up.
	visiblePatience = 2 * time.Minute
	// backToBack is how many uploads each run sends one after the other.
	backToBack = 100
)

// upload measures how long an upload takes to be seen in a channel of some size.
func (b *bench) upload(ctx context.Context) (r *report, err error) {
	r = &report{
		Title: "Uploads",
		Load: fmt.Sprintf("one channel of %d packages; single uploads of 2 kB by one client with keep-alive, one after the other; the shard index and repodata.json.zst "+
			"are each asked for every %v with If-None-Match, and decoded", b.channelSize, uploadPoll),
	}
	rows := newRows(r)
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if r.Durability, err = s.durability(); err != nil {
		return nil, err
	}
	targets := []target{s.target}
	if b.peer.url != "" {
		targets = append(targets, b.peer)
	}
	channel := fmt.Sprintf("bench-%x", seed())
	for _, t := range targets {
		if err := b.fill(ctx, t, channel); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	rng := newRand()
	for i := range b.uploads {
		for _, t := range targets {
			p, err := makePackage(fmt.Sprintf("upload-%04d", i), rng, 1500)
			if err != nil {
				return nil, err
			}
			if err := uploadOnce(ctx, t, t.name == b.peer.name, channel, p, rows); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	end := s.profile(b.cpuProfile)
	for run := range b.runs {
		if err := b.uploadRun(ctx, s, channel, run, rng, rows); err != nil {
			return nil, err
		}
	}
	if err := end(); err != nil {
		return nil, err
	}
	if b.peer.url != "" {
		return r, b.peer.deleteChannel(ctx, channel)
	}
	return r, nil
}

// fill makes the hosted channel that uploads go to.
func (b *bench) fill(ctx context.Context, t target, channel string) error {
	return b.fillWith(ctx, t, channel, b.channelSize)
}

// fillWith makes a hosted channel with n packages, and waits until it has come to rest.
func (b *bench) fillWith(ctx context.Context, t target, channel string, n int) error {
	ps, err := b.tinyPackages(n)
	if err != nil {
		return err
	}
	if err := t.createHosted(ctx, channel, false); err != nil {
		return err
	}
	begin := time.Now()
	for i := 0; i < len(ps); i += formFiles {
		if err := t.uploadMany(ctx, channel, ps[i:min(i+formFiles, len(ps))]); err != nil {
			return err
		}
	}
	fmt.Printf("filled a channel of %s with %d packages in %.1f s\n", t.name, len(ps), time.Since(begin).Seconds())
	ctx, cancel := context.WithTimeout(ctx, 10*visiblePatience)
	defer cancel()
	want := map[string]int{}
	for _, p := range ps {
		want[p.subdir]++
	}
	for dir, n := range want {
		_, err := t.follow(ctx, "/get/"+channel+"/"+dir+"/repodata.json.zst", fillPoll, func(data []byte) (bool, error) {
			files, err := filesOf(data)
			return len(files) == n, err
		})
		if err != nil {
			return err
		}
	}
	return sleep(ctx, 2*time.Second)
}

// uploadOnce uploads a package and notes when the upload was answered and when each kind of index showed it.
func uploadOnce(ctx context.Context, t target, peer bool, channel string, p pkg, rows *rowSet) error {
	ctx, cancel := context.WithTimeout(ctx, visiblePatience)
	defer cancel()
	base, suffix := "/get/"+channel+"/"+p.subdir+"/", ""
	if peer {
		suffix = ", peer"
	}
	begin := time.Now()
	since := func(at time.Time) float64 { return float64(at.Sub(begin).Microseconds()) / 1000 }
	var answered, sharded, listed time.Time
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		err = t.upload(gctx, channel, p)
		answered = time.Now()
		return err
	})
	if !peer {
		g.Go(func() (err error) {
			sharded, err = t.follow(gctx, base+"repodata_shards.msgpack.zst", uploadPoll, func(data []byte) (bool, error) {
				return inShards(data, p.name)
			})
			return err
		})
	}
	g.Go(func() (err error) {
		listed, err = t.follow(gctx, base+"repodata.json.zst", uploadPoll, func(data []byte) (bool, error) {
			files, err := filesOf(data)
			return files[p.filename], err
		})
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	rows.add("upload answered"+suffix, since(answered))
	if !peer {
		rows.add("upload until the shard index shows it", since(sharded))
	}
	rows.add("upload until repodata.json.zst shows it"+suffix, since(listed))
	// The next upload begins after the background work of this one, such as further index files.
	return sleep(ctx, 200*time.Millisecond)
}

// uploadRun sends uploads back to back, without asking for anything in between.
func (b *bench) uploadRun(ctx context.Context, s *server, channel string, run int, rng *rand.Rand, rows *rowSet) error {
	var ps []pkg
	for i := range backToBack {
		p, err := makePackage(fmt.Sprintf("many-%d-%04d", run, i), rng, 1500)
		if err != nil {
			return err
		}
		ps = append(ps, p)
	}
	before, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	for _, p := range ps {
		if err := s.upload(ctx, channel, p); err != nil {
			return err
		}
	}
	took := time.Since(begin)
	after, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	used := after.sub(before)
	rows.add("uploads back to back", float64(len(ps))/took.Seconds())
	rows.add("CPU per upload, entrepot", used.self.Seconds()*1000/float64(len(ps)))
	rows.add("CPU per upload, its PostgreSQL", used.children.Seconds()*1000/float64(len(ps)))
	return nil
}
