package plane

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/pkg/refs"
	"github.com/entrepot-dev/entrepot/services/sync"
)

func TestLeases(t *testing.T) {
	pool := pgtest.New(t, sync.Schema, refs.Schema)
	l := leases{pool, time.Second}
	channel := uuid.New()
	never := func(context.Context) (bool, error) { return false, nil }

	t.Run("one works at a time, and who waits sees that it is done", func(t *testing.T) {
		var working, most, worked atomic.Int32
		var finished atomic.Bool
		errs := make(chan error)
		for range 8 {
			go func() {
				errs <- l.with(t.Context(), channel, "a", func(context.Context) (bool, error) { return finished.Load(), nil }, func(context.Context) error {
					most.Store(max(most.Load(), working.Add(1)))
					defer working.Add(-1)
					time.Sleep(1500 * time.Millisecond) // longer than the lease, which is kept up
					worked.Add(1)
					finished.Store(true)
					return nil
				})
			}()
		}
		for range 8 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if worked.Load() != 1 || most.Load() != 1 {
			t.Errorf("%d worked, %d at a time", worked.Load(), most.Load())
		}
	})

	t.Run("after a failure the next one tries", func(t *testing.T) {
		why := errors.New("why")
		if err := l.with(t.Context(), channel, "b", never, func(context.Context) error { return why }); !errors.Is(err, why) {
			t.Error(err)
		}
		began, ran := time.Now(), false
		if err := l.with(t.Context(), channel, "b", never, func(context.Context) error { ran = true; return nil }); err != nil || !ran || time.Since(began) > 900*time.Millisecond {
			t.Errorf("%v, ran %v after %s", err, ran, time.Since(began))
		}
	})

	t.Run("a holder that vanished is outlived", func(t *testing.T) {
		if ok, err := l.acquire(t.Context(), channel, "c", uuid.New()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		ran := false
		if err := l.with(t.Context(), channel, "c", never, func(context.Context) error { ran = true; return nil }); err != nil || !ran {
			t.Error(err)
		}
	})

	t.Run("who is cancelled waits no longer", func(t *testing.T) {
		if ok, err := l.acquire(t.Context(), channel, "d", uuid.New()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := l.with(ctx, channel, "d", never, func(context.Context) error { return nil }); err == nil {
			t.Error("it got the lease")
		}
	})

	t.Run("nothing is left", func(t *testing.T) {
		if _, err := pool.Exec(t.Context(), `UPDATE sync.proxy_leases SET expires_at = clock_timestamp() - interval '1 hour'`); err != nil {
			t.Fatal(err)
		}
		if err := l.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM sync.proxy_leases`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d leases, %v", n, err)
		}
	})
}
