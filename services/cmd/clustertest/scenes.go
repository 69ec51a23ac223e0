package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
)

// runDemo runs `entrepot demo` against the balancer, as a person elsewhere would, and wants it to hold.
func (s *stage) runDemo(ctx context.Context, name string, more ...string) (*process, error) {
	at, err := newPlace(s.root, name)
	if err != nil {
		return nil, err
	}
	return s.launcher.start(command{
		name: name, dir: at.work, log: filepath.Join(s.root, name+".log"),
		env:  at.env("ENTREPOT_API_KEY=" + s.key),
		args: append([]string{s.bin, "demo", "--exit", "--server", s.front.url()}, more...),
	})
}

func (s *stage) demoHeld(p *process) error {
	code, err := p.wait(2 * time.Minute)
	if err != nil {
		return err
	}
	said := tail(p.log, 40)
	if code != 0 || !strings.Contains(said, "Everything held") {
		return fmt.Errorf("'entrepot demo --server' ended with code %d:\n%s", code, said)
	}
	return nil
}

// demo is the scenario undisturbed: uploads into a hosted channel, a mirror, every byte and listing compared.
func (s *stage) demo(ctx context.Context) error {
	p, err := s.runDemo(ctx, "demo")
	if err != nil {
		return err
	}
	if err := s.demoHeld(p); err != nil {
		return err
	}
	s.say("the demo's scenario held, through both gateways")
	return nil
}

// mirrored is how many packages a slow upstream has.
const mirrored = 120

// slowUpstream serves a sample channel, each package after a while.
func (s *stage) slowUpstream(name string, seed uint64, delay time.Duration) (*scenario.Upstream, error) {
	ch, err := sample.Build(filepath.Join(s.root, "upstream-"+name), sample.Options{Seed: seed, Packages: mirrored, Tiny: true})
	if err != nil {
		return nil, err
	}
	return scenario.Serve(ch, "127.0.0.1", delay)
}

// killInMidSync runs the scenario once more while a gateway and the worker that has the job are killed.
func (s *stage) killInMidSync(ctx context.Context) error {
	up, err := s.slowUpstream("kill", 21, 500*time.Millisecond)
	if err != nil {
		return err
	}
	defer up.Close()
	p, err := s.runDemo(ctx, "demo-kill", "--upstream", up.URL)
	if err != nil {
		return err
	}
	if _, err := up.AwaitFiles(ctx, mirrored/6); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(p.log, 20))
	}
	job, err := query[string](ctx, s.cluster, "SELECT seq::text FROM jobs.jobs WHERE kind = 'sync.channel' AND state = 'running'")
	if err != nil {
		return fmt.Errorf("the running sync: %w", err)
	}
	worker, err := s.workerOf(ctx, job)
	if err != nil {
		return err
	}
	s.reader.Tolerate(true)
	worker.proc.kill()
	before := up.AllFiles()
	s.say("killed %s after %d of %d files", worker.name, before, mirrored)
	gateway := s.nodes["gateway-1"]
	gateway.proc.kill()
	s.say("killed gateway-1")
	up.SetDelay(50 * time.Millisecond)
	if err := s.demoHeld(p); err != nil {
		return err
	}
	after := up.AllFiles() - before
	if after == 0 {
		return fmt.Errorf("no file was fetched after the worker was killed, at %d of %d", before, mirrored)
	}
	s.say("the other worker ended the job with %d more files, the demo went on through gateway-2, and held", after)
	for _, name := range []string{worker.name, gateway.name} {
		if err := s.restart(name); err != nil {
			return err
		}
	}
	if err := s.allReady(ctx, 20*time.Second); err != nil {
		return err
	}
	s.reader.Tolerate(false)
	s.say("both are back")
	return nil
}

// revokeWithin is the bound of design decision D13.
const revokeWithin = 5 * time.Second

