package pg

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// versionTable holds a schema's applied migrations; it lies in the schema itself.
const versionTable = "schema_version"

// lockTimeout bounds what a migration waits for a lock: while it waits, every later query on the table waits behind it.
const lockTimeout = "2s"

// Schema is one PostgreSQL schema and the migrations that make it.
type Schema struct {
	// Name is the schema's name in SQL: lower-case letters and underscores.
	Name string
	// FS holds goose SQL files such as 00001_jobs.sql, at its root or in a directory called migrations.
	FS fs.FS
}

// Status is how far a schema has come in a database.
type Status struct {
	Schema string
	// Applied is the newest version in the database, 0 if the schema does not exist.
	Applied int64
	// Known is the newest version this program brings.
	Known int64
	// Min is the oldest version that a program may know and still work with the schema; 0 if it does not exist.
	Min int64
}

// Current reports whether the database is where this program expects it.
func (s Status) Current() bool { return s.Applied == s.Known }

// Newer reports whether a newer program has migrated the schema.
func (s Status) Newer() bool { return s.Applied > s.Known }

// Works reports whether this program works with the schema: it is current, or newer and compatible still.
func (s Status) Works() bool { return s.Current() || s.Newer() && s.Known >= s.Min }

// Migrate brings one schema to the newest version in fsys, making it first if need be. Replicas that call it together
// take turns. Each statement waits at most two seconds for a lock; if it fails for that (fault.LostRace), run it again.
//
// A schema that a newer program has migrated is left as it is. It is an error (fault.Precondition, SCHEMA_TOO_NEW) if
// this program does not work with it any more.
func Migrate(ctx context.Context, pool *pgxpool.Pool, schema string, fsys fs.FS) error {
	root, err := root(fsys)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", schema, err)
	}
	// Connections of their own, outside the pool: they carry the lock timeout, and a small pool cannot starve them.
	cfg := pool.Config().ConnConfig
	cfg.Tracer = nil
	cfg.RuntimeParams["lock_timeout"] = lockTimeout
	cfg.RuntimeParams["client_min_messages"] = "warning"
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	unlock, err := lockSchema(ctx, db, schema)
	if err != nil {
		return fmt.Errorf("migrate %s: wait for the migration lock: %w", schema, Classify(err))
	}
	defer unlock()
	if _, err := db.ExecContext(ctx, "CREATE SCHEMA IF NOT EXISTS "+pgx.Identifier{schema}.Sanitize()); err != nil {
		return fmt.Errorf("migrate %s: %w", schema, Classify(err))
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, root,
		goose.WithTableName(schema+"."+versionTable),
		goose.WithDisableGlobalRegistry(true),
		goose.WithLogger(goose.NopLogger()),
	)
	if err != nil {
		return fmt.Errorf("migrate %s: %w", schema, err)
	}
	// Each migration is a transaction, and processes of the release before are at work: one may lose a deadlock with them.
	if err := Retry(ctx, func(ctx context.Context) error { return up(ctx, db, provider, schema, root) }); err != nil {
		return fmt.Errorf("migrate %s: %w", schema, err)
	}
	return nil
}

// up applies what is missing. What a migration says of older programs is recorded before it begins: were it the other way
// round, a crash in between would leave a schema that lets in programs it breaks.
func up(ctx context.Context, db *sql.DB, provider *goose.Provider, schema string, root fs.FS) error {
	all, err := steps(root, provider.ListSources())
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fault.New(fault.Internal, "no migrations found")
	}
	known := all[len(all)-1].version
	applied, err := provider.GetDBVersion(ctx)
	if err != nil {
		return err
	}
	works, err := loadRange(ctx, db, schema, applied)
	if err != nil {
		return err
	}
	if st := (Status{Schema: schema, Applied: applied, Known: known, Min: works.min}); st.Newer() {
		return tooNew(st)
	}
	if applied < known {
		works.begin(applied, known)
	}
	for _, s := range all {
		if s.version <= applied {
			continue
		}
		works.min = max(works.min, s.min)
		if err := works.save(ctx, db, schema); err != nil {
			return err
		}
		if _, err := provider.UpByOne(ctx); err != nil {
			return err
		}
	}
	_, err = provider.Up(ctx) // nothing is left; this finds a migration that was passed over
	return err
}

// MigrateAll migrates the schemas in the given order and stops at the first failure.
func MigrateAll(ctx context.Context, pool *pgxpool.Pool, schemas ...Schema) error {
	for _, s := range schemas {
		if err := Migrate(ctx, pool, s.Name, s.FS); err != nil {
			return err
		}
	}
	return nil
}

