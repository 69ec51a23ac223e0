package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

const (
	// watchedName is the channel that the reader reads and the writer fills.
	watchedName = "watched"
	// busyName is a channel for the uploads that are under way while something is stopped.
	busyName = "busy"
	// readFirst is how many files it has before the reader begins.
	readFirst = 8
	// writeEvery is the pause between two uploads.
	writeEvery = 700 * time.Millisecond
)

// writer uploads one package after the other for as long as the test lasts, each until it is acknowledged. What was
// acknowledged has to be there at the end.
type writer struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	acked    []sample.File
	tries    int
	problems []string
}

// write begins with the files from the given one on.
func write(server, key string, from *sample.Channel, first int) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{cancel: cancel, done: make(chan struct{}), acked: append([]sample.File(nil), from.Files[:first]...)}
	go func() {
		defer close(w.done)
		c, err := restclient.New(restclient.Config{Server: server, Key: key, UserAgent: "entrepot/clustertest-writer"})
		if err != nil {
			w.problem("%v", err)
			return
		}
		defer c.CloseIdle()
		for _, f := range from.Files[first:] {
			if !w.upload(ctx, c, from, f) {
				return
			}
			if !sleep(ctx, writeEvery) {
				return
			}
		}
	}()
	return w
}

// upload tries until the file is acknowledged; false means that the test is over, and the file may be there or not.
func (w *writer) upload(ctx context.Context, c *restclient.Client, from *sample.Channel, f sample.File) bool {
	data, err := os.ReadFile(filepath.Join(from.Dir, filepath.FromSlash(f.Path)))
	if err != nil {
		w.problem("%v", err)
		return false
	}
	_, name, _ := strings.Cut(f.Path, "/")
	for {
		w.mu.Lock()
		w.tries++
		w.mu.Unlock()
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second) // an upload under way is not left in doubt
		_, _, err := c.Upload(one, restclient.Upload{Channel: watchedName, Filename: name, Body: bytes.NewReader(data), Size: f.Size, SHA256: f.SHA256})
		cancel()
		if err == nil {
			w.mu.Lock()
			w.acked = append(w.acked, f)
			w.mu.Unlock()
			return true
		}
		switch fault.KindOf(err) {
		case fault.Unavailable, fault.Timeout, fault.Upstream: // comes right
		default:
			w.problem("upload of %s: %v", f.Path, err)
		}
		if !sleep(ctx, 200*time.Millisecond) {
			// Whether the last try came through is not known; the comparison at the end must know.
			w.mu.Lock()
			w.acked = append(w.acked, f)
			w.mu.Unlock()
			_, _, err := c.Upload(context.WithoutCancel(ctx), restclient.Upload{Channel: watchedName, Filename: name, Body: bytes.NewReader(data), Size: f.Size, SHA256: f.SHA256})
			if err != nil {
				w.problem("last upload of %s: %v", f.Path, err)
			}
			return false
		}
	}
}

func (w *writer) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) < 20 {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

// stop ends it and returns what was acknowledged. It may be called twice.
func (w *writer) stop() (acked []sample.File, tries int, problems []string) {
	w.cancel()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked, w.tries, w.problems
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// createChannel makes a public channel, a mirror if it has an upstream.
func (s *stage) createChannel(ctx context.Context, name, upstream string) error {
	private := false
	req := &channelsv1.CreateChannelRequest{Name: name, Private: &private}
	if upstream != "" {
		req.Mirror = &channelsv1.MirrorSettings{Url: upstream}
	}
	_, err := s.client.CreateChannel(ctx, req)
	return err
}
