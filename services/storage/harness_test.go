package storage

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/audit"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/blob/grant"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/pkg/rpc/rpctest"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is the worker on a real database with blobs in memory, and the service behind a real gRPC server.
type bundle struct {
	t     *testing.T
	pool  *pgxpool.Pool
	blobs *blobtest.Memory
	jobs  *jobs.Client
	w     *worker
}

func setup(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{t: t, pool: pgtest.New(t, jobs.Schema, refs.Schema, audit.Schema, Schema), blobs: &blobtest.Memory{}}
	b.jobs = jobs.NewClient(jobs.ClientConfig{Pool: b.pool})
	w, err := newWorker(WorkerDeps{
		DB: b.pool, Jobs: b.jobs, Blobs: b.blobs, Upkeep: Upkeep{GCGrace: time.Hour}, JobRetention: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.w = w
	return b
}

// put stores bytes, and refers to them if an owner is named.
func (b *bundle) put(text, owner string) blob.Digest {
	b.t.Helper()
	info, err := b.blobs.Put(b.t.Context(), bytes.NewReader([]byte(text)), blob.PutOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	if owner != "" {
		b.add(info.Digest, info.Size, owner)
	}
	return info.Digest
}

func (b *bundle) add(d blob.Digest, size int64, owner string) {
	b.t.Helper()
	err := pgx.BeginFunc(b.t.Context(), b.pool, func(tx pgx.Tx) error {
		return refs.Add(b.t.Context(), tx, refs.Ref{Digest: d, Size: size, Owner: refs.Owner{Kind: "test.thing", ID: owner}})
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) drop(owner string) {
	b.t.Helper()
	if _, err := refs.RemoveOwner(b.t.Context(), b.pool, refs.Owner{Kind: "test.thing", ID: owner}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) has(d blob.Digest) bool {
	_, err := b.blobs.Stat(b.t.Context(), d)
	return err == nil
}

// later makes all that garbage collection remembers older.
func (b *bundle) later(d time.Duration) {
	b.exec(`UPDATE refs.blobs SET seen_at = seen_at - $1::interval, marked_at = marked_at - $1::interval, deleted_at = deleted_at - $1::interval`, d)
}

func (b *bundle) exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.pool.Exec(b.t.Context(), sql, args...); err != nil {
		b.t.Fatal(err)
	}
}

func quiet(int64, int64, int64, string) {}

// api serves the service; the caller of the context is whoever is put into it.
func (b *bundle) api(u Upkeep) (storagev1.StorageServiceClient, *rpctest.Identity, *Service) {
	b.t.Helper()
	signer, err := grant.NewSigner(grant.Key{ID: "1", Secret: bytes.Repeat([]byte("s"), 32)}, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	id := rpctest.NewIdentity(b.t)
	srv := id.Server()
	svc := New(Deps{DB: b.pool, Jobs: b.jobs, Grants: signer, Upkeep: u})
	storagev1.RegisterStorageServiceServer(srv, svc)
	return storagev1.NewStorageServiceClient(id.Serve(b.t, srv, "storage")), id, svc
}

func maintainer(id *rpctest.Identity) authn.Caller {
	return id.User("maintainer", authz.Binding{Role: authz.Maintainer, Resource: "server"})
}
