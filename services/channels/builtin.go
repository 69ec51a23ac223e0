package channels

import (
	"context"

	"github.com/jackc/pgx/v5"

	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/authz"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// StartBuiltinJob queues an action on all channels that it fits.
func (s *Service) StartBuiltinJob(ctx context.Context, req *channelsv1.StartBuiltinJobRequest) (*jobsv1.Job, error) {
	if _, err := findIn(req.GetAction(), actions, foreignActions); err != nil {
		return nil, err
	}
	if _, err := parseItems(req.GetItemsSpec()); err != nil {
		return nil, err
	}
	w, err := parseWhen(req.GetStartAt(), req.GetRepeatEverySeconds())
	if err != nil {
		return nil, err
	}
	caller := authn.FromContext(ctx)
	principal, err := caller.Marshal()
	if err != nil {
		return nil, err
	}
	p := jobs.EnqueueParams{
		Kind: KindBuiltin, Resource: "channels", Coalesce: jobs.None, Principal: jobs.Principal{Name: caller.Actor(), Data: principal},
		Args: &channelsv1.BuiltinJobArgs{Action: req.GetAction(), ItemsSpec: req.GetItemsSpec()},
	}
	return s.startJob(ctx, p, w, "builtin/"+req.GetAction()+"/"+req.GetItemsSpec(), func(pgx.Tx) error { return nil })
}

// started is the result of KindBuiltin.
type started struct {
	Channels []string `json:"channels"`
}

// builtinJob is the worker of KindBuiltin.
func (s *Service) builtinJob(ctx context.Context, job *jobs.Job[*channelsv1.BuiltinJobArgs]) (any, error) {
	a, err := findIn(job.Args.GetAction(), actions, foreignActions)
	if err != nil {
		return nil, err
	}
	items, err := parseItems(job.Args.GetItemsSpec())
	if err != nil {
		return nil, err
	}
	caller, err := authn.Unmarshal(job.Principal.Data)
	if err != nil {
		return nil, err
	}
	if err := s.roles.Allow(ctx, caller, authz.JobsManage, authz.Resource{}); err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT `+channelColumns+` FROM channels.channels ORDER BY name_key`)
	if err != nil {
		return nil, pg.Classify(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[channelRow])
	if err != nil {
		return nil, pg.Classify(err)
	}
	out := started{Channels: []string{}}
	for i, ch := range all {
		if !a.fits(ch) {
			continue
		}
		has, err := s.hasItems(ctx, ch, items)
		if err != nil {
			return nil, err
		}
		if !has {
			continue
		}
		narrow := ""
		if !items.all {
			narrow = job.Args.GetItemsSpec()
		}
		p, err := jobOf(ch, a, caller, narrow)
		if err != nil {
			return nil, err
		}
		if err := pg.Retry(ctx, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
				if err := job.Hold(ctx, tx); err != nil {
					return err
				}
				_, err := s.jobs.Enqueue(ctx, tx, p)
				return err
			})
		}); err != nil {
			return nil, err
		}
		out.Channels = append(out.Channels, ch.Name)
		job.Progress(int64(i+1), int64(len(all)), 0, ch.Name)
	}
	return out, nil
}

// hasItems reports whether a channel has package versions that the items select.
func (s *Service) hasItems(ctx context.Context, ch *channelRow, items itemsSpec) (bool, error) {
	if items.all {
		return true, nil
	}
	rows, err := s.pool.Query(ctx, `SELECT name, version FROM channels.files WHERE channel_id = $1 AND removed_rev IS NULL AND name = ANY($2)`, ch.ID, items.names())
	if err != nil {
		return false, pg.Classify(err)
	}
	var name, v string
	found := false
	_, err = pgx.ForEachRow(rows, []any{&name, &v}, func() error {
		found = found || items.match(name, v)
		return nil
	})
	return found, pg.Classify(err)
}
