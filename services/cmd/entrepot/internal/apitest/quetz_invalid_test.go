package apitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// problem is an entry of a 422's list, without what it repeats of the request.
type problem struct {
	Type string
	Loc  []any
	Msg  string
}

// problems returns the list that a 422 has, or nil if its detail is a text.
func problems(t *testing.T, body []byte) []problem {
	t.Helper()
	var answer struct{ Detail json.RawMessage }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	var list []problem
	_ = json.Unmarshal(answer.Detail, &list) // a text is none
	return list
}

// TestQuetzInvalid is how the dialect says that a request is malformed: as pydantic, with the place and the kind of each
// problem; quetz.md §1.
func TestQuetzInvalid(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	base := "/api/channels/" + ch.name
	at := func(typ, msg string, loc ...any) problem { return problem{typ, append([]any{"body"}, loc...), msg} }
	query := func(typ, msg, name string) problem { return problem{typ, []any{"query", name}, msg} }
	const (
		noString = "Input should be a valid string"
		noInt    = "Input should be a valid integer"
		noBool   = "Input should be a valid boolean"
		badBool  = "Input should be a valid boolean, unable to interpret input"
		noObject = "Input should be a valid dictionary or object to extract fields from"
		missing  = "Field required"
		noURL    = "String should match pattern '^(http|https)://.+'"
		actions  = "Input should be 'synchronize', 'synchronize_repodata', 'reindex', 'generate_indexes', 'validate_packages', 'synchronize_metrics', 'cleanup' or 'cleanup_dry_run'"
	)
	mirror := func(rest string) string { return `{"name":"m","mirror_channel_url":` + rest + `}` }
	for _, c := range []struct {
		route, body string
		want        problem
	}{
		{"POST /api/channels", ``, at("missing", missing)},
		{"POST /api/channels", `null`, at("model_attributes_type", noObject)},
		{"POST /api/channels", `[]`, at("model_attributes_type", noObject)},
		{"POST /api/channels", `"x"`, at("model_attributes_type", noObject)},
		{"POST /api/channels", `{}`, at("missing", missing, "name")},
		{"POST /api/channels", `{"name":5}`, at("string_type", noString, "name")},
		{"POST /api/channels", `{"name":null}`, at("string_type", noString, "name")},
		{"POST /api/channels", `{"name":"` + strings.Repeat("n", 51) + `"}`, at("string_too_long", "String should have at most 50 characters", "name")},
		{"POST /api/channels", `{"name":"m","description":"` + strings.Repeat("é", 301) + `"}`, at("string_too_long", "String should have at most 300 characters", "description")},
		{"POST /api/channels", `{"name":"m","description":[]}`, at("string_type", noString, "description")},
		{"POST /api/channels", `{"name":"m","private":"maybe"}`, at("bool_parsing", badBool, "private")},
		{"POST /api/channels", `{"name":"m","private":2}`, at("bool_parsing", badBool, "private")},
		{"POST /api/channels", `{"name":"m","private":null}`, at("bool_type", noBool, "private")},
		{"POST /api/channels", `{"name":"m","private":{}}`, at("bool_type", noBool, "private")},
		{"POST /api/channels", `{"name":"m","ttl":"soon"}`, at("int_parsing", noInt+", unable to parse string as an integer", "ttl")},
		{"POST /api/channels", `{"name":"m","ttl":1.5}`, at("int_from_float", noInt+", got a number with a fractional part", "ttl")},
		{"POST /api/channels", `{"name":"m","ttl":null}`, at("int_type", noInt, "ttl")},
		{"POST /api/channels", `{"name":"m","ttl":[]}`, at("int_type", noInt, "ttl")},
		{"POST /api/channels", `{"name":"m","metadata":[]}`, at("model_attributes_type", noObject, "metadata")},
		{"POST /api/channels", `{"name":"m","metadata":{"proxylist":"x"}}`, at("list_type", "Input should be a valid list", "metadata", "proxylist")},
		{"POST /api/channels", `{"name":"m","metadata":{"proxylist":["x",null]}}`, at("string_type", noString, "metadata", "proxylist", 1.0)},
		{"POST /api/channels", `{"name":"m","actions":["reindex","dance"]}`, at("enum", actions, "actions", 1.0)},
		{"POST /api/channels", `{"name":"m","actions":"reindex"}`, at("list_type", "Input should be a valid list", "actions")},
		{"POST /api/channels", mirror(`"http://","mirror_mode":"proxy"`), at("string_pattern_mismatch", noURL, "mirror_channel_url")},
		{"POST /api/channels", mirror(`"my-host","mirror_mode":"proxy"`), at("string_pattern_mismatch", noURL, "mirror_channel_url")},
		{"POST /api/channels", mirror(`"hosthttp://h","mirror_mode":"proxy"`), at("string_pattern_mismatch", noURL, "mirror_channel_url")},
		{"POST /api/channels", mirror(`"http://h/x","mirror_mode":"cache"`), at("enum", "Input should be 'proxy' or 'mirror'", "mirror_mode")},
		{"POST /api/channels", mirror(`"http://h/x"`), at("value_error", "Value error, 'mirror_channel_url' provided but 'mirror_mode' is undefined")},
		{"POST /api/channels", mirror(`null,"mirror_mode":"mirror"`), at("value_error", "Value error, 'mirror_mode' provided but 'mirror_channel_url' is undefined")},
		{"POST /api/channels?register_mirror=perhaps", `{"name":"m"}`, query("bool_parsing", badBool, "register_mirror")},
		{"PATCH " + base, `{"ttl":"soon"}`, at("int_parsing", noInt+", unable to parse string as an integer", "ttl")},
		{"PATCH " + base, `{"private":null}`, at("bool_type", noBool, "private")},
		{"PATCH " + base, `[]`, at("model_attributes_type", noObject)},
		{"PUT " + base + "/actions", `{}`, at("missing", missing, "action")},
		{"PUT " + base + "/actions", `{"action":"dance"}`, at("enum", actions, "action")},
		{"PUT " + base + "/actions", `{"action":5}`, at("enum", actions, "action")},
		{"PUT " + base + "/actions", `{"action":"reindex","start_at":"soon"}`, at("datetime_from_date_parsing", "Input should be a valid datetime or date", "start_at")},
		{"PUT " + base + "/actions", `{"action":"reindex","repeat_every_seconds":"x"}`, at("int_parsing", noInt+", unable to parse string as an integer", "repeat_every_seconds")},
		{"PUT " + base + "/actions", ``, at("missing", missing)},
		{"POST " + base + "/members", `{"role":"member"}`, at("missing", missing, "username")},
		{"POST " + base + "/members", `{"username":"dave","role":null}`, at("string_type", noString, "role")},
		{"POST " + base + "/members", `{"username":"dave","role":"boss"}`, at("string_pattern_mismatch", "String should match pattern 'owner|maintainer|member'", "role")},
		{"POST " + base + "/packages", `{"name":"Upper"}`, at("string_pattern_mismatch", `String should match pattern '^[a-z0-9-_\.]*$'`, "name")},
		{"POST " + base + "/packages", `{"name":null}`, at("string_type", noString, "name")},
		{"POST " + base + "/packages", `{"name":"` + strings.Repeat("n", 1501) + `"}`, at("string_too_long", "String should have at most 1500 characters", "name")},
		{"POST " + base + "/mirrors", `{}`, at("missing", missing, "url")},
		{"POST " + base + "/mirrors", `{"url":5}`, at("string_type", noString, "url")},
		{"POST " + base + "/mirrors", `{"url":"ftp://h/get/x"}`, at("string_pattern_mismatch", noURL, "url")},
		{"POST " + base + "/mirrors", `{"url":"http://h/get/x","api_endpoint":"x"}`, at("string_pattern_mismatch", noURL, "api_endpoint")},
		{"POST /api/api-keys", `{}`, at("missing", missing, "description")},
		{"POST /api/api-keys", `{"description":null}`, at("string_type", noString, "description")},
		{"POST /api/api-keys", `{"description":"x","roles":{}}`, at("list_type", "Input should be a valid list", "roles")},
		{"POST /api/api-keys", `{"description":"x","roles":[{"role":"member"}]}`, at("missing", missing, "roles", 0.0, "channel")},
		{"POST /api/api-keys", `{"description":"x","roles":[{"channel":"c","role":"boss"}]}`, at("string_pattern_mismatch", "String should match pattern 'owner|maintainer|member'", "roles", 0.0, "role")},
		{"POST /api/api-keys", `{"description":"x","roles":["c"]}`, at("model_attributes_type", noObject, "roles", 0.0)},
		{"PUT /api/users/dave/role", `{"role":"boss"}`, at("string_pattern_mismatch", "String should match pattern 'owner|maintainer|member'", "role")},
		{"POST /api/jobs", `{"manifest":"reindex"}`, at("missing", missing, "items_spec")},
		{"POST /api/jobs", `{"manifest":"reindex","items_spec":null}`, at("string_type", noString, "items_spec")},
		{"GET /api/jobs/x", ``, problem{"int_parsing", []any{"path", "job_id"}, noInt + ", unable to parse string as an integer"}},
		{"PATCH /api/jobs/1", `{"status":"queued"}`, at("enum", "Input should be 'cancelled', 'pending' or 'running'", "status")},
		{"GET /api/paginated/channels?limit=x", ``, query("int_parsing", noInt+", unable to parse string as an integer", "limit")},
		{"GET /api/paginated/channels?skip=-1", ``, query("value_error", "Value error, skip must not be negative", "skip")},
		{"GET /api/paginated/channels?public=perhaps", ``, query("bool_parsing", badBool, "public")},
		{"GET " + strings.Replace(base, "/api", "/api/paginated", 1) + "/packages?order_by=size", ``, query("value_error", "Value error, order_by takes name or latest_change, each with :asc or :desc", "order_by")},
		{"GET /api/packages/search", ``, query("missing", missing, "q")},
		{"DELETE " + base + "/members", ``, query("missing", missing, "username")},
	} {
		method, path, _ := strings.Cut(c.route, " ")
		req := platformtest.Request{Method: method, Path: path}
		if c.body != "" {
			req.Body = c.body
		}
		resp := w.Admin().In(t).Send(0, req)
		if resp.Status != 422 {
			t.Errorf("%s %s: %d %s", c.route, c.body, resp.Status, resp.Body)
			continue
		}
		list := problems(t, resp.Body)
		if !slices.ContainsFunc(list, func(p problem) bool { return cmp.Equal(p, c.want) }) {
			t.Errorf("%s %s: %s\nwant %+v", c.route, c.body, resp.Body, c.want)
		}
	}
	t.Run("the answer to a small body is small, also to strangers", func(t *testing.T) {
		for route, body := range map[string]string{
			"/api/channels": `{"name":"x","actions":[1` + strings.Repeat(",1", 30_000) + `]}`,
			"/api/api-keys": `{"description":"x","roles":[1` + strings.Repeat(",1", 900) + `]}`,
		} {
			if answer := w.Anonymous().In(t).Must(422, "POST", route, body).Body; len(answer) > 64<<10 {
				t.Errorf("%s answers %d bytes with %d", route, len(body), len(answer))
			}
		}
	})
	t.Run("what is no JSON says where it ends to be one", func(t *testing.T) {
		list := problems(t, w.Admin().In(t).Must(422, "POST", "/api/channels", `{"name"`).Body)
		if len(list) != 1 || list[0].Type != "json_invalid" || list[0].Msg != "JSON decode error" || len(list[0].Loc) != 2 || list[0].Loc[0] != "body" {
			t.Errorf("%+v", list)
		}
	})
}

