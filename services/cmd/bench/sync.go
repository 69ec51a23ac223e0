package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

const (
	// syncPoll and resyncPoll are how often a job's state is asked for: often enough not to show in the figure, seldom
	// enough not to cost the server anything.
	syncPoll   = 10 * time.Millisecond
	resyncPoll = 2 * time.Millisecond
	// idleTime is how long a server is left alone before its idle memory is read.
	idleTime = 5 * time.Second
	listPoll = 10 * time.Millisecond
)

// sync measures first syncs, re-syncs and memory, each run with a fresh server, and a peer in between if there is one.
func (b *bench) sync(ctx context.Context) (*report, error) {
	r := &report{
		Title: "Mirroring",
		Load: fmt.Sprintf("one mirror channel; the upstream is a static Go file server on loopback in the benchmark's process (repodata.json.zst, strong ETags, keep-alive) "+
			"with %d packages of 2 to 3 kB, new bytes in every run; the job's state is asked for every %v (re-sync: %v)", b.packages, syncPoll, resyncPoll),
	}
	rows := newRows(r)
	for run := range b.runs {
		if err := b.syncRun(ctx, run, r, rows); err != nil {
			return nil, fmt.Errorf("run %d: %w", run+1, err)
		}
		if b.peer.url != "" {
			if err := b.syncPeer(ctx, run, rows); err != nil {
				return nil, fmt.Errorf("peer, run %d: %w", run+1, err)
			}
		}
	}
	return r, nil
}

func (b *bench) syncRun(ctx context.Context, run int, r *report, rows *rowSet) (err error) {
	up, err := b.serveUpstream()
	if err != nil {
		return err
	}
	defer up.Close()
	s, err := b.startServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if r.Durability, err = s.durability(); err != nil {
		return err
	}
	if err := sleep(ctx, idleTime); err != nil {
		return err
	}
	idle, err := peakMiB(s.pid())
	if err != nil {
		return err
	}
	rows.add("memory, idle", idle)
	rows.add("memory of its PostgreSQL, idle", sharedMiB(descendants(s.pid())))

	if err := s.createMirror(ctx, "mirror", up.URL); err != nil {
		return err
	}
	end := func() error { return nil }
	if run == 0 {
		end = s.profile(b.cpuProfile)
	}
	before, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	took, err := s.sync(ctx, "mirror", syncPoll)
	if err != nil {
		return err
	}
	after, err := cpuOf(s.pid())
	if err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	n := float64(b.packages)
	used := after.sub(before)
	rows.add("first sync", n/took.Seconds())
	rows.add("CPU per package, entrepot", used.self.Seconds()*1000/n)
	rows.add("CPU per package, its PostgreSQL", used.children.Seconds()*1000/n)
	if err := s.verifyMirror(ctx, "mirror", up.Channel); err != nil {
		return err
	}
	listed, err := s.awaitListed(ctx, "mirror", up.Channel)
	if err != nil {
		return err
	}
	rows.add("first sync until repodata.json.zst lists all", listed.Sub(begin).Seconds())
	rows.add("memory of its PostgreSQL, syncing", sharedMiB(descendants(s.pid())))
	return b.resync(ctx, s, up, rows)
}

// resync syncs again without news, which must cost the upstream nothing but answers of 304.
func (b *bench) resync(ctx context.Context, s *server, up *upstream, rows *rowSet) error {
	for range b.resyncs {
		requests, unmodified := up.fileRequests(), up.NotModified()
		took, err := s.sync(ctx, "mirror", resyncPoll)
		if err != nil {
			return err
		}
		if got := up.fileRequests() - requests; got != 0 {
			return fmt.Errorf("a re-sync without news asked for %d files", got)
		}
		if up.NotModified() == unmodified {
			return errors.New("a re-sync without news got no 304 from the upstream")
		}
		rows.add("re-sync", float64(took.Microseconds())/1000)
	}
	peak, err := peakMiB(s.pid())
	if err != nil {
		return err
	}
	rows.add("memory, syncing", peak)
	return nil
}

func (b *bench) syncPeer(ctx context.Context, run int, rows *rowSet) error {
	up, err := b.serveUpstream()
	if err != nil {
		return err
	}
	defer up.Close()
	channel := "bench-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	if err := b.peer.createMirror(ctx, channel, up.URL); err != nil {
		return err
	}
	took, err := b.peer.sync(ctx, channel, syncPoll)
	if err == nil {
		rows.add("first sync, peer", float64(b.packages)/took.Seconds())
		took, err = b.peer.sync(ctx, channel, resyncPoll)
	}
	if err == nil {
		rows.add("re-sync, peer", float64(took.Microseconds())/1000)
	}
	return errors.Join(err, b.peer.deleteChannel(ctx, channel))
}

// upstream is a sample channel of tiny packages.
type upstream struct{ *sample.Upstream }

func (b *bench) serveUpstream() (*upstream, error) {
	dir, err := b.tempDir("upstream")
	if err != nil {
		return nil, err
	}
	up, err := sample.Serve(dir, sample.Options{Packages: b.packages, Seed: seed(), Tiny: true})
	if err != nil {
		return nil, err
	}
	return &upstream{up}, nil
}

// fileRequests counts the requests for packages so far.
func (u *upstream) fileRequests() (n int64) {
	for _, f := range u.Channel.Files {
		n += u.RequestsOf(f.Path)
	}
	return n
}

// verifyMirror checks that a mirror has what it says: every name of the upstream in its shards, and the bytes of some.
func (t target) verifyMirror(ctx context.Context, channel string, ch *sample.Channel) error {
	names := map[string]map[string]bool{}
	for _, f := range ch.Files {
		dir, base := filepath.Split(f.Path)
		if names[dir] == nil {
			names[dir] = map[string]bool{}
		}
		d, err := dist.ParseFilename(base)
		if err != nil {
			return err
		}
		names[dir][d.Name] = true
	}
	for dir, want := range names {
		_, data, err := t.do(ctx, "GET", "/channels/"+channel+"/"+dir+"repodata_shards.msgpack.zst", nil, nil)
		if err != nil {
			return err
		}
		for name := range want {
			ok, err := inShards(data, name)
			if err != nil {
				return err
			}
			if !ok {
				return fmt.Errorf("%s is not in the mirror's shards of %s", name, dir)
			}
		}
	}
	for i := 0; i < len(ch.Files); i += max(1, len(ch.Files)/20) {
		f := ch.Files[i]
		_, data, err := t.do(ctx, "GET", "/channels/"+channel+"/"+f.Path, nil, nil)
		if err != nil {
			return err
		}
		if got := describe("", "", "", data).sha256; got != f.SHA256 {
			return fmt.Errorf("%s has SHA-256 %s in the mirror, %s upstream", f.Path, got, f.SHA256)
		}
	}
	return nil
}

// awaitListed waits until repodata.json.zst of every subdir lists all files, and returns when that was.
func (t target) awaitListed(ctx context.Context, channel string, ch *sample.Channel) (time.Time, error) {
	var last time.Time
	for _, dir := range ch.Subdirs {
		want := 0
		for _, f := range ch.Files {
			if filepath.Dir(f.Path) == dir {
				want++
			}
		}
		at, err := t.follow(ctx, "/channels/"+channel+"/"+dir+"/repodata.json.zst", listPoll, func(data []byte) (bool, error) {
			files, err := filesOf(data)
			return len(files) == want, err
		})
		if err != nil {
			return at, err
		}
		if at.After(last) {
			last = at
		}
	}
	return last, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
