package sync

import (
	"context"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

// An index whose bytes lay in storage for long, referred to by nobody, may be in the collector's hands when it is had again.
func TestAnIndexIsTakenOutOfTheCollectorsHands(t *testing.T) {
	b := setup(t)
	ctx := t.Context()
	d := b.put([]byte("{}"))
	state := subdirState{Subdir: "noarch", IndexPath: "noarch/repodata.json", IndexDigest: d[:], IndexSize: 2}
	if _, err := refs.Record(ctx, b.store.pool, refs.Blob{Digest: d, Size: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := refs.Mark(ctx, b.store.pool, 0, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := refs.Sweep(ctx, b.store.pool, 0, 10, func(context.Context, blob.Digest) error {
		return fault.New(fault.Unavailable, "the store is away") // condemned, and not deleted yet
	}); err == nil {
		t.Fatal("nothing was swept")
	}
	if err := b.store.putSubdir(ctx, b.id, b.up.URL, state); !fault.Is(err, fault.LostRace) {
		t.Fatalf("while it is condemned: %v", err)
	}
	if err := b.store.putSubdir(ctx, b.id, b.up.URL, state); err != nil {
		t.Fatalf("at the second attempt: %v", err)
	}
	if n, err := refs.Mark(ctx, b.store.pool, 0, 10); n != 0 || err != nil {
		t.Errorf("%d blobs are marked although referred to, %v", n, err)
	}

	// And what is forgotten is let go.
	tx, err := b.store.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.forget(ctx, tx, b.id); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond) // the grace of nothing is over
	if n, err := refs.Mark(ctx, b.store.pool, 0, 10); n != 1 || err != nil {
		t.Errorf("%d blobs are marked, %v", n, err)
	}
}
