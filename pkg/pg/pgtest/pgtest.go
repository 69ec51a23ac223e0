// Package pgtest gives every test a PostgreSQL database of its own, migrated and empty, in about a tenth of a second.
//
//	pool := pgtest.New(t, jobs.Schema, refs.Schema)
//
// There is one server: the one ENTREPOT_TEST_PG names (make test starts it once for all packages, with the command
// testpg), else a private one per test binary, started by the first test that asks. For each set of migrations the
// server holds a template, made once and keyed by their content; a test's database is a copy of it and is dropped
// when the test ends.
//
// The private server runs under a small shell that waits for the test binary to end, however it ends, and then removes
// server and files. So a package needs no TestMain for it, and goleak sees no goroutine of ours.
package pgtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/pg"
)

// maxConns is enough for tests that race a dozen goroutines, and keeps parallel packages below max_connections.
const maxConns = 16

// New returns a pool on a new database that has the schemas. Pool and database go when the test ends.
func New(t testing.TB, schemas ...pg.Schema) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), NewURL(t, schemas...), pg.PoolConfig{MaxConns: maxConns, AppName: "test"})
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// NewURL is New for what opens its own pool. Its last sessions are cut off when the test ends.
func NewURL(t testing.TB, schemas ...pg.Schema) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	server, err := serverURL(ctx)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	template, err := ensureTemplate(ctx, server, schemas)
	if err != nil {
		t.Fatalf("pgtest: make a template database: %v", err)
	}
	name := "entrepot_test_" + strings.ToLower(rand.Text()[:16])
	if err := exec(ctx, server, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		t.Fatalf("pgtest: clone %s: %v", template, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // t.Context has ended
		defer cancel()
		if err := exec(ctx, server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	dsn, err := withDatabase(server, name)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return dsn
}

// ensureTemplate returns the name of a database that has the schemas, making it if it is the first to ask.
func ensureTemplate(ctx context.Context, server string, schemas []pg.Schema) (string, error) {
	if len(schemas) == 0 {
		return "template1", nil
	}
	key, err := templateKey(schemas)
	if err != nil {
		return "", err
	}
	name := "entrepot_tpl_" + key
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	if done, err := exists(ctx, conn, name); done || err != nil {
		return name, err
	}
	// Another package's tests may be about to make the same one: the lock goes with the session.
	h := fnv.New64a()
	h.Write([]byte(name))
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(h.Sum64())); err != nil {
		return "", err
	}
	if done, err := exists(ctx, conn, name); done || err != nil {
		return name, err
	}
	// Built under another name, so that a killed test leaves no half-migrated template.
	building := name + "_new"
	for _, stmt := range []string{"DROP DATABASE IF EXISTS " + building + " WITH (FORCE)", "CREATE DATABASE " + building} {
		if _, err := conn.Exec(ctx, stmt); err != nil {
			return "", err
		}
	}
	dsn, err := withDatabase(server, building)
	if err != nil {
		return "", err
	}
	pool, err := pg.Open(ctx, dsn, pg.PoolConfig{MaxConns: 2, AppName: "test template"})
	if err != nil {
		return "", err
	}
	err = pg.MigrateAll(ctx, pool, schemas...)
	pool.Close()
	if err != nil {
		return "", err
	}
	return name, rename(ctx, conn, building, name)
}

// rename waits for the sessions of the closed pool: the server ends them a moment after the client has gone.
func rename(ctx context.Context, conn *pgx.Conn, from, to string) error {
	_, err := conn.Exec(ctx, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", from)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+from+" RENAME TO "+to)
	return err
}

func exists(ctx context.Context, conn *pgx.Conn, name string) (found bool, err error) {
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&found)
	return found, err
}

// templateKey is a digest of the schemas' names, their order and their migrations.
func templateKey(schemas []pg.Schema) (string, error) {
	h := sha256.New()
	for _, s := range schemas {
		fmt.Fprintf(h, "schema %q\n", s.Name)
		err := fs.WalkDir(s.FS, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".sql") {
				return err
			}
			b, err := fs.ReadFile(s.FS, path)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, "file %q %d\n%s", path, len(b), b)
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("read the migrations of %s: %w", s.Name, err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func withDatabase(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", errors.New("ENTREPOT_TEST_PG is not a URL such as postgres://user@host/database")
	}
	u.Path = "/" + name
	return u.String(), nil
}

// exec runs one statement on a connection of its own. Creating a database from a template fails while somebody is
// connected to that template, so we never keep connections to one.
func exec(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}
