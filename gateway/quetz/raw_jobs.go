package quetz

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/gateway/edge"
	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	channelsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/channels/v1"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

// The dialect shows what people ask for in its words; what the platform does by itself (building indexes, collecting
// garbage) is at /entrepot/v1/jobs.
var shownKinds = []string{
	"sync.channel", "channels.reindex", "channels.generate", "channels.validate", "channels.cleanup", "channels.builtin", "metrics.pull",
}

// statuses are the dialect's seven; ours stand for some of them, two never occur.
var (
	statuses      = []string{"pending", "queued", "running", "success", "failed", "timeout", "cancelled"}
	statesOf      = map[string][]jobsv1.JobState{}
	taskStatuses  = []string{"created", "pending", "running", "success", "failed", "skipped"}
	defaultJobs   = []string{"pending", "running"}
	defaultsTasks = []string{"created", "pending", "running"}
)

func init() {
	for _, s := range []jobsv1.JobState{
		jobsv1.JobState_JOB_STATE_SCHEDULED, jobsv1.JobState_JOB_STATE_QUEUED, jobsv1.JobState_JOB_STATE_RUNNING,
		jobsv1.JobState_JOB_STATE_SUCCEEDED, jobsv1.JobState_JOB_STATE_DEAD, jobsv1.JobState_JOB_STATE_CANCELLED,
	} {
		statesOf[jobStatus(s)] = append(statesOf[jobStatus(s)], s)
	}
}

// oneOf is how pydantic says that a value is none of an enumeration's.
func oneOf(values []string) string { return "Input should be " + expected(values) }

// expected is how pydantic lists the values of an enumeration.
func expected(values []string) string {
	n := len(values) - 1
	return "'" + strings.Join(values[:n], "', '") + "' or '" + values[n] + "'"
}

// queryStatuses reads the repeated parameter status.
func queryStatuses(r *http.Request, known, def []string) ([]string, error) {
	given := r.URL.Query()["status"]
	var out []string
	for _, s := range given {
		switch {
		case s == "":
		case !slices.Contains(known, s):
			return nil, queryProblem("status", "enum", oneOf(known), s)
		default:
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return def, nil
	}
	return out, nil
}

func (d *dialect) listJobs(w http.ResponseWriter, r *http.Request) error {
	wanted, err := queryStatuses(r, statuses, defaultJobs)
	if err != nil {
		return err
	}
	req := &jobsv1.ListJobsRequest{Kinds: shownKinds, OldestFirst: true}
	for _, s := range wanted {
		req.States = append(req.States, statesOf[s]...)
	}
	return writePage(w, r, func(skip, limit int64, take func(quetzJob) error) (int64, error) {
		nothing := len(req.GetStates()) == 0 // queued and timeout never occur here
		if nothing {
			req.States = []jobsv1.JobState{jobsv1.JobState_JOB_STATE_QUEUED} // asked all the same: who is nobody is told so
		}
		total, err := collectJobs(skip, limit, func(skip int64, size int32) (int, int64, error) {
			req.Skip, req.PageSize = skip, size
			got, err := d.Jobs.ListJobs(r.Context(), req)
			if err != nil {
				return 0, 0, err
			}
			if nothing {
				return 0, 0, nil
			}
			for _, j := range got.GetJobs() {
				if err := take(quetzJob{j}); err != nil {
					return 0, 0, err
				}
			}
			return len(got.GetJobs()), got.GetTotalSize(), nil
		})
		return total, err
	})
}

// collectJobs is collect for a list that does not skip far: without a page it counts from the front.
func collectJobs(skip, limit int64, page func(skip int64, size int32) (got int, total int64, err error)) (int64, error) {
	if limit == 0 {
		_, total, err := page(0, 1)
		return total, err
	}
	return collect(skip, limit, page)
}

// quetzJob writes a job in the dialect's shape.
type quetzJob struct{ *jobsv1.Job }

func (j quetzJob) MarshalJSON() ([]byte, error) {
	return (&edge.Marshaler{}).Marshal(jobToQuetz(j.Job))
}

// builtins are the names that POST /api/jobs knows, with the action each is.
var builtins = map[string]string{
	"reindex": "reindex", "generate_indexes": "generate_indexes", "validate_packages": "validate_packages", "cleanup": "cleanup",
	"cleanup_dry_run": "cleanup_dry_run", "pkgstore_cleanup": "cleanup", "pkgstore_cleanup_dry_run": "cleanup_dry_run",
	"synchronize": "synchronize", "synchronize_repodata": "synchronize_repodata", "synchronize_metrics": "synchronize_metrics",
}

// notAllowed is how the dialect refuses what is about jobs to people who are logged in.
func notAllowed(err error) error {
	if fault.Is(err, fault.Denied) {
		return &statusError{http.StatusUnauthorized, "Not allowed"}
	}
	return err
}

func (d *dialect) createJob(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	req := &channelsv1.StartBuiltinJobRequest{}
	if f.require("manifest") {
		name, _ := f.text("manifest")
		if req.Action = builtins[name]; req.Action == "" && f.err() == nil {
			why := "no such built-in function, please provide plugin name"
			if strings.Contains(name, ":") {
				why = "no such plugin"
			}
			f.fail("manifest", "value_error", fmt.Sprintf("Value error, invalid function %s: %s", name, why))
		}
	}
	if f.require("items_spec") {
		req.ItemsSpec, _ = f.text("items_spec")
	}
	req.StartAt, req.RepeatEverySeconds = readWhen(f)
	if err := f.err(); err != nil {
		return err
	}
	job, err := d.Channels.StartBuiltinJob(r.Context(), req)
	if err != nil {
		return notAllowed(err)
	}
	edge.WriteJSON(w, http.StatusCreated, "application/json", quetzJob{job})
	return nil
}

// readAction reads an action, words what is wrong with it as the dialect does, and hands it to the route of the proto.
func (d *dialect) readAction(next http.Handler) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		f, _, err := d.channelForm(r, r.PathValue("channel_name"), isAny)
		if err != nil {
			return err
		}
		f.require("action")
		action, _ := f.oneOf("action", actionNames)
		body := map[string]any{"action": action}
		start, repeat := readWhen(f)
		if start != nil {
			body["start_at"] = start.AsTime()
		}
		if repeat != 0 {
			body["repeat_every_seconds"] = repeat
		}
		if err := f.err(); err != nil {
			return err
		}
		data, err := edge.MarshalJSON(body)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(data))
		r.Header.Set("Content-Type", "application/json")
		next.ServeHTTP(w, r)
		return nil
	}
}

