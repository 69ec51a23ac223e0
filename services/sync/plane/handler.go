package plane

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	"github.com/entrepot-dev/entrepot/pkg/names"
	"github.com/entrepot-dev/entrepot/pkg/telemetry"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	"github.com/entrepot-dev/entrepot/services/sync"
)

var _ http.Handler = (*Plane)(nil)

// ServeHTTP answers what package fetchplane asks, and nobody else.
func (p *Plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	if id := r.Header.Get("X-Request-Id"); id != "" {
		ctx = telemetry.WithRequestID(ctx, id)
	}
	ctx, span := p.tel.tracer.Start(ctx, "fetch plane", trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	r = r.WithContext(ctx)
	err := p.authorise(r)
	if err == nil {
		b := startBeating(w, fetchplane.Beat)
		defer b.stop()
		w = b
		err = p.serve(w, r)
	}
	if err == nil {
		return
	}
	switch fault.KindOf(err) {
	case fault.NotFound:
		p.tel.request(ctx, outcomeNegative)
	case fault.Internal:
		p.log.ErrorContext(ctx, "the fetch plane failed", "path", r.URL.Query().Get("path"), "error", err)
		fallthrough
	default:
		p.tel.request(ctx, outcomeError)
	}
	fetchplane.WriteError(w, err)
}

// authorise lets in parts of the platform only: they have decided on their clients' requests.
func (p *Plane) authorise(r *http.Request) error {
	caller, err := p.deps.Verifier.Verify(r.Context(), r.Header.Get(fetchplane.TokenHeader), fetchplane.Audience)
	if err != nil {
		return err
	}
	if caller.Target == "" {
		return fault.New(fault.Denied, "the fetch plane serves parts of the platform")
	}
	if r.URL.Path != fetchplane.Path || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return fault.New(fault.NotFound, "there is nothing here")
	}
	return nil
}

func (p *Plane) serve(w http.ResponseWriter, r *http.Request) error {
	ctx, q := r.Context(), r.URL.Query()
	path, err := names.CleanPath(q.Get("path"))
	if err != nil {
		return err
	}
	c, err := p.resolve(ctx, q.Get("channel"), q.Get("id"), path)
	if err != nil {
		return err
	}
	if c.GetRedirectUrl() != "" {
		p.tel.request(ctx, outcomeRedirect)
		return p.answer(w, c.ResolveResponse, view{})
	}
	if err := p.recover(ctx, c, path, q.Get("lost")); err != nil {
		return err
	}
	if c.freshRow() { // somebody was faster
		p.tel.request(ctx, outcomeHit)
		return p.answer(w, c.ResolveResponse, view{})
	}
	kind, dir, name := classify(path)
	if !serves(c.mirror(), dir) {
		return fault.New(fault.NotFound, "the channel does not take %s from upstream", dir)
	}
	switch kind {
	case kindPackage:
		return p.servePackage(w, r, c, path, dir, name)
	case kindShard:
		return p.serveShard(w, r, c, path, dir, name)
	case kindShards:
		return p.serveIndex(w, r, c, familyKey{familyShards, dir}, path)
	case kindFull:
		return p.serveIndex(w, r, c, familyKey{familyFull, dir}, path)
	}
	return p.serveFile(w, r, c, path)
}

// recover forgets a file whose bytes are gone from storage, so that they are fetched again. Index files are mended when
// upstream is asked for them next.
func (p *Plane) recover(ctx context.Context, c *channel, path, lost string) error {
	d, err := blob.ParseDigest(lost)
	if err != nil || c.GetProxy().GetFamily() != "" || string(c.GetSha256()) != string(d[:]) {
		return nil
	}
	if _, err := p.deps.Blobs.Stat(ctx, d); !fault.Is(err, fault.NotFound) {
		return err
	}
	p.log.WarnContext(ctx, "a proxied file is missing in storage, and is fetched again", "channel", c.GetChannel().GetName(), "path", path, "digest", lost)
	c.Found, c.Sha256 = false, nil
	_, err = p.deps.Channels.RecordProxied(ctx, &channelsv1.RecordProxiedRequest{ChannelId: c.id.String(), Settings: c.settings, Drop: []string{path}})
	return err
}

// serveIndex answers with an index file.
func (p *Plane) serveIndex(w http.ResponseWriter, r *http.Request, c *channel, k familyKey, path string) error {
	v, err := p.index(r.Context(), c, k)
	if err != nil {
		return err
	}
	d, err := p.form(r.Context(), c, k, v.state, path)
	if err != nil {
		return err
	}
	return p.answerDocument(w, r, c, k, path, d, v)
}

