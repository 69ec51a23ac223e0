package storage

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
	storagev1 "github.com/entrepot-dev/entrepot/proto/entrepot/storage/v1"
)

var problems = map[string]storagev1.Problem{
	corrupt: storagev1.Problem_PROBLEM_CORRUPT, missing: storagev1.Problem_PROBLEM_MISSING, unreadable: storagev1.Problem_PROBLEM_UNREADABLE,
}

func (f finding) toProto(owners []refs.Owner) *storagev1.Finding {
	out := &storagev1.Finding{
		Sha256: f.Digest.String(), Problem: problems[f.Problem], Size: f.Size, Quarantined: f.Quarantined, Detail: f.Detail,
		FindTime: timestamppb.New(f.FoundAt), LastFindTime: timestamppb.New(f.LastAt), ResolveTime: stamp(f.ResolvedAt),
	}
	for _, o := range owners {
		out.Owners = append(out.Owners, o.Kind+"/"+o.ID)
	}
	return out
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// toJob shows a job to the one who asked for it; the jobs service has the whole picture.
func toJob(info jobs.Info) *jobsv1.Job {
	states := map[jobs.State]jobsv1.JobState{
		jobs.Scheduled: jobsv1.JobState_JOB_STATE_SCHEDULED, jobs.Queued: jobsv1.JobState_JOB_STATE_QUEUED,
		jobs.Running: jobsv1.JobState_JOB_STATE_RUNNING, jobs.Succeeded: jobsv1.JobState_JOB_STATE_SUCCEEDED,
		jobs.Dead: jobsv1.JobState_JOB_STATE_DEAD, jobs.Cancelled: jobsv1.JobState_JOB_STATE_CANCELLED,
	}
	j := &jobsv1.Job{
		Id: info.ID.String(), Number: info.Seq, Kind: info.Kind, Namespace: info.Namespace, Resource: info.Resource,
		State: states[info.State], Priority: info.Priority.String(), Owner: info.Principal.Name, CreateTime: timestamppb.New(info.CreatedAt),
	}
	if owner, err := authn.Unmarshal(info.Principal.Data); err == nil {
		j.OwnerId = owner.UserID
	}
	return j
}
