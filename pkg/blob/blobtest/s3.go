package blobtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
)

// BinaryEnv names the environment variable with the path of the S3 server; without it, <repository>/bin/versitygw is used.
const BinaryEnv = "ENTREPOT_TEST_VERSITYGW"

// The test server's only account.
const (
	AccessKey = "entrepot-test"
	SecretKey = "entrepot-test-secret"
)

// StartS3 starts a real S3 server (versitygw over a temporary directory) for the duration of the test, and returns how to
// reach it, with CreateBucket set. Without the binary the test is skipped, but fails where CI=true: there it must be built.
func StartS3(t testing.TB) blob.S3Config {
	t.Helper()
	bin := findServer(t)
	dir := t.TempDir()
	for _, sub := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// A port that was free a moment ago may be taken when the server binds it; then it exits and the next one is tried.
	for range 5 {
		addr := freeAddr(t)
		var out lockedBuffer
		cmd := exec.Command(bin, "--access", AccessKey, "--secret", SecretKey, "--port", addr, "--quiet", "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatalf("start the S3 server: %v", err)
		}
		exited := make(chan struct{})
		go func() { _ = cmd.Wait(); close(exited) }()
		if answers(addr, exited) {
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				<-exited
				http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			})
			return blob.S3Config{
				Endpoint: addr, Bucket: "blobs", Prefix: "test", Region: "us-east-1",
				AccessKey: AccessKey, SecretKey: SecretKey, Insecure: true, PathStyle: true, CreateBucket: true,
			}
		}
		_ = cmd.Process.Kill()
		<-exited
		t.Logf("the S3 server did not start on %s: %s", addr, out.String())
	}
	t.Fatal("the S3 server did not start")
	panic("unreachable")
}

// findServer returns the server's path, or skips.
func findServer(t testing.TB) string {
	t.Helper()
	bin := os.Getenv(BinaryEnv)
	if bin == "" {
		_, file, _, _ := runtime.Caller(0)
		bin = filepath.Join(filepath.Dir(file), "..", "..", "..", "bin", "versitygw")
	}
	if _, err := os.Stat(bin); err != nil {
		msg := fmt.Sprintf("no S3 server at %s: build it with `make tools` or set %s", bin, BinaryEnv)
		if os.Getenv("CI") == "true" {
			t.Fatal(msg)
		}
		t.Skip(msg)
	}
	return bin
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// answers polls until the server speaks HTTP or is gone. Whether it does cannot be waited for in another way.
func answers(addr string, exited <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return true
		}
		select {
		case <-exited:
			return false
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// lockedBuffer collects output that another goroutine may be reading.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
