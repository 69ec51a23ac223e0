package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg/internal/cluster"
)

const (
	// startTimeout bounds a start; it is long because a start after a crash replays the write-ahead log.
	startTimeout = 60 * time.Second
	startPoll    = 10 * time.Millisecond
	// fastStop is how long a fast shutdown (a checkpoint) may take, quitStop how long an immediate one.
	fastStop = 10 * time.Second
	quitStop = 5 * time.Second
)

// EmbeddedConfig says where the private server lives and how it runs.
type EmbeddedConfig struct {
	// DataDir is a directory that belongs to the server alone, such as <data-dir>/postgres. It is made if absent, given
	// to the server's account and closed to everyone else. The caller holds a lock that keeps a second program out.
	DataDir string
	// BinDir is where postgres and initdb are; empty means FindBinaries searches.
	BinDir string
	// SocketDir is the SocketDir of the server that this one takes the place of, so that its clients find it. Empty chooses
	// a place below DataDir, or a new one under /tmp if that is too long for a socket's path.
	SocketDir string
	// Durable is off in tests only: without it a power cut corrupts the cluster.
	Durable bool
	// Log receives the server's own messages at debug level; nil means they are dropped.
	Log *slog.Logger
	// Settings are further server settings, as in postgresql.conf.
	Settings map[string]string
}

// Server is a running private PostgreSQL.
type Server struct {
	cluster *cluster.Cluster
	cmd     *exec.Cmd
	output  *serverLog
	done    chan struct{} // closed when the process has been waited for

	mu       sync.Mutex
	stopping bool
	err      error
}

// FindBinaries returns the directory that holds postgres and initdb: binDir if it is not empty, else the one on PATH, else
// the newest of /usr/lib/postgresql/*/bin. Its error names the package to install.
func FindBinaries(binDir string) (string, error) { return cluster.FindBinaries(binDir, 0) }

// StartEmbedded starts the private server and returns when it answers queries. The first start makes the cluster and
// takes about 0.8 s, later ones about 0.1 s; a start after a crash may take longer.
// Ending ctx only abandons the start: a server that runs is stopped by Stop.
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig) (*Server, error) {
	c, err := cluster.Prepare(ctx, cluster.Config{Root: cfg.DataDir, BinDir: cfg.BinDir, Run: cfg.SocketDir, Durable: cfg.Durable, Settings: cfg.Settings})
	if err != nil {
		return nil, fmt.Errorf("prepare PostgreSQL: %w", err)
	}
	s := &Server{cluster: c, output: &serverLog{log: cfg.Log}, done: make(chan struct{})}
	if err := s.run(); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout,
		fault.New(fault.Timeout, "PostgreSQL did not answer within %s", startTimeout))
	defer cancel()
	if err := s.waitReady(ctx); err != nil {
		_ = s.Stop(context.WithoutCancel(ctx)) // a failed start leaves nothing behind
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return s, nil
}

// run forks the server. The goroutine that forks keeps its thread until the server is gone, because the kernel sends
// the death signal when the forking *thread* ends.
func (s *Server) run() error {
	cmd := exec.Command(s.cluster.Postgres, s.cluster.Args...)
	cmd.Dir, cmd.Env = s.cluster.Data, cluster.Env()
	cmd.Stderr = s.output
	cmd.WaitDelay = time.Second // backends that outlive the postmaster hold the pipe open
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: s.cluster.Account.Credential(),
		Setpgid:    true, // or Ctrl-C stops the server before the program has drained
		Pdeathsig:  syscall.SIGINT,
	}
	s.cmd = cmd
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		err := cmd.Wait()
		s.mu.Lock()
		if !s.stopping {
			if err == nil {
				err = errors.New("exit status 0")
			}
			s.err = fault.New(fault.Unavailable, "PostgreSQL ended unexpectedly: %w%s", err, s.output.tail())
		}
		s.mu.Unlock()
		_ = s.cluster.Close() // only a directory under /tmp; nothing depends on its removal
		close(s.done)
	}()
	return <-started
}

// waitReady polls until the server answers, and makes the platform's database the first time.
func (s *Server) waitReady(ctx context.Context) error {
	for {
		conn, err := pgx.Connect(ctx, s.URL())
		if err == nil {
			defer conn.Close(ctx)
			return checkVersion(conn)
		}
		if code(err) == "3D000" { // no such database: the cluster is new
			if err = s.createDatabase(ctx); err == nil {
				continue
			}
		}
		if !retryConnect(err) {
			return err
		}
		select {
		case <-s.done:
			return s.Err()
		case <-ctx.Done():
			return fmt.Errorf("%w (last error: %w)", context.Cause(ctx), err)
		case <-time.After(startPoll):
		}
	}
}

func (s *Server) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.cluster.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{cluster.Database}.Sanitize())
	return err
}

func checkVersion(conn *pgx.Conn) error {
	version := conn.PgConn().ParameterStatus("server_version")
	digits, _, _ := strings.Cut(version, ".")
	if major, err := strconv.Atoi(digits); err == nil && major < cluster.MinMajor {
		return fault.New(fault.Precondition, "PostgreSQL %s is too old: %d or newer is needed", version, cluster.MinMajor).
			WithReason("POSTGRES_TOO_OLD")
	}
	return nil
}

// URL returns the connection string of the platform's database.
func (s *Server) URL() string { return s.cluster.URL(cluster.Database) }

// SocketDir returns where the server's socket is.
func (s *Server) SocketDir() string { return s.cluster.Run }

// Done is closed when the server's process is gone, by Stop or by itself; Err tells which.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the server ended, nil while it runs and after Stop.
func (s *Server) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Stop shuts the server down fast: open transactions are rolled back and sessions end, but nothing committed needs
// recovery at the next start. After ten seconds, or when ctx ends, it quits at once. Stop may be called twice.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	select {
	case <-s.done: // it ended by itself: keep that error
		s.mu.Unlock()
		return nil
	default:
	}
	s.stopping = true
	s.mu.Unlock()

	fast := time.NewTimer(fastStop)
	defer fast.Stop()
	_ = s.cmd.Process.Signal(syscall.SIGINT) // an error means it is gone, which is what we wait for
	select {
	case <-s.done:
		return nil
	case <-fast.C:
	case <-ctx.Done():
	}
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-s.done:
	case <-time.After(quitStop):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	return nil
}

// code returns the SQLSTATE of a server's error, empty if it is none.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// retryConnect reports whether a connection may succeed later: the server is not there yet, is starting, recovering,
// shutting down or full. What the server refuses for good (a password, a database) will not change by waiting.
func retryConnect(err error) bool {
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return false
	}
	switch c := code(err); {
	case c == "":
		return true // not from the server: refused, reset, no socket yet
	case c == "53300", strings.HasPrefix(c, "57P"), strings.HasPrefix(c, "08"):
		return true
	}
	return false
}
