package storage

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

// Upkeep says when stored things are looked after, and how long what is kept.
type Upkeep struct {
	// GCEvery is the pause between garbage collections; 0 means that they run only when somebody asks.
	GCEvery time.Duration `koanf:"gc_every"`
	// GCGrace is how long a blob must have been without a reference before it is deleted. It covers the time between an
	// upload and its publication, and readers of what was just replaced.
	GCGrace time.Duration `koanf:"gc_grace"`
	// ScrubEvery is the pause between scrubs; 0 means that they run only when somebody asks.
	ScrubEvery time.Duration `koanf:"scrub_every"`
	// ScrubRate bounds what a scrub reads, in bytes a second, so that it leaves the disk to others; 0 means no bound.
	ScrubRate config.Bytes `koanf:"scrub_rate"`
	// AuditRetention is how long audit events are kept; 0 means for ever.
	AuditRetention time.Duration `koanf:"audit_retention"`
}

// DefaultUpkeep collects every hour what was garbage for a day, and reads everything once a week.
func DefaultUpkeep() Upkeep {
	return Upkeep{
		GCEvery: time.Hour, GCGrace: 24 * time.Hour, ScrubEvery: 7 * 24 * time.Hour, ScrubRate: 64 << 20,
		AuditRetention: 400 * 24 * time.Hour,
	}
}

// minGrace: an upload that takes longer between its bytes and its publication would have to be sent again.
const minGrace = time.Minute

// Validate refuses what cannot work.
func (u Upkeep) Validate() error {
	var bad []fault.Violation
	for _, e := range []struct {
		field string
		every time.Duration
	}{{"upkeep.gc_every", u.GCEvery}, {"upkeep.scrub_every", u.ScrubEvery}} {
		if e.every != 0 && e.every < time.Minute {
			bad = append(bad, fault.Violation{Field: e.field, Description: "must be 0, for never, or at least a minute"})
		}
	}
	if u.GCGrace < minGrace {
		bad = append(bad, fault.Violation{Field: "upkeep.gc_grace", Description: "must be at least a minute: uploads take that long to be published"})
	}
	if u.ScrubRate < 0 {
		bad = append(bad, fault.Violation{Field: "upkeep.scrub_rate", Description: "must not be negative"})
	}
	if u.AuditRetention < 0 {
		bad = append(bad, fault.Violation{Field: "upkeep.audit_retention", Description: "must be 0, for ever, or positive"})
	}
	if len(bad) == 0 {
		return nil
	}
	err := fault.New(fault.Invalid, "the settings of upkeep cannot be used")
	err.Violations = bad
	return err
}

// gridStart is an early Sunday morning, when schedules tick: hourly ones at 17 minutes past, weekly ones in that night. A
// fixed start keeps the ticks where they are, however often the service starts anew.
var gridStart = time.Date(2024, 1, 7, 3, 17, 0, 0, time.UTC)

// schedule sets when upkeep runs by itself. It does so as the service: nobody's leaving stops it.
func (s *Service) schedule(ctx context.Context) error {
	self := authn.Service("storage")
	for _, sc := range []struct {
		name  string
		every time.Duration
		job   jobs.EnqueueParams
	}{
		{"upkeep/gc", s.deps.Upkeep.GCEvery, gcJob(&storagev1.GarbageCollectionArgs{})},
		{"upkeep/scrub", s.deps.Upkeep.ScrubEvery, scrubJob(&storagev1.ScrubArgs{})},
	} {
		if sc.every == 0 {
			err := s.deps.Jobs.DeleteSchedule(ctx, s.deps.DB, namespace, sc.name)
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			continue
		}
		err := as(&sc.job, self)
		if err != nil {
			return err
		}
		_, err = s.deps.Jobs.UpsertSchedule(ctx, s.deps.DB, jobs.Schedule{
			Namespace: namespace, Name: sc.name, Job: sc.job, RepeatEvery: sc.every, StartAt: gridStart,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// as sets whom a job runs as.
func as(p *jobs.EnqueueParams, c authn.Caller) (err error) {
	p.Principal.Name = c.Actor()
	p.Principal.Data, err = c.Marshal()
	return err
}

// enqueue queues a job on behalf of the caller, with its audit event.
func (s *Service) enqueue(ctx context.Context, p jobs.EnqueueParams, record func(tx pgx.Tx) error) (jobs.Info, error) {
	if err := as(&p, authn.FromContext(ctx)); err != nil {
		return jobs.Info{}, err
	}
	var result jobs.EnqueueResult
	err := pgx.BeginFunc(ctx, s.deps.DB, func(tx pgx.Tx) (err error) {
		if err := record(tx); err != nil {
			return err
		}
		result, err = s.deps.Jobs.Enqueue(ctx, tx, p)
		return err
	})
	if err != nil {
		return jobs.Info{}, err
	}
	return s.deps.Jobs.Get(ctx, result.JobID)
}
