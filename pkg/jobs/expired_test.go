package jobs_test

import (
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

func TestJobsPastTheirRetentionAreCounted(t *testing.T) {
	pool := pgtest.New(t, jobs.Schema)
	client := jobs.NewClient(jobs.ClientConfig{Pool: pool})
	_, err := pool.Exec(t.Context(), `
		INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, principal_name, principal, resource, lock_resources, lock_exclusive, max_failures, finished_at)
		SELECT gen_random_uuid(), 'test.work', '', '', 'succeeded', 1, 'default', '', '', '', '{}', '{}', 1, now() - i * interval '1 hour' FROM generate_series(0, 4) i`)
	if err != nil {
		t.Fatal(err)
	}
	for retention, want := range map[time.Duration]int64{150 * time.Minute: 2, 24 * time.Hour: 0, -1: 0} {
		if n, err := client.Expired(t.Context(), retention); n != want || err != nil {
			t.Errorf("retention %s: %d, %v; want %d", retention, n, err, want)
		}
	}
}
