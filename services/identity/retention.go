package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// purgeBatch bounds one deletion, and with it the length of its transaction.
const purgeBatch = 5000

// PurgeAudit removes audit events older than keep and returns how many there were; with dryRun it only counts them. It is
// called by the upkeep job, in whichever process runs it.
func PurgeAudit(ctx context.Context, db pg.DB, keep time.Duration, dryRun bool) (int64, error) {
	if dryRun {
		var n int64
		if err := db.QueryRow(ctx, `SELECT count(*) FROM identity.audit WHERE time < now() - $1::interval`, keep).Scan(&n); err != nil {
			return 0, fmt.Errorf("count old audit events: %w", pg.Classify(err))
		}
		return n, nil
	}
	var total int64
	for {
		// Ids grow with time, more or less: the oldest rows are found at the front of the primary key, and a page whose
		// events are all young ends the search.
		var seen, gone int64
		err := db.QueryRow(ctx, `
			WITH front AS (SELECT id, time FROM identity.audit ORDER BY id LIMIT $2),
			gone AS (DELETE FROM identity.audit WHERE id IN (SELECT id FROM front WHERE time < now() - $1::interval) RETURNING 1)
			SELECT (SELECT count(*) FROM front), (SELECT count(*) FROM gone)`, keep, purgeBatch).Scan(&seen, &gone)
		if err != nil {
			return total, fmt.Errorf("remove old audit events: %w", pg.Classify(err))
		}
		total += gone
		if gone == 0 || seen < purgeBatch {
			return total, nil
		}
	}
}
