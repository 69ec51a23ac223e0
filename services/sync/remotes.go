package sync

import (
	"context"
	"io"
	"log/slog"
	gosync "sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

const (
	// maxOpen bounds the remotes that a process keeps; one that is opened again costs a query and some parsing.
	maxOpen = 512
	// recheck is how long a run goes on with a remote before it asks whether its settings have changed.
	recheck = time.Second
)

// Reasons why a remote cannot be opened.
const (
	// ReasonNoMasterKey: this process has no master key, and so cannot read or keep secrets.
	ReasonNoMasterKey = "NO_MASTER_KEY"
	// ReasonRemoteOrigin: the channel's URL was changed to another origin than the credentials were given for.
	ReasonRemoteOrigin = "REMOTE_ORIGIN"
)

// Remotes opens the upstreams of channels as they are set: URL from the channel, credentials and the way there from
// sync.remotes. It keeps one fetch.Remote per channel and version of its settings, so that what is set anew acts on the
// next request, in every process.
type Remotes struct {
	store  store
	fetch  *fetch.Client
	master *seal.Key
	cfg    Config
	log    *slog.Logger

	mu   gosync.Mutex
	open map[string]*openRemote // by channel id
}

type openRemote struct {
	url     string
	version int64 // of the settings; 0 means that there are none
	remote  *fetch.Remote
	used    time.Time
}

// RemotesDeps are what Remotes stands on.
type RemotesDeps struct {
	Pool *pgxpool.Pool
	// Fetch is the one client for outgoing requests.
	Fetch *fetch.Client
	// Master opens the settings; nil in a process that has none, which then reaches only upstreams without settings.
	Master *seal.Key
	Config Config
	Log    *slog.Logger
}

// NewRemotes returns Remotes with nothing open. Close it.
func NewRemotes(deps RemotesDeps) *Remotes {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Remotes{
		store: store{deps.Pool}, fetch: deps.Fetch, master: deps.Master, cfg: deps.Config, log: deps.Log, open: map[string]*openRemote{},
	}
}

// Open returns the upstream of a mirror or proxy channel. It asks the database for the version of its settings, each
// time; the remote is shared and must not be closed by the caller, who asks anew for the next request.
//
// Errors: Precondition with ReasonRemoteOrigin, ReasonNoMasterKey or SEAL_BROKEN if the settings cannot be used, which a
// retry does not mend; Invalid if the URL cannot.
func (r *Remotes) Open(ctx context.Context, ch *channelsv1.Channel) (*fetch.Remote, error) {
	id, err := uuid.Parse(ch.GetId())
	if err != nil {
		return nil, fault.Field("channel_id", "not a UUID")
	}
	url := ch.GetMirror().GetUrl()
	have := r.get(ch.GetId(), url)
	known := int64(-1)
	if have != nil {
		known = have.version
	}
	version, sealed, err := r.store.remote(ctx, id, known)
	if err != nil {
		return nil, err
	}
	if version == known {
		return have.remote, nil
	}
	cfg := r.cfg.remote(ch.GetName(), url)
	if version != 0 {
		stored, err := openStored(r.master, id, sealed)
		if err != nil {
			return nil, err
		}
		if err := forOrigin(ch.GetName(), stored, url); err != nil {
			return nil, err
		}
		apply(&cfg, stored.GetSettings())
	}
	remote, err := r.fetch.Remote(cfg)
	if err != nil {
		return nil, err
	}
	return r.put(ch.GetId(), &openRemote{url: url, version: version, remote: remote}), nil
}

// get returns what is open of a channel, if it is for the URL.
func (r *Remotes) get(id, url string) *openRemote {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.open[id]
	if o == nil || o.url != url {
		return nil
	}
	o.used = time.Now()
	return o
}

// put keeps a remote in place of an older one, and returns the one to use. Requests of the older one that are under way
// end as they began.
func (r *Remotes) put(id string, o *openRemote) *fetch.Remote {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.open[id]
	if old != nil && old.url == o.url && old.version >= o.version && o.version != 0 {
		o.remote.Close() // somebody else was faster
		return old.remote
	}
	if old != nil {
		old.remote.Close()
		r.fetch.Lift(o.url) // what failed with the old settings tells nothing of the new ones
	} else if len(r.open) >= maxOpen {
		r.dropOldest()
	}
	o.used = time.Now()
	r.open[id] = o
	return o.remote
}

func (r *Remotes) dropOldest() {
	oldest := ""
	for id, o := range r.open {
		if oldest == "" || o.used.Before(r.open[oldest].used) {
			oldest = id
		}
	}
	r.open[oldest].remote.Close()
	delete(r.open, oldest)
}

// Close closes the idle connections of all that is open. It may be called twice.
func (r *Remotes) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.open {
		o.remote.Close()
	}
	clear(r.open)
}

