// Package upgradetest runs this version on databases as the next one will leave them: the release before goes on working,
// also when it starts again, until something it uses has gone.
package upgradetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// next is what the following release brings: the schema's migrations and one more.
func next(t *testing.T, s pg.Schema, version int64, statements string) fstest.MapFS {
	t.Helper()
	out := fstest.MapFS{}
	err := fs.WalkDir(s.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".sql" {
			return err
		}
		data, err := fs.ReadFile(s.FS, path)
		out[filepath.Base(path)] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out[fmt.Sprintf("%05d_next.sql", version)] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + statements)}
	return out
}

// expand is a migration that gives every table of the schema another column: what reads rows by their place, or all
// columns there are, breaks.
func expand(t *testing.T, pool *pgxpool.Pool, schema string) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = $1 AND tablename NOT IN ('schema_version', 'schema_range')`, schema)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) == 0 {
		t.Fatalf("tables of %s: %v %v", schema, tables, err)
	}
	var b strings.Builder
	for _, table := range tables {
		fmt.Fprintf(&b, "ALTER TABLE %s ADD COLUMN of_the_next_release text;\n", pgx.Identifier{schema, table}.Sanitize())
	}
	return b.String()
}

func open(t *testing.T, s *platformtest.Stack) *pgxpool.Pool {
	t.Helper()
	pool, err := pg.Open(t.Context(), s.DatabaseURL, pg.PoolConfig{MaxConns: 2, AppName: "the next release"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestTheReleaseBeforeRunsOnANewerDatabase(t *testing.T) {
	dir := t.TempDir()
	content, err := sample.Build(dir, sample.Options{Packages: 12, Tiny: true})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(upstream.Close)
	s := platformtest.Start(t)
	s.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "before", "private": false})
	pool := open(t, s)

	const version = 9001 // far from what is there
	for _, schema := range platform.Schemas {
		if err := pg.Migrate(t.Context(), pool, schema.Name, next(t, schema, version, expand(t, pool, schema.Name))); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("processes that run go on", func(t *testing.T) { work(t, s, content, upstream.URL, "running") })
	s.Restart()
	t.Run("processes that start go on, and say so", func(t *testing.T) {
		work(t, s, content, upstream.URL, "started")
		if n := strings.Count(s.Logs(), "this one still works with it"); n != len(platform.Schemas) {
			t.Errorf("%d notices, want one a schema:\n%s", n, s.Logs())
		}
	})
	s.Stop()

	// The release after that takes something away.
	gone := next(t, platform.Schemas[0], version, expand(t, pool, platform.Schemas[0].Name))
	gone["09002_gone.sql"] = &fstest.MapFile{Data: fmt.Appendf(nil, "-- entrepot:min-version %d\n-- +goose Up\nALTER TABLE jobs.jobs DROP COLUMN of_the_next_release;\n", version)}
	if err := pg.Migrate(t.Context(), pool, platform.Schemas[0].Name, gone); err != nil {
		t.Fatal(err)
	}
	t.Run("two releases back is refused before it does anything", func(t *testing.T) {
		for _, target := range []string{platform.All, "channels"} {
			err := start(t, s, target)
			var f *fault.Error
			if !errors.As(err, &f) || f.Reason != "SCHEMA_TOO_NEW" || !strings.Contains(err.Error(), "works with programs that know 9001 or newer") {
				t.Errorf("%s: %v", target, err)
			}
		}
	})
}

// work is what a platform is for: it mirrors a channel, takes a package, shows both, and tidies up.
func work(t *testing.T, s *platformtest.Stack, content *sample.Channel, upstream, name string) {
	t.Helper()
	admin := s.Admin().In(t)
	admin.Must(201, "POST", "/api/channels", map[string]any{
		"name": name + "-mirror", "private": false, "mirror_mode": "mirror", "mirror_channel_url": upstream, "actions": []any{},
	})
	await(t, admin, "/entrepot/v1/channels/"+name+"-mirror:sync")
	admin.Must(201, "POST", "/api/channels", map[string]any{"name": name, "private": false})
	await(t, admin, "/entrepot/v1/storage/gc")
	var bytes int
	for _, f := range content.Files {
		if resp := admin.Do("GET", "/channels/"+name+"-mirror/"+f.Path, nil); resp.Status == 200 {
			bytes += len(resp.Body)
		}
	}
	if bytes == 0 {
		t.Error("nothing of the mirrored channel is served")
	}
	f := content.Files[0]
	data := admin.Must(200, "GET", "/channels/"+name+"-mirror/"+f.Path, nil).Body
	admin.Must(201, "POST", "/api/channels/"+name+"/upload/"+filepath.Base(f.Path)+"?sha256="+f.SHA256, data)
	subdir, _, _ := strings.Cut(f.Path, "/")
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		resp := admin.Do("GET", "/channels/"+name+"/"+subdir+"/repodata.json", nil)
		if resp.Status == 200 && strings.Contains(string(resp.Body), filepath.Base(f.Path)) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the upload never showed: %d %s", resp.Status, resp.Body)
		}
	}
	admin.Must(200, "GET", "/api/channels/before", nil)
}

// await starts a job and waits until it has succeeded.
func await(t *testing.T, c *platformtest.Client, path string) {
	t.Helper()
	var job struct{ ID, State, Error string }
	c.Must(200, "POST", path, map[string]any{}).JSON(&job)
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c.Must(200, "GET", "/entrepot/v1/jobs/"+job.ID, nil).JSON(&job)
		switch {
		case job.State == "JOB_STATE_SUCCEEDED":
			return
		case job.State == "JOB_STATE_DEAD" || time.Now().After(end):
			t.Fatalf("%s: %s %s", path, job.State, job.Error)
		}
	}
}

// start runs a process of this version that must not come up, and returns why it did not.
func start(t *testing.T, s *platformtest.Stack, target string) error {
	t.Helper()
	cfg := platform.DefaultConfig()
	cfg.DataDir, cfg.DatabaseURL, cfg.Target = t.TempDir(), config.NewSecret(s.DatabaseURL), []string{target}
	if target != platform.All {
		cfg.NATSURL, cfg.TargetSecret = config.NewSecret("nats://127.0.0.1:9"), config.NewSecret("0123456789abcdef0123456789abcdef")
	}
	const free = "127.0.0.1:0"
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = free, free, free, free, free
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := platform.New(cfg, platform.Options{Version: "test", LogOutput: t.Output(), OnReady: func(platform.Ready) {
		t.Errorf("target %s came up", target)
		cancel()
	}})
	if err != nil {
		t.Fatal(err)
	}
	return p.Run(ctx)
}
