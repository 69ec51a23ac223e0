package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// apiConnections is how many the reference's figures were measured with.
	apiConnections = 8
	// apiPackages make a repodata.json of the size that the reference's figures were measured with, 970 kB.
	apiPackages = 5800
)

// apiPart measures what clients ask most often besides packages: a channel by API, health, a small package, an index.
func (b *bench) apiPart(ctx context.Context) (r *report, err error) {
	s, err := b.startServer(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r = &report{
		Title: "Reads by API",
		Load: fmt.Sprintf("wrk, %d threads, %d connections with keep-alive, %v for each measurement, on the same machine; one URL at a time, warm; a public channel of %d packages; X-API-Key on every request; "+
			"metrics and traces as by default; CPU is that of the server with its PostgreSQL", wrkThreads, apiConnections, b.duration, apiPackages),
	}
	if r.Durability, err = s.durability(); err != nil {
		return nil, err
	}
	const channel = "reads"
	if err := b.fillWith(ctx, s.target, channel, apiPackages); err != nil {
		return nil, err
	}
	small, err := makeSized("small", newRand(), 2600)
	if err != nil {
		return nil, err
	}
	if err := s.upload(ctx, channel, small); err != nil {
		return nil, err
	}
	index := "/get/" + channel + "/" + subdir + "/repodata.json"
	if _, err := s.follow(ctx, index+".zst", fillPoll, func(data []byte) (bool, error) {
		files, err := filesOf(data)
		return files[small.filename], err
	}); err != nil {
		return nil, err
	}
	if err := sleep(ctx, idleTime); err != nil { // further index files are made
		return nil, err
	}
	rows := newRows(r)
	rows.goals = map[string]goal{}
	end := s.profile(b.cpuProfile)
	for _, c := range []struct {
		name, path, accept string
		quetz              float64 // requests/s
		times              float64
		quetzCPU           float64 // ms
	}{
		{"a channel", "/api/channels/" + channel, "", 78, 50, 5.4},
		{"a package's page", "/api/channels/" + channel + "/packages/small", "", 0, 0, 0},
		{"/health/live", "/health/live", "", 269, 50, 0},
		{"/health/ready", "/health/ready", "", 269, 50, 0},
		{"a package of 2.6 kB", "/get/" + channel + "/" + small.subdir + "/" + small.filename, "", 102, 100, 5.9},
		{"repodata.json, plain", index, "identity", 30, 100, 0},
		{"repodata.json, gzip", index, "gzip", 110, 100, 0},
	} {
		rate, cpu := goal{unit: "requests/s"}, goal{unit: "µs"}
		if c.quetz > 0 {
			rate.atLeast, rate.beside = c.quetz*c.times, fmt.Sprintf("Quetz %v", c.quetz)
		}
		if c.quetzCPU > 0 {
			cpu.atMost, cpu.beside = c.quetzCPU*1000/50, fmt.Sprintf("Quetz %s", number(c.quetzCPU*1000))
		}
		rows.goals[c.name], rows.goals["p99, "+c.name], rows.goals["CPU per request, "+c.name] = rate, goal{unit: "ms"}, cpu
		size, err := s.answers(ctx, c.path, c.accept)
		if err != nil {
			return nil, err
		}
		r.Notes = append(r.Notes, fmt.Sprintf("%s: %s bytes", c.name, number(float64(size))))
		for run := -1; run < b.runs; run++ { // the first one warms
			duration := b.duration
			if run < 0 {
				duration = time.Second
			}
			l, err := wrkRun(ctx, s.pid(), s.url+c.path, map[string]string{"X-API-Key": s.key, "Accept-Encoding": c.accept}, apiConnections, duration)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if run < 0 {
				continue
			}
			rows.add(c.name, l.rate)
			rows.add("p99, "+c.name, l.p99)
			rows.add("CPU per request, "+c.name, l.cpu)
		}
	}
	return r, end()
}

// answers asks once, looks whether the answer is whole, and returns its length.
func (t target) answers(ctx context.Context, path, accept string) (int, error) {
	header := http.Header{}
	if accept != "" {
		header.Set("Accept-Encoding", accept)
	}
	resp, data, err := t.do(ctx, http.MethodGet, path, header, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || len(data) == 0 {
		return 0, fmt.Errorf("%s: %s, %d bytes", path, resp.Status, len(data))
	}
	if coding := resp.Header.Get("Content-Encoding"); accept == "gzip" && coding != "gzip" || accept != "gzip" && coding != "" {
		return 0, fmt.Errorf("%s with Accept-Encoding %q: Content-Encoding %q", path, accept, coding)
	}
	if accept == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return 0, err
		}
		if _, err := io.Copy(io.Discard, z); err != nil {
			return 0, err
		}
	}
	return len(data), nil
}
