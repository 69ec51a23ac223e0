package client

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/progress"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func (a *app) adminCommand() *cobra.Command {
	return group("admin", "Look after a server: its storage, people and limits", a.adminGCCommand(), a.adminScrubCommand(), a.adminFindingsCommand(), a.adminDuCommand(),
		a.adminUserCommand(), a.adminGroupCommand(), a.adminRoleCommand(), a.adminQuotaCommand(), a.adminAuditCommand())
}

func (a *app) adminGCCommand() *cobra.Command {
	return a.upkeepCommand(&cobra.Command{
		Use: "gc", Short: "Delete what nothing refers to any more",
		Long: `Start a garbage collection, which the server also does by itself every hour. Blobs that nothing refers to are marked, and
deleted by a later collection when the grace period (upkeep.gc_grace) is over and still nothing refers to them. Rows past
their retention go, too.`,
		Example: "  entrepot admin gc --dry-run --follow",
	}, "only say what would be deleted", (*restclient.Client).CollectGarbage)
}

func (a *app) adminScrubCommand() *cobra.Command {
	return a.upkeepCommand(&cobra.Command{
		Use: "scrub", Short: "Read everything that is stored and find what is damaged",
		Long: `Start a scrub, which the server also does by itself every week: every blob is read and compared with its digest. Damaged
bytes are taken out of service, and blobs that are missing are reported; 'entrepot admin findings' lists them.
With --follow the exit code is 1 if anything was found.`,
		Example: "  entrepot admin scrub --follow",
	}, "only report: take nothing out of service", (*restclient.Client).Scrub)
}

