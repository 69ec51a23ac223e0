package edge

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/dataplane"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetchplane"
	"github.com/entrepot-dev/entrepot/pkg/names"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

const (
	// resolveFresh is how long an answer of channels is believed without asking again (D16). A publication drops it
	// sooner, by a broadcast.
	resolveFresh = time.Second
	// resolveStale is how long an old answer may be served while channels cannot be asked: deletions and changes of
	// privacy act within it.
	resolveStale = 5 * time.Second
	// resolveEntries bounds the memory of what was asked for: about 400 bytes each.
	resolveEntries = 200_000
	grantEntries   = 65_536
	indexMaxAge    = 60 // seconds; an upload shows within a minute also behind a client's cache
)

// FilesDeps are what Files stands on.
type FilesDeps struct {
	Channels channelsv1.ChannelServiceClient
	Storage  storagev1.StorageServiceClient
	Data     *dataplane.Client
	// Fetch brings in what proxy channels do not have yet; nil if nothing does.
	Fetch *fetchplane.Client
	Roles *authz.Roles
	// Downloads counts what is downloaded; nil counts nothing.
	Downloads DownloadCounter
}

// Files serves what channels hold. It remembers for a moment what stands at a path, so that most requests ask nobody.
type Files struct {
	deps    FilesDeps
	entries *lru.Cache[fileKey, *fileEntry]
	grants  *lru.Cache[blob.Digest, grantEntry]
	flights singleflight.Group
	now     func() time.Time

	resolved, granted lookups
	proxies           *proxies
	cards             cards
	gone              *lru.Cache[goneKey, time.Time] // when each is forgotten

	mu   sync.Mutex
	gens map[string]*atomic.Uint64 // by channel's lower-case name and by its id; a change raises both
}

type fileKey struct {
	channel, path string
	pin           pin
}

type fileEntry struct {
	resp *channelsv1.ResolveResponse
	err  error // NotFound
	at   time.Time
	gen  *atomic.Uint64 // of the channel
	seen uint64         // its value when channels was asked
}

type grantEntry struct {
	token   string
	expires time.Time
}

// NewFiles returns a Files.
func NewFiles(deps FilesDeps) *Files {
	entries, err := lru.New[fileKey, *fileEntry](resolveEntries)
	if err != nil {
		panic(err) // only for a size below one
	}
	grants, err := lru.New[blob.Digest, grantEntry](grantEntries)
	if err != nil {
		panic(err)
	}
	return &Files{deps: deps, entries: entries, grants: grants, now: time.Now, gens: map[string]*atomic.Uint64{}, proxies: newProxies(), cards: newCards(), gone: newGone()}
}

// HeadChanged takes the broadcast that channels sends after a publication, a deletion or a change of privacy.
func (f *Files) HeadChanged(data []byte) {
	var msg struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	if err := json.Unmarshal(data, &msg); err != nil {
		slog.Warn("a broadcast of channels cannot be read", "error", err)
		return
	}
	f.Changed(msg.ID)
	f.Changed(msg.Name)
}

// Changed forgets what is known of a channel, given by name or id: who wrote through this edge reads the own write.
func (f *Files) Changed(channel string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.gens[strings.ToLower(channel)]; g != nil {
		g.Add(1)
	}
}

// generation returns the counter of a channel, one for its name and its id.
func (f *Files) generation(name, id string) *atomic.Uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	name = strings.ToLower(name)
	g := f.gens[name]
	if g == nil {
		if len(f.gens) > resolveEntries { // names that strangers invent
			f.gens = map[string]*atomic.Uint64{}
			f.entries.Purge()
			f.cards.entries.Purge()
		}
		g = new(atomic.Uint64)
		f.gens[name] = g
	}
	if id != "" {
		f.gens[id] = g
	}
	return g
}

