package apitest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

type demand struct {
	Pool             string  `json:"pool"`
	Demand           int     `json:"demand"`
	Queued           int     `json:"queued"`
	Running          int     `json:"running"`
	Slots            int     `json:"slots"`
	OldestAgeSeconds float64 `json:"oldest_age_seconds"`
}

// TestDemandOfWorkerPools: what an autoscaler asks before there are workers, and while there are.
func TestDemandOfWorkerPools(t *testing.T) {
	nobody := platformtest.WithConfig(func(c *platform.Config) {
		c.Kinds, c.Upkeep.GCEvery, c.Upkeep.ScrubEvery = []string{"sync.channel"}, 0, 0
	})
	s := platformtest.Start(t, nobody)
	ask := func(pool string) (d demand) {
		s.Anonymous().Must(200, "GET", "http://"+s.OpsAddr+"/demand/"+pool, nil).JSON(&d)
		return d
	}
	if diff := cmp.Diff(demand{Pool: "storage-worker"}, ask("storage-worker")); diff != "" {
		t.Errorf("without jobs and workers: %s", diff)
	}
	for _, name := range []string{"gc", "scrub"} {
		s.Admin().Must(200, "POST", "/entrepot/v1/storage/"+name, map[string]any{})
	}
	d := ask("storage-worker")
	if d.OldestAgeSeconds <= 0 || d.OldestAgeSeconds > 60 {
		t.Errorf("the oldest job waits for %v s", d.OldestAgeSeconds)
	}
	d.OldestAgeSeconds = 0
	if diff := cmp.Diff(demand{Pool: "storage-worker", Demand: 2, Queued: 2}, d); diff != "" {
		t.Errorf("two jobs and nobody to do them: %s", diff)
	}
	s.Anonymous().Must(404, "GET", "http://"+s.OpsAddr+"/demand/storage", nil)

	s.Restart(platformtest.WithConfig(func(c *platform.Config) { c.Kinds = nil }))
	for end := time.Now().Add(time.Minute); ask("storage-worker").Demand > 0 || ask("sync-worker").Slots == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the workers never took the jobs")
		}
	}

	// Every kind that a worker of this version offers belongs to a pool that can be asked for.
	pool, err := pg.Open(t.Context(), s.DatabaseURL, pg.PoolConfig{MaxConns: 1, AppName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	rows, err := pool.Query(t.Context(), "SELECT kind FROM jobs.slots WHERE expires_at > now() ORDER BY kind")
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(kinds) < 5 {
		t.Fatalf("kinds %v: %v", kinds, err)
	}
	for _, kind := range kinds {
		service, _, _ := strings.Cut(kind, ".")
		if service == "metrics" { // whose jobs ask other servers, as those of sync do
			service = "sync"
		}
		if !slices.Contains(platform.Targets, service+"-worker") {
			t.Errorf("kind %s belongs to no worker pool", kind)
			continue
		}
		if ask(service+"-worker").Slots == 0 {
			t.Errorf("pool %s-worker offers no slots, though there are workers for %s", service, kind)
		}
	}
}
