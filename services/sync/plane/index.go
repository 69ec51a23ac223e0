package plane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// view is a state as it is served now.
type view struct {
	*state
	warning string // empty for a fresh one
}

// Warnings of stale copies; the codes are those of RFC 7234, section 5.5.
const (
	warnStale  = `110 - "Response is Stale"`
	warnFailed = `111 - "Revalidation Failed"`
)

// failedMark sets failures apart from what upstream does not have. They are remembered for failedFor only, and keep a
// crowd from knocking at a door that has just been shut.
const (
	failedMark = "\x00failed"
	failedFor  = time.Second
)

// ttl is how long a family is fresh. A document that is no index has no digest and no family, only the channel's word.
func (p *Plane) ttl(c *channel, k familyKey) time.Duration {
	ttl := time.Duration(c.GetChannel().GetTtl()) * time.Second
	if k.family == familyFile && !indexLike(k.dir) {
		return ttl
	}
	return min(ttl, p.cfg.IndexTTL)
}

// index returns a family: fresh, or stale while upstream is slow or fails.
func (p *Plane) index(ctx context.Context, c *channel, k familyKey) (view, error) {
	if err := p.negative.get(c.key(k.String())); err != nil {
		return view{}, err
	}
	looked := time.Now()
	st, err := p.held(ctx, c, k)
	if err != nil {
		return view{}, err
	}
	if st != nil {
		fresh := p.ttl(c, k)
		if !st.Told { // channels is to hear of it soon
			fresh = min(fresh, p.cfg.RetryAfter)
		}
		if st.age() < fresh {
			return view{st, ""}, nil
		}
		if st.failedWithin(p.cfg.RetryAfter) {
			return p.stale(st, fault.New(fault.Upstream, "%s", st.Error), warnFailed)
		}
	}
	r, err := p.refresh(ctx, c, k, st != nil, looked)
	if err != nil {
		return view{}, err
	}
	var slow <-chan time.Time
	if st != nil && st.age() <= p.cfg.MaxStale { // else there is nothing to offer instead
		timer := time.NewTimer(p.cfg.RevalidateWait)
		defer timer.Stop()
		slow = timer.C
	}
	select {
	case <-r.done:
	case <-slow:
		return p.stale(st, fault.New(fault.Timeout, "upstream takes longer than %s", p.cfg.RevalidateWait), warnStale)
	case <-ctx.Done():
		return view{}, context.Cause(ctx)
	}
	switch {
	case r.err == nil:
		return view{r.st, ""}, nil
	case st != nil && !fault.Is(r.err, fault.NotFound): // which says that there is no such family any more
		return p.stale(st, r.err, warnFailed)
	}
	return view{}, r.err
}

// held returns what was read under the channel's settings, whatever its age; nil for nothing.
func (p *Plane) held(ctx context.Context, c *channel, k familyKey) (*state, error) {
	st, err := p.store.get(ctx, c.id, k)
	if err != nil || st == nil || !bytes.Equal(st.Settings, c.settings) {
		return nil, err
	}
	return st, nil
}

// stale returns the copy there is instead of an error, if it is not too old.
func (p *Plane) stale(st *state, why error, warning string) (view, error) {
	if st.age() > p.cfg.MaxStale {
		return view{}, why
	}
	return view{st, warning}, nil
}

// refreshing is a family that is being asked for; st and err are set when done is closed.
type refreshing struct {
	done chan struct{}
	st   *state
	err  error

	channel  uuid.UUID
	document bool // counts as a flight: it may have any size
}

// refresh asks upstream for a family, or joins those who do already. What another process was told since looked, when the
// caller saw what there is, will do. If there is no copy that is held, so will what was answered a moment ago.
func (p *Plane) refresh(ctx context.Context, c *channel, k familyKey, held bool, looked time.Time) (*refreshing, error) {
	name := c.key(k.String())
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.refreshs[name]; r != nil {
		return r, nil
	}
	// Under the lock, or one who came just before the last answer would ask again.
	for _, mark := range []string{"", failedMark} {
		if err := p.negative.get(name + mark); err != nil && !held {
			return nil, err
		}
	}
	r := &refreshing{done: make(chan struct{}), channel: c.id, document: k.family == familyFile && !indexLike(k.dir)}
	if r.document {
		if err := p.admit(c); err != nil {
			return nil, err
		}
	}
	ok := p.backgroundLocked(ctx, func(ctx context.Context) {
		r.st, r.err = p.ask(ctx, c, k, held, looked)
		p.mu.Lock()
		delete(p.refreshs, name)
		p.mu.Unlock()
		close(r.done)
	})
	if !ok {
		return nil, errStopped
	}
	p.refreshs[name] = r
	return r, nil
}

