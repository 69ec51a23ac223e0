package stack_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

func TestMending(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		alwaysStale(c)
		c.HotCache = 0
	}))

	t.Run("a file that storage lost is fetched again", func(t *testing.T) {
		p := newProxy(t, s, "lost", nil)
		data := noise(1, 200_000)
		path := p.ch.Add("noarch", "a", "1.0", data)
		p.gets(path, data)
		p.gets(path, data)
		p.wantAsked(path, 1)
		sum := sha256.Sum256(data)
		var found []string
		err := filepath.WalkDir(filepath.Join(s.DataDir, "blobs"), func(name string, d os.DirEntry, err error) error {
			if strings.Contains(name, hex.EncodeToString(sum[:])) && !d.IsDir() {
				found = append(found, name)
			}
			return err
		})
		if err != nil || len(found) != 1 {
			t.Fatalf("%v, %v", found, err)
		}
		if err := os.Remove(found[0]); err != nil {
			t.Fatal(err)
		}
		moment()
		p.gets(path, data)
		p.gets(path, data)
		p.wantAsked(path, 2)
	})

	t.Run("shards that upstream makes no more are not served for ever", func(t *testing.T) {
		p := newProxy(t, s, "unmade", nil)
		p.ch.Add("noarch", "a", "1.0", noise(2, 50))
		p.shards("noarch")
		p.shardIndex("noarch")
		p.ch.Remove("noarch/repodata_shards.msgpack.zst")
		moment()
		p.get(404, "noarch/repodata_shards.msgpack.zst")
	})

	t.Run("what storage keeps is referred to, and let go with the channel", func(t *testing.T) {
		p := newProxy(t, s, "referred", nil)
		data := noise(3, 5000)
		path := p.ch.Add("noarch", "a", "1.0", data)
		p.gets(path, data)
		p.get(200, "noarch/repodata.json")
		moment()
		conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		var ch struct{ ID string }
		p.admin().Must(200, "GET", "/entrepot/v1/channels/referred", nil).JSON(&ch)
		count := func() (proxied, index int) {
			if err := conn.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE owner_id = $1), count(*) FILTER (WHERE owner_id LIKE $1 || '/%')
				FROM refs.refs`, ch.ID).Scan(&proxied, &index); err != nil {
				t.Fatal(err)
			}
			return proxied, index
		}
		if proxied, index := count(); proxied < 3 || index < 3 { // file, .zst, .json; body, facts, .json
			t.Errorf("%d and %d references", proxied, index)
		}
		p.admin().Must(200, "DELETE", "/api/channels/referred", nil)
		deadline := time.Now().Add(20 * time.Second)
		for {
			proxied, index := count()
			if proxied+index == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d and %d references are left", proxied, index)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestACopyThatIsTooOldIsNotServed(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(func(c *platform.Config) {
		alwaysStale(c)
		c.Proxy.MaxStale = 6 * time.Second
	}))
	p := newProxy(t, s, "old", nil)
	p.ch.Add("noarch", "a", "1.0", []byte("a"))
	p.get(200, "noarch/repodata.json")
	p.up.Fallback(fetchtest.Status(500))
	moment()
	p.get(200, "noarch/repodata.json")
	status, deadline := 200, time.Now().Add(30*time.Second)
	for status == 200 && time.Now().Before(deadline) {
		time.Sleep(500 * time.Millisecond)
		status = p.anonymous().Do("GET", p.path("noarch/repodata.json"), nil).Status
	}
	if diff := cmp.Diff(502, status); diff != "" {
		t.Error(diff)
	}
	p.up.Fallback(p.ch)
	moment()
	p.get(200, "noarch/repodata.json")
}