func (p *Plane) answerDocument(w http.ResponseWriter, r *http.Request, c *channel, k familyKey, path string, d document, v view) error {
	switch {
	case v.warning != "":
		p.tel.request(r.Context(), outcomeStale)
	default:
		p.tel.request(r.Context(), outcomeMiss)
	}
	f := files(k, &state{Documents: map[string]document{path: d}, ModifiedAt: v.ModifiedAt})[0]
	res := resolved(f)
	res.Proxy.FreshFor = durationpb.New(max(0, p.ttl(c, k)-v.age()))
	for _, packed := range []struct{ suffix, coding string }{{".zst", "zstd"}, {".gz", "gzip"}} {
		if d, ok := v.Documents[path+packed.suffix]; ok && strings.HasSuffix(path, ".json") {
			res.Encodings = append(res.Encodings, &channelsv1.Encoding{Coding: packed.coding, Sha256: d.Digest[:], Size: d.Size})
		}
	}
	return p.answer(w, res, v)
}

// resolved is the answer for a file that is in storage.
func resolved(f *channelsv1.ProxiedFile) *channelsv1.ResolveResponse {
	return &channelsv1.ResolveResponse{
		Found: true, Sha256: f.GetSha256(), Size: f.GetSize(), Index: f.GetIndex(), UpdateTime: f.GetUpdateTime(),
		Proxy: &channelsv1.ProxyState{Want: f.GetWant()},
	}
}

