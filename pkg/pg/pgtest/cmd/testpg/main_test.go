package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestRun(t *testing.T) {
	leftovers := func(t *testing.T) []string {
		t.Helper()
		dirs, err := filepath.Glob("/tmp/entrepot-testpg-*")
		if err != nil {
			t.Fatal(err)
		}
		return dirs
	}

	t.Run("the command has a server and its exit code is kept, then all is gone", func(t *testing.T) {
		t.Setenv("ENTREPOT_TEST_PG", "")
		out := filepath.Join(t.TempDir(), "url")
		done := make(chan int, 1)
		go func() {
			code, err := run([]string{"sh", "-c", `printf %s "$ENTREPOT_TEST_PG" > "$0.new"; mv "$0.new" "$0"; while test -e "$0"; do sleep 0.02; done; exit 7`, out})
			if err != nil {
				t.Error(err)
			}
			done <- code
		}()
		var url []byte
		for end := time.Now().Add(30 * time.Second); len(url) == 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the command was not run")
			}
			url, _ = os.ReadFile(out)
		}
		conn, err := pgx.Connect(t.Context(), string(url))
		if err != nil {
			t.Fatal(err)
		}
		dir := conn.Config().Host
		_ = conn.Close(t.Context())
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
		if code := <-done; code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left, among %v", dir, leftovers(t))
		}
	})

	t.Run("a server that is there already is used", func(t *testing.T) {
		t.Setenv("ENTREPOT_TEST_PG", "postgres://elsewhere/x")
		if code, err := run([]string{"sh", "-c", `test "$ENTREPOT_TEST_PG" = postgres://elsewhere/x`}); code != 0 || err != nil {
			t.Error(code, err)
		}
	})

	t.Run("signals reach the command, whose death is told as a shell would", func(t *testing.T) {
		t.Setenv("ENTREPOT_TEST_PG", "postgres://elsewhere/x")
		ready := filepath.Join(t.TempDir(), "ready")
		go func() {
			for {
				if _, err := os.Stat(ready); err == nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGTERM) // run passes it on
		}()
		code, err := run([]string{"sh", "-c", `touch "$0"; while :; do sleep 0.05; done`, ready})
		if code != 128+int(syscall.SIGTERM) || err != nil {
			t.Error(code, err)
		}
	})

	t.Run("no command, or none that exists, is an error", func(t *testing.T) {
		t.Setenv("ENTREPOT_TEST_PG", "postgres://elsewhere/x")
		if code, err := run(nil); code != 2 || err == nil || !strings.Contains(err.Error(), "usage") {
			t.Error(code, err)
		}
		if code, err := run([]string{"/no/such/command"}); code != 127 || err == nil {
			t.Error(code, err)
		}
	})
}