// readWhen reads when and how often a job runs.
func readWhen(f *form) (start *timestamppb.Timestamp, repeat int64) {
	if s, ok := f.string("start_at"); ok && s != "" {
		t, err := parseTime(s)
		if err != nil {
			f.fail("start_at", "datetime_from_date_parsing", "Input should be a valid datetime or date")
			return nil, 0
		}
		start = timestamppb.New(t)
	}
	repeat, _ = f.int("repeat_every_seconds")
	return start, repeat
}

// jobByID finds the job that the route names.
func (d *dialect) jobByID(r *http.Request) (*jobsv1.Job, error) {
	id := r.PathValue("id")
	missing := fault.New(fault.NotFound, "Job with id %s not found", id)
	if n, err := strconv.ParseInt(id, 10, 64); err == nil && n < 1 && !authn.FromContext(r.Context()).Anonymous() {
		return nil, missing
	}
	job, err := d.Jobs.GetJob(r.Context(), &jobsv1.GetJobRequest{Id: id})
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, missing
	case fault.Is(err, fault.Invalid):
		return nil, pathProblem("job_id", "int_parsing", noInt+", unable to parse string as an integer", id)
	}
	return job, notAllowed(err)
}

func (d *dialect) getJob(w http.ResponseWriter, r *http.Request) error {
	job, err := d.jobByID(r)
	if err != nil {
		return err
	}
	edge.WriteJSON(w, http.StatusOK, "application/json", quetzJob{job})
	return nil
}

// patchJob stops a job, or lets it run again.
func (d *dialect) patchJob(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(r)
	if err != nil {
		return err
	}
	f.require("status")
	status, _ := f.oneOf("status", []string{"cancelled", "pending", "running"})
	force := f.bool("force", false)
	if err := f.err(); err != nil {
		return err
	}
	job, err := d.jobByID(r)
	if err != nil {
		return err
	}
	id := job.GetId()
	switch {
	case status == "cancelled":
		_, err = d.Jobs.CancelJob(r.Context(), &jobsv1.CancelJobRequest{Id: id, EndRepetition: true})
	case jobStatus(job.GetState()) == "pending" || jobStatus(job.GetState()) == "running":
		// It will run, or does already.
	case job.GetState() == jobsv1.JobState_JOB_STATE_SUCCEEDED && !force:
		// What ran is left alone.
	default:
		_, err = d.Jobs.RetryJob(r.Context(), &jobsv1.RetryJobRequest{Id: id, Force: force})
		if fault.Is(err, fault.Precondition) { // somebody else was faster
			err = nil
		}
	}
	if err != nil {
		return notAllowed(err)
	}
	return writeNull(w, http.StatusOK)
}

// task is the one task that each job has here.
type task struct {
	ID             int64    `json:"id"`
	JobID          int64    `json:"job_id"`
	PackageVersion struct{} `json:"package_version"`
	Created        string   `json:"created"`
	Status         string   `json:"status"`
}

func taskStatus(s jobsv1.JobState) string {
	if status := jobStatus(s); status != "cancelled" {
		return status
	}
	return "skipped"
}

func (d *dialect) listTasks(w http.ResponseWriter, r *http.Request) error {
	wanted, err := queryStatuses(r, taskStatuses, defaultsTasks)
	if err != nil {
		return err
	}
	job, err := d.jobByID(r)
	if err != nil {
		return err
	}
	return writePage(w, r, func(skip, limit int64, take func(task) error) (int64, error) {
		t := task{ID: job.GetNumber(), JobID: job.GetNumber(), Created: naive(job.GetCreateTime().AsTime().Truncate(time.Microsecond)), Status: taskStatus(job.GetState())}
		if !slices.Contains(wanted, t.Status) {
			return 0, nil
		}
		if skip > 0 || limit == 0 {
			return 1, nil
		}
		return 1, take(t)
	})
}
