package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// listings checks every list that the channel has: the three indexes of each subdir, and the REST list over all of them,
// which would show a subdir that nobody expects.
func (v *verifier) listings(ctx context.Context, want listing) error {
	deadline := time.Now().Add(v.settle)
	for _, subdir := range want.subdirs() {
		for _, l := range []struct {
			name string
			read func(context.Context, string) (listing, error)
		}{
			{"repodata.json", v.readPlain},
			{"repodata.json.zst", v.readZstd},
			{"repodata_shards.msgpack.zst", v.readShards},
		} {
			err := v.settled(ctx, deadline, subdir+"/"+l.name, want.of(subdir), func(ctx context.Context) (listing, error) {
				return l.read(ctx, subdir)
			})
			if err != nil {
				return err
			}
		}
	}
	return v.settled(ctx, deadline, "the REST list of files", want, v.readREST)
}

// poll is the time between two looks at an index that is not as it should be yet.
const poll = 100 * time.Millisecond

// settled compares a list until it is right or the deadline has passed: indexes follow a revision, a moment later.
func (v *verifier) settled(ctx context.Context, deadline time.Time, name string, want listing, read func(context.Context) (listing, error)) error {
	for {
		var got listing
		err := again(ctx, v.patience, func(bool) (err error) {
			got, err = read(ctx)
			return err
		})
		if err != nil && unanswered(ctx, err) {
			return err
		}
		if err == nil && same(want, got) {
			return nil
		}
		if time.Now().After(deadline) {
			if err != nil {
				v.found.problem("%s: %s cannot be read: %v", v.channel, name, err)
			} else {
				v.differences(name, want, got)
			}
			return nil
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func same(want, got listing) bool {
	if len(want) != len(got) {
		return false
	}
	for path, e := range want {
		g, ok := got[path]
		if !ok || e.differs(g) != "" {
			return false
		}
	}
	return true
}

// differences notes each file that a list lacks, has too much, or describes wrongly.
func (v *verifier) differences(name string, want, got listing) {
	for _, path := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[path]
		if !ok {
			v.found.file(path, "is not in %s of %s", name, v.channel)
		} else if why := want[path].differs(g); why != "" {
			v.found.file(path, "%s of %s says %s", name, v.channel, why)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			v.found.file(path, "is in %s of %s, where it does not belong", name, v.channel)
		}
	}
}

// maxIndex bounds what an index may take in memory; the largest public one has some hundred megabytes.
const maxIndex = 1 << 30

func body(resp *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxIndex))
	if err != nil {
		return nil, fmt.Errorf("the download broke off: %w", err)
	}
	return data, nil
}

func (v *verifier) readPlain(ctx context.Context, subdir string) (listing, error) {
	data, err := body(v.c.Open(ctx, v.channel, subdir+"/repodata.json"))
	if err != nil {
		return nil, err
	}
	return readRepodata(subdir, data, repodata.Plain)
}

func (v *verifier) readZstd(ctx context.Context, subdir string) (listing, error) {
	data, err := body(v.c.Open(ctx, v.channel, subdir+"/repodata.json.zst"))
	if err != nil {
		return nil, err
	}
	return readRepodata(subdir, data, repodata.Zstd)
}

