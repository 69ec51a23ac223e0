package demo

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// runBinary runs the built program as a user would, with a data directory of its own, and returns what it left behind.
func runBinary(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	bin := os.Getenv("ENTREPOT_TEST_BIN")
	if bin == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("ENTREPOT_TEST_BIN must name the built program: the demo is not to go untested")
		}
		t.Skip("ENTREPOT_TEST_BIN does not name the built program; make build makes it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"demo", "--exit"}, args...)...)
	// An interrupt first, so that the private database goes down in order.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v\n%s", err, errs.String())
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestTheRealPlatformHolds(t *testing.T) {
	code, stdout, stderr := runBinary(t)
	if code != 0 || stdout != "" || !strings.Contains(stderr, "Everything held") {
		t.Errorf("exit %d\nstdout: %s\nstderr: %s", code, stdout, stderr)
	}
}

func TestTheRealPlatformRefusesSpoiltFilesAndNoOthers(t *testing.T) {
	up, err := sample.Serve(t.TempDir(), sample.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	want, err := up.Corrupt(3)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := runBinary(t, "--corrupt", "3")
	got := slices.Collect(strings.Lines(stdout))
	for i := range got {
		got[i] = strings.TrimSuffix(got[i], "\n")
	}
	if d := cmp.Diff(want, got); code != exitDiffers || d != "" {
		t.Errorf("exit %d; spoilt (-) and named (+):\n%s\nstderr: %s", code, d, stderr)
	}
}

func TestTheRealProgramRefusesADataDirectoryThatIsNotEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := runBinary(t, "--data-dir", dir); code != exitNotStarted || !strings.Contains(stderr, "is not empty") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
