package pg_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// dataDir returns a directory that the server's account can reach: t.TempDir is closed to others.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "entrepot-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "pg")
}

func start(t *testing.T, dir string) *pg.Server {
	t.Helper()
	return startWith(t, pg.EmbeddedConfig{DataDir: dir})
}

func startWith(t *testing.T, cfg pg.EmbeddedConfig) *pg.Server {
	t.Helper()
	s, err := pg.StartEmbedded(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func postmaster(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestStartEmbedded(t *testing.T) {
	t.Run("data survives a stop, and the second start is quick", func(t *testing.T) {
		dir := dataDir(t)
		began := time.Now()
		s := startWith(t, pg.EmbeddedConfig{DataDir: dir, Durable: true})
		first := time.Since(began)
		if got := query[string](t, s.URL(), "SHOW fsync"); got != "on" {
			t.Errorf("fsync is %s", got)
		}
		if got := query[string](t, s.URL(), "SHOW data_checksums"); got != "on" {
			t.Errorf("data_checksums is %s", got)
		}
		execute(t, s.URL(), "CREATE TABLE t AS SELECT 7 AS x")
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Errorf("second stop: %v", err)
		}
		select {
		case <-s.Done():
		default:
			t.Error("Done is open after Stop")
		}
		if err := s.Err(); err != nil {
			t.Errorf("Err after Stop: %v", err)
		}
		began = time.Now()
		s = startWith(t, pg.EmbeddedConfig{DataDir: dir, Durable: true})
		second := time.Since(began)
		if got := query[int](t, s.URL(), "SELECT x FROM t"); got != 7 {
			t.Errorf("x = %d, want 7", got)
		}
		t.Logf("first start %s, second %s", first, second)
	})

	t.Run("a death is told, and committed rows come back", func(t *testing.T) {
		dir := dataDir(t)
		s := startWith(t, pg.EmbeddedConfig{DataDir: dir, Durable: true})
		execute(t, s.URL(), "CREATE TABLE t AS SELECT 7 AS x")
		if err := syscall.Kill(postmaster(t, dir), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("Done stays open")
		}
		if err := s.Err(); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "killed") {
			t.Errorf("Err: %v", err)
		}
		s = startWith(t, pg.EmbeddedConfig{DataDir: dir, Durable: true})
		if got := query[int](t, s.URL(), "SELECT x FROM t"); got != 7 {
			t.Errorf("x = %d, want 7", got)
		}
	})

	t.Run("a server left behind is stopped first", func(t *testing.T) {
		dir := dataDir(t)
		old := start(t, dir)
		was := postmaster(t, dir)
		s := start(t, dir)
		if now := postmaster(t, dir); now == was {
			t.Error("the old server still runs")
		}
		<-old.Done()
		if got := query[int](t, s.URL(), "SELECT 1"); got != 1 {
			t.Error(got)
		}
	})

	t.Run("a stale postmaster.pid whose number another process has is no obstacle", func(t *testing.T) {
		dir := dataDir(t)
		s := start(t, dir)
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		other := exec.Command("sleep", "60")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
		// The file names a process of the same account, or PostgreSQL itself would not mind it.
		pid := fmt.Sprintf("%d\n%s\n1700000000\n5432\n%s\n\n", other.Process.Pid, filepath.Join(dir, "data"), filepath.Join(dir, "run"))
		if err := os.WriteFile(filepath.Join(dir, "data", "postmaster.pid"), []byte(pid), 0o600); err != nil {
			t.Fatal(err)
		}
		s = start(t, dir)
		if got := query[int](t, s.URL(), "SELECT 1"); got != 1 {
			t.Error(got)
		}
	})

	t.Run("an unfinished cluster is made again", func(t *testing.T) {
		dir := dataDir(t)
		if err := os.MkdirAll(filepath.Join(dir, "data.tmp", "base"), 0o700); err != nil {
			t.Fatal(err)
		}
		start(t, dir)
		if _, err := os.Stat(filepath.Join(dir, "data.tmp")); !os.IsNotExist(err) {
			t.Errorf("data.tmp: %v", err)
		}
	})

	t.Run("a server takes the place of one that died, also where the path is long", func(t *testing.T) {
		for _, dir := range []string{dataDir(t), filepath.Join(dataDir(t), strings.Repeat("long", 25))} {
			first := startWith(t, pg.EmbeddedConfig{DataDir: dir, Durable: true})
			execute(t, first.URL(), "CREATE TABLE kept (id int)")
			if err := syscall.Kill(postmaster(t, dir), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-first.Done()
			second := startWith(t, pg.EmbeddedConfig{DataDir: dir, SocketDir: first.SocketDir(), Durable: true})
			if second.URL() != first.URL() {
				t.Errorf("the server is at %s, its clients look for it at %s", second.URL(), first.URL())
			}
			if n := query[int64](t, first.URL(), "SELECT count(*) FROM kept"); n != 0 {
				t.Errorf("%d rows", n)
			}
		}
	})
	t.Run("a long path gets its socket elsewhere, for as long as it runs", func(t *testing.T) {
		s := start(t, filepath.Join(dataDir(t), strings.Repeat("long", 25)))
		conn, err := pgx.Connect(t.Context(), s.URL())
		if err != nil {
			t.Fatal(err)
		}
		run := conn.Config().Host
		_ = conn.Close(t.Context())
		if !strings.HasPrefix(run, "/tmp/entrepot-pg-") {
			t.Errorf("socket in %s", run)
		}
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(run); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", run, err)
		}
	})

	t.Run("its own messages reach the log, and why it ended the error", func(t *testing.T) {
		dir := dataDir(t)
		if err := start(t, dir).Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		_, err := pg.StartEmbedded(t.Context(), pg.EmbeddedConfig{
			DataDir: dir, Settings: map[string]string{"no_such_setting": "1"},
			Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
			t.Errorf("error %v", err)
		}
		if !strings.Contains(log.String(), "no_such_setting") {
			t.Errorf("log %q", log.String())
		}
	})

	t.Run("a parent the server may not enter is named", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root changes to another account")
		}
		dir := dataDir(t)
		closed := filepath.Join(filepath.Dir(dir), "closed")
		if err := os.Mkdir(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := pg.StartEmbedded(t.Context(), pg.EmbeddedConfig{DataDir: filepath.Join(closed, "pg")})
		if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), closed+" ") {
			t.Errorf("error %v", err)
		}
	})
}

// TestPdeathsig runs this test binary as the program that starts a server, and kills it.
func TestPdeathsig(t *testing.T) {
	if dir := os.Getenv("PG_TEST_CHILD"); dir != "" {
		if _, err := pg.StartEmbedded(t.Context(), pg.EmbeddedConfig{DataDir: dir}); err != nil {
			t.Fatal(err)
		}
		fmt.Println("started")
		select {}
	}
	dir := dataDir(t)
	child := exec.Command(os.Args[0], "-test.run=^TestPdeathsig$")
	child.Env = append(os.Environ(), "PG_TEST_CHILD="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
		t.Fatalf("the child did not start its server: %v", err)
	}
	pid := postmaster(t, dir)
	_ = child.Process.Kill()
	_ = child.Wait()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "data", "postmaster.pid")); os.IsNotExist(err) {
			return // a clean shutdown removes the file
		}
	}
	t.Errorf("PostgreSQL (process %d) survived its program", pid)
	_ = syscall.Kill(pid, syscall.SIGQUIT)
}
