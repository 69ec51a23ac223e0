package pg_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
)

// The life of a small schema. The second release adds a column, the third takes away the one it replaced.
const (
	shopFirst  = "CREATE TABLE shop.goods (id int PRIMARY KEY, price int);"
	shopExpand = "ALTER TABLE shop.goods ADD COLUMN cents bigint;"
	shopMore   = "ALTER TABLE shop.goods ADD COLUMN colour text;"
	// Programs before version 2 read price.
	shopContract = "-- entrepot:min-version 2\nALTER TABLE shop.goods DROP COLUMN price;"
)

// program is a release as far as its database is concerned: what it brings, and what it does once it runs.
type program struct {
	brings fstest.MapFS
	query  string
}

var (
	first  = program{migrations(shopFirst), "INSERT INTO shop.goods (id, price) SELECT count(*), 5 FROM shop.goods"}
	second = program{migrations(shopFirst, shopExpand), "INSERT INTO shop.goods (id, cents) SELECT count(*), 500 FROM shop.goods"}
	third  = program{migrations(shopFirst, shopExpand, shopContract), second.query}
)

func (p program) schema() pg.Schema { return pg.Schema{Name: "shop", FS: p.brings} }

// start does what a process does that leaves migrations to another, and then its work.
func (p program) start(t *testing.T, pool *pgxpool.Pool) ([]pg.Status, error) {
	t.Helper()
	newer, err := pg.CheckAll(t.Context(), pool, p.schema())
	if err != nil {
		return nil, err
	}
	_, err = pool.Exec(t.Context(), p.query)
	return newer, err
}

func (p program) migrate(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if err := pg.Migrate(t.Context(), pool, "shop", p.brings); err != nil {
		t.Fatal(err)
	}
}

func wantRefused(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !fault.Is(err, fault.Precondition) {
		t.Fatalf("error %v, want a Precondition", err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the text lacks %q: %v", part, err)
		}
	}
}

