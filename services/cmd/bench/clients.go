package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// clientsPart measures many clients that fetch one index at the same time: what a server needs for that must not depend
// on the size of what it sends.
func (b *bench) clientsPart(ctx context.Context) (*report, error) {
	l, err := b.largeServer(ctx)
	if err != nil {
		return nil, err
	}
	r := &report{
		Title: "Many clients",
		Load: fmt.Sprintf("%d clients, each with a connection of its own, fetch the same index of %d records at the same time and read it to the end; they run in the benchmark's process on the "+
			"same machine; every answer's SHA-256 is compared for one client in a hundred, its length for all", b.clients, l.up.Len()),
		Durability: l.durability,
		Runs:       1,
	}
	rows := newRows(r)
	if err := l.quiet(ctx); err != nil {
		return nil, err
	}
	for _, what := range []struct{ name, path string }{
		{"shard index", largeShards}, {"repodata.json.zst", largeIndex},
	} {
		resp, data, err := l.do(ctx, http.MethodGet, what.path, nil, nil)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", what.path, resp.Status)
		}
		r.Notes = append(r.Notes, fmt.Sprintf("%s: %s bytes", what.name, number(float64(len(data)))))
		for range largeResyncs {
			if err := b.crowd(ctx, l, what.name, what.path, int64(len(data)), sha256.Sum256(data), rows); err != nil {
				return nil, fmt.Errorf("%s: %w", what.path, err)
			}
		}
	}
	return r, nil
}

// crowd lets all clients fetch a path at once.
func (b *bench) crowd(ctx context.Context, l *largeServer, name, path string, size int64, sum [32]byte, rows *rowSet) error {
	if err := resetPeak(l.pid()); err != nil {
		return err
	}
	before, err := peakMiB(l.pid())
	if err != nil {
		return err
	}
	used, err := cpuOf(l.pid())
	if err != nil {
		return err
	}
	transport := &http.Transport{MaxIdleConnsPerHost: b.clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for i := range b.clients {
		g.Go(func() error {
			return l.fetchWhole(gctx, &http.Client{Transport: transport}, path, size, sum, i%100 == 0)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	took := time.Since(begin)
	after, err := cpuOf(l.pid())
	if err != nil {
		return err
	}
	peak, err := peakMiB(l.pid())
	if err != nil {
		return err
	}
	cpu := after.sub(used)
	rows.add("memory before, "+name, before)
	rows.add("memory with all clients, "+name, peak)
	rows.add("rate, "+name, float64(b.clients)/took.Seconds())
	rows.add("throughput, "+name, float64(size)*float64(b.clients)/took.Seconds()/(1<<20))
	rows.add("CPU per answer, "+name, float64((cpu.self+cpu.children).Microseconds())/1000/float64(b.clients))
	return nil
}

// fetchWhole reads an answer to its end and checks it.
func (t target) fetchWhole(ctx context.Context, c *http.Client, path string, size int64, sum [32]byte, digest bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-API-Key", t.key)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	h := sha256.New()
	var to io.Writer = io.Discard
	if digest {
		to = h
	}
	n, err := io.Copy(to, resp.Body)
	switch {
	case err != nil:
		return err
	case n != size:
		return fmt.Errorf("%d bytes instead of %d", n, size)
	case digest && [32]byte(h.Sum(nil)) != sum:
		return errors.New("other bytes than before")
	}
	return nil
}
