package teletest

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/config"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// canaries are secrets by what they are, and where they were looked for.
type canaries struct {
	t       *testing.T
	secrets map[string]string // what → secret
	looks   int
}

// forms are all ways that a secret might be written in: as it is, escaped for a URL, as hexadecimal digits, and as
// base64 at each of the three places it can have inside a longer text.
func forms(secret string) []string {
	all := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret)), strings.ToUpper(hex.EncodeToString([]byte(secret)))}
	for shift := range 3 {
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			coded := enc.EncodeToString([]byte(strings.Repeat("\x00", shift) + secret))
			if shift > 0 {
				coded = coded[4:] // begins in a group that depends on what stands before
			}
			all = append(all, coded[:len(coded)-4]) // ends likewise
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// patterns are secrets that the platform makes up itself, by their shape.
var patterns = map[string]*regexp.Regexp{
	"an internal token":   regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{40,}`),
	"a presigned URL":     regexp.MustCompile(`X-Amz-Signature=[0-9a-f]{16,}`),
	"a basic credential":  regexp.MustCompile(`(?i)authorization["':= ]+\[?(basic|bearer) [A-Za-z0-9+/=_-]{8,}`),
	"a session's cookie":  regexp.MustCompile(`entrepot_session=[A-Za-z0-9_-]{8,}`),
	"a private key's PEM": regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY`),
}

// absent fails for each secret that stands in a text, but for those that may be there.
func (c *canaries) absent(where, text string, but ...string) {
	c.t.Helper()
	c.looks++
	for what, secret := range c.secrets {
		if slices.Contains(but, what) {
			continue
		}
		for _, form := range forms(secret) {
			if i := strings.Index(text, form); i >= 0 {
				c.t.Errorf("%s is in %s: …%s…", what, where, text[max(0, i-200):min(len(text), i+len(form)+60)])
				break
			}
		}
	}
	for what, p := range patterns {
		if !slices.Contains(but, what) {
			if at := p.FindStringIndex(text); at != nil {
				c.t.Errorf("%s is in %s: …%s…", what, where, text[max(0, at[0]-200):min(len(text), at[1]+60)])
			}
		}
	}
}

// answer looks into a whole HTTP answer.
func (c *canaries) answer(where string, r *platformtest.Response, but ...string) *platformtest.Response {
	c.t.Helper()
	c.absent("the answer to "+where, fmt.Sprintf("%d %v %s", r.Status, r.Header, r.Body), but...)
	return r
}

// tables returns what every table of the database holds, as text.
func tables(t *testing.T, databaseURL string) map[string]string {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') AND schemaname NOT LIKE 'pg_temp%'`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, name := range names {
		rows, err := conn.Query(ctx, "SELECT t::text || ' ' || row_to_json(t)::text FROM "+name+" t")
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		out[name] = strings.Join(lines, "\n")
	}
	return out
}

func canary(what string) string {
	// Long enough to be found, short enough for everything; letters and digits only.
	return "Zq7" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return 'x'
	}, what) + "K9w4Tz"
}

