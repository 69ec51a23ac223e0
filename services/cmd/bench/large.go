package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

const (
	largeChannel = "large"
	largeIndex   = "/channels/" + largeChannel + "/linux-64/repodata.json.zst"
	largeShards  = "/channels/" + largeChannel + "/linux-64/repodata_shards.msgpack.zst"
	// largeResyncs is how often each kind of re-sync is measured, largePublishes how many packages are published.
	largeResyncs   = 3
	largePublishes = 10
	// largeListPoll is how often the large repodata.json.zst is asked for: each look takes the server some 0.1 ms.
	largeListPoll = 5 * time.Millisecond
	// largePause lies between two publications, so that each is one of its own.
	largePause = 2 * time.Second
)

// largeServer is a server with a channel of very many records, which several parts use.
type largeServer struct {
	*server
	up         *sample.Large
	durability string
	filled     time.Duration
	listed     time.Duration
	peak       float64
	hosted     bool
}

// largeServer starts the server and fills its channel when it is first asked for.
func (b *bench) largeServer(ctx context.Context) (l *largeServer, err error) {
	if b.large != nil {
		return b.large, nil
	}
	begin := time.Now()
	up, err := sample.ServeLarge(b.records, seed())
	if err != nil {
		return nil, err
	}
	fmt.Printf("made %d packages in %.1f s\n", b.records, time.Since(begin).Seconds())
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, errors.Join(err, up.Close())
	}
	l = &largeServer{server: s, up: up}
	b.large = l // run stops it
	if l.durability, err = s.durability(); err != nil {
		return nil, err
	}
	if err := s.createMirror(ctx, largeChannel, up.URL); err != nil {
		return nil, err
	}
	begin = time.Now()
	if l.filled, err = s.sync(ctx, largeChannel, fillPoll); err != nil {
		return nil, err
	}
	up.Downloading()
	fmt.Printf("synced %d packages in %.1f s\n", b.records, l.filled.Seconds())
	ctx, cancel := context.WithTimeout(ctx, visiblePatience)
	defer cancel()
	at, _, err := l.changed(ctx, largeIndex, "", fillPoll)
	if err != nil {
		return nil, err
	}
	l.listed = at.Sub(begin)
	if l.peak, err = peakMiB(s.pid()); err != nil {
		return nil, err
	}
	if err := l.verify(ctx); err != nil {
		return nil, err
	}
	return l, l.quiet(ctx)
}

func (l *largeServer) close() error { return errors.Join(l.stop(), l.up.Close()) }

// changed waits until a path answers with another ETag than the given one, and returns when and with what.
func (t target) changed(ctx context.Context, path, etag string, poll time.Duration) (time.Time, []byte, error) {
	for {
		resp, data, err := t.do(ctx, http.MethodGet, path, http.Header{"If-None-Match": {etag}}, nil)
		if err != nil {
			return time.Time{}, nil, err
		}
		at := time.Now()
		switch {
		case resp.StatusCode == http.StatusOK && resp.Header.Get("ETag") != etag:
			return at, data, nil
		case resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusNotModified && resp.StatusCode != http.StatusNotFound:
			return at, nil, fmt.Errorf("%s: %s", path, resp.Status)
		}
		if err := sleep(ctx, poll); err != nil {
			return at, nil, fmt.Errorf("%s: %w", path, err)
		}
	}
}

// etag returns the one that a path has now.
func (t target) etag(ctx context.Context, path string) (string, error) {
	resp, _, err := t.do(ctx, http.MethodHead, path, nil, nil)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("ETag") == "" {
		return "", fmt.Errorf("%s: %s without an ETag", path, resp.Status)
	}
	return resp.Header.Get("ETag"), nil
}

