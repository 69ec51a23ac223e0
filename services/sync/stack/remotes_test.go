package stack_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// canary is part of every secret of these tests, so that one search finds any of them.
const canary = "cAnArY"

// remote sets how the mirror's upstream is reached.
func (m *mirror) remote(settings map[string]any, fields ...string) *platformtest.Response {
	m.t.Helper()
	q := ""
	if len(fields) > 0 {
		q = "?update_mask=" + strings.Join(fields, ",")
	}
	return m.admin().Do("PATCH", "/entrepot/v1/channels/"+m.name+"/remote"+q, settings)
}

// set is remote, and it must succeed.
func (m *mirror) set(settings map[string]any, fields ...string) {
	m.t.Helper()
	if r := m.remote(settings, fields...); r.Status != 200 {
		m.t.Fatalf("set the remote of %s: %d %s", m.name, r.Status, r.Body)
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

// only serves to those whose request has the header.
func only(header, value string, h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(header) != value {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	}
}

// below serves what is behind a prefix, and nothing else.
func below(prefix string, h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, prefix) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.StripPrefix(prefix, h).ServeHTTP(w, r)
	}
}

// leaks searches a secret where none may be: in all that the platform logged, and in the whole database.
func leaks(t *testing.T, s *platformtest.Stack) {
	t.Helper()
	for _, secret := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary))[:6], base64.StdEncoding.EncodeToString([]byte("u:" + canary))[:9]} {
		if i := strings.Index(s.Logs(), secret); i >= 0 {
			t.Errorf("a secret is in the log: …%s", s.Logs()[max(0, i-300):i+10])
		}
		dump := databaseText(t, s)
		if i := strings.Index(dump, secret); i >= 0 {
			t.Errorf("a secret is in the database: …%.400s", dump[max(0, i-300):])
		}
	}
}

// databaseText is every row of every table as text, with bytes as text too.
func databaseText(t *testing.T, s *platformtest.Stack) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND schemaname NOT LIKE 'pg\_%'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `SET bytea_output = 'escape'`); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, table := range tables {
		rows, err := conn.Query(t.Context(), `SELECT t::text FROM `+table+` t`)
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(strings.Join(texts, "\n"))
	}
	return all.String()
}

// A private upstream is refused without its credentials, mirrored with them, and nobody sees them again.
func TestCredentialsOfARemote(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	for i, tc := range []struct {
		name     string
		settings map[string]any
		up       func(http.Handler) http.Handler
		shown    map[string]any
	}{
		{"basic", map[string]any{"username": "robot", "password": "pw-" + canary}, func(h http.Handler) http.Handler {
			return only("Authorization", basic("robot", "pw-"+canary), h)
		}, map[string]any{"username": "robot", "password_set": true}},
		{"bearer", map[string]any{"bearer_token": "tk-" + canary}, func(h http.Handler) http.Handler {
			return only("Authorization", "Bearer tk-"+canary, h)
		}, map[string]any{"bearer_token_set": true}},
		{"header", map[string]any{"header": "X-Api-Key", "header_value": "hv-" + canary}, func(h http.Handler) http.Handler {
			return only("X-Api-Key", "hv-"+canary, h)
		}, map[string]any{"header": "X-Api-Key", "header_value_set": true}},
		{"path", map[string]any{"path_token": "pt-" + canary}, func(h http.Handler) http.Handler {
			return below("/t/pt-"+canary, h)
		}, map[string]any{"path_token_set": true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMirror(t, s, "private-"+tc.name)
			m.up.Fallback(tc.up(m.ch))
			path := m.ch.Add("noarch", "a", "1.0", content(i, 500))
			j := m.wait(m.start(nil).ID, ended)
			if !strings.Contains(j.Error, "401") {
				t.Errorf("without credentials: %s %q", j.State, j.Error)
			}
			m.admin().Do("POST", "/entrepot/v1/jobs/"+j.ID+":cancel", map[string]any{})
			m.wait(j.ID, func(j job) bool { return j.State == "JOB_STATE_CANCELLED" || j.State == "JOB_STATE_DEAD" })

			m.set(tc.settings)
			if r := m.sync(nil); r.Added != 1 || r.Failed != 0 {
				t.Errorf("with credentials: %+v", r)
			}
			m.good(path)
			resp := m.admin().Must(200, "GET", "/entrepot/v1/channels/"+m.name+"/remote", nil)
			var got map[string]any
			resp.JSON(&got)
			for k, v := range tc.shown {
				if !cmp.Equal(got[k], v) {
					t.Errorf("%s is %v, want %v", k, got[k], v)
				}
			}
			if got["origin"] != m.up.URL || strings.Contains(string(resp.Body), canary) {
				t.Errorf("shown: %s", resp.Body)
			}

			// Cleared, it is as if there had been none.
			m.set(map[string]any{}, "*")
			m.ch.Add("noarch", "b", "1.0", content(10+i, 500))
			j = m.wait(m.start(map[string]any{"force": true}).ID, ended)
			if !strings.Contains(j.Error, "401") {
				t.Errorf("after they were cleared: %s %q", j.State, j.Error)
			}
		})
	}
	log := string(s.Admin().Must(200, "GET", "/entrepot/v1/audit?page_size=1000", nil).Body)
	if n := strings.Count(log, `"action":"channel.remote.update"`); n != 8 || strings.Contains(log, canary) || !strings.Contains(log, `"fields":["bearer_token"]`) {
		t.Errorf("%d events of changed remotes: %s", n, log)
	}
	leaks(t, s)
}

