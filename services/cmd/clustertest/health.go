package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// sickWithin is how soon after a fault the readiness of who needs the part has to name it.
	sickWithin = 2 * time.Second
	// healWithin is how soon after healing everything has to be ready again.
	healWithin = 5 * time.Second
	// holdFault is how long a fault lasts at least: longer than sickWithin, so that who stays ready is seen to.
	holdFault = 2500 * time.Millisecond
)

func ms(d time.Duration) string { return d.Round(time.Millisecond).String() }

// ready waits until a node is ready, at all the addresses that tell.
func ready(ctx context.Context, n *node, within time.Duration) error {
	began := time.Now()
	for {
		var bad []string
		for _, url := range n.readyURLs() {
			if a := probe(ctx, url); a.status != http.StatusOK {
				bad = append(bad, url+": "+a.String())
			}
		}
		if len(bad) == 0 {
			return nil
		}
		if !n.proc.running() {
			return fmt.Errorf("%s has ended:\n%s", n.name, tail(n.proc.log, 20))
		}
		if time.Since(began) > within {
			return fmt.Errorf("%s is not ready after %s: %s", n.name, within, strings.Join(bad, "; "))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (n *node) readyURLs() []string {
	urls := []string{"http://" + n.ops + "/healthz/ready"}
	if n.target == "gateway" || n.target == "all" {
		urls = append(urls, n.url()+"/health/ready")
	}
	return urls
}

func (n *node) liveURLs() []string {
	urls := []string{"http://" + n.ops + "/healthz/live"}
	if n.target == "gateway" || n.target == "all" {
		urls = append(urls, n.url()+"/health/live")
	}
	return urls
}

// unready is called right after a fault. It wants every node to say 503 within two seconds, on the operations address
// with the part's name, and to be alive at every moment. It returns how long the slowest took. Unless the part is back by
// then, what was not ready has to stay so.
func unready(ctx context.Context, nodes []*node, part string, lasting bool) (string, error) {
	began := time.Now()
	var mu sync.Mutex
	var slowest time.Duration
	var errs []error
	fail := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, fmt.Errorf(format, args...))
	}
	var asking sync.WaitGroup
	for _, n := range nodes {
		for _, url := range n.readyURLs() {
			asking.Go(func() {
				var last answer
				for {
					last = probe(ctx, url)
					took := time.Since(began)
					if took > sickWithin {
						fail("%s: %s after the fault %s says: %s", n.name, ms(took), url, last)
						return
					}
					if last.status == http.StatusServiceUnavailable && (!strings.Contains(url, "/healthz/") || strings.Contains(last.body, part)) {
						mu.Lock()
						slowest = max(slowest, took)
						mu.Unlock()
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
				if last = probe(ctx, url); lasting && last.status != http.StatusServiceUnavailable {
					fail("%s: %s says, although %s is still away: %s", n.name, url, part, last)
				}
			})
		}
		for _, url := range n.liveURLs() {
			asking.Go(func() {
				for time.Since(began) < sickWithin {
					asked := time.Now()
					if a := probe(ctx, url); a.status != http.StatusOK || time.Since(asked) > time.Second {
						fail("%s: %s says, after %s: %s", n.name, url, ms(time.Since(asked)), a)
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
	}
	asking.Wait()
	return ms(slowest), errors.Join(errs...)
}

// trouble is one way to break a part.
type trouble struct {
	what         string
	break_, heal func(context.Context) error
}

// health breaks a part in several ways, and looks at everybody each time.
func (s *stage) health(ctx context.Context, part string, spared []string, troubles ...trouble) error {
	var need, others []*node
	for _, name := range s.order {
		if n := s.nodes[name]; slices.Contains(spared, n.target) {
			others = append(others, n)
		} else {
			need = append(need, n)
		}
	}
	for _, f := range troubles {
		s.reader.Tolerate(true)
		if err := f.break_(ctx); err != nil {
			return err
		}
		began := time.Now()
		var watching sync.WaitGroup
		var spoilt error
		stop := make(chan struct{})
		watching.Go(func() { spoilt = staysReady(ctx, others, stop) })
		sick, err := unready(ctx, need, part, true)
		time.Sleep(s.hold - time.Since(began))
		close(stop)
		watching.Wait()
		if err := errors.Join(err, spoilt); err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
		if err := f.heal(ctx); err != nil {
			return err
		}
		healed := time.Now()
		for _, name := range s.order {
			if err := ready(ctx, s.nodes[name], healWithin-time.Since(healed)); err != nil {
				return fmt.Errorf("%s, and is well again since %s: %w", f.what, ms(time.Since(healed)), err)
			}
		}
		note := ""
		if len(others) > 0 {
			note = fmt.Sprintf("; %d that do not need it stayed ready", len(others))
		}
		s.say("%s: %d processes not ready within %s, all ready again %s after healing%s", f.what, len(need), sick, ms(time.Since(healed)), note)
		s.reader.Tolerate(false)
		time.Sleep(300 * time.Millisecond) // of undisturbed reading
	}
	return nil
}

// staysReady asks until stop is closed.
func staysReady(ctx context.Context, nodes []*node, stop <-chan struct{}) error {
	for {
		for _, n := range nodes {
			for _, url := range n.readyURLs() {
				if a := probe(ctx, url); a.status != http.StatusOK {
					return fmt.Errorf("%s does not need what is away, but %s says: %s", n.name, url, a)
				}
			}
		}
		select {
		case <-stop:
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *stage) healthOfPostgres(ctx context.Context) error {
	on := func(f func(pid int) error) func(context.Context) error {
		return func(context.Context) error {
			pid, err := s.parts.postgres.pid()
			if err != nil {
				return err
			}
			return f(pid)
		}
	}
	return s.health(ctx, "postgres", nil,
		trouble{"PostgreSQL stands still", on(func(pid int) error { return freeze(pid, true) }), on(thaw)},
		trouble{"PostgreSQL takes no connections", on(func(pid int) error { return freeze(pid, false) }), on(thaw)},
		trouble{"PostgreSQL was killed", func(context.Context) error { return s.parts.postgres.kill() }, s.parts.postgres.start},
	)
}

func (s *stage) healthOfNATS(ctx context.Context) error {
	return s.healthOfPart(ctx, "nats", "NATS", s.parts.nats, nil)
}

func (s *stage) healthOfS3(ctx context.Context) error {
	// Those touch no blob. A gateway does, through storage.
	return s.healthOfPart(ctx, "blobs", "the S3 server", s.parts.s3, []string{"identity", "jobs", "metrics"})
}

func (s *stage) healthOfPart(ctx context.Context, name, title string, p *part, spared []string) error {
	return s.health(ctx, name, spared,
		trouble{title + " stands still", func(context.Context) error { p.freeze(); return nil }, func(context.Context) error { p.thaw(); return nil }},
		trouble{title + " was killed", func(context.Context) error { return p.kill() }, p.start},
	)
}
