package demo

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

func TestRequestsAreMadeAgainWhileNobodyAnswers(t *testing.T) {
	away := fault.New(fault.Unavailable, "cannot reach it").WithReason(restclient.Unreachable)
	conflict := fault.New(fault.Conflict, "there is one")
	for name, c := range map[string]struct {
		answers  []error // one a try; the last one for all further tries
		patience time.Duration
		want     error
		tries    int
	}{
		"an answer is an answer":             {[]error{nil}, patience, nil, 1},
		"a refusal too":                      {[]error{conflict}, patience, conflict, 1},
		"the next edge answers":              {[]error{away, fmt.Errorf("%w: EOF", errBroken), nil}, patience, nil, 3},
		"made before, but nobody said so":    {[]error{away, conflict}, patience, nil, 2},
		"our own platform is not waited for": {[]error{away}, 0, away, 1},
		"nobody ever answers":                {[]error{away}, time.Second, away, 11},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				err := again(t.Context(), c.patience, func(first bool) error {
					time.Sleep(time.Microsecond) // a request takes time
					err := c.answers[min(tries, len(c.answers)-1)]
					tries++
					return unless(first, err, fault.Conflict)
				})
				if !errors.Is(err, c.want) || tries != c.tries {
					t.Errorf("%v after %d tries, want %v after %d", err, tries, c.want, c.tries)
				}
			})
		})
	}
	t.Run("an interruption ends it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := again(ctx, time.Hour, func(bool) error { return away }); !errors.Is(err, away) {
			t.Error(err)
		}
	})
}
