package apitest

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// rights is a row of the role table: what each of everyone gets from a route, on a private channel that bob made.
// Sources: quetz.md §2 (column right) and §10.
type rights struct {
	route string // as in the dialect's table
	// want are statuses in the order of everyone.
	want [8]int
	// changes: a success uses the channel up, so the next one gets another.
	changes bool
	// request fills in the rest of the request; path is the route with its variables set.
	request func(w *world, ch *channel, path string) platformtest.Request
}

// The columns of rows that are alike.
var (
	anyone      = [8]int{200, 200, 200, 200, 200, 200, 200, 200}
	reads       = [8]int{401, 403, 200, 200, 200, 200, 200, 401}
	maintains   = [8]int{401, 403, 403, 200, 200, 200, 403, 401}
	owns        = [8]int{401, 403, 403, 403, 200, 200, 403, 401}
	makes       = [8]int{401, 403, 403, 201, 201, 201, 403, 401}
	ownerMakes  = [8]int{401, 403, 403, 403, 201, 201, 403, 401}
	loggedIn    = [8]int{401, 200, 200, 200, 200, 200, 200, 401}
	everyoneGet = func(status int) (want [8]int) {
		for i := range want {
			want[i] = status
		}
		return want
	}
)

func quetzRights() []rights {
	plain := func(*world, *channel, string) platformtest.Request { return platformtest.Request{} }
	body := func(v any) func(*world, *channel, string) platformtest.Request {
		return func(*world, *channel, string) platformtest.Request { return platformtest.Request{Body: v} }
	}
	obj := func(kv ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i].(string)] = kv[i+1]
		}
		return m
	}
	query := func(q string) func(*world, *channel, string) platformtest.Request {
		return func(_ *world, _ *channel, path string) platformtest.Request {
			return platformtest.Request{Path: path + q}
		}
	}
	var second *pkg
	form := func(*world, *channel, string) platformtest.Request {
		data, contentType := formBody(nil, second)
		return platformtest.Request{Body: data, Header: http.Header{"Content-Type": {contentType}}}
	}
	all, err := samplePackages()
	if err != nil {
		panic(err) // newChannel has asked for them before
	}
	second = all[1] // of the name that is there, but another version
	return []rights{
		{route: "GET /api/channels", want: anyone, request: plain},
		{route: "POST /api/channels", want: [8]int{401, 201, 201, 201, 201, 201, 403, 401}, request: func(w *world, _ *channel, _ string) platformtest.Request {
			return platformtest.Request{Body: obj("name", w.name())}
		}},
		{route: "GET /api/paginated/channels", want: anyone, request: plain},
		{route: "GET /api/channels/{channel_name}", want: reads, request: plain},
		{route: "PATCH /api/channels/{channel}", want: maintains, request: body(obj("private", true))},
		{route: "DELETE /api/channels/{channel}", want: maintains, changes: true, request: plain},
		{route: "PUT /api/channels/{channel_name}/actions", want: maintains, request: body(obj("action", "generate_indexes"))},
		{route: "GET /api/channels/{channel}/members", want: maintains, request: plain},
		{route: "POST /api/channels/{channel}/members", want: ownerMakes, changes: true, request: body(obj("username", "erin", "role", "member"))},
		{route: "DELETE /api/channels/{channel}/members", want: owns, changes: true, request: query("?username=dave")},

		{route: "GET /api/channels/{channel}/packages", want: reads, request: plain},
		{route: "GET /api/paginated/channels/{channel_name}/packages", want: reads, request: plain},
		{route: "GET /api/channels/{channel_name}/packages/{package_name}", want: reads, request: plain},
		{route: "DELETE /api/channels/{channel}/packages/{package}", want: maintains, changes: true, request: plain},
		{route: "GET /api/channels/{channel}/packages/{package}/versions", want: reads, request: plain},
		{route: "GET /api/paginated/channels/{channel}/packages/{package}/versions", want: reads, request: plain},
		{route: "GET /api/channels/{channel}/packages/{package}/versions/{platform}/{filename}", want: reads, request: plain},
		{route: "DELETE /api/channels/{channel}/packages/{package}/versions/{platform}/{filename}", want: maintains, changes: true, request: plain},

		{route: "POST /api/channels/{channel}/upload/{filename}", want: makes, changes: true, request: func(_ *world, ch *channel, path string) platformtest.Request {
			return platformtest.Request{
				Path: strings.Replace(path, ch.pkg.filename, second.filename, 1) + "?sha256=" + second.sha256, Body: second.data,
			}
		}},
		{route: "POST /api/channels/{channel}/files", want: makes, changes: true, request: form},
		{route: "POST /api/channels/{channel}/packages/{package}/files", want: makes, changes: true, request: form},

		{route: "GET /api/api-keys", want: loggedIn, request: plain},
		// A narrow key makes no keys: they could be wider than itself.
		{route: "POST /api/api-keys", want: [8]int{401, 201, 201, 201, 201, 201, 403, 401}, request: body(obj("description", "x", "roles", []any{}))},
		{route: "DELETE /api/api-keys/{key}", want: [8]int{401, 404, 404, 404, 404, 404, 404, 401}, request: plain},
		{route: "GET /api/me", want: loggedIn, request: plain},
		{route: "GET /api/jobs/{id}", want: [8]int{401, 404, 404, 404, 404, 404, 404, 401}, request: plain},

		{route: "GET /get/{channel}/{path...}", want: reads, request: plain},
		{route: "GET /channels/{channel}/{path...}", want: reads, request: plain},
		{route: "GET /health/live", want: anyone, request: plain},
		{route: "GET /health/ready", want: anyone, request: plain},
		{route: "GET /auth/logout", want: everyoneGet(303), request: plain},
		{route: "GET /api/dummylogin/{username}", want: everyoneGet(307), request: plain},
	}
}

