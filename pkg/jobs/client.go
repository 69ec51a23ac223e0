package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"github.com/entrepot-dev/entrepot/pkg/bus"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// ClientConfig is what a Client needs.
type ClientConfig struct {
	Pool *pgxpool.Pool
	// Bus carries cancellations and events. Without one, cancelling waits for the next heartbeat and Follow polls.
	Bus *bus.Bus
	// Registry is asked what a kind's coalescing key means; nil means QueueOne unless a request says otherwise.
	Registry *Registry
	// FollowPoll is how often Follow looks at the database beside the events. Default 2 s.
	FollowPoll time.Duration
	Logger     *slog.Logger
	Tracer     trace.TracerProvider
}

// Client asks for jobs and looks after them. Any process may have one; it starts no goroutine.
type Client struct {
	cfg    ClientConfig
	events *events
	tracer trace.Tracer
}

// NewClient returns a client.
func NewClient(cfg ClientConfig) *Client {
	if cfg.FollowPoll <= 0 {
		cfg.FollowPoll = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Tracer == nil {
		cfg.Tracer = otel.GetTracerProvider()
	}
	return &Client{cfg: cfg, events: &events{bus: cfg.Bus}, tracer: cfg.Tracer.Tracer(scope)}
}

// Cancel ends a job that waits, at once, or asks the worker of a running one to stop; its effects that have not
// committed yet are refused from now on. The job's new state is in the Info. Cancelling a job that has ended is
// fault.Precondition.
func (c *Client) Cancel(ctx context.Context, job uuid.UUID) (Info, error) {
	var state string
	err := pgx.BeginFunc(ctx, c.cfg.Pool, func(tx pgx.Tx) error {
		var resources []string
		err := tx.QueryRow(ctx, `SELECT state, lock_resources FROM jobs.jobs WHERE id = $1 FOR NO KEY UPDATE`, job).Scan(&state, &resources)
		if errors.Is(err, pgx.ErrNoRows) {
			return notFound(job)
		}
		if err != nil {
			return err
		}
		switch State(state) {
		case Running:
			_, err := tx.Exec(ctx, `UPDATE jobs.jobs SET cancel_requested = true WHERE id = $1`, job)
			return err
		case Queued, Scheduled:
			if _, err := tx.Exec(ctx, `
				WITH j AS (
					UPDATE jobs.jobs SET state = 'cancelled', cancel_requested = true, finished_at = now(), dispatched_at = NULL, parked_at = NULL
					WHERE id = $1)
				DELETE FROM jobs.outbox WHERE job = $1 AND released_at IS NULL`, job); err != nil {
				return err
			}
			if state == string(Queued) { // a waiter that leaves lets the next one pass; and there is room in the window
				if err := unlock(ctx, tx, job, resources); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, `SELECT pg_notify('`+channel+`', '`+wakeRelay+`')`)
				return err
			}
			return nil
		}
		return fault.New(fault.Precondition, "job %s has already %s", job, ended(State(state))).WithReason("JOB_ENDED")
	})
	if err != nil {
		return Info{}, fmt.Errorf("cancel: %w", pg.Classify(err))
	}
	if state == string(Running) {
		c.events.nudge(subjectCancel + job.String())
	} else {
		c.events.state(job, StateEvent{State: Cancelled})
	}
	return c.Get(ctx, job)
}

func ended(s State) string {
	if s == Dead {
		return "failed"
	}
	return string(s)
}

// Retry brings a dead or cancelled job back with a clean slate: no failures, new attempts. Its claim goes on growing.
func (c *Client) Retry(ctx context.Context, job uuid.UUID) (Info, error) {
	return c.again(ctx, job, Dead, Cancelled)
}

// Rerun is Retry also for a job that has succeeded: it does its work once more.
func (c *Client) Rerun(ctx context.Context, job uuid.UUID) (Info, error) {
	return c.again(ctx, job, Dead, Cancelled, Succeeded)
}

