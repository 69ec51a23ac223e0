package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
)

const template = "chaos_template"

// database is the PostgreSQL that the worlds of separate processes share, each with a database of its own.
type database struct {
	server *pg.Server
	admin  string
}

// startDatabase starts the server and makes the template that the others are copied from.
func startDatabase(ctx context.Context, root string) (*database, error) {
	server, err := pg.StartEmbedded(ctx, pg.EmbeddedConfig{
		DataDir: filepath.Join(root, "pg"), BinDir: os.Getenv("ENTREPOT_PG_BIN"), Durable: true,
		Settings: map[string]string{"max_connections": "300"},
	})
	if err != nil {
		return nil, err
	}
	d := &database{server: server, admin: server.URL()}
	err = func() error {
		if err := d.exec(ctx, "CREATE DATABASE "+template); err != nil {
			return err
		}
		pool, err := pg.Open(ctx, d.url(template), pg.PoolConfig{MaxConns: 2, AppName: "chaos template"})
		if err != nil {
			return err
		}
		err = pg.MigrateAll(ctx, pool, platform.Schemas...)
		pool.Close()
		if err != nil {
			return err
		}
		// Sessions end a moment after their client has gone, and a template must have none.
		return d.exec(ctx, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '"+template+"'")
	}()
	if err != nil {
		d.stop()
		return nil, err
	}
	return d, nil
}

func (d *database) url(name string) string {
	u, err := url.Parse(d.admin)
	if err != nil {
		panic(err) // of our own making
	}
	u.Path = "/" + name
	return u.String()
}

func (d *database) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, d.admin)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, sql)
	return err
}

func databaseName(tag string) string {
	return "chaos_" + strings.NewReplacer("-", "_", ".", "_").Replace(tag)
}

func (d *database) create(ctx context.Context, tag string) (string, error) {
	if err := d.exec(ctx, "CREATE DATABASE "+databaseName(tag)+" TEMPLATE "+template); err != nil {
		return "", fmt.Errorf("database of %s: %w", tag, err)
	}
	return d.url(databaseName(tag)), nil
}

// drop is a courtesy: the whole server goes soon.
func (d *database) drop(tag string) {
	_ = d.exec(context.Background(), "DROP DATABASE IF EXISTS "+databaseName(tag)+" WITH (FORCE)")
}

func (d *database) stop() { _ = d.server.Stop(context.Background()) }
