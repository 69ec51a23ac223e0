package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
	"github.com/entrepot-dev/entrepot/services/internal/scenario"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

const (
	// firstReaders are those who ask for a file at once.
	firstReaders = 8
	// smallFiles of the proxied channel; the large one streams through the plane while it comes.
	smallFiles, largeFile = 6, 3 << 20
	// perSync is how many files each sync is in charge of that are asked for while it stands still.
	perSync = 2
	// otherServes is how soon the other sync serves them: a gateway asks it when the first one has shown nothing for 5 s.
	otherServes = 8 * time.Second
)

// proxiedFile is a file of the proxied channel.
type proxiedFile struct{ path, sum string }

// proxiedChannel makes a channel with count files, the first one large, and serves it.
func (s *stage) proxiedChannel(count int) (*scenario.Upstream, []proxiedFile, error) {
	ch := synctest.NewChannel()
	contents := map[string][]byte{}
	var files []proxiedFile
	for i := range count {
		data := make([]byte, 20<<10+i)
		if i == 0 {
			data = make([]byte, largeFile)
		}
		for j := range data {
			data[j] = byte(j*(i+7) + j>>8)
		}
		path := ch.Add("noarch", fmt.Sprintf("proxied-%02d", i), "1", data)
		sum := sha256.Sum256(data)
		contents[path] = data
		files = append(files, proxiedFile{path, hex.EncodeToString(sum[:])})
	}
	contents["noarch/repodata.json"] = ch.Index("noarch")
	dir := filepath.Join(s.root, "proxied")
	for name, data := range contents {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, data, 0o644)); err != nil {
			return nil, nil, err
		}
	}
	up, err := scenario.Serve(&sample.Channel{Dir: dir, Subdirs: []string{"noarch"}}, "127.0.0.1", 300*time.Millisecond)
	return up, files, err
}

// inCharge names the sync that gateways ask first for a file.
func (s *stage) inCharge(channel *channelsv1.Channel, path string) *node {
	byURL := map[string]*node{}
	var urls []string
	for _, name := range syncs {
		n := s.nodes[name]
		url := "http://" + n.bytes
		byURL[url], urls = n, append(urls, url)
	}
	return byURL[fetchplane.Order(urls, fetchplane.RouteKey(channel.GetId(), path))[0]]
}

// readers have many ask for files at both gateways at once, and return how long the slowest answer took.
func (s *stage) readers(ctx context.Context, files []proxiedFile, each int) (time.Duration, error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range []string{"gateway-1", "gateway-2"} {
		for _, f := range files {
			for range each / 2 {
				g.Go(func() error {
					req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.nodes[name].url()+"/channels/proxy/"+f.path, nil)
					if err != nil {
						return err
					}
					resp, err := client.Do(req)
					if err != nil {
						return fmt.Errorf("%s after %s: %w", name, ms(time.Since(began)), err)
					}
					defer resp.Body.Close()
					h := sha256.New()
					size, err := io.Copy(h, resp.Body)
					if resp.StatusCode != http.StatusOK || err != nil || hex.EncodeToString(h.Sum(nil)) != f.sum {
						return fmt.Errorf("%s gives %d bytes of %s after %s: %s %w", name, size, f.path, ms(time.Since(began)), resp.Status, err)
					}
					return nil
				})
			}
		}
	}
	err := g.Wait()
	return time.Since(began), err
}

// proxy has readers at both gateways ask for files of a proxy channel that nobody has asked for before; then for others
// while the sync that is in charge of them stands still.
func (s *stage) proxy(ctx context.Context) error {
	up, files, err := s.proxiedChannel(40)
	if err != nil {
		return err
	}
	defer up.Close()
	private := false
	channel, err := s.client.CreateChannel(ctx, &channelsv1.CreateChannelRequest{
		Name: "proxy", Private: &private, Kind: channelsv1.ChannelKind_CHANNEL_KIND_PROXY, Mirror: &channelsv1.MirrorSettings{Url: up.URL},
	})
	if err != nil {
		return err
	}
	first, rest := files[:1+smallFiles], files[1+smallFiles:]
	took, err := s.readers(ctx, first, firstReaders)
	if err != nil {
		return err
	}
	if n := up.AllFiles(); n != len(first) {
		return fmt.Errorf("%d first readers of each of %d files at two gateways made %d requests upstream, not one for each file", firstReaders, len(first), n)
	}
	s.say("%d first readers of each of %d files, one of %d MiB, at two gateways and with two syncs: 1 request upstream for each file, all read in %s",
		firstReaders, len(first), largeFile>>20, ms(took))
	for _, name := range syncs {
		var its []proxiedFile
		for _, f := range rest {
			if len(its) < perSync && s.inCharge(channel, f.path).name == name {
				its = append(its, f)
			}
		}
		if len(its) < perSync {
			return fmt.Errorf("%s is in charge of %d of %d files: one of them has them all", name, len(its), len(rest))
		}
		if err := s.syncStandsStill(ctx, name, its); err != nil {
			return err
		}
		first = append(first, its...)
	}
	up.Close()
	if _, err := s.readers(ctx, first, 2); err != nil {
		return fmt.Errorf("without the upstream: %w", err)
	}
	s.say("all of it is served on after the upstream is gone")
	return nil
}

// syncStandsStill asks for files while the sync in charge of them is stopped, as one is on a machine that swaps: it takes
// connections, and says nothing.
func (s *stage) syncStandsStill(ctx context.Context, name string, files []proxiedFile) error {
	n := s.nodes[name]
	n.proc.signal(syscall.SIGSTOP)
	took, err := s.readers(ctx, files, 2)
	n.proc.signal(syscall.SIGCONT)
	if err != nil {
		return fmt.Errorf("%s stands still: %w", name, err)
	}
	if took > otherServes {
		return fmt.Errorf("%s stands still: the other one served its files after %s, more than %s", name, ms(took), otherServes)
	}
	s.say("%s stands still: the other sync served %d of its files within %s", name, len(files), ms(took))
	return s.allReady(ctx, healWithin)
}