func (c *Client) again(ctx context.Context, job uuid.UUID, from ...State) (Info, error) {
	tag, err := c.cfg.Pool.Exec(ctx, `
		UPDATE jobs.jobs SET state = 'scheduled', start_at = now(), failures = 0, cancel_requested = false, finished_at = NULL, result = NULL
		WHERE id = $1 AND state = ANY($2)`, job, texts(from))
	if err != nil {
		return Info{}, fmt.Errorf("retry job %s: %w", job, pg.Classify(err))
	}
	if tag.RowsAffected() == 0 {
		info, err := c.Get(ctx, job)
		if err != nil {
			return Info{}, err
		}
		return info, fault.New(fault.Precondition, "job %s is %s: only dead and cancelled jobs can be retried", job, info.State).WithReason("JOB_NOT_ENDED")
	}
	if _, err := promote(ctx, c.cfg.Pool, job); err != nil {
		return Info{}, err
	}
	info, err := c.Get(ctx, job)
	if err == nil {
		c.events.state(job, StateEvent{State: info.State})
	}
	return info, err
}

func texts(states []State) []string {
	out := make([]string, len(states))
	for i, s := range states {
		out[i] = string(s)
	}
	return out
}

// Pause stops the release of a kind's jobs: what is queued stays queued, what runs ends.
func (c *Client) Pause(ctx context.Context, kind string) error { return c.pause(ctx, kind, true) }

// Resume undoes Pause.
func (c *Client) Resume(ctx context.Context, kind string) error { return c.pause(ctx, kind, false) }

func (c *Client) pause(ctx context.Context, kind string, paused bool) error {
	if err := checkKind(kind); err != nil {
		return err
	}
	_, err := c.cfg.Pool.Exec(ctx, `
		WITH k AS (INSERT INTO jobs.kinds (kind, paused) VALUES ($1, $2) ON CONFLICT (kind) DO UPDATE SET paused = $2 RETURNING 1)
		SELECT pg_notify('`+channel+`', '`+wakeRelay+`') FROM k`, kind, paused)
	if err != nil {
		return fmt.Errorf("pause %s: %w", kind, pg.Classify(err))
	}
	return nil
}

const infoSQL = `
SELECT j.id, j.seq, j.kind, j.args_type, j.args, j.state, j.priority, j.namespace, j.principal_name, j.principal, j.resource,
	coalesce(j.coalesce_key, ''), j.lock_resources, j.lock_exclusive, j.claim, j.failures, j.max_failures, j.cancel_requested,
	j.last_error, j.result,
	coalesce(l.done, j.progress_done), coalesce(l.total, j.progress_total), coalesce(l.bytes, j.progress_bytes), coalesce(l.message, j.progress_message),
	j.schedule_id, j.created_at, j.start_at, j.started_at, j.finished_at, coalesce(l.runner, ''), l.expires_at
FROM jobs.jobs j LEFT JOIN jobs.leases l ON l.job = j.id AND l.claim = j.claim AND j.state = 'running'
`

func scanInfo(row pgx.CollectableRow) (Info, error) {
	var (
		i                                       Info
		rank                                    int16
		resources                               []string
		exclusive                               []bool
		schedule                                *uuid.UUID
		startAt, startedAt, finishedAt, expires *time.Time
	)
	err := row.Scan(&i.ID, &i.Seq, &i.Kind, &i.ArgsType, &i.Args, &i.State, &rank, &i.Namespace, &i.Principal.Name, &i.Principal.Data, &i.Resource,
		&i.CoalesceKey, &resources, &exclusive, &i.Claim, &i.Failures, &i.MaxFailures, &i.CancelRequested,
		&i.LastError, &i.Result, &i.Progress.Done, &i.Progress.Total, &i.Progress.Bytes, &i.Progress.Message,
		&schedule, &i.CreatedAt, &startAt, &startedAt, &finishedAt, &i.Runner, &expires)
	if err != nil {
		return i, err
	}
	i.Priority = priorityOf(rank)
	i.Locks = join(resources, exclusive)
	if schedule != nil {
		i.ScheduleID = *schedule
	}
	for _, t := range []struct {
		to   *time.Time
		from *time.Time
	}{{&i.StartAt, startAt}, {&i.StartedAt, startedAt}, {&i.FinishedAt, finishedAt}, {&i.LeaseExpires, expires}} {
		if t.from != nil {
			*t.to = *t.from
		}
	}
	return i, nil
}

