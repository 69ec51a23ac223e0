package migratetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// got is a delivery as a receiver sees it.
type got struct {
	event, delivery, signature string
	body                       []byte
}

// message is the part of a body that the tests look at.
type message struct {
	ID, Event, Cause, Author, Error string
	Revision, Added, Failed         int64
	Paths                           []string
	Channel                         struct{ Name string }
}

// receiver is a server that takes deliveries and answers with the statuses, the last one for ever.
func receiver(t *testing.T, statuses ...int) (url string, deliveries chan got) {
	deliveries = make(chan got, 100)
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		status := 204
		if len(statuses) > 0 {
			status = statuses[min(n, len(statuses)-1)]
		}
		n++ // deliveries to one hook come one after another here
		w.WriteHeader(status)
		deliveries <- got{r.Header.Get("Entrepot-Event"), r.Header.Get("Entrepot-Delivery"), r.Header.Get("Entrepot-Signature"), body}
	}))
	t.Cleanup(srv.Close)
	return srv.URL, deliveries
}

func wait(t *testing.T, deliveries chan got) (g got, m message) {
	t.Helper()
	select {
	case g = <-deliveries:
	case <-time.After(time.Minute):
		t.Fatal("nothing was delivered")
	}
	if err := json.Unmarshal(g.body, &m); err != nil {
		t.Fatalf("%v in %s", err, g.body)
	}
	return g, m
}

