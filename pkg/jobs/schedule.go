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
	// default UTC). Where the clock is changed, what goes by the hour goes on, and a named time comes once: if it is skipped
	// at the first moment after, and if it is shown twice the first time.
	Cron     string
	TimeZone string
	// RepeatEvery is the pause between ticks, instead of Cron; at least a second.
	RepeatEvery time.Duration
	// StartAt is the first tick of RepeatEvery, the earliest of Cron, and the only one if neither is set.
	StartAt time.Time
	// Jitter is how long after its tick a job may start at most; how long is drawn for each tick. Without it all that is
	// due at midnight starts at midnight. It is not longer than the time between two ticks.
	Jitter time.Duration
	Paused bool

	// What follows is read only. NextAt is zero if there is no further tick.
	NextAt  time.Time
	LastAt  time.Time
	LastJob uuid.UUID
	// LastError says why the next tick could not be reckoned; NextAt is then when that is tried again, and makes no job.
	LastError string
	CreatedAt time.Time
	UpdatedAt time.Time
}

const (
	// maxJitter bounds Jitter: what starts a day after its time has another time.
	maxJitter = 24 * time.Hour
	// retryReckoning is when a next tick is reckoned again that could not be, as without the zone's data.
	retryReckoning = time.Hour
	// clockSlack is how far the clock may have been set back without a tick that has fired being fired again. What was
	// reckoned by a clock that was further ahead is reckoned anew.
	clockSlack = 5 * time.Minute
)

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
	case s.Jitter < 0 || s.Jitter > maxJitter:
		return fault.Field("jitter", "must lie between 0 and %s", maxJitter)
	case s.RepeatEvery != 0 && s.Jitter > s.RepeatEvery:
		return fault.Field("jitter", "must not be longer than the interval")
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
	next, err := nextCron(s.Cron, zone, t)
	if err != nil {
		return time.Time{}, fault.Field("cron", "%q never comes: %w", s.Cron, err)
	}
	return next, nil
}

// due returns for what a schedule that was stored should wait, seen from now: for NextAt, unless that was reckoned by a
// clock that was ahead, or could not be reckoned. Nothing would happen for as long as the clock was wrong otherwise.
func (s *Schedule) due(now time.Time) (time.Time, error) {
	from := now
	if s.LastAt.After(now) && s.LastAt.Sub(now) <= clockSlack {
		from = s.LastAt
	}
	switch {
	case s.Cron != "":
		next, err := s.first(from)
		if err != nil {
			return s.NextAt, err
		}
		if s.NextAt.IsZero() || s.LastError != "" || s.NextAt.After(next) {
			return next, nil
		}
	case s.RepeatEvery > 0:
		if s.StartAt.After(from) {
			from = s.StartAt.Add(-time.Microsecond) // it counts itself
		}
		if ahead := s.NextAt.Sub(from); ahead > s.RepeatEvery {
			return s.NextAt.Add(-(ahead - 1).Truncate(s.RepeatEvery)), nil
		}
	}
	return s.NextAt, nil
}

// checkJitter refuses a jitter that would have a tick's job start after the next tick's. Cron's ticks are not evenly
// spaced: some are looked at.
func (s *Schedule) checkJitter(tick time.Time) error {
	if s.Cron == "" || s.Jitter == 0 {
		return nil
	}
	for range 32 {
		next, err := s.cronAfter(tick)
		if err != nil { // of years there is a last one
			return nil
		}
		if s.Jitter > next.Sub(tick) {
			return fault.Field("jitter", "must not be longer than the %s between two times of %q", next.Sub(tick), s.Cron)
		}
		tick = next
	}
	return nil
}