// MigrationStatus compares a schema of the database with fsys. It changes nothing.
func MigrationStatus(ctx context.Context, db DB, schema string, fsys fs.FS) (Status, error) {
	st := Status{Schema: schema}
	var err error
	if st.Known, err = newest(fsys); err != nil {
		return st, fmt.Errorf("status of schema %s: %w", schema, err)
	}
	table := pgx.Identifier{schema, versionTable}.Sanitize()
	var exists bool
	if err := db.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&exists); err != nil {
		return st, fmt.Errorf("status of schema %s: %w", schema, Classify(err))
	}
	if exists {
		if err := db.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+table+" WHERE is_applied").Scan(&st.Applied); err != nil {
			return st, fmt.Errorf("status of schema %s: %w", schema, Classify(err))
		}
	}
	// A schema that says nothing was made before it could: what works with it is what made it.
	st.Min = st.Applied
	if err := db.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", rangeName(schema)).Scan(&exists); err != nil {
		return st, fmt.Errorf("status of schema %s: %w", schema, Classify(err))
	}
	if exists {
		err := db.QueryRow(ctx, "SELECT coalesce(max(min_version), $1) FROM "+rangeName(schema), st.Applied).Scan(&st.Min)
		if err != nil {
			return st, fmt.Errorf("status of schema %s: %w", schema, Classify(err))
		}
	}
	return st, nil
}

// StatusAll returns the status of each schema, in the given order.
func StatusAll(ctx context.Context, db DB, schemas ...Schema) ([]Status, error) {
	all := make([]Status, 0, len(schemas))
	for _, s := range schemas {
		st, err := MigrationStatus(ctx, db, s.Name, s.FS)
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, nil
}

// CheckAll returns an error that names every schema which this program does not work with: older than it needs
// (SCHEMA_TOO_OLD), or migrated by a program so new that it no longer works with this one (SCHEMA_TOO_NEW). Whoever does
// not migrate calls it before serving. What a newer program has migrated and this one still works with is returned, for a
// notice.
func CheckAll(ctx context.Context, db DB, schemas ...Schema) (newer []Status, err error) {
	all, err := StatusAll(ctx, db, schemas...)
	if err != nil {
		return nil, err
	}
	var behind []string
	var beyond []Status
	for _, st := range all {
		switch {
		case st.Applied < st.Known:
			behind = append(behind, fmt.Sprintf("%s is at %d, this program needs %d", st.Schema, st.Applied, st.Known))
		case st.Newer() && st.Works():
			newer = append(newer, st)
		case st.Newer():
			beyond = append(beyond, st)
		}
	}
	if err := tooNew(beyond...); err != nil {
		return nil, err
	}
	if behind != nil {
		return nil, fault.New(fault.Precondition, "the database is not up to date (%s): run entrepot migrate up",
			strings.Join(behind, "; ")).WithReason("SCHEMA_TOO_OLD")
	}
	return newer, nil
}

// tooNew refuses schemas that this program no longer works with; it returns nil if there is none.
func tooNew(all ...Status) error {
	var what []string
	for _, st := range all {
		if !st.Works() {
			what = append(what, fmt.Sprintf("%s is at %d and works with programs that know %d or newer, this one knows %d", st.Schema, st.Applied, st.Min, st.Known))
		}
	}
	if what == nil {
		return nil
	}
	return fault.New(fault.Precondition, "a newer version of entrepot has migrated the database beyond what this one works with (%s): "+
		"start the version that migrated it, or the release before that", strings.Join(what, "; ")).WithReason("SCHEMA_TOO_NEW")
}

// root returns the directory of fsys that holds the SQL files.
func root(fsys fs.FS) (fs.FS, error) {
	files, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		return fsys, nil
	}
	return fs.Sub(fsys, "migrations")
}

// newest returns the highest version among the SQL files.
func newest(fsys fs.FS) (int64, error) {
	dir, err := root(fsys)
	if err != nil {
		return 0, err
	}
	files, err := fs.Glob(dir, "*.sql")
	if err != nil {
		return 0, err
	}
	var max int64
	for _, f := range files {
		v, err := goose.NumericComponent(f)
		if err != nil {
			return 0, fmt.Errorf("migration %s: %w", f, err)
		}
		if v > max {
			max = v
		}
	}
	if max == 0 {
		return 0, fault.New(fault.Internal, "no migrations found")
	}
	return max, nil
}

// lockPoll is how often a waiting replica asks again. It polls pg_try_advisory_lock instead of sleeping in
// pg_advisory_lock because CREATE INDEX CONCURRENTLY waits for every older snapshot, the sleeper's included: a deadlock.
const lockPoll = 50 * time.Millisecond

// lockSchema lets one replica at a time migrate a schema. It stands around all that goose does, because goose makes its
// version table before it takes its own session lock. The lock goes with the connection if we die.
func lockSchema(ctx context.Context, db *sql.DB, schema string) (unlock func(), err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	h := fnv.New64a()
	h.Write([]byte("entrepot migrate " + schema))
	id := int64(h.Sum64())
	for {
		var got bool
		if err := conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", id).Scan(&got); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		if got {
			// Closing the connection releases the lock too: db is ours and closed right after.
			return func() { _ = conn.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), conn.Close())
		case <-time.After(lockPoll):
		}
	}
}
