package client

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) jobCommand() *cobra.Command {
	return group("job", "Watch and steer background work", a.jobListCommand(), a.jobShowCommand(), a.jobFollowCommand(), a.jobCancelCommand())
}

func (a *app) jobListCommand() *cobra.Command {
	var states []string
	var kind, channel string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List jobs, newest first", Args: want(),
		Example: "  entrepot job list --state running --channel main",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			req := &jobsv1.ListJobsRequest{Kind: kind}
			for _, s := range states {
				v, ok := jobsv1.JobState_value["JOB_STATE_"+strings.ToUpper(s)]
				if !ok || v == 0 {
					return fault.Field("--state", "--state must be scheduled, queued, running, succeeded, dead or cancelled, not %q", s)
				}
				req.States = append(req.States, jobsv1.JobState(v))
			}
			if channel != "" {
				req.Resource = "channel/" + channel
			}
			resp, err := c.Jobs(cmd.Context(), req, limit)
			if err != nil {
				return fmt.Errorf("list jobs: %w", err)
			}
			rows := [][]string{{"NUMBER", "KIND", "RESOURCE", "STATE", "DONE", "CREATED", "OWNER"}}
			for _, j := range resp.GetJobs() {
				rows = append(rows, []string{fmt.Sprint(j.GetNumber()), j.GetKind(), j.GetResource(), stateName(j.GetState()), done(j), when(j.GetCreateTime()), j.GetOwner()})
			}
			if hidden := resp.GetTotalSize() - int64(len(resp.GetJobs())); hidden > 0 && a.output == "table" {
				note(cmd, "%d more; --limit shows them", hidden)
			}
			return printList(a, cmd, resp.GetJobs(), rows)
		}),
	}
	c.Flags().StringSliceVar(&states, "state", nil, "only these states")
	c.Flags().StringVar(&kind, "kind", "", "only this kind, such as sync.channel")
	c.Flags().StringVar(&channel, "channel", "", "only jobs of this channel")
	c.Flags().IntVar(&limit, "limit", 50, "at most this many; 0 means all")
	a.outputFlag(c)
	return c
}

// done says how far a job has come.
func done(j *jobsv1.Job) string {
	p := j.GetProgress()
	switch {
	case p.GetTotal() > 0:
		return fmt.Sprintf("%d/%d", p.GetDone(), p.GetTotal())
	case p.GetDone() > 0:
		return fmt.Sprint(p.GetDone())
	}
	return "-"
}

func (a *app) jobShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "show JOB", Short: "Show a job, by number or id", Args: want("JOB"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			j, err := c.Job(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("show job %s: %w", args[0], err)
			}
			return a.printOne(cmd, j, jobLines(j))
		}),
	}
	a.outputFlag(c)
	return c
}

func jobLines(j *jobsv1.Job) [][]string {
	lines := [][]string{
		{"Number:", fmt.Sprint(j.GetNumber())},
		{"Id:", j.GetId()},
		{"Kind:", j.GetKind()},
		{"Resource:", j.GetResource()},
		{"State:", stateName(j.GetState())},
		{"Done:", done(j)},
		{"Owner:", j.GetOwner()},
		{"Created:", when(j.GetCreateTime())},
		{"Started:", when(j.GetStartTime())},
		{"Finished:", when(j.GetFinishTime())},
	}
	if j.GetFailures() > 0 {
		lines = append(lines, []string{"Failed attempts:", fmt.Sprint(j.GetFailures())})
	}
	if j.GetError() != "" {
		lines = append(lines, []string{"Error:", j.GetError()})
	}
	if s := Summary(j, 0); s != "" && j.GetKind() == "sync.channel" {
		lines = append(lines, []string{"Result:", s})
		if r, err := restclient.SyncResult(j); err == nil {
			for _, f := range r.GetFailures() {
				lines = append(lines, []string{"Failed:", f.GetPath() + ": " + f.GetError()})
			}
		}
	}
	return lines
}

func (a *app) jobFollowCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "follow JOB", Short: "Follow a job until it has ended", Args: want("JOB"),
		Long: "Shows a job's progress until it has ended. The exit code is 0 if it succeeded, and 1 if it did not or if files could not be mirrored.\nCtrl-C stops the watching, not the job.",
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			return a.follow(cmd, c, args[0])
		}),
	}
	a.outputFlag(c)
	return c
}

func (a *app) jobCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cancel JOB", Short: "Cancel a job that has not ended", Args: want("JOB"),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, args []string) error {
			j, err := c.CancelJob(cmd.Context(), args[0])
			if err != nil {
				return fmt.Errorf("cancel job %s: %w", args[0], err)
			}
			if j.GetState() == jobsv1.JobState_JOB_STATE_RUNNING {
				note(cmd, "job %d was told to stop", j.GetNumber())
				return nil
			}
			note(cmd, "job %d is %s", j.GetNumber(), stateName(j.GetState()))
			return nil
		}),
	}
}