func join(resources []string, exclusive []bool) []Lock {
	var locks []Lock
	for i, r := range resources {
		locks = append(locks, Lock{Resource: r, Exclusive: exclusive[i]})
	}
	return locks
}

func notFound(job any) error {
	return fault.New(fault.NotFound, "no job %v", job).WithReason("JOB_NOT_FOUND")
}

// Get returns a job.
func (c *Client) Get(ctx context.Context, job uuid.UUID) (Info, error) {
	return c.one(ctx, "WHERE j.id = $1", job)
}

// GetBySeq returns a job by its number.
func (c *Client) GetBySeq(ctx context.Context, seq int64) (Info, error) {
	return c.one(ctx, "WHERE j.seq = $1", seq)
}

func (c *Client) one(ctx context.Context, where string, key any) (Info, error) {
	rows, err := c.cfg.Pool.Query(ctx, infoSQL+where, key)
	if err != nil {
		return Info{}, fmt.Errorf("get job: %w", pg.Classify(err))
	}
	info, err := pgx.CollectExactlyOneRow(rows, scanInfo)
	if errors.Is(err, pgx.ErrNoRows) {
		return info, notFound(key)
	}
	if err != nil {
		return info, fmt.Errorf("get job: %w", pg.Classify(err))
	}
	return info, nil
}

// Filter chooses jobs; an empty field does not narrow.
type Filter struct {
	Namespaces []string
	Kinds      []string
	States     []State
	Resource   string
	// ResourcePrefix matches resources that begin with it, such as "channel/".
	ResourcePrefix string
	Principal      string
	// PrincipalData are bytes that the principal's data must contain, such as a user's id: names may be given anew.
	PrincipalData []byte
	ScheduleID    uuid.UUID
	// CreatedAfter and CreatedBefore bound the creation time, both exclusive.
	CreatedAfter, CreatedBefore time.Time
}

// where returns the filter's conditions with their arguments.
func (f Filter) where() (string, []any) {
	var (
		conds []string
		args  []any
	)
	add := func(cond string, arg any) {
		args = append(args, arg)
		conds = append(conds, strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(args))))
	}
	if len(f.Namespaces) > 0 {
		add("j.namespace = ANY(?)", f.Namespaces)
	}
	if len(f.Kinds) > 0 {
		add("j.kind = ANY(?)", f.Kinds)
	}
	if len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, s := range f.States {
			states[i] = string(s)
		}
		add("j.state = ANY(?)", states)
	}
	if f.Resource != "" {
		add("j.resource = ? AND j.resource <> ''", f.Resource)
	}
	if f.ResourcePrefix != "" {
		add("starts_with(j.resource, ?) AND j.resource <> ''", f.ResourcePrefix)
	}
	if f.Principal != "" {
		add("j.principal_name = ?", f.Principal)
	}
	if len(f.PrincipalData) > 0 {
		add("position(?::bytea IN j.principal) > 0", f.PrincipalData)
	}
	if f.ScheduleID != uuid.Nil {
		add("j.schedule_id = ?", f.ScheduleID)
	}
	if !f.CreatedAfter.IsZero() {
		add("j.created_at > ?", f.CreatedAfter)
	}
	if !f.CreatedBefore.IsZero() {
		add("j.created_at < ?", f.CreatedBefore)
	}
	if len(conds) == 0 {
		return "WHERE true", nil
	}
	return "WHERE " + strings.Join(conds, " AND "), args
}

