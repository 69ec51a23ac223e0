package migratetest

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// quetzSchema is that of Quetz 0.10, as far as it is read.
const quetzSchema = `
CREATE TABLE users (id BLOB NOT NULL PRIMARY KEY, username VARCHAR UNIQUE, role VARCHAR);
CREATE TABLE profiles (name VARCHAR, avatar_url VARCHAR, user_id BLOB NOT NULL PRIMARY KEY);
CREATE TABLE identities (provider VARCHAR NOT NULL, identity_id VARCHAR NOT NULL, username VARCHAR, user_id BLOB, PRIMARY KEY (provider, identity_id));
CREATE TABLE channels (name VARCHAR(100) COLLATE nocase NOT NULL PRIMARY KEY, description VARCHAR, private BOOLEAN, mirror_channel_url VARCHAR, mirror_mode VARCHAR,
	channel_metadata VARCHAR DEFAULT '{}' NOT NULL, timestamp_mirror_sync INTEGER, size BIGINT, size_limit BIGINT, ttl INTEGER DEFAULT 36000 NOT NULL);
CREATE TABLE channel_members (channel_name VARCHAR NOT NULL, user_id BLOB NOT NULL, role VARCHAR, PRIMARY KEY (channel_name, user_id));
CREATE TABLE channel_mirrors (id BLOB NOT NULL PRIMARY KEY, channel_name VARCHAR, url VARCHAR NOT NULL UNIQUE, api_endpoint VARCHAR, metrics_endpoint VARCHAR, last_synchronised DATETIME);
CREATE TABLE packages (name VARCHAR NOT NULL, channel_name VARCHAR NOT NULL, description TEXT, summary TEXT, channeldata VARCHAR, url VARCHAR, platforms VARCHAR, PRIMARY KEY (name, channel_name));
CREATE TABLE package_members (channel_name VARCHAR NOT NULL, package_name VARCHAR NOT NULL, user_id BLOB NOT NULL, role VARCHAR, PRIMARY KEY (channel_name, package_name, user_id));
CREATE TABLE package_versions (id BLOB NOT NULL PRIMARY KEY, channel_name VARCHAR, package_name VARCHAR, package_format VARCHAR(7), platform VARCHAR, version VARCHAR,
	build_string VARCHAR, build_number INTEGER, size BIGINT, version_order INTEGER, download_count INTEGER, filename VARCHAR, info VARCHAR, uploader_id BLOB,
	time_created DATETIME DEFAULT (CURRENT_TIMESTAMP), time_modified DATETIME DEFAULT (CURRENT_TIMESTAMP));
CREATE TABLE aggregated_metrics (id BLOB NOT NULL PRIMARY KEY, channel_name VARCHAR, platform VARCHAR, filename VARCHAR, metric_name VARCHAR(255) NOT NULL,
	period VARCHAR(5), count INTEGER DEFAULT '0' NOT NULL, timestamp DATETIME NOT NULL);
CREATE TABLE api_keys ("key" VARCHAR NOT NULL PRIMARY KEY, description VARCHAR, time_created DATE, expire_at DATE, deleted BOOLEAN, user_id BLOB, owner_id BLOB);
CREATE TABLE jobs (id INTEGER PRIMARY KEY, manifest BLOB, status VARCHAR);
`

const (
	zoesKey   = "ZoeZoeZoeZoeZoeZoeZoeZoeZoeZoeZo" // acts as zoe
	narrowKey = "NarrowNarrowNarrowNarrowNarrowNa" // reads the channel lab only
	oldKey    = "OldOldOldOldOldOldOldOldOldOldOl"
)

// quetz is a Quetz server that was stopped: its database and its store.
type quetz struct {
	database, store string
	lab             *sample.Channel
}

func (q quetz) args(more ...string) []string {
	return append([]string{"import", "quetz", "--database", q.database, "--store", q.store, "-o", "json"}, more...)
}

