package refs_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/blob"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
)

func TestASurveyForetellsTheCollection(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	must(t, add(t, db, ref(1, "a")))
	_, err := refs.Adopt(t.Context(), db, refs.Blob{Digest: digest(2), Size: 20}, refs.Blob{Digest: digest(3), Size: 30})
	must(t, err)
	survey := func(mark, sweep time.Duration, want refs.Garbage) {
		t.Helper()
		got, err := refs.Survey(t.Context(), db, mark, sweep)
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("survey (-want +got)\n%s", diff)
		}
	}
	survey(0, 0, refs.Garbage{Count: 2, Bytes: 50, Markable: 2})
	survey(time.Hour, 0, refs.Garbage{Count: 2, Bytes: 50})
	if n, err := refs.Mark(t.Context(), db, 0, 1); n != 1 || err != nil {
		t.Fatalf("marked %d, %v", n, err)
	}
	first := min(digest(2).String(), digest(3).String())
	size := int64(20)
	if first == digest(3).String() {
		size = 30
	}
	survey(0, 0, refs.Garbage{Count: 2, Bytes: 50, Markable: 1, Due: 1, DueBytes: size})
	survey(0, time.Hour, refs.Garbage{Count: 2, Bytes: 50, Markable: 1})
	if n, err := refs.Sweep(t.Context(), db, 0, 10, func(context.Context, blob.Digest) error { return nil }); n != 1 || err != nil {
		t.Fatalf("swept %d, %v", n, err)
	}
	survey(0, 0, refs.Garbage{Count: 1, Bytes: 50 - size, Markable: 1})
	last := digest(2)
	if first == digest(3).String() {
		last = digest(3)
	}
	if got, err := refs.Tombstones(t.Context(), db, []blob.Digest{digest(1), digest(3), digest(2), digest(9)}); err != nil || len(got) != 1 || got[0] != last {
		t.Errorf("tombstones %v, %v; want %v", got, err, last)
	}
	if n, err := refs.Unknown(t.Context(), db, []blob.Digest{digest(1), digest(2), digest(9)}); n != 1 || err != nil {
		t.Errorf("%d unknown, %v; want 1", n, err)
	}
}

func TestReferencedBlobsByPage(t *testing.T) {
	db := pgtest.New(t, refs.Schema)
	var want []refs.Blob
	for i := range 10 {
		want = append(want, refs.Blob{Digest: digest(i), Size: int64(i)})
		must(t, add(t, db, ref(i, "a"), ref(i, "b")))
	}
	_, err := refs.Adopt(t.Context(), db, refs.Blob{Digest: digest(99), Size: 1}) // nobody refers to it
	must(t, err)
	slices.SortFunc(want, func(a, b refs.Blob) int { return slices.Compare(a.Digest[:], b.Digest[:]) })
	var got []refs.Blob
	var after blob.Digest
	for {
		page, err := refs.Referenced(t.Context(), db, after, blob.Digest{}, 3)
		must(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1].Digest
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("all (-want +got)\n%s", diff)
	}
	part, err := refs.Referenced(t.Context(), db, want[1].Digest, want[4].Digest, 100)
	must(t, err)
	if diff := cmp.Diff(want[2:5], part); diff != "" {
		t.Errorf("between two (-want +got)\n%s", diff)
	}
	owners, err := refs.Owners(t.Context(), db, []blob.Digest{digest(1), digest(99)}, 1)
	must(t, err)
	if diff := cmp.Diff(map[blob.Digest][]refs.Owner{digest(1): {ref(1, "a").Owner}}, owners); diff != "" {
		t.Errorf("owners (-want +got)\n%s", diff)
	}
}
