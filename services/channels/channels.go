package channels

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/singleflight"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	identityv1 "github.com/entrepot-dev/entrepot/proto/entrepot/identity/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/plan"
	"github.com/entrepot-dev/entrepot/pkg/seal"
)

// Config tunes the service. The zero value takes the defaults.
type Config struct {
	// BatchWindow is how long an upload waits for others that are on their way to the same channel, to share a revision with
	// them. Default 20 ms: most of what one upload may cost until its shard index shows it is left for the work itself.
	// Negative means none. Without company there is no wait.
	BatchWindow time.Duration
	// FullInspect is the size in bytes up to which an uploaded archive is read to its end before it is listed; of
	// larger ones, and of .tar.bz2 files above a sixteenth of it, only the metadata. Default 512 MiB: some seconds of one
	// core, within the 30 s that a call may take.
	FullInspect int64
	// Archive bounds what an uploaded archive may cost to read.
	Archive archive.Limits
	// Plan bounds what a plan may cost to read.
	Plan plan.Limits
	// KeepShards is how long shards stay that no index names any more, for clients with an older index. Default 7 days,
	// the time that clients may rely on (CEP 16).
	KeepShards time.Duration
	// KeepHistory is how long files stay in storage after they left their channel, for readers of former revisions.
	// Default 7 days.
	KeepHistory time.Duration
	// PublicURL is where this server is reached from outside: an address of its own is not asked over the network.
	PublicURL string
	// PackageStore is a directory with packages as <channel>/<subdir>/<file>, which reindex looks through, too: that of a
	// Quetz, for one. Empty means none.
	PackageStore string
	// DefaultQuota is the size limit in bytes of channels that are made without one. 0 means none.
	DefaultQuota int64

	pastRecords   int // see the constants; tests lower them
	gzipWithIndex int64
	extrasPause   time.Duration
	spliceFrom    int64
	stageAll      bool // in tables, however few files there are
}

func (c Config) withDefaults() Config {
	if c.BatchWindow == 0 {
		c.BatchWindow = 20 * time.Millisecond
	}
	if c.FullInspect == 0 {
		c.FullInspect = 512 << 20
	}
	if c.KeepShards <= 0 {
		c.KeepShards = 7 * 24 * time.Hour
	}
	if c.KeepHistory <= 0 {
		c.KeepHistory = 7 * 24 * time.Hour
	}
	if c.pastRecords <= 0 {
		c.pastRecords = pastRecords
	}
	if c.gzipWithIndex <= 0 {
		c.gzipWithIndex = gzipWithIndex
	}
	if c.spliceFrom <= 0 {
		c.spliceFrom = spliceFrom
	}
	if c.extrasPause <= 0 {
		c.extrasPause = extrasPause
	}
	return c
}

// Roles decides about permissions that an RPC's access option cannot express.
type Roles interface {
	Allow(ctx context.Context, c authn.Caller, permission authz.Permission, res authz.Resource) error
	Readable(ctx context.Context, c authn.Caller) (authz.Readable, error)
	Snapshot() *authz.Snapshot
	// Await waits until decisions are made by roles of at least the version.
	Await(ctx context.Context, version int64) error
}

// Publisher tells whoever listens now; *bus.Bus is one.
type Publisher interface {
	Publish(ctx context.Context, subject string, data []byte) error
}

// Deps are what the service stands on. All but Bus, Tracer, Now and Logger are required.
type Deps struct {
	// Pool is on a database with the schemas channels, jobs, refs and audit.
	Pool  *pgxpool.Pool
	Blobs blob.Store
	Jobs  *jobs.Client
	// Bus hears of every move of a head; nil tells nobody, and readers notice by asking.
	Bus Publisher
	// Identity keeps the members. It is called as this process, not as the user.
	Identity identityv1.IdentityServiceClient
	// Upstreams keeps the credentials that come with the URL of a new mirror or proxy; without it such URLs are refused.
	Upstreams syncv1.SyncServiceClient
	// HTTP asks other servers: mirrors that are registered, upstreams that this server is a mirror of. It obeys the egress
	// policy and follows no redirects; nil asks nobody.
	HTTP *http.Client
	// Sources are asked for files whose bytes were lost; nil repairs nothing.
	Sources Sources
	// Seal keeps what must not be read or written by others: upstreams' keys, and the catalogs. Nil: neither is kept.
	Seal  *seal.Key
	Roles Roles
	// Tracer makes the spans of publications; nil is OpenTelemetry's global one.
	Tracer trace.TracerProvider
	Now    func() time.Time
	Logger *slog.Logger
}