// Serve answers GET and HEAD of a channel's path. Errors go to fail, in the dialect's shape.
func (f *Files) Serve(w http.ResponseWriter, r *http.Request, channel, path string, fail func(http.ResponseWriter, *http.Request, error)) {
	if _, err := names.CleanPath(path); err != nil {
		// The whole path was clean; what is left of it below the channel may be a directory, a drive letter, or nothing.
		fail(w, r, fault.New(fault.NotFound, "%s/%s not found", channel, printable(path)))
		return
	}
	channel, pin, err := cutPin(channel)
	if err != nil {
		fail(w, r, err)
		return
	}
	key := fileKey{strings.ToLower(channel), path, pin}
	res, err := f.resolve(r.Context(), key)
	if err == nil && res.GetChannel().GetPrivate() {
		err = f.deps.Roles.Allow(r.Context(), authn.FromContext(r.Context()), authz.ChannelRead, authz.Resource{
			Kind: authz.Channel, ID: res.GetChannel().GetId(), Name: res.GetChannel().GetName(), Namespace: res.GetChannel().GetNamespace(),
		})
	}
	if err == nil {
		var ended func()
		w, ended = f.observe(w, r, res, path)
		defer ended()
	}
	if err == nil && res.GetProxy() != nil {
		if res, err = f.serveProxied(w, r, key, res); res == nil && err == nil {
			return
		}
	}
	if err == nil && !res.GetFound() {
		err = fault.New(fault.NotFound, "%s%s/%s not found", res.GetChannel().GetName(), pin, printable(path))
		if why := res.GetMissing(); why != "" {
			err = fault.New(fault.NotFound, "%w: %s", err, why)
		}
	}
	if err != nil {
		fail(w, r, err)
		return
	}
	if u := res.GetRedirectUrl(); u != "" {
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, u, http.StatusTemporaryRedirect)
		return
	}
	if len(res.GetSha256()) != len(blob.Digest{}) {
		fail(w, r, fault.New(fault.NotFound, "%s/%s not found", res.GetChannel().GetName(), printable(path)))
		return
	}
	d := blob.Digest(res.GetSha256())
	forms := encodings(res, path)
	form := choose(r, forms)
	if form != nil {
		d = blob.Digest(form.GetSha256())
	}
	token, err := f.grant(r.Context(), d)
	if err != nil {
		fail(w, r, err)
		return
	}
	h := w.Header()
	if res.GetIndex() && res.GetProxy() == nil {
		h.Set("Entrepot-Revision", strconv.FormatInt(res.GetRevision(), 10))
	}
	h.Set("Content-Size", strconv.FormatInt(res.GetSize(), 10))
	if len(forms) > 0 {
		h.Add("Vary", "Accept-Encoding")
	}
	if form != nil {
		writeEncoding(h, r, form)
	}
	meta := dataplane.Meta{ContentType: contentType(path), CacheControl: cacheControl(res, path, pin, f.now()), ModTime: res.GetUpdateTime().AsTime()}
	if err := f.deps.Data.Proxy(w, r, token, d, meta); err != nil {
		for _, name := range []string{"Entrepot-Revision", "Content-Size", "ETag", "Cache-Control", "Last-Modified", "Content-Encoding", "Content-Length", "Vary", "Age", "Warning"} {
			h.Del(name)
		}
		f.grants.Remove(d)
		if fault.Is(err, fault.NotFound) && f.mend(w, r, key, res, d) {
			return
		}
		if fault.Is(err, fault.NotFound) {
			// Listed, but gone from storage: not the client's mistake, and not to be remembered as absent.
			err = fault.New(fault.Unavailable, "the bytes of %s/%s are missing in storage", res.GetChannel().GetName(), printable(path))
		}
		fail(w, r, err)
	}
}

