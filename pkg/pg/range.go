package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// rangeTable holds which programs a schema works with; it lies in the schema itself, with one row.
const rangeTable = "schema_range"

// schemaRange is that row.
type schemaRange struct {
	// min is the oldest version that a program may know and still work with the schema.
	min int64
	// from and to are the versions of the latest upgrade, which may not have come to its end: one that was cut off and is
	// run again still begins where it began, so that it does not take what it has done itself for the release before.
	from, to int64
}

// begin notes that the schema, at version applied, is about to become version known. Programs that know applied are the
// release before, which goes on working; older ones are promised nothing.
func (r *schemaRange) begin(applied, known int64) {
	if applied >= r.to { // the latest upgrade is complete
		r.from = applied
	}
	r.to = max(r.to, known)
	r.min = max(r.min, r.from)
}

func rangeName(schema string) string { return pgx.Identifier{schema, rangeTable}.Sanitize() }

// loadRange reads the row, or makes it for a schema that is at version applied and says nothing of itself.
func loadRange(ctx context.Context, db *sql.DB, schema string, applied int64) (schemaRange, error) {
	_, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS `+rangeName(schema)+` (
		one          boolean PRIMARY KEY DEFAULT true CHECK (one),
		min_version  bigint NOT NULL,  -- the oldest version that a program may know and still work with this schema
		upgrade_from bigint NOT NULL,  -- the latest upgrade
		upgrade_to   bigint NOT NULL
	)`)
	if err != nil {
		return schemaRange{}, err
	}
	var r schemaRange
	err = db.QueryRowContext(ctx, "SELECT min_version, upgrade_from, upgrade_to FROM "+rangeName(schema)).Scan(&r.min, &r.from, &r.to)
	if errors.Is(err, sql.ErrNoRows) {
		r = schemaRange{min: applied, from: applied, to: applied}
		return r, r.save(ctx, db, schema)
	}
	return r, err
}

func (r schemaRange) save(ctx context.Context, db *sql.DB, schema string) error {
	_, err := db.ExecContext(ctx, "INSERT INTO "+rangeName(schema)+` AS r (min_version, upgrade_from, upgrade_to) VALUES ($1, $2, $3)
		ON CONFLICT (one) DO UPDATE SET min_version = greatest(r.min_version, $1), upgrade_from = $2, upgrade_to = $3`, r.min, r.from, r.to)
	return err
}

// step is a migration.
type step struct {
	version int64
	// min is what it says of older programs, 0 if nothing.
	min int64
}

// steps returns the migrations at the root of fsys, in the order of their versions.
func steps(root fs.FS, sources []*goose.Source) ([]step, error) {
	out := make([]step, 0, len(sources))
	for _, s := range sources {
		data, err := fs.ReadFile(root, s.Path)
		if err != nil {
			return nil, err
		}
		min, err := MinVersion(string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Path, err)
		}
		if min > s.Version {
			return nil, fault.New(fault.Internal, "%s: min-version %d is newer than the migration itself", s.Path, min)
		}
		out = append(out, step{version: s.Version, min: min})
	}
	return out, nil
}

var directive = regexp.MustCompile(`(?m)^[ \t]*--[ \t]*entrepot:(.*)$`)

// MinVersion returns what a migration says of programs older than itself. A line
//
//	-- entrepot:min-version 7
//
// in a migration means that once it is applied, programs work with the schema only if they know its version 7: it takes
// away what code before that version still used. 0 means that it says nothing, since it only adds. A line that begins
// like this and says something else is an error.
func MinVersion(sql string) (int64, error) {
	var min int64
	for _, m := range directive.FindAllStringSubmatch(sql, -1) {
		words := strings.Fields(m[1])
		if len(words) != 2 || words[0] != "min-version" {
			return 0, fault.New(fault.Internal, "%q is not understood; there is -- entrepot:min-version <number>", strings.TrimSpace(m[0]))
		}
		n, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || n < 1 {
			return 0, fault.New(fault.Internal, "%q: a version is a number from 1", strings.TrimSpace(m[0]))
		}
		if min != 0 {
			return 0, fault.New(fault.Internal, "min-version is said twice")
		}
		min = n
	}
	return min, nil
}
