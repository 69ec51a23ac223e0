package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

const (
	// newsPackages is the size of the mirrored channel, newsMore how many more its upstream has each time.
	newsPackages = 1000
	newsMore     = newsPackages / 100
	newsTimes    = 5
)

// newsPart measures syncs of a small mirror whose upstream has a little news, or none.
func (b *bench) newsPart(ctx context.Context) (r *report, err error) {
	r = &report{
		Title: "Mirroring a little news",
		Load: fmt.Sprintf("a mirror of %d packages of 1 kB; in turn its upstream lists 1 %% more, and nothing more, %d times in each run; from the request for a sync until its job has ended, "+
			"asked for every %v; CPU is that of the server with its PostgreSQL", newsPackages, newsTimes, resyncPoll),
	}
	rows := newRows(r)
	for range b.runs {
		if err := b.newsRun(ctx, r, rows); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (b *bench) newsRun(ctx context.Context, r *report, rows *rowSet) (err error) {
	up, err := sample.ServeLarge(newsPackages, seed())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, up.Close()) }()
	s, err := b.startServer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if r.Durability, err = s.durability(); err != nil {
		return err
	}
	if err := s.createMirror(ctx, "news", up.URL); err != nil {
		return err
	}
	if _, err := s.sync(ctx, "news", syncPoll); err != nil {
		return err
	}
	for range newsTimes {
		for _, c := range []struct {
			row  string
			more int
		}{{"sync of 1,000, 1 % new", newsMore}, {"sync of 1,000, nothing changed", 0}} {
			if err := sleep(ctx, time.Second); err != nil { // the index files of the sync before
				return err
			}
			if c.more > 0 {
				if err := up.Add(c.more); err != nil {
					return err
				}
			}
			requests := up.Requests()
			before, err := cpuOf(s.pid())
			if err != nil {
				return err
			}
			took, err := s.sync(ctx, "news", resyncPoll)
			if err != nil {
				return err
			}
			after, err := cpuOf(s.pid())
			if err != nil {
				return err
			}
			if n := up.Requests() - requests; n != int64(c.more) {
				return fmt.Errorf("%s: %d packages were asked for", c.row, n)
			}
			used := after.sub(before)
			rows.add(c.row, float64(took.Microseconds())/1000)
			rows.add("CPU, "+c.row, float64((used.self + used.children).Milliseconds()))
		}
	}
	return nil
}
