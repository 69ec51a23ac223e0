package pgtest_test

import (
	"context"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var shop = pg.Schema{Name: "shop", FS: fstest.MapFS{
	"00001_goods.sql": {Data: []byte("-- +goose Up\nCREATE TABLE shop.goods (name text PRIMARY KEY);\nINSERT INTO shop.goods VALUES ('lamp');\n")},
}}

func TestNew(t *testing.T) {
	t.Run("a database has the schemas, and each test its own", func(t *testing.T) {
		a, b := pgtest.New(t, shop), pgtest.New(t, shop)
		if _, err := a.Exec(t.Context(), "INSERT INTO shop.goods VALUES ('chair')"); err != nil {
			t.Fatal(err)
		}
		rows, err := b.Query(t.Context(), "SELECT name FROM shop.goods")
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"lamp"}, got); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("without schemas it is empty", func(t *testing.T) {
		pool := pgtest.New(t)
		var n int
		err := pool.QueryRow(t.Context(), "SELECT count(*) FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')").Scan(&n)
		if err != nil || n != 0 {
			t.Errorf("%d tables, error %v; want 0, nil", n, err)
		}
	})

	t.Run("many tests at once share one template", func(t *testing.T) {
		other := pg.Schema{Name: "shop", FS: fstest.MapFS{"migrations/00001_x.sql": {Data: []byte("-- +goose Up\nCREATE TABLE shop.x (id int);\n")}}}
		var g errgroup.Group
		for range 8 {
			g.Go(func() error {
				conn, err := pgx.Connect(t.Context(), pgtest.NewURL(t, other))
				if err != nil {
					return err
				}
				defer conn.Close(context.Background())
				_, err = conn.Exec(t.Context(), "INSERT INTO shop.x VALUES (1)")
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})

	t.Run("the database is dropped with the test, open sessions or not", func(t *testing.T) {
		var dsn string
		t.Run("inner", func(t *testing.T) {
			dsn = pgtest.NewURL(t)
			conn, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			// Left open on purpose; its socket is closed below, when the server has dropped it.
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
		})
		if _, err := pgx.Connect(t.Context(), dsn); err == nil || !strings.Contains(err.Error(), "3D000") {
			t.Errorf("connect after the test: %v, want SQLSTATE 3D000", err)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	pgtest.NewURL(b, shop)
	for b.Loop() {
		pgtest.NewURL(b, shop)
	}
}
