package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/adhocore/gronx"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// Schedule makes jobs in the future: by a cron expression, every so often, or once. A tick that was missed, because
// nobody was up, fires once afterwards; ticks never pile up.
type Schedule struct {
	// ID is given by UpsertSchedule.
	ID uuid.UUID
	// Namespace and Name together are the key.
	Namespace string
	Name      string
	// Job is what is asked for at each tick. Its StartAt and ScheduleID are ignored. An empty CoalesceKey becomes one of
	// the schedule's own: while a job of it is queued the next tick joins that, and while one runs its kind decides.
	Job EnqueueParams
	// Cron has five fields, or six with seconds first, or is one of @hourly, @daily, …; read in TimeZone (an IANA name,
	// default UTC). An hour that a clock change skips or repeats follows the wall clock.
	Cron     string
	TimeZone string
	// RepeatEvery is the pause between ticks, instead of Cron; at least a second.
	RepeatEvery time.Duration
	// StartAt is the first tick of RepeatEvery, the earliest of Cron, and the only one if neither is set.
	StartAt time.Time
	Paused  bool

	// What follows is read only. NextAt is zero if there is no further tick.
	NextAt  time.Time
	LastAt  time.Time
	LastJob uuid.UUID
	// LastError says why the latest tick made no job.
	LastError string
	CreatedAt time.Time
	UpdatedAt time.Time
}

func (s *Schedule) validate() error {
	if s.Name == "" {
		return fault.Field("name", "a schedule needs a name")
	}
	if err := checkText("name", s.Name); err != nil {
		return err
	}
	if s.Namespace == "" {
		s.Namespace = defaultNS
	}
	s.Job.Namespace = s.Namespace
	if s.TimeZone == "" {
		s.TimeZone = "UTC"
	}
	if _, err := time.LoadLocation(s.TimeZone); err != nil {
		return fault.Field("time_zone", "%q is not a known time zone", s.TimeZone)
	}
	switch {
	case s.Cron != "" && s.RepeatEvery != 0:
		return fault.Field("cron", "a schedule has a cron expression or an interval, not both")
	case s.Cron != "" && !gronx.IsValid(s.Cron):
		return fault.Field("cron", "%q is not a cron expression", s.Cron)
	case s.RepeatEvery != 0 && s.RepeatEvery < time.Second:
		return fault.Field("repeat_every", "must be at least a second")
	case s.Cron == "" && s.RepeatEvery == 0 && s.StartAt.IsZero():
		return fault.Field("cron", "a schedule needs a cron expression, an interval or a start")
	}
	return s.Job.validate()
}

// first returns the first tick of a schedule that is set at now.
func (s *Schedule) first(now time.Time) (time.Time, error) {
	switch {
	case s.Cron != "":
		from := now
		if s.StartAt.After(now) {
			from = s.StartAt.Add(-time.Second) // a tick at StartAt itself counts
		}
		return s.cronAfter(from)
	case s.RepeatEvery > 0 && !s.StartAt.After(now):
		if s.StartAt.IsZero() {
			return now, nil
		}
		// The ticks stay on the grid that StartAt began.
		return s.grid(s.StartAt, now), nil
	default:
		return s.StartAt, nil
	}
}

// after returns the tick that follows the one at tick, seen from now; the zero time if there is none.
func (s *Schedule) after(tick, now time.Time) (time.Time, error) {
	switch {
	case s.Cron != "":
		return s.cronAfter(now)
	case s.RepeatEvery > 0:
		return s.grid(tick, now), nil
	default:
		return time.Time{}, nil
	}
}

// grid returns the first tick after now on the grid of RepeatEvery through origin.
func (s *Schedule) grid(origin, now time.Time) time.Time {
	if !origin.Before(now) {
		return origin.Add(s.RepeatEvery)
	}
	return origin.Add(s.RepeatEvery * (now.Sub(origin)/s.RepeatEvery + 1))
}

func (s *Schedule) cronAfter(t time.Time) (time.Time, error) {
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return time.Time{}, fault.Field("time_zone", "%q is not a known time zone", s.TimeZone)
	}
	next, err := gronx.NextTickAfter(s.Cron, t.In(zone), false)
	if err != nil {
		return time.Time{}, fault.Field("cron", "%q never comes: %w", s.Cron, err)
	}
	return next, nil
}

