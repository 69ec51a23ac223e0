package migrationlint_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/internal/migrationlint"
)

func TestWhatOnlyExpandsIsFine(t *testing.T) {
	for name, sql := range map[string]string{
		"a new table and all that goes with it": `-- +goose Up
CREATE TABLE channels.extras (id bigint PRIMARY KEY, kind text NOT NULL);
CREATE INDEX extras_kind ON channels.extras (kind);
ALTER TABLE channels.extras ADD COLUMN size bigint NOT NULL;
UPDATE channels.extras SET size = 0;
-- +goose Down
DROP TABLE channels.extras;`,
		"a column that may be absent":     "ALTER TABLE a.b ADD COLUMN c text;",
		"a column with a default":         "ALTER TABLE a.b ADD COLUMN c text NOT NULL DEFAULT '';",
		"an index that locks nobody out":  "-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY b_c ON a.b (c);",
		"a constraint to be checked once": "ALTER TABLE a.b ADD CONSTRAINT c CHECK (d > 0) NOT VALID;\nALTER TABLE a.b VALIDATE CONSTRAINT c;",
		"words in comments and strings":   "-- DROP TABLE a.b;\nCOMMENT ON TABLE a.b IS 'once; DROP TABLE it';",
		"a function's body":               "CREATE FUNCTION a.f() RETURNS void LANGUAGE sql AS $$\nDELETE FROM a.b;\n$$;",
		"a rule that goes":                "ALTER TABLE a.b ALTER COLUMN c DROP NOT NULL, DROP CONSTRAINT d;",
		"rows of a new kind":              "INSERT INTO a.b (c) VALUES (1);",
		"a contraction that explains itself": `-- entrepot:min-version 7
-- contract: nothing has read origin since v0.4.0
ALTER TABLE a.b DROP COLUMN origin;`,
		"a lock that explains itself": `-- contract: the table is empty until v0.5.0
CREATE INDEX b_c ON a.b (c);`,
	} {
		t.Run(name, func(t *testing.T) {
			if got := migrationlint.Check(sql); got != nil {
				t.Errorf("%v", got)
			}
		})
	}
}

func TestWhatTheVersionBeforeCannotBearIsFound(t *testing.T) {
	for sql, want := range map[string]string{
		"DROP TABLE a.b;":                                          "takes away",
		"ALTER TABLE a.b\n    DROP COLUMN c;":                      "takes away",
		"alter table only a.b drop column if exists c;":            "takes away",
		"ALTER TABLE a.b RENAME COLUMN c TO d;":                    "another name",
		"ALTER TABLE a.b DROP c;":                                  "takes away",
		"ALTER TABLE a.b RENAME TO c;":                             "another name",
		"ALTER TYPE a.b RENAME VALUE 'x' TO 'y';":                  "another name",
		"ALTER TABLE a.b ALTER COLUMN c TYPE bigint;":              "rewrites the table",
		"ALTER TABLE a.b ALTER c SET DATA TYPE bigint;":            "rewrites the table",
		"ALTER TABLE a.b ALTER COLUMN c SET NOT NULL;":             "one release later",
		"ALTER TABLE a.b ALTER COLUMN c DROP DEFAULT;":             "makes inserts",
		"ALTER TABLE a.b ADD COLUMN c text NOT NULL;":              "without a default",
		"ALTER TABLE a.b ADD c text NOT NULL;":                     "without a default",
		"ALTER TABLE a.b ADD CONSTRAINT c CHECK (d > 0);":          "NOT VALID",
		"ALTER TABLE a.b ADD FOREIGN KEY (c) REFERENCES a.d (id);": "NOT VALID",
		"ALTER TABLE a.b ADD CONSTRAINT c UNIQUE (d);":             "USING INDEX",
		"CREATE INDEX b_c ON a.b (c);":                             "locks out writers",
		"CREATE UNIQUE INDEX b_c ON a.b USING btree (c);":          "locks out writers",
		"DROP INDEX a.b_c;":                                        "use CONCURRENTLY",
		"CREATE INDEX CONCURRENTLY b_c ON a.b (c);":                "NO TRANSACTION",
		"UPDATE a.b SET c = 1;":                                    "a backfill is a job",
		"DELETE FROM a.b;":                                         "a backfill is a job",
		"TRUNCATE a.b;":                                            "a backfill is a job",
		"LOCK TABLE a.b;":                                          "stops the version before",
	} {
		t.Run(sql, func(t *testing.T) {
			got := migrationlint.Check("-- +goose Up\n" + sql + "\n-- +goose Down\nDROP TABLE a.b;")
			if len(got) != 1 || got[0].Line != 2 || !strings.Contains(got[0].Message, want) {
				t.Errorf("want one finding in line 2 with %q, got %v", want, got)
			}
		})
	}
}

