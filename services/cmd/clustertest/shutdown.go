package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// stopping sends SIGTERM and sees readiness drop while the process still answers.
func stopping(ctx context.Context, n *node) error {
	n.proc.signal(syscall.SIGTERM)
	began := time.Now()
	for {
		a := probe(ctx, "http://"+n.ops+"/healthz/ready")
		if a.status == http.StatusServiceUnavailable && strings.Contains(a.body, "stopping") {
			return nil
		}
		if time.Since(began) > time.Second || !n.proc.running() {
			return fmt.Errorf("%s: %s after SIGTERM readiness says: %s", n.name, ms(time.Since(began)), a)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ended waits for the end of a process that was told to stop, and wants code 0.
func (s *stage) ended(n *node, began time.Time, within time.Duration) error {
	code, err := n.proc.wait(time.Until(began.Add(within)))
	if err != nil {
		return err
	}
	took := n.proc.ended.Sub(began)
	if code != 0 {
		return fmt.Errorf("%s ended with code %d", n.name, code)
	}
	s.say("%s: ended with code 0 in %s", n.name, ms(took))
	return nil
}

// back restarts a node and waits for everybody.
func (s *stage) back(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := s.restart(name); err != nil {
			return err
		}
	}
	err := s.allReady(ctx, 20*time.Second)
	s.reader.Tolerate(false)
	return err
}

// stopGateway stops a gateway in the middle of an upload, a download and an event stream.
func (s *stage) stopGateway(ctx context.Context) error {
	path, sum, err := s.bigChannel(ctx)
	if err != nil {
		return fmt.Errorf("a channel with a large file: %w", err)
	}
	up, err := s.slowUpstream("gateway", 33, 300*time.Millisecond)
	if err != nil {
		return err
	}
	defer up.Close()
	job, err := s.startMirror(ctx, "followed", up.URL)
	if err != nil {
		return err
	}

	n := s.nodes["gateway-2"]
	name, data, err := fileOf(s.busy, 0)
	if err != nil {
		return err
	}
	upload, err := s.upload(ctx, n, name, data)
	if err != nil {
		return fmt.Errorf("begin an upload: %w", err)
	}
	download, err := slowDownload(ctx, n.url()+"/channels/big/"+path)
	if err != nil {
		return fmt.Errorf("begin a download: %w", err)
	}
	defer download.Body.Close()
	events, err := s.events(ctx, n, job)
	if err != nil {
		return err
	}
	s.reader.Tolerate(true)
	began := time.Now()
	if err := stopping(ctx, n); err != nil {
		return err
	}
	if a := probe(ctx, n.url()+"/health/ready"); a.status != http.StatusServiceUnavailable {
		return fmt.Errorf("the edge's own readiness says in the drain delay: %s", a)
	}
	s.say("gateway-2 got SIGTERM: not ready after %s, with an upload, a download and an event stream under way", ms(time.Since(began)))
	for time.Since(began) < drainDelay+time.Second {
		c, err := net.Dial("tcp", n.http)
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(20 * time.Millisecond)
	}
	if c, err := net.Dial("tcp", n.http); err == nil {
		c.Close()
		return fmt.Errorf("gateway-2 still takes connections %s after SIGTERM", ms(time.Since(began)))
	}
	for open := true; open; {
		select {
		case _, open = <-events:
		case <-time.After(3 * time.Second):
			return errors.New("the event stream does not end")
		}
	}
	if !n.proc.running() {
		return errors.New("gateway-2 has ended with requests under way")
	}
	if err := upload.finish(); err != nil {
		return fmt.Errorf("the upload under way: %w", err)
	}
	h := sha256.New()
	if size, err := io.Copy(h, download.Body); err != nil || hex.EncodeToString(h.Sum(nil)) != sum {
		return fmt.Errorf("the download under way: %d of %d bytes, %w", size, bigFile, err)
	}
	s.say("upload and download ended well, the event stream ended at once")
	if err := s.ended(n, began, 10*time.Second); err != nil {
		return err
	}
	if err := s.back(ctx, n.name); err != nil {
		return err
	}
	up.SetDelay(0)
	return s.succeeded(ctx, job)
}

func fileOf(ch *sample.Channel, i int) (name string, data []byte, err error) {
	data, err = os.ReadFile(filepath.Join(ch.Dir, filepath.FromSlash(ch.Files[i].Path)))
	_, name, _ = strings.Cut(ch.Files[i].Path, "/")
	return name, data, err
}

// startMirror makes a mirror channel and starts its sync.
func (s *stage) startMirror(ctx context.Context, name, upstream string) (job string, err error) {
	if err := s.createChannel(ctx, name, upstream); err != nil {
		return "", err
	}
	started, err := s.client.StartSync(ctx, &syncv1.StartSyncRequest{Channel: name})
	return fmt.Sprint(started.GetNumber()), err
}

// stopChannels stops the service in the middle of a call: a lock keeps the call's transaction from its end for a while.
func (s *stage) stopChannels(ctx context.Context) error {
	name, data, err := fileOf(s.busy, 1)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, s.parts.postgres.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE channels.files IN EXCLUSIVE MODE"); err != nil {
		return err
	}
	n := s.nodes["channels"]
	upload, err := s.upload(ctx, s.nodes["gateway-1"], name, data)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	go func() { result <- upload.finish() }()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		waiting, err := query[int](ctx, s.cluster, "SELECT count(*)::int FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'entrepot channels'")
		if err != nil {
			return err
		}
		if waiting > 0 {
			break
		}
		if time.Now().After(deadline) {
			return errors.New("no call of channels waits for the lock")
		}
	}
	s.reader.Tolerate(true)
	began := time.Now()
	if err := stopping(ctx, n); err != nil {
		return err
	}
	time.Sleep(drainDelay + 500*time.Millisecond - time.Since(began))
	if !n.proc.running() {
		return errors.New("channels has ended with a call under way")
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if err := <-result; err != nil {
		return fmt.Errorf("the upload whose call was under way: %w", err)
	}
	s.say("channels got SIGTERM in the middle of a call, which ended well")
	if err := s.ended(n, began, 10*time.Second); err != nil {
		return err
	}
	return s.back(ctx, n.name)
}

// stopJobs stops the service while somebody follows a job, who must not notice.
func (s *stage) stopJobs(ctx context.Context) error {
	up, err := s.slowUpstream("jobs", 34, 300*time.Millisecond)
	if err != nil {
		return err
	}
	defer up.Close()
	job, err := s.startMirror(ctx, "followed-2", up.URL)
	if err != nil {
		return err
	}
	followed := make(chan error, 1)
	go func() { followed <- s.succeeded(ctx, job) }()
	if _, err := up.AwaitFiles(ctx, 5); err != nil {
		return err
	}
	n := s.nodes["jobs"]
	began := time.Now()
	if err := stopping(ctx, n); err != nil {
		return err
	}
	if err := s.ended(n, began, drainDelay+3*time.Second); err != nil {
		return fmt.Errorf("while a job is followed: %w", err)
	}
	if err := s.back(ctx, n.name); err != nil {
		return err
	}
	up.SetDelay(0)
	if err := <-followed; err != nil {
		return fmt.Errorf("who followed a job: %w", err)
	}
	s.say("who followed a job meanwhile saw its end")
	return nil
}

// secondSignal tells a gateway that waits for an upload once more.
func (s *stage) secondSignal(ctx context.Context) error {
	n := s.nodes["gateway-1"]
	data := make([]byte, 64<<10)
	upload, err := s.upload(ctx, n, "nothing-1-0.conda", data)
	if err != nil {
		return err
	}
	defer upload.pipe.Close()
	s.reader.Tolerate(true)
	if err := stopping(ctx, n); err != nil {
		return err
	}
	time.Sleep(drainDelay + 200*time.Millisecond)
	if !n.proc.running() {
		return errors.New("gateway-1 did not wait for the upload")
	}
	again := time.Now()
	n.proc.signal(syscall.SIGTERM)
	code, err := n.proc.wait(time.Second)
	if err != nil {
		return err
	}
	if code != -int(syscall.SIGTERM) {
		return fmt.Errorf("gateway-1 ended with code %d after a second SIGTERM", code)
	}
	s.say("gateway-1 waited for an upload, and ended %s after a second SIGTERM", ms(n.proc.ended.Sub(again)))
	return s.back(ctx, n.name)
}