// ask gets a family under its lease, and tells channels. Where there was no copy that is held, one that has come meanwhile is
// new, although it may have been asked for before the caller looked: it is seen only when it is stored.
func (p *Plane) ask(ctx context.Context, c *channel, k familyKey, held bool, looked time.Time) (out *state, err error) {
	ctx, span := p.tel.tracer.Start(ctx, "proxy index")
	defer span.End()
	done := func(ctx context.Context) (bool, error) {
		st, err := p.held(ctx, c, k)
		if err != nil || st == nil {
			return false, err
		}
		since := time.Since(looked)
		if st.failedWithin(since) {
			return true, fault.New(fault.Upstream, "%s", st.Error)
		}
		if !held || st.age() < since {
			out = st
		}
		return out != nil, nil
	}
	err = p.leases.with(ctx, c.id, "index:"+k.String(), done, func(ctx context.Context) error {
		old, err := p.held(ctx, c, k)
		if err != nil {
			return err
		}
		changed, err := p.fetchFamily(ctx, c, k, old)
		switch {
		case fault.Is(err, fault.LostRace): // a blob was about to be collected; it is put anew
			changed, err = p.fetchFamily(ctx, c, k, old)
		case err != nil && old != nil && ctx.Err() == nil && !fault.Is(err, fault.NotFound):
			p.log.WarnContext(ctx, "an upstream's index cannot be had; the copy is served", "channel", c.GetChannel().GetName(), "index", k.String(), "age", old.age(), "error", err)
			if ferr := p.store.fail(ctx, c.id, k, err); ferr != nil {
				err = errors.Join(err, ferr)
			}
		}
		if err != nil {
			return err
		}
		if out, err = p.held(ctx, c, k); err == nil && out == nil {
			err = fault.New(fault.LostRace, "the settings of channel %s have changed", c.GetChannel().GetName())
		}
		if err != nil {
			return err
		}
		if err := p.publish(ctx, c, k, old, out, changed); err != nil {
			// Clients get it from here meanwhile.
			p.log.WarnContext(ctx, "a proxied index cannot be recorded", "channel", c.GetChannel().GetName(), "index", k.String(), "error", err)
		}
		return nil
	})
	switch {
	case err == nil:
		return out, nil
	case fault.Is(err, fault.NotFound):
		p.negative.put(c.key(k.String()), err, p.cfg.NegativeTTL)
	case ctx.Err() == nil && fault.Is(err, fault.Upstream):
		p.negative.put(c.key(k.String()+failedMark), err, failedFor)
	}
	p.tel.indexes.Add(ctx, 1, outcome("error"))
	return nil, err
}

// fetchFamily asks upstream and stores what it says. It reports whether there is a new generation.
func (p *Plane) fetchFamily(ctx context.Context, c *channel, k familyKey, old *state) (bool, error) {
	remote, err := p.deps.Open(ctx, c.GetChannel())
	if err != nil {
		return false, err
	}
	var st *state
	switch k.family {
	case familyFull:
		st, err = p.fetchFull(ctx, c, remote, k, old)
	case familyShards:
		st, err = p.fetchShards(ctx, c, remote, k, old)
	default:
		st, err = p.fetchFile(ctx, remote, k, old)
	}
	if err != nil {
		if old != nil && fault.Is(err, fault.NotFound) {
			if k.family == familyShards && p.fullIsFresh(ctx, c, k.dir) {
				return false, errors.Join(err, p.dropFamily(ctx, c, k, old)) // upstream makes no shards any more
			}
			// A 404 where there was an index may be a broken server.
			err = fault.New(fault.Upstream, "%s: the index is gone (404)", old.Source).WithReason(fetch.ReasonNotFound)
		}
		return false, err
	}
	if st == nil {
		p.tel.indexes.Add(ctx, 1, outcome("unchanged"))
		return false, nil
	}
	p.tel.indexes.Add(ctx, 1, outcome("changed"))
	st.Settings = c.settings
	if old != nil && old.Generation == st.Generation {
		return false, p.store.touch(ctx, c.id, k, st.ETag, st.LastModified)
	}
	return true, p.store.put(ctx, c.id, k, st)
}

