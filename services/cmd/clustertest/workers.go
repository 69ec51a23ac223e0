package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/services/internal/scenario"
)

// attempt is how a job stands.
type attempt struct {
	State    string
	Failures int
	Claim    int64
}

func (s *stage) attempt(ctx context.Context, job string) (attempt, error) {
	conn, err := pgx.Connect(ctx, s.parts.postgres.url)
	if err != nil {
		return attempt{}, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, "SELECT state::text, failures, claim FROM jobs.jobs WHERE seq = $1::bigint", job)
	if err != nil {
		return attempt{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[attempt])
}

// stopWorker stops the worker that runs a long sync: the other one goes on, and nothing was counted as a failure.
func (s *stage) stopWorker(ctx context.Context) error {
	up, err := s.slowUpstream("worker", 35, 2*time.Second)
	if err != nil {
		return err
	}
	defer up.Close()
	job, err := s.startMirror(ctx, "handed-over", up.URL)
	if err != nil {
		return err
	}
	if _, err := up.AwaitFiles(ctx, 10); err != nil {
		return err
	}
	n, err := s.workerOf(ctx, job)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := stopping(ctx, n); err != nil {
		return err
	}
	if err := s.ended(n, began, drainDelay+drain+2*time.Second); err != nil {
		return err
	}
	freed := time.Now()
	next, err := s.workerOf(ctx, job)
	if err != nil {
		return err
	}
	if took := time.Since(freed); next == n || took > 2*time.Second {
		return fmt.Errorf("%s goes on with the job %s after %s has ended", next.name, ms(took), n.name)
	}
	a, err := s.attempt(ctx, job)
	if err != nil {
		return err
	}
	if a.State != "running" || a.Failures != 0 || a.Claim != 2 {
		return fmt.Errorf("the job after it was handed over: %+v", a)
	}
	s.say("%s goes on with the job within %s, no attempt was burned", next.name, ms(time.Since(freed)))
	up.SetDelay(0)
	if err := s.succeeded(ctx, job); err != nil {
		return err
	}
	if err := scenario.Check(ctx, s.client, "handed-over", up.Channel, mirrored); err != nil {
		return err
	}
	s.say("its channel is whole; %d files fetched for %d", up.AllFiles(), mirrored)
	return s.back(ctx, n.name)
}

// stopWorkerDeadUpstream stops a worker whose downloads wait for an upstream that is gone.
func (s *stage) stopWorkerDeadUpstream(ctx context.Context) error {
	up, err := s.slowUpstream("dead", 36, 300*time.Millisecond)
	if err != nil {
		return err
	}
	defer up.Close()
	job, err := s.startMirror(ctx, "orphaned", up.URL)
	if err != nil {
		return err
	}
	if _, err := up.AwaitFiles(ctx, 10); err != nil {
		return err
	}
	up.Close()
	n, err := s.workerOf(ctx, job)
	if err != nil {
		return err
	}
	before, err := s.attempt(ctx, job)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := stopping(ctx, n); err != nil {
		return err
	}
	if err := s.ended(n, began, drainDelay+drain+2*time.Second); err != nil {
		return err
	}
	if after, err := s.attempt(ctx, job); err != nil || after.Failures != before.Failures {
		return fmt.Errorf("the job: %+v before, %+v after, %w", before, after, err)
	}
	if err := s.client.DeleteChannel(ctx, "orphaned"); err != nil {
		return err
	}
	return s.back(ctx, n.name)
}
