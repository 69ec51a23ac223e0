package storage

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// The kinds of jobs that this service owns.
const (
	KindGC    = "storage.gc"
	KindScrub = "storage.scrub"

	namespace = "default"
	resource  = "storage"
)

func gcJob(args *storagev1.GarbageCollectionArgs) jobs.EnqueueParams {
	return upkeepJob(KindGC, args, args.GetDryRun(), jobs.QueueOne)
}

// scrubJob: who asks while one runs is content with that one, which sees everything that lies there.
func scrubJob(args *storagev1.ScrubArgs) jobs.EnqueueParams {
	return upkeepJob(KindScrub, args, args.GetDryRun(), jobs.Join)
}

func upkeepJob(kind string, args proto.Message, dryRun bool, how jobs.Coalesce) jobs.EnqueueParams {
	key := "all"
	if dryRun {
		key = modeDryRun
	}
	return jobs.EnqueueParams{
		Kind: kind, Args: args, Namespace: namespace, Resource: resource, CoalesceKey: key, Coalesce: how,
		Locks: []jobs.Lock{{Resource: kind + "/" + key, Exclusive: true}},
	}
}

// WorkerDeps are what the jobs stand on.
type WorkerDeps struct {
	DB    pg.DB
	Jobs  *jobs.Client
	Blobs blob.Store
	// Upkeep says how long what is kept, and how fast a scrub may read.
	Upkeep Upkeep
	// JobRetention is what the dispatcher was told, for the report.
	JobRetention time.Duration
	// Retain removes what other services keep for a time only.
	Retain []Retention
	Log    *slog.Logger
	// Meter counts; nil means the global one.
	Meter metric.MeterProvider
}

// Retention removes the rows of one kind that are past their time. It belongs to the service that owns the rows.
type Retention struct {
	// Name is the key in the result's `expired`.
	Name string
	// Purge removes them and returns how many there were; with dryRun it only counts them.
	Purge func(ctx context.Context, db pg.DB, dryRun bool) (int64, error)
}

// worker does the jobs.
type worker struct {
	WorkerDeps
	store   store
	metrics *metrics
	// slice bounds one attempt at a scrub; the next goes on where it ended.
	slice time.Duration
	page  int
	now   func() time.Time
}

// Register adds the kinds to a worker pool.
func Register(reg *jobs.Registry, deps WorkerDeps) error {
	w, err := newWorker(deps)
	if err != nil {
		return err
	}
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindGC, Timeout: 6 * time.Hour, MaxFailures: 5, Concurrency: 1, Backoff: jobs.Backoff{Initial: 10 * time.Second, Max: 10 * time.Minute},
	}, jobs.WorkFunc[*storagev1.GarbageCollectionArgs](w.gc))
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindScrub, Timeout: 4 * scrubSlice, MaxFailures: 5, Concurrency: 1, Coalesce: jobs.Join,
		Backoff: jobs.Backoff{Initial: 30 * time.Second, Max: 30 * time.Minute},
	}, jobs.WorkFunc[*storagev1.ScrubArgs](w.scrub))
	return nil
}

func newWorker(deps WorkerDeps) (*worker, error) {
	m, err := newMetrics(deps.Meter)
	if err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.Default()
	}
	return &worker{WorkerDeps: deps, store: store{deps.DB}, metrics: m, slice: scrubSlice, page: scrubPage, now: time.Now}, nil
}
