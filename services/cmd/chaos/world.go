package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// world is a platform in a directory of its own, with the pools and clients by which a scenario looks at it.
type world struct {
	r    *run
	dir  string
	dsn  string
	pool *pgxpool.Pool
	url  string // of the edge
	rest *restclient.Client
	jobs *jobs.Client
	user authn.Caller

	mu    sync.Mutex
	procs map[string]*proc
	files map[string]string // settings by process
	flags map[string][]string
	ports map[string]string

	reader *reader
	asked  []asked // the jobs that must come out right
	next   int
}

// asked is a job whose enqueueing was confirmed.
type asked struct {
	id   string
	args ledgerArgs
}

// setting is a line of a process's YAML file.
type setting struct{ key, value string }

const (
	workerSlots = 6
	secret      = "chaos-target-secret-0123456789"
)

// newWorld makes the directory. Close removes it with everything in it, and ends its processes.
func (r *run) newWorld() (*world, error) {
	dir := filepath.Join(r.opts.root, r.tag())
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	w := &world{r: r, dir: dir, procs: map[string]*proc{}, files: map[string]string{}, flags: map[string][]string{}, ports: map[string]string{}}
	r.onClose(w.close)
	return w, nil
}

// splitOptions say what a world of separate processes is like.
type splitOptions struct {
	lease   time.Duration
	workers int
	slots   int
	// secondChannels runs another channels service for the second worker.
	secondChannels bool
	// clocks are wrong, by process.
	clocks map[string]time.Duration
	// blobs is where blobs are; empty means <dir>/blobs.
	blobs string
}

// split starts NATS, the services and workers as processes of their own, over a database of the shared server.
func (r *run) split(ctx context.Context, o splitOptions) (*world, error) {
	w, err := r.newWorld()
	if err != nil {
		return nil, err
	}
	if o.lease == 0 {
		o.lease = 2 * time.Second
	}
	if o.slots == 0 {
		o.slots = workerSlots
	}
	if w.dsn, err = r.opts.pg.create(ctx, r.tag()); err != nil {
		return nil, err
	}
	blobs := o.blobs
	if blobs == "" {
		blobs = filepath.Join(w.dir, "blobs")
	}
	common := []setting{
		{"database_url", w.dsn},
		{"nats_url", "nats://" + w.addr("nats")},
		{"blob_url", blobs},
		{"target_secret", secret},
		{"master_key_file", filepath.Join(w.dir, "master-key")},
		{"egress_allow", "[127.0.0.0/8]"},
		{"database_conns", "12"},
		{"jobs.lease_ttl", o.lease.String()},
		{"log.level", "info"},
	}
	if err := w.startNATS(ctx); err != nil {
		return nil, err
	}
	w.settings("services", append(slices.Clone(common),
		setting{"target", "[" + strings.Join(serviceTargets(), ", ") + "]"},
		setting{"http_addr", w.addr("http")}, setting{"grpc_addr", w.addr("grpc")},
		setting{"service_addr", w.addr("service")}, setting{"data_addr", w.addr("data")}, setting{"ops_addr", w.addr("ops")}), o.clocks["services"], o.slots)
	if err := w.start(ctx, "services"); err != nil {
		return nil, err
	}
	if err := w.connect(ctx, filepath.Join(w.dir, "services", "admin-key")); err != nil {
		return nil, err
	}
	var others []string
	if o.secondChannels {
		w.settings("channels", append(append(slices.Clone(common), w.addresses("service2")...), setting{"target", "[channels]"},
			setting{"service_addr", w.addr("service2")}, setting{"ops_addr", w.addr("ops2")}), o.clocks["channels"], o.slots)
		others = append(others, "channels")
	}
	for i := range o.workers {
		name := "worker-" + strconv.Itoa(i+1)
		channels := "service"
		if o.secondChannels && i == 1 {
			channels = "service2"
		}
		w.settings(name, append(append(slices.Clone(common), w.addresses(channels)...), setting{"target", "[channels-worker, sync-worker]"},
			setting{"service_addr", w.addr(name)}, setting{"ops_addr", w.addr(name + "-ops")}), o.clocks[name], o.slots)
		others = append(others, name)
	}
	return w, w.start(ctx, others...)
}

