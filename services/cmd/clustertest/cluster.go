package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/jackc/pgx/v5"
)

// node is one process of the platform.
type node struct {
	name, target string
	place
	proc                        *process
	http, grpc, rpc, bytes, ops string
	previous                    int // processes that it had before this one, killed or stopped
}

func (n *node) url() string { return "http://" + n.http }

// targets of the cluster by name. The order of the table.
var targets = []struct{ name, target string }{
	{"gateway-1", "gateway"},
	{"gateway-2", "gateway"},
	{"channels", "channels"},
	{"sync-1", "sync"},
	{"sync-2", "sync"},
	{"identity", "identity"},
	{"storage", "storage"},
	{"jobs", "jobs"},
	{"metrics", "metrics"},
	{"sync-worker-1", "sync-worker"},
	{"sync-worker-2", "sync-worker"},
	{"channels-worker", "channels-worker"},
	{"storage-worker", "storage-worker"},
}

// syncs are the fetch planes. Their gRPC service is one name where a balancer stands in front of them; here each process
// whose own name ends with 2 calls the second, and all others the first.
var syncs = []string{"sync-1", "sync-2"}

// cluster is the platform in processes.
type cluster struct {
	launcher *launcher
	root     string            // of all directories
	bin      string            // entrepot
	configs  map[string]string // YAML files by the sync whose gRPC port they name
	secret   string
	parts    *parts
	nodes    map[string]*node
	order    []string
}

// leaseTTL is short, so that a killed worker's job does not keep the test waiting; drain and drainDelay likewise.
const (
	leaseTTL   = 5 * time.Second
	drain      = 3 * time.Second
	drainDelay = 500 * time.Millisecond
)