// quiet waits until the server has had next to nothing to do for a while: background work of what was before is over.
func (l *largeServer) quiet(ctx context.Context) error {
	for calm := 0; calm < 3; {
		before, err := cpuOf(l.pid())
		if err != nil {
			return err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		after, err := cpuOf(l.pid())
		if err != nil {
			return err
		}
		used := after.sub(before)
		if calm++; used.self+used.children > 150*time.Millisecond {
			calm = 0
		}
	}
	return nil
}

// verify compares the index that is served with what upstream has, and the bytes of some packages.
func (l *largeServer) verify(ctx context.Context) error {
	_, data, err := l.do(ctx, http.MethodGet, largeIndex, nil, nil)
	if err != nil {
		return err
	}
	dec, err := repodata.NewDecoder(bytes.NewReader(data), repodata.Zstd, repodata.DecodeLimits{})
	if err != nil {
		return err
	}
	defer dec.Close()
	n := 0
	for _, err := range repodata.Records(dec, repodata.ReadOptions{Trusted: true}) {
		if err != nil {
			return err
		}
		n++
	}
	if n != l.up.Len() {
		return fmt.Errorf("the index lists %d packages, upstream has %d", n, l.up.Len())
	}
	for i := 0; i < n; i += max(1, n/50) {
		_, data, err := l.do(ctx, http.MethodGet, "/channels/"+largeChannel+"/linux-64/"+l.up.Filename(i), nil, nil)
		if err != nil {
			return err
		}
		if got := describe("", "", "", data).sha256; got != l.up.Digest(i) {
			return fmt.Errorf("%s has SHA-256 %s in the mirror, %s upstream", l.up.Filename(i), got, l.up.Digest(i))
		}
	}
	return nil
}

// host turns the mirror into a hosted channel, which the API does not do: to upload so many packages would take longer
// than all that is measured.
func (l *largeServer) host(ctx context.Context) error {
	if l.hosted {
		return nil
	}
	socket, err := l.postgresSocket()
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, "postgres:///entrepot?user=entrepot&host="+socket)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `UPDATE channels.channels SET kind = 1, mirror = NULL WHERE name = $1`, largeChannel)
	l.hosted = err == nil
	return err
}

// postgresSocket is the directory in which the server's PostgreSQL listens.
func (s *server) postgresSocket() (string, error) {
	for _, pid := range descendants(s.pid()) {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		list := strings.Split(string(args), "\x00")
		for i := range len(list) - 1 {
			if list[i] == "-k" {
				return list[i+1], nil
			}
		}
	}
	return "", errors.New("the server's PostgreSQL was not found among its processes")
}

