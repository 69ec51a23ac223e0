package apitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestJobsOfOthers: whoever may sync a channel sees and steers its jobs, members and strangers do not, and a key that is
// narrowed to another channel shows and starts nothing, though its user asked for the job.
func TestJobsOfOthers(t *testing.T) {
	w := newWorld(t)
	alice := w.Admin().In(t)
	mirror := func(name string) {
		alice.Must(201, "POST", "/api/channels", map[string]any{
			"name": name, "private": false, "mirror_mode": "mirror", "mirror_channel_url": "http://127.0.0.1:39999/none", "actions": []any{},
		})
	}
	mirror("ours")
	mirror("other")
	for user, role := range map[string]string{"carol": "maintainer", "dave": "member"} {
		alice.Must(201, "POST", "/api/channels/ours/members", map[string]any{"username": user, "role": role})
	}
	var key struct{ Key string }
	alice.Must(201, "POST", "/api/api-keys", map[string]any{
		"description": "narrow", "roles": []any{map[string]any{"channel": "other", "package": nil, "role": "member"}},
	}).JSON(&key)
	later := map[string]any{"start_at": time.Now().Add(time.Hour).Format(time.RFC3339)}
	start := func() string {
		var job struct{ ID string }
		alice.Must(200, "POST", "/entrepot/v1/channels/ours:sync", later).JSON(&job)
		return job.ID
	}
	total := func(c *platformtest.Client, query string) (n int) {
		var list struct {
			Jobs []struct{ Kind string }
		}
		c.Must(200, "GET", "/entrepot/v1/jobs?kind=sync.channel"+query, nil).JSON(&list)
		return len(list.Jobs)
	}
	id := start()
	for _, c := range []struct {
		who    string
		client *platformtest.Client
		see    int
		listed int
	}{
		{"maintainer", w.User("carol"), 200, 0},
		{"member", w.User("dave"), 403, 0},
		{"stranger", w.User("erin"), 403, 0},
		{"narrowed key of whoever asked", w.As(key.Key), 403, 0},
		{"whoever asked", alice, 200, 1},
		{"nobody", w.Anonymous(), 401, -1},
	} {
		t.Run(c.who, func(t *testing.T) {
			client := c.client.In(t)
			client.Must(c.see, "GET", "/entrepot/v1/jobs/"+id, nil)
			if c.see != 200 {
				client.Must(c.see, "POST", "/entrepot/v1/jobs/"+id+":cancel", nil)
				client.Must(c.see, "POST", "/entrepot/v1/jobs/"+id+":retry", nil)
			}
			if c.listed >= 0 {
				if got := total(client, ""); got != c.listed {
					t.Errorf("%d jobs listed, want %d", got, c.listed)
				}
			}
		})
	}
	if got := total(w.User("carol").In(t), "&resource=channel/ours"); got != 1 {
		t.Errorf("a maintainer lists %d jobs of the channel", got)
	}
	w.User("carol").In(t).Must(200, "POST", "/entrepot/v1/jobs/"+id+":cancel", nil)

	// A channel that takes the name later does not show the former one's jobs to its own people.
	id = start()
	alice.Must(200, "DELETE", "/api/channels/ours", nil)
	mirror("ours")
	alice.Must(201, "POST", "/api/channels/ours/members", map[string]any{"username": "carol", "role": "maintainer"})
	w.User("carol").In(t).Must(403, "GET", "/entrepot/v1/jobs/"+id, nil)
}

// TestARevokedFollowerIsCutOff: a stream ends within five seconds of the right to it.
func TestARevokedFollowerIsCutOff(t *testing.T) {
	w := newWorld(t)
	alice := w.Admin().In(t)
	alice.Must(201, "POST", "/api/channels", map[string]any{
		"name": "slow", "private": false, "mirror_mode": "mirror", "mirror_channel_url": "http://127.0.0.1:39999/none", "actions": []any{},
	})
	var job struct{ ID string }
	alice.Must(200, "POST", "/entrepot/v1/channels/slow:sync", map[string]any{"start_at": time.Now().Add(time.Hour).Format(time.RFC3339)}).JSON(&job)
	var key struct{ Key string }
	alice.Must(201, "POST", "/api/api-keys", map[string]any{"description": "follower", "roles": []any{}}).JSON(&key)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/entrepot/v1/jobs/"+job.ID+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Key", key.Key)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatalf("no event came: %v", err)
	}
	alice.Must(200, "DELETE", "/api/api-keys/"+key.Key, nil)
	began := time.Now()
	_, err = io.Copy(io.Discard, resp.Body)
	if took := time.Since(began); err != nil || took > 5*time.Second {
		t.Errorf("the stream went on for %s (%v)", took, err)
	}
}

// TestARepetitionEnds: what repeat_every_seconds began, 0 ends, and an absent one leaves as it is.
func TestARepetitionEnds(t *testing.T) {
	w := newWorld(t)
	alice := w.Admin().In(t)
	alice.Must(201, "POST", "/api/channels", map[string]any{
		"name": "often", "private": false, "mirror_mode": "mirror", "mirror_channel_url": "http://127.0.0.1:39999/none", "actions": []any{},
	})
	at := time.Now().Add(time.Hour).Format(time.RFC3339)
	for _, c := range []struct {
		body map[string]any
		want int
	}{
		{map[string]any{"start_at": at, "repeat_every_seconds": 600}, 600},
		{map[string]any{"start_at": at}, 600},
		{map[string]any{"start_at": at, "repeat_every_seconds": 0}, 0},
	} {
		alice.Must(200, "POST", "/entrepot/v1/channels/often:sync", c.body)
		var status struct {
			Repeat int `json:"repeat_every_seconds"`
		}
		alice.Must(200, "GET", "/entrepot/v1/channels/often/sync", nil).JSON(&status)
		if status.Repeat != c.want {
			t.Errorf("after %v it repeats every %d s", c.body, status.Repeat)
		}
	}
}

// TestLargeBodiesAreNotHeld: a JSON body is read up to its bound, not to its end.
func TestLargeBodiesAreNotHeld(t *testing.T) {
	w := newWorld(t)
	blanks := bytes.Repeat([]byte(" "), 1<<20)
	body, pw := io.Pipe()
	taken := make(chan int, 1)
	go func() {
		sent := 0
		defer func() { taken <- sent }()
		for ; sent < 256; sent++ {
			if _, err := pw.Write(blanks); err != nil {
				return
			}
		}
		pw.Close()
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+"/entrepot/v1/channels", body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	body.CloseWithError(errors.New("enough"))
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	if sent := <-taken; sent > 32 {
		t.Errorf("%d MiB were taken", sent)
	}
}