// answer says that the file is in storage, and how old it is if it is stale.
func (p *Plane) answer(w http.ResponseWriter, res *channelsv1.ResolveResponse, v view) error {
	data, err := proto.Marshal(res)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set(fetchplane.AnswerHeader, fetchplane.AnswerResolved)
	h.Set(fetchplane.ResolvedHeader, base64.StdEncoding.EncodeToString(data))
	if v.warning != "" {
		h.Set(fetchplane.HeaderWarning, v.warning)
		h.Set(fetchplane.HeaderAge, strconv.FormatInt(int64(v.Age), 10))
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// serveFile answers with a document that stands alone.
func (p *Plane) serveFile(w http.ResponseWriter, r *http.Request, c *channel, path string) error {
	if _, name := split(path); narrowed(c.mirror()) && isUnpatched(name) {
		return fault.New(fault.NotFound, "the channel's lists leave out parts of %s", path)
	}
	k := familyKey{familyFile, path}
	if r.Method == http.MethodHead {
		if st, err := p.held(r.Context(), c, k); err != nil {
			return err
		} else if st == nil && !indexLike(path) {
			return p.headUpstream(w, r, c, path, record{name: path})
		}
	}
	v, err := p.index(r.Context(), c, k)
	if err != nil {
		return err
	}
	return p.answerDocument(w, r, c, k, path, v.Body.document, v)
}

// servePackage answers with a package file, which may be on its way.
func (p *Plane) servePackage(w http.ResponseWriter, r *http.Request, c *channel, path, dir, name string) error {
	ctx := r.Context()
	if !sync.Wanted(c.mirror(), name) {
		return fault.New(fault.NotFound, "the channel's lists leave out %s", name)
	}
	for try := 1; ; try++ {
		rec, err := p.lookup(ctx, c, dir, name)
		if err != nil { // also where there is no index: nothing says what the file must be
			return err
		}
		if c.GetFound() && len(c.GetSha256()) > 0 && len(rec.want()) > 0 && string(c.GetProxy().GetWant()) == string(rec.want()) {
			return p.confirm(w, r, c, path, rec)
		}
		if r.Method == http.MethodHead {
			return p.head(w, r, c, path, rec)
		}
		fl, err := p.fly(ctx, c, path, rec)
		if err != nil {
			return err
		}
		err = func() error {
			defer p.leave(fl) // also if the reader is cut, which is a panic
			return p.follow(w, r, fl)
		}()
		if err != nil && fl.hasChanged() && try == 1 {
			continue // the index says something else now, and this reader has not seen a byte
		}
		return err
	}
}

// confirm answers with a stored file that was in doubt, and is what the index says.
func (p *Plane) confirm(w http.ResponseWriter, r *http.Request, c *channel, path string, rec record) error {
	f := fileOf(c)
	f.Path = path
	if _, err := p.deps.Channels.RecordProxied(r.Context(), &channelsv1.RecordProxiedRequest{
		ChannelId: c.id.String(), Settings: c.settings, Files: []*channelsv1.ProxiedFile{f}, Basis: rec.basis, BasisGeneration: rec.generation,
	}); err != nil {
		p.log.WarnContext(r.Context(), "a proxied file cannot be recorded", "channel", c.GetChannel().GetName(), "path", path, "error", err)
	}
	p.tel.request(r.Context(), outcomeHit)
	return p.answer(w, resolved(f), view{})
}

// follow answers with what a flight brings. An error means that nothing was written.
func (p *Plane) follow(w http.ResponseWriter, r *http.Request, f *flight) error {
	ctx := r.Context()
	if f.rec.size >= 0 && !particular(r) {
		if rd, ok := f.spool.reader(ctx, f.rec.size); ok {
			defer rd.Close()
			streaming, err := p.boarding(ctx, f)
			if err != nil {
				return err
			}
			if streaming {
				p.tel.request(ctx, outcomeMiss)
				p.stream(w, r, f, rd)
				return nil
			}
		}
	}
	if err := f.wait(ctx); err != nil {
		return err
	}
	p.tel.request(ctx, outcomeMiss)
	return p.answer(w, resolved(f.file), view{})
}

// particular reports whether a request is for a part of a file, or depends on its ETag. Neither can be answered from bytes
// that are not verified: a part might be wrong and yet complete. Such readers wait for the landing.
func particular(r *http.Request) bool {
	for _, name := range []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}

// boarding waits until there are bytes, or until the flight has landed: then they are in storage.
func (p *Plane) boarding(ctx context.Context, f *flight) (streaming bool, err error) {
	if err := f.spool.started(ctx); err != nil {
		// The flight's own end says more, such as that the index has changed.
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, f.wait(ctx)
	}
	select {
	case <-f.done:
		return false, f.err
	default:
		return f.spool.flowing(), nil
	}
}

// stream sends bytes while they come. A failure cuts the connection: the client must not take what it has for the file,
// nor complete it later, so it is told no ETag and that there are no ranges.
func (p *Plane) stream(w http.ResponseWriter, r *http.Request, f *flight, rd *spoolReader) {
	h := w.Header()
	h.Set(fetchplane.AnswerHeader, fetchplane.AnswerStream)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Size", strconv.FormatInt(f.rec.size, 10))
	h.Set("Content-Length", strconv.FormatInt(f.rec.size, 10))
	h.Set("Accept-Ranges", "none")
	_, _ = io.Copy(w, rd) // the reader keeps its own error; any other is the client's
	if rd.err != nil && r.Context().Err() == nil {
		p.log.WarnContext(r.Context(), "a reader of a proxied file was cut", "path", f.path, "error", rd.err)
		panic(http.ErrAbortHandler)
	}
}

// head answers from what the index says.
func (p *Plane) head(w http.ResponseWriter, r *http.Request, c *channel, path string, rec record) error {
	if rec.size < 0 {
		return p.headUpstream(w, r, c, path, rec)
	}
	h := w.Header()
	h.Set(fetchplane.AnswerHeader, fetchplane.AnswerStream)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Size", strconv.FormatInt(rec.size, 10))
	if len(rec.sha256) > 0 {
		h.Set("ETag", dataplane.Meta{Digest: blob.Digest(rec.sha256)}.ETag())
	}
	p.tel.request(r.Context(), outcomeMiss)
	http.ServeContent(w, r, "", time.Time{}, &hollow{size: rec.size})
	return nil
}

// hollow has a size, and no bytes that anybody would read for a HEAD.
type hollow struct{ size, off int64 }

func (h *hollow) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (h *hollow) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += h.off
	case io.SeekEnd:
		offset += h.size
	}
	h.off = offset
	return offset, nil
}

// headUpstream asks upstream for the header: nothing here knows the size.
func (p *Plane) headUpstream(w http.ResponseWriter, r *http.Request, c *channel, path string, rec record) error {
	name := c.key("head\x00" + path)
	if err := p.negative.get(name); err != nil {
		return err
	}
	remote, err := p.deps.Open(r.Context(), c.GetChannel())
	if err != nil {
		return err
	}
	req := fetch.Request{Method: http.MethodHead}
	req.Path, req.URL = where(rec.base, rec.dir, rec.name)
	resp, err := remote.Get(r.Context(), req)
	if err != nil {
		if fault.Is(err, fault.NotFound) {
			p.negative.put(name, err, p.cfg.NegativeTTL)
		}
		return err
	}
	defer resp.Body.Close()
	h := w.Header()
	h.Set(fetchplane.AnswerHeader, fetchplane.AnswerStream)
	h.Set("Content-Type", "application/octet-stream")
	if resp.Size >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.Size, 10))
		h.Set("Content-Size", strconv.FormatInt(resp.Size, 10))
	}
	p.tel.request(r.Context(), outcomeMiss)
	w.WriteHeader(http.StatusOK)
	return nil
}
