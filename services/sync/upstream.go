package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	gosync "sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// indexNames are asked for in this order: the smaller the better, and the unpatched records only if there is nothing else.
var indexNames = []string{"repodata.json.zst", "repodata.json.bz2", "repodata.json", "repodata_from_packages.json"}

const (
	// maxChanneldata bounds channeldata.json; the largest public one has 30 MB.
	maxChanneldata = 256 << 20
	// indexFetches is how many indexes are asked for at a time.
	indexFetches = 8
)

// upstream reads the indexes of one remote channel.
type upstream struct {
	remote  *fetch.Remote
	blobs   blob.Store
	store   store
	channel uuid.UUID
	url     string
	max     int64
}

// index is what is known of one subdir after it was asked for.
type index struct {
	subdirState
	// changed is false if upstream said that it has not changed, or that it still does not have it.
	changed bool
	// err is why the subdir could not be read this time; what the channel has of it is kept.
	err error
}

// survey asks for all indexes. It fails only if nothing could be learnt.
func (u *upstream) survey(ctx context.Context, only []string, force bool) (found []index, warnings []string, err error) {
	known, err := u.store.subdirs(ctx, u.channel, u.url)
	if err != nil {
		return nil, nil, err
	}
	before := map[string]subdirState{}
	for _, s := range known {
		before[s.Subdir] = s
	}
	names, listed, err := u.subdirs(ctx)
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("channeldata.json: %v; all known subdirs were asked for", err))
	}
	for s := range before { // what was there once is asked for again, also if channeldata.json has lost it
		if !slices.Contains(names, s) && before[s].IndexPath != "" {
			names = append(names, s)
		}
	}
	if len(only) > 0 {
		names = slices.DeleteFunc(names, func(s string) bool { return !slices.Contains(only, s) })
	}
	sort.Strings(names)
	found = make([]index, len(names))
	var mu gosync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(indexFetches)
	for i, name := range names {
		g.Go(func() error {
			old := before[name]
			old.Subdir = name
			ix := u.fetch(gctx, old, force)
			if ix.err == nil && ix.IndexPath == "" && old.Records > 0 && !listed[name] {
				// A 404 where there was an index may be a broken server; only an upstream that still answers for its
				// other subdirs, and no longer lists this one, has dropped it.
				ix.subdirState, ix.err = old, fault.New(fault.Upstream, "the index is gone (404)")
			}
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			mu.Lock()
			defer mu.Unlock()
			found[i] = ix
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	return found, warnings, firstIfAll(found)
}

// firstIfAll returns an error if no subdir could be read and at least one failed.
func firstIfAll(found []index) error {
	var first error
	for _, ix := range found {
		if ix.err == nil && ix.IndexPath != "" {
			return nil
		}
		if first == nil && ix.err != nil {
			first = fmt.Errorf("%s: %w", ix.Subdir, ix.err)
		}
	}
	return first
}

// subdirs returns which subdirs to ask for, and which of them channeldata.json lists.
func (u *upstream) subdirs(ctx context.Context) (names []string, listed map[string]bool, err error) {
	listed = map[string]bool{}
	all := dist.KnownSubdirs()
	resp, err := u.remote.Get(ctx, fetch.Request{Path: "channeldata.json", MaxSize: maxChanneldata, AcceptEncoding: "gzip"})
	if fault.Is(err, fault.NotFound) {
		return all, listed, nil
	}
	if err != nil {
		return all, listed, err
	}
	defer resp.Body.Close()
	var data struct {
		Subdirs *[]string `json:"subdirs"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&data); err != nil {
		return all, listed, fmt.Errorf("is not JSON: %w", err)
	}
	if data.Subdirs == nil {
		return []string{"noarch"}, listed, nil
	}
	names = []string{"noarch"}
	for _, s := range *data.Subdirs {
		if dist.ValidSubdir(s) && !listed[s] {
			listed[s] = true
			if s != "noarch" {
				names = append(names, s)
			}
		}
	}
	return names, listed, nil
}

// fetch asks for one subdir's index. What served last time is asked first, with its ETag.
func (u *upstream) fetch(ctx context.Context, old subdirState, force bool) index {
	order := slices.Clone(indexNames)
	if i := slices.Index(order, strings.TrimPrefix(old.IndexPath, old.Subdir+"/")); i > 0 && old.IndexPath != "" {
		order = append([]string{order[i]}, slices.Delete(order, i, i+1)...)
	}
	var broken error
	for _, name := range order {
		path := old.Subdir + "/" + name
		req := fetch.Request{Path: path, MaxSize: u.max}
		if path == old.IndexPath && !force && broken == nil {
			req.IfNoneMatch = old.ETag
			if old.ETag == "" && old.LastModified != nil {
				req.IfModifiedSince = *old.LastModified
			}
		}
		resp, err := u.remote.Get(ctx, req)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return index{subdirState: old, err: fmt.Errorf("%s: %w", path, err)}
		}
		if resp.NotModified {
			resp.Body.Close()
			return index{subdirState: old}
		}
		next, err := u.keep(ctx, old.Subdir, path, resp)
		if err == nil {
			return index{subdirState: next, changed: !bytes.Equal(next.IndexDigest, old.IndexDigest) || next.IndexPath != old.IndexPath}
		}
		if ctx.Err() != nil {
			return index{subdirState: old, err: context.Cause(ctx)}
		}
		// A format that is broken may stand beside one that is whole.
		if broken == nil {
			broken = fmt.Errorf("%s: %w", path, err)
		}
	}
	if broken != nil {
		return index{subdirState: old, err: broken}
	}
	return index{subdirState: subdirState{Subdir: old.Subdir}, changed: old.IndexPath != ""}
}

// keep stores an index as it comes, and reads it once to the end: only an index that is whole and sound is remembered.
func (u *upstream) keep(ctx context.Context, subdir, path string, resp *fetch.Response) (subdirState, error) {
	defer resp.Body.Close()
	if resp.EndUnknown {
		// Truncation cannot be told from the end here, but the JSON's closing brace can.
		resp.Size = fetch.UnknownSize
	}
	info, err := u.blobs.Put(ctx, resp.Body, blob.PutOptions{MaxSize: u.max})
	if err != nil {
		return subdirState{}, err
	}
	s := subdirState{Subdir: subdir, IndexPath: path, ETag: resp.ETag, IndexDigest: info.Digest[:]}
	if !resp.LastModified.IsZero() {
		t := resp.LastModified
		s.LastModified = &t
	}
	_, err = readIndex(ctx, u.blobs, s, repodata.ReadOptions{
		Record:  func(repodata.Bucket, string, []byte) error { s.Records++; return nil },
		Problem: func(*repodata.Error) error { return nil }, // told when the plan is made
	})
	return s, err
}

// readIndex reads a stored index.
func readIndex(ctx context.Context, blobs blob.Store, s subdirState, opts repodata.ReadOptions) (*repodata.Document, error) {
	b, err := blobs.Open(ctx, blob.Digest(s.IndexDigest))
	if err != nil {
		return nil, err
	}
	defer b.Close()
	dec, err := repodata.NewDecoder(b, repodata.EncodingOf(s.IndexPath), repodata.DecodeLimits{})
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	doc, err := repodata.Read(dec, opts)
	if err != nil {
		return nil, err
	}
	// What follows the document would be the sign of a second frame or of a mixed file.
	if n, err := io.Copy(io.Discard, io.LimitReader(dec, 1)); err != nil || n != 0 {
		return nil, errors.Join(err, fault.New(fault.Upstream, "the index goes on behind its end"))
	}
	if doc.Info.Subdir != "" && doc.Info.Subdir != s.Subdir {
		return nil, fault.New(fault.Upstream, "the index says that it is of %q", doc.Info.Subdir)
	}
	return doc, nil
}