func (f *Files) resolve(ctx context.Context, key fileKey) (*channelsv1.ResolveResponse, error) {
	now := f.now()
	e, ok := f.entries.Get(key)
	fresh := ok && now.Sub(e.at) < resolveFresh && e.gen.Load() == e.seen
	f.resolved.count(fresh)
	if fresh {
		return e.resp, e.err
	}
	// Whoever comes after a change must not share the answer to a question that was asked before it.
	seen := strconv.FormatUint(f.generation(key.channel, "").Load(), 36)
	v, err, _ := f.flights.Do(key.channel+key.pin.String()+"\x00"+key.path+"\x00"+seen, func() (any, error) { return f.ask(context.WithoutCancel(ctx), key) })
	if err == nil {
		e := v.(*fileEntry)
		return e.resp, e.err
	}
	if ok && now.Sub(e.at) < resolveStale && e.gen.Load() == e.seen {
		return e.resp, e.err
	}
	return nil, err
}

func (f *Files) ask(ctx context.Context, key fileKey) (*fileEntry, error) {
	// Others wait for this answer too, so it must not end with the request that asked first.
	ctx, cancel := context.WithTimeout(authn.WithSelf(ctx), 10*time.Second)
	defer cancel()
	gen := f.generation(key.channel, "")
	e := &fileEntry{at: f.now(), gen: gen, seen: gen.Load()}
	req := &channelsv1.ResolveRequest{Channel: key.channel, Path: key.path}
	key.pin.set(req)
	resp, err := f.deps.Channels.Resolve(ctx, req)
	if err == nil {
		resp, err = f.atHead(ctx, key, resp)
	}
	switch {
	case fault.Is(err, fault.NotFound):
		e.err = err
	case err != nil:
		return nil, err
	default:
		e.resp = resp
		f.generation(key.channel, resp.GetChannel().GetId())
	}
	if e.resp.GetProxy() != nil && e.resp.GetIndex() { // the fetch plane may have told something newer meanwhile
		return f.remember(key, e), nil
	}
	f.entries.Add(key, e)
	return e, nil
}

// grant returns leave to read a blob; one serves all requests until shortly before it ends.
func (f *Files) grant(ctx context.Context, d blob.Digest) (string, error) {
	g, ok := f.grants.Get(d)
	ok = ok && f.now().Before(g.expires)
	f.granted.count(ok)
	if ok {
		return g.token, nil
	}
	resp, err := f.deps.Storage.CreateGrant(authn.WithSelf(ctx), &storagev1.CreateGrantRequest{Sha256: d[:]})
	if err != nil {
		return "", err
	}
	f.grants.Add(d, grantEntry{resp.GetGrant(), resp.GetExpireTime().AsTime().Add(-time.Minute)})
	return resp.GetGrant(), nil
}

// contentType goes by the path, never by the bytes.
func contentType(path string) string {
	switch path[strings.LastIndexByte(path, '.')+1:] {
	case "json":
		return "application/json"
	case "zst":
		return "application/zstd"
	case "bz2":
		return "application/x-bzip2"
	case "gz":
		return "application/gzip"
	}
	return "application/octet-stream"
}

// cacheControl: shards and revisions never change, packages may be replaced by force, index files must show an upload soon.
func cacheControl(res *channelsv1.ResolveResponse, path string, pin pin, now time.Time) string {
	ttl := res.GetChannel().GetTtl()
	var value string
	switch {
	case pin.final(now):
		value = "max-age=31536000, immutable"
	case !pin.zero():
		value = "max-age=" + strconv.FormatInt(min(ttl, indexMaxAge), 10)
	case strings.HasSuffix(path, ".msgpack.zst") && strings.Contains(path, "/shards/"):
		value = "max-age=31536000, immutable"
	case res.GetIndex():
		value = "max-age=" + strconv.FormatInt(min(ttl, indexMaxAge), 10)
	default:
		value = "max-age=" + strconv.FormatInt(ttl, 10)
	}
	if res.GetChannel().GetPrivate() {
		return "private, " + value
	}
	return "public, " + value
}