// settled waits until no delivery to the hook is pending.
func settled(t *testing.T, s *platformtest.Stack, id string) {
	t.Helper()
	for range 300 {
		if query[int64](t, s, `SELECT count(*) FROM channels.deliveries WHERE webhook_id = $1 AND state = 1`, id) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("a delivery is still pending")
}

type hook struct {
	Secret  string
	Webhook struct{ ID, URL string }
}

func addHook(t *testing.T, s *platformtest.Stack, channel, url string, more ...string) (h hook) {
	t.Helper()
	o := ok(t, s, append([]string{"channel", "webhook", "add", channel, url, "-o", "json"}, more...)...)
	if err := json.Unmarshal([]byte(o.stdout), &h); err != nil || h.Webhook.ID == "" || len(h.Secret) < 16 {
		t.Fatalf("%v %s", err, o.stdout)
	}
	return h
}

func TestWebhooks(t *testing.T) {
	s := platformtest.Start(t)
	packages := tree(t, 8)

	t.Run("a publication is told, signed, and not when nothing was published", func(t *testing.T) {
		ok(t, s, "channel", "create", "told")
		url, deliveries := receiver(t)
		h := addHook(t, s, "told", url, "--event", "channel.published")
		ok(t, s, "channel", "import", "told", packages.Dir)
		g, m := wait(t, deliveries)
		if g.event != "channel.published" || m.Event != g.event || m.ID != g.delivery || m.Channel.Name != "told" || m.Added != 8 || m.Revision != 2 || m.Author != "alice" {
			t.Errorf("%+v %+v", g, m)
		}
		at, sum, _ := strings.Cut(strings.TrimPrefix(g.signature, "t="), ",v1=")
		mac := hmac.New(sha256.New, []byte(h.Secret))
		mac.Write([]byte(at + "." + string(g.body)))
		if want := hex.EncodeToString(mac.Sum(nil)); sum != want {
			t.Errorf("the signature is %s, not %s", sum, want)
		}
		settled(t, s, h.Webhook.ID)
		ok(t, s, "channel", "import", "told", packages.Dir)
		if n := query[int64](t, s, `SELECT count(*) FROM channels.deliveries WHERE webhook_id = $1`, h.Webhook.ID); n != 1 {
			t.Errorf("%d messages of one publication", n)
		}
		if o := ok(t, s, "channel", "webhook", "deliveries", "told", h.Webhook.ID); !strings.Contains(o.stdout, "delivered") || !strings.Contains(o.stdout, "204") {
			t.Errorf("%s", o.stdout)
		}
		if stored := query[[]byte](t, s, `SELECT secret FROM channels.webhooks WHERE id = $1`, h.Webhook.ID); strings.Contains(string(stored), h.Secret) {
			t.Error("the secret lies in the database in the clear")
		}
		if o := ok(t, s, "channel", "webhook", "list", "told", "-o", "json"); strings.Contains(o.stdout, h.Secret) || !strings.Contains(o.stdout, h.Webhook.ID) {
			t.Errorf("%s", o.stdout)
		}
	})

	t.Run("what fails is tried again, and the log says so", func(t *testing.T) {
		ok(t, s, "channel", "create", "stubborn")
		url, deliveries := receiver(t, 500, 204)
		h := addHook(t, s, "stubborn", url)
		ok(t, s, "channel", "import", "stubborn", packages.Dir, "--concurrency", "1")
		first, _ := wait(t, deliveries)
		s2, _ := wait(t, deliveries)
		if first.delivery != s2.delivery {
			t.Errorf("the second attempt is another message: %s and %s", first.delivery, s2.delivery)
		}
		settled(t, s, h.Webhook.ID)
		if n := query[int64](t, s, `SELECT attempts FROM channels.deliveries WHERE webhook_id = $1 AND state = 2`, h.Webhook.ID); n != 2 {
			t.Errorf("%d attempts", n)
		}
	})

	t.Run("a receiver that wants no more is believed", func(t *testing.T) {
		ok(t, s, "channel", "create", "unwanted")
		url, deliveries := receiver(t, 410)
		h := addHook(t, s, "unwanted", url)
		ok(t, s, "channel", "import", "unwanted", packages.Dir)
		wait(t, deliveries)
		settled(t, s, h.Webhook.ID)
		if n := query[int64](t, s, `SELECT state FROM channels.deliveries WHERE webhook_id = $1`, h.Webhook.ID); n != 3 {
			t.Errorf("its state is %d", n)
		}
	})

	t.Run("a sync that lacks files is told", func(t *testing.T) {
		// Bytes of its own: what is stored already is not asked for.
		up, err := sample.Serve(t.TempDir(), sample.Options{Packages: 8, Tiny: true, Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		defer up.Close()
		bad, err := up.Corrupt(1)
		if err != nil {
			t.Fatal(err)
		}
		ok(t, s, "channel", "create", "copy", "--mirror", up.URL, "--no-sync")
		url, deliveries := receiver(t)
		addHook(t, s, "copy", url, "--event", "sync.failed")
		ok(t, s, "channel", "sync", "copy")
		_, m := wait(t, deliveries)
		if m.Event != "sync.failed" || m.Failed != 1 || len(m.Paths) != 1 || m.Paths[0] != bad[0] || m.Channel.Name != "copy" {
			t.Errorf("%+v", m)
		}
	})

	t.Run("settings are replaced, a disabled hook hears nothing, and a deleted one is gone", func(t *testing.T) {
		ok(t, s, "channel", "create", "quiet")
		url, _ := receiver(t)
		h := addHook(t, s, "quiet", url)
		path := "/entrepot/v1/channels/quiet/webhooks/" + h.Webhook.ID
		s.Admin().In(t).Must(200, "PUT", path, map[string]any{"url": url, "disabled": true})
		ok(t, s, "channel", "import", "quiet", packages.Dir)
		if n := query[int64](t, s, `SELECT count(*) FROM channels.deliveries WHERE webhook_id = $1`, h.Webhook.ID); n != 0 {
			t.Errorf("%d messages to a disabled hook", n)
		}
		s.Admin().In(t).Must(400, "PUT", path, map[string]any{"url": "ftp://example.org"})
		s.Admin().In(t).Must(400, "PUT", path, map[string]any{"url": url, "events": []string{"channel.eaten"}})
		s.User("bob").In(t).Must(403, "GET", "/entrepot/v1/channels/quiet/webhooks", nil)
		ok(t, s, "channel", "webhook", "remove", "quiet", h.Webhook.ID)
		s.Admin().In(t).Must(404, "GET", path+"/deliveries", nil)
		ok(t, s, "channel", "delete", "told", "--yes")
		if n := query[int64](t, s, `SELECT count(*) FROM channels.webhooks w WHERE NOT EXISTS (SELECT FROM channels.channels c WHERE c.id = w.channel_id)`); n != 0 {
			t.Errorf("%d webhooks of deleted channels", n)
		}
	})
}

func TestAWebhookReachesNoInnerAddress(t *testing.T) {
	s := platformtest.Start(t, platformtest.Production(), platformtest.WithConfig(func(c *platform.Config) {}))
	packages := tree(t, 8)
	url, deliveries := receiver(t)
	ok(t, s, "channel", "create", "tools")
	h := addHook(t, s, "tools", url)
	ok(t, s, "channel", "import", "tools", packages.Dir)
	for range 200 {
		if query[string](t, s, `SELECT coalesce(max(error), '') FROM channels.deliveries WHERE webhook_id = $1`, h.Webhook.ID) != "" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if why := query[string](t, s, `SELECT max(error) FROM channels.deliveries WHERE webhook_id = $1`, h.Webhook.ID); !strings.Contains(why, "cannot be reached") {
		t.Errorf("%q", why)
	}
	if len(deliveries) != 0 {
		t.Error("a server on loopback was told")
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, "master-key")); err != nil {
		t.Error(err)
	}
}