func TestAContractionSpeaksForOneStatement(t *testing.T) {
	got := migrationlint.Check("-- entrepot:min-version 2\n-- contract: gone since v1.0.0\nDROP TABLE a.b;\nDROP TABLE a.c;\n-- contract:\nDROP TABLE a.d;")
	lines := []int{}
	for _, f := range got {
		lines = append(lines, f.Line)
	}
	if diff := cmp.Diff([]int{4, 6}, lines); diff != "" {
		t.Errorf("the second has no reason above it, the third an empty one: %s", diff)
	}
}

func TestAContractionNamesTheOldestProgramThatBearsIt(t *testing.T) {
	for _, sql := range []string{
		"DROP TABLE a.b;", "ALTER TABLE a.b DROP COLUMN c;", "ALTER TABLE a.b RENAME COLUMN c TO d;", "ALTER TYPE a.b RENAME VALUE 'x' TO 'y';",
		"ALTER TABLE a.b ALTER COLUMN c SET NOT NULL;", "ALTER TABLE a.b ALTER COLUMN c TYPE bigint;", "ALTER TABLE a.b ADD COLUMN c text NOT NULL;",
		"ALTER TABLE a.b ALTER COLUMN c DROP DEFAULT;",
	} {
		file := "-- contract: since v1.0.0\n" + sql
		if got := migrationlint.Check(file); len(got) != 1 || got[0].Line != 2 || !strings.Contains(got[0].Message, "min-version") {
			t.Errorf("%s: want one finding about min-version in line 2, got %v", sql, got)
		}
		if got := migrationlint.Check("-- entrepot:min-version 3\n" + file); got != nil {
			t.Errorf("%s: %v", sql, got)
		}
	}
	if got := migrationlint.Check("-- entrepot:min-versoin 3\n-- contract: since v1.0.0\nDROP TABLE a.b;"); len(got) != 1 || !strings.Contains(got[0].Message, "not understood") {
		t.Errorf("a misspelt one: %v", got)
	}
}

func TestNoMigrationShutsOutTheReleaseBefore(t *testing.T) {
	for name, c := range map[string]struct {
		min      string
		released int64
		want     string
	}{
		"what the last release knows":          {"4", 5, ""},
		"the last release's own":               {"5", 5, ""},
		"newer than the last release":          {"6", 5, "shuts out the last release"},
		"the migration itself":                 {"8", 5, "shuts out everything"},
		"the migration itself, unreleased":     {"8", 0, "shuts out everything"},
		"before anything was released":         {"7", 0, ""},
		"a migration that was released itself": {"7", 8, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(migrationlint.CheckRange("00008_x.sql", "-- entrepot:min-version "+c.min, c.released), "\n")
			if !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	if got := migrationlint.CheckRange("00008_x.sql", "SELECT 1;", 5); got != nil {
		t.Errorf("a migration that demands nothing: %v", got)
	}
}

func TestFilesAreNumberedWithoutGaps(t *testing.T) {
	for name, c := range map[string]struct {
		names []string
		bad   bool
	}{
		"in order":           {[]string{"00001_a.sql", "00002_b.sql"}, false},
		"another width":      {[]string{"0001_init.sql"}, false},
		"a gap":              {[]string{"00001_a.sql", "00003_b.sql"}, true},
		"a number twice":     {[]string{"00001_a.sql", "00002_b.sql", "00002_c.sql"}, true},
		"not from one":       {[]string{"00002_a.sql"}, true},
		"no number":          {[]string{"a.sql"}, true},
		"a name in capitals": {[]string{"00001_A.sql"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := migrationlint.CheckNames(c.names); (got != nil) != c.bad {
				t.Errorf("%v", got)
			}
		})
	}
}