// Who may not change a mirror may neither see nor set how it is reached.
func TestARemoteIsForThoseWhoMayChangeTheChannel(t *testing.T) {
	s := platformtest.Start(t)
	m := newMirror(t, s, "whose")
	for name, c := range map[string]*platformtest.Client{"anonymous": s.Anonymous(), "dave": s.User("dave")} {
		want := map[string]int{"anonymous": 401, "dave": 403}[name]
		c.Must(want, "GET", "/entrepot/v1/channels/whose/remote", nil)
		c.Must(want, "PATCH", "/entrepot/v1/channels/whose/remote", map[string]any{"username": "x"})
	}
	s.Admin().Must(200, "POST", "/entrepot/v1/channels", map[string]any{"name": "hosted"})
	if r := s.Admin().Do("GET", "/entrepot/v1/channels/hosted/remote", nil); r.Status != 412 {
		t.Errorf("a hosted channel: %d %s", r.Status, r.Body)
	}
	// The call by which channels hands credentials over is nobody else's.
	for _, path := range []string{"/entrepot.sync.v1.SyncService/PutRemote"} {
		err := s.Conn().Invoke(t.Context(), path, struct{}{}, nil)
		if err == nil {
			t.Errorf("%s can be called", path)
		}
	}
	m.admin().Must(200, "GET", "/entrepot/v1/channels/whose/remote", nil)
}

