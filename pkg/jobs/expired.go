package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Expired returns how many jobs ended longer ago than the retention: those that a Dispatcher with that retention removes
// at its next look.
func (c *Client) Expired(ctx context.Context, retention time.Duration) (int64, error) {
	if retention < 0 {
		return 0, nil
	}
	var n int64
	err := c.cfg.Pool.QueryRow(ctx, `SELECT count(*) FROM jobs.jobs WHERE finished_at < now() - $1::bigint * interval '1 microsecond'`, retention.Microseconds()).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count expired jobs: %w", pg.Classify(err))
	}
	return n, nil
}