// TestQuetzLenient: what pydantic takes for a boolean or a number.
func TestQuetzLenient(t *testing.T) {
	w := newWorld(t)
	bob := w.User("bob")
	for i, c := range []struct {
		private string
		want    bool
	}{{`true`, true}, {`1`, true}, {`"yes"`, true}, {`"ON"`, true}, {`1.0`, true}, {`false`, false}, {`0`, false}, {`"off"`, false}, {`"0"`, false}} {
		name := fmt.Sprintf("lenient%d", i)
		bob.In(t).Must(201, "POST", "/api/channels", `{"name":"`+name+`","private":`+c.private+`,"ttl":"60"}`)
		var got struct {
			Private bool
			TTL     int
		}
		bob.In(t).Must(200, "GET", "/api/channels/"+name, nil).JSON(&got)
		if got.Private != c.want || got.TTL != 60 {
			t.Errorf("%s: %+v", c.private, got)
		}
	}
	t.Run("PATCH ignores fields that a channel does not have", func(t *testing.T) {
		bob.In(t).Must(200, "PATCH", "/api/channels/lenient0", `{"bogus":1,"ttl":7.0}`)
		var got struct{ TTL int }
		bob.In(t).Must(200, "GET", "/api/channels/lenient0", nil).JSON(&got)
		if got.TTL != 7 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("a key may have ended before it is made", func(t *testing.T) {
		var key struct {
			Key      string
			ExpireAt string `json:"expire_at"`
		}
		bob.In(t).Must(201, "POST", "/api/api-keys", `{"description":"x","expire_at":"2020-01-01","roles":[]}`).JSON(&key)
		if key.ExpireAt != "2020-01-01" {
			t.Errorf("%+v", key)
		}
		w.As(key.Key).In(t).Must(401, "GET", "/api/me", nil)
		w.As(key.Key).In(t).Must(200, "GET", "/api/channels/channel0", nil)
	})
}

// TestQuetzOrder: what is no JSON, then the channel, the right to read it, its kind, the fields, and the route's own right
// last; quetz.md §1.
func TestQuetzOrder(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	up := "http://127.0.0.1:8999/up"
	w.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "mir", "private": false, "mirror_channel_url": up, "mirror_mode": "mirror", "actions": []any{}})
	w.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "prox", "private": false, "mirror_channel_url": up, "mirror_mode": "proxy"})
	for _, route := range []string{"POST packages", "POST members", "POST mirrors", "PUT actions", "PATCH "} {
		method, rest, _ := strings.Cut(route, " ")
		path := func(channel string) string { return strings.TrimSuffix("/api/channels/"+channel+"/"+rest, "/") }
		for name, c := range map[string]struct {
			who, channel, body string
			want               int
		}{
			"no JSON, no channel":             {anonymous, "none", `{`, 422},
			"no channel, bad fields":          {anonymous, "none", `{"name":5}`, 404},
			"no channel, no body":             {anonymous, "none", ``, 404},
			"private, nobody, bad fields":     {anonymous, ch.name, `[]`, 401},
			"private, a stranger, bad fields": {stranger, ch.name, `[]`, 403},
			"public, nobody, bad fields":      {anonymous, "channel0", `[]`, 422},
		} {
			if method == "PATCH" && name == "public, nobody, bad fields" {
				c.want = 401 // who may not change anything need not know what can be changed
			}
			req := platformtest.Request{Method: method, Path: path(c.channel), Header: http.Header{"Content-Type": {"application/json"}}}
			if c.body != "" {
				req.Body = c.body
			}
			if resp := w.as(t, c.who, ch).Send(0, req); resp.Status != c.want {
				t.Errorf("%s: %s: %d, want %d: %s", route, name, resp.Status, c.want, resp.Body)
			}
		}
	}
	for _, c := range []struct{ method, path, text string }{
		{"POST", "/api/channels/prox/packages", "proxy"},
		{"POST", "/api/channels/mir/packages", "mirror"},
		{"GET", "/api/channels/prox/mirrors", "proxy"},
		{"POST", "/api/channels/prox/mirrors", "proxy"},
		{"DELETE", "/api/channels/prox/mirrors/00000000-0000-0000-0000-000000000000", "proxy"},
	} {
		resp := w.Anonymous().In(t).Must(405, c.method, c.path, nil)
		if got := detail(t, resp); got != "This method is not implemented for "+c.text+" channels" {
			t.Errorf("%s %s: %s", c.method, c.path, got)
		}
	}
}
