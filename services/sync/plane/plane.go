package plane

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
)

// Deps are what a plane stands on.
type Deps struct {
	Pool  *pgxpool.Pool
	Blobs blob.Store
	// Channels is asked for settings, and told what is stored.
	Channels channelsv1.ChannelServiceClient
	// Open returns the upstream of a channel, with its credentials. The plane does not close it.
	Open func(ctx context.Context, ch *channelsv1.Channel) (*fetch.Remote, error)
	// Verifier checks the internal tokens.
	Verifier *authn.Verifier
	Config   Config
	// MaxIndexSize and MaxFileSize bound what is received, in bytes.
	MaxIndexSize, MaxFileSize int64
	Meter                     metric.MeterProvider
	Log                       *slog.Logger
}

// Plane is a fetch plane: an http.Handler.
type Plane struct {
	deps     Deps
	cfg      Config
	log      *slog.Logger
	store    store
	leases   leases
	tel      *instruments
	negative *memo // what upstream does not have, or could not tell
	refused  *memo // files that are not what the index says

	ctx    context.Context // of the flights; ends with Stop
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	stopped  bool
	flights  map[string]*flight
	refreshs map[string]*refreshing
	builds   map[string]*building
	heavy    chan struct{}
	packing  chan struct{}
}

// New returns a plane, which begins to work with its first request. Stop it.
func New(deps Deps) (*Plane, error) {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Config.SpoolDir == "" {
		return nil, fault.New(fault.Internal, "a fetch plane needs a directory for its spool")
	}
	if err := os.MkdirAll(deps.Config.SpoolDir, 0o700); err != nil {
		return nil, fmt.Errorf("proxy.spool_dir: %w", err)
	}
	tel, err := newInstruments(deps.Meter)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(authn.WithSelf(context.Background()))
	return &Plane{
		deps: deps, cfg: deps.Config, log: deps.Log, store: store{deps.Pool}, leases: leases{deps.Pool, deps.Config.LeaseTTL}, tel: tel,
		negative: newMemo(time.Now), refused: newMemo(time.Now), ctx: ctx, cancel: cancel,
		flights: map[string]*flight{}, refreshs: map[string]*refreshing{}, builds: map[string]*building{}, heavy: make(chan struct{}, heavyWork), packing: make(chan struct{}, heavyWork-1),
	}, nil
}

// Start begins the upkeep. What is fetched does not wait for it.
func (p *Plane) Start() { p.background(p.ctx, p.janitor) }

// janitor drops leases of holders that vanished.
func (p *Plane) janitor(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := p.leases.sweep(ctx); err != nil && ctx.Err() == nil {
				p.log.WarnContext(ctx, "old leases of proxies stay", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// heavyWork bounds how many indexes are read or packed at a time: each takes a processor, and up to a few hundred
// megabytes for the largest channels.
const heavyWork = 2

// heavily runs f when it is its turn.
func (p *Plane) heavily(ctx context.Context, f func() error) error {
	select {
	case p.heavy <- struct{}{}:
		defer func() { <-p.heavy }()
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// packed is heavily for forms of an index, which are a convenience: one place is kept for reading indexes.
func (p *Plane) packed(ctx context.Context, f func() error) error {
	select {
	case p.packing <- struct{}{}:
		defer func() { <-p.packing }()
		return p.heavily(ctx, f)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errStopped = fault.New(fault.Unavailable, "the fetch plane is stopping")

// Stop ends all flights, whose readers are cut, and waits for them as long as ctx lets it. It may be called twice.
func (p *Plane) Stop(ctx context.Context) {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.cancel(errStopped)
	ended := make(chan struct{})
	go func() { p.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		p.log.WarnContext(ctx, "the fetch plane stops while files are being fetched")
	}
}

// background runs f as part of the plane, with a context that is ctx's in all but its end. It is false when the plane stops.
func (p *Plane) background(ctx context.Context, f func(context.Context)) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.backgroundLocked(ctx, f)
}

func (p *Plane) backgroundLocked(ctx context.Context, f func(context.Context)) bool {
	if p.stopped {
		return false
	}
	// What is fetched is for everybody: it must not end with the request that asked first.
	ctx, cancel := context.WithCancelCause(authn.WithSelf(context.WithoutCancel(ctx)))
	stop := context.AfterFunc(p.ctx, func() { cancel(context.Cause(p.ctx)) })
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		defer cancel(nil)
		defer stop()
		f(ctx)
	}()
	return true
}

// channel is a proxy channel as it is now, with what it has at the path that is asked for.
type channel struct {
	*channelsv1.ResolveResponse
	id       uuid.UUID
	settings []byte
}

func (c *channel) mirror() *channelsv1.MirrorSettings { return c.GetChannel().GetMirror() }

// key is a name within the channel as it is set now.
func (c *channel) key(name string) string {
	return c.id.String() + string(c.settings) + "\x00" + name
}

// resolve asks channels what there is.
func (p *Plane) resolve(ctx context.Context, name, id, path string) (*channel, error) {
	resp, err := p.deps.Channels.Resolve(authn.WithSelf(ctx), &channelsv1.ResolveRequest{Channel: name, Path: path})
	if err != nil {
		return nil, err
	}
	c := &channel{ResolveResponse: resp, settings: resp.GetProxy().GetSettings()}
	if c.id, err = uuid.Parse(resp.GetChannel().GetId()); err != nil {
		return nil, err
	}
	if resp.GetChannel().GetId() != id || resp.GetProxy() == nil {
		return nil, fault.New(fault.NotFound, "%s is no proxy channel, or no longer the same", name)
	}
	return c, nil
}

// again resolves another path of the same channel, and fails if its settings are no longer those.
func (p *Plane) again(ctx context.Context, c *channel, path string) (*channel, error) {
	now, err := p.resolve(ctx, c.GetChannel().GetName(), c.GetChannel().GetId(), path)
	if err == nil && !slices.Equal(now.settings, c.settings) {
		err = fault.New(fault.LostRace, "the settings of channel %s have changed", c.GetChannel().GetName())
	}
	return now, err
}

// freshRow reports whether what channels has at the path can be served as it is.
func (c *channel) freshRow() bool {
	d := c.GetProxy().GetFreshFor()
	return c.GetFound() && len(c.GetSha256()) > 0 && (d == nil || d.AsDuration() > 0)
}

// split returns directory and name of a path.
func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// where makes the request's target: a path below the upstream, or a URL if base says that files are elsewhere.
func where(base, dir, name string) (path, absolute string) {
	if base == "" {
		return join(dir, name), ""
	}
	u, err := url.Parse(base)
	if err != nil {
		return join(dir, name), ""
	}
	return "", u.JoinPath(url.PathEscape(name)).String()
}

// SpoolIn is the default place of the spool.
func SpoolIn(dataDir string) string { return filepath.Join(dataDir, "spool") }