// resetPeak makes VmHWM begin anew at what is resident now (proc_pid_clear_refs(5)).
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// largePart measures re-syncs and publications in a channel of very many records.
func (b *bench) largePart(ctx context.Context) (*report, error) {
	l, err := b.largeServer(ctx)
	if err != nil {
		return nil, err
	}
	r := &report{
		Title: "A large channel",
		Load: fmt.Sprintf("one subdir of %d records of some 600 bytes, %d to a name; the upstream makes each package of 1 kB when it is asked for; re-syncs: the upstream answers 304, "+
			"or 200 with the same bytes, or 200 with the same records packed otherwise, or lists 1 %% more packages (new versions over all names; the time from the first request for one "+
			"to the end of the last answer is taken off); then the channel is made a hosted one, and single packages of 2 kB are uploaded, new versions of names that are there, with %v in "+
			"between; the shard index is asked for every %v, repodata.json.zst every %v, with If-None-Match", b.records, sample.LargePerName, largePause, uploadPoll, largeListPoll),
		Durability: l.durability,
		Runs:       1,
	}
	rows := newRows(r)
	rows.add("large: first sync", float64(b.records)/l.filled.Seconds())
	rows.add("large: first sync until repodata.json.zst lists all", l.listed.Seconds())
	rows.add("large: memory, first sync", l.peak)
	if err := resetPeak(l.pid()); err != nil {
		return nil, err
	}
	end := l.profile(b.cpuProfile)
	fmt.Println("re-syncs")
	if err := b.largeResyncs(ctx, l, rows); err != nil {
		return nil, err
	}
	peak, err := peakMiB(l.pid())
	if err != nil {
		return nil, err
	}
	rows.add("large: memory, re-syncs", peak)
	if err := l.quiet(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(l.verify(ctx), l.host(ctx), resetPeak(l.pid())); err != nil {
		return nil, err
	}
	fmt.Println("publications")
	rng := newRand()
	for i := range largePublishes {
		if err := l.publishOne(ctx, i, rng, rows); err != nil {
			return nil, err
		}
		if err := sleep(ctx, largePause); err != nil {
			return nil, err
		}
	}
	if peak, err = peakMiB(l.pid()); err != nil {
		return nil, err
	}
	rows.add("large: memory, publishing", peak)
	return r, end()
}

// largeResyncs syncs an upstream with the same records in three ways, and one with more.
func (b *bench) largeResyncs(ctx context.Context, l *largeServer, rows *rowSet) error {
	same := func(row string, unit time.Duration, prepare func() error) error {
		for range largeResyncs {
			if err := prepare(); err != nil {
				return err
			}
			requests := l.up.Requests()
			before, err := cpuOf(l.pid())
			if err != nil {
				return err
			}
			took, err := l.sync(ctx, largeChannel, syncPoll)
			if err != nil {
				return err
			}
			after, err := cpuOf(l.pid())
			if err != nil {
				return err
			}
			if n := l.up.Requests() - requests; n != 0 {
				return fmt.Errorf("a re-sync without news asked for %d files", n)
			}
			rows.add(row, float64(took)/float64(unit))
			if unit == time.Second {
				used := after.sub(before)
				rows.add("CPU, "+row, (used.self + used.children).Seconds())
			}
		}
		return nil
	}
	if err := same("large: re-sync, 304", time.Millisecond, func() error { return nil }); err != nil {
		return err
	}
	l.up.Forget(true)
	if err := same("large: re-sync, 200, same bytes", time.Second, func() error { return nil }); err != nil {
		return err
	}
	if err := same("large: re-sync, 200, same records", time.Second, l.up.Repack); err != nil {
		return err
	}
	l.up.Forget(false)
	for range largeResyncs {
		more := max(1, b.records/100)
		if err := l.up.Add(more); err != nil {
			return err
		}
		l.up.Downloading()
		requests := l.up.Requests()
		before, err := cpuOf(l.pid())
		if err != nil {
			return err
		}
		took, err := l.sync(ctx, largeChannel, syncPoll)
		if err != nil {
			return err
		}
		after, err := cpuOf(l.pid())
		if err != nil {
			return err
		}
		if n := l.up.Requests() - requests; n != int64(more) {
			return fmt.Errorf("a re-sync with %d new packages asked for %d", more, n)
		}
		downloading := l.up.Downloading()
		used := after.sub(before)
		rows.add("large: re-sync, 1 % new, besides the downloads", (took - downloading).Seconds())
		rows.add("large: re-sync, 1 % new, downloads", downloading.Seconds())
		rows.add("CPU, large: re-sync, 1 % new", (used.self + used.children).Seconds())
		if err := l.quiet(ctx); err != nil {
			return err
		}
	}
	return nil
}

// publishOne uploads a new version of a package, and follows it until both kinds of index show it.
func (l *largeServer) publishOne(ctx context.Context, i int, rng *rand.Rand, rows *rowSet) error {
	ctx, cancel := context.WithTimeout(ctx, visiblePatience)
	defer cancel()
	name, _, _ := strings.Cut(l.up.Filename(i*l.up.Len()/largePublishes/2), "-1.")
	p, err := makeVersion(name, fmt.Sprintf("3.%d", i), rng, 1500)
	if err != nil {
		return err
	}
	shardsTag, err := l.etag(ctx, largeShards)
	if err != nil {
		return err
	}
	indexTag, err := l.etag(ctx, largeIndex)
	if err != nil {
		return err
	}
	before, err := cpuOf(l.pid())
	if err != nil {
		return err
	}
	begin := time.Now()
	var answered, sharded, listed time.Time
	var zst []byte
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := l.upload(gctx, largeChannel, p)
		answered = time.Now()
		return err
	})
	g.Go(func() (err error) {
		sharded, _, err = l.changed(gctx, largeShards, shardsTag, uploadPoll)
		return err
	})
	g.Go(func() (err error) {
		listed, zst, err = l.changed(gctx, largeIndex, indexTag, largeListPoll)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	after, err := cpuOf(l.pid())
	if err != nil {
		return err
	}
	if err := lists(zst, p); err != nil {
		return err
	}
	used := after.sub(before)
	ms := func(at time.Time) float64 { return float64(at.Sub(begin).Microseconds()) / 1000 }
	rows.add("large: upload answered", ms(answered))
	rows.add("large: upload until the shard index shows it", ms(sharded))
	rows.add("large: upload until repodata.json.zst shows it", ms(listed))
	rows.add("CPU, large: upload until repodata.json.zst shows it", float64((used.self + used.children).Milliseconds()))
	return nil
}

// lists checks that a repodata.json.zst has a package, without reading it as JSON.
func lists(zst []byte, p pkg) error {
	dec, err := repodata.NewDecoder(bytes.NewReader(zst), repodata.Zstd, repodata.DecodeLimits{})
	if err != nil {
		return err
	}
	defer dec.Close()
	data, err := io.ReadAll(dec)
	if err != nil {
		return err
	}
	if !bytes.Contains(data, []byte(`"`+p.filename+`":{`)) || !bytes.Contains(data, []byte(p.sha256)) {
		return fmt.Errorf("the first new repodata.json.zst after the upload does not list %s", p.filename)
	}
	return nil
}
