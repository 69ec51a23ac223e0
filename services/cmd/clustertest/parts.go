package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// parts are what the platform stands on: each is one process, or a group of them.
type parts struct {
	postgres *postgres
	nats, s3 *part
}

// part is a server that can be broken and healed.
type part struct {
	launcher *launcher
	cmd      command
	url      string // for the platform
	health   string // answers once it runs
	proc     *process
}

func (p *part) start(ctx context.Context) (err error) {
	if p.proc, err = p.launcher.start(p.cmd); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		a := probe(ctx, p.health)
		if a.err == nil && a.status < http.StatusInternalServerError {
			return nil
		}
		if !p.proc.running() || time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer (%s):\n%s", p.cmd.name, a, tail(p.cmd.log, 20))
		}
	}
}

func (p *part) freeze()     { p.proc.signal(syscall.SIGSTOP) }
func (p *part) thaw()       { p.proc.signal(syscall.SIGCONT) }
func (p *part) kill() error { p.proc.kill(); return nil }
func (p *part) stop() (string, error) {
	took, err := p.proc.stop(10 * time.Second)
	return took.Round(time.Millisecond).String(), err
}

// newNATS is `entrepot nats` on a TCP port.
func newNATS(l *launcher, root, bin string) (*part, error) {
	at, err := newPlace(root, "nats")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	token := filepath.Join(root, "nats-token")
	if err := os.WriteFile(token, []byte("cluster-test-nats-token\n"), 0o600); err != nil {
		return nil, err
	}
	return &part{
		launcher: l, url: "nats://cluster-test-nats-token@" + ports[0], health: "http://" + ports[1] + "/healthz/ready",
		cmd: command{name: "nats", dir: at.work, env: at.env(), log: filepath.Join(root, "nats.log"), args: []string{
			bin, "nats", "--listen", ports[0], "--ops-addr", ports[1], "--data-dir", at.data, "--token-file", token,
		}},
	}, nil
}

// newS3 is versitygw over a directory. Its address is taken as it is by the platform: the bucket is made at the first start.
func newS3(l *launcher, root, bin string) (*part, error) {
	at, err := newPlace(root, "s3")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	meta, data := filepath.Join(at.data, "meta"), filepath.Join(at.data, "data")
	for _, dir := range []string{meta, data} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	const user, password = "cluster-test", "cluster-test-s3-secret"
	return &part{
		launcher: l, health: "http://" + ports[0] + "/",
		url: "s3://" + user + ":" + password + "@entrepot/blobs?endpoint=" + ports[0] + "&insecure=1&path_style=1&region=us-east-1&create=1",
		cmd: command{name: "s3", dir: at.work, env: at.env("ROOT_ACCESS_KEY="+user, "ROOT_SECRET_KEY="+password, "VGW_REGION=us-east-1"), log: filepath.Join(root, "s3.log"), args: []string{
			bin, "--port", ports[0], "--quiet", "posix", "--sidecar", meta, data,
		}},
	}, nil
}

// postgres is a private cluster on a unix socket.
type postgres struct {
	cfg    pg.EmbeddedConfig
	server *pg.Server
	url    string
}

func startPostgres(ctx context.Context, root string) (*postgres, error) {
	p := &postgres{cfg: pg.EmbeddedConfig{
		DataDir: filepath.Join(root, "pg"), BinDir: os.Getenv("ENTREPOT_PG_BIN"), Durable: true, Settings: map[string]string{"max_connections": "200"},
	}}
	return p, p.start(ctx)
}

func (p *postgres) start(ctx context.Context) (err error) {
	if p.server, err = pg.StartEmbedded(ctx, p.cfg); err != nil {
		return err
	}
	if p.url != "" && p.url != p.server.URL() {
		return fmt.Errorf("PostgreSQL came back at %s, not at %s", p.server.URL(), p.url)
	}
	p.url = p.server.URL()
	return nil
}

func (p *postgres) pid() (int, error) { return postmaster(p.cfg.DataDir) }

// postmaster reads the id of the server's first process, which leads their group (postmaster.pid, first line).
func postmaster(dir string) (int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "postmaster.pid"))
	if err != nil || len(files) != 1 {
		return 0, fmt.Errorf("postmaster.pid below %s: %v %v", dir, files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(data), "\n")
	return strconv.Atoi(strings.TrimSpace(first))
}

// freezeAll stops every process of a group, or only its leader.
func freeze(leader int, group bool) error {
	if group {
		return syscall.Kill(-leader, syscall.SIGSTOP)
	}
	return syscall.Kill(leader, syscall.SIGSTOP)
}

func thaw(leader int) error { return syscall.Kill(-leader, syscall.SIGCONT) }

// kill ends the first process with SIGKILL, as the kernel does when memory runs out, and waits until it is gone.
func (p *postgres) kill() error {
	pid, err := p.pid()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	<-p.server.Done()
	return nil
}
