package cli_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/cli"
)

func TestTheNATSServerAnswersProbes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ops := l.Addr().String()
	l.Close()
	var out bytes.Buffer
	root := cli.Root()
	root.SetArgs([]string{"nats", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--ops-addr", ops})
	root.SetOut(&out)
	root.SetErr(&out)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := client.Get("http://" + ops + "/healthz/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v", err)
		}
	}
	// What a container's probe runs.
	if told, err := run(t, "health", "--ops-addr", ops); err != nil || told != "ok\n  nats: ok\n  ops: ok\n" {
		t.Errorf("%q, %v", told, err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}
