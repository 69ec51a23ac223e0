package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"google.golang.org/protobuf/proto"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// EnqueueParams is a request for a job.
type EnqueueParams struct {
	Kind string
	// Args are the kind's arguments. What is bigger than 1 MiB belongs in a blob.
	Args     Args
	Priority Priority
	// Namespace is the tenant, "default" if empty: jobs of one kind and priority start in turn over the namespaces.
	Namespace string
	Principal Principal
	// Resource is what the job is about, such as "channel/<uuid>"; it is for listing only.
	Resource string
	// CoalesceKey joins requests for the same work; empty means that each request is a job.
	CoalesceKey string
	Coalesce    Coalesce
	// Locks are taken when the job starts and given back when its attempt ends.
	Locks []Lock
	// StartAt in the future makes a scheduled job. It coalesces and locks only when it is due.
	StartAt time.Time
	// JoinPending lets a job with the same key take the request in also while it is scheduled, if it is due at StartAt or
	// before: of many requests that need not be answered at once, one job every so often is left. Like a queued one, it
	// will not start before the requester's transaction has ended. A job that waits for another attempt takes nothing in: its
	// pause was not made for this request, nor was what is left of its attempts.
	JoinPending bool
	// PutOff, with JoinPending, lets each request put a scheduled job off to its own StartAt, up to PutOff after the job was
	// first asked for: of requests in quick succession one job is left, some time after the last. A job that is due up to
	// PutOff after StartAt takes the request in.
	PutOff time.Duration
	// MaxFailures overrides the kind's.
	MaxFailures int
	// ScheduleID is set by the dispatcher.
	ScheduleID uuid.UUID

	argsType  string // with rawArgs instead of Args: a schedule keeps its arguments as bytes
	rawArgs   []byte
	fromBytes bool
}

// EnqueueResult says which job does the work.
type EnqueueResult struct {
	JobID uuid.UUID
	Seq   int64
	// Joined reports that the job had been there before.
	Joined bool
}