// readRepodata reads an index into a listing.
func readRepodata(subdir string, data []byte, enc repodata.Encoding) (listing, error) {
	r, err := repodata.NewDecoder(bytes.NewReader(data), enc, repodata.DecodeLimits{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := listing{}
	for e, err := range repodata.Records(r, repodata.ReadOptions{}) {
		if err != nil {
			return nil, err
		}
		if err := out.add(subdir, e.Bucket, e.Key, e.Raw); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (l listing) add(subdir string, b repodata.Bucket, key string, raw []byte) error {
	rec, err := repodata.ParseRecord(raw)
	if err != nil {
		return fmt.Errorf("record of %s: %w", key, err)
	}
	path := subdir + "/" + b.Filename(key)
	if _, twice := l[path]; twice {
		return fmt.Errorf("%s is listed twice", path)
	}
	l[path] = entry{SHA256: rec.SHA256, MD5: rec.MD5, Size: int64(rec.Size)}
	return nil
}

// readShards reads the index of shards and every shard, each of which must have the digest that it is listed by.
func (v *verifier) readShards(ctx context.Context, subdir string) (listing, error) {
	path := subdir + "/repodata_shards.msgpack.zst"
	data, err := body(v.c.Open(ctx, v.channel, path))
	if err != nil {
		return nil, err
	}
	ix, err := repodata.ParseIndex(data, repodata.ParseOptions{})
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	out := listing{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for name, digest := range ix.Shards {
		g.Go(func() error {
			data, err := body(v.c.OpenURL(ctx, v.channel, path, ix.ShardsBaseURL+repodata.ShardPath(digest)))
			if err != nil {
				return fmt.Errorf("shard of %s: %w", name, err)
			}
			if sha256.Sum256(data) != digest {
				return fmt.Errorf("the shard of %s has another digest than its index says", name)
			}
			shard, err := repodata.ParseShard(data, repodata.ParseOptions{})
			if err != nil {
				return fmt.Errorf("shard of %s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, r := range shard.Records {
				if err := out.add(subdir, r.Bucket, r.Key, r.Raw); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return out, g.Wait()
}

func (v *verifier) readREST(ctx context.Context) (listing, error) {
	files, err := v.c.Files(ctx, v.channel)
	if err != nil {
		return nil, err
	}
	out := listing{}
	for _, f := range files {
		out[f.GetPath()] = entry{SHA256: f.GetSha256(), MD5: f.GetMd5(), Size: f.GetSize()}
	}
	return out, nil
}

// yardstick is what the mirror must hold: what the generator wrote, or what a foreign upstream's own index lists.
func (s *scenario) yardstick(ctx context.Context) (listing, error) {
	out := listing{}
	if s.upstream != nil {
		for _, f := range s.upstream.Channel.Files {
			out[f.Path] = entry{SHA256: f.SHA256, MD5: f.MD5, Size: f.Size}
		}
		return out, nil
	}
	began := time.Now()
	httpClient := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	defer httpClient.CloseIdleConnections()
	for _, subdir := range dist.KnownSubdirs() {
		l, err := readUpstream(ctx, httpClient, s.upstreamURL, subdir)
		if err != nil {
			return nil, fmt.Errorf("read the upstream's index of %s: %w", subdir, err)
		}
		maps.Copy(out, l)
	}
	if len(out) == 0 {
		return nil, fault.Field("--upstream", "%s lists no packages: is it the URL of a conda channel, without a subdir?", s.upstreamURL)
	}
	s.say("upstream   %s, %d packages by its own index, read in %.1fs", s.upstreamURL, len(out), time.Since(began).Seconds())
	return out, nil
}

// errAbsent says that the upstream has no such file.
var errAbsent = errors.New("not there")

// readUpstream reads a subdir's index, compressed if the upstream has it so; a subdir that it does not have is empty.
func readUpstream(ctx context.Context, c *http.Client, upstream, subdir string) (listing, error) {
	for _, f := range []struct {
		name string
		enc  repodata.Encoding
	}{{"repodata.json.zst", repodata.Zstd}, {"repodata.json", repodata.Plain}} {
		data, err := fetch(ctx, c, upstream+"/"+subdir+"/"+f.name)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return readRepodata(subdir, data, f.enc)
	}
	return nil, nil
}

func fetch(ctx context.Context, c *http.Client, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fault.Field("--upstream", "%v", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden {
			return nil, errAbsent // stores of objects say 403 where they do not list
		}
		return nil, fmt.Errorf("%s answered %s", u, resp.Status)
	}
	return body(resp, nil)
}