// TestCanaries puts secrets into every place where a secret can be, makes the platform work and fail with them at debug
// level, and looks for them in all that it writes: logs, spans, metrics, tables, answers, profiles.
func TestCanaries(t *testing.T) {
	c := &canaries{t: t, secrets: map[string]string{}}
	secret := func(what string) string { c.secrets[what] = canary(what); return c.secrets[what] }

	adminKey := strings.Repeat("Ca", 5) + "naryADMINkey0123456789abcdefghijklmn" // 46 letters and digits
	c.secrets["the administrator's key"] = adminKey
	databasePassword, targetSecret := secret("database password"), secret("target secret")
	s, spans := traced(t, platformtest.WithConfig(impatient), platformtest.WithConfig(func(cfg *platform.Config) {
		u, err := url.Parse(cfg.DatabaseURL.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		user := "postgres"
		if u.User != nil && u.User.Username() != "" {
			user = u.User.Username()
		}
		q := u.Query()
		if q.Has("user") || q.Has("password") {
			q.Set("password", databasePassword)
			u.RawQuery = q.Encode()
		} else {
			u.User = url.UserPassword(user, databasePassword)
		}
		cfg.DatabaseURL, cfg.TargetSecret = config.NewSecret(u.String()), config.NewSecret(targetSecret)
		cfg.AdminKeyFile = filepath.Join(cfg.DataDir, "chosen-key")
		if err := os.WriteFile(cfg.AdminKeyFile, []byte(adminKey+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}))
	if s.AdminKey != adminKey {
		t.Fatal("the chosen key is not the administrator's")
	}
	master, err := os.ReadFile(filepath.Join(s.DataDir, "master-key"))
	if err != nil {
		t.Fatal(err)
	}
	c.secrets["the master key"] = strings.TrimSpace(string(master))
	if raw, err := hex.DecodeString(strings.TrimSpace(string(master))); err == nil {
		c.secrets["the master key's bytes"] = string(raw)
	} else if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(master))); err == nil {
		c.secrets["the master key's bytes"] = string(raw)
	}

	// Keys and logins of users. The answer that makes a key shows it, once.
	c.secrets["a user's key"] = s.User("bob").Key
	cookie := s.Login("carol")
	_, c.secrets["a login"], _ = strings.Cut(cookie, "=")
	anyone, admin := s.Anonymous().In(t), s.Admin().In(t)
	wrongKey, pathKey, basicPassword, bearer, foreignCookie := secret("wrong key"), secret("key in a path"), secret("basic password"), secret("bearer"), secret("foreign cookie")
	queryKey, formSecret := secret("key in a query"), secret("secret in a body")
	for _, path := range []string{"/api/me", "/get/none/x/y", "/entrepot/v1/me", "/entrepot/v1/channels/none", "/nowhere", "/api/channels/none/x"} {
		for _, h := range []http.Header{
			{"X-Api-Key": {wrongKey}},
			{"Authorization": {"Bearer " + bearer}},
			{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("any:"+basicPassword))}},
			{"Cookie": {"entrepot_session=" + foreignCookie}},
			{"Authorization": {"Digest " + bearer}},
		} {
			c.answer(path, anyone.Send(0, platformtest.Request{Method: "GET", Path: path, Header: h}))
			c.answer(path, anyone.Send(0, platformtest.Request{Method: "FOO", Path: path, Header: h}))
		}
		c.answer("a path's key", anyone.Do("GET", "/t/"+pathKey+path, nil))
		c.answer("a path's key", anyone.Do("GET", "/get/t/"+pathKey+"/none/noarch/repodata.json", nil))
		c.answer("a path's key", anyone.Do("GET", "/channels/t/"+pathKey+"/none/noarch/repodata.json/", nil))
		c.answer("a path's good key", anyone.Do("GET", "/t/"+adminKey+path, nil))
		c.answer("a query's key", anyone.Do("GET", path+"?mirror_api_key="+queryKey+"&api_key="+queryKey+"&token="+queryKey, nil))
		c.answer("a query's key", anyone.Do("POST", path+"?mirror_api_key="+queryKey, nil))
	}
	c.answer("a login", s.Anonymous().In(t).Send(0, platformtest.Request{Method: "GET", Path: "/api/me", Header: http.Header{"Cookie": {cookie}}}))
	c.answer("a wrong body", admin.Do("POST", "/api/channels", `{"name": 5, "password": "`+formSecret+`"`))
	c.answer("an unknown field", admin.Do("POST", "/entrepot/v1/channels", map[string]any{"name": "x", "password": formSecret}))
	c.answer("an unknown key", admin.Do("DELETE", "/api/api-keys/"+wrongKey+strings.Repeat("x", 30), nil))
	c.answer("an unknown key", admin.Do("DELETE", "/entrepot/v1/api-keys/"+wrongKey+strings.Repeat("x", 30), nil))

	// Upstreams with credentials in their URL: right ones, wrong ones, redirects that carry secrets.
	user, password, token, signature, redirected := secret("upstream user"), secret("upstream password"), secret("upstream token"), secret("upstream signature"), secret("redirect secret")
	ch := synctest.NewChannel()
	ch.AddPackage(t, "noarch", "alpha", "1.0", dist.Conda)
	up := fetchtest.New(t)
	up.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, after, _ := strings.Cut(r.URL.Path, "/chan")
		if strings.Contains(r.URL.Path, "/redirect") {
			http.Redirect(w, r, "http://"+redirected+":"+redirected+"@192.0.2.1/t/"+redirected+"/x?X-Amz-Signature="+redirected+"&token="+redirected, http.StatusFound)
			return
		}
		if _, p, _ := r.BasicAuth(); p != password && !strings.Contains(r.URL.Path, token) {
			w.Header().Set("WWW-Authenticate", `Basic realm="`+password+`"`)
			http.Error(w, "wrong password "+p+" "+password, http.StatusUnauthorized)
			return
		}
		r.URL.Path = after
		ch.ServeHTTP(w, r)
	}))
	host := strings.TrimPrefix(up.URL, "http://")
	mirrors := map[string]string{
		"basic":    "http://" + user + ":" + password + "@" + host + "/chan",
		"intoken":  "http://" + host + "/t/" + token + "/chan",
		"wrong":    "http://" + user + ":" + password + "wrong@" + host + "/chan",
		"redirect": "http://" + user + ":" + password + "@" + host + "/redirect/chan",
		"absent":   "http://" + user + ":" + password + "@127.0.0.1:1/chan",
		"inner":    "http://" + user + ":" + password + "@10.0.0.1/t/" + token + "/chan",
		"query":    "http://" + host + "/chan?sig=" + signature,
		"broken":   "http://" + user + ":" + password + "@ho st/chan",
		"scheme":   "ftp://" + user + ":" + password + "@" + host + "/t/" + token,
		"port":     "http://" + user + ":" + password + "@" + host + "99999/chan",
		"fragment": "http://" + host + "/chan#" + signature,
	}
	for _, name := range slices.Sorted(maps.Keys(mirrors)) {
		for _, dialect := range []string{"/api/channels", "/entrepot/v1/channels"} {
			body := map[string]any{"name": name, "private": false, "mirror_channel_url": mirrors[name], "mirror_mode": "mirror", "actions": []string{}}
			channel := name
			if strings.Contains(dialect, "v1") {
				channel = name + "-native"
				body = map[string]any{"name": channel, "private": false, "kind": "CHANNEL_KIND_MIRROR", "mirror": map[string]any{"url": mirrors[name]}}
			}
			if made := c.answer("create "+channel, admin.Do("POST", dialect, body)); made.Status/100 != 2 {
				continue
			}
			c.answer("start "+channel, admin.Do("POST", "/entrepot/v1/channels/"+channel+":sync", map[string]any{}))
			state := lastSync(t, s, channel)
			if good := name == "basic" || name == "intoken"; good != (state == "JOB_STATE_SUCCEEDED") {
				t.Errorf("the sync of %s is %s", channel, state)
			}
			for _, path := range []string{"/api/channels/" + channel, "/entrepot/v1/channels/" + channel, "/entrepot/v1/channels/" + channel + "/sync", "/get/" + channel + "/noarch/repodata.json"} {
				c.answer(path, admin.Do("GET", path, nil))
			}
		}
	}
	for _, name := range []string{"basic", "intoken"} {
		if admin.Do("GET", "/api/channels/"+name, nil).Status != 200 {
			t.Errorf("the mirror %s was not made, so its secrets were nowhere", name)
		}
	}
	if !slices.ContainsFunc(up.Requests(), func(q fetchtest.Request) bool { return strings.Contains(q.Path, token) }) {
		t.Error("the upstream has seen no token")
	}
	// The remote's own settings: every kind of credential, set, shown, used and refused.
	remote := map[string]string{}
	for _, field := range []string{"password", "bearer_token", "header_value", "path_token", "client_key"} {
		remote[field] = secret("remote " + field)
	}
	proxyPassword := secret("proxy password")
	c.answer("make a remote", admin.Must(201, "POST", "/api/channels", map[string]any{"name": "remote", "private": false, "mirror_channel_url": up.URL + "/chan", "mirror_mode": "mirror", "actions": []string{}}))
	for _, settings := range []map[string]any{
		{"username": "u", "password": remote["password"]},
		{"bearer_token": remote["bearer_token"]},
		{"header": "X-Secret", "header_value": remote["header_value"]},
		{"path_token": remote["path_token"]},
		{"proxy_url": "http://u:" + proxyPassword + "@127.0.0.1:1"},
		{"client_cert": "no PEM", "client_key": remote["client_key"]},
		{"ca_bundle": remote["client_key"]},
		{"header": "bad header", "header_value": remote["header_value"]},
	} {
		set := c.answer("set a remote", admin.Do("PATCH", "/entrepot/v1/channels/remote/remote", settings))
		c.answer("show a remote", admin.Must(200, "GET", "/entrepot/v1/channels/remote/remote", nil))
		if set.Status == 200 {
			c.answer("sync by a remote", admin.Do("POST", "/entrepot/v1/channels/remote:sync", map[string]any{}))
			lastSync(t, s, "remote")
		}
	}
	// Registered mirrors show and keep keys of other servers.
	mirrorKey := secret("mirror key")
	for _, body := range []map[string]any{
		{"url": up.URL + "/t/" + mirrorKey + "/get/x", "api_endpoint": up.URL + "/api/x?key=" + mirrorKey}, {"url": "http://u:" + mirrorKey + "@" + host + "/get/x"},
	} {
		c.answer("register a mirror", admin.Do("POST", "/api/channels/remote/mirrors?mirror_api_key="+mirrorKey, body), "mirror key")
	}
	c.answer("list mirrors", anyone.Do("GET", "/api/channels/remote/mirrors", nil))
	// Everything that lists something.
	var jobs struct{ Jobs []struct{ ID string } }
	c.answer("jobs", admin.Must(200, "GET", "/entrepot/v1/jobs?page_size=1000", nil)).JSON(&jobs)
	for _, j := range jobs.Jobs {
		c.answer("a job", admin.Must(200, "GET", "/entrepot/v1/jobs/"+j.ID, nil))
	}
	idle(t, s)
	for _, j := range jobs.Jobs[:min(len(jobs.Jobs), 12)] {
		c.answer("a job's events", admin.Do("GET", "/entrepot/v1/jobs/"+j.ID+"/events", nil))
	}
	for _, path := range []string{
		"/api/channels", "/entrepot/v1/channels", "/api/api-keys", "/entrepot/v1/api-keys", "/entrepot/v1/audit?page_size=1000", "/entrepot/v1/users", "/api/users", "/api/jobs", "/api/tasks",
		"/entrepot/v1/openapi.json", "/openapi.json", "/entrepot/v1/me", "/api/me", "/",
	} {
		c.answer(path, admin.Do("GET", path, nil))
	}
	for _, path := range []string{"/metrics", "/healthz/ready", "/healthz/live", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/cmdline", "/debug/vars"} {
		c.answer("ops "+path, anyone.Do("GET", "http://"+s.OpsAddr+path, nil))
	}
	for name, text := range tables(t, s.DatabaseURL) {
		c.absent("table "+name, text)
	}
	s.Stop()
	c.absent("the log", s.Logs())
	c.absent("the spans", spans.text())
	if len(spans.all()) < 100 || len(s.Logs()) < 10_000 {
		t.Error("there was not much to look at")
	}
	if t.Failed() {
		t.Logf("%d secrets, %d places", len(c.secrets), c.looks)
	}
	t.Logf("%d secrets of which none is in %d places", len(c.secrets)+len(patterns), c.looks)
}

