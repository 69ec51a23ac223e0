package mirrortest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// message is what a webhook's receiver reads.
type message struct {
	ID, Event, Error, Job string
	Failed                int64
	Paths                 []string
	Channel               struct{ Name string }

	delivery, signature string
	body                []byte
}

// receiver takes deliveries and answers with the statuses, then 204.
func receiver(t *testing.T, statuses ...int) (url string, told chan message) {
	told = make(chan message, 100)
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m := message{body: body, delivery: r.Header.Get("Entrepot-Delivery"), signature: r.Header.Get("Entrepot-Signature")}
		_ = json.Unmarshal(body, &m)
		status := 204
		if n < len(statuses) {
			status = statuses[n]
		}
		n++ // deliveries come one after another here
		w.WriteHeader(status)
		told <- m
	}))
	t.Cleanup(srv.Close)
	return srv.URL, told
}

// addHook has a server told of events, and returns the webhook's id and secret.
func addHook(t *testing.T, s *platformtest.Stack, channel, url string, events ...string) (id, secret string) {
	t.Helper()
	var made struct {
		Secret  string
		Webhook struct{ ID string }
	}
	s.Admin().In(t).Must(200, "POST", "/entrepot/v1/channels/"+channel+"/webhooks", obj{"url": url, "events": events}).JSON(&made)
	return made.Webhook.ID, made.Secret
}

func next(t *testing.T, told chan message) message {
	t.Helper()
	select {
	case m := <-told:
		return m
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was told")
	}
	return message{}
}

// TestFailedSyncsAreTold: also those that end at once, since no other attempt can help.
func TestFailedSyncsAreTold(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin()
	u, _ := newUpstream(t, 3, 41)
	for name, spoil := range map[string]func(t *testing.T, channel string) (want string){
		"an upstream that wants credentials": func(*testing.T, string) string { u.answerBy(always(401)); return "401" },
		"a remote that cannot be used": func(t *testing.T, channel string) string {
			admin.In(t).Must(200, "PATCH", "/entrepot/v1/channels/"+channel+"/remote?update_mask=username,password", obj{"username": "u", "password": "p"})
			admin.In(t).Must(200, "PATCH", "/entrepot/v1/channels/"+channel+"?update_mask=mirror.url", obj{"mirror": obj{"url": "http://127.0.0.1:1/elsewhere"}})
			return "were given for"
		},
		"an upstream that this server must not ask": func(t *testing.T, channel string) string {
			admin.In(t).Must(200, "PATCH", "/entrepot/v1/channels/"+channel+"?update_mask=mirror.url", obj{"mirror": obj{"url": "http://169.254.169.254/latest"}})
			return "169.254.169.254"
		},
	} {
		t.Run(name, func(t *testing.T) {
			channel := strings.ReplaceAll(name, " ", "-")[:20]
			mirror(t, s, channel, u.URL)
			url, told := receiver(t)
			id, secret := addHook(t, s, channel, url)
			want := spoil(t, channel)
			defer u.answerBy(nil)
			var started struct{ ID int64 }
			admin.In(t).Must(200, "PUT", "/api/channels/"+channel+"/actions", obj{"action": "synchronize_repodata"}).JSON(&started)
			j := ended(t, s, started.ID)
			if j.State != "JOB_STATE_DEAD" || !strings.Contains(j.Error, want) {
				t.Fatalf("%s %s", j.State, j.Error)
			}
			m := next(t, told)
			if m.Event != "sync.failed" || m.Job != j.ID || !strings.Contains(m.Error, want) || m.Channel.Name != channel || m.ID != m.delivery {
				t.Errorf("%s", m.body)
			}
			at, sum, _ := strings.Cut(strings.TrimPrefix(m.signature, "t="), ",v1=")
			mac := hmac.New(sha256.New, []byte(secret))
			mac.Write([]byte(at + "." + string(m.body)))
			if hex.EncodeToString(mac.Sum(nil)) != sum {
				t.Errorf("the signature is %s", m.signature)
			}
			var list struct {
				Deliveries []struct {
					Event, State string
					Attempts     int
					Status       int
				}
			}
			eventually(t, "the delivery's end", func() bool {
				admin.In(t).Must(200, "GET", "/entrepot/v1/channels/"+channel+"/webhooks/"+id+"/deliveries", nil).JSON(&list)
				return len(list.Deliveries) == 1 && list.Deliveries[0].State == "STATE_DELIVERED"
			})
			if d := list.Deliveries[0]; d.Event != "sync.failed" || d.Attempts != 1 || d.Status != 204 {
				t.Errorf("%+v", d)
			}
		})
	}
	t.Run("one that will be tried again is not", func(t *testing.T) {
		mirror(t, s, "patient", u.URL)
		url, told := receiver(t)
		addHook(t, s, "patient", url, "sync.failed")
		u.answerBy(always(500))
		var started struct{ ID int64 }
		admin.In(t).Must(200, "PUT", "/api/channels/patient/actions", obj{"action": "synchronize_repodata"}).JSON(&started)
		eventually(t, "the first failure", func() bool {
			return query[int](t, s, `SELECT failures FROM jobs.jobs WHERE seq = $1`, started.ID)[0] > 0
		})
		u.answerBy(nil)
		query[int](t, s, `UPDATE jobs.jobs SET start_at = now() WHERE seq = $1 AND state = 'scheduled' RETURNING 1`, started.ID)
		if j := ended(t, s, started.ID); j.State != "JOB_STATE_SUCCEEDED" {
			t.Errorf("%+v", j)
		}
		if len(told) != 0 {
			t.Errorf("%s", (<-told).body)
		}
	})
}
