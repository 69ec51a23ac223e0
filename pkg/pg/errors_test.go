package pg_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

func TestClassify(t *testing.T) {
	pool := pgtest.New(t)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE p (id int CONSTRAINT p_id PRIMARY KEY, n int NOT NULL DEFAULT 0 CONSTRAINT small CHECK (n < 10));
		CREATE TABLE c (p int CONSTRAINT c_p REFERENCES p); INSERT INTO p VALUES (1)`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sql  string
		kind fault.Kind
		says string
	}{
		{"INSERT INTO p VALUES (1)", fault.Conflict, "it exists already (p_id)"},
		{"INSERT INTO c VALUES (2)", fault.Precondition, "it is referred to, or refers to nothing (c_p)"},
		{"INSERT INTO p VALUES (3, NULL)", fault.Invalid, "a value is missing (n)"},
		{"INSERT INTO p VALUES (3, 11)", fault.Invalid, "a value is not allowed (small)"},
		{"SELECT 1/0", fault.Invalid, "a value is out of range or malformed"},
		{"DO $$ BEGIN RAISE SQLSTATE '40001'; END $$", fault.LostRace, "a concurrent change won, try again"},
		{"DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$", fault.LostRace, "a concurrent change won, try again"},
		{"DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$", fault.LostRace, "a concurrent change holds the lock, try again"},
		{"DO $$ BEGIN RAISE SQLSTATE '53300'; END $$", fault.Unavailable, "the database is not available"},
		{"DO $$ BEGIN RAISE SQLSTATE '57014'; END $$", fault.Timeout, "the database took too long"},
		{"SELECT pg_terminate_backend(pg_backend_pid())", fault.Unavailable, "the database is not available"},
	} {
		t.Run(c.sql, func(t *testing.T) {
			_, err := pool.Exec(t.Context(), c.sql)
			got := pg.Classify(fmt.Errorf("step: %w", err))
			if fault.KindOf(got) != c.kind || got.Error() != c.says {
				t.Errorf("%v %q, want %v %q", fault.KindOf(got), got, c.kind, c.says)
			}
			var driver *pgconn.PgError
			if !errors.As(got, &driver) {
				t.Error("the driver's error is out of reach")
			}
		})
	}

	t.Run("no rows is not found", func(t *testing.T) {
		var n int
		err := pg.Classify(pool.QueryRow(t.Context(), "SELECT 1 WHERE false").Scan(&n))
		if !fault.Is(err, fault.NotFound) || !errors.Is(err, pgx.ErrNoRows) {
			t.Error(err)
		}
	})
	t.Run("an ended context is a timeout or a cancellation", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := pool.Exec(ctx, "SELECT pg_sleep(10)")
		if !fault.Is(pg.Classify(err), fault.Timeout) {
			t.Error(err)
		}
		cancelled, stop := context.WithCancel(t.Context())
		stop()
		_, err = pool.Exec(cancelled, "SELECT 1")
		if !fault.Is(pg.Classify(err), fault.Cancelled) {
			t.Error(err)
		}
	})
	t.Run("an absent server is unavailable", func(t *testing.T) {
		_, err := pgx.Connect(t.Context(), "postgres:///x?host=/nonexistent")
		if !fault.Is(pg.Classify(err), fault.Unavailable) {
			t.Error(err)
		}
	})
	t.Run("nil, known and foreign errors are returned as they are", func(t *testing.T) {
		for _, err := range []error{nil, fault.New(fault.Denied, "no"), errors.New("other")} {
			if got := pg.Classify(err); got != err {
				t.Errorf("%v became %v", err, got)
			}
		}
	})
	t.Run("the constraint is told", func(t *testing.T) {
		_, err := pool.Exec(t.Context(), "INSERT INTO p VALUES (1)")
		got := []bool{pg.IsUnique(err, "p_id"), pg.IsUnique(pg.Classify(err), "p_id"), pg.IsUnique(err, ""), pg.IsUnique(err, "other"), pg.IsUnique(nil, "")}
		if diff := cmp.Diff([]bool{true, true, true, false, false}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRetry(t *testing.T) {
	lost := &pgconn.PgError{Code: "40001"}
	for _, c := range []struct {
		name  string
		fails int
		err   error
		calls int
		kind  fault.Kind
		ok    bool
	}{
		{"a lost race is repeated until it is won", 3, lost, 4, 0, true},
		{"after eight losses the caller learns of it", 100, lost, 8, fault.LostRace, false},
		{"a conflict is final", 1, &pgconn.PgError{Code: "23505"}, 1, fault.Conflict, false},
		{"an unknown outcome is final", 1, net08, 1, fault.Unavailable, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := pg.Retry(t.Context(), func(context.Context) error {
					calls++
					if calls <= c.fails {
						return c.err
					}
					return nil
				})
				if calls != c.calls || (err == nil) != c.ok || (err != nil && fault.KindOf(err) != c.kind) {
					t.Errorf("%d calls, error %v", calls, err)
				}
			})
		})
	}
}

// net08 is what a server's proxy says when the connection is lost under a COMMIT.
var net08 = &pgconn.PgError{Code: "08006"}

func TestInTx(t *testing.T) {
	t.Run("no increment is lost among serializable writers", func(t *testing.T) {
		pool := pgtest.New(t)
		if _, err := pool.Exec(t.Context(), "CREATE TABLE n AS SELECT 0 AS v"); err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for range 3 {
			g.Go(func() error {
				for range 5 {
					err := pg.InTx(t.Context(), pool, pgx.TxOptions{IsoLevel: pgx.Serializable}, func(tx pgx.Tx) error {
						var v int
						if err := tx.QueryRow(t.Context(), "SELECT v FROM n").Scan(&v); err != nil {
							return err
						}
						_, err := tx.Exec(t.Context(), "UPDATE n SET v = $1", v+1)
						return err
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		var v int
		if err := pool.QueryRow(t.Context(), "SELECT v FROM n").Scan(&v); err != nil || v != 15 {
			t.Errorf("v = %d, error %v; want 15", v, err)
		}
	})
}

func TestOpen(t *testing.T) {
	t.Run("a wrong database is an error at once", func(t *testing.T) {
		u, err := url.Parse(pgtest.NewURL(t))
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/no_such_database"
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := pg.Open(ctx, u.String(), pg.PoolConfig{}); err == nil || ctx.Err() != nil {
			t.Errorf("error %v, context %v", err, ctx.Err())
		}
	})
	t.Run("an absent server is waited for until the deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := pg.Open(ctx, "postgres:///x?host=/nonexistent", pg.PoolConfig{})
		if !fault.Is(err, fault.Unavailable) || ctx.Err() == nil {
			t.Errorf("error %v, context %v", err, ctx.Err())
		}
	})
	t.Run("sessions have the name and run in UTC", func(t *testing.T) {
		pool, err := pg.Open(t.Context(), pgtest.NewURL(t), pg.PoolConfig{AppName: "entrepot channels", MaxConns: 3, Tracer: true})
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		var got [2]string
		if err := pool.QueryRow(t.Context(), "SELECT current_setting('application_name'), current_setting('timezone')").Scan(&got[0], &got[1]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([2]string{"entrepot channels", "UTC"}, got); diff != "" || pool.Config().MaxConns != 3 {
			t.Error(diff, pool.Config().MaxConns)
		}
	})
	t.Run("a malformed URL is invalid, and its password is not told", func(t *testing.T) {
		_, err := pg.Open(t.Context(), "postgres://u:sesame@host:port/x", pg.PoolConfig{})
		if !fault.Is(err, fault.Invalid) || containsSecret(err) {
			t.Error(err)
		}
	})
}
