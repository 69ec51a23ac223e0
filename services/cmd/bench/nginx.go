package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// nginx is a running nginx with a configuration of its own, as no service.
type nginx struct {
	url, version string
	cmd          *exec.Cmd
	dir          string
	log          *bytes.Buffer
}

// nginxConfig serves as fast as nginx does without tuning for one file: the defaults of its packages, and no log, no limit
// of requests per connection.
const nginxConfig = `daemon off;
%[1]s
worker_processes auto;
pid %[2]s/nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  default_type application/octet-stream;
  client_body_temp_path %[2]s/body;
  proxy_temp_path %[2]s/proxy;
  fastcgi_temp_path %[2]s/fastcgi;
  uwsgi_temp_path %[2]s/uwsgi;
  scgi_temp_path %[2]s/scgi;
%[3]s
}
`

// static is a server of a directory.
func static(root string) func(dir, addr string) string {
	return func(_, addr string) string { return fmt.Sprintf("  server { listen %s; root %s; }", addr, root) }
}

// startNginx runs nginx with what server says, which is given a directory for its state and the address to listen on.
func startNginx(ctx context.Context, server func(dir, addr string) string) (*nginx, error) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian: apt-get install nginx-light)", err)
	}
	version, err := exec.CommandContext(ctx, binary, "-v").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("nginx -v: %w", err)
	}
	dir, err := os.MkdirTemp("", "entrepot-bench-nginx-run-")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its workers must read the directory, which is ours
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, user, dir, server(dir, ports[0])), 0o600); err != nil {
		return nil, err
	}
	n := &nginx{url: "http://" + ports[0], dir: dir, log: new(bytes.Buffer), version: strings.TrimPrefix(strings.TrimSpace(string(version)), "nginx version: ")}
	n.cmd = exec.Command(binary, "-c", conf, "-p", dir, "-e", "stderr")
	n.cmd.Stderr = n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := n.cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, _, err = (target{url: n.url}).do(ctx, http.MethodGet, "/", nil, nil); err == nil {
			return n, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			serr := n.stop()
			return nil, errors.Join(fmt.Errorf("nginx does not answer: %w; its log:\n%s", err, n.log), serr)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (n *nginx) stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := n.cmd.Wait(); err != nil {
		return fmt.Errorf("nginx ended with %w; its log:\n%s", err, n.log)
	}
	return os.RemoveAll(n.dir)
}
