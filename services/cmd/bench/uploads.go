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
	// uploadsAlone are sent one after the other in each run, uploadsTogether by uploadClients at a time.
	uploadsAlone    = 64
	uploadsTogether = 128
	uploadClients   = 8
	// uploadsFollowed are sent one by one, each followed until the index files show it.
	uploadsFollowed = 5
)

// uploadSizes are how many packages the channels have before, with what Quetz needed until its index showed an upload.
var uploadSizes = []struct {
	name     string
	packages int
	quetz    string
	atMost   float64 // a twentieth of it, in ms
}{
	{"empty", 0, "Quetz 120", 6},
	{"2,000", 2000, "Quetz 580", 29},
	{"5,000", 5000, "Quetz 4,200", 210},
}

// uploadsPart measures uploads one after another and side by side, into channels of several sizes.
func (b *bench) uploadsPart(ctx context.Context) (r *report, err error) {
	r = &report{
		Title: "Uploads, one after another and side by side",
		Load: fmt.Sprintf("channels of 0, 2,000 and 5,000 packages (the empty one is new in each run); packages of 2 kB, each of a new name; %d one after another by one client, then %d by %d clients, "+
			"each with keep-alive; CPU is that of the server with its PostgreSQL, until repodata.json.zst lists all of them; then %d single ones with a second in between, each followed until the shard index "+
			"and until repodata.json.zst show it, which are asked for every %v with If-None-Match", uploadsAlone, uploadsTogether, uploadClients, uploadsFollowed, uploadPoll),
	}
	rows := newRows(r)
	rows.goals = map[string]goal{}
	for _, s := range uploadSizes {
		rows.goals["one after another, "+s.name] = goal{unit: "uploads/s", atLeast: 64, beside: "Quetz 3.2"}
		rows.goals["8 at a time, "+s.name] = goal{unit: "uploads/s", atLeast: 64, beside: "Quetz 3.2"}
		rows.goals["CPU per upload, one after another, "+s.name] = goal{unit: "ms", atMost: 2.8, beside: "Quetz 56"}
		rows.goals["CPU per upload, 8 at a time, "+s.name] = goal{unit: "ms", atMost: 2.8, beside: "Quetz 56"}
		rows.goals["of it its PostgreSQL, one after another, "+s.name] = goal{unit: "ms"}
		rows.goals["of it its PostgreSQL, 8 at a time, "+s.name] = goal{unit: "ms"}
		rows.goals["until the shard index shows it, "+s.name] = goal{unit: "ms", atMost: s.atMost, beside: s.quetz}
		rows.goals["until repodata.json.zst shows it, "+s.name] = goal{unit: "ms", atMost: s.atMost, beside: s.quetz}
	}
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if r.Durability, err = s.durability(); err != nil {
		return nil, err
	}
	tag := seed()
	channel := func(packages, run int) string {
		if packages == 0 {
			return fmt.Sprintf("up-%x-0-%d", tag, run)
		}
		return fmt.Sprintf("up-%x-%d", tag, packages)
	}
	for _, size := range uploadSizes {
		if size.packages > 0 {
			if err := b.fillWith(ctx, s.target, channel(size.packages, 0), size.packages); err != nil {
				return nil, err
			}
		}
	}
	rng := newRand()
	end := s.profile(b.cpuProfile)
	for run := range b.runs {
		for _, size := range uploadSizes {
			name := channel(size.packages, run)
			if size.packages == 0 {
				if err := s.createHosted(ctx, name, false); err != nil {
					return nil, err
				}
			}
			for _, way := range []struct {
				name       string
				n, clients int
			}{{"one after another, ", uploadsAlone, 1}, {"8 at a time, ", uploadsTogether, uploadClients}} {
				if err := s.uploadMix(ctx, name, way.name+size.name, fmt.Sprintf("p%d-%d", run, way.clients), way.n, way.clients, rng, rows); err != nil {
					return nil, err
				}
			}
			for i := range uploadsFollowed {
				if err := sleep(ctx, time.Second); err != nil {
					return nil, err
				}
				p, err := makePackage(fmt.Sprintf("single-%d-%d", run, i), rng, 1500)
				if err != nil {
					return nil, err
				}
				sharded, listed, err := s.shown(ctx, name, p)
				if err != nil {
					return nil, err
				}
				rows.add("until the shard index shows it, "+size.name, sharded)
				rows.add("until repodata.json.zst shows it, "+size.name, listed)
			}
		}
	}
	return r, end()
}

// uploadMix sends n uploads by some clients and notes the rate, and the processor time until the index lists them.
func (s *server) uploadMix(ctx context.Context, channel, row, prefix string, n, clients int, rng *rand.Rand, rows *rowSet) error {
	ps := make([]pkg, n)
	for i := range ps {
		var err error
		if ps[i], err = makePackage(fmt.Sprintf("%s-%04d", prefix, i), rng, 1500); err != nil {
			return err
		}
	}
	before, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	next := make(chan pkg)
	g.Go(func() error {
		defer close(next)
		for _, p := range ps {
			select {
			case next <- p:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		}
		return nil
	})
	for range clients {
		g.Go(func() error {
			for p := range next {
				if err := s.upload(gctx, channel, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := time.Since(begin)
	ctx, cancel := context.WithTimeout(ctx, visiblePatience)
	defer cancel()
	_, err = s.follow(ctx, "/get/"+channel+"/"+subdir+"/repodata.json.zst", fillPoll, func(data []byte) (bool, error) {
		files, err := filesOf(data)
		for _, p := range ps {
			if !files[p.filename] {
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	after, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	used := after.sub(before)
	rows.add(row, float64(n)/took.Seconds())
	rows.add("CPU per upload, "+row, (used.self+used.children).Seconds()*1000/float64(n))
	rows.add("of it its PostgreSQL, "+row, used.children.Seconds()*1000/float64(n))
	return nil
}

// shown uploads a package and returns after how many milliseconds each kind of index showed it.
func (t target) shown(ctx context.Context, channel string, p pkg) (sharded, listed float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, visiblePatience)
	defer cancel()
	base := "/get/" + channel + "/" + p.subdir + "/"
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.upload(gctx, channel, p) })
	g.Go(func() error {
		at, err := t.follow(gctx, base+"repodata_shards.msgpack.zst", uploadPoll, func(data []byte) (bool, error) { return inShards(data, p.name) })
		sharded = float64(at.Sub(begin).Microseconds()) / 1000
		return err
	})
	g.Go(func() error {
		at, err := t.follow(gctx, base+"repodata.json.zst", uploadPoll, func(data []byte) (bool, error) {
			files, err := filesOf(data)
			return files[p.filename], err
		})
		listed = float64(at.Sub(begin).Microseconds()) / 1000
		return err
	})
	return sharded, listed, g.Wait()
}