// serviceTargets are all targets but the worker pools.
func serviceTargets() (names []string) {
	for _, t := range platform.Targets {
		if !strings.HasSuffix(t, "worker") && t != "builder" {
			names = append(names, t)
		}
	}
	return names
}

// addresses tells a process where the services are, and which of the channels services it uses.
func (w *world) addresses(channels string) (all []setting) {
	for _, name := range serviceTargets() {
		at := "service"
		if name == "channels" {
			at = channels
		}
		all = append(all, setting{"services." + name, w.addr(at)})
	}
	return all
}

// whole starts everything in one process, as `entrepot serve` does, with a private PostgreSQL. ledger says that the
// process does ledger jobs, so that it has to be this program.
func (r *run) whole(ctx context.Context, ledger bool, more ...setting) (*world, error) {
	w, err := r.newWorld()
	if err != nil {
		return nil, err
	}
	w.dsn = "postgres://entrepot@/entrepot?host=" + filepath.Join(w.dir, "all", "postgres", "run") + "&port=5432"
	w.settings("all", append([]setting{
		{"target", "[all]"},
		{"egress_allow", "[127.0.0.0/8]"},
		{"database_conns", "16"},
		{"http_addr", w.addr("http")},
		{"grpc_addr", w.addr("grpc")},
		{"service_addr", w.addr("service")},
		{"data_addr", w.addr("data")},
		{"ops_addr", w.addr("ops")},
	}, more...), 0, workerSlots)
	if !ledger {
		delete(w.flags, "all")
	}
	if err := w.start(ctx, "all"); err != nil {
		return nil, err
	}
	return w, w.connect(ctx, filepath.Join(w.dir, "all", "admin-key"))
}

// settings writes a process's YAML file.
func (w *world) settings(name string, all []setting, clock time.Duration, slots int) {
	var b strings.Builder
	fmt.Fprintf(&b, "data_dir: %s\n", filepath.Join(w.dir, name))
	section := map[string][]setting{}
	for _, s := range all {
		if head, key, ok := strings.Cut(s.key, "."); ok {
			section[head] = append(section[head], setting{key, s.value})
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", s.key, quoted(s.value))
	}
	for head, list := range section {
		fmt.Fprintf(&b, "%s:\n", head)
		for _, s := range list {
			fmt.Fprintf(&b, "  %s: %s\n", s.key, quoted(s.value))
		}
	}
	w.files[name] = b.String()
	w.flags[name] = []string{"--ledger", w.dir, "--name", name, "--slots", strconv.Itoa(slots), "--clock", clock.String()}
}

func quoted(v string) string {
	if strings.HasPrefix(v, "[") {
		return v
	}
	return strconv.Quote(v)
}

// addr is the address that something listens on, the same after a restart.
func (w *world) addr(what string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.ports[what]; ok {
		return a
	}
	w.ports[what] = freeAddr()
	return w.ports[what]
}

var taken sync.Map

// freeAddr finds a port that nobody listens on, and that it has not returned before.
func freeAddr() string {
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err) // a machine without loopback
		}
		a := l.Addr().String()
		l.Close()
		if _, before := taken.LoadOrStore(a, true); !before {
			return a
		}
	}
}