// TestQuetzRights walks through the whole table of routes as everyone.
func TestQuetzRights(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	for _, who := range everyone {
		w.as(t, who, ch) // makes the keys
	}
	rows := map[string]rights{}
	for _, r := range quetzRights() {
		rows[r.route] = r
	}
	for _, route := range routesOf(t, "quetz", true) {
		name := route.Method + " " + route.Pattern
		row, ok := rows[name]
		if !ok {
			t.Errorf("%s has no row in the table of rights", name)
			continue
		}
		delete(rows, name)
		t.Run(name, func(t *testing.T) {
			ask := func(i int, who string) (used bool) {
				path := strings.NewReplacer(
					"{channel}", ch.name, "{channel_name}", ch.name, "{package}", ch.pkg.name, "{package_name}", ch.pkg.name,
					"{platform}", ch.pkg.subdir, "{filename}", ch.pkg.filename, "{path...}", ch.pkg.subdir+"/"+ch.pkg.filename,
					"{key}", "abcdefghijkl", "{id}", "4711", "{username}", "dave",
				).Replace(route.Pattern)
				req := row.request(w, ch, path)
				req.Method = route.Method
				if req.Path == "" {
					req.Path = path
				}
				resp := w.as(t, who, ch).Send(0, req)
				if resp.Status != row.want[i] {
					t.Errorf("%s: status %d, want %d: %s", who, resp.Status, row.want[i], resp.Body)
				}
				switch {
				case resp.Status == 401 && !strings.Contains(string(resp.Body), `"Not logged in"`):
					t.Errorf("%s: %s", who, resp.Body)
				case resp.Status == 403 && string(resp.Body) != `{"detail":"No permission"}`:
					t.Errorf("%s: %s", who, resp.Body)
				case resp.Status >= 500:
					t.Errorf("%s: %s", who, resp.Body)
				}
				return row.changes && resp.Status < 300
			}
			// Those who change nothing ask at the same time: a refusal waits for the next look at the roles.
			var asking sync.WaitGroup
			for i, who := range everyone {
				if row.changes && row.want[i] < 300 {
					continue
				}
				asking.Go(func() { ask(i, who) })
			}
			asking.Wait()
			for i, who := range everyone {
				if row.changes && row.want[i] < 300 && ask(i, who) {
					ch = w.newChannel(t)
				}
			}
		})
	}
	for name := range rows {
		t.Errorf("%s has a row in the table of rights, but is no route", name)
	}
}

// TestQuetzScopedKeys: a role on one package means something on that package only; quetz.md §10.
func TestQuetzScopedKeys(t *testing.T) {
	w := newWorld(t)
	ch, other := w.newChannel(t), w.newChannel(t)
	key := func(t *testing.T, role, pkg string) *platformtest.Client {
		grant := map[string]any{"channel": ch.name, "role": role}
		if pkg != "" {
			grant["package"] = pkg
		}
		var made struct{ Key string }
		w.User("bob").In(t).Must(201, "POST", "/api/api-keys", map[string]any{"description": "d", "roles": []any{grant}}).JSON(&made)
		return w.As(made.Key).In(t)
	}
	all := packages(t)
	same, foreign := all[1], firstOf(t, func(p *pkg) bool { return p.name != ch.pkg.name })
	upload := func(c *platformtest.Client, channel string, p *pkg) int {
		return c.Do("POST", "/api/channels/"+channel+"/upload/"+p.filename+"?sha256=", p.data).Status
	}

	t.Run("a package maintainer's key uploads that package and no other", func(t *testing.T) {
		k := key(t, "maintainer", ch.pkg.name)
		if got := upload(k, ch.name, same); got != 201 {
			t.Errorf("own package: %d", got)
		}
		if got := upload(k, ch.name, foreign); got != 403 {
			t.Errorf("another package: %d", got)
		}
		if got := upload(k, other.name, same); got != 403 {
			t.Errorf("another channel: %d", got)
		}
	})
	t.Run("a channel maintainer's key is one of that channel only", func(t *testing.T) {
		k := key(t, "maintainer", "")
		if got := upload(k, ch.name, foreign); got != 201 {
			t.Errorf("own channel: %d", got)
		}
		k.Must(403, "GET", "/api/channels/"+other.name, nil)
		k.Must(403, "POST", "/api/channels", map[string]any{"name": w.name()})
		k.Must(403, "POST", "/api/channels/"+ch.name+"/members", map[string]any{"username": "erin", "role": "member"})
	})
	t.Run("its uploads count as its owner's", func(t *testing.T) {
		var versions []struct {
			Filename string
			Uploader struct{ Name string }
		}
		w.User("bob").In(t).Must(200, "GET", "/api/channels/"+ch.name+"/packages/"+ch.pkg.name+"/versions", nil).JSON(&versions)
		for _, v := range versions {
			if v.Uploader.Name != "bob" && v.Uploader.Name != "Bob" {
				t.Errorf("%s was uploaded by %q", v.Filename, v.Uploader.Name)
			}
		}
	})
	t.Run("nobody makes a key for more than they have", func(t *testing.T) {
		for _, who := range []string{stranger, member} {
			resp := w.as(t, who, ch).Do("POST", "/api/api-keys", map[string]any{
				"description": "d", "roles": []any{map[string]any{"channel": ch.name, "role": "owner"}},
			})
			if resp.Status != 403 {
				t.Errorf("%s: %d %s", who, resp.Status, resp.Body)
			}
		}
	})
}

func firstOf(t *testing.T, want func(*pkg) bool) *pkg {
	t.Helper()
	for _, p := range packages(t) {
		if want(p) {
			return p
		}
	}
	t.Fatal("there is no such package")
	return nil
}
