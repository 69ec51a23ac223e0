package plane

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// flight is one fetch of one file, however many want it.
type flight struct {
	rec   record
	path  string
	began time.Time
	spool *spool

	// Under the plane's lock:
	channel uuid.UUID
	waiting int         // those who have not called leave
	idle    *time.Timer // ends the flight; nil while somebody waits
	// ctx ends when the flight is deserted.
	ctx    context.Context
	cancel context.CancelCauseFunc

	done chan struct{} // closed at the end; the rest is set then
	file *channelsv1.ProxiedFile
	err  error
	// changed: the index, read again, says something else of the file now.
	changed bool
}

// wait waits for the end.
func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// hasChanged reports whether the flight is over because its file was replaced upstream.
func (f *flight) hasChanged() bool {
	select {
	case <-f.done:
		return f.changed
	default:
		return false
	}
}

// recordTimeout bounds how long channels may take to note a file.
const recordTimeout = 10 * time.Second

// reasonMismatch marks a file that is not what its index says.
const reasonMismatch = "UPSTREAM_MISMATCH"

// errDeserted ends a flight that nobody waits for.
var errDeserted = fault.New(fault.Unavailable, "nobody waits for the file any more")

// join counts one who waits for a flight. The plane's lock is held.
func (f *flight) join() {
	if f.waiting++; f.idle != nil {
		f.idle.Stop()
		f.idle = nil
	}
}

// leave is to be called by everybody who called fly. A flight goes on for a while without passengers.
func (p *Plane) leave(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.waiting--; f.waiting > 0 {
		return
	}
	select {
	case <-f.done:
	default:
		f.idle = time.AfterFunc(p.cfg.Linger, func() { p.desert(f) })
	}
}

// desert ends a flight that has no passengers still.
func (p *Plane) desert(f *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.waiting == 0 {
		f.cancel(errDeserted)
	}
}

// admit refuses more flights than there may be, in all or for one channel, so that a slow upstream leaves room for others.
// The lock is held.
func (p *Plane) admit(c *channel) error {
	same := 0
	for _, f := range p.flights {
		if f.channel == c.id {
			same++
		}
	}
	all := len(p.flights)
	for _, r := range p.refreshs {
		if r.document {
			all++
			if r.channel == c.id {
				same++
			}
		}
	}
	if all >= p.cfg.Flights || same >= max(1, p.cfg.Flights/4) {
		return fault.New(fault.Unavailable, "%d files are being fetched already, %d of this channel", all, same).WithRetryAfter(time.Second)
	}
	return nil
}

// fly fetches a file, or joins the flight that does. The caller knows that it is not stored, and calls leave at the end.
func (p *Plane) fly(ctx context.Context, c *channel, path string, rec record) (*flight, error) {
	name := c.key(path + "\x00" + hex.EncodeToString(rec.want()))
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[name]; f != nil && context.Cause(f.ctx) == nil {
		f.join()
		return f, nil
	}
	for _, m := range []*memo{p.refused, p.negative} {
		if err := m.get(name); err != nil {
			return nil, err
		}
	}
	if err := p.admit(c); err != nil {
		return nil, err
	}
	if err := roomFor(p.cfg.SpoolDir, rec.size); err != nil {
		return nil, err
	}
	sp, err := newSpool(p.cfg.SpoolDir)
	if err != nil {
		return nil, err
	}
	f := &flight{rec: rec, path: path, began: time.Now(), spool: sp, channel: c.id, waiting: 1, done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	ok := p.backgroundLocked(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(f.ctx, func() { cancel(context.Cause(f.ctx)) })()
		p.run(ctx, c, f, name)
	})
	if !ok {
		f.cancel(nil)
		sp.close()
		return nil, errStopped
	}
	p.flights[name] = f
	return f, nil
}

// run is the flight from take-off to landing.
func (p *Plane) run(ctx context.Context, c *channel, f *flight, name string) {
	ctx, span := p.tel.tracer.Start(ctx, "proxy flight")
	defer span.End()
	how := "followed"
	done := func(ctx context.Context) (bool, error) {
		now, err := p.again(ctx, c, f.path)
		if err != nil {
			return false, err
		}
		if now.freshRow() && slices.Equal(now.GetProxy().GetWant(), f.rec.want()) {
			f.file = fileOf(now)
		}
		return f.file != nil, nil
	}
	err := p.leases.with(ctx, c.id, "file:"+f.path, done, func(ctx context.Context) (err error) {
		how, err = p.bring(ctx, c, f)
		return err
	})
	if err != nil {
		how = "error"
		err = p.failed(ctx, c, f, name, err)
	}
	p.tel.flights.Add(ctx, 1, outcome(how))
	f.err = err
	p.mu.Lock()
	if p.flights[name] == f { // or one that follows a deserted one
		delete(p.flights, name)
	}
	if f.idle != nil {
		f.idle.Stop()
	}
	p.mu.Unlock()
	f.spool.end(err)
	close(f.done)
	f.spool.close()
}