// upkeepCommand makes a command that starts a job and may follow it.
func (a *app) upkeepCommand(c *cobra.Command, dry string, start func(*restclient.Client, context.Context, bool) (*jobsv1.Job, error)) *cobra.Command {
	var dryRun, follow bool
	c.Args = want()
	c.RunE = a.run(func(cmd *cobra.Command, rc *restclient.Client, _ []string) error {
		job, err := start(rc, cmd.Context(), dryRun)
		if err != nil {
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
		if !follow {
			note(cmd, "job %d is %s; follow it with:  entrepot job follow %d", job.GetNumber(), stateName(job.GetState()), job.GetNumber())
			return nil
		}
		meter := NewMeter(cmd.ErrOrStderr(), a.getenv, "blobs")
		job, err = FollowJob(cmd.Context(), rc, job.GetId(), meter)
		meter.Done()
		switch {
		case err != nil && cmd.Context().Err() != nil:
			note(cmd, "\nthe job goes on")
			return quiet{exitInterrupted}
		case err != nil:
			return err
		case job.GetState() != jobsv1.JobState_JOB_STATE_SUCCEEDED:
			return fault.New(fault.Internal, "job %d (%s) %s: %s", job.GetNumber(), job.GetKind(), stateName(job.GetState()), printable(job.GetError()))
		}
		return a.upkeepResult(cmd, job)
	})
	c.Flags().BoolVar(&dryRun, "dry-run", false, dry)
	c.Flags().BoolVar(&follow, "follow", false, "wait for the end and print what was done")
	a.outputFlag(c)
	return c
}

// upkeepResult prints what a job of upkeep did. Damage is a failure: it is what the command was asked to find.
func (a *app) upkeepResult(cmd *cobra.Command, job *jobsv1.Job) error {
	if job.GetKind() == "storage.gc" {
		r := &storagev1.GarbageCollectionResult{}
		if _, err := restclient.JobResult(job, r); err != nil {
			return fmt.Errorf("the job's result cannot be read: %w", err)
		}
		return a.printOne(cmd, r, gcLines(r))
	}
	r := &storagev1.ScrubResult{}
	if _, err := restclient.JobResult(job, r); err != nil {
		return fmt.Errorf("the job's result cannot be read: %w", err)
	}
	if err := a.printOne(cmd, r, scrubLines(r)); err != nil {
		return err
	}
	if n := r.GetCorrupt() + r.GetMissing() + r.GetUnreadable(); n > 0 {
		return fault.New(fault.Internal, "%d blobs are damaged; 'entrepot admin findings' lists them", n)
	}
	return nil
}

func gcLines(r *storagev1.GarbageCollectionResult) [][]string {
	deleted, removed := "Deleted:", "removed"
	if r.GetDryRun() {
		deleted, removed = "Would delete:", "past their retention"
	}
	lines := [][]string{
		{"Stored:", blobs(r.GetStored(), r.GetStoredBytes())},
		{deleted, blobs(r.GetDeleted(), r.GetDeletedBytes())},
		{"Found unreferenced:", fmt.Sprint(r.GetMarked())},
		{"New to the database:", fmt.Sprint(r.GetAdopted())},
		{"Interrupted uploads:", fmt.Sprint(r.GetTemporary())},
	}
	for _, kind := range slices.Sorted(maps.Keys(r.GetExpired())) {
		name := printable(kind)
		if name != "" {
			name = strings.ToUpper(name[:1]) + name[1:]
		}
		lines = append(lines, []string{name + ":", fmt.Sprintf("%d %s", r.GetExpired()[kind], removed)})
	}
	return lines
}

func scrubLines(r *storagev1.ScrubResult) [][]string {
	return [][]string{
		{"Read:", blobs(r.GetChecked(), r.GetCheckedBytes())},
		{"Corrupt:", fmt.Sprint(r.GetCorrupt())},
		{"Missing:", fmt.Sprint(r.GetMissing())},
		{"Unreadable:", fmt.Sprint(r.GetUnreadable())},
		{"Resolved since:", fmt.Sprint(r.GetResolved())},
	}
}

func blobs(n, bytes int64) string { return fmt.Sprintf("%d blobs, %s", n, progress.Bytes(bytes)) }

func (a *app) adminFindingsCommand() *cobra.Command {
	var all bool
	var limit int
	c := &cobra.Command{
		Use: "findings", Short: "List the blobs that scrubs found damaged", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			found, err := c.Findings(cmd.Context(), all, limit)
			if err != nil {
				return fmt.Errorf("list findings: %w", err)
			}
			rows := [][]string{{"SHA256", "PROBLEM", "SIZE", "FOUND", "LAST FOUND", "RESOLVED", "NEEDED BY"}}
			for _, f := range found {
				rows = append(rows, []string{
					f.GetSha256(), strings.ToLower(strings.TrimPrefix(f.GetProblem().String(), "PROBLEM_")), fmt.Sprint(f.GetSize()),
					when(f.GetFindTime()), when(f.GetLastFindTime()), when(f.GetResolveTime()), strings.Join(f.GetOwners(), " "),
				})
			}
			return printList(a, cmd, found, rows)
		}),
	}
	c.Flags().BoolVar(&all, "all", false, "also those that are resolved")
	c.Flags().IntVar(&limit, "limit", 50, "at most this many; 0 means all")
	a.outputFlag(c)
	return c
}

func (a *app) adminDuCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "du", Short: "Show how much is stored", Args: want(),
		RunE: a.run(func(cmd *cobra.Command, c *restclient.Client, _ []string) error {
			u, err := c.StorageUsage(cmd.Context())
			if err != nil {
				return fmt.Errorf("show usage: %w", err)
			}
			return a.printOne(cmd, u, [][]string{
				{"In use:", blobs(u.GetBlobCount(), u.GetBlobBytes())},
				{"Unreferenced:", blobs(u.GetUnreferencedCount(), u.GetUnreferencedBytes())},
				{"References:", fmt.Sprint(u.GetReferenceCount())},
				{"Damaged:", fmt.Sprint(u.GetFindingCount())},
			})
		}),
	}
	a.outputFlag(c)
	return c
}