// UpsertSchedule sets the schedule with the given namespace and name, and returns it as it stands. The next tick is
// reckoned afresh only if the times have changed, so that saving a schedule again does not put it off; or if it was reckoned
// by a clock that was ahead.
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
	if err := s.checkJitter(next); err != nil {
		return Schedule{}, err
	}
	kept, err := keptTick(ctx, tx, &s, now)
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
				coalesce_key, coalesce_how, lock_resources, lock_exclusive, max_failures, cron, time_zone, repeat_every, start_at, paused, next_at, jitter)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)
			ON CONFLICT (namespace, name) DO UPDATE SET
				kind = excluded.kind, args_type = excluded.args_type, args = excluded.args, priority = excluded.priority,
				principal_name = excluded.principal_name, principal = excluded.principal, resource = excluded.resource,
				coalesce_key = excluded.coalesce_key, coalesce_how = excluded.coalesce_how,
				lock_resources = excluded.lock_resources, lock_exclusive = excluded.lock_exclusive, max_failures = excluded.max_failures,
				cron = excluded.cron, time_zone = excluded.time_zone, repeat_every = excluded.repeat_every, start_at = excluded.start_at,
				paused = excluded.paused, jitter = excluded.jitter, updated_at = now(),
				next_at = CASE WHEN (s.cron, s.time_zone, s.repeat_every, s.start_at)
					IS NOT DISTINCT FROM (excluded.cron, excluded.time_zone, excluded.repeat_every, excluded.start_at)
					THEN coalesce($23, s.next_at) ELSE excluded.next_at END,
				last_error = CASE WHEN $23::timestamptz IS NULL AND (s.cron, s.time_zone, s.repeat_every, s.start_at)
					IS NOT DISTINCT FROM (excluded.cron, excluded.time_zone, excluded.repeat_every, excluded.start_at)
					THEN s.last_error ELSE '' END
			RETURNING id
		)
		SELECT id, pg_notify('`+channel+`', '`+wakeSweep+`')::text FROM s`,
		id, s.Namespace, s.Name, j.Kind, j.argsType, emptyBytes(j.rawArgs), j.Priority.rank(), j.Principal.Name, emptyBytes(j.Principal.Data), j.Resource,
		j.CoalesceKey, int16(j.Coalesce), resources, exclusive, j.MaxFailures, s.Cron, s.TimeZone, every, nullTime(s.StartAt), s.Paused, next, s.Jitter, nullTime(kept))
	var ignore *string
	if err := row.Scan(&id, &ignore); err != nil {
		return Schedule{}, fmt.Errorf("set schedule %s: %w", s.Name, pg.Classify(err))
	}
	return getSchedule(ctx, tx, id)
}

// keptTick returns the tick that a stored schedule with the same times should wait for instead of the one that it has; the
// zero time if there is nothing to put right.
func keptTick(ctx context.Context, db pg.DB, s *Schedule, now time.Time) (time.Time, error) {
	all, err := listSchedules(ctx, db, `WHERE namespace = $1 AND name = $2 FOR UPDATE`, s.Namespace, s.Name)
	if err != nil || len(all) == 0 {
		return time.Time{}, err
	}
	had := all[0]
	if had.Cron != s.Cron || had.TimeZone != s.TimeZone || had.RepeatEvery != s.RepeatEvery || !had.StartAt.Equal(s.StartAt.Truncate(time.Microsecond)) {
		return time.Time{}, nil // all is reckoned afresh
	}
	next, err := had.due(now)
	if err != nil || next.Equal(had.NextAt) {
		return time.Time{}, nil // what cannot be reckoned now will be tried again
	}
	return next, nil
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
	next_at, last_at, last_job, last_error, created_at, updated_at, jitter
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
		&nextAt, &lastAt, &lastJob, &s.LastError, &s.CreatedAt, &s.UpdatedAt, &s.Jitter)
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
	return listSchedules(ctx, c.cfg.Pool, `WHERE $1 = '' OR namespace = $1 ORDER BY namespace, name`, namespace)
}

// SchedulesOf returns those schedules of a namespace whose names are one of the given or begin with prefix, by name.
func (c *Client) SchedulesOf(ctx context.Context, db pg.DB, namespace, prefix string, names ...string) ([]Schedule, error) {
	if names == nil {
		names = []string{}
	}
	return listSchedules(ctx, db, `WHERE namespace = $1 AND (starts_with(name, $2) OR name = ANY ($3)) ORDER BY name`, namespace, prefix, names)
}

func listSchedules(ctx context.Context, db pg.DB, where string, args ...any) ([]Schedule, error) {
	rows, err := db.Query(ctx, scheduleSQL+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", pg.Classify(err))
	}
	all, err := pgx.CollectRows(rows, scanSchedule)
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", pg.Classify(err))
	}
	return all, nil
}
