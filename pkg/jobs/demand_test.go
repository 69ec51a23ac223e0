package jobs_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

func TestDemandCountsWhatMoreWorkersWouldHelp(t *testing.T) {
	b := setup(t)
	const insert = `INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, queued_at, parked_at)
		SELECT gen_random_uuid(), $1, 'x', '', $2, 1, 'default', now() - make_interval(secs => $3), CASE WHEN $4 THEN now() END FROM generate_series(1, $5::int)`
	for _, row := range []struct {
		kind, state string
		age         int
		parked      bool
		n           int
	}{
		{"baker.bread", "queued", 10, false, 2},
		{"baker.cake", "queued", 90, false, 1},
		{"baker.cake", "running", 500, false, 3},
		{"baker.bread", "queued", 800, true, 4},     // waits for a lock
		{"baker.pie", "queued", 900, false, 5},      // paused
		{"baker.pie", "running", 900, false, 1},     // paused, but under way
		{"baker.bread", "scheduled", 900, false, 6}, // not due
		{"baker.bread", "succeeded", 900, false, 7},
		{"bakers.bread", "queued", 900, false, 8}, // another service
	} {
		if _, err := b.pool.Exec(t.Context(), insert, row.kind, row.state, float64(row.age), row.parked, row.n); err != nil {
			t.Fatal(err)
		}
	}
	for _, stmt := range []string{
		`INSERT INTO jobs.kinds (kind, paused) VALUES ('baker.pie', true), ('baker.bread', false)`,
		`INSERT INTO jobs.slots (runner, kind, slots, expires_at) VALUES ('a', 'baker.bread', 4, now() + interval '1 minute'),
			('b', 'baker.cake', 2, now() + interval '1 minute'), ('gone', 'baker.cake', 9, now() - interval '1 second'), ('a', 'bakers.bread', 9, now() + interval '1 minute')`,
	} {
		if _, err := b.pool.Exec(t.Context(), stmt); err != nil {
			t.Fatal(err)
		}
	}
	got, err := jobs.DemandOf(t.Context(), b.pool, "baker")
	if err != nil {
		t.Fatal(err)
	}
	got.OldestAge = got.OldestAge.Truncate(30 * time.Second)
	if diff := cmp.Diff(jobs.Demand{Queued: 3, Running: 4, Slots: 6, OldestAge: 90 * time.Second}, got); diff != "" {
		t.Error(diff)
	}
	none, err := jobs.DemandOf(t.Context(), b.pool, "butcher")
	if diff := cmp.Diff(jobs.Demand{}, none); diff != "" || err != nil {
		t.Errorf("nothing asked for: %s %v", diff, err)
	}
}
