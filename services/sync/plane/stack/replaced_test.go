package stack_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func database(t *testing.T, s *platformtest.Stack) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func execute(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func TestReplacedFiles(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		alwaysStale(c)
		c.Proxy.NegativeTTL = 500 * time.Millisecond
	}))

	for _, family := range []string{"full", "shards"} {
		index := map[string]string{"full": "noarch/repodata.json.zst", "shards": "noarch/repodata_shards.msgpack.zst"}[family]

		t.Run("what channels could not be told is told later: "+family, func(t *testing.T) {
			p := newProxy(t, s, "untold-"+family, nil)
			before, after := noise(1, 1000+len(family)), noise(2, 1200+len(family))
			path := p.ch.Add("noarch", "pkg", "1.0", before)
			other := p.ch.Add("noarch", "other", "1.0", before)
			if family == "shards" {
				p.shards("noarch")
			}
			p.get(200, index)
			p.gets(path, before)
			p.gets(other, before)
			p.ch.Add("noarch", "pkg", "1.0", after)
			if family == "shards" {
				p.shards("noarch")
			}
			conn := database(t, s)
			execute(t, conn, `CREATE FUNCTION channels.away() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'away'; END $$`)
			execute(t, conn, `CREATE TRIGGER away BEFORE INSERT OR UPDATE OR DELETE ON channels.proxied FOR EACH ROW EXECUTE FUNCTION channels.away()`)
			moment()
			p.get(200, index)
			execute(t, conn, `DROP FUNCTION channels.away CASCADE`)
			moment()
			p.get(200, index) // has not changed since
			moment()
			p.gets(path, after)
			p.up.Reset()
			p.gets(other, before)
			p.wantAsked(other, 0)
		})

		t.Run("an index that changes while a file comes puts the file in doubt: "+family, func(t *testing.T) {
			p := newProxy(t, s, "overtaken-"+family, nil)
			before, after := noise(3, 1000+len(family)), noise(4, 1200+len(family)) // what is stored is not fetched
			path := p.ch.Add("noarch", "pkg", "1.0", before)
			if family == "shards" {
				p.shards("noarch")
			}
			p.get(200, index)
			open, began := make(chan struct{}), make(chan struct{})
			old := fetchtest.Gate(open, fetchtest.File(before))
			p.up.Script("/"+path, func(w http.ResponseWriter, r *http.Request) { close(began); old(w, r) }, fetchtest.File(after))
			got := make(chan struct{})
			go func() { defer close(got); p.gets(path, before) }()
			select {
			case <-began:
			case <-got:
				t.Fatal("upstream was not asked")
			}
			p.ch.Add("noarch", "pkg", "1.0", after)
			if family == "shards" {
				p.shards("noarch")
			}
			moment()
			p.get(200, index)
			close(open)
			<-got
			moment()
			p.gets(path, after)
		})
	}

	t.Run("a package that no index vouches for is not had", func(t *testing.T) {
		p := newProxy(t, s, "unvouched", nil)
		data := noise(5, 500)
		path := p.ch.Add("noarch", "pkg", "1.0", data)
		real := p.ch.Index("noarch")
		for _, form := range []string{"repodata.json", "repodata.json.zst", "repodata.json.bz2"} {
			p.up.Script("/noarch/"+form, fetchtest.Status(404))
		}
		p.up.Script("/"+path, fetchtest.File(noise(6, 500)))
		p.get(404, path)
		p.wantAsked(path, 0)
		p.up.Script("/noarch/repodata.json.zst", p.ch.ServeHTTP)
		p.up.Script("/noarch/repodata.json", fetchtest.File(real))
		p.up.Script("/"+path, fetchtest.File(data))
		time.Sleep(time.Second)
		p.gets(path, data)
	})
}

func TestADoubtedPackageIsNotServedWithoutAPlane(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(alwaysStale))
	p := newProxy(t, s, "doubted", nil)
	before, after := noise(1, 1000), noise(2, 1200)
	path := p.ch.Add("noarch", "pkg", "1.0", before)
	other := p.ch.Add("noarch", "other", "1.0", before)
	p.get(200, "noarch/repodata.json")
	p.gets(path, before)
	p.gets(other, before)
	p.ch.Add("noarch", "pkg", "1.0", after)
	moment()
	p.get(200, "noarch/repodata.json")
	s.Restart(platformtest.WithConfig(func(c *platform.Config) { c.FetchURLs = []string{"http://" + freeAddr(t)} }))
	p.get(503, path)
	p.gets(other, before)
	p.get(200, "noarch/repodata.json")
}