// Each mistake is told by the field it is in, and never quoted where it may be a secret.
func TestBadRemoteSettingsNameTheField(t *testing.T) {
	s := platformtest.Start(t)
	m := newMirror(t, s, "bad")
	ca := fetchtest.NewAuthority(t)
	cert, key := fetchtest.Pair(t, ca.Issue(time.Now().Add(time.Hour), "client"))
	_, otherKey := fetchtest.Pair(t, ca.Issue(time.Now().Add(time.Hour), "other"))
	for name, tc := range map[string]struct {
		settings map[string]any
		field    string
	}{
		"a line break in the token":          {map[string]any{"bearer_token": canary + "\r\nX-Evil: 1"}, "settings.bearer_token"},
		"a line break in the header's value": {map[string]any{"header": "X-Key", "header_value": canary + "\nX"}, "settings.header_value"},
		"a NUL in the password":              {map[string]any{"username": "u", "password": canary + "\x00"}, "settings.password"},
		"a password without user":            {map[string]any{"password": canary}, "settings.username"},
		"a colon in the user":                {map[string]any{"username": "a:b"}, "settings.username"},
		"two ways to log in":                 {map[string]any{"username": "u", "bearer_token": canary}, "settings.username"},
		"a header's name":                    {map[string]any{"header": "a b", "header_value": canary}, "settings.header"},
		"a header that frames":               {map[string]any{"header": "content-length", "header_value": "1"}, "settings.header"},
		"the proxy's own header":             {map[string]any{"header": "Proxy-Authorization", "header_value": canary}, "settings.header"},
		"a header without value":             {map[string]any{"header": "X-Key"}, "settings.header_value"},
		"a token that climbs":                {map[string]any{"path_token": ".."}, "settings.path_token"},
		"a token with a slash":               {map[string]any{"path_token": canary + "/x"}, "settings.path_token"},
		"no PEM":                             {map[string]any{"ca_bundle": "no PEM " + canary}, "settings.ca_bundle"},
		"a key as CA":                        {map[string]any{"ca_bundle": string(key)}, "settings.ca_bundle"},
		"text behind a CA":                   {map[string]any{"ca_bundle": string(ca.PEM()) + "tail"}, "settings.ca_bundle"},
		"a broken CA":                        {map[string]any{"ca_bundle": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "settings.ca_bundle"},
		"a large CA bundle":                  {map[string]any{"ca_bundle": strings.Repeat(string(ca.PEM()), 1000)}, "settings.ca_bundle"},
		"a certificate without key":          {map[string]any{"client_cert": string(cert)}, "settings.client_key"},
		"a key without certificate":          {map[string]any{"client_key": string(key)}, "settings.client_cert"},
		"another's key":                      {map[string]any{"client_cert": string(cert), "client_key": string(otherKey)}, "settings.client_key"},
		"a proxy by socks":                   {map[string]any{"proxy_url": "socks5://u:" + canary + "@127.0.0.1:1080"}, "settings.proxy_url"},
		"a proxy by file":                    {map[string]any{"proxy_url": "file:///" + canary}, "settings.proxy_url"},
		"a proxy without host":               {map[string]any{"proxy_url": "http://"}, "settings.proxy_url"},
		"a proxy at the mail port":           {map[string]any{"proxy_url": "http://u:" + canary + "@proxy.example.org:25"}, "settings.proxy_url"},
		"a proxy with a path":                {map[string]any{"proxy_url": "http://proxy.example.org/" + canary}, "settings.proxy_url"},
		"a proxy that is no URL":             {map[string]any{"proxy_url": "http://u:" + canary + "@h:x"}, "settings.proxy_url"},
		"a negative rate":                    {map[string]any{"rate_bytes": -1}, "settings.rate_bytes"},
		"a rate out of range":                {map[string]any{"rate_requests": 1e12}, "settings.rate_requests"},
		"a long secret":                      {map[string]any{"bearer_token": strings.Repeat(canary, 5000)}, "settings.bearer_token"},
	} {
		t.Run(name, func(t *testing.T) {
			r := m.remote(tc.settings)
			var problem struct {
				Violations []struct{ Field string } `json:"violations"`
			}
			if r.Status != 400 {
				t.Fatalf("%d %.300s", r.Status, r.Body)
			}
			r.JSON(&problem)
			if len(problem.Violations) != 1 || problem.Violations[0].Field != tc.field {
				t.Errorf("%+v, want %s: %s", problem.Violations, tc.field, r.Body)
			}
			if strings.Contains(string(r.Body), canary) {
				t.Errorf("it quotes the secret: %s", r.Body)
			}
		})
	}
	for _, mask := range []string{"sealed", "settings.username", "origin"} {
		if r := m.remote(map[string]any{}, mask); r.Status != 400 {
			t.Errorf("mask %s: %d %s", mask, r.Status, r.Body)
		}
	}
	if got := string(m.admin().Must(200, "GET", "/entrepot/v1/channels/bad/remote", nil).Body); !strings.Contains(got, `"update_time":null`) {
		t.Errorf("something was kept: %s", got)
	}
}

// Whoever may change a channel but does not know its secrets cannot have them sent to himself.
func TestCredentialsStayWithTheOriginTheyWereGivenFor(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := newMirror(t, s, "moved")
	m.up.Fallback(only("Authorization", "Bearer tk-"+canary, m.ch))
	m.ch.Add("noarch", "a", "1.0", content(1, 500))
	m.set(map[string]any{"bearer_token": "tk-" + canary})
	m.sync(nil)

	evil := fetchtest.New(t)
	evil.Fallback(m.ch)
	move := func(to string) {
		t.Helper()
		m.admin().Must(200, "PATCH", "/entrepot/v1/channels/moved?update_mask=mirror.url", map[string]any{"mirror": map[string]any{"url": to}})
	}
	move(evil.URL)
	j := m.wait(m.start(nil).ID, ended)
	if j.State != "JOB_STATE_DEAD" || !strings.Contains(j.Error, "entrepot channel remote moved") || strings.Contains(j.Error, canary) {
		t.Errorf("at another origin: %s %q", j.State, j.Error)
	}
	if n := len(evil.Requests()); n != 0 {
		t.Errorf("it was asked %d times", n)
	}
	// A second credential does not take the first along.
	if r := m.remote(map[string]any{"path_token": "mine"}); r.Status != 400 || !strings.Contains(string(r.Body), m.up.URL) {
		t.Errorf("half of the credentials for another origin: %d %s", r.Status, r.Body)
	}
	// Neither a proxy nor an authority of his own reads them.
	move(m.up.URL)
	proxy := fetchtest.NewProxy(t, "", "")
	for field, value := range map[string]string{"proxy_url": proxy.URL, "ca_bundle": string(fetchtest.NewAuthority(t).PEM())} {
		if r := m.remote(map[string]any{field: value}); r.Status != 400 || !strings.Contains(string(r.Body), "CREDENTIALS_NEEDED") {
			t.Errorf("%s alone: %d %s", field, r.Status, r.Body)
		}
		m.set(map[string]any{field: value, "bearer_token": "tk-" + canary})
		m.set(map[string]any{field: ""}) // taking it away is harmless
	}
	m.ch.Add("noarch", "b", "1.0", content(2, 500))
	if r := m.sync(nil); r.Added != 1 {
		t.Errorf("back at its origin: %+v", r)
	}
	// Given anew, they are the new origin's.
	move(evil.URL)
	m.set(map[string]any{"bearer_token": "another"})
	m.ch.Add("noarch", "c", "1.0", content(3, 500))
	if r := m.sync(nil); r.Added != 1 {
		t.Errorf("at the new origin: %+v", r)
	}
	for _, r := range evil.Requests() {
		if r.Header.Get("Authorization") != "Bearer another" {
			t.Errorf("it was sent %v", r.Header)
		}
	}
	leaks(t, s)
}

// What is set acts on a sync that runs, and after a restart.
func TestNewCredentialsActOnTheNextRequest(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient), platformtest.WithConfig(func(c *platform.Config) { c.Sync.Downloads = 4 }))
	m := slowMirror(t, s, "rotated", 120, 100*time.Millisecond)
	m.up.Fallback(m.ch)
	m.set(map[string]any{"bearer_token": "old-" + canary})
	j := m.start(nil)
	waitFor(t, "some files are had", func() bool { return files(m.up) > 10 })
	m.set(map[string]any{"bearer_token": "new-" + canary})
	j = m.wait(j.ID, ended)
	if j.State != "JOB_STATE_SUCCEEDED" || j.Result.Added != 120 {
		t.Fatalf("%+v", j)
	}
	reqs := m.up.Requests()
	if got := reqs[len(reqs)-1].Header.Get("Authorization"); got != "Bearer new-"+canary {
		t.Errorf("the last file was asked for with %q", got)
	}
	s.Restart()
	m.up.Reset()
	m.sync(map[string]any{"force": true})
	for _, r := range m.up.Requests() {
		if got := r.Header.Get("Authorization"); got != "Bearer new-"+canary {
			t.Errorf("after a restart %s was asked for with %q", r.Path, got)
		}
	}
	leaks(t, s)
}