// UpsertSchedule sets the schedule with the given namespace and name, and returns it as it stands. The next tick is
// reckoned afresh only if the times have changed, so that saving a schedule again does not put it off.
func (c *Client) UpsertSchedule(ctx context.Context, tx pg.DB, s Schedule) (Schedule, error) {
	if err := s.validate(); err != nil {
		return Schedule{}, err
	}
	var now time.Time
	if err := tx.QueryRow(ctx, `SELECT now()`).Scan(&now); err != nil {
		return Schedule{}, fmt.Errorf("set schedule %s: %w", s.Name, pg.Classify(err))
	}
	next, err := s.first(now)
	if err != nil {
		return Schedule{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Schedule{}, err
	}
	if s.Job.CoalesceKey == "" && s.Job.Coalesce != None {
		s.Job.CoalesceKey = "schedule/" + s.Namespace + "/" + s.Name
	}
	s.Job.Coalesce = c.coalesce(&s.Job) // the dispatcher that fires it may not know the kind
	resources, exclusive := split(s.Job.Locks)
	var every *time.Duration
	if s.RepeatEvery > 0 {
		every = &s.RepeatEvery
	}
	j := s.Job
	row := tx.QueryRow(ctx, `
		WITH s AS (
			INSERT INTO jobs.schedules AS s (id, namespace, name, kind, args_type, args, priority, principal_name, principal, resource,
				coalesce_key, coalesce_how, lock_resources, lock_exclusive, max_failures, cron, time_zone, repeat_every, start_at, paused, next_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
			ON CONFLICT (namespace, name) DO UPDATE SET
				kind = excluded.kind, args_type = excluded.args_type, args = excluded.args, priority = excluded.priority,
				principal_name = excluded.principal_name, principal = excluded.principal, resource = excluded.resource,
				coalesce_key = excluded.coalesce_key, coalesce_how = excluded.coalesce_how,
				lock_resources = excluded.lock_resources, lock_exclusive = excluded.lock_exclusive, max_failures = excluded.max_failures,
				cron = excluded.cron, time_zone = excluded.time_zone, repeat_every = excluded.repeat_every, start_at = excluded.start_at,
				paused = excluded.paused, updated_at = now(),
				next_at = CASE WHEN (s.cron, s.time_zone, s.repeat_every, s.start_at)
					IS NOT DISTINCT FROM (excluded.cron, excluded.time_zone, excluded.repeat_every, excluded.start_at)
					THEN s.next_at ELSE excluded.next_at END
			RETURNING id
		)
		SELECT id, pg_notify('`+channel+`', '`+wakeSweep+`')::text FROM s`,
		id, s.Namespace, s.Name, j.Kind, j.argsType, emptyBytes(j.rawArgs), j.Priority.rank(), j.Principal.Name, emptyBytes(j.Principal.Data), j.Resource,
		j.CoalesceKey, int16(j.Coalesce), resources, exclusive, j.MaxFailures, s.Cron, s.TimeZone, every, nullTime(s.StartAt), s.Paused, next)
	var ignore *string
	if err := row.Scan(&id, &ignore); err != nil {
		return Schedule{}, fmt.Errorf("set schedule %s: %w", s.Name, pg.Classify(err))
	}
	return getSchedule(ctx, tx, id)
}

func emptyBytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// DeleteSchedule removes a schedule; the jobs it made stay. Removing what is not there is fault.NotFound.
func (c *Client) DeleteSchedule(ctx context.Context, tx pg.DB, namespace, name string) error {
	tag, err := tx.Exec(ctx, `DELETE FROM jobs.schedules WHERE namespace = $1 AND name = $2`, namespace, name)
	if err != nil {
		return fmt.Errorf("delete schedule %s: %w", name, pg.Classify(err))
	}
	if tag.RowsAffected() == 0 {
		return fault.New(fault.NotFound, "no schedule %s in namespace %s", name, namespace)
	}
	return nil
}

const scheduleSQL = `
SELECT id, namespace, name, kind, args_type, args, priority, principal_name, principal, resource, coalesce_key, coalesce_how,
	lock_resources, lock_exclusive, max_failures, cron, time_zone, coalesce(repeat_every, interval '0'), start_at, paused,
	next_at, last_at, last_job, last_error, created_at, updated_at
FROM jobs.schedules `

func scanSchedule(row pgx.CollectableRow) (Schedule, error) {
	var (
		s                       Schedule
		rank, how               int16
		resources               []string
		exclusive               []bool
		startAt, nextAt, lastAt *time.Time
		lastJob                 *uuid.UUID
	)
	j := &s.Job
	err := row.Scan(&s.ID, &s.Namespace, &s.Name, &j.Kind, &j.argsType, &j.rawArgs, &rank, &j.Principal.Name, &j.Principal.Data, &j.Resource,
		&j.CoalesceKey, &how, &resources, &exclusive, &j.MaxFailures, &s.Cron, &s.TimeZone, &s.RepeatEvery, &startAt, &s.Paused,
		&nextAt, &lastAt, &lastJob, &s.LastError, &s.CreatedAt, &s.UpdatedAt)
	if err != nil {
		return s, err
	}
	j.Namespace, j.Priority, j.Coalesce, j.Locks, j.fromBytes = s.Namespace, priorityOf(rank), Coalesce(how), join(resources, exclusive), true
	for _, t := range []struct{ to, from *time.Time }{{&s.StartAt, startAt}, {&s.NextAt, nextAt}, {&s.LastAt, lastAt}} {
		if t.from != nil {
			*t.to = *t.from
		}
	}
	if lastJob != nil {
		s.LastJob = *lastJob
	}
	return s, nil
}

// RawArgs returns the type and bytes of the arguments of a request that was read from the database.
func (p EnqueueParams) RawArgs() (argsType string, args []byte) { return p.argsType, p.rawArgs }

func getSchedule(ctx context.Context, db pg.DB, id uuid.UUID) (Schedule, error) {
	rows, err := db.Query(ctx, scheduleSQL+`WHERE id = $1`, id)
	if err != nil {
		return Schedule{}, fmt.Errorf("get schedule: %w", pg.Classify(err))
	}
	s, err := pgx.CollectExactlyOneRow(rows, scanSchedule)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, fault.New(fault.NotFound, "no schedule %s", id)
	}
	if err != nil {
		return s, fmt.Errorf("get schedule: %w", pg.Classify(err))
	}
	return s, nil
}

// ListSchedules returns a namespace's schedules by name, or all if the namespace is empty.
func (c *Client) ListSchedules(ctx context.Context, namespace string) ([]Schedule, error) {
	rows, err := c.cfg.Pool.Query(ctx, scheduleSQL+`WHERE $1 = '' OR namespace = $1 ORDER BY namespace, name`, namespace)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", pg.Classify(err))
	}
	all, err := pgx.CollectRows(rows, scanSchedule)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", pg.Classify(err))
	}
	return all, nil
}
