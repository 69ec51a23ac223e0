package refs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func digest(i int) blob.Digest { return blob.Sum(fmt.Append(nil, i)) }

func ref(i int, owner string) refs.Ref {
	return refs.Ref{Digest: digest(i), Size: int64(i), Owner: refs.Owner{Kind: "test.thing", ID: owner}}
}

// add is Add in a transaction of its own.
func add(t *testing.T, db *pgxpool.Pool, rs ...refs.Ref) error {
	t.Helper()
	return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error { return refs.Add(t.Context(), tx, rs...) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantUnreferenced(t *testing.T, db *pgxpool.Pool, ask, want []blob.Digest) {
	t.Helper()
	got, err := refs.Unreferenced(t.Context(), db, ask)
	must(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unreferenced (-want +got)\n%s", diff)
	}
}

// collect runs both passes without any grace and returns what was deleted, sorted.
func collect(t *testing.T, db *pgxpool.Pool) []blob.Digest {
	t.Helper()
	_, err := refs.Mark(t.Context(), db, 0, 1000)
	must(t, err)
	var gone []blob.Digest
	_, err = refs.Sweep(t.Context(), db, 0, 1000, func(_ context.Context, d blob.Digest) error {
		gone = append(gone, d)
		return nil
	})
	must(t, err)
	return gone
}

func TestReferencesComeAndGo(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	must(t, add(t, db, ref(1, "a"), ref(1, "b"), ref(2, "a"), ref(1, "a")))
	must(t, add(t, db, ref(1, "a"))) // again
	all := []blob.Digest{digest(3), digest(2), digest(1)}
	wantUnreferenced(t, db, all, all[:1])
	must(t, refs.Remove(t.Context(), db, ref(1, "a"), ref(2, "b"), ref(9, "a")))
	wantUnreferenced(t, db, all, all[:1])
	n, err := refs.RemoveOwner(t.Context(), db, refs.Owner{Kind: "test.thing", ID: "a"}, refs.Owner{Kind: "test.other", ID: "b"})
	if n != 1 || err != nil {
		t.Errorf("RemoveOwner = %d, %v, want 1", n, err)
	}
	wantUnreferenced(t, db, all, all[:2])
	must(t, refs.Remove(t.Context(), db, ref(1, "b")))
	wantUnreferenced(t, db, all, all)
	wantUnreferenced(t, db, nil, nil)
	must(t, add(t, db))
}

func TestAReferenceEndsWithItsTransaction(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	failed := errors.New("the row could not be written")
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		must(t, refs.Add(t.Context(), tx, ref(1, "a")))
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	wantUnreferenced(t, db, []blob.Digest{digest(1)}, []blob.Digest{digest(1)})
}

func TestManyReferencesAtOnce(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	var rs []refs.Ref
	var ds []blob.Digest
	for i := range 25_000 {
		rs, ds = append(rs, ref(i, "bulk")), append(ds, digest(i))
	}
	must(t, add(t, db, rs...))
	wantUnreferenced(t, db, ds, nil)
	must(t, refs.Remove(t.Context(), db, rs...))
	wantUnreferenced(t, db, ds, ds)
}

func TestCollection(t *testing.T) {
	t.Run("only what nobody refers to is deleted, once", func(t *testing.T) {
		db := pgtest.New(t, refs.Schema)
		must(t, add(t, db, ref(1, "a"), ref(2, "a"), ref(3, "b")))
		if gone := collect(t, db); len(gone) != 0 {
			t.Errorf("deleted %v of referenced blobs", gone)
		}
		_, err := refs.RemoveOwner(t.Context(), db, ref(0, "a").Owner)
		must(t, err)
		want := []blob.Digest{digest(1), digest(2)}
		slices.SortFunc(want, func(a, b blob.Digest) int { return slices.Compare(a[:], b[:]) })
		if diff := cmp.Diff(want, collect(t, db)); diff != "" {
			t.Errorf("deleted (-want +got)\n%s", diff)
		}
		if gone := collect(t, db); len(gone) != 0 {
			t.Errorf("deleted %v twice", gone)
		}
	})
	t.Run("the young and the freshly marked are spared", func(t *testing.T) {
		db := pgtest.New(t, refs.Schema)
		_, err := refs.Record(t.Context(), db, refs.Blob{Digest: digest(1), Size: 1})
		must(t, err)
		if n, err := refs.Mark(t.Context(), db, time.Hour, 10); n != 0 || err != nil {
			t.Errorf("marked %d young blobs, %v", n, err)
		}
		if n, err := refs.Mark(t.Context(), db, 0, 10); n != 1 || err != nil {
			t.Errorf("marked %d, %v, want 1", n, err)
		}
		n, err := refs.Sweep(t.Context(), db, time.Hour, 10, func(context.Context, blob.Digest) error { return errors.New("called") })
		if n != 0 || err != nil {
			t.Errorf("swept %d freshly marked blobs, %v", n, err)
		}
	})
	t.Run("a reference after the mark saves the blob, and starts its time anew", func(t *testing.T) {
		db := pgtest.New(t, refs.Schema)
		_, err := refs.Adopt(t.Context(), db, refs.Blob{Digest: digest(1), Size: 1})
		must(t, err)
		_, err = refs.Mark(t.Context(), db, 0, 10)
		must(t, err)
		must(t, add(t, db, ref(1, "a")))
		must(t, refs.Remove(t.Context(), db, ref(1, "a")))
		n, err := refs.Sweep(t.Context(), db, 0, 10, func(context.Context, blob.Digest) error { return nil })
		if n != 0 || err != nil {
			t.Errorf("swept %d on an old mark, %v", n, err)
		}
	})
	t.Run("a late reference is refused until the blob is recorded again", func(t *testing.T) {
		db := pgtest.New(t, refs.Schema)
		_, err := refs.Record(t.Context(), db, refs.Blob{Digest: digest(1), Size: 1})
		must(t, err)
		if gone := collect(t, db); len(gone) != 1 {
			t.Fatalf("deleted %v", gone)
		}
		var ge *refs.GoneError
		if err := add(t, db, ref(1, "a"), ref(2, "a")); !errors.As(err, &ge) || !fault.Is(err, fault.LostRace) || !slices.Equal(ge.Digests, []blob.Digest{digest(1)}) {
			t.Fatalf("Add: %v", err)
		}
		wantUnreferenced(t, db, []blob.Digest{digest(2)}, []blob.Digest{digest(2)}) // all or nothing
		suspects, err := refs.Record(t.Context(), db, refs.Blob{Digest: digest(1), Size: 1}, refs.Blob{Digest: digest(2), Size: 2})
		if diff := cmp.Diff([]blob.Digest{digest(1)}, suspects); err != nil || diff != "" {
			t.Errorf("Record: error %v (-want +got)\n%s", err, diff)
		}
		must(t, add(t, db, ref(1, "a"), ref(2, "a")))
		if gone := collect(t, db); len(gone) != 0 {
			t.Errorf("deleted %v", gone)
		}
	})
	t.Run("a sweep that failed is finished by the next", func(t *testing.T) {
		db := pgtest.New(t, refs.Schema)
		_, err := refs.Record(t.Context(), db, refs.Blob{Digest: digest(1), Size: 1})
		must(t, err)
		_, err = refs.Mark(t.Context(), db, 0, 10)
		must(t, err)
		broken := errors.New("the bucket is away")
		if _, err := refs.Sweep(t.Context(), db, 0, 10, func(context.Context, blob.Digest) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("Sweep: %v", err)
		}
		if err := add(t, db, ref(1, "a")); !fault.Is(err, fault.LostRace) { // who knows what the bucket did
			t.Errorf("Add to a condemned blob: %v", err)
		}
		if gone := collect(t, db); len(gone) != 1 {
			t.Errorf("deleted %v, want the one", gone)
		}
	})
	t.Run("tombstones are forgotten", func(t *testing.T) {
		db := pgtest.New(t, refs.Schema)
		_, err := refs.Record(t.Context(), db, refs.Blob{Digest: digest(1), Size: 1})
		must(t, err)
		collect(t, db)
		if n, err := refs.Forget(t.Context(), db, time.Hour); n != 0 || err != nil {
			t.Errorf("forgot %d young tombstones, %v", n, err)
		}
		if n, err := refs.Forget(t.Context(), db, 0); n != 1 || err != nil {
			t.Errorf("forgot %d, %v, want 1", n, err)
		}
	})
}

// The race that the locks are for: writers put and refer while a collector without any patience deletes.
func TestNoReferencedBlobIsEverDeleted(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	const blobs, writers, rounds = 8, 4, 40
	var mu sync.Mutex
	stored := map[blob.Digest]bool{}
	ctx, stop := context.WithCancel(t.Context())
	var collector, wg sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			if _, err := refs.Mark(t.Context(), db, 0, blobs); err != nil {
				t.Error(err)
			}
			_, err := refs.Sweep(t.Context(), db, 0, blobs, func(_ context.Context, d blob.Digest) error {
				mu.Lock()
				defer mu.Unlock()
				delete(stored, d)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
	put := func(d blob.Digest) {
		mu.Lock()
		defer mu.Unlock()
		stored[d] = true
	}
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				r := ref((i+w)%blobs, fmt.Sprint("writer ", w))
				put(r.Digest)
				err := add(t, db, r)
				for fault.Is(err, fault.LostRace) {
					// Record first, then the bytes: from Record on the collector leaves them alone.
					if _, err := refs.Record(t.Context(), db, refs.Blob{Digest: r.Digest, Size: r.Size}); err != nil {
						t.Error(err)
						return
					}
					put(r.Digest)
					err = add(t, db, r)
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				there := stored[r.Digest]
				mu.Unlock()
				if !there {
					t.Errorf("blob %s is referred to and gone", r.Digest)
				}
				if err := refs.Remove(t.Context(), db, r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stop()
	collector.Wait()
}

// Every service has digests in its rows; this is where pgx meets them.
func TestDigestsInPostgreSQL(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	want := []blob.Digest{digest(1), digest(2)}
	var one blob.Digest
	var many []blob.Digest
	var null, some *blob.Digest
	err := db.QueryRow(t.Context(), `SELECT $1::bytea, $2::bytea[], NULL::bytea, $3::bytea`, want[0], want, &want[1]).Scan(&one, &many, &null, &some)
	if err != nil || one != want[0] || !slices.Equal(many, want) || null != nil || some == nil || *some != want[1] {
		t.Errorf("%v, %v, %v, %v, error %v", one, many, null, some, err)
	}
	if err := db.QueryRow(t.Context(), `SELECT NULL::bytea`).Scan(&one); err == nil {
		t.Error("NULL became a digest")
	}
	if _, err := db.CopyFrom(t.Context(), pgx.Identifier{"refs", "blobs"}, []string{"digest", "size"}, pgx.CopyFromRows([][]any{{want[0], 1}})); err != nil {
		t.Error(err)
	}
	type row struct {
		Digest blob.Digest
		Size   int64
	}
	rows, _ := db.Query(t.Context(), `SELECT digest, size FROM refs.blobs WHERE digest = $1`, want[0])
	got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[row])
	if diff := cmp.Diff(row{want[0], 1}, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got)\n%s", err, diff)
	}
}