// start starts processes side by side, those that have stopped again, and waits until all are ready.
func (w *world) start(ctx context.Context, names ...string) error {
	var all []*proc
	for _, name := range names {
		p, err := w.spawn(name)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	for _, p := range all {
		if err := p.awaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) spawn(name string) (*proc, error) {
	if name == "nats" {
		return w.keep(spawn("nats", w.dir, nil, w.r.opts.entrepot, "nats", "--listen", w.addr("nats"), "--data-dir", filepath.Join(w.dir, "nats")))
	}
	file := filepath.Join(w.dir, name+".yaml")
	if err := os.WriteFile(file, []byte(w.files[name]), 0o600); err != nil {
		return nil, err
	}
	// The services are the program that is shipped; what needs the ledger, or lacks a guard, is this one.
	argv := []string{w.r.opts.entrepot, "serve", "--config", file}
	ledger := strings.HasPrefix(name, "worker") || name == "all" && w.flags[name] != nil
	wrong := slices.Contains(w.flags[name], "--clock") && w.flags[name][len(w.flags[name])-1] != "0s"
	if w.r.program != "" || ledger || wrong {
		argv = append([]string{w.r.worker(), "process", "--config", file}, w.flags[name]...)
	}
	var env []string
	if w.r.program != "" {
		env = []string{"CHAOS_UNGUARDED=" + w.r.s.guard}
	}
	return w.keep(spawn(name, w.dir, env, argv...))
}

func (w *world) keep(p *proc, err error) (*proc, error) {
	if err == nil {
		w.mu.Lock()
		w.procs[p.name] = p
		w.mu.Unlock()
	}
	return p, err
}

func (w *world) startNATS(ctx context.Context) error { return w.start(ctx, "nats") }

// proc is a process of that name, the latest.
func (w *world) proc(name string) *proc {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[name]
}

// connect makes the clients once the edge is up.
func (w *world) connect(ctx context.Context, keyFile string) (err error) {
	w.url = "http://" + w.addr("http")
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return err
	}
	if w.rest, err = restclient.New(restclient.Config{Server: w.url, Key: strings.TrimSpace(string(key)), UserAgent: "chaos", CallTimeout: 30 * time.Second}); err != nil {
		return err
	}
	if w.pool, err = pg.Open(ctx, w.dsn, pg.PoolConfig{MaxConns: 8, AppName: "chaos"}); err != nil {
		return err
	}
	w.jobs = jobs.NewClient(jobs.ClientConfig{Pool: w.pool})
	if _, err := w.pool.Exec(ctx, ledgerTable); err != nil {
		return err
	}
	w.user = authn.Caller{}
	if err := w.pool.QueryRow(ctx, `SELECT id::text, username FROM identity.users ORDER BY create_time LIMIT 1`).Scan(&w.user.UserID, &w.user.Name); err != nil {
		return err
	}
	w.reader = startReader(w.url, w.r.opts.rate)
	return nil
}

// channel makes a public channel that the reader reads.
func (w *world) channel(ctx context.Context, name, upstream string) error {
	private := false
	req := &channelsv1.CreateChannelRequest{Name: name, Private: &private}
	subdirs := []string{"noarch"}
	if upstream != "" {
		req.Mirror = &channelsv1.MirrorSettings{Url: upstream}
		subdirs = []string{"linux-64", "noarch"}
	}
	if _, err := w.rest.CreateChannel(ctx, req); err != nil {
		return err
	}
	w.reader.watch(name, subdirs...)
	return nil
}

// proxy makes a public proxy channel that the reader reads.
func (w *world) proxy(ctx context.Context, name string, up *growing) error {
	private := false
	_, err := w.rest.CreateChannel(ctx, &channelsv1.CreateChannelRequest{
		Name: name, Private: &private, Kind: channelsv1.ChannelKind_CHANNEL_KIND_PROXY, Mirror: &channelsv1.MirrorSettings{Url: up.url},
	})
	if err == nil {
		w.reader.watchProxy(name, up, up.channel.Subdirs...)
	}
	return err
}

// enqueue asks for ledger jobs, each in a transaction of its own; a transaction whose fate is not known is looked up.
func (w *world) enqueue(ctx context.Context, n int, args ledgerArgs, locks ...jobs.Lock) error {
	principal, err := w.user.Marshal()
	if err != nil {
		return err
	}
	for range n {
		args.N = w.next
		w.next++
		data, err := json.Marshal(args)
		if err != nil {
			return err
		}
		var res jobs.EnqueueResult
		err = pg.Retry(ctx, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) (err error) {
				res, err = w.jobs.Enqueue(ctx, tx, jobs.EnqueueParams{
					Kind: ledgerKind, Args: wrapperspb.Bytes(data), Locks: locks, Resource: "chaos/" + strconv.Itoa(args.N),
					Principal: jobs.Principal{Name: w.user.Name, Data: principal},
				})
				return err
			})
		})
		if err != nil {
			return fmt.Errorf("enqueue job %d: %w", args.N, err)
		}
		w.asked = append(w.asked, asked{res.JobID.String(), args})
	}
	return nil
}

