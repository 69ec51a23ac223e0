package identity

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// HeldJobs returns the JobVerifier that reads the jobs' own tables. A job whose principal holds no data but is called
// `service:<name>` runs as that part of the platform.
func HeldJobs(pool *pgxpool.Pool) JobVerifier {
	client := jobs.NewClient(jobs.ClientConfig{Pool: pool})
	return func(ctx context.Context, jobID string, claim int64) (authn.Caller, error) {
		id, err := uuid.Parse(jobID)
		if err != nil {
			return authn.Caller{}, fault.Field("job_id", "job_id should be a UUID")
		}
		// Whether the claim is current only matters now: what the token is used for checks it again, in its transaction.
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return jobs.Hold(ctx, tx, id, claim) })
		if err != nil {
			return authn.Caller{}, pg.Classify(err)
		}
		info, err := client.Get(ctx, id)
		if err != nil {
			return authn.Caller{}, err
		}
		caller, err := authn.Unmarshal(info.Principal.Data)
		if err != nil {
			return authn.Caller{}, err
		}
		if name, ok := strings.CutPrefix(info.Principal.Name, "service:"); ok && caller.Anonymous() {
			caller = authn.Service(name)
		}
		return caller, nil
	}
}