// bring gets the file into storage and says how.
func (p *Plane) bring(ctx context.Context, c *channel, f *flight) (how string, err error) {
	how = "fetched"
	info, modified, err := p.stored(ctx, f.rec)
	if err == nil {
		how = "stored"
	} else if fault.Is(err, fault.NotFound) {
		info, modified, err = p.fetch(ctx, c, f)
		if fault.Is(err, fault.LostRace) { // equal bytes were about to be collected; ours are put anew
			f.spool.restart()
			info, modified, err = p.fetch(ctx, c, f)
		}
	}
	if err != nil {
		return how, err
	}
	f.file = &channelsv1.ProxiedFile{
		Path: f.path, Sha256: info.Digest[:], Size: info.Size, Want: f.rec.want(), UpdateTime: timestamppb.New(modified),
	}
	var received int64
	if how == "fetched" {
		received = info.Size
		f.spool.end(nil) // it is what it should be, and durable: nobody needs to wait for a row
	}
	p.tel.bytes.Add(ctx, received)
	// What is stored is worth a row also when the plane stops.
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_, err = p.deps.Channels.RecordProxied(rctx, &channelsv1.RecordProxiedRequest{
		ChannelId: c.id.String(), Settings: c.settings, Files: []*channelsv1.ProxiedFile{f.file}, Basis: f.rec.basis, BasisGeneration: f.rec.generation,
	})
	if err != nil {
		// Those who wait get it all the same. Who comes next finds it in storage, if the index has its SHA-256.
		p.log.WarnContext(ctx, "a proxied file cannot be recorded", "channel", c.GetChannel().GetName(), "path", f.path, "error", err)
	}
	return how, nil
}

// stored looks whether any channel has brought the bytes in already.
func (p *Plane) stored(ctx context.Context, rec record) (info blob.Info, modified time.Time, err error) {
	if len(rec.sha256) == 0 {
		return info, modified, fault.New(fault.NotFound, "the SHA-256 is not known")
	}
	st, err := p.deps.Blobs.Stat(ctx, blob.Digest(rec.sha256))
	if err != nil {
		return info, modified, err
	}
	if rec.size >= 0 && st.Size != rec.size {
		return info, modified, fault.New(fault.NotFound, "the stored blob is not of the size that the index says")
	}
	info = blob.Info{Digest: st.Digest, Size: st.Size}
	if p.hold(ctx, info) != nil {
		return info, modified, fault.New(fault.NotFound, "the stored blob is going")
	}
	return info, st.ModTime, nil
}

// fetch downloads the file for its readers and for storage.
func (p *Plane) fetch(ctx context.Context, c *channel, f *flight) (blob.Info, time.Time, error) {
	remote, err := p.deps.Open(ctx, c.GetChannel())
	if err != nil {
		return blob.Info{}, time.Time{}, err
	}
	rec := f.rec
	req := fetch.DownloadRequest{Size: rec.size, SHA256: hex.EncodeToString(rec.sha256), MD5: hex.EncodeToString(rec.md5), MaxSize: rec.max}
	if rec.size >= 0 {
		req.MaxSize = 0
		if rec.size > p.deps.MaxFileSize {
			return blob.Info{}, time.Time{}, fault.New(fault.Upstream, "the index says that %s has %d bytes, more than are taken", f.path, rec.size).WithReason(fetch.ReasonTooLarge)
		}
	}
	req.Path, req.URL = where(rec.base, rec.dir, rec.name)
	opts := blob.PutOptions{}
	if len(rec.sha256) > 0 {
		opts.Expect = (*blob.Digest)(rec.sha256)
	} else if len(rec.md5) > 0 {
		opts.ExpectMD5 = (*blob.MD5)(rec.md5)
	}
	if rec.size >= 0 {
		opts.ExpectSize = &rec.size
	}
	info, res, err := p.download(ctx, remote, req, f.spool, opts)
	modified := res.LastModified
	if modified.IsZero() {
		modified = time.Now()
	}
	return info, modified, err
}

// failed decides what a failure means for those who come next.
func (p *Plane) failed(ctx context.Context, c *channel, f *flight, name string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case isWrong(err):
		return p.mistaken(ctx, c, f, name, err)
	case fault.Is(err, fault.NotFound):
		p.negative.put(name, err, p.cfg.NegativeTTL)
	default:
		p.negative.put(name, err, failedFor)
	}
	p.log.WarnContext(ctx, "a proxied file cannot be fetched", "channel", c.GetChannel().GetName(), "path", f.path, "error", err)
	return err
}

// mistaken is called for a file that is complete and not what the index says. Upstream may have replaced both since the
// index was read.
func (p *Plane) mistaken(ctx context.Context, c *channel, f *flight, name string, why error) error {
	err := fault.New(fault.Upstream, "%s is not what the upstream's index says: %w", f.path, why).WithReason(reasonMismatch)
	if shardDigest(f.rec.name) == nil {
		now, lerr := p.reread(ctx, c, f.rec.dir, f.rec.name)
		switch {
		case lerr == nil && !now.same(f.rec):
			f.changed = true
			return err
		case fault.Is(lerr, fault.NotFound):
			err = fault.New(fault.NotFound, "%w", lerr)
		}
	}
	p.log.ErrorContext(ctx, "a proxied file is not what its index says, and is refused", "channel", c.GetChannel().GetName(), "path", f.path,
		"for", p.cfg.RefuseTTL, "error", why)
	p.refused.put(name, err.WithRetryAfter(p.cfg.RefuseTTL), p.cfg.RefuseTTL)
	return err
}

// fileOf is what channels has at a path.
func fileOf(c *channel) *channelsv1.ProxiedFile {
	return &channelsv1.ProxiedFile{
		Sha256: c.GetSha256(), Size: c.GetSize(), Want: c.GetProxy().GetWant(), Index: c.GetIndex(), UpdateTime: c.GetUpdateTime(),
	}
}
