package stack_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSchedulesSurviveKills: many are due while the platform is killed again and again; each makes one job, and each job
// is done.
func TestSchedulesSurviveKills(t *testing.T) {
	bin, dir := binary(t), dataDir(t)
	p := serve(t, bin, dir)
	const channels = 24
	due := time.Now().Add(4 * time.Second)
	for i := range channels {
		name := fmt.Sprintf("c%d", i)
		p.call("POST", "/entrepot/v1/channels", map[string]any{"name": name}, nil)
		p.call("PUT", "/entrepot/v1/channels/"+name+"/schedules/once", map[string]any{
			"action": "cleanup_dry_run", "start_at": due.Add(time.Duration(i*100) * time.Millisecond).UTC(),
		}, nil)
	}
	var list struct {
		TotalSize int `json:"total_size"`
		Jobs      []struct{ Resource, State string }
	}
	for round := range 4 {
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait) // until something happens
		}
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		p.kill()
		p = serve(t, bin, dir)
		p.call("GET", "/entrepot/v1/jobs?kind=channels.cleanup", nil, &list)
		t.Logf("after kill %d: %d jobs", round+1, list.TotalSize)
	}
	ended := func() (n int) {
		p.call("GET", "/entrepot/v1/jobs?kind=channels.cleanup&page_size=1000", nil, &list)
		for _, j := range list.Jobs {
			if j.State == "JOB_STATE_SUCCEEDED" {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); ended() < channels && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
	}
	seen := map[string]int{}
	for _, j := range list.Jobs {
		seen[j.Resource]++
		if j.State != "JOB_STATE_SUCCEEDED" {
			t.Errorf("%s: %s", j.Resource, j.State)
		}
	}
	if len(seen) != channels || list.TotalSize != channels {
		t.Errorf("%d jobs on %d channels, want %d: %v", list.TotalSize, len(seen), channels, seen)
	}
}