// revoke takes a key away that both gateways have just taken, then another one while NATS stands still.
func (s *stage) revoke(ctx context.Context) error {
	private := true
	if _, err := s.client.CreateChannel(ctx, &channelsv1.CreateChannelRequest{Name: secretName, Private: &private}); err != nil {
		return err
	}
	if err := scenario.Upload(ctx, s.client, secretName, s.busy, s.busy.Files[2]); err != nil {
		return err
	}
	for _, frozen := range []bool{false, true} {
		key, err := s.makeKey(ctx)
		if err != nil {
			return err
		}
		for _, name := range []string{"gateway-1", "gateway-2"} {
			if status := s.asks(ctx, s.nodes[name], key); !slices.Equal(status, []int{http.StatusOK, http.StatusOK}) {
				return fmt.Errorf("a new key is answered %d by %s", status, name)
			}
		}
		when := ""
		if frozen {
			s.reader.Tolerate(true)
			s.parts.nats.freeze()
			when = " while NATS stands still"
		}
		began := time.Now()
		if err := s.deleteKey(ctx, key); err != nil {
			return err
		}
		for _, name := range []string{"gateway-1", "gateway-2"} {
			for {
				status := s.asks(ctx, s.nodes[name], key)
				if !slices.ContainsFunc(status, func(code int) bool { return code < 400 || code >= 500 }) {
					break
				}
				if time.Since(began) > revokeWithin {
					return fmt.Errorf("%s answers %d to a key that was revoked %s ago%s", name, status, time.Since(began).Round(time.Millisecond), when)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		s.say("a revoked key was refused by both gateways after %s%s", time.Since(began).Round(time.Millisecond), when)
		if frozen {
			s.parts.nats.thaw()
			if err := s.allReady(ctx, healWithin); err != nil {
				return err
			}
			s.reader.Tolerate(false)
		}
	}
	return nil
}

// rest sends a request with a key to a gateway.
func (s *stage) rest(ctx context.Context, method, url, key string, body any) (int, []byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(data))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-API-Key", key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err = io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}

// makeKey makes an API key that may do what the administrator may.
func (s *stage) makeKey(ctx context.Context) (string, error) {
	status, data, err := s.rest(ctx, http.MethodPost, s.front.url()+"/api/api-keys", s.key, map[string]any{"description": "to be revoked", "roles": []any{}})
	if err != nil || status/100 != 2 {
		return "", fmt.Errorf("make an API key: %d %s %w", status, data, err)
	}
	var made struct {
		Key string `json:"key"`
	}
	return made.Key, json.Unmarshal(data, &made)
}

func (s *stage) deleteKey(ctx context.Context, key string) error {
	status, data, err := s.rest(ctx, http.MethodDelete, s.front.url()+"/api/api-keys/"+key, s.key, nil)
	if err != nil || status/100 != 2 {
		return fmt.Errorf("revoke an API key: %d %s %w", status, data, err)
	}
	return nil
}

// secretName is a private channel.
const secretName = "secret"

// asks returns the statuses with which a gateway answers a key: for what identity decides, and for a file of a private
// channel, which the gateway decides by itself. 0 is no answer.
func (s *stage) asks(ctx context.Context, n *node, key string) []int {
	var out []int
	for _, path := range []string{"/api/me", "/channels/" + secretName + "/" + s.busy.Files[2].Path} {
		status, _, err := s.rest(ctx, http.MethodGet, n.url()+path, key, nil)
		if err != nil {
			status = 0
		}
		out = append(out, status)
	}
	return out
}

// events opens a job's event stream at a gateway; lines yields each line, and is closed with the stream.
func (s *stage) events(ctx context.Context, n *node, job string) (lines <-chan string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url()+"/entrepot/v1/jobs/"+job+"/events", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-API-Key", s.key)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("events of job %s: %s", job, resp.Status)
	}
	out := make(chan string, 1024)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
			select {
			case out <- sc.Text():
			default: // nobody reads so much; what counts is the end
			}
		}
	}()
	return out, nil
}

// succeeded follows a job to its end, which must be a good one.
func (s *stage) succeeded(ctx context.Context, job string) error {
	ended, err := s.client.Follow(ctx, job, func(*jobsv1.JobEvent) {})
	if err != nil {
		return err
	}
	if ended.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED {
		return fmt.Errorf("job %s ended as %v: %s", job, ended.GetState(), ended.GetError())
	}
	return nil
}

// oneProcess asks the same of `entrepot serve`, whose PostgreSQL is its own.
func (s *stage) oneProcess(ctx context.Context) error {
	// Too long for the path of a socket: that is somewhere else then, and must be there again after a crash.
	at, err := newPlace(s.root, "all-in-one-process-"+strings.Repeat("long-", 15))
	if err != nil {
		return err
	}
	ports, err := freePorts(5)
	if err != nil {
		return err
	}
	p, err := s.launcher.start(command{
		name: "all", dir: at.work, env: at.env("ENTREPOT_PG_BIN=" + os.Getenv("ENTREPOT_PG_BIN")), log: filepath.Join(s.root, "all.log"),
		args: []string{
			s.bin, "serve", "--data-dir", at.data, "--http-addr", ports[0], "--grpc-addr", ports[1],
			"--service-addr", ports[2], "--data-addr", ports[3], "--ops-addr", ports[4],
		},
	})
	if err != nil {
		return err
	}
	n := &node{name: "all", target: "all", place: at, proc: p, http: ports[0], ops: ports[4]}
	if err := ready(ctx, n, 30*time.Second); err != nil {
		return err
	}
	leader := func() (int, error) { return postmaster(filepath.Join(at.data, "postgres")) }
	for _, f := range []struct {
		what       string
		break_     func(pid int) error
		heal       func(pid int) error
		healItself bool
	}{
		{"stands still", func(pid int) error { return freeze(pid, true) }, thaw, false},
		{"takes no connections", func(pid int) error { return freeze(pid, false) }, thaw, false},
		{"was killed", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }, nil, true},
	} {
		pid, err := leader()
		if err != nil {
			return err
		}
		if err := f.break_(pid); err != nil {
			return err
		}
		sick, err := unready(ctx, []*node{n}, "postgres", !f.healItself)
		if err != nil {
			return fmt.Errorf("the private PostgreSQL %s: %w", f.what, err)
		}
		if f.heal != nil {
			time.Sleep(time.Second)
			if err := f.heal(pid); err != nil {
				return err
			}
		}
		healed := time.Now()
		if err := ready(ctx, n, healWithin); err != nil {
			return fmt.Errorf("the private PostgreSQL %s, and is well again: %w", f.what, err)
		}
		s.say("serve: the private PostgreSQL %s: not ready %s, ready again %s", f.what, sick, ms(time.Since(healed)))
	}
	took, err := p.stop(20 * time.Second)
	if err != nil {
		return err
	}
	s.say("serve: stopped in %s", ms(took))
	return nil
}