// A new channel's URL may bring credentials: they are the remote's from the start, and shown nowhere.
func TestAURLWithCredentialsMakesARemote(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	withUser := func(u string) string {
		return strings.Replace(u, "http://", "http://robot:"+url.QueryEscape("p@/:"+canary)+"@", 1)
	}
	n := 0
	for dialect, create := range map[string]func(name, url string) *platformtest.Response{
		"native": func(name, url string) *platformtest.Response {
			return s.Admin().Do("POST", "/entrepot/v1/channels", map[string]any{"name": name, "private": false, "mirror": map[string]any{"url": url}})
		},
		"quetz": func(name, url string) *platformtest.Response {
			return s.Admin().Do("POST", "/api/channels", map[string]any{
				"name": name, "private": false, "mirror_channel_url": url, "mirror_mode": "mirror", "actions": []string{},
			})
		},
	} {
		for kind, url := range map[string]func(string) string{
			"user":  withUser,
			"token": func(u string) string { return u + "/t/tk-" + canary + "/get/ch" },
			"both":  func(u string) string { return withUser(u) + "/t/tk-" + canary + "/get/ch" },
		} {
			t.Run(dialect+" "+kind, func(t *testing.T) {
				n++
				m := &mirror{t: t, stack: s, name: fmt.Sprintf("born%d", n), ch: synctest.NewChannel(), up: fetchtest.New(t)}
				var h http.Handler = m.ch
				if kind != "user" {
					h = below("/t/tk-"+canary+"/get/ch", h)
				}
				if kind != "token" {
					h = only("Authorization", basic("robot", "p@/:"+canary), h)
				}
				m.up.Fallback(h)
				path := m.ch.Add("noarch", "a", "1.0", content(n, 500))
				resp := create(m.name, url(m.up.URL))
				if resp.Status/100 != 2 || strings.Contains(string(resp.Body), canary) {
					t.Fatalf("%d %s", resp.Status, resp.Body)
				}
				if r := m.sync(nil); r.Added != 1 || r.Failed != 0 {
					t.Fatalf("%+v", r)
				}
				m.good(path)
				for _, path := range []string{"/entrepot/v1/channels/" + m.name, "/api/channels/" + m.name, "/entrepot/v1/channels/" + m.name + "/remote", "/entrepot/v1/channels/" + m.name + "/sync"} {
					if body := string(m.admin().Must(200, "GET", path, nil).Body); strings.Contains(body, canary) || strings.Contains(body, "robot:") {
						t.Errorf("%s shows them: %s", path, body)
					}
				}
				// Deleted with the channel.
				if rows := remoteRows(t, s); rows != 1 {
					t.Errorf("%d rows of remotes", rows)
				}
				m.admin().Must(200, "DELETE", "/api/channels/"+m.name, nil)
				waitFor(t, "its credentials are gone", func() bool { return remoteRows(t, s) == 0 })
			})
		}
	}
	t.Run("a channel that is refused leaves none", func(t *testing.T) {
		for _, name := range []string{"channel0", "bad name!"} {
			resp := s.Admin().Do("POST", "/entrepot/v1/channels", map[string]any{"name": name, "mirror": map[string]any{"url": "https://u:" + canary + "@example.org/c"}})
			if resp.Status < 400 || strings.Contains(string(resp.Body), canary) {
				t.Errorf("%s: %d %s", name, resp.Status, resp.Body)
			}
		}
		for _, url := range []string{"https://u:" + canary + "%0d@example.org/c", "https://u:" + canary + "@:80/", "file://u:" + canary + "@h/c", "https://example.org/c/t/" + canary + "/x"} {
			for dialect, resp := range map[string]*platformtest.Response{
				"native": s.Admin().Do("POST", "/entrepot/v1/channels", map[string]any{"name": "refused", "mirror": map[string]any{"url": url}}),
				"quetz":  s.Admin().Do("POST", "/api/channels", map[string]any{"name": "refused", "private": false, "mirror_channel_url": url, "mirror_mode": "mirror"}),
			} {
				if resp.Status < 400 || resp.Status >= 500 {
					t.Errorf("%s %s: %d %s", dialect, url, resp.Status, resp.Body)
				}
				if dialect == "native" && strings.Contains(string(resp.Body), canary) {
					t.Errorf("%s: the answer quotes it: %s", dialect, resp.Body)
				}
			}
		}
		if rows := remoteRows(t, s); rows != 0 {
			t.Errorf("%d rows of remotes are left", rows)
		}
	})
	t.Run("a changed URL must not bring any, and the text names the command", func(t *testing.T) {
		m := newMirror(t, s, "changed")
		r := m.admin().Do("PATCH", "/entrepot/v1/channels/changed?update_mask=mirror.url", map[string]any{"mirror": map[string]any{"url": withUser(m.up.URL)}})
		if r.Status != 400 || !strings.Contains(string(r.Body), "entrepot channel remote") || strings.Contains(string(r.Body), canary) {
			t.Errorf("%d %s", r.Status, r.Body)
		}
	})
	leaks(t, s)
}

func remoteRows(t *testing.T, s *platformtest.Stack) (n int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM sync.remotes`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
