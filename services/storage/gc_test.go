package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/blob/blobtest"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

func (b *bundle) collect(want *storagev1.GarbageCollectionResult) {
	b.t.Helper()
	got, err := b.w.collect(b.t.Context(), want.GetDryRun(), quiet)
	if err != nil {
		b.t.Fatal(err)
	}
	if want.Expired == nil {
		want.Expired = map[string]int64{"findings": 0, "jobs": 0}
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		b.t.Errorf("collection (-want +got)\n%s", diff)
	}
}

func TestGarbageCollection(t *testing.T) {
	t.Run("what nobody refers to goes after the grace period", func(t *testing.T) {
		b := setup(t)
		kept := b.put("kept", "a")
		dropped := b.put("dropped", "b")
		staged := b.put("never published", "") // nobody tells the database of it
		b.drop("b")
		b.collect(&storagev1.GarbageCollectionResult{Stored: 3, StoredBytes: 26, Adopted: 1})
		b.later(time.Hour)
		b.collect(&storagev1.GarbageCollectionResult{Stored: 3, StoredBytes: 26, Marked: 2})
		b.collect(&storagev1.GarbageCollectionResult{Stored: 3, StoredBytes: 26})
		b.later(time.Hour)
		for range 2 { // a dry run changes nothing
			b.collect(&storagev1.GarbageCollectionResult{DryRun: true, Stored: 3, StoredBytes: 26, Deleted: 2, DeletedBytes: 22})
		}
		b.collect(&storagev1.GarbageCollectionResult{Stored: 3, StoredBytes: 26, Deleted: 2, DeletedBytes: 22})
		if !b.has(kept) || b.has(dropped) || b.has(staged) {
			t.Errorf("kept %v, dropped %v, staged %v; want only the first", b.has(kept), b.has(dropped), b.has(staged))
		}
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 4})
	})
	t.Run("a dry run tells what would be adopted and marked", func(t *testing.T) {
		b := setup(t)
		b.put("known", "a")
		b.drop("a")
		b.put("unknown", "")
		b.later(time.Hour)
		for range 2 {
			b.collect(&storagev1.GarbageCollectionResult{DryRun: true, Stored: 2, StoredBytes: 12, Adopted: 1, Marked: 1})
		}
	})
	t.Run("a reference within the grace period saves a blob", func(t *testing.T) {
		b := setup(t)
		d := b.put("late", "")
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 4, Adopted: 1})
		b.later(time.Hour)
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 4, Marked: 1})
		b.later(time.Hour)
		b.add(d, 4, "a")
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 4})
		if !b.has(d) {
			t.Error("it was deleted")
		}
	})
	t.Run("what was deleted and put again can be referred to", func(t *testing.T) {
		b := setup(t)
		b.put("back again", "a")
		b.drop("a")
		b.later(time.Hour)
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 10, Marked: 1})
		b.later(time.Hour)
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 10, Deleted: 1, DeletedBytes: 10})
		d := b.put("back again", "") // by somebody who does not know of the tombstone
		b.collect(&storagev1.GarbageCollectionResult{DryRun: true, Stored: 1, StoredBytes: 10, Adopted: 1})
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 10, Adopted: 1})
		b.add(d, 10, "b")
		b.later(time.Hour)
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 10})
	})
	t.Run("a store that fails is tried again", func(t *testing.T) {
		b := setup(t)
		d := b.put("stubborn", "")
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 8, Adopted: 1})
		b.later(time.Hour)
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 8, Marked: 1})
		b.later(time.Hour)
		away := errors.New("the bucket is away")
		b.blobs.Fail = func(op string, _ blob.Digest) error {
			if op == "delete" {
				return away
			}
			return nil
		}
		if _, err := b.w.collect(t.Context(), false, quiet); !errors.Is(err, away) {
			t.Errorf("collect: %v", err)
		}
		b.blobs.Fail = nil
		b.collect(&storagev1.GarbageCollectionResult{Stored: 1, StoredBytes: 8, Deleted: 1, DeletedBytes: 8})
		if b.has(d) {
			t.Error("it is still there")
		}
	})
	t.Run("every service's old rows go, and one's trouble does not keep the others'", func(t *testing.T) {
		b := setup(t)
		broken := errors.New("no such table")
		b.exec(`INSERT INTO storage.findings (digest, problem, size, quarantined, detail, resolved_at) VALUES ($1, 'missing', 1, false, '', now() - interval '1 year')`, blob.Sum(nil))
		var dry []bool
		b.w.Retain = []Retention{
			{"audit", func(_ context.Context, _ pg.DB, dryRun bool) (int64, error) {
				dry = append(dry, dryRun)
				return 7, nil
			}},
		}
		b.collect(&storagev1.GarbageCollectionResult{DryRun: true, Expired: map[string]int64{"audit": 7, "findings": 1, "jobs": 0}})
		b.w.Retain = append([]Retention{{"broken", func(context.Context, pg.DB, bool) (int64, error) { return 0, broken }}}, b.w.Retain...)
		if _, err := b.w.collect(t.Context(), false, quiet); !errors.Is(err, broken) {
			t.Errorf("collect: %v", err)
		}
		if diff := cmp.Diff([]bool{true, false}, dry); diff != "" {
			t.Errorf("calls of the other one (-want +got)\n%s", diff)
		}
	})
}