// Page is a part of a list.
type Page struct {
	// Size is the number of jobs, 50 if 0, at most 1000.
	Size int
	// Cursor is where the page before ended, empty for the first. It belongs to one order.
	Cursor string
	// Skip passes over jobs, for interfaces that page by offset; its cost grows with it.
	Skip int
	// OldestFirst turns the order round.
	OldestFirst bool
}

// List returns jobs, the newest first unless the page says otherwise, and the cursor of the next page, empty at the end.
func (c *Client) List(ctx context.Context, f Filter, page Page) ([]Info, string, error) {
	size := page.Size
	if size <= 0 {
		size = 50
	}
	size = min(size, 1000)
	where, args := f.where()
	if page.Cursor != "" {
		before, err := strconv.ParseInt(page.Cursor, 10, 64)
		if err != nil {
			return nil, "", fault.Field("cursor", "is not one of ours")
		}
		args = append(args, before)
		beyond := "<"
		if page.OldestFirst {
			beyond = ">"
		}
		where += fmt.Sprintf(" AND j.seq %s $%d", beyond, len(args))
	}
	order := "DESC"
	if page.OldestFirst {
		order = "ASC"
	}
	// One more than asked for tells whether there is another page.
	args = append(args, size+1, max(page.Skip, 0))
	rows, err := c.cfg.Pool.Query(ctx, infoSQL+where+fmt.Sprintf(" ORDER BY j.seq %s LIMIT $%d OFFSET $%d", order, len(args)-1, len(args)), args...)
	if err != nil {
		return nil, "", fmt.Errorf("list jobs: %w", pg.Classify(err))
	}
	infos, err := pgx.CollectRows(rows, scanInfo)
	if err != nil {
		return nil, "", fmt.Errorf("list jobs: %w", pg.Classify(err))
	}
	if len(infos) <= size {
		return infos, "", nil
	}
	infos = infos[:size]
	return infos, strconv.FormatInt(infos[size-1].Seq, 10), nil
}

// Count returns how many jobs the filter matches.
func (c *Client) Count(ctx context.Context, f Filter) (int64, error) {
	where, args := f.where()
	var n int64
	if err := c.cfg.Pool.QueryRow(ctx, "SELECT count(*) FROM jobs.jobs j "+where, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count jobs: %w", pg.Classify(err))
	}
	return n, nil
}

// Depth is the demand on one kind, for metrics and autoscaling.
type Depth struct {
	Kind                       string
	Queued, Scheduled, Running int64
	// Slots is what live runners offer.
	Slots int64
	// OldestQueued is how long the oldest queued job has waited.
	OldestQueued time.Duration
}

// Depth returns the demand per kind, read from the database, so that it is right while the bus is away.
func (c *Client) Depth(ctx context.Context) ([]Depth, error) { return depth(ctx, c.cfg.Pool) }

func depth(ctx context.Context, db pg.DB) ([]Depth, error) {
	rows, err := db.Query(ctx, `
		WITH live AS (
			SELECT kind, count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
				count(*) FILTER (WHERE state = 'running') AS running,
				coalesce(now() - min(coalesce(queued_at, created_at)) FILTER (WHERE state = 'queued'), interval '0') AS oldest_queued
			FROM jobs.jobs WHERE state IN ('queued', 'scheduled', 'running') GROUP BY kind
		), offered AS (
			SELECT kind, sum(slots) AS slots FROM jobs.slots WHERE expires_at > now() GROUP BY kind
		)
		SELECT kind, coalesce(queued, 0) AS queued, coalesce(scheduled, 0) AS scheduled, coalesce(running, 0) AS running,
			coalesce(slots, 0) AS slots, greatest(extract(epoch FROM coalesce(oldest_queued, interval '0')) * 1000000000, 0)::bigint AS oldest_queued
		FROM live FULL JOIN offered USING (kind) ORDER BY kind`)
	if err != nil {
		return nil, fmt.Errorf("depth of the job queue: %w", pg.Classify(err))
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[Depth])
	if err != nil {
		return nil, fmt.Errorf("depth of the job queue: %w", pg.Classify(err))
	}
	return all, nil
}
