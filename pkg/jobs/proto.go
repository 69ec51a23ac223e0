package jobs

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/entrepot-dev/entrepot/pkg/authn"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

var states = map[State]jobsv1.JobState{
	Scheduled: jobsv1.JobState_JOB_STATE_SCHEDULED,
	Queued:    jobsv1.JobState_JOB_STATE_QUEUED,
	Running:   jobsv1.JobState_JOB_STATE_RUNNING,
	Succeeded: jobsv1.JobState_JOB_STATE_SUCCEEDED,
	Dead:      jobsv1.JobState_JOB_STATE_DEAD,
	Cancelled: jobsv1.JobState_JOB_STATE_CANCELLED,
}

// Proto returns the state as the API spells it.
func (s State) Proto() jobsv1.JobState { return states[s] }

// StateFromProto returns the state that the API means; ok is false for the unspecified one and those it does not know.
func StateFromProto(p jobsv1.JobState) (s State, ok bool) {
	for s, v := range states {
		if v == p {
			return s, true
		}
	}
	return "", false
}

// Proto shows a job as the service does that has just been asked for it: what it is, whose, and when it will run. What
// came of it the jobs service adds.
func (i Info) Proto() *jobsv1.Job {
	j := &jobsv1.Job{
		Id: i.ID.String(), Number: i.Seq, Kind: i.Kind, Namespace: i.Namespace, Resource: i.Resource,
		State: i.State.Proto(), Priority: i.Priority.String(), Owner: i.Principal.Name, CreateTime: timestamppb.New(i.CreatedAt),
	}
	if owner, err := authn.Unmarshal(i.Principal.Data); err == nil {
		j.OwnerId = owner.UserID
	}
	if !i.StartAt.IsZero() {
		j.StartAt = timestamppb.New(i.StartAt)
	}
	return j
}
