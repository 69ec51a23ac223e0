package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

const (
	// Superuser owns the cluster; Database is the one the platform works in.
	Superuser = "entrepot"
	Database  = "entrepot"

	// maxSocketPath is sun_path of a unix socket without its final zero byte.
	maxSocketPath = 107
	socketName    = ".s.PGSQL.5432"
)

// Config says where a cluster lives and how it runs.
type Config struct {
	// Root is the cluster's directory; see the package comment for what lies in it.
	Root string
	// BinDir overrides the search for the binaries.
	BinDir string
	// Run is the Run of an earlier start of this cluster, whose clients look for the server there. Empty chooses one.
	Run string
	// Durable is off for throwaway clusters only: without it a crash of the machine corrupts the data.
	Durable bool
	// Settings are further server settings, as in postgresql.conf.
	Settings map[string]string
}

// Cluster is a cluster that is ready to be started.
type Cluster struct {
	Account Account
	// Postgres is the server's program, Args what to call it with.
	Postgres string
	Args     []string
	// Data is PGDATA, Run the directory of the socket.
	Data, Run string

	tempRun bool
}

// Prepare makes the cluster if there is none, and stops a server that an earlier run left behind. The caller holds
// the lock of the data directory. Prepare takes about 0.6 s the first time, a millisecond later on.
func Prepare(ctx context.Context, cfg Config) (*Cluster, error) {
	root, err := filepath.Abs(cfg.Root)
	if err != nil {
		return nil, err
	}
	acct, err := chooseAccount(os.Geteuid())
	if err != nil {
		return nil, err
	}
	data := filepath.Join(root, "data")
	bin, err := FindBinaries(cfg.BinDir, majorOf(data))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o711); err != nil {
		return nil, err
	}
	if err := mkdirOwned(acct, root); err != nil {
		return nil, err
	}
	if acct.Switch {
		for _, dir := range []string{root, filepath.Join(bin, "postgres")} {
			if err := checkTraversable(acct, dir); err != nil {
				return nil, err
			}
		}
	}
	if err := own(acct, data); err != nil {
		return nil, fmt.Errorf("give %s to user %s: %w", data, acct.Name, err)
	}
	if err := clearOrphan(ctx, data); err != nil {
		return nil, err
	}
	if err := initialise(ctx, cfg, acct, bin, data); err != nil {
		return nil, err
	}
	c := &Cluster{Account: acct, Postgres: filepath.Join(bin, "postgres"), Data: data}
	if err := c.makeRun(root, cfg.Run); err != nil {
		return nil, err
	}
	c.Args = arguments(c, cfg)
	return c, nil
}

// arguments returns the server's command line. Settings are sorted, so that two starts look alike.
func arguments(c *Cluster, cfg Config) []string {
	settings := map[string]string{
		"listen_addresses":        "",
		"unix_socket_permissions": "0700",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"logging_collector":       "off",
		"cluster_name":            "entrepot",
	}
	if !cfg.Durable {
		settings["fsync"], settings["synchronous_commit"], settings["full_page_writes"] = "off", "off", "off"
	}
	maps.Copy(settings, cfg.Settings)
	args := []string{"-D", c.Data, "-k", c.Run, "-p", "5432"}
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", k+"="+settings[k])
	}
	return args
}

// URL returns the connection string of a database of the cluster.
func (c *Cluster) URL(database string) string {
	// As libpq does, pgx takes a plus sign for itself, not for a blank.
	query := strings.ReplaceAll(url.Values{"host": {c.Run}, "port": {"5432"}}.Encode(), "+", "%20")
	u := url.URL{Scheme: "postgres", User: url.User(Superuser), Path: "/" + database, RawQuery: query}
	return u.String()
}

// Env is the environment for PostgreSQL's programs: ours may hold PGDATA, PGPORT and secrets.
func Env() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
}

// Close removes what only lives as long as the server.
func (c *Cluster) Close() error {
	if c.tempRun {
		return os.RemoveAll(c.Run)
	}
	return nil
}

func (c *Cluster) makeRun(root, before string) (err error) {
	c.Run = filepath.Join(root, "run")
	if len(filepath.Join(c.Run, socketName)) <= maxSocketPath {
		return mkdirOwned(c.Account, c.Run)
	}
	dir := before
	if dir == "" {
		dir, err = os.MkdirTemp("/tmp", "entrepot-pg-")
	} else {
		err = os.Mkdir(dir, 0o700) // Close has removed it; one that is there again is somebody else's
	}
	if err != nil {
		return err
	}
	c.Run, c.tempRun = dir, true
	return mkdirOwned(c.Account, dir)
}

// initialise runs initdb beside the cluster's place and renames the result, so that a half-made cluster is never used.
func initialise(ctx context.Context, cfg Config, acct Account, bin, data string) error {
	if majorOf(data) != 0 {
		return nil
	}
	if _, err := os.Lstat(data); err == nil {
		return fault.New(fault.Precondition, "%s exists but is no PostgreSQL cluster (it has no PG_VERSION)", data)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := data + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := mkdirOwned(acct, tmp); err != nil {
		return err
	}
	// trust is safe because the socket's directory and the socket itself admit nobody else; there is no TCP.
	args := []string{"-D", tmp, "-U", Superuser, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"}
	if cfg.Durable {
		args = append(args, "--data-checksums")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), args...)
	cmd.Dir, cmd.Env = filepath.Dir(data), Env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: acct.Credential(), Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	runtime.LockOSThread() // the death signal follows the thread that forks
	err := cmd.Run()
	runtime.UnlockOSThread()
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fault.New(fault.Internal, "initdb in %s: %w: %s", tmp, err, strings.TrimSpace(out.String()))
	}
	if cfg.Durable {
		if err := syncfs(tmp); err != nil { // one call instead of a thousand fsyncs by initdb
			return fmt.Errorf("sync %s: %w", tmp, err)
		}
	}
	if err := os.Rename(tmp, data); err != nil {
		return err
	}
	if cfg.Durable {
		return syncDir(filepath.Dir(data))
	}
	return nil
}

func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// mkdirOwned makes a private directory of the account, or makes an existing one so.
func mkdirOwned(a Account, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if a.Switch {
		if err := os.Lchown(dir, int(a.UID), int(a.GID)); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o700)
}
