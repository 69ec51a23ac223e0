package quetzdb_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/fault"
	"github.com/entrepot-dev/entrepot/pkg/pg/pgtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/internal/quetzdb"
)

// old is the schema of an early version: no roles, sizes, limits, metadata or counts. %s is the type of binary ids.
const old = `
CREATE TABLE users (id %s PRIMARY KEY, username VARCHAR);
CREATE TABLE channels (name VARCHAR PRIMARY KEY, description VARCHAR, private BOOLEAN);
CREATE TABLE channel_members (channel_name VARCHAR, user_id %s, role VARCHAR);
CREATE TABLE package_versions (id %s PRIMARY KEY, channel_name VARCHAR, platform VARCHAR, filename VARCHAR, info VARCHAR, uploader_id %s, time_created TIMESTAMP);
INSERT INTO users VALUES (@zoe, 'zoe');
INSERT INTO channels VALUES ('lab', NULL, true);
INSERT INTO channel_members VALUES ('lab', @zoe, 'owner');
INSERT INTO package_versions VALUES (@one, 'lab', 'noarch', 'a-1-0.conda', '{}', @zoe, '2021-03-04 05:06:07.5');
`

func TestAnOldSchemaIsReadFromEitherDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "quetz with blank.sqlite")
	postgres := pgtest.NewURL(t)
	for _, c := range []struct{ name, driver, dsn, url, binary, zoe, one string }{
		{"SQLite", "sqlite", path, "sqlite:///" + path, "BLOB", "x'0102'", "x'03'"},
		{"PostgreSQL", "pgx", postgres, "postgresql+psycopg2://" + strings.SplitN(postgres, "://", 2)[1], "BYTEA", `'\x0102'::bytea`, `'\x03'::bytea`},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, err := sql.Open(c.driver, c.dsn)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), strings.NewReplacer("%s", c.binary, "@zoe", c.zoe, "@one", c.one).Replace(old)); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			q, err := quetzdb.Open(t.Context(), c.url)
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close()
			users, err := q.Users(t.Context())
			if d := cmp.Diff([]*quetzdb.User{{ID: "0102", Username: "zoe"}}, users); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			channels, err := q.Channels(t.Context())
			if d := cmp.Diff([]*quetzdb.Channel{{Name: "lab", Private: true}}, channels); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			members, err := q.Members(t.Context())
			if d := cmp.Diff([]quetzdb.Member{{Channel: "lab", UserID: "0102", Role: "owner"}}, members); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			var versions []quetzdb.Version
			err = q.Versions(t.Context(), "lab", func(v quetzdb.Version) error { versions = append(versions, v); return nil })
			want := []quetzdb.Version{{Platform: "noarch", Filename: "a-1-0.conda", Info: []byte("{}"), UploaderID: "0102", Created: time.Date(2021, 3, 4, 5, 6, 7, 500_000_000, time.UTC)}}
			if d := cmp.Diff(want, versions); d != "" || err != nil {
				t.Errorf("%v %s", err, d)
			}
			if keys, err := q.Keys(t.Context()); len(keys) != 0 || err != nil {
				t.Errorf("%v %v", keys, err)
			}
			if strings.Contains(q.Name, "@") {
				t.Errorf("the name tells who: %s", q.Name)
			}
		})
	}
}

func TestWhatIsNoQuetzDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sqlite")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE users (id BLOB)`); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"sqlite:///" + path, "mysql://root:hunter2@db/quetz", path} {
		if _, err := quetzdb.Open(t.Context(), url); !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := quetzdb.Open(t.Context(), "sqlite:///"+path+".none"); !fault.Is(err, fault.NotFound) {
		t.Errorf("no file: %v", err)
	}
}
