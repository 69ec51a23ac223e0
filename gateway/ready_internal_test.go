package gateway

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadinessIsBelievedForAMomentOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, broken, up := 0, error(nil), true
		r := newReadiness(Deps{Ready: func() bool { return up }, Health: func(context.Context) map[string]error {
			asked++
			return map[string]error{"postgresql": broken}
		}})
		want := func(ready bool, questions int) {
			t.Helper()
			if got := r.ask(t.Context()); got != ready || asked != questions {
				t.Errorf("%t after %d questions, want %t after %d", got, asked, ready, questions)
			}
		}
		want(true, 1)
		want(true, 1)
		up = false // it stops
		want(false, 1)
		up = true
		broken = errors.New("away")
		time.Sleep(readyFresh)
		want(false, 2)
		want(false, 3) // bad news is not kept
		broken = nil
		want(true, 4)
		time.Sleep(readyFresh - time.Millisecond)
		want(true, 4)
		time.Sleep(time.Millisecond)
		want(true, 5)
	})
}