// TestCanariesOfAStartThatFails: connections that cannot be made tell their address at most.
func TestCanariesOfAStartThatFails(t *testing.T) {
	c := &canaries{t: t, secrets: map[string]string{"the password": canary("password"), "the token": canary("token")}}
	password, token := c.secrets["the password"], c.secrets["the token"]
	for name, change := range map[string]func(*platform.Config){
		"nobody listens for PostgreSQL": func(cfg *platform.Config) {
			cfg.DatabaseURL = config.NewSecret("postgres://u:" + password + "@127.0.0.1:1/x?connect_timeout=1")
		},
		"a database URL that is none": func(cfg *platform.Config) {
			cfg.DatabaseURL = config.NewSecret("postgres://u:" + password + "@127.0.0.1:port/x")
		},
		"a database URL with a wrong option": func(cfg *platform.Config) {
			cfg.DatabaseURL = config.NewSecret("postgres://u:" + password + "@127.0.0.1/x?sslmode=" + token)
		},
		"words for a database": func(cfg *platform.Config) {
			cfg.DatabaseURL = config.NewSecret("host=127.0.0.1 port=1 password='" + password)
		},
		"nobody listens for NATS": func(cfg *platform.Config) { cfg.NATSURL = config.NewSecret("nats://u:" + password + "@127.0.0.1:1") },
		"a NATS token":            func(cfg *platform.Config) { cfg.NATSURL = config.NewSecret("nats://" + token + "@127.0.0.1:1") },
		"a NATS URL that is none": func(cfg *platform.Config) { cfg.NATSURL = config.NewSecret("nats://u:" + password + "@127.0.0.1:port") },
		"nobody listens for S3": func(cfg *platform.Config) {
			cfg.BlobURL = config.NewSecret("s3://" + token + ":" + password + "@bucket/x?endpoint=127.0.0.1:1&insecure=1&path_style=1")
		},
		"an S3 URL that is none": func(cfg *platform.Config) {
			cfg.BlobURL = config.NewSecret("s3://" + token + ":" + password + "@bucket/x?endpoint=127.0.0.1:1&secret=" + password)
		},
		"an S3 URL with a strange host": func(cfg *platform.Config) {
			cfg.BlobURL = config.NewSecret("s3://" + token + ":" + password + "@buc ket/")
		},
		"another scheme": func(cfg *platform.Config) {
			cfg.BlobURL = config.NewSecret("gs://" + token + ":" + password + "@bucket/")
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.t = t
			cfg := platform.DefaultConfig()
			const free = "127.0.0.1:0"
			cfg.DataDir, cfg.Log.Level = t.TempDir(), "debug"
			cfg.HTTPAddr, cfg.GRPCAddr, cfg.ServiceAddr, cfg.DataAddr, cfg.OpsAddr = free, free, free, free, free
			change(&cfg)
			if cfg.DatabaseURL.IsZero() {
				cfg.DatabaseURL = config.NewSecret(freshDatabase(t))
			}
			c.absent("the configuration as text", fmt.Sprintf("%v %+v %#v", cfg, cfg, cfg))
			var log lines
			p, err := platform.New(cfg, platform.Options{Version: "test", LogOutput: &log})
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), startPatience)
				defer cancel()
				err = p.Run(ctx)
			}
			if err == nil {
				t.Log("it ended without an error, with its context")
			}
			c.absent("the error", fmt.Sprintf("%v %+v %#v", err, err, err))
			c.absent("the log", log.String())
		})
	}
}
