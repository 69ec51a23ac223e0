// Command testpg runs a command with a throwaway PostgreSQL, so that all test binaries share one:
//
//	testpg go test work
//
// It prints nothing, sets ENTREPOT_TEST_PG for the command, passes signals on to it, and ends with its exit code after
// the server is stopped and its files are removed. If ENTREPOT_TEST_PG is set already, it only runs the command.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testpg:", err)
	}
	os.Exit(code)
}

func run(args []string) (code int, err error) {
	if len(args) == 0 {
		return 2, errors.New("usage: testpg command [argument…]")
	}
	// Caught from the start, so that a Ctrl-C during the start leaves nothing behind either.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)

	env := os.Environ()
	if os.Getenv("ENTREPOT_TEST_PG") == "" {
		dir, err := os.MkdirTemp("/tmp", "entrepot-testpg-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		server, err := pg.StartEmbedded(context.Background(), pg.EmbeddedConfig{
			DataDir: dir,
			BinDir:  os.Getenv("ENTREPOT_PG_BIN"),
			Settings: map[string]string{
				"max_connections": "400", // many packages at once
				"shared_buffers":  "128MB",
				"autovacuum":      "off", // it would hold templates open
				"max_wal_size":    "2GB",
				"wal_level":       "minimal",
				"max_wal_senders": "0",
			},
		})
		if err != nil {
			return 1, err
		}
		defer server.Stop(context.Background())
		env = append(env, "ENTREPOT_TEST_PG="+server.URL())
	}

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 127, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig) // an error means it has just ended
		case err := <-done:
			return exitCode(err)
		}
	}
}

// exitCode is what a shell would report: 128 + n for a death by signal n.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 1, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