// fullIsFresh reports whether upstream answers for the full index of a directory.
func (p *Plane) fullIsFresh(ctx context.Context, c *channel, dir string) bool {
	v, err := p.index(ctx, c, familyKey{familyFull, dir})
	return err == nil && v.warning == ""
}

// dropFamily forgets a family that upstream does not have any more.
func (p *Plane) dropFamily(ctx context.Context, c *channel, k familyKey, old *state) error {
	req := &channelsv1.RecordProxiedRequest{ChannelId: c.id.String(), Settings: c.settings}
	for path := range old.Documents {
		req.Drop = append(req.Drop, path)
	}
	if err := p.store.drop(ctx, c.id, k); err != nil {
		return err
	}
	_, err := p.deps.Channels.RecordProxied(ctx, req)
	return err
}

// unchanged notes an answer that says that nothing is new, and that our copy is still there.
func (p *Plane) unchanged(ctx context.Context, c *channel, k familyKey, old *state, res fetch.Result) (bool, error) {
	for _, ref := range old.refs(c.id, k) {
		if _, err := p.deps.Blobs.Stat(ctx, ref.Digest); fault.Is(err, fault.NotFound) {
			return false, nil // it was lost: ask again, without condition
		} else if err != nil {
			return false, err
		}
	}
	etag, modified := res.ETag, old.LastModified
	if etag == "" {
		etag = old.ETag
	}
	if !res.LastModified.IsZero() {
		modified = &res.LastModified
	}
	return true, p.store.touch(ctx, c.id, k, etag, modified)
}

// publish tells channels what is served now, and which package files may no longer be what the index says. What is told
// of a generation is told until channels has taken it: whoever dies in between leaves the state marked as untold.
func (p *Plane) publish(ctx context.Context, c *channel, k familyKey, old, now *state, changed bool) error {
	owed := changed || !now.Told
	mark := func() error { return nil }
	if owed && k.family != familyFile {
		var before []byte
		if changed && old != nil && old.Told {
			before = old.Facts
		}
		d, err := p.newDoubts(ctx, c, k, before, now.Facts)
		if err != nil {
			return err
		}
		defer d.close()
		mark = func() error { return d.mark(ctx) }
	}
	if err := mark(); err != nil {
		return err
	}
	req := &channelsv1.RecordProxiedRequest{
		ChannelId: c.id.String(), Settings: c.settings, Family: k.String(), Generation: now.Generation,
		FreshFor: durationpb.New(max(0, p.ttl(c, k)-now.age())),
	}
	if changed {
		req.Files = files(k, now)
	}
	resp, err := p.deps.Channels.RecordProxied(ctx, req)
	if err == nil && !changed && resp.GetFamilyFiles() == 0 {
		req.Files = files(k, now) // the rows are gone, or never came
		_, err = p.deps.Channels.RecordProxied(ctx, req)
	}
	if err != nil || !owed {
		return err
	}
	// From here on channels doubts what was looked up in a former generation; this is for what landed before.
	if err := mark(); err != nil {
		return err
	}
	return p.store.told(ctx, c.id, k, now.Generation)
}

// files are the documents of a state as channels wants them.
func files(k familyKey, st *state) (out []*channelsv1.ProxiedFile) {
	for path, d := range st.Documents {
		out = append(out, &channelsv1.ProxiedFile{
			Path: path, Sha256: d.Digest[:], Size: d.Size, Index: k.family != familyFile || indexLike(path), UpdateTime: timestamppb.New(st.ModifiedAt),
		})
	}
	return out
}

// conditional makes the request for an index.
func conditional(old *state, path string, force bool) fetch.DownloadRequest {
	req := fetch.DownloadRequest{Path: path, Size: fetch.UnknownSize}
	if old != nil && old.Source == path && !force {
		req.IfNoneMatch = old.ETag
		if old.ETag == "" && old.LastModified != nil {
			req.IfModifiedSince = *old.LastModified
		}
	}
	return req
}

// generationOf names what clients are served: equal for two processes that read the same. The number at its beginning
// goes up when what is made of an upstream's index changes.
func generationOf(c *channel, digest blob.Digest) string {
	return fmt.Sprintf("1-%x-%x", digest[:12], c.settings[:min(4, len(c.settings))])
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
