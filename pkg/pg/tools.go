package pg

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg/internal/cluster"
)

// RunningURL returns the connection string of a private server that another process runs in dataDir, as EmbeddedConfig
// has it. If none runs there the error is NotFound. The caller needs the rights of the server's account, or root's.
func RunningURL(dataDir string) (string, error) {
	f, err := os.Open(filepath.Join(dataDir, "data", "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fault.New(fault.NotFound, "no PostgreSQL runs in %s", dataDir)
	}
	if err != nil {
		return "", fmt.Errorf("look for PostgreSQL: %w", err)
	}
	defer f.Close()
	// Process, data directory, start, port, socket directory, …: https://www.postgresql.org/docs/current/storage-file-layout.html
	var lines []string
	for s := bufio.NewScanner(f); len(lines) < 5 && s.Scan(); {
		lines = append(lines, s.Text())
	}
	if len(lines) < 5 || lines[4] == "" {
		return "", fault.New(fault.Unavailable, "PostgreSQL in %s is starting or stopping", dataDir)
	}
	return (&cluster.Cluster{Run: lines[4]}).URL(cluster.Database), nil
}

// Tool returns the path of one of PostgreSQL's programs, such as pg_dump: in binDir if that is not empty, else beside a
// server of the given major version, else of the newest, else on PATH.
func Tool(name, binDir string, major int) (string, error) {
	dirs := []string{binDir}
	if binDir == "" {
		dirs = nil
		for _, m := range []int{major, 0} {
			if dir, err := cluster.FindBinaries("", m); err == nil {
				dirs = append(dirs, dir)
			}
		}
	}
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil && binDir == "" {
		return path, nil
	}
	return "", fault.New(fault.Precondition, "there is no %s: install the Debian package postgresql-client, or set ENTREPOT_PG_BIN to the directory it is in", name).
		WithReason("POSTGRES_NOT_FOUND")
}

// poolOnly are parameters of a connection string that pgx knows and libpq refuses.
var poolOnly = []string{"default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity"}

// LibpqURL turns a connection string of ours into one for PostgreSQL's programs, and the environment that goes with it:
// the password is there, since anybody on the machine can read a command line.
func LibpqURL(raw string) (conninfo string, env []string, err error) {
	cfg, err := pgconn.ParseConfig(raw)
	if err != nil {
		return "", nil, badURL(err)
	}
	env = cluster.Env()
	if cfg.Password != "" {
		env = append(env, "PGPASSWORD="+cfg.Password)
	}
	if !strings.Contains(raw, "://") {
		if cfg.Password != "" && strings.Contains(raw, "password") {
			return "", nil, fault.New(fault.Invalid, "write the database URL as postgres://user:password@host/database, so that its password can be kept off command lines")
		}
		return raw, env, nil
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", nil, fault.New(fault.Invalid, "the database URL cannot be read as one")
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	q := u.Query()
	for name := range q {
		if name == "password" || strings.HasPrefix(name, "pool_") || slices.Contains(poolOnly, name) {
			q.Del(name)
		}
	}
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String(), env, nil
}