func TestReleasesSideBySide(t *testing.T) {
	setup := func(t *testing.T) *pgxpool.Pool { return pgtest.New(t) }

	t.Run("a database that was never migrated is refused, and the text names the command", func(t *testing.T) {
		_, err := first.start(t, setup(t))
		wantRefused(t, err, "shop is at 0, this program needs 1", "run entrepot migrate up")
	})

	t.Run("an older database is refused, and the text names the command", func(t *testing.T) {
		pool := setup(t)
		first.migrate(t, pool)
		_, err := second.start(t, pool)
		wantRefused(t, err, "shop is at 1, this program needs 2", "run entrepot migrate up")
	})

	t.Run("the release before starts and works, and is told", func(t *testing.T) {
		pool := setup(t)
		first.migrate(t, pool)
		second.migrate(t, pool)
		for _, p := range []program{first, second} {
			newer, err := p.start(t, pool)
			if err != nil {
				t.Fatal(err)
			}
			var want []pg.Status
			if len(p.brings) == 1 {
				want = []pg.Status{{Schema: "shop", Applied: 2, Known: 1, Min: 1}}
			}
			if diff := cmp.Diff(want, newer); diff != "" {
				t.Error(diff)
			}
		}
	})

	t.Run("a contraction refuses what still used it, and nothing else", func(t *testing.T) {
		pool := setup(t)
		for _, p := range []program{first, second, third} {
			p.migrate(t, pool)
		}
		for _, p := range []program{second, third} {
			if _, err := p.start(t, pool); err != nil {
				t.Error(err)
			}
		}
		_, err := first.start(t, pool)
		wantRefused(t, err, "shop is at 3 and works with programs that know 2 or newer, this one knows 1", "start the version that migrated it")
	})

	t.Run("a fresh database refuses what a contraction broke, too", func(t *testing.T) {
		pool := setup(t)
		third.migrate(t, pool)
		if _, err := second.start(t, pool); err != nil {
			t.Error(err)
		}
		_, err := first.start(t, pool)
		wantRefused(t, err, "know 2 or newer")
	})

	t.Run("two releases back is refused also if everything only grew", func(t *testing.T) {
		pool := setup(t)
		grown := program{migrations(shopFirst, shopExpand, shopMore), second.query}
		for _, p := range []program{first, second, grown} {
			p.migrate(t, pool)
		}
		if _, err := second.start(t, pool); err != nil {
			t.Error(err)
		}
		_, err := first.start(t, pool)
		wantRefused(t, err, "know 2 or newer")
	})

	t.Run("several migrations of one release count as one", func(t *testing.T) {
		pool := setup(t)
		first.migrate(t, pool)
		program{brings: migrations(shopFirst, shopExpand, shopMore)}.migrate(t, pool)
		if _, err := first.start(t, pool); err != nil {
			t.Error(err)
		}
	})

	t.Run("an upgrade that was cut off and run again does not take itself for a release", func(t *testing.T) {
		pool := setup(t)
		first.migrate(t, pool)
		err := pg.Migrate(t.Context(), pool, "shop", migrations(shopFirst, shopExpand, "SELECT nonsense;"))
		if err == nil {
			t.Fatal("no error")
		}
		if _, err := first.start(t, pool); err != nil {
			t.Errorf("in between: %v", err)
		}
		program{brings: migrations(shopFirst, shopExpand, shopMore)}.migrate(t, pool)
		if _, err := first.start(t, pool); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})

	t.Run("an older program that may migrate changes nothing, and is refused out of its range", func(t *testing.T) {
		pool := setup(t)
		for _, p := range []program{first, second, third} {
			p.migrate(t, pool)
		}
		second.migrate(t, pool)
		err := pg.Migrate(t.Context(), pool, "shop", first.brings)
		wantRefused(t, err, "migrate shop: ", "know 2 or newer")
		got, err := pg.MigrationStatus(t.Context(), pool, "shop", third.brings)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pg.Status{Schema: "shop", Applied: 3, Known: 3, Min: 2}, got); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("a schema that says nothing works with what made it", func(t *testing.T) {
		pool := setup(t)
		second.migrate(t, pool)
		if _, err := pool.Exec(t.Context(), "DROP TABLE shop.schema_range"); err != nil {
			t.Fatal(err)
		}
		if _, err := second.start(t, pool); err != nil {
			t.Error(err)
		}
		_, err := first.start(t, pool)
		wantRefused(t, err, "know 2 or newer")
		third.migrate(t, pool)
		if _, err := second.start(t, pool); err != nil {
			t.Error(err)
		}
	})

	t.Run("the range is recorded before the contraction", func(t *testing.T) {
		pool := setup(t)
		first.migrate(t, pool)
		// The statement looks at what stands there while it runs.
		watch := "-- entrepot:min-version 3\nCREATE TABLE shop.seen AS SELECT min_version FROM shop.schema_range;"
		program{brings: migrations(shopFirst, shopExpand, watch)}.migrate(t, pool)
		var min int64
		if err := pool.QueryRow(t.Context(), "SELECT min_version FROM shop.seen").Scan(&min); err != nil || min != 3 {
			t.Errorf("min_version %d during the migration (%v), want 3", min, err)
		}
	})
}

func TestMinVersion(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		want int64
		bad  bool
	}{
		"nothing said":         {"-- +goose Up\nSELECT 1;", 0, false},
		"a number":             {"-- +goose Up\n-- entrepot:min-version 12\nSELECT 1;", 12, false},
		"space around":         {"  --  entrepot:min-version  3  \r\n", 3, false},
		"in the text":          {"SELECT '-- entrepot:min-version 3';", 0, false},
		"no number":            {"-- entrepot:min-version", 0, true},
		"not a number":         {"-- entrepot:min-version v1.2.0", 0, true},
		"zero":                 {"-- entrepot:min-version 0", 0, true},
		"a misspelt directive": {"-- entrepot:minversion 3", 0, true},
		"twice":                {"-- entrepot:min-version 3\n-- entrepot:min-version 4", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pg.MinVersion(c.sql)
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
	t.Run("a migration cannot want a version after it", func(t *testing.T) {
		pool := pgtest.New(t)
		if err := pg.Migrate(t.Context(), pool, "shop", migrations("-- entrepot:min-version 2\n"+shopFirst)); err == nil {
			t.Error("no error")
		}
	})
}
