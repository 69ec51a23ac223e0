package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg/internal/cluster"
)

// The names are reserved: they are no configuration keys.
const (
	envServer = "ENTREPOT_TEST_PG"
	envBin    = "ENTREPOT_PG_BIN"
)

// settings make a throwaway server fast to start and to clone from; durability is off already.
var settings = map[string]string{
	"max_connections":  "200",
	"shared_buffers":   "64MB",
	"autovacuum":       "off", // it would hold templates open
	"max_wal_size":     "1GB",
	"wal_level":        "minimal",
	"max_wal_senders":  "0",
	"log_min_messages": "fatal",
}

// keeper outlives the test binary: it starts the server, sleeps in read until our end of the pipe closes, which the
// kernel does for us on any kind of exit, and clears up. All of it runs as the server's account.
const keeper = `dir=$1; shift
"$@" >"$dir/log" 2>&1 &
pid=$!
read -r _
kill -QUIT $pid 2>/dev/null
wait $pid 2>/dev/null
cd /
rm -rf "$dir"
`

var private struct {
	once sync.Once
	url  string
	err  error
	// hold is the write end of the keeper's pipe. It must stay reachable: a finalizer would close it, and with it the server.
	hold *os.File
}

// serverURL returns the connection string of the server that all tests of this binary share.
func serverURL(ctx context.Context) (string, error) {
	if env := os.Getenv(envServer); env != "" {
		return env, nil
	}
	private.once.Do(func() { private.url, private.err = start(context.WithoutCancel(ctx)) })
	return private.url, private.err
}

func start(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, dir, err := prepare(ctx)
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	private.hold = w
	// StartProcess rather than os/exec, which would keep a goroutine per stream.
	p, err := os.StartProcess("/bin/sh", append([]string{"sh", "-c", keeper, "keeper", dir, c.Postgres}, c.Args...), &os.ProcAttr{
		Dir:   c.Data,
		Env:   cluster.Env(),
		Files: []*os.File{r, null, null},
		// Its own group: Ctrl-C must reach the tests only.
		Sys: &syscall.SysProcAttr{Credential: c.Account.Credential(), Setpgid: true},
	})
	if err != nil {
		return "", err
	}
	_ = p.Release()
	return waitReady(ctx, c, filepath.Join(dir, "log"))
}

// prepare makes a cluster in a directory of its own, short enough for a socket path.
func prepare(ctx context.Context) (c *cluster.Cluster, dir string, err error) {
	dir, err = os.MkdirTemp("/tmp", "entrepot-pgtest-")
	if err != nil {
		return nil, "", err
	}
	c, err = cluster.Prepare(ctx, cluster.Config{Root: dir, BinDir: os.Getenv(envBin), Settings: settings})
	if err != nil {
		return nil, "", errors.Join(err, os.RemoveAll(dir))
	}
	return c, dir, nil
}

func waitReady(ctx context.Context, c *cluster.Cluster, log string) (string, error) {
	dsn := c.URL("postgres")
	for {
		conn, err := pgx.Connect(ctx, dsn)
		if err == nil {
			return dsn, conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			said, _ := os.ReadFile(log)
			return "", fmt.Errorf("the test server does not answer: %w; it said: %s", err, strings.TrimSpace(string(said)))
		case <-time.After(5 * time.Millisecond):
		}
	}
}
