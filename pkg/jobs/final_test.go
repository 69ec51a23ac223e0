package jobs_test

import (
	"context"
	"errors"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/jobs"
)

func TestFinal(t *testing.T) {
	upstream := fault.New(fault.Upstream, "away")
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(jobs.ErrCancelled)
	stopping, stop := context.WithCancelCause(t.Context())
	stop(jobs.ErrStopping)
	lost, lose := context.WithCancelCause(t.Context())
	lose(jobs.ErrLeaseLost)
	for name, c := range map[string]struct {
		ctx      context.Context
		failures int
		err      error
		want     bool
	}{
		"it went well":                         {t.Context(), 4, nil, false},
		"another attempt follows":              {t.Context(), 3, upstream, false},
		"it was the last attempt":              {t.Context(), 4, upstream, true},
		"another attempt cannot help":          {t.Context(), 0, fault.New(fault.Precondition, "no key"), true},
		"the worker gives it up":               {t.Context(), 0, jobs.Discard(errors.New("never")), true},
		"it has become pointless":              {t.Context(), 4, jobs.Cancel(upstream), false},
		"it is put off":                        {t.Context(), 4, jobs.Snooze(1), false},
		"a person has cancelled it":            {cancelled, 4, upstream, false},
		"the worker stops, and it comes again": {stopping, 4, upstream, false},
		"another worker has it":                {lost, 4, upstream, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := jobs.Final(c.ctx, c.failures, 5, c.err); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}
