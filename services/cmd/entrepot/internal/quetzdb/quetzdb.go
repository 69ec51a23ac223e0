// Package quetzdb reads the database of a Quetz server: SQLite or PostgreSQL, from the version that it began with to 0.10.
//
// Tables are read whole, with whatever columns they have: what an old schema lacks has its zero value. Everything is read in
// one transaction that writes nothing, so what is read fits together even while the server goes on.
package quetzdb

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	_ "modernc.org/sqlite"             // the driver sqlite, in Go: the program stays a static binary

	"github.com/entrepot-dev/entrepot/pkg/fault"
)

// DB is an open database. It is for one goroutine.
type DB struct {
	db     *sql.DB
	tx     *sql.Tx
	sqlite bool
	// Name says which database it is, without a password.
	Name string
}

// Open opens a database by the URL that Quetz is configured with (sqlalchemy.database_url): sqlite:///relative/path,
// sqlite:////absolute/path, postgresql://user:password@host/name.
func Open(ctx context.Context, database string) (*DB, error) {
	scheme, rest, ok := strings.Cut(database, "://")
	scheme, _, _ = strings.Cut(scheme, "+") // postgresql+psycopg2
	d := &DB{}
	var driver, dsn string
	switch {
	case ok && scheme == "sqlite":
		path := strings.TrimPrefix(rest, "/")
		if _, err := os.Stat(path); err != nil {
			return nil, fault.New(fault.NotFound, "the database cannot be read: %w", err)
		}
		d.sqlite, d.Name = true, "sqlite:///"+path
		driver, dsn = "sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "mode=ro&_pragma=query_only(1)&_pragma=busy_timeout(5000)"}).String()
	case ok && (scheme == "postgresql" || scheme == "postgres"):
		u, err := url.Parse("postgres://" + rest)
		if err != nil {
			return nil, fault.New(fault.Invalid, "the database's URL cannot be read as one") // err repeats it
		}
		driver, dsn = "pgx", u.String()
		u.User, u.RawQuery = nil, ""
		d.Name = u.String()
	default:
		return nil, fault.New(fault.Invalid, "a Quetz database is sqlite:///path or postgresql://user:password@host/name")
	}
	var err error
	if d.db, err = sql.Open(driver, dsn); err != nil {
		return nil, fault.New(fault.Invalid, "the database's URL cannot be used")
	}
	d.db.SetMaxOpenConns(1)
	opts := &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}
	if d.sqlite {
		opts = nil // its transactions see one state; query_only refuses to write
	}
	if d.tx, err = d.db.BeginTx(ctx, opts); err != nil {
		_ = d.db.Close()
		return nil, fault.New(fault.Unavailable, "the database cannot be opened: %w", err)
	}
	for _, table := range []string{"users", "channels", "package_versions"} {
		if has, err := d.has(ctx, table); err != nil || !has {
			_ = d.Close()
			return nil, errors.Join(err, fault.New(fault.Invalid, "this is no Quetz database: it has no table %s", table))
		}
	}
	return d, nil
}

// Close ends the transaction and closes the database.
func (d *DB) Close() error { return errors.Join(d.tx.Rollback(), d.db.Close()) }

func (d *DB) has(ctx context.Context, table string) (ok bool, err error) {
	query := `SELECT count(*) > 0 FROM information_schema.tables WHERE table_name = $1 AND table_schema = ANY (current_schemas(false))`
	if d.sqlite {
		query = `SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = ?1`
	}
	return ok, d.tx.QueryRowContext(ctx, query, table).Scan(&ok)
}

// row is a row by column.
type row map[string]any

// each reads a table, all of it or what belongs to a channel. A table that is not there has no rows.
func (d *DB) each(ctx context.Context, table, channel, order string, fn func(row) error) error {
	if ok, err := d.has(ctx, table); err != nil || !ok {
		return err
	}
	query, args := "SELECT * FROM "+table, []any{}
	if channel != "" {
		query, args = query+" WHERE channel_name = "+map[bool]string{true: "?1", false: "$1"}[d.sqlite], []any{channel}
	}
	rows, err := d.tx.QueryContext(ctx, query+" ORDER BY "+order, args...)
	if err != nil {
		return fmt.Errorf("read %s: %w", table, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, to := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		r := make(row, len(columns))
		for i, c := range columns {
			r[c] = values[i]
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (r row) text(column string) string {
	switch v := r[column].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func (r row) number(column string) (n int64, ok bool) {
	switch v := r[column].(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case float64:
		return int64(v), true
	}
	n, err := strconv.ParseInt(r.text(column), 10, 64)
	return n, err == nil
}

func (r row) flag(column string) bool {
	if b, ok := r[column].(bool); ok {
		return b
	}
	n, _ := r.number(column)
	return n != 0
}

// id spells a binary UUID.
func (r row) id(column string) string {
	if b, ok := r[column].([]byte); ok {
		return hex.EncodeToString(b)
	}
	return r.text(column)
}

// time reads a time; one without a zone is UTC, as Quetz writes it.
func (r row) time(column string) time.Time {
	if t, ok := r[column].(time.Time); ok {
		return t.UTC()
	}
	s := r.text(column)
	for _, layout := range []string{"2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", time.RFC3339Nano, "2006-01-02T15:04:05.999999999", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

func decodeLists(metadata string) (include, exclude, proxy []string) {
	var lists struct {
		Includelist, Excludelist, Proxylist []string
	}
	_ = json.Unmarshal([]byte(metadata), &lists) // Quetz itself takes what it cannot read for nothing
	return lists.Includelist, lists.Excludelist, lists.Proxylist
}