func newCluster(l *launcher, root, bin string, p *parts) (*cluster, error) {
	c := &cluster{launcher: l, root: root, bin: bin, configs: map[string]string{}, secret: "cluster-test-target-secret", parts: p, nodes: map[string]*node{}}
	ports, err := freePorts(5 * len(targets))
	if err != nil {
		return nil, err
	}
	services := map[string]string{}
	for _, t := range targets {
		n := &node{name: t.name, target: t.target}
		n.http, n.grpc, n.rpc, n.bytes, n.ops = ports[0], ports[1], ports[2], ports[3], ports[4]
		ports = ports[5:]
		if n.place, err = newPlace(root, t.name); err != nil {
			return nil, err
		}
		if t.name == t.target && !strings.HasSuffix(t.target, "-worker") {
			services[t.name] = n.rpc
		}
		c.nodes[t.name], c.order = n, append(c.order, t.name)
	}
	var planes []string
	for _, name := range syncs {
		planes = append(planes, "http://"+c.nodes[name].bytes)
	}
	settings := map[string]any{
		"services": services, "data_url": "http://" + c.nodes["storage"].bytes, "dial_tcp": true,
		"fetch_urls":      planes,
		"master_key_file": filepath.Join(root, "master-key"),
		"egress_allow":    []string{"127.0.0.0/8"}, "database_conns": 8,
		"jobs":        map[string]any{"lease_ttl": leaseTTL.String(), "drain": drain.String()},
		"drain_delay": drainDelay.String(),
	}
	for _, name := range syncs {
		services["sync"] = c.nodes[name].rpc
		text, err := yaml.Marshal(settings)
		if err != nil {
			return nil, err
		}
		c.configs[name] = filepath.Join(root, "entrepot-"+name+".yaml")
		if err := os.WriteFile(c.configs[name], text, 0o600); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// env is what every process gets to know: where the parts are, and their passwords.
func (c *cluster) env(name string, p place) []string {
	config := c.configs[syncs[0]]
	if strings.HasSuffix(name, "2") {
		config = c.configs[syncs[1]]
	}
	return p.env("ENTREPOT_DATABASE_URL="+c.parts.postgres.url, "ENTREPOT_NATS_URL="+c.parts.nats.url, "ENTREPOT_BLOB_URL="+c.parts.s3.url,
		"ENTREPOT_TARGET_SECRET="+c.secret, "ENTREPOT_CONFIG="+config)
}

// migrate brings the schemas up, as an installation does before the first start.
func (c *cluster) migrate() error {
	at, err := newPlace(c.root, "migrate")
	if err != nil {
		return err
	}
	p, err := c.launcher.start(command{name: "migrate", args: []string{c.bin, "migrate", "up", "--data-dir", at.data}, dir: at.work, env: c.env("migrate", at), log: filepath.Join(c.root, "migrate.log")})
	if err != nil {
		return err
	}
	code, err := p.wait(time.Minute)
	if err == nil && code != 0 {
		err = fmt.Errorf("entrepot migrate up ended with code %d:\n%s", code, tail(p.log, 20))
	}
	return err
}

func (c *cluster) start(name string) (err error) {
	n := c.nodes[name]
	n.proc, err = c.launcher.start(command{
		name: name, dir: n.work, env: c.env(name, n.place), log: filepath.Join(c.root, name+".log"),
		args: []string{
			c.bin, "serve", "--target", n.target, "--data-dir", n.data, "--http-addr", n.http, "--grpc-addr", n.grpc,
			"--service-addr", n.rpc, "--data-addr", n.bytes, "--ops-addr", n.ops,
		},
	})
	return err
}

// restart starts a process anew that has ended.
func (c *cluster) restart(name string) error {
	if c.nodes[name].proc.running() {
		return fmt.Errorf("%s still runs", name)
	}
	c.nodes[name].previous++
	return c.start(name)
}

// allReady waits until every node that runs is ready.
func (c *cluster) allReady(ctx context.Context, within time.Duration) error {
	deadline := time.Now().Add(within)
	for _, name := range c.order {
		n := c.nodes[name]
		for {
			if !n.proc.running() {
				return fmt.Errorf("%s has ended:\n%s", name, tail(n.proc.log, 20))
			}
			h := probe(ctx, "http://"+n.ops+"/healthz/ready")
			if h.status == http.StatusOK {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s is not ready after %s: %s", name, within, h)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return nil
}

// query asks the database for one value.
func query[T any](ctx context.Context, c *cluster, sql string, args ...any) (T, error) {
	var none T
	conn, err := pgx.Connect(ctx, c.parts.postgres.url)
	if err != nil {
		return none, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return none, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
}

// workerOf waits until a worker runs the sync, and returns its node: a runner's name is <host>/<process>/<random>.
func (c *cluster) workerOf(ctx context.Context, job string) (*node, error) {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		runner, err := query[string](ctx, c, `
			SELECT l.runner FROM jobs.leases l JOIN jobs.jobs j ON j.id = l.job AND j.claim = l.claim
			WHERE j.state = 'running' AND j.seq = $1::bigint AND l.expires_at > now()`, job)
		if err == nil {
			for _, name := range c.order {
				if parts := strings.Split(runner, "/"); len(parts) > 1 && parts[1] == fmt.Sprint(c.nodes[name].proc.pid()) {
					return c.nodes[name], nil
				}
			}
		} else if !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no worker of ours runs job %s (%q, %v)", job, runner, err)
		}
	}
}

// adminKey reads the key that identity wrote at its first start.
func (c *cluster) adminKey() (string, error) {
	key, err := os.ReadFile(filepath.Join(c.nodes["identity"].data, "admin-key"))
	return strings.TrimSpace(string(key)), err
}

// answer is what a probe got.
type answer struct {
	status int // 0 if there was none
	body   string
	err    error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s", a.status, strings.TrimSpace(a.body))
}

// prober sends probes as an orchestrator does: each on a connection of its own, with two seconds' patience.
var prober = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func probe(ctx context.Context, url string) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	resp, err := prober.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return answer{resp.StatusCode, string(data), err}
}
