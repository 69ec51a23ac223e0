package rpc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestOnceAsksOnceInACall(t *testing.T) {
	type key string
	asked := 0
	var broken error
	get := func() (int, error) { asked++; return asked, broken }
	call := func() context.Context {
		return context.WithValue(t.Context(), onceKey{}, &onceValues{values: map[any]*onceValue{}})
	}
	want := func(ctx context.Context, k key, value int) {
		t.Helper()
		if v, err := Once(ctx, k, get); v != value || !errors.Is(err, broken) {
			t.Errorf("%d, %v; want %d, %v", v, err, value, broken)
		}
	}
	ctx := call()
	want(ctx, "a", 1)
	want(ctx, "a", 1)
	want(ctx, "b", 2)
	want(call(), "a", 3)
	want(t.Context(), "a", 4)
	want(t.Context(), "a", 5)
	broken = errors.New("away")
	want(ctx, "c", 6)
	want(ctx, "c", 7)
}

// What is asked for may be found out by asking for something else, also by several goroutines of a call.
func TestOnceMayAskForOtherKeys(t *testing.T) {
	type key int
	ctx := context.WithValue(t.Context(), onceKey{}, &onceValues{values: map[any]*onceValue{}})
	var asked [20]atomic.Int32
	var sum func(k key) (int, error)
	sum = func(k key) (int, error) {
		return Once(ctx, k, func() (int, error) {
			asked[k].Add(1)
			if k == 0 {
				return 0, nil
			}
			rest, err := sum(k - 1)
			return rest + int(k), err
		})
	}
	done := make(chan int)
	const goroutines = 4
	for range goroutines {
		go func() {
			n, err := sum(key(len(asked) - 1))
			if err != nil {
				t.Error(err)
			}
			done <- n
		}()
	}
	for range goroutines {
		select {
		case n := <-done:
			if n != 190 {
				t.Errorf("%d", n)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("they wait for each other")
		}
	}
	for k := range asked {
		if n := asked[k].Load(); n != 1 {
			t.Errorf("%d was asked for %d times", k, n)
		}
	}
}
