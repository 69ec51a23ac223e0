package jobs_test

import (
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/jobs"
	jobsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/jobs/v1"
)

func TestEveryStateHasItsProto(t *testing.T) {
	for n, name := range jobsv1.JobState_name {
		p := jobsv1.JobState(n)
		s, ok := jobs.StateFromProto(p)
		if ok != (p != jobsv1.JobState_JOB_STATE_UNSPECIFIED) {
			t.Errorf("%s is known: %v", name, ok)
		}
		if ok && s.Proto() != p {
			t.Errorf("%s becomes %q, and that %s", name, s, s.Proto())
		}
	}
	if got := jobs.State("nonsense").Proto(); got != jobsv1.JobState_JOB_STATE_UNSPECIFIED {
		t.Errorf("nonsense becomes %s", got)
	}
}
