// Package sync copies upstream channels into mirror channels: plan, diff, apply (design D8).
//
// A run of the job `sync.channel` goes through these steps.
//
//  1. Which subdirs? Those of channeldata.json, else all that conda knows; noarch always.
//  2. Each subdir's index is asked for with the ETag that was last seen: repodata.json.zst first, then .bz2, then plain.
//     What comes is kept as a blob, as it came, and read once. If no index says anything else than at the last clean run,
//     however it is packed, the run ends here.
//  3. The records of all indexes become a plan: a blob with path, digest, size and raw record of each file, sorted.
//  4. channels.Diff says which of them are not stored yet.
//  5. Those are downloaded, many at a time, each checked against size and digest while it streams in, and stored in
//     batches. A run that was killed goes on where it was: storage knows what it has, and files whose SHA-256 the index
//     does not tell are noted. If files are not what the index says, it is read once more: upstream may have published
//     meanwhile, and then the run starts over with what it says now.
//  6. channels.Apply makes the plan the next revision, in one transaction, under the job's claim. If somebody else moved
//     the head meanwhile, steps 4 to 6 are done again; nothing is downloaded again.
//
// How an upstream is reached besides its URL (credentials, authorities, proxy, rates) is the channel's remote: see Remotes.
// It is kept sealed, shown without its secrets, and what is set acts on the next request.
//
// A sync that looks inside (inspect) also reads the archives that it downloads; what is refused then is remembered by
// digest, for its bytes may be in storage by other ways.
//
// A file that cannot be had, or is not what the index says, fails alone: the channel keeps what it had at that path, the
// result names the file and the reason, and the next run tries again. A subdir whose index cannot be read keeps all it
// had. Nothing is ever removed because upstream did not answer.
package sync

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/seal"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	syncv1 "github.com/entrepot-dev/entrepot/proto/entrepot/sync/v1"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Schema is the service's part of the database.
var Schema = pg.Schema{Name: "sync", FS: sub(migrations)}

func sub(f fs.FS) fs.FS {
	d, err := fs.Sub(f, "migrations")
	if err != nil {
		panic(err) // only for a malformed name
	}
	return d
}

// Config says how syncs are run.
type Config struct {
	// Downloads is how many files one sync downloads at a time. More than the fetch client's limit per host only wait there.
	Downloads int `koanf:"downloads"`
	// Concurrency is how many syncs one process runs at a time.
	Concurrency int `koanf:"concurrency"`
	// MaxIndexSize bounds an index file as it is received, in bytes.
	MaxIndexSize int64 `koanf:"max_index_size"`
	// MaxFileSize bounds a package file, in bytes.
	MaxFileSize int64 `koanf:"max_file_size"`
	// Attempts is how often a request is made that fails in a way that may pass; 0 means the fetch client's default.
	Attempts int `koanf:"attempts"`
	// HeaderTimeout bounds the wait for an answer to begin, and StallTimeout how long a body may bring next to nothing
	// before it is given up; 0 means the fetch client's default. There is no limit on total time.
	HeaderTimeout time.Duration `koanf:"header_timeout"`
	StallTimeout  time.Duration `koanf:"stall_timeout"`
}

// remote is how an upstream is asked.
func (c Config) remote(name, url string) fetch.RemoteConfig {
	return fetch.RemoteConfig{
		Name: name, Kind: "conda", BaseURL: url, Attempts: c.Attempts,
		Timeouts: fetch.Timeouts{Header: c.HeaderTimeout, Window: c.StallTimeout},
	}
}

// DefaultConfig suits two cores and a disk.
func DefaultConfig() Config {
	return Config{Downloads: 24, Concurrency: 4, MaxIndexSize: 2 << 30, MaxFileSize: 16 << 30}
}

// Validate refuses what cannot work.
func (c Config) Validate() error {
	switch {
	case c.Downloads < 1 || c.Downloads > 1024:
		return fault.Field("sync.downloads", "sync.downloads must lie between 1 and 1024")
	case c.Concurrency < 1 || c.Concurrency > 256:
		return fault.Field("sync.concurrency", "sync.concurrency must lie between 1 and 256")
	case c.Attempts < 0 || c.HeaderTimeout < 0 || c.StallTimeout < 0:
		return fault.Field("sync.attempts", "sync.attempts and timeouts must not be negative; 0 means the default")
	case c.MaxIndexSize < 1 || c.MaxFileSize < 1:
		return fault.Field("sync.max_file_size", "size limits must be positive")
	}
	return nil
}

// Deps are what the service and its jobs stand on.
type Deps struct {
	Pool     *pgxpool.Pool
	Jobs     *jobs.Client
	Channels channelsv1.ChannelServiceClient
	// Master seals the credentials of upstreams; nil in a process that has none, which then can keep none.
	Master *seal.Key
	Log    *slog.Logger
}

// Service implements syncv1.SyncServiceServer.
type Service struct {
	syncv1.UnimplementedSyncServiceServer
	deps  Deps
	store store
}

var _ syncv1.SyncServiceServer = (*Service)(nil)

// New returns the service.
func New(deps Deps) *Service { return &Service{deps: deps, store: store{deps.Pool}} }

// WorkerDeps are what the job kinds stand on, beside what the service does.
type WorkerDeps struct {
	Deps
	// Blobs keeps indexes, plans and packages.
	Blobs blob.Store
	// Roles decide whether whoever asked for a sync may still have it when it runs.
	Roles *authz.Roles
	// Remotes opens the upstreams.
	Remotes *Remotes
	Config  Config
}

// Kind of the job that syncs a channel.
const Kind = "sync.channel"

// KindForget drops what is remembered of a deleted channel's upstream. The channels service asks for it in the transaction
// that deletes a mirror.
const KindForget = "sync.forget"

// actionForget is how former versions spelled KindForget: as an action of Kind.
const actionForget = "forget"

// KindSpec is how jobs of the kind are run: one per channel at a time, and a request while one runs joins it.
func KindSpec(c Config) jobs.KindSpec {
	return jobs.KindSpec{Kind: Kind, Timeout: timeout, MaxFailures: syncAttempts, Coalesce: jobs.Join, Concurrency: c.Concurrency}
}

// Register adds the job kinds to a pool's registry.
func Register(reg *jobs.Registry, deps WorkerDeps) {
	w := &worker{deps: deps, store: store{deps.Pool}, metrics: newSyncMetrics()}
	jobs.Register(reg, KindSpec(deps.Config), jobs.Worker[*syncv1.SyncJobArgs](w))
	registerPoll(reg, w)
	jobs.Register(reg, jobs.KindSpec{
		Kind: KindForget, Timeout: 10 * time.Minute, MaxFailures: 8, Coalesce: jobs.None, Concurrency: 1,
		Backoff: jobs.Backoff{Initial: time.Second, Max: time.Minute},
	}, jobs.WorkFunc[*syncv1.ForgetJobArgs](w.forgetJob))
}

func (s *Service) channel(ctx context.Context, name string) (*channelsv1.Channel, error) {
	return s.deps.Channels.GetChannel(ctx, &channelsv1.GetChannelRequest{Channel: name})
}
