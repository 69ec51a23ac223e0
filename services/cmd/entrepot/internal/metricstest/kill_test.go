package metricstest

import (
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// binary returns the program: the one that ENTREPOT_TEST_BIN names, or one built here.
func binary(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("ENTREPOT_TEST_BIN"); bin != "" {
		return bin
	}
	bin := filepath.Join(t.TempDir(), "entrepot")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/entrepot-dev/entrepot/services/cmd/entrepot").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestAKilledGatewayLosesASecond: what it counted more than a second before it was killed is there, and nothing twice.
func TestAKilledGatewayLosesASecond(t *testing.T) {
	bin := binary(t)
	v := startSeveral(t)
	f := upload(t, v.Stack, "channel0")[0]
	cfg := v.config("gateway")
	http1, settings := freeAddr(t), filepath.Join(cfg.DataDir, "entrepot.yaml")
	yaml := "services:\n"
	for name, addr := range cfg.Services {
		yaml += "  " + name + ": " + addr + "\n"
	}
	if err := os.WriteFile(settings, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", "--target", "gateway", "--data-dir", cfg.DataDir, "--http-addr", http1, "--grpc-addr", freeAddr(t),
		"--service-addr", freeAddr(t), "--data-addr", freeAddr(t), "--ops-addr", freeAddr(t))
	cmd.Env = append(os.Environ(), "ENTREPOT_CONFIG="+settings, "ENTREPOT_DATABASE_URL="+v.DatabaseURL, "ENTREPOT_NATS_URL="+v.nats.URL(), "ENTREPOT_TARGET_SECRET="+v.secret.Reveal(),
		"ENTREPOT_DATA_URL="+cfg.DataURL, "ENTREPOT_DATABASE_CONNS=6")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Log(log.String())
		}
	})
	url := "http://" + http1
	eventually(t, "the gateway", func() bool {
		resp, err := http.Get(url + "/health/live")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	http.DefaultClient.CloseIdleConnections()

	// Downloads without a pause; each notes when it was done.
	var done []time.Time
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		if fetch(t, url, "/get/channel0/"+f.path(), 1) == 1 {
			done = append(done, time.Now())
		}
		time.Sleep(5 * time.Millisecond)
	}
	killed := time.Now()
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ended
	safe := 0
	for _, at := range done {
		if killed.Sub(at) > 1500*time.Millisecond { // the second, and what this machine may take to send
			safe++
		}
	}
	if len(done) < 50 || safe < 20 {
		t.Fatalf("%d downloads, %d of them early", len(done), safe)
	}
	eventually(t, "the early downloads", func() bool { return total(t, v.Anonymous(), "channel0") >= safe })
	time.Sleep(2 * time.Second)
	if n := total(t, v.Anonymous(), "channel0"); n > len(done) || n < safe {
		t.Errorf("%d counted of %d downloads; %d were made in time", n, len(done), safe)
	}
}
