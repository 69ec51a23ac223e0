package pg_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

func containsSecret(err error) bool { return err != nil && strings.Contains(err.Error(), "sesame") }

func TestListen(t *testing.T) {
	t.Run("notifications arrive, a cut connection is made again, and ctx ends it", func(t *testing.T) {
		pool := pgtest.New(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan string, 16)
		done := make(chan error, 1)
		go func() {
			done <- pg.Listen(ctx, pool, "Jobs-1", func(_ context.Context, payload string) { got <- payload })
		}()
		expect := func(want string) {
			t.Helper()
			select {
			case p := <-got:
				if p != want {
					t.Fatalf("got %q, want %q", p, want)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%q does not come", want)
			}
		}
		notify := func(payload string) {
			t.Helper()
			if _, err := pool.Exec(t.Context(), "SELECT pg_notify('Jobs-1', $1)", payload); err != nil {
				t.Fatal(err)
			}
		}
		expect("") // connected
		notify("a")
		expect("a")
		if _, err := pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"); err != nil {
			t.Fatal(err)
		}
		expect("") // connected again
		notify("b")
		expect("b")
		stop := errors.New("stop")
		cancel(stop)
		if err := <-done; !errors.Is(err, stop) {
			t.Errorf("Listen returned %v", err)
		}
	})
}
