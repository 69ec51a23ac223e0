package edge

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Proxy channels: what is stored and fresh is served like any other file, and sync is not asked. For the rest the fetch
// plane is, after the client was found to be allowed to read the channel.

const (
	// staleEntries bounds the memory of stale copies that are served for a moment without asking again.
	staleEntries = 4096
	// warnUnreachable is what a client is told when sync cannot be asked; the code is that of RFC 7234, section 5.5.5.
	warnUnreachable = `112 - "Disconnected Operation"`
)

// staleCopy is what the fetch plane said of a stale file a moment ago.
type staleCopy struct {
	resp         *channelsv1.ResolveResponse
	age, warning string
	at           time.Time
	seen         uint64 // generation of the channel
	from         []byte // digest of the copy that channels knew then
}

type proxies struct {
	mu       sync.Mutex // between looking at an entry of a proxy's index and replacing it
	stale    *lru.Cache[fileKey, *staleCopy]
	requests metric.Int64Counter // nil without instruments
}

func newProxies() *proxies {
	stale, err := lru.New[fileKey, *staleCopy](staleEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	requests, err := otel.Meter("github.com/entrepot-dev/entrepot/gateway/edge").Int64Counter("entrepot.proxy.requests", metric.WithUnit("{request}"),
		metric.WithDescription("Requests for files of proxy channels by outcome: hit, miss (the fetch plane was asked), stale, negative, error."))
	if err != nil {
		slog.Warn("requests to proxy channels are not counted", "error", err)
		requests = nil
	}
	return &proxies{stale: stale, requests: requests}
}

func (p *proxies) count(ctx context.Context, outcome string) {
	if p.requests != nil {
		p.requests.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", outcome))))
	}
}

// serveProxied returns what is in storage for a path of a proxy channel, having fetched it if need be; age and warning of a
// stale copy are in the header already. It returns nil if it has answered the request itself, with bytes on their way.
func (f *Files) serveProxied(w http.ResponseWriter, r *http.Request, key fileKey, res *channelsv1.ResolveResponse) (*channelsv1.ResolveResponse, error) {
	ctx := r.Context()
	stored := res.GetFound() && len(res.GetSha256()) > 0
	fresh := res.GetProxy().GetFreshFor()
	if res.GetRedirectUrl() != "" || stored && (fresh == nil || fresh.AsDuration() > 0) {
		f.proxies.count(ctx, "hit")
		return res, nil
	}
	gen := f.generation(key.channel, "")
	seen := gen.Load()
	if s, ok := f.proxies.stale.Get(key); ok && f.now().Sub(s.at) < resolveFresh && s.seen == seen && bytes.Equal(s.from, res.GetSha256()) {
		f.proxies.count(ctx, "stale")
		s.write(w.Header())
		return s.resp, nil
	}
	copied := stored && res.GetProxy().GetFamily() != "" // what is of no family the index may have replaced
	asked := f.now()
	a, err := f.askPlane(r, res.GetChannel(), key.path, "", copied)
	switch {
	case err == nil:
	case fault.Is(err, fault.NotFound):
		f.proxies.count(ctx, "negative")
		return nil, fault.New(fault.NotFound, "%s/%s not found", res.GetChannel().GetName(), printable(key.path))
	case fault.Is(err, fault.Unavailable) && copied:
		slog.WarnContext(ctx, "the fetch plane cannot be asked; the stored copy is served", "channel", res.GetChannel().GetName(), "path", key.path, "error", err)
		f.proxies.count(ctx, "stale")
		s := &staleCopy{resp: res, warning: warnUnreachable, at: f.now(), seen: seen, from: res.GetSha256()}
		f.keepStale(key, s, asked)
		s.write(w.Header())
		return res, nil
	default:
		f.proxies.count(ctx, "error")
		return nil, err
	}
	if a.Stream != nil {
		f.proxies.count(ctx, "miss")
		stream(w, r, a.Stream, cacheControl(res, key.path, key.pin, f.now()))
		return nil, nil
	}
	got := proto.CloneOf(a.Resolved)
	got.Channel, got.Revision = res.GetChannel(), res.GetChannel().GetHead()
	if a.Warning != "" {
		f.proxies.count(ctx, "stale")
		s := &staleCopy{resp: got, age: a.Age, warning: a.Warning, at: f.now(), seen: seen, from: res.GetSha256()}
		f.keepStale(key, s, asked)
		s.write(w.Header())
		return got, nil
	}
	f.proxies.count(ctx, "miss")
	// Whoever comes within the next moment need not ask: neither channels, which has it by now, nor the plane.
	e := f.remember(key, &fileEntry{resp: got, at: f.now(), gen: gen, seen: seen})
	f.proxies.stale.Remove(key)
	return e.resp, nil
}

// remember keeps an answer for a moment. Answers overtake each other on their way, and an index must not go back: while a
// newer one is remembered it is returned instead.
func (f *Files) remember(key fileKey, e *fileEntry) *fileEntry {
	f.proxies.mu.Lock()
	defer f.proxies.mu.Unlock()
	now, ok := f.entries.Peek(key)
	if ok && f.now().Sub(now.at) < resolveFresh && now.gen.Load() == now.seen && now.resp.GetIndex() && e.resp.GetProxy() != nil &&
		now.resp.GetUpdateTime().AsTime().After(e.resp.GetUpdateTime().AsTime()) {
		return now
	}
	f.entries.Add(key, e)
	return e
}

// keepStale remembers a stale copy for those who come within the next moment, unless somebody has had a newer answer since
// it was asked for: an index must not go back.
func (f *Files) keepStale(key fileKey, s *staleCopy, asked time.Time) {
	if e, ok := f.entries.Peek(key); ok && e.at.After(asked) {
		return
	}
	f.proxies.stale.Add(key, s)
}

func (s *staleCopy) write(h http.Header) {
	h.Set("Warning", s.warning)
	if s.age != "" {
		h.Set("Age", s.age)
	}
}

// mend has a file of a proxy channel fetched again whose bytes are gone from storage, and answers with it. It reports
// whether it did.
func (f *Files) mend(w http.ResponseWriter, r *http.Request, key fileKey, res *channelsv1.ResolveResponse, lost blob.Digest) bool {
	if res.GetProxy() == nil || res.GetIndex() {
		return false
	}
	a, err := f.askPlane(r, res.GetChannel(), key.path, lost.String(), false)
	if err != nil {
		return false
	}
	f.entries.Remove(key)
	cc := cacheControl(res, key.path, key.pin, f.now())
	if a.Stream != nil {
		stream(w, r, a.Stream, cc)
		return true
	}
	if len(a.Resolved.GetSha256()) != len(blob.Digest{}) {
		return false
	}
	d := blob.Digest(a.Resolved.GetSha256())
	token, err := f.grant(r.Context(), d)
	if err != nil {
		return false
	}
	meta := dataplane.Meta{ContentType: contentType(key.path), CacheControl: cc, ModTime: a.Resolved.GetUpdateTime().AsTime()}
	return f.deps.Data.Proxy(w, r, token, d, meta) == nil
}

func (f *Files) askPlane(r *http.Request, ch *channelsv1.Channel, path, lost string, copied bool) (*fetchplane.Answer, error) {
	if f.deps.Fetch == nil {
		return nil, fault.New(fault.Unavailable, "this gateway has no fetch plane")
	}
	return f.deps.Fetch.Ask(r, ch, path, lost, copied)
}

// stream passes on what a fetch plane sends while it fetches. Should it break off, so does the client's connection, which
// must not be taken for the end of the file.
func stream(w http.ResponseWriter, r *http.Request, resp *http.Response, cacheControl string) {
	defer resp.Body.Close()
	h := w.Header()
	for name, values := range resp.Header {
		if slices.Contains(fetchplane.StreamHeaders, name) {
			h[name] = values
		}
	}
	h.Set("X-Content-Type-Options", "nosniff")
	if resp.StatusCode < 400 {
		h.Set("Cache-Control", cacheControl)
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method == http.MethodHead {
		return
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}