// fetcher asks an upstream; *fetch.Remote is one.
type fetcher interface {
	Get(ctx context.Context, req fetch.Request) (*fetch.Response, error)
	Download(ctx context.Context, req fetch.DownloadRequest, sink fetch.Sink) (fetch.Result, error)
	DownloadTo(ctx context.Context, req fetch.DownloadRequest, f func(io.Reader) error) (fetch.Result, error)
	BaseURL() string
}

var (
	_ fetcher = (*fetch.Remote)(nil)
	_ fetcher = (*following)(nil)
)

// following is the upstream of one run: it goes over to new settings while the run goes on.
type following struct {
	remotes *Remotes
	ch      *channelsv1.Channel

	mu      gosync.Mutex
	current *fetch.Remote
	checked time.Time
}

// follow opens a channel's upstream for a run.
func (r *Remotes) follow(ctx context.Context, ch *channelsv1.Channel) (*following, error) {
	remote, err := r.Open(ctx, ch)
	if err != nil {
		return nil, err
	}
	return &following{remotes: r, ch: ch, current: remote, checked: time.Now()}, nil
}

// now returns the remote to use. Settings that cannot be read keep what there is: the run's end tells the rest.
func (f *following) now(ctx context.Context) *fetch.Remote {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.checked) < recheck {
		return f.current
	}
	f.checked = time.Now()
	remote, err := f.remotes.Open(ctx, f.ch)
	if err != nil {
		f.remotes.log.WarnContext(ctx, "a sync goes on with the settings it began with", "channel", f.ch.GetName(), "error", err)
		return f.current
	}
	f.current = remote
	return remote
}

func (f *following) Get(ctx context.Context, req fetch.Request) (*fetch.Response, error) {
	return f.now(ctx).Get(ctx, req)
}

func (f *following) Download(ctx context.Context, req fetch.DownloadRequest, sink fetch.Sink) (fetch.Result, error) {
	return f.now(ctx).Download(ctx, req, sink)
}

func (f *following) DownloadTo(ctx context.Context, req fetch.DownloadRequest, do func(io.Reader) error) (fetch.Result, error) {
	return f.now(ctx).DownloadTo(ctx, req, do)
}

func (f *following) BaseURL() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.BaseURL()
}

// apply adds settings to how an upstream is asked.
func apply(cfg *fetch.RemoteConfig, s *syncv1.RemoteSettings) {
	cfg.Credentials = fetch.Credentials{
		Username: s.GetUsername(), Password: s.GetPassword(), Bearer: s.GetBearerToken(),
		Header: s.GetHeader(), HeaderValue: s.GetHeaderValue(), PathToken: s.GetPathToken(),
	}
	cfg.CABundle, cfg.ClientCert, cfg.ClientKey = []byte(s.GetCaBundle()), []byte(s.GetClientCert()), []byte(s.GetClientKey())
	cfg.ProxyURL, cfg.RateBytes, cfg.RateRequests = s.GetProxyUrl(), s.GetRateBytes(), s.GetRateRequests()
}
