package apitest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// server is another server; it answers what a test tells it to, and notes what it was asked.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	asked   []string
	answers map[string]string // path → JSON; absent is 404
}

func newServer(t *testing.T) *server {
	s := &server{answers: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := new(strings.Builder)
		if r.Method == "POST" {
			buf := make([]byte, 4096)
			n, _ := r.Body.Read(buf)
			body.Write(buf[:n])
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("X-Api-Key")+" "+body.String()))
		answer, ok := s.answers[r.URL.Path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case strings.HasPrefix(answer, "→"):
			http.Redirect(w, r, strings.TrimPrefix(answer, "→"), http.StatusFound)
		default:
			if r.Method == "POST" {
				w.WriteHeader(201)
			}
			_, _ = w.Write([]byte(answer))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// TestQuetzMirrors: registering, listing and forgetting mirrors; quetz.md §8.
func TestQuetzMirrors(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob, dave, alice := w.User("bob").In(t), w.User("dave").In(t), w.Admin().In(t)
	path := "/api/channels/" + ch.name + "/mirrors"
	other := newServer(t)
	other.answers["/api/channels/mir"] = `{"name":"mir","mirror_channel_url":"http://elsewhere/get/x"}`
	other.answers["/get/api/channels/mir"] = `{"mirror_channel_url":"` + w.URL + "/get/" + ch.name + `"}`
	other.answers["/api/channels/local"] = `{"name":"local","mirror_channel_url":null}`
	other.answers["/api/channels/strange"] = `{"name":"strange"}`
	other.answers["/api/channels/list"] = `[]`
	other.answers["/api/channels/moved"] = "→" + w.URL + "/api/channels/mir"

	t.Run("endpoints follow from the URL", func(t *testing.T) {
		if got := string(bob.In(t).Must(201, "POST", path, `{"url":"`+other.URL+`/get/mir"}`).Body); got != "null" {
			t.Errorf("%s", got)
		}
		bob.In(t).Must(201, "POST", path+"/", `{"url":"`+other.URL+`/get/channels/mir/"}`)
		got := string(dave.In(t).Must(200, "GET", path, nil).Body)
		want := regexp.MustCompile(`^\[\{"url":"URL/get/mir","api_endpoint":"URL/api/channels/mir","metrics_endpoint":"URL/metrics/channels/mir","id":"[0-9a-f-]{36}"\},` +
			`\{"url":"URL/get/channels/mir/","api_endpoint":"URL/get/api/channels/mir","metrics_endpoint":"URL/get/metrics/channels/mir","id":"[0-9a-f-]{36}"\}\]$`)
		if !want.MatchString(strings.ReplaceAll(got, other.URL, "URL")) {
			t.Errorf("%s", got)
		}
		var native struct {
			Mirrors []struct{ Confirmed bool }
		}
		bob.In(t).Must(200, "GET", "/entrepot/v1/channels/"+ch.name+"/mirrors", nil).JSON(&native)
		if len(native.Mirrors) != 2 || native.Mirrors[0].Confirmed || !native.Mirrors[1].Confirmed {
			t.Errorf("%+v", native)
		}
	})
	t.Run("the same URL twice changes its endpoints", func(t *testing.T) {
		bob.In(t).Must(201, "POST", path, `{"url":"`+other.URL+`/get/mir","metrics_endpoint":"`+other.URL+`/m"}`)
		var all []struct {
			ID              string
			MetricsEndpoint string `json:"metrics_endpoint"`
		}
		bob.In(t).Must(200, "GET", path, nil).JSON(&all)
		if len(all) != 2 || all[0].MetricsEndpoint != other.URL+"/m" {
			t.Fatalf("%+v", all)
		}
		if got := string(bob.In(t).Must(200, "DELETE", path+"/"+all[0].ID, nil).Body); got != "null" {
			t.Errorf("%s", got)
		}
		bob.In(t).Must(404, "DELETE", path+"/"+all[0].ID, nil)
		bob.In(t).Must(404, "DELETE", path+"/x", nil)
	})
	for name, c := range map[string]struct {
		body   string
		status int
		text   string
	}{
		"not there":       {`{"url":"` + other.URL + `/get/none"}`, 422, "could not connect to remote repository URL"},
		"nobody there":    {`{"url":"http://127.0.0.1:8999/get/none"}`, 422, "could not connect to remote repository URL"},
		"a redirect":      {`{"url":"` + other.URL + `/get/moved"}`, 422, "could not connect to remote repository URL"},
		"an inner host":   {`{"url":"http://169.254.169.254/get/none"}`, 422, "could not connect to remote repository URL"},
		"no Quetz":        {`{"url":"` + other.URL + `/get/strange"}`, 422, "mirror server is not quetz server"},
		"no object":       {`{"url":"` + other.URL + `/get/list"}`, 422, "mirror server is not quetz server"},
		"no mirror":       {`{"url":"` + other.URL + `/get/local"}`, 404, "URL is not a mirror server"},
		"a variable":      {`{"url":"${QUETZ_HOST}/get/x"}`, 422, "a variable that the shell did not expand"},
		"no URL":          {`{"url":"ftp://x/get/y"}`, 422, "String should match pattern '^(http|https)://.+'"},
		"no channel":      {`{"url":"http://x/y"}`, 422, "do not follow from a URL"},
		"with a key":      {`{"url":"http://u:p@x/get/y"}`, 422, "credentials"},
		"absent":          {`{}`, 422, "Field required"},
		"ours, no mirror": {`{"url":"` + w.URL + `/get/channel0"}`, 404, "URL is not a mirror server"},
		"ours, not there": {`{"url":"` + w.URL + `/get/nothing"}`, 422, "could not connect to remote repository URL"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := detail(t, bob.In(t).Must(c.status, "POST", path, c.body)); !strings.Contains(got, c.text) {
				t.Errorf("%s, want %s", got, c.text)
			}
		})
	}
	t.Run("a mirror that is ours is asked inside, as far as the caller may see it", func(t *testing.T) {
		up := map[string]any{"mirror_mode": "mirror", "mirror_channel_url": w.URL + "/get/" + ch.name, "actions": []any{}}
		for name, private := range map[string]bool{"open": false, "shut": true} {
			up["name"], up["private"] = name, private
			alice.Must(201, "POST", "/api/channels", up)
		}
		bob.In(t).Must(201, "POST", path, `{"url":"`+w.URL+`/get/open"}`)
		if got := detail(t, bob.In(t).Must(422, "POST", path, `{"url":"`+w.URL+`/get/shut"}`)); got != "could not connect to remote repository URL" {
			t.Errorf("%s", got)
		}
		if got := detail(t, alice.In(t).Must(405, "POST", "/api/channels/"+w.proxy(t, alice)+"/mirrors", `{"url":"`+w.URL+`/get/open"}`)); got != "This method is not implemented for proxy channels" {
			t.Errorf("%s", got)
		}
	})
	t.Run("a mirror registers itself at its upstream", func(t *testing.T) {
		primary := newServer(t)
		primary.answers["/api/channels/up/mirrors"] = `null`
		alice.In(t).Must(201, "POST", "/api/channels?register_mirror=true&mirror_api_key=secret-key", map[string]any{
			"name": "announced", "mirror_mode": "mirror", "mirror_channel_url": primary.URL + "/get/up", "actions": []any{},
		})
		want := []string{`POST /api/channels/up/mirrors secret-key {"url":"` + w.URL + `/get/announced","api_endpoint":"` + w.URL + `/api/channels/announced","metrics_endpoint":"` + w.URL + `/metrics/channels/announced"}`}
		soon(t, func() bool { return len(primary.requests()) > 0 })
		if diff := cmp.Diff(want, primary.requests()); diff != "" {
			t.Error(diff)
		}
		if !soon(t, func() bool { return w.exec(t, "UPDATE channels.announcements SET created_at = created_at") == 0 }) {
			t.Error("the key is still kept")
		}
		alice.In(t).Must(201, "POST", "/api/channels?register_mirror=False&mirror_api_key=", map[string]any{
			"name": "quiet", "mirror_mode": "mirror", "mirror_channel_url": primary.URL + "/get/up", "actions": []any{},
		})
		alice.In(t).Must(201, "POST", "/api/channels?register_mirror=1&mirror_api_key=", map[string]any{
			"name": "keyless", "mirror_mode": "proxy", "mirror_channel_url": primary.URL + "/channels/up",
		})
		if !soon(t, func() bool { return len(primary.requests()) == 2 }) {
			t.Fatalf("%v", primary.requests())
		}
		if got := primary.requests()[1]; !strings.HasPrefix(got, `POST /api/channels/up/mirrors  {"url"`) {
			t.Errorf("%s", got)
		}
	})
	t.Run("at a channel of its own server, with the rights of the key", func(t *testing.T) {
		for i, key := range []string{w.User("dave").Key, w.User("bob").Key} {
			name := fmt.Sprintf("self%d", i)
			alice.In(t).Must(201, "POST", "/api/channels?register_mirror=true&mirror_api_key="+key, map[string]any{
				"name": name, "private": false, "mirror_mode": "mirror", "mirror_channel_url": w.URL + "/get/" + ch.name, "actions": []any{},
			})
		}
		if !soon(t, func() bool { return strings.Contains(string(bob.In(t).Must(200, "GET", path, nil).Body), "/get/self1") }) {
			t.Error("bob's key did not register the mirror")
		}
		if strings.Contains(string(bob.In(t).Must(200, "GET", path, nil).Body), "/get/self0") {
			t.Error("a member's key registered a mirror")
		}
	})
}

// proxy makes a proxy channel.
func (w *world) proxy(t *testing.T, c *platformtest.Client) string {
	name := w.name()
	c.In(t).Must(201, "POST", "/api/channels", map[string]any{"name": name, "mirror_mode": "proxy", "mirror_channel_url": "http://127.0.0.1:8999/get/x"})
	return name
}
