package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// NewMeter makes a meter for what a command writes to standard error: a bar on a terminal, else lines. NO_COLOR and
// TERM=dumb ask for lines too.
func NewMeter(w any, getenv func(string) string, unit string) *progress.Meter {
	out, _ := w.(interface{ Write([]byte) (int, error) })
	f, ok := terminal(w)
	if !ok || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return progress.New(out, progress.Options{Unit: unit})
	}
	return progress.New(out, progress.Options{Unit: unit, Terminal: true, Width: func() int {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
		return 80
	}})
}

// FollowJob shows a job's progress and warnings on meter until it has ended.
func FollowJob(ctx context.Context, c *restclient.Client, id string, meter *progress.Meter) (*jobsv1.Job, error) {
	return c.Follow(ctx, id, func(ev *jobsv1.JobEvent) {
		p := ev.GetProgress()
		switch level := ev.GetLog().GetLevel(); {
		case level == "error" || level == "debug":
			// Files that fail are named together at the end, where nothing scrolls them away.
		case ev.GetLog() != nil:
			meter.Println(fmt.Sprintf("%s: %s", level, printable(ev.GetLog().GetText())))
		case p == nil && !restclient.Final(ev.GetState().GetState()):
			p = ev.GetState().GetProgress()
		}
		if p.GetTotal() > 0 || p.GetDone() > 0 || p.GetMessage() != "" {
			meter.Update(progress.State{
				Done: p.GetDone(), Total: p.GetTotal(), Bytes: p.GetBytes(), TotalBytes: p.GetTotalBytes(), Message: printable(p.GetMessage()),
			})
		}
	})
}

// follow shows a job until it ends and turns its end into an error unless it succeeded. Ctrl-C leaves the job alone.
func (a *app) follow(cmd *cobra.Command, c *restclient.Client, id string) error {
	meter := NewMeter(cmd.ErrOrStderr(), a.getenv, "files")
	job, err := FollowJob(cmd.Context(), c, id, meter)
	took := meter.Done()
	if err != nil {
		if cmd.Context().Err() != nil {
			note(cmd, "\nthe job goes on; follow it again with:  entrepot job follow %s\nor stop it with:                         entrepot job cancel %s", id, id)
			return quiet{exitInterrupted}
		}
		return err
	}
	return a.ended(cmd, job, took)
}

// ended reports how a job ended. took is how long it was watched; 0 if it was not.
func (a *app) ended(cmd *cobra.Command, job *jobsv1.Job, took time.Duration) error {
	if a.output == "json" || a.output == "yaml" {
		if err := a.printOne(cmd, job, nil); err != nil {
			return err
		}
	}
	result, err := restclient.SyncResult(job)
	if err != nil {
		return fmt.Errorf("the job's result cannot be read: %w", err)
	}
	if job.GetKind() == "sync.channel" && result != nil {
		out := cmd.OutOrStdout()
		if a.output == "json" || a.output == "yaml" {
			out = cmd.ErrOrStderr()
		}
		fmt.Fprintln(out, Summary(job, took))
		for _, w := range result.GetWarnings() {
			note(cmd, "warning: %s", printable(w))
		}
		for _, f := range result.GetFailures() {
			note(cmd, "failed: %s: %s", printable(f.GetPath()), printable(f.GetError()))
		}
		if more := result.GetFailed() - int64(len(result.GetFailures())); more > 0 {
			note(cmd, "failed: %d more", more)
		}
	}
	what := fmt.Sprintf("job %d (%s of %s)", job.GetNumber(), job.GetKind(), job.GetResource())
	switch {
	case job.GetState() == jobsv1.JobState_JOB_STATE_CANCELLED:
		return fault.New(fault.Internal, "%s was cancelled", what)
	case job.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED:
		return fault.New(fault.Internal, "%s failed: %s", what, printable(job.GetError()))
	case result.GetFailed() > 0:
		return fault.New(fault.Internal, "%s ended, but %d files could not be had", what, result.GetFailed())
	}
	if result == nil {
		note(cmd, "%s: %s", what, stateName(job.GetState()))
	}
	return nil
}

// Summary says in a line what came of a sync.
func Summary(job *jobsv1.Job, took time.Duration) string {
	r, err := restclient.SyncResult(job)
	if err != nil || r == nil {
		return ""
	}
	if s, f := job.GetStartTime(), job.GetFinishTime(); s != nil && f != nil && f.AsTime().After(s.AsTime()) {
		took = f.AsTime().Sub(s.AsTime()) // the server's own measure, queueing left out
	}
	parts := []string{
		fmt.Sprintf("revision %d: %d added, %d unchanged, %d removed, %d failed", r.GetRevision(), r.GetAdded(), r.GetUnchanged(), r.GetRemoved(), r.GetFailed()),
	}
	if took > 0 {
		parts = append(parts, fmt.Sprintf("%s in %s", progress.Bytes(r.GetBytes()), progress.Duration(took)))
		if n := r.GetAdded(); n > 0 {
			parts = append(parts, fmt.Sprintf("%.0f packages/s", float64(n)/took.Seconds()))
		}
	}
	return strings.Join(parts, "; ")
}

func stateName(s jobsv1.JobState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "JOB_STATE_"))
}