func newQuetz(t *testing.T) quetz {
	t.Helper()
	dir := t.TempDir()
	q := quetz{database: "sqlite:///" + filepath.Join(dir, "quetz.sqlite"), store: filepath.Join(dir, "channels")}
	var err error
	if q.lab, err = sample.Build(filepath.Join(q.store, "lab"), sample.Options{Packages: 12, Tiny: true}); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "quetz.sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	exec(quetzSchema)
	id := func(s string) []byte { return []byte((s + "________________")[:16]) }
	for _, u := range []struct{ name, role, shown string }{{"zoe", "maintainer", "Zoe Zander"}, {"yan", "member", "Yan"}, {"bob", "", "Another Bob"}} {
		exec(`INSERT INTO users VALUES (?, ?, nullif(?, ''))`, id(u.name), u.name, u.role)
		exec(`INSERT INTO profiles VALUES (?, '/a.png', ?)`, u.shown, id(u.name))
	}
	exec(`INSERT INTO users VALUES (?, NULL, NULL)`, id("pseudo"))
	exec(`INSERT INTO identities VALUES ('github', '17', 'zoe', ?)`, id("zoe"))
	exec(`INSERT INTO channels (name, description, private, channel_metadata, size_limit, ttl) VALUES ('lab', 'our lab', 0, '{}', 1000000000, 600)`)
	exec(`INSERT INTO channels (name, description, private, mirror_channel_url, mirror_mode, channel_metadata) VALUES
		('copy', NULL, 1, 'http://127.0.0.1:9/forge', 'mirror', '{"includelist": ["numpy"], "proxylist": ["big"]}')`)
	exec(`INSERT INTO channels (name, private, channel_metadata) VALUES ('taken', 1, '{}')`)
	for _, m := range []struct{ user, role string }{{"zoe", "owner"}, {"yan", "member"}, {"bob", "maintainer"}, {"pseudo", "member"}} {
		exec(`INSERT INTO channel_members VALUES ('lab', ?, ?)`, id(m.user), m.role)
	}
	for i, f := range q.lab.Files {
		platform, filename, _ := strings.Cut(f.Path, "/")
		d, err := dist.ParseFilename(filename)
		if err != nil {
			t.Fatal(err)
		}
		exec(`INSERT OR IGNORE INTO packages VALUES (?, 'lab', 'written by hand', 'a summary', NULL, 'https://example.org', '[]')`, d.Name)
		info, err := json.Marshal(map[string]any{
			"name": d.Name, "version": d.Version, "build": d.Build, "build_number": 0, "subdir": platform, "depends": []string{"from-the-database"},
			"size": f.Size, "sha256": f.SHA256, "md5": f.MD5,
		})
		if err != nil {
			t.Fatal(err)
		}
		exec(`INSERT INTO package_versions (id, channel_name, package_name, package_format, platform, version, build_string, build_number, size, download_count, filename, info, uploader_id, time_created)
			VALUES (?, 'lab', ?, 'conda', ?, ?, ?, 0, ?, 10, ?, ?, ?, '2021-03-04 05:06:07.000008')`,
			id(hex.EncodeToString([]byte{byte(i)})), d.Name, platform, d.Version, d.Build, f.Size, filename, string(info), id("zoe"))
	}
	first := strings.Split(q.lab.Files[0].Path, "/")
	for i, m := range []struct {
		period, at string
		n          int
	}{{"hour", "2022-01-02 03:00:00", 4}, {"day", "2022-01-02 00:00:00", 4}, {"day", "2022-01-03 00:00:00.000000", 3}, {"month", "2022-01-01 00:00:00", 7}, {"year", "2022-01-01 00:00:00", 7}} {
		exec(`INSERT INTO aggregated_metrics VALUES (?, 'lab', ?, ?, 'download', ?, ?, ?)`, id(m.period+string(rune('a'+i))), first[0], first[1], m.period, m.n, m.at)
	}
	exec(`INSERT INTO package_members SELECT 'lab', name, ?, 'owner' FROM packages LIMIT 1`, id("yan"))
	exec(`INSERT INTO api_keys VALUES (?, 'ci', '2021-01-01', NULL, 0, ?, ?)`, zoesKey, id("zoe"), id("zoe"))
	exec(`INSERT INTO api_keys VALUES (?, 'reader', '2021-01-01', '2099-12-31', 0, ?, ?)`, narrowKey, id("pseudo"), id("zoe"))
	exec(`INSERT INTO api_keys VALUES (?, 'old', '2021-01-01', '2021-02-01', 0, ?, ?)`, oldKey, id("zoe"), id("zoe"))
	exec(`INSERT INTO api_keys VALUES ('deleted', 'gone', '2021-01-01', NULL, 1, ?, ?)`, id("zoe"), id("zoe"))
	exec(`INSERT INTO jobs VALUES (1, 'synchronize', 'success')`)
	return q
}