func (p *EnqueueParams) validate() error {
	if err := checkKind(p.Kind); err != nil {
		return err
	}
	if p.Namespace == "" {
		p.Namespace = defaultNS
	}
	for field, text := range map[string]string{"namespace": p.Namespace, "resource": p.Resource, "coalesce_key": p.CoalesceKey, "principal": p.Principal.Name} {
		if err := checkText(field, text); err != nil {
			return err
		}
	}
	for i, l := range p.Locks {
		field := fmt.Sprintf("locks[%d]", i)
		if l.Resource == "" {
			return fault.Field(field, "a lock needs a resource")
		}
		if err := checkText(field, l.Resource); err != nil {
			return err
		}
	}
	if p.MaxFailures < 0 {
		return fault.Field("max_failures", "must not be negative")
	}
	if p.fromBytes {
		return nil
	}
	if p.Args == nil {
		return fault.Field("args", "a job needs arguments, if only an empty message")
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(p.Args)
	if err != nil {
		return fault.Field("args", "cannot be encoded: %w", err)
	}
	if len(raw) > maxArgs {
		return fault.Field("args", "have %d bytes, more than %d", len(raw), maxArgs)
	}
	p.argsType, p.rawArgs = string(p.Args.ProtoReflect().Descriptor().FullName()), raw
	return nil
}

func checkText(field, s string) error {
	if len(s) > maxKeyText || clean(s) != s {
		return fault.Field(field, "must be UTF-8 text without NUL of at most %d bytes", maxKeyText)
	}
	return nil
}

// split returns locks as the two arrays the database keeps.
func split(locks []Lock) (resources []string, exclusive []bool) {
	resources, exclusive = make([]string, len(locks)), make([]bool, len(locks))
	for i, l := range locks {
		resources[i], exclusive[i] = l.Resource, l.Exclusive
	}
	return resources, exclusive
}

const enqueueSQL = `
WITH j AS (
	INSERT INTO jobs.jobs (id, kind, args_type, args, state, priority, namespace, principal_name, principal, resource,
		coalesce_key, lock_resources, lock_exclusive, max_failures, schedule_id, traceparent, tracestate, start_at, queued_at)
	SELECT $1, $2, $3, $4, CASE WHEN $17::timestamptz > now() THEN 'scheduled' ELSE 'queued' END, $5, $6, $7, $8, $9,
		$10, $11, $12, $13, $14, $15, $16, CASE WHEN $17 > now() THEN $17 END, CASE WHEN $17 > now() THEN NULL ELSE now() END
	ON CONFLICT (kind, coalesce_key) WHERE state = 'queued' AND coalesce_key IS NOT NULL DO NOTHING
	RETURNING id, seq, kind, priority, namespace, state
), o AS (
	INSERT INTO jobs.outbox (job, kind, priority, namespace) SELECT id, kind, priority, namespace FROM j WHERE state = 'queued'
)
SELECT seq, pg_notify('` + channel + `', CASE state WHEN 'queued' THEN '` + wakeRelay + `' ELSE '` + wakeSweep + `' END)::text FROM j`

func (p *EnqueueParams) insertArgs(ctx context.Context, id uuid.UUID) []any {
	resources, exclusive := split(p.Locks)
	traceparent, tracestate := traceOf(ctx)
	return []any{
		id, p.Kind, p.argsType, emptyBytes(p.rawArgs), p.Priority.rank(), p.Namespace, p.Principal.Name, emptyBytes(p.Principal.Data), p.Resource,
		nullText(p.CoalesceKey), resources, exclusive, p.MaxFailures, nullUUID(p.ScheduleID), traceparent, tracestate, nullTime(p.StartAt),
	}
}

// Enqueue adds a job in the transaction tx: the job exists if and only if tx commits, and then its message follows.
// If another job takes the request in, that job is returned, and it will not start before tx has ended, so that it sees
// what tx wrote. Enqueue last in a transaction: requests with the same key wait for each other from here to its end.
// tx must run at READ COMMITTED, the default.
func (c *Client) Enqueue(ctx context.Context, tx pg.DB, p EnqueueParams) (EnqueueResult, error) {
	if err := p.validate(); err != nil {
		return EnqueueResult{}, err
	}
	how := c.coalesce(&p)
	ctx, span := c.enqueueSpan(ctx, p.Kind)
	defer span.End()
	res, err := c.enqueue(ctx, tx, &p, how)
	if err != nil {
		err = pg.Classify(err)
		span.SetStatus(codes.Error, fault.KindOf(err).String())
		return res, fmt.Errorf("enqueue %s: %w", p.Kind, err)
	}
	span.SetAttributes(attribute.String("job.id", res.JobID.String()), attribute.Bool("job.joined", res.Joined))
	return res, nil
}

// coalesce decides what a key means and removes it if it means nothing.
func (c *Client) coalesce(p *EnqueueParams) Coalesce {
	how := p.Coalesce
	if how == ByKind {
		how = QueueOne
		if c.cfg.Registry != nil {
			if spec, ok := c.cfg.Registry.Spec(p.Kind); ok {
				how = spec.Coalesce
			}
		}
	}
	if how == None {
		p.CoalesceKey = ""
	}
	return how
}

func (c *Client) enqueue(ctx context.Context, tx pg.DB, p *EnqueueParams, how Coalesce) (EnqueueResult, error) {
	if p.JoinPending && p.CoalesceKey != "" {
		res, err := joinPending(ctx, tx, p)
		if !errors.Is(err, pgx.ErrNoRows) {
			return res, err
		}
	}
	future := time.Until(p.StartAt) > 0 // only to spare a query: the database decides
	if how == Join && p.CoalesceKey != "" && !future {
		var res EnqueueResult
		err := tx.QueryRow(ctx, `
			SELECT id, seq, true FROM jobs.jobs
			WHERE kind = $1 AND coalesce_key = $2 AND state = 'running' AND NOT cancel_requested LIMIT 1`, p.Kind, p.CoalesceKey).
			Scan(&res.JobID, &res.Seq, &res.Joined)
		if !errors.Is(err, pgx.ErrNoRows) {
			return res, err
		}
	}
	id, err := uuid.NewV7()
	if err != nil {
		return EnqueueResult{}, err
	}
	args := p.insertArgs(ctx, id)
	// The job in the way may start between our two looks; each round somebody has made progress.
	for {
		res := EnqueueResult{JobID: id}
		var ignore *string
		err := tx.QueryRow(ctx, enqueueSQL, args...).Scan(&res.Seq, &ignore)
		if !errors.Is(err, pgx.ErrNoRows) {
			return res, err
		}
		res, err = joinQueued(ctx, tx, p)
		if !errors.Is(err, pgx.ErrNoRows) {
			return res, err
		}
		if err := ctx.Err(); err != nil {
			return EnqueueResult{}, context.Cause(ctx)
		}
	}
}

// joinPending locks a job with the key that is queued, or scheduled for StartAt or before, against being started until tx ends.
func joinPending(ctx context.Context, tx pg.DB, p *EnqueueParams) (EnqueueResult, error) {
	res := EnqueueResult{Joined: true}
	var state State
	if p.PutOff > 0 {
		return putOff(ctx, tx, p)
	}
	err := tx.QueryRow(ctx, `
		SELECT id, seq, state FROM jobs.jobs
		WHERE kind = $1 AND coalesce_key = $2 AND (state = 'queued' OR state = 'scheduled' AND start_at <= greatest($3, now()))
			AND failures = 0 AND NOT cancel_requested
		ORDER BY state LIMIT 1 FOR SHARE`, p.Kind, p.CoalesceKey, nullTime(p.StartAt)).Scan(&res.JobID, &res.Seq, &state)
	if err != nil {
		return EnqueueResult{}, err
	}
	return res, wake(ctx, tx, state)
}

// wake tells who passes over a job that somebody is joining, the relay or the sweeper, when we are done.
func wake(ctx context.Context, tx pg.DB, state State) error {
	whom := wakeRelay
	if state == Scheduled {
		whom = wakeSweep
	}
	_, err := tx.Exec(ctx, `SELECT pg_notify('`+channel+`', $1)`, whom)
	return err
}

// putOff is joinPending for requests with PutOff. A job that is not due before long is only written to if it would
// otherwise be due within half of the time that this request wants: most requests of a stream write nothing. Nobody has to
// be told then: the sweeper comes when the job is due, and should the transaction take longer than that, a second later.
func putOff(ctx context.Context, tx pg.DB, p *EnqueueParams) (EnqueueResult, error) {
	res := EnqueueResult{Joined: true}
	var state State
	var left, want, may float64 // seconds until it is due, until it should be, until it has to be
	err := tx.QueryRow(ctx, `
		SELECT id, seq, state, coalesce(extract(epoch FROM start_at - clock_timestamp()), 0)::float8,
			coalesce(extract(epoch FROM $3 - clock_timestamp()), 0)::float8, extract(epoch FROM created_at - clock_timestamp())::float8 + $4
		FROM jobs.jobs WHERE kind = $1 AND coalesce_key = $2
			AND (state = 'queued' OR state = 'scheduled' AND start_at <= greatest($3, clock_timestamp()) + $4 * interval '1 second')
			AND failures = 0 AND NOT cancel_requested
		ORDER BY state LIMIT 1 FOR NO KEY UPDATE`, p.Kind, p.CoalesceKey, nullTime(p.StartAt), p.PutOff.Seconds()).
		Scan(&res.JobID, &res.Seq, &state, &left, &want, &may)
	if err != nil {
		return EnqueueResult{}, err
	}
	if state == Queued {
		return res, wake(ctx, tx, state)
	}
	to := min(want, may)
	if left < want/2 && to > left {
		_, err := tx.Exec(ctx, `UPDATE jobs.jobs SET start_at = clock_timestamp() + $2::float8 * interval '1 second' WHERE id = $1`, res.JobID, to)
		if err != nil {
			return EnqueueResult{}, err
		}
		left = to
	}
	if left < want/2 {
		return res, wake(ctx, tx, state)
	}
	return res, nil
}

// joinQueued locks the queued job with the key against being claimed until tx ends, and raises its priority if this
// request is more urgent.
func joinQueued(ctx context.Context, tx pg.DB, p *EnqueueParams) (EnqueueResult, error) {
	res := EnqueueResult{Joined: true}
	err := tx.QueryRow(ctx, `
		WITH j AS (
			UPDATE jobs.jobs SET priority = $3 WHERE kind = $1 AND coalesce_key = $2 AND state = 'queued' AND priority > $3
			RETURNING id, seq, kind, priority, namespace
		), d AS (
			DELETE FROM jobs.outbox WHERE job IN (SELECT id FROM j) AND released_at IS NULL
		), o AS (
			INSERT INTO jobs.outbox (job, kind, priority, namespace) SELECT id, kind, priority, namespace FROM j
		)
		SELECT id, seq FROM j`, p.Kind, p.CoalesceKey, p.Priority.rank()).Scan(&res.JobID, &res.Seq)
	if errors.Is(err, pgx.ErrNoRows) {
		err = tx.QueryRow(ctx, `
			SELECT id, seq FROM jobs.jobs WHERE kind = $1 AND coalesce_key = $2 AND state = 'queued' FOR SHARE`,
			p.Kind, p.CoalesceKey).Scan(&res.JobID, &res.Seq)
	}
	if err != nil {
		return EnqueueResult{}, err
	}
	// A relay passes over a job somebody is joining: tell it when we are done.
	_, err = tx.Exec(ctx, `SELECT pg_notify('`+channel+`', '`+wakeRelay+`')`)
	return res, err
}

// EnqueueMany adds several jobs in one transaction and few round trips. The results are in the order of the requests.
func (c *Client) EnqueueMany(ctx context.Context, tx pg.DB, many []EnqueueParams) ([]EnqueueResult, error) {
	many = slices.Clone(many)
	ctx, span := c.enqueueSpan(ctx, "many")
	defer span.End()
	results := make([]EnqueueResult, len(many))
	var plain, keyed []int
	for i := range many {
		if err := many[i].validate(); err != nil {
			return nil, fmt.Errorf("job %d: %w", i, err)
		}
		if many[i].CoalesceKey != "" {
			keyed = append(keyed, i)
		} else {
			plain = append(plain, i)
		}
	}
	if len(plain) > 0 {
		var batch pgx.Batch
		for _, i := range plain {
			id, err := uuid.NewV7()
			if err != nil {
				return nil, err
			}
			results[i].JobID = id
			batch.Queue(enqueueSQL, many[i].insertArgs(ctx, id)...).QueryRow(func(row pgx.Row) error {
				var ignore *string
				return row.Scan(&results[i].Seq, &ignore)
			})
		}
		if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
			return nil, fmt.Errorf("enqueue %d jobs: %w", len(plain), pg.Classify(err))
		}
	}
	// In one order for everybody, so that two callers with the same keys cannot wait for each other.
	slices.SortFunc(keyed, func(a, b int) int {
		return strings.Compare(many[a].Kind+"\x00"+many[a].CoalesceKey, many[b].Kind+"\x00"+many[b].CoalesceKey)
	})
	for _, i := range keyed {
		var err error
		if results[i], err = c.enqueue(ctx, tx, &many[i], c.coalesce(&many[i])); err != nil {
			return nil, fmt.Errorf("enqueue %s: %w", many[i].Kind, pg.Classify(err))
		}
	}
	return results, nil
}

func nullText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func nullUUID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
