package sync

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// The same reasons are counted, and others begin anew.
func TestReasonsOfPollsAreRemembered(t *testing.T) {
	b := setup(t)
	broken, other := reason("undone", []byte("x")), reason("changed", "noarch/repodata.json", "e1")
	var got []int
	for _, reasons := range [][]byte{nil, broken, broken, nil, broken, slices.Concat(broken, other), broken, other} {
		tx, err := b.store.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := b.store.polled(t.Context(), tx, b.id, false, reasons); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		p, err := b.store.pollOf(t.Context(), b.id)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p.Retries)
		if reasons != nil && !bytes.Equal(p.Retried, reasons) || (p.RetriedAt == nil) != (p.Retried == nil) {
			t.Errorf("remembers %x of %x", p.Retried, reasons)
		}
		if len(reasons) == 64 && (!p.tried(broken) || !p.tried(other) || p.tried(reason("changed", "noarch/repodata.json", "e2"))) {
			t.Error("reasons are not told apart")
		}
	}
	if diff := cmp.Diff([]int{0, 1, 2, 2, 3, 1, 1, 1}, got); diff != "" {
		t.Error(diff)
	}
	if p, err := b.store.pollOf(t.Context(), uuid.New()); err != nil || p.tried(broken) || !p.rested(true) {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestPausesBetweenSyncsForTheSameReason(t *testing.T) {
	now := time.Now()
	pause := func(retries int, grows bool) time.Duration {
		for d := time.Duration(0); ; d += time.Minute {
			at := now.Add(-d)
			if (pollRow{RetriedAt: &at, Retries: retries, Now: now}).rested(grows) {
				return d
			}
		}
	}
	var lasting, unknown []time.Duration
	for n := range 8 {
		lasting, unknown = append(lasting, pause(n, true)), append(unknown, pause(n, false))
	}
	const m, h = time.Minute, time.Hour
	if diff := cmp.Diff([]time.Duration{15 * m, 15 * m, 30 * m, h, 2 * h, 4 * h, 6 * h, 6 * h}, lasting); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(slices.Repeat([]time.Duration{15 * m}, 8), unknown); diff != "" {
		t.Error(diff)
	}
}

func TestTheSameFailuresAreToldOnce(t *testing.T) {
	result := func(failures ...Failure) *Result {
		r := &Result{}
		for _, f := range failures {
			r.fail(f.Path, f.Reason, f.Error)
		}
		return r
	}
	a, b := Failure{"noarch/a", "404 from 10.0.0.1", "gone"}, Failure{"noarch/b", "404", "gone"}
	last := result(a, b)
	for what, r := range map[string]*Result{
		"fewer": result(a), "other": result(a, Failure{"noarch/c", "404", "gone"}), "for another reason": result(a, Failure{"noarch/b", "404", "sha256"}),
		"more": result(a, b, Failure{"noarch/c", "404", "gone"}), "none": result(),
	} {
		if r.failsAs(*last) {
			t.Errorf("%s are taken for the same", what)
		}
	}
	if !result(b, Failure{"noarch/a", "404 from 10.0.0.2", "gone"}).failsAs(*last) {
		t.Error("the same are taken for others")
	}
}