// Service implements channelsv1.ChannelServiceServer and the jobs of the kinds KindIndex, KindExtras and KindPast.
type Service struct {
	channelsv1.UnimplementedChannelServiceServer

	cfg       Config
	pool      *pgxpool.Pool
	blobs     blob.Store
	jobs      *jobs.Client
	bus       Publisher
	identity  identityv1.IdentityServiceClient
	upstreams syncv1.SyncServiceClient
	http      *http.Client
	sources   Sources
	seal      *seal.Key
	roles     Roles
	tracer    trace.Tracer
	now       func() time.Time
	log       *slog.Logger

	gates   gates
	prompt  courtesy // of builds that clients wait for
	uploads uploads
	names   nameTable
	shards  shardCache

	pastFlights singleflight.Group
	pastSlots   chan struct{}
}

var _ channelsv1.ChannelServiceServer = (*Service)(nil)

// New returns the service. It starts no goroutine until there are uploads.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Pool == nil || d.Blobs == nil || d.Jobs == nil || d.Identity == nil || d.Roles == nil {
		return nil, fmt.Errorf("channels: pool, blobs, jobs, identity and roles are required")
	}
	s := &Service{
		cfg: cfg.withDefaults(), pool: d.Pool, blobs: d.Blobs, jobs: d.Jobs, bus: d.Bus, identity: d.Identity, upstreams: d.Upstreams, http: d.HTTP, sources: d.Sources, seal: d.Seal, roles: d.Roles, now: d.Now, log: d.Logger,
		pastSlots: make(chan struct{}, pastParallel),
	}
	if d.Tracer == nil {
		d.Tracer = otel.GetTracerProvider()
	}
	s.tracer = d.Tracer.Tracer("github.com/entrepot-dev/entrepot/services/channels")
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.uploads = uploads{window: s.cfg.BatchWindow, publish: s.publishUploads, queues: make(map[uuid.UUID]*uploadQueue), stops: make(chan struct{})}
	return s, nil
}

// Stop refuses further uploads and waits for those under way. It may be called twice.
func (s *Service) Stop() { s.uploads.stop() }

// SubjectHead is the bus subject on which HeadEvents are published.
const SubjectHead = "channels.head"

// HeadEvent says that what a channel serves has changed: its head, its index files, its privacy or its existence. It is
// JSON on the bus. It may be lost; whoever caches what a channel serves asks again after a while nevertheless.
type HeadEvent struct {
	// ID is the channel's UUID, Name its name.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Head is the revision that is served from now on.
	Head    int64 `json:"head"`
	Deleted bool  `json:"deleted,omitempty"`
	Private bool  `json:"private"`
}

// announceTimeout bounds what telling others may cost the one who published.
const announceTimeout = 2 * time.Second

// announce tells the bus about a channel. The change is committed: a bus that is away is no reason to fail.
func (s *Service) announce(ctx context.Context, c *channelRow, deleted bool) {
	if s.bus == nil {
		return
	}
	data, err := json.Marshal(HeadEvent{ID: c.ID.String(), Name: c.Name, Head: c.Head, Deleted: deleted, Private: c.Private})
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), announceTimeout)
		defer cancel()
		err = s.bus.Publish(ctx, SubjectHead, data)
	}
	if err != nil {
		s.log.WarnContext(ctx, "a head change could not be announced; caches will notice within their own time", "channel", c.Name, "head", c.Head, "error", err)
	}
}
