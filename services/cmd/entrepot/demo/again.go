package demo

import (
	"context"
	"errors"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/services/internal/restclient"
)

// patience is how long a platform that others run may leave requests without an answer: behind a balancer one of its
// edges may go at any moment, and the next request meets another. Every request of the demo may be made twice.
const patience = 15 * time.Second

// errBroken stands for an answer that came in part.
var errBroken = errors.New("the answer broke off")

// again does f until it is answered, for at most as long as patience; first is false from the second time on.
func again(ctx context.Context, patience time.Duration, f func(first bool) error) error {
	began := time.Now()
	for first := true; ; first = false {
		err := f(first)
		if err == nil || !errors.Is(err, errBroken) && reasonOf(err) != restclient.Unreachable || time.Since(began) > patience {
			return err
		}
		select {
		case <-time.After(poll):
		case <-ctx.Done():
			return err
		}
	}
}

// again is for requests to the platform: one that the demo has started itself is not waited for.
func (s *scenario) again(ctx context.Context, f func(first bool) error) error {
	return again(ctx, s.patience(), f)
}

func (s *scenario) patience() time.Duration {
	if s.server == "" {
		return 0
	}
	return patience
}

// unless drops an error of the kind that a request has when it is made for the second time.
func unless(first bool, err error, kind fault.Kind) error {
	if !first && fault.Is(err, kind) {
		return nil
	}
	return err
}
