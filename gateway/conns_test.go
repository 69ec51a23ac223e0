package gateway

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

func TestAShutdownDoesNotWaitForSilentConnections(t *testing.T) {
	var quiet silent
	started, release := make(chan struct{}), make(chan struct{})
	srv := &http.Server{ConnState: quiet.track, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-release
		_, _ = io.WriteString(w, "whole")
	})}
	srv.RegisterOnShutdown(quiet.close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	idle, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()

	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- string(body)
	}()
	<-started // accepted after the idle one, which is therefore known
	down := make(chan error, 1)
	begin := time.Now()
	go func() { down <- srv.Shutdown(context.Background()) }()
	// The silent connection is cut at once, while the request is still being answered.
	if _, err := idle.Read(make([]byte, 1)); err == nil {
		t.Error("the silent connection was answered")
	}
	close(release)
	if got := <-answer; got != "whole" {
		t.Errorf("the request under way got %q", got)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("the shutdown took %v", took)
	}
	if err := <-served; err != http.ErrServerClosed {
		t.Error(err)
	}
}