// done is how many ledger rows there are.
func (w *world) done(ctx context.Context) (n int, err error) {
	return n, w.pool.QueryRow(ctx, `SELECT count(*) FROM public.chaos_ledger`).Scan(&n)
}

// awaitDone waits until n ledger rows are there. While the database is away it goes on asking.
func (w *world) awaitDone(ctx context.Context, n int, patience time.Duration) error {
	var have int
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if have, err = w.done(ctx); err == nil && have >= n {
			return nil
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return serr
		}
	}
	return errors.Join(fmt.Errorf("%d of %d jobs are done after %s", have, n, patience), err)
}

// awaitTerminal waits until all jobs that were asked for have ended.
func (w *world) awaitTerminal(ctx context.Context, patience time.Duration) error {
	var open int
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		err = w.pool.QueryRow(ctx, `SELECT count(*) FROM jobs.jobs WHERE kind = $1 AND finished_at IS NULL`, ledgerKind).Scan(&open)
		if err == nil && open == 0 {
			return nil
		}
		if serr := sleep(ctx, 20*time.Millisecond); serr != nil {
			return serr
		}
	}
	return errors.Join(fmt.Errorf("%d of %d jobs have not ended after %s", open, len(w.asked), patience), err)
}

// release lets a held job go.
func (w *world) release(n int) error { return os.WriteFile(goFile(w.dir, n), nil, 0o600) }

// awaitHeld waits until a job is held at a point, by any of the workers, and says by which.
func (w *world) awaitHeld(ctx context.Context, n int, point string) (*proc, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("no worker holds job %d at %s", n, point))
	defer cancel()
	for {
		w.mu.Lock()
		all := make([]*proc, 0, len(w.procs))
		for _, p := range w.procs {
			all = append(all, p)
		}
		w.mu.Unlock()
		for _, p := range all {
			p.mu.Lock()
			lines := p.lines
			p.mu.Unlock()
			for _, l := range lines {
				if at, m, ok := heldAt(l); ok && at == point && m == n {
					return p, nil
				}
			}
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// close ends everything and removes the directory; a failed run says what its processes logged.
func (w *world) close() error {
	if w.reader != nil {
		w.reader.stop()
	}
	w.mu.Lock()
	var all []*proc
	for _, p := range w.procs {
		all = append(all, p)
	}
	w.mu.Unlock()
	var postmaster int
	if data, err := os.ReadFile(filepath.Join(w.dir, "all", "postgres", "data", "postmaster.pid")); err == nil {
		line, _, _ := strings.Cut(string(data), "\n")
		postmaster, _ = strconv.Atoi(line)
	}
	if w.pool != nil {
		w.pool.Close()
	}
	if w.rest != nil {
		w.rest.CloseIdle()
	}
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(func() {
			if p.name == "all" {
				p.stop(15 * time.Second) // with its PostgreSQL
			} else {
				p.stop(0)
			}
		})
	}
	wg.Wait()
	var err error
	if postmaster > 0 {
		err = gone(postmaster, 15*time.Second)
	}
	if w.dsn != "" && w.r.opts.pg != nil {
		w.r.opts.pg.drop(w.r.tag())
	}
	if w.r.opts.keep {
		return err
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