// I6: uploads that publish as all services do, against a collector that has no patience at all, in a real directory.
func TestUploadsRacingWithGarbageCollectionLoseNothing(t *testing.T) {
	b := setup(t)
	dir, err := blob.OpenDir(t.TempDir(), blob.DirOptions{Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	b.w.Blobs, b.w.Upkeep.GCGrace = dir, 0
	const writers, rounds, enough = 4, 30, 5
	ctx, stop := context.WithCancel(t.Context())
	var collector, wg sync.WaitGroup
	var deleted atomic.Int64
	collector.Go(func() {
		for ctx.Err() == nil {
			r, err := b.w.collect(t.Context(), false, quiet)
			if err != nil {
				t.Error(err)
				return
			}
			deleted.Add(r.GetDeleted())
		}
	})
	var mu sync.Mutex
	kept := map[blob.Digest]bool{}
	for i := range writers {
		wg.Go(func() {
			for n := 0; (n < rounds || deleted.Load() < enough) && n < 20*rounds && !t.Failed(); n++ {
				data := fmt.Appendf(nil, "content %d", (n+2*i)%12) // the same bytes come and go, and come again
				if n%10 == 0 {
					data = fmt.Appendf(nil, "kept %d", n)
				}
				owner := refs.Owner{Kind: "test.upload", ID: fmt.Sprintf("%d-%d", i, n)}
				info, err := upload(t.Context(), b, dir, data, owner)
				if err != nil {
					t.Error(err)
					return
				}
				if err := blob.Verify(t.Context(), dir, info.Digest); err != nil {
					t.Errorf("an upload that was acknowledged: %v", err)
				}
				if n%10 == 0 {
					mu.Lock()
					kept[info.Digest] = true
					mu.Unlock()
				} else if _, err := refs.RemoveOwner(t.Context(), b.pool, owner); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	collector.Wait()
	for d := range kept {
		if err := blob.Verify(t.Context(), dir, d); err != nil {
			t.Error(err)
		}
	}
	if deleted.Load() < enough {
		t.Errorf("the collector deleted only %d blobs: too little was raced", deleted.Load())
	}
}

// upload puts, and publishes in a transaction that looks whether the bytes are there; it begins anew when it came too late.
func upload(ctx context.Context, b *bundle, s blob.Store, data []byte, owner refs.Owner) (info blob.Info, err error) {
	for {
		if info, err = s.Put(ctx, bytes.NewReader(data), blob.PutOptions{}); err != nil {
			return info, err
		}
		err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
			if _, err := s.Stat(ctx, info.Digest); err != nil {
				return err
			}
			return refs.Add(ctx, tx, refs.Ref{Digest: info.Digest, Size: info.Size, Owner: owner})
		})
		switch {
		case err == nil:
			return info, nil
		case fault.Is(err, fault.NotFound), pg.IsLostRace(err):
			continue
		case fault.Is(err, fault.LostRace):
			if _, err := refs.Record(ctx, b.pool, refs.Blob{Digest: info.Digest, Size: info.Size}); err != nil {
				return info, err
			}
			continue
		}
		return info, err
	}
}

func TestInterruptedUploadsAreCleanedUp(t *testing.T) {
	b := setup(t)
	cleaner := &cleaning{Memory: b.blobs}
	b.w.Blobs = cleaner
	b.collect(&storagev1.GarbageCollectionResult{DryRun: true})
	b.collect(&storagev1.GarbageCollectionResult{Temporary: 3})
	if diff := cmp.Diff([]time.Duration{24 * time.Hour}, cleaner.calls); diff != "" {
		t.Errorf("CleanTemp (-want +got)\n%s", diff)
	}
}

// cleaning is a store that finds three remains.
type cleaning struct {
	*blobtest.Memory
	calls []time.Duration
}

func (c *cleaning) CleanTemp(_ context.Context, olderThan time.Duration) (int, error) {
	c.calls = append(c.calls, olderThan)
	return 3, nil
}