// quetzReport is what a move says with -o json.
type quetzReport struct {
	Users, Channels, Packages, Files, Members, Keys struct{ Found, Added, Present, Skipped int }
	Downloads                                       int64
	Lost                                            int64 `json:"downloads_not_moved"`
	Logins                                          int64 `json:"logins_not_moved"`
	Jobs                                            int64 `json:"jobs_not_moved"`
	Problems                                        []struct{ Path, Reason string }
}

func (o outcome) move(t *testing.T) (r quetzReport) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.stdout), &r); err != nil {
		t.Fatalf("%v in %q (%v)\n%s", err, o.stdout, o.err, o.stderr)
	}
	return r
}

func (r quetzReport) reasons() map[string]string {
	out := map[string]string{}
	for _, p := range r.Problems {
		out[p.Path] = p.Reason
	}
	return out
}

func TestAQuetzServerMovesHere(t *testing.T) {
	s := platformtest.Start(t)
	q := newQuetz(t)
	ok(t, s, "channel", "create", "taken", "--description", "somebody else's")
	missing := q.lab.Files[3].Path
	if err := os.Remove(filepath.Join(q.lab.Dir, filepath.FromSlash(missing))); err != nil {
		t.Fatal(err)
	}
	rotten := q.lab.Files[4].Path
	if err := os.WriteFile(filepath.Join(q.lab.Dir, filepath.FromSlash(rotten)), []byte("rot"), 0o644); err != nil {
		t.Fatal(err)
	}
	first := q.lab.Files[0].Path
	edit(t, q.lab, strings.Split(first, "/")[0], func(doc map[string]any) { recordOf(doc, first)["depends"] = []string{"patched"} })

	if o := run(t, s, s.User("carol").Key, q.args("--dry-run")...); o.err == nil {
		t.Error("who does not own the server moved one here")
	}
	dry := run(t, s, s.AdminKey, q.args("--dry-run", "--keep-keys")...).move(t)
	if dry.Users.Added != 2 || dry.Channels.Added != 2 || dry.Files.Added != 11 || dry.Keys.Added != 2 {
		t.Errorf("the dry run: %+v", dry)
	}
	s.Admin().Must(404, "GET", "/api/channels/lab", nil)

	o := run(t, s, s.AdminKey, q.args("--keep-keys")...)
	r := o.move(t)
	if d := cmp.Diff(map[string]string{
		"user/bob": "USER_EXISTS", "channel/taken": "CHANNEL_EXISTS", "lab/" + missing: "MISSING", "lab/" + rotten: "DIGEST_MISMATCH", "api-key/OldOld…": "KEY",
	}, r.reasons()); d != "" && !strings.Contains(d, "SIZE") {
		t.Errorf("problems (-want +got):\n%s\n%s", d, o.stderr)
	}
	if r.Users.Added != 2 || r.Channels.Added != 2 || r.Channels.Skipped != 1 || r.Files.Added != 10 || r.Keys.Added != 2 || r.Downloads != 7 || r.Lost != 12*10-7 || r.Logins != 1 || r.Jobs != 1 {
		t.Errorf("%+v", r)
	}

	t.Run("channels are as they were", func(t *testing.T) {
		var lab struct {
			Description string
			Private     bool
			SizeLimit   int64 `json:"size_limit"`
			TTL         int64 `json:"ttl"`
			Members     int   `json:"members_count"`
		}
		s.Anonymous().In(t).Must(200, "GET", "/api/channels/lab", nil).JSON(&lab)
		if lab.Description != "our lab" || lab.Private || lab.SizeLimit != 1_000_000_000 || lab.TTL != 600 || lab.Members != 2 {
			t.Errorf("%+v", lab)
		}
		var mirror struct {
			Private bool
			Mirror  struct {
				URL                    string
				Includelist, Proxylist []string
			}
		}
		s.Admin().In(t).Must(200, "GET", "/entrepot/v1/channels/copy", nil).JSON(&mirror)
		if !mirror.Private || mirror.Mirror.URL != "http://127.0.0.1:9/forge" || len(mirror.Mirror.Includelist) != 1 || len(mirror.Mirror.Proxylist) != 1 {
			t.Errorf("%+v", mirror)
		}
	})

	t.Run("files are listed with the record that was published, their time and uploader", func(t *testing.T) {
		for path, depends := range map[string]string{first: "patched"} {
			got := query[string](t, s, `SELECT convert_from(record, 'UTF8') || uploader || created_at::date FROM channels.files WHERE path = $1`, path)
			if !strings.Contains(got, depends) || !strings.HasSuffix(got, "zoe2021-03-04") {
				t.Errorf("%s: %s", path, got)
			}
		}
		s.Anonymous().In(t).Must(200, "GET", "/get/lab/"+first, nil)
		if got := query[string](t, s, `SELECT summary || '|' || description || '|' || url FROM channels.packages LIMIT 1`); got != "a summary|written by hand|https://example.org" {
			t.Errorf("the package says %q", got)
		}
	})

	t.Run("keys go on working, with the roles that they had", func(t *testing.T) {
		var me struct {
			User struct{ Username, Role string }
		}
		s.As(zoesKey).In(t).Must(200, "GET", "/entrepot/v1/me", nil).JSON(&me)
		if me.User.Username != "zoe" || me.User.Role != "maintainer" {
			t.Errorf("%+v", me)
		}
		s.As(narrowKey).In(t).Must(200, "GET", "/api/channels/lab", nil)
		s.As(narrowKey).In(t).Must(403, "GET", "/api/channels/copy", nil)
		s.As(oldKey).In(t).Must(401, "GET", "/entrepot/v1/me", nil)
		s.As(zoesKey[:12]+strings.Repeat("x", 20)).In(t).Must(401, "GET", "/entrepot/v1/me", nil)
	})

	t.Run("downloads keep their days", func(t *testing.T) {
		var m struct {
			Total  int64
			Series []struct {
				Timestamp string
				Count     int64
			}
		}
		dir, name, _ := strings.Cut(first, "/")
		d, _ := dist.ParseFilename(name)
		s.Anonymous().In(t).Must(200, "GET", "/metrics/channels/lab/packages/"+d.Name+"/versions/"+dir+"/"+name+"?period=D&end=2022-02-01T00:00:00", nil).JSON(&m)
		if len(m.Series) != 2 || m.Series[0].Count != 4 || m.Series[1].Count != 3 {
			t.Errorf("%+v", m)
		}
		if n := query[int64](t, s, `SELECT total FROM metrics.items WHERE path = '' AND channel_id = (SELECT id FROM channels.channels WHERE name = 'lab')`); n != 7 && n != 8 { // one more was just downloaded
			t.Errorf("the channel has %d downloads", n)
		}
	})

	t.Run("a second run moves what is missing and nothing else", func(t *testing.T) {
		data, err := os.ReadFile(filepath.Join(q.lab.Dir, filepath.FromSlash(q.lab.Files[5].Path)))
		if err != nil || len(data) == 0 {
			t.Fatal(err)
		}
		again, err := sample.Build(t.TempDir(), sample.Options{Packages: 12, Tiny: true})
		if err != nil {
			t.Fatal(err)
		}
		if data, err = os.ReadFile(filepath.Join(again.Dir, filepath.FromSlash(missing))); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(q.lab.Dir, filepath.FromSlash(missing)), data, 0o644); err != nil {
			t.Fatal(err)
		}
		items := query[int64](t, s, `SELECT count(*) FROM metrics.series WHERE source <> 0`)
		r := run(t, s, s.AdminKey, q.args("--keep-keys")...).move(t)
		if r.Users.Present != 2 || r.Users.Added != 0 || r.Channels.Present != 2 || r.Channels.Added != 0 || r.Files.Present != 10 || r.Files.Added != 1 || r.Packages.Added != 0 {
			t.Errorf("%+v", r)
		}
		if n := query[int64](t, s, `SELECT count(*) FROM metrics.series WHERE source <> 0`); n != items {
			t.Errorf("there were %d imported points, now %d", items, n)
		}
	})

	t.Run("merge takes users and channels of the same name for the same", func(t *testing.T) {
		r := run(t, s, s.AdminKey, q.args("--merge")...).move(t)
		if r.Users.Present != 3 || r.Channels.Present != 3 || r.Keys.Skipped != 3 {
			t.Errorf("%+v", r)
		}
	})

	t.Run("new keys are written where nobody else reads them, once", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "keys")
		for range 2 {
			if r := run(t, s, s.AdminKey, q.args("--keys-file", file)...).move(t); r.Keys.Added != 2 {
				t.Errorf("%+v", r.Keys)
			}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", st.Mode(), err)
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if len(lines) != 2 {
			t.Fatalf("%d keys were given out", len(lines))
		}
		for _, l := range lines {
			var k struct{ Username, Description, Key string }
			if err := json.Unmarshal([]byte(l), &k); err != nil || k.Username != "zoe" {
				t.Fatalf("%v %s", err, l)
			}
			s.As(k.Key).In(t).Must(200, "GET", "/entrepot/v1/me", nil)
		}
	})
}
