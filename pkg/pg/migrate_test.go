package pg_test

import (
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

func migrations(files ...string) fstest.MapFS {
	names := []string{"migrations/00001_a.sql", "migrations/00002_b.sql", "migrations/00003_c.sql"}
	m := fstest.MapFS{}
	for i, f := range files {
		m[names[i]] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + f + "\n")}
	}
	return m
}

const (
	stepA = "CREATE TABLE shop.a (x int);"
	stepB = "ALTER TABLE shop.a ADD COLUMN y int;"
)

func TestMigrate(t *testing.T) {
	type bundle struct{ pool *pgxpool.Pool }
	setup := func(t *testing.T) bundle { return bundle{pgtest.New(t)} }

	t.Run("the schema is made, and a second run does nothing", func(t *testing.T) {
		b := setup(t)
		for range 2 {
			if err := pg.Migrate(t.Context(), b.pool, "shop", migrations(stepA, stepB)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := pg.MigrationStatus(t.Context(), b.pool, "shop", migrations(stepA, stepB))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pg.Status{Schema: "shop", Applied: 2, Known: 2, Min: 0}, got); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("replicas that start together take turns", func(t *testing.T) {
		b := setup(t)
		var g errgroup.Group
		for range 4 {
			g.Go(func() error { return pg.Migrate(t.Context(), b.pool, "shop", migrations(stepA, stepB)) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})

	t.Run("an index made concurrently does not deadlock with a waiting replica", func(t *testing.T) {
		b := setup(t)
		fsys := migrations(stepA, stepB)
		fsys["migrations/00003_c.sql"] = &fstest.MapFile{Data: []byte("-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY a_x ON shop.a (x);\n")}
		var g errgroup.Group
		for range 3 {
			g.Go(func() error { return pg.Migrate(t.Context(), b.pool, "shop", fsys) })
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})

	t.Run("a table in use fails the migration within seconds, as a lost race", func(t *testing.T) {
		b := setup(t)
		if err := pg.Migrate(t.Context(), b.pool, "shop", migrations(stepA)); err != nil {
			t.Fatal(err)
		}
		tx, err := b.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(t.Context()) }()
		if _, err := tx.Exec(t.Context(), "LOCK TABLE shop.a"); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = pg.Migrate(t.Context(), b.pool, "shop", migrations(stepA, stepB))
		if !fault.Is(err, fault.LostRace) {
			t.Errorf("error %v, want fault.LostRace", err)
		}
		if d := time.Since(began); d < 1900*time.Millisecond || d > 10*time.Second {
			t.Errorf("it waited %s, want about 2 s", d)
		}
		var timeout string
		if err := b.pool.QueryRow(t.Context(), "SHOW lock_timeout").Scan(&timeout); err != nil || timeout != "0" {
			t.Errorf("the pool's sessions have lock_timeout %s (%v), want 0", timeout, err)
		}
	})

	t.Run("a failed migration leaves the one before it", func(t *testing.T) {
		b := setup(t)
		if err := pg.Migrate(t.Context(), b.pool, "shop", migrations(stepA, "SELECT nonsense;")); err == nil {
			t.Fatal("no error")
		}
		got, err := pg.MigrationStatus(t.Context(), b.pool, "shop", migrations(stepA, stepB))
		if err != nil || got.Applied != 1 || got.Current() {
			t.Errorf("status %+v, error %v; want version 1", got, err)
		}
	})
}
