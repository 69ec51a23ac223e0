// Package metrics is the service that counts downloads: per file, channel and hour, with totals, series and top lists,
// and what registered mirrors have counted added to it.
//
// # Counting
//
// Gateways count (pkg/access) and send batches over the bus. The service fetches what there is, and in one transaction
// remembers the batches' numbers and adds what is new to the series: a batch that comes twice, late, or to two replicas at
// once is added once. It acknowledges afterwards.
//
// # What is kept
//
// Each download stands in exactly one row of metrics.series. It begins in an hour. When hours are older than
// metrics.keep.hours, upkeep moves them into their days, and days older than metrics.keep.days into their months; months
// are kept for ever. A series of days is therefore what the days' rows and those of their hours say together. Totals are
// kept beside, and nothing that expires changes them.
//
// # Mirrors
//
// A channel's registered mirrors serve downloads too. The job metrics.pull asks each for the whole hours since it was
// asked last, and adds the points in the same transaction that remembers how far they go. The points of a mirror keep
// their source, so that they can be taken back. A mirror is a stranger: what it says is bounded in size, count and time,
// and only files that the channel has are counted.
package metrics

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric"

	"github.com/entrepot-dev/entrepot/pkg/access"
	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/rpc"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	metricsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/metrics/v1"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the PostgreSQL schema of this service. Only this package writes to it.
var Schema = pg.Schema{Name: "metrics", FS: migrations}

// Config says how long what is kept.
type Config struct {
	// Keep is for counts.
	Keep Keep `koanf:"keep"`
}

// Keep says how long counts are kept in which grain. Totals, months and years stay for ever.
type Keep struct {
	// Hours is how long hours are kept; afterwards they are days. Registered mirrors are asked for hours: who pulls from
	// here must do so within this time.
	Hours time.Duration `koanf:"hours"`
	// Days is how long days are kept; afterwards they are months.
	Days time.Duration `koanf:"days"`
}

// DefaultConfig keeps hours for a month and days for two years.
func DefaultConfig() Config {
	return Config{Keep: Keep{Hours: 31 * 24 * time.Hour, Days: 2 * 366 * 24 * time.Hour}}
}

// Validate refuses what cannot work.
func (c Config) Validate() error {
	var bad []fault.Violation
	if c.Keep.Hours < 48*time.Hour {
		bad = append(bad, fault.Violation{Field: "metrics.keep.hours", Description: "must be at least 48h, or series of a day would have holes"})
	}
	if c.Keep.Days < c.Keep.Hours {
		bad = append(bad, fault.Violation{Field: "metrics.keep.days", Description: "must not be less than metrics.keep.hours"})
	}
	if len(bad) == 0 {
		return nil
	}
	err := fault.New(fault.Invalid, "the settings of metrics cannot be used")
	err.Violations = bad
	return err
}

// Deps are what the service stands on.
type Deps struct {
	// Pool is on a database with the schemas metrics, jobs and audit.
	Pool *pgxpool.Pool
	// Jobs queues pulls.
	Jobs *jobs.Client
	// Channels knows of which kind a channel is.
	Channels channelsv1.ChannelServiceClient
	// Bus has the stream of batches; nil takes none in.
	Bus *bus.Bus
	// Replicas of the stream, if it has to be made.
	Replicas int
	Log      *slog.Logger
	// Meter counts; nil means the global one.
	Meter metric.MeterProvider
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Service implements metricsv1.MetricsServiceServer.
type Service struct {
	metricsv1.UnimplementedMetricsServiceServer
	deps    Deps
	store   store
	metrics *instruments
	intake  *intake
}

var _ metricsv1.MetricsServiceServer = (*Service)(nil)

// New returns the service. It takes no batches in before Start.
func New(deps Deps) (*Service, error) {
	if deps.Pool == nil || deps.Jobs == nil || deps.Channels == nil {
		return nil, fmt.Errorf("metrics: pool, jobs and channels are required")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	m, err := newInstruments(deps.Meter)
	if err != nil {
		return nil, err
	}
	s := &Service{deps: deps, store: store{deps.Pool}, metrics: m}
	if deps.Bus != nil {
		s.intake = &intake{pool: deps.Pool, bus: deps.Bus, stream: access.Config(deps.Replicas), log: deps.Log, metrics: m, now: deps.Now}
	}
	return s, nil
}

// Register adds the service to a server.
func (s *Service) Register(srv *rpc.Server) {
	metricsv1.RegisterMetricsServiceServer(srv, s)
	// Who has a role on a package may see its downloads.
	srv.HandleMethod(metricsv1.MetricsService_GetFileMetrics_FullMethodName, rpc.MethodRule{Resources: packageOf})
}

// Start begins to take batches in.
func (s *Service) Start() {
	if s.intake != nil {
		s.intake.start()
	}
}

// Stop ends what Start began, once the transaction under way is over. It may be called twice, and without Start.
func (s *Service) Stop(context.Context) {
	if s.intake != nil {
		s.intake.stop()
	}
}
