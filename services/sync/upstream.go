package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/repodata"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// indexNames are asked for in this order: the smaller the better, and the unpatched records only if there is nothing else.
var indexNames = []string{"repodata.json.zst", "repodata.json.bz2", "repodata.json", "repodata_from_packages.json"}

const (
	// maxChanneldata bounds channeldata.json; the largest public one has 30 MB.
	maxChanneldata = 128 << 20
	// maxSubdirs bounds what channeldata.json can make us ask for.
	maxSubdirs = 100
	// indexFetches is how many indexes are asked for at a time.
	indexFetches = 8
)

// upstream reads the indexes of one remote channel.
type upstream struct {
	remote  fetcher
	blobs   blob.Store
	store   store
	channel uuid.UUID
	url     string
	max     int64
	// settings say which records are wanted.
	settings *channelsv1.MirrorSettings
	// doubted are subdirs of which files were not what the index says.
	doubted map[string]bool
	// headless says that the server does not answer HEAD.
	headless atomic.Bool
}

// index is what is known of one subdir after it was asked for.
type index struct {
	subdirState
	// changed is false if upstream said that it has not changed, or that it still does not have it.
	changed bool
	// facts are what its reading brought to light; nil if it was not read this time.
	facts *facts
	// note is what a person should know of the way it was read.
	note string
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
	list := subdirList{}
	names := slices.Clone(only)
	if len(only) == 0 {
		if list, err = u.subdirs(ctx, before[channeldata], force); err != nil {
			if ctx.Err() != nil {
				return nil, nil, context.Cause(ctx)
			}
			warnings = append(warnings, fmt.Sprintf("channeldata.json: %v; all known subdirs were asked for", err))
		}
		names = list.names
		for s, old := range before { // what was there once is asked for again, also if channeldata.json has lost it
			if old.known() && s != channeldata {
				names = append(names, s)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	found = make([]index, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(indexFetches)
	for i, name := range names {
		g.Go(func() error {
			old := before[name]
			old.Subdir = name
			found[i] = u.fetch(gctx, old, force)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	answers := slices.ContainsFunc(found, func(ix index) bool { return ix.err == nil && ix.IndexPath != "" })
	for i, ix := range found {
		old := before[ix.Subdir]
		if ix.note != "" {
			warnings = append(warnings, ix.note)
		}
		if ix.err != nil || ix.IndexPath != "" || old.IndexPath == "" {
			continue
		}
		// A 404 where there was an index may be a broken server. Only an upstream that still answers for another subdir,
		// and does not list this one, has dropped it.
		if !answers || !list.told || list.listed[ix.Subdir] {
			found[i] = index{subdirState: old, err: fault.New(fault.Upstream, "%s: the index is gone (404)", old.IndexPath).WithReason(fetch.ReasonNotFound)}
		}
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
		if first == nil {
			first = ix.err
		}
	}
	return first
}

// channeldata stands in place of a subdir for what was seen of channeldata.json; no subdir is called so.
const channeldata = "channeldata.json"

// subdirList says which subdirs to ask for.
type subdirList struct {
	names  []string
	listed map[string]bool // those that channeldata.json names
	told   bool            // there is a channeldata.json that names subdirs
}

// subdirs reads channeldata.json. Without one that can be read, all known subdirs are asked for.
func (u *upstream) subdirs(ctx context.Context, old subdirState, force bool) (subdirList, error) {
	all := subdirList{names: dist.KnownSubdirs()}
	req := fetch.Request{Path: channeldata, MaxSize: maxChanneldata, AcceptEncoding: "gzip"}
	if !force && old.known() {
		req.IfNoneMatch = old.ETag
	}
	resp, err := u.remote.Get(ctx, req)
	if fault.Is(err, fault.NotFound) {
		return all, nil
	}
	if err != nil {
		return all, err
	}
	defer resp.Body.Close()
	var kept []byte
	if resp.NotModified {
		// What is kept is what it said, not the file, which may be large.
		if kept, err = blob.ReadAll(ctx, u.blobs, blob.Digest(old.IndexDigest), maxChanneldata); err != nil {
			return all, err
		}
	}
	var data struct {
		Subdirs []string `json:"subdirs"`
	}
	var body io.Reader = resp.Body
	if kept != nil {
		body = bytes.NewReader(kept)
	}
	if err := json.NewDecoder(body).Decode(&data); err != nil {
		return all, fmt.Errorf("is not JSON: %w", err)
	}
	out := subdirList{names: []string{"noarch"}, listed: map[string]bool{}, told: data.Subdirs != nil}
	for _, s := range data.Subdirs {
		if dist.ValidSubdir(s) && len(out.names) < maxSubdirs {
			out.listed[s] = true
			out.names = append(out.names, s)
		}
	}
	if kept == nil && resp.ETag != "" {
		return out, u.rememberList(ctx, data.Subdirs, resp.ETag)
	}
	return out, nil
}

// rememberList keeps the list, to be asked for by its ETag next time.
func (u *upstream) rememberList(ctx context.Context, subdirs []string, etag string) error {
	data, err := json.Marshal(map[string]any{"subdirs": subdirs})
	if err != nil {
		return err
	}
	info, err := u.blobs.Put(ctx, bytes.NewReader(data), blob.PutOptions{})
	if err != nil {
		return err
	}
	return u.store.putSubdir(ctx, u.channel, u.url, subdirState{Subdir: channeldata, IndexPath: channeldata, ETag: etag, IndexDigest: info.Digest[:], IndexSize: info.Size})
}

// fetch asks for one subdir's index. What served last time is asked first, with its ETag. A format that is broken, or
// that the server fails to send, may stand beside one that is whole, so the others are tried before the subdir is given up.
func (u *upstream) fetch(ctx context.Context, old subdirState, force bool) index {
	order := slices.Clone(indexNames)
	switch served := strings.TrimPrefix(old.IndexPath, old.Subdir+"/"); {
	case old.IndexPath != "":
		order = append([]string{served}, slices.DeleteFunc(order, func(name string) bool { return name == served })...)
	case !old.CheckedAt.IsZero() && !force:
		// Not there last time: every server that has an index has the plain one too.
		order = []string{"repodata.json"}
	}
	var broken error
	for _, name := range order {
		ix, err := u.fetchOne(ctx, old, old.Subdir+"/"+name, force || broken != nil)
		switch {
		case err == nil:
			return u.crossCheck(ctx, old, ix)
		case ctx.Err() != nil:
			return index{subdirState: old, err: context.Cause(ctx)}
		case fault.Is(err, fault.NotFound):
			continue
		}
		if broken == nil {
			broken = fmt.Errorf("%s/%s: %w", old.Subdir, name, err)
		}
		if !mayDiffer(err) {
			break
		}
	}
	if broken != nil {
		return index{subdirState: old, err: broken}
	}
	gone := subdirState{Subdir: old.Subdir, CheckedAt: old.CheckedAt}
	if old.known() {
		gone.Records = max(old.Records, 1) // the mark of a subdir that was there: plans go on to say that it is empty
	}
	return index{subdirState: gone, changed: old.IndexPath != ""}
}

// mayDiffer reports whether another file of the same server may be had although this one failed.
func mayDiffer(err error) bool {
	var f *fault.Error
	if !errors.As(err, &f) {
		return true
	}
	switch f.Reason {
	case fetch.ReasonRefused, fetch.ReasonThrottled, fetch.ReasonEgress, fetch.ReasonTimeout:
		return false
	}
	return f.Kind == fault.Upstream || f.Kind == fault.Invalid
}

func (u *upstream) fetchOne(ctx context.Context, old subdirState, path string, force bool) (index, error) {
	req := fetch.Request{Path: path, MaxSize: u.max}
	if path == old.IndexPath && !force {
		req.IfNoneMatch = old.ETag
		if old.ETag == "" && old.LastModified != nil {
			req.IfModifiedSince = *old.LastModified
		}
	}
	resp, err := u.remote.Get(ctx, req)
	if err != nil {
		return index{}, err
	}
	if resp.NotModified {
		resp.Body.Close()
		_, err := u.blobs.Stat(ctx, blob.Digest(old.IndexDigest))
		if fault.Is(err, fault.NotFound) { // our copy was lost
			return u.fetchOne(ctx, old, path, true)
		}
		return index{subdirState: old}, err
	}
	next, facts, err := u.keep(ctx, old, path, resp)
	if err != nil {
		return index{}, err
	}
	return index{subdirState: next, facts: facts, changed: !bytes.Equal(next.IndexDigest, old.IndexDigest) || next.IndexPath != old.IndexPath || next.ETag != old.ETag}, nil
}

// keep stores an index as it comes, and reads it once to the end: only an index that is whole and sound is remembered.
// One that came before, byte for byte, has been read.
func (u *upstream) keep(ctx context.Context, old subdirState, path string, resp *fetch.Response) (subdirState, *facts, error) {
	defer resp.Body.Close()
	// Where the body's end is not marked, the closing brace of the JSON, or the end of the compressed frame, tells it.
	info, err := u.blobs.Put(ctx, resp.Body, blob.PutOptions{MaxSize: u.max})
	if err != nil {
		return subdirState{}, nil, err
	}
	// An empty repodata.json may mean an empty subdir. In any other case it is a file that somebody failed to write.
	if info.Size == 0 && (!strings.HasSuffix(path, ".json") || old.Records > 0) {
		return subdirState{}, nil, fault.New(fault.Upstream, "the index is an empty file")
	}
	s := subdirState{Subdir: old.Subdir, IndexPath: path, ETag: resp.ETag, IndexDigest: info.Digest[:], IndexSize: info.Size}
	if !resp.LastModified.IsZero() {
		t := resp.LastModified
		s.LastModified = &t
	}
	if old.Content != nil && path == old.IndexPath && bytes.Equal(s.IndexDigest, old.IndexDigest) {
		s.Records, s.Content = old.Records, old.Content
		return s, nil, nil
	}
	f, err := examine(ctx, u.blobs, s, u.settings)
	if err != nil {
		return s, nil, err
	}
	s.Records, s.Content = f.records, f.content
	return s, f, nil
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
