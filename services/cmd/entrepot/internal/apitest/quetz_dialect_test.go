package apitest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// keysOf returns the names of a JSON object's members, sorted.
func keysOf(t *testing.T, data []byte) []string {
	t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatalf("no JSON object: %v: %s", err, data)
	}
	return slices.Sorted(maps.Keys(m))
}

func first(t *testing.T, data []byte) []byte {
	t.Helper()
	var list []json.RawMessage
	if err := json.Unmarshal(data, &list); err != nil || len(list) == 0 {
		t.Fatalf("no JSON list with an item: %v: %s", err, data)
	}
	return list[0]
}

// TestQuetzShapes compares the keys of every answer with quetz.md §3: one more breaks quetz-client.
func TestQuetzShapes(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob := w.User("bob")
	base := "/api/channels/" + ch.name
	channelKeys := []string{"description", "members_count", "mirror_channel_url", "mirror_mode", "name", "packages_count", "private", "size_limit", "ttl"}
	packageKeys := []string{"current_version", "description", "latest_change", "name", "platforms", "summary", "url"}
	versionKeys := []string{
		"build_number", "build_string", "channel_name", "download_count", "filename", "id", "info", "package_name", "platform", "time_created", "uploader", "version",
	}
	jobKeys := []string{"created", "id", "items_spec", "manifest", "owner_id", "repeat_every_seconds", "start_at", "status"}
	keyKeys := []string{"description", "expire_at", "key", "roles", "time_created"}
	get := func(path string) []byte { return bob.In(t).Must(200, "GET", path, nil).Body }
	field := func(data []byte, name string) []byte {
		var m map[string]json.RawMessage
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatalf("%v: %s", err, data)
		}
		return m[name]
	}
	for name, c := range map[string]struct {
		got  []byte
		want []string
	}{
		"ChannelExtra":             {get(base), channelKeys},
		"ChannelExtra in a list":   {first(t, get("/api/channels?q="+ch.name)), channelKeys},
		"ChannelExtra on a page":   {first(t, field(get("/api/paginated/channels?q="+ch.name), "result")), channelKeys},
		"a page":                   {get("/api/paginated/channels"), []string{"pagination", "result"}},
		"Pagination":               {field(get("/api/paginated/channels"), "pagination"), []string{"all_records_count", "limit", "skip"}},
		"ChannelBase":              {bob.Must(200, "PATCH", base, map[string]any{"ttl": 36000}).Body, []string{"description", "mirror_channel_url", "mirror_mode", "name", "private", "size_limit", "ttl"}},
		"Member":                   {first(t, get(base+"/members")), []string{"role", "user"}},
		"User":                     {field(first(t, get(base+"/members")), "user"), []string{"id", "profile", "username"}},
		"Profile":                  {field(field(first(t, get(base+"/members")), "user"), "profile"), []string{"avatar_url", "name"}},
		"Package":                  {get(base + "/packages/" + ch.pkg.name), packageKeys},
		"Package in a list":        {first(t, get(base+"/packages")), packageKeys},
		"Package on a page":        {first(t, field(get("/api/paginated/channels/"+ch.name+"/packages"), "result")), packageKeys},
		"PackageVersion":           {get(base + "/packages/" + ch.pkg.name + "/versions/" + ch.pkg.subdir + "/" + ch.pkg.filename), versionKeys},
		"PackageVersion, list":     {first(t, get(base+"/packages/"+ch.pkg.name+"/versions")), versionKeys},
		"PackageVersion, page":     {first(t, field(get("/api/paginated/channels/"+ch.name+"/packages/"+ch.pkg.name+"/versions"), "result")), versionKeys},
		"Uploader":                 {field(first(t, get(base+"/packages/"+ch.pkg.name+"/versions")), "uploader"), []string{"avatar_url", "name"}},
		"ApiKey":                   {first(t, get("/api/api-keys")), keyKeys},
		"ApiKey, new":              {bob.Must(201, "POST", "/api/api-keys", map[string]any{"description": "x"}).Body, keyKeys},
		"Job":                      {bob.Must(200, "PUT", base+"/actions", map[string]any{"action": "generate_indexes"}).Body, jobKeys},
		"me":                       {get("/api/me"), []string{"avatar_url", "name", "user"}},
		"the user in me":           {field(get("/api/me"), "user"), []string{"id", "username"}},
		"health":                   {get("/health/ready"), []string{"component", "status"}},
		"an error":                 {bob.Must(404, "GET", "/api/channels/none", nil).Body, []string{"detail"}},
		"an entry of a 422's list": {first(t, field(bob.Must(422, "POST", "/api/channels", map[string]any{}).Body, "detail")), []string{"input", "loc", "msg", "type"}},
	} {
		if diff := cmp.Diff(c.want, keysOf(t, c.got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s%s", name, diff, c.got)
		}
	}

	t.Run("a channel's values", func(t *testing.T) {
		var got map[string]any
		bob.In(t).Must(200, "GET", base, nil).JSON(&got)
		want := map[string]any{
			"name": ch.name, "description": nil, "private": true, "size_limit": nil, "ttl": 36000.0,
			"mirror_channel_url": nil, "mirror_mode": nil, "members_count": 3.0, "packages_count": 1.0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("a version's info is the record as it is indexed", func(t *testing.T) {
		var v struct {
			Info map[string]any
		}
		bob.In(t).Must(200, "GET", base+"/packages/"+ch.pkg.name+"/versions/"+ch.pkg.subdir+"/"+ch.pkg.filename, nil).JSON(&v)
		if v.Info["sha256"] != ch.pkg.sha256 || v.Info["md5"] != ch.pkg.md5 || v.Info["size"] != float64(len(ch.pkg.data)) || v.Info["subdir"] != ch.pkg.subdir {
			t.Errorf("info: %v", v.Info)
		}
	})
	t.Run("times are naive UTC", func(t *testing.T) {
		var p struct {
			LatestChange string `json:"latest_change"`
		}
		bob.In(t).Must(200, "GET", base+"/packages/"+ch.pkg.name, nil).JSON(&p)
		if p.LatestChange == "" || strings.ContainsAny(p.LatestChange, "Z+") || !strings.Contains(p.LatestChange, "T") {
			t.Errorf("latest_change %q", p.LatestChange)
		}
	})
}

// TestQuetzErrors is the list of texts that clients and people look for; quetz.md §1, §2.
func TestQuetzErrors(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	base := "/api/channels/" + ch.name
	url := "http://127.0.0.1:8999/up"
	w.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "mir", "private": false, "mirror_channel_url": url, "mirror_mode": "mirror", "actions": []any{}})
	w.Admin().Must(201, "POST", "/api/channels", map[string]any{"name": "prox", "private": false, "mirror_channel_url": url, "mirror_mode": "proxy"})
	all := packages(t)
	p := ch.pkg
	form, formType := formBody(nil, p)
	wrongForm, wrongType := formBody(nil, firstOf(t, func(o *pkg) bool { return o.name != p.name }))
	noFiles, noFilesType := formBody(map[string]string{"x": "y"})
	obj := func(s string) json.RawMessage { return json.RawMessage(s) }
	type request = platformtest.Request
	post := func(path string, body any) request { return request{Method: "POST", Path: path, Body: body} }
	withType := func(r request, ct string) request { r.Header = http.Header{"Content-Type": {ct}}; return r }
	for name, c := range map[string]struct {
		who  string
		req  request
		want int
		text string // in the detail
	}{
		"no such channel":                {owner, request{Method: "GET", Path: "/api/channels/none"}, 404, "Channel none not found"},
		"anonymous on a private one":     {anonymous, request{Method: "GET", Path: base}, 401, "Not logged in"},
		"no right":                       {stranger, request{Method: "GET", Path: base}, 403, "No permission"},
		"channel exists":                 {owner, post("/api/channels", map[string]any{"name": strings.ToUpper(ch.name)}), 409, "exists"},
		"underscore":                     {owner, post("/api/channels", obj(`{"name":"a_b"}`)), 422, "_ should not be used in channel name"},
		"not ASCII":                      {owner, post("/api/channels", obj(`{"name":"é"}`)), 422, "only ASCII characters should be used in channel name"},
		"no name":                        {owner, post("/api/channels", obj(`{}`)), 422, "Field required"},
		"name of a wrong type":           {owner, post("/api/channels", obj(`{"name":5}`)), 422, "Input should be a valid string"},
		"a reserved name":                {owner, post("/api/channels", obj(`{"name":"search"}`)), 422, "search"},
		"the other reserved name":        {owner, post("/api/channels", obj(`{"name":"t"}`)), 422, "t"},
		"a path as name":                 {owner, post("/api/channels", obj(`{"name":"../x"}`)), 422, ""},
		"no JSON":                        {owner, post("/api/channels", `{"name"`), 422, "JSON decode error"},
		"no object":                      {owner, post("/api/channels", `[1]`), 422, "Input should be a valid dictionary"},
		"no body":                        {owner, post("/api/channels", nil), 422, "Field required"},
		"mode without URL":               {serverOwner, post("/api/channels", obj(`{"name":"m1","mirror_mode":"proxy"}`)), 422, "Value error, 'mirror_mode' provided but 'mirror_channel_url' is undefined"},
		"URL without mode":               {serverOwner, post("/api/channels", obj(`{"name":"m1","mirror_channel_url":"http://h/x"}`)), 422, "Value error, 'mirror_channel_url' provided but 'mirror_mode' is undefined"},
		"an unknown mode":                {serverOwner, post("/api/channels", obj(`{"name":"m1","mirror_channel_url":"http://h/x","mirror_mode":"cache"}`)), 422, "Input should be 'proxy' or 'mirror'"},
		"another scheme":                 {serverOwner, post("/api/channels", obj(`{"name":"m1","mirror_channel_url":"ftp://h/x","mirror_mode":"proxy"}`)), 422, "String should match pattern '^(http|https)://.+'"},
		"include and exclude":            {serverOwner, post("/api/channels", obj(`{"name":"m1","mirror_channel_url":"http://h/x","mirror_mode":"mirror","metadata":{"includelist":["a"],"excludelist":["b"]}}`)), 422, "Cannot use both `includelist` and `excludelist` together."},
		"a mirror by a member":           {owner, post("/api/channels", obj(`{"name":"m1","mirror_channel_url":"http://h/x","mirror_mode":"mirror"}`)), 403, `["this operation requires owner or maintainer roles"]`},
		"a limit by a member":            {owner, post("/api/channels", obj(`{"name":"m1","size_limit":5}`)), 403, `["only server maintainer or owner can set channel size limit"]`},
		"a limit by the channel's owner": {owner, request{Method: "PATCH", Path: base, Body: obj(`{"size_limit":5}`)}, 403, "only server maintainer or owner can set channel size limit"},
		"a negative limit":               {serverOwner, request{Method: "PATCH", Path: base, Body: obj(`{"size_limit":-1}`)}, 422, "must be positive value"},
		"a fixed attribute":              {owner, request{Method: "PATCH", Path: base, Body: obj(`{"name":"x"}`)}, 422, "attribute 'name' of channel can not be changed"},
		"an action at creation that is none of its kind": {owner, post("/api/channels", obj(`{"name":"m1","actions":["synchronize"]}`)), 405, "Action synchronize not allowed for channel m1"},

		"a member of no name":        {owner, post(base+"/members", obj(`{"role":"member"}`)), 422, "Field required"},
		"a member of no role":        {owner, post(base+"/members", obj(`{"username":"dave"}`)), 422, "Field required"},
		"a member of a strange role": {owner, post(base+"/members", obj(`{"username":"dave","role":"boss"}`)), 422, "owner"},
		"an unknown user":            {owner, post(base+"/members", obj(`{"username":"nobody","role":"member"}`)), 404, "user nobody not found"},
		"not a member":               {owner, request{Method: "DELETE", Path: base + "/members?username=erin"}, 404, "user erin is not a member of channel " + ch.name},
		"the last owner":             {owner, request{Method: "DELETE", Path: base + "/members?username=bob"}, 409, ""},
		"the last owner, made less":  {owner, post(base+"/members", obj(`{"username":"bob","role":"member"}`)), 409, ""},
		"delete nobody":              {owner, request{Method: "DELETE", Path: base + "/members"}, 422, "Field required"},

		"no such package":           {owner, request{Method: "GET", Path: base + "/packages/none"}, 404, "Package " + ch.name + "/none not found"},
		"delete no such package":    {owner, request{Method: "DELETE", Path: base + "/packages/none"}, 404, "Package " + ch.name + "/none not found"},
		"no versions of no package": {owner, request{Method: "GET", Path: base + "/packages/none/versions"}, 404, "Package " + ch.name + "/none not found"},
		"no such version":           {owner, request{Method: "GET", Path: base + "/packages/" + p.name + "/versions/linux-64/x-1-0.conda"}, 404, "package version linux-64/x-1-0.conda not found"},
		"delete no such version":    {owner, request{Method: "DELETE", Path: base + "/packages/" + p.name + "/versions/linux-64/" + p.name + "-99-0.conda"}, 404, "Package version not found"},

		"a duplicate":                {owner, post(base+"/upload/"+p.filename+"?sha256=", p.data), 409, "Duplicate"},
		"a duplicate in a form":      {owner, withType(post(base+"/files", form), formType), 409, "Duplicate " + p.filename},
		"the wrong digest":           {owner, post(base+"/upload/"+all[1].filename+"?sha256="+p.sha256, all[1].data), 406, "Wrong SHA256 checksum"},
		"no digest":                  {owner, post(base+"/upload/"+all[1].filename, all[1].data), 422, "Field required"},
		"a wrong file name":          {owner, post(base+"/upload/x.conda?sha256=", p.data), 400, "package file name has wrong format x.conda"},
		"another package's name":     {owner, post(base+"/upload/other-1-0.conda?sha256=", p.data), 400, "package file name and info files do not match other-1-0.conda"},
		"no archive":                 {owner, post(base+"/upload/other-1-0.conda?sha256=", "junk"), 400, ""},
		"an empty archive":           {owner, post(base+"/upload/other-1-0.tar.bz2?sha256=", ""), 400, ""},
		"force by a maintainer":      {maintainer, post(base+"/upload/"+p.filename+"?sha256=&force=true", p.data), 403, "No permission"},
		"force is no boolean":        {owner, post(base+"/upload/"+p.filename+"?sha256=&force=perhaps", p.data), 422, "Input should be a valid boolean"},
		"another package's endpoint": {owner, withType(post(base+"/packages/"+p.name+"/files", wrongForm), wrongType), 400, "does not match the uploaded package name"},
		"a form without files":       {owner, withType(post(base+"/files", noFiles), noFilesType), 422, "Field required"},
		"no form":                    {owner, post(base+"/files", `{}`), 422, "Field required"},
		"an upload to nowhere":       {owner, post("/api/channels/none/upload/x-1-0.conda?sha256=", p.data), 404, "Channel none not found"},

		"upload to a mirror":              {serverOwner, post("/api/channels/mir/upload/"+p.filename+"?sha256=", p.data), 405, "This method is not implemented for mirror channels"},
		"form upload to a mirror":         {serverOwner, withType(post("/api/channels/mir/files", form), formType), 405, "This method is not implemented for mirror channels"},
		"delete a package of a mirror":    {serverOwner, request{Method: "DELETE", Path: "/api/channels/mir/packages/x"}, 405, "This method is not implemented for mirror channels"},
		"delete a version of a mirror":    {serverOwner, request{Method: "DELETE", Path: "/api/channels/mir/packages/x/versions/noarch/x-1-0.conda"}, 405, "This method is not implemented for mirror channels"},
		"upload to a proxy":               {serverOwner, post("/api/channels/prox/upload/"+p.filename+"?sha256=", p.data), 405, "This method is not implemented for proxy channels"},
		"packages of a proxy":             {anonymous, request{Method: "GET", Path: "/api/channels/prox/packages"}, 405, "This method is not implemented for proxy channels"},
		"a page of packages of a proxy":   {anonymous, request{Method: "GET", Path: "/api/paginated/channels/prox/packages"}, 405, "This method is not implemented for proxy channels"},
		"a package of a proxy":            {anonymous, request{Method: "GET", Path: "/api/channels/prox/packages/x"}, 404, "Package prox/x not found"},
		"versions of a proxy":             {anonymous, request{Method: "GET", Path: "/api/channels/prox/packages/x/versions"}, 404, "Package prox/x not found"},
		"the kind comes before the right": {anonymous, request{Method: "PUT", Path: "/api/channels/prox/actions", Body: obj(`{"action":"synchronize"}`)}, 405, "not allowed for channel prox"},
		"sync a hosted channel":           {anonymous, request{Method: "PUT", Path: "/api/channels/channel0/actions", Body: obj(`{"action":"synchronize"}`)}, 405, "synchronize not allowed"},
		"no action":                       {owner, request{Method: "PUT", Path: base + "/actions", Body: obj(`{}`)}, 422, "Field required"},

		"no such job":               {owner, request{Method: "GET", Path: "/api/jobs/4711"}, 404, "Job with id 4711 not found"},
		"no such job either":        {owner, request{Method: "GET", Path: "/api/jobs/-1"}, 404, "Job with id -1 not found"},
		"no job id":                 {owner, request{Method: "GET", Path: "/api/jobs/x"}, 422, ""},
		"no such key":               {owner, request{Method: "DELETE", Path: "/api/api-keys/abcdefghijkl"}, 404, "key 'abcdefghijkl' does not exist"},
		"a key for no channel":      {owner, post("/api/api-keys", obj(`{"description":"x","roles":[{"channel":"none","role":"member"}]}`)), 404, "Channel none not found"},
		"a key for no package":      {owner, post("/api/api-keys", obj(`{"description":"x","roles":[{"channel":"`+ch.name+`","package":"none","role":"member"}]}`)), 404, "Package"},
		"a key of a strange role":   {owner, post("/api/api-keys", obj(`{"description":"x","roles":[{"channel":"`+ch.name+`","role":"boss"}]}`)), 422, ""},
		"a key without description": {owner, post("/api/api-keys", obj(`{}`)), 422, "Field required"},
		"a key with no date":        {owner, post("/api/api-keys", obj(`{"description":"x","expire_at":"soon"}`)), 422, "Input should be a valid date"},
		"no such user":              {anonymous, request{Method: "GET", Path: "/api/dummylogin/nobody"}, 404, "User 'nobody' not found"},
		"no route":                  {owner, request{Method: "GET", Path: "/api/nothing"}, 404, "Not Found"},
		"no method":                 {owner, request{Method: "DELETE", Path: "/api/me"}, 405, "Method Not Allowed"},
		"limit is no number":        {owner, request{Method: "GET", Path: "/api/paginated/channels?limit=x"}, 422, "Input should be a valid integer"},
		"limit is below -1":         {owner, request{Method: "GET", Path: "/api/paginated/channels?limit=-2"}, 422, ""},
		"skip is negative":          {owner, request{Method: "GET", Path: "/api/paginated/channels?skip=-1"}, 422, ""},
		"public is no boolean":      {owner, request{Method: "GET", Path: "/api/channels?public=perhaps"}, 422, "Input should be a valid boolean"},
		"order by nothing known":    {owner, request{Method: "GET", Path: "/api/paginated/channels/" + ch.name + "/packages?order_by=size"}, 422, ""},
		"no file":                   {owner, request{Method: "GET", Path: "/get/" + ch.name + "/noarch/x.conda"}, 404, ch.name + "/noarch/x.conda not found"},
		"a body of 9 MiB":           {owner, post("/api/channels", `{"name":"`+strings.Repeat("x", 9<<20)+`"}`), 413, "8 MiB"},
		"a number out of range":     {owner, post("/api/channels", obj(`{"name":"m1","ttl":99999999999999999999}`)), 422, "Input should be a valid integer"},
		"NUL in a name":             {owner, post("/api/channels", obj(`{"name":"a\u0000b"}`)), 422, ""},
		"NUL in a description":      {owner, post("/api/channels", obj(`{"name":"m1","description":"a\u0000b"}`)), 422, ""},
		"NUL in a search":           {owner, request{Method: "GET", Path: "/api/channels?q=%00"}, 200, ""},
		"a description of 301":      {owner, post("/api/channels", obj(`{"name":"m1","description":"`+strings.Repeat("x", 301)+`"}`)), 422, "String should have at most 300 characters"},
	} {
		t.Run(name, func(t *testing.T) {
			resp := w.as(t, c.who, ch).Send(0, c.req)
			if resp.Status != c.want {
				t.Fatalf("status %d, want %d: %s", resp.Status, c.want, resp.Body)
			}
			if c.want >= 400 && !strings.Contains(detail(t, resp), jsonInside(c.text)) && !strings.Contains(detail(t, resp), c.text) {
				t.Errorf("detail %s, want %s in it", resp.Body, c.text)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("Content-Type %q", ct)
			}
		})
	}
	if resp := w.Admin().Do("GET", "/api/channels/m1", nil); resp.Status != 404 {
		t.Errorf("one of the refused requests made a channel: %s", resp.Body)
	}
}

// jsonInside is text as it looks within a list that stayed JSON.
func jsonInside(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		return text
	}
	return strings.Trim(string(b), `"`)
}

// TestQuetzSpellings: what clients and people write in more than one way.
func TestQuetzSpellings(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob := w.User("bob")

	t.Run("writes answer null", func(t *testing.T) {
		null := func(status int, method, path string, body any) {
			t.Helper()
			resp := bob.In(t).Must(status, method, path, body)
			if string(resp.Body) != "null" || resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: %q, %s", method, path, resp.Body, resp.Header.Get("Content-Type"))
			}
		}
		name, all := w.name(), packages(t)
		base := "/api/channels/" + name
		form, formType := formBody(map[string]string{"force": "False"}, all[1], all[2])
		null(201, "POST", "/api/channels", map[string]any{"name": name})
		null(201, "POST", base+"/members", map[string]any{"username": "carol", "role": "owner"})
		null(201, "POST", base+"/upload/"+all[0].filename+"?force=False&sha256="+strings.ToUpper(all[0].sha256), all[0].data)
		resp := bob.In(t).Send(201, platformtest.Request{Method: "POST", Path: base + "/files/", Body: form, Header: http.Header{"Content-Type": {formType}}})
		if string(resp.Body) != "null" {
			t.Errorf("files: %q", resp.Body)
		}
		null(201, "POST", base+"/upload/"+all[0].filename+"?force=True&sha256=", all[0].data)
		null(200, "DELETE", base+"/packages/"+all[0].name+"/versions/"+all[0].subdir+"/"+all[0].filename, nil)
		null(200, "DELETE", base+"/packages/"+all[0].name, nil)
		null(200, "DELETE", base+"/members?username=carol", nil)
		var key struct{ Key string }
		bob.In(t).Must(201, "POST", "/api/api-keys", map[string]any{"description": "x"}).JSON(&key)
		null(200, "DELETE", "/api/api-keys/"+key.Key, nil)
		null(200, "DELETE", base, nil)
	})
	t.Run("a trailing slash does not matter, and nothing is redirected", func(t *testing.T) {
		for _, path := range []string{
			"/api/channels", "/api/channels/" + ch.name, "/api/paginated/channels", "/api/channels/" + ch.name + "/packages", "/api/me",
			"/api/api-keys", "/health/ready", "/api/channels/" + ch.name + "/packages/" + ch.pkg.name + "/versions",
		} {
			a, b := bob.In(t).Must(200, "GET", path, nil), bob.In(t).Must(200, "GET", path+"/", nil)
			if len(a.Body) != len(b.Body) {
				t.Errorf("%s: other answers with and without a slash", path)
			}
		}
		bob.In(t).Must(201, "POST", "/api/channels/", map[string]any{"name": w.name()})
	})
	t.Run("JSON with trailing commas and any content type", func(t *testing.T) {
		for _, ct := range []string{"application/x-www-form-urlencoded", "text/plain", "", "application/json"} {
			name := w.name()
			body := fmt.Sprintf("{\"name\": %q, \"description\": \"a,}b\", \"private\": false, \"unknown\": [1,2,],\n}", name)
			bob.In(t).Send(201, platformtest.Request{Method: "POST", Path: "/api/channels", Body: body, Header: http.Header{"Content-Type": {ct}}})
			var got struct {
				Description string
				Private     bool
			}
			bob.In(t).Must(200, "GET", "/api/channels/"+name, nil).JSON(&got)
			if got.Description != "a,}b" || got.Private {
				t.Errorf("%q: %+v", ct, got)
			}
		}
		bob.In(t).Send(200, platformtest.Request{
			Method: "PUT", Path: "/api/channels/" + ch.name + "/actions", Body: `{"action":"generate_indexes",}`,
			Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		})
	})
	t.Run("channel names ignore case and keep it", func(t *testing.T) {
		bob.In(t).Must(201, "POST", "/api/channels", map[string]any{"name": "MixedCase", "private": false})
		var got struct{ Name string }
		bob.In(t).Must(200, "GET", "/api/channels/mixedcase", nil).JSON(&got)
		if got.Name != "MixedCase" {
			t.Errorf("name %q", got.Name)
		}
		w.Anonymous().In(t).Must(200, "GET", "/get/MIXEDcase/noarch/repodata.json", nil)
	})
	t.Run("empty query values mean absent", func(t *testing.T) {
		bob.In(t).Must(200, "GET", "/api/paginated/channels/"+ch.name+"/packages?q=&order_by=&skip=&limit=", nil)
		bob.In(t).Must(200, "GET", "/api/paginated/channels?q=&public=True", nil)
		bob.In(t).Must(201, "POST", "/api/channels?mirror_api_key=&register_mirror=False", map[string]any{"name": w.name(), "size_limit": nil})
	})
	t.Run("keys in all places", func(t *testing.T) {
		key := bob.Key
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("token:"+key))
		file := ch.name + "/" + ch.pkg.subdir + "/" + ch.pkg.filename
		for name, req := range map[string]platformtest.Request{
			"X-API-Key":               {Path: "/get/" + file, Header: http.Header{"X-Api-Key": {key}}},
			"Bearer":                  {Path: "/get/" + file, Header: http.Header{"Authorization": {"Bearer " + key}}},
			"bearer in lower case":    {Path: "/api/me", Header: http.Header{"Authorization": {"bearer " + key}}},
			"Basic":                   {Path: "/get/" + file, Header: http.Header{"Authorization": {basic}}},
			"in front of the path":    {Path: "/t/" + key + "/get/" + file},
			"in front of an API path": {Path: "/t/" + key + "/api/me"},
			"after /get":              {Path: "/get/t/" + key + "/" + file},
			"after /channels":         {Path: "/channels/t/" + key + "/" + file},
			"in front of /channels":   {Path: "/t/" + key + "/channels/" + file},
			"header beats path token": {Path: "/t/nonsense/get/" + file, Header: http.Header{"X-Api-Key": {key}}},
			"header beats cookie":     {Path: "/get/" + file, Header: http.Header{"X-Api-Key": {key}, "Cookie": {w.Login("erin")}}},
			"the cookie alone":        {Path: "/get/" + file, Header: http.Header{"Cookie": {w.Login("bob")}}},
		} {
			req.Method = "GET"
			if resp := w.Anonymous().In(t).Send(0, req); resp.Status != 200 {
				t.Errorf("%s: %d %s", name, resp.Status, resp.Body)
			}
		}
	})
	t.Run("a worthless key counts as no login: public 200, private 401, never the cookie", func(t *testing.T) {
		for name, bad := range map[string]http.Header{
			"nonsense":                  {"X-Api-Key": {"nonsense"}},
			"expired":                   {"X-Api-Key": {w.expiredKey}},
			"unknown":                   {"X-Api-Key": {strings.Repeat("a", len(bob.Key))}},
			"Basic":                     {"Authorization": {"Basic !!!"}},
			"with a good cookie beside": {"X-Api-Key": {"nonsense"}, "Cookie": {w.Login("bob")}},
		} {
			as := func(path string) int {
				return w.Anonymous().In(t).Send(0, platformtest.Request{Method: "GET", Path: path, Header: bad}).Status
			}
			for path, want := range map[string]int{
				"/api/channels/channel0": 200, "/get/channel0/noarch/repodata.json": 200, "/api/channels": 200,
				"/api/channels/" + ch.name: 401, "/get/" + ch.name + "/noarch/repodata.json": 401, "/api/me": 401,
			} {
				if got := as(path); got != want {
					t.Errorf("%s: %s: %d, want %d", name, path, got, want)
				}
			}
		}
		for path, want := range map[string]int{
			"/t/nonsense/get/channel0/noarch/repodata.json": 200, "/t/nonsense/get/" + ch.name + "/noarch/repodata.json": 401,
			"/get/t/nonsense/" + ch.name + "/noarch/repodata.json": 401,
		} {
			if got := w.Anonymous().In(t).Do("GET", path, nil).Status; got != want {
				t.Errorf("%s: %d, want %d", path, got, want)
			}
		}
	})
}

// TestQuetzPaging: skip, limit, counts and order.
func TestQuetzPaging(t *testing.T) {
	w := newWorld(t)
	name := w.name()
	bob := w.User("bob")
	bob.Must(201, "POST", "/api/channels", map[string]any{"name": name})
	form, formType := formBody(nil, packages(t)...)
	bob.Send(201, platformtest.Request{Method: "POST", Path: "/api/channels/" + name + "/files", Body: form, Header: http.Header{"Content-Type": {formType}}})
	type page struct {
		Pagination struct {
			Skip, Limit int64
			Count       int64 `json:"all_records_count"`
		}
		Result []struct {
			Name     string
			Version  string
			Filename string
		}
	}
	distinct := map[string]int{}
	for _, p := range packages(t) {
		distinct[p.name]++
	}
	total := int64(len(distinct))
	for _, c := range []struct {
		query             string
		skip, limit, want int64
	}{
		{"", 0, 20, total},
		{"?limit=2", 0, 2, 2},
		{"?limit=-1", 0, -1, total},
		{"?limit=0", 0, 0, 0},
		{"?skip=2&limit=2", 2, 2, total - 2},
		{"?skip=1000000", 1000000, 20, 0},
		{"?skip=1&limit=-1", 1, -1, total - 1},
	} {
		t.Run("packages"+c.query, func(t *testing.T) {
			var got page
			resp := bob.In(t).Must(200, "GET", "/api/paginated/channels/"+name+"/packages"+c.query, nil)
			resp.JSON(&got)
			if got.Pagination.Skip != c.skip || got.Pagination.Limit != c.limit || got.Pagination.Count != total || int64(len(got.Result)) != c.want {
				t.Errorf("%s", resp.Body)
			}
			if got.Result == nil {
				t.Errorf("an empty page is [], not null: %s", resp.Body)
			}
		})
	}
	t.Run("versions, newest first, over all platforms", func(t *testing.T) {
		p := packages(t)[0]
		var got page
		bob.In(t).Must(200, "GET", "/api/paginated/channels/"+name+"/packages/"+p.name+"/versions?limit=3", nil).JSON(&got)
		if int(got.Pagination.Count) != distinct[p.name] || len(got.Result) != 3 {
			t.Fatalf("%+v", got)
		}
		if got.Result[0].Version < got.Result[1].Version || got.Result[1].Version < got.Result[2].Version {
			t.Errorf("not newest first: %+v", got.Result)
		}
		for _, future := range []string{"2999-01-01", "2999-01-01T00:00:00", "2999-01-01T00:00:00Z"} {
			bob.In(t).Must(200, "GET", "/api/paginated/channels/"+name+"/packages/"+p.name+"/versions?time_created__ge="+future, nil).JSON(&got)
			if got.Pagination.Count != 0 || len(got.Result) != 0 {
				t.Errorf("since %s: %+v", future, got)
			}
		}
		bob.In(t).Must(200, "GET", "/api/paginated/channels/"+name+"/packages/"+p.name+"/versions?skip=1&limit=1&time_created__ge=2001-01-01", nil).JSON(&got)
		if int(got.Pagination.Count) != distinct[p.name] || len(got.Result) != 1 {
			t.Errorf("%+v", got)
		}
	})
	t.Run("the order of packages", func(t *testing.T) {
		for order, less := range map[string]bool{"": true, "name:asc": true, "name:desc": false, "name": false} {
			var got page
			bob.In(t).Must(200, "GET", "/api/paginated/channels/"+name+"/packages?order_by="+order, nil).JSON(&got)
			if (got.Result[0].Name < got.Result[1].Name) != less {
				t.Errorf("%q: %+v", order, got.Result)
			}
		}
	})
	t.Run("a client that pages until nothing is left sees all, once", func(t *testing.T) {
		seen := map[string]bool{}
		for skip := 0; ; skip++ {
			var got page
			bob.In(t).Must(200, "GET", fmt.Sprintf("/api/paginated/channels?limit=1&skip=%d", skip), nil).JSON(&got)
			if len(got.Result) == 0 {
				break
			}
			if seen[got.Result[0].Name] {
				t.Fatalf("%s twice", got.Result[0].Name)
			}
			seen[got.Result[0].Name] = true
		}
		if want := map[string]bool{"channel0": true, "channel1": true, "channel2": true, name: true}; !cmp.Equal(seen, want) {
			t.Errorf("saw %v", seen)
		}
	})
}

// TestQuetzPrivacy: a private channel is private in all views; quetz.md R10.
func TestQuetzPrivacy(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	listed := func(t *testing.T, who, path string) bool {
		return strings.Contains(string(w.as(t, who, ch).Must(200, "GET", path, nil).Body), `"`+ch.name+`"`)
	}
	for _, path := range []string{"/api/channels", "/api/paginated/channels?limit=-1", "/api/channels?q=" + ch.name, "/entrepot/v1/channels?page_size=1000"} {
		for _, who := range []string{anonymous, stranger} {
			if listed(t, who, path) {
				t.Errorf("%s sees it in %s", who, path)
			}
		}
		for _, who := range []string{member, owner, scoped} {
			if !listed(t, who, path) {
				t.Errorf("%s does not see it in %s", who, path)
			}
		}
	}
	if listed(t, serverOwner, "/api/channels") {
		t.Error("the server's owner sees no more in lists than others")
	}
	t.Run("public=false shows only where one is a member", func(t *testing.T) {
		var got []struct{ Name string }
		w.as(t, member, ch).Must(200, "GET", "/api/channels?public=false", nil).JSON(&got)
		if len(got) != 1 || got[0].Name != ch.name {
			t.Errorf("%+v", got)
		}
	})
	t.Run("made private, it is closed at once; made public, open", func(t *testing.T) {
		w.User("bob").In(t).Must(200, "PATCH", "/api/channels/"+ch.name, map[string]any{"private": false})
		w.Anonymous().In(t).Must(200, "GET", "/get/"+ch.name+"/noarch/repodata.json", nil)
		w.User("bob").In(t).Must(200, "PATCH", "/api/channels/"+ch.name, map[string]any{"private": true})
		w.Anonymous().In(t).Must(401, "GET", "/get/"+ch.name+"/noarch/repodata.json", nil)
	})
	t.Run("who is removed loses the files", func(t *testing.T) {
		w.User("bob").In(t).Must(200, "DELETE", "/api/channels/"+ch.name+"/members?username=dave", nil)
		w.User("dave").In(t).Must(403, "GET", "/get/"+ch.name+"/noarch/repodata.json", nil)
		w.User("dave").In(t).Must(403, "GET", "/api/channels/"+ch.name, nil)
	})
	t.Run("deleted, it is gone from everywhere at once", func(t *testing.T) {
		bob := w.User("bob").In(t)
		bob.Must(200, "GET", "/get/"+ch.name+"/noarch/repodata.json", nil)
		bob.Must(200, "DELETE", "/api/channels/"+ch.name, nil)
		bob.Must(404, "GET", "/get/"+ch.name+"/noarch/repodata.json", nil)
		bob.Must(404, "GET", "/api/channels/"+ch.name, nil)
	})
}

// TestQuetzLogin: the cookie, and that nobody else's page can use it.
func TestQuetzLogin(t *testing.T) {
	w := newWorld(t)
	resp := w.Anonymous().Must(307, "GET", "/api/dummylogin/alice", nil)
	if resp.Header.Get("Location") != "/" {
		t.Errorf("Location %q", resp.Header.Get("Location"))
	}
	set := resp.Header.Get("Set-Cookie")
	for _, attr := range []string{"HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(set, attr) {
			t.Errorf("the cookie lacks %s: %s", attr, set)
		}
	}
	w.Anonymous().Must(200, "GET", "/", nil)
	cookie, _, _ := strings.Cut(set, ";")
	send := func(t *testing.T, want int, method, path string, body any, header http.Header) *platformtest.Response {
		t.Helper()
		h := http.Header{"Cookie": {cookie}}
		maps.Copy(h, header)
		return w.Anonymous().In(t).Send(want, platformtest.Request{Method: method, Path: path, Body: body, Header: h})
	}
	host := strings.TrimPrefix(w.URL, "http://")

	t.Run("our own pages may write", func(t *testing.T) {
		send(t, 201, "POST", "/api/channels", map[string]any{"name": w.name()}, http.Header{"Origin": {w.URL}, "Sec-Fetch-Site": {"same-origin"}})
		send(t, 201, "POST", "/api/channels", map[string]any{"name": w.name()}, nil)
	})
	t.Run("others may not", func(t *testing.T) {
		for name, h := range map[string]http.Header{
			"another site":             {"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}},
			"an old browser":           {"Origin": {"https://evil.example"}},
			"a sibling host":           {"Sec-Fetch-Site": {"same-site"}},
			"a sandboxed frame":        {"Origin": {"null"}},
			"another port":             {"Origin": {"http://127.0.0.1:8999"}},
			"a host that begins alike": {"Origin": {"http://" + host + ".evil.example"}},
		} {
			resp := send(t, 0, "POST", "/api/channels", map[string]any{"name": w.name()}, h)
			if resp.Status != 403 {
				t.Errorf("%s: %d %s", name, resp.Status, resp.Body)
			}
			if resp := send(t, 0, "DELETE", "/api/channels/channel0", nil, h); resp.Status != 403 {
				t.Errorf("%s: DELETE %d %s", name, resp.Status, resp.Body)
			}
			if resp := send(t, 0, "GET", "/api/me", nil, h); resp.Status != 200 {
				t.Errorf("%s: reading: %d %s", name, resp.Status, resp.Body)
			}
		}
	})
	t.Run("a form is not taken for JSON", func(t *testing.T) {
		for _, ct := range []string{"application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", ""} {
			name := w.name()
			resp := send(t, 0, "POST", "/api/channels", fmt.Sprintf(`{"name":%q}`, name), http.Header{"Content-Type": {ct}})
			if resp.Status != 415 {
				t.Errorf("%q: %d %s", ct, resp.Status, resp.Body)
			}
		}
		send(t, 201, "POST", "/api/channels", fmt.Sprintf(`{"name":%q}`, w.name()), http.Header{"Content-Type": {"application/json; charset=utf-8"}})
	})
	t.Run("with a key other origins are welcome", func(t *testing.T) {
		w.Admin().In(t).Send(201, platformtest.Request{
			Method: "POST", Path: "/api/channels", Body: map[string]any{"name": w.name()}, Header: http.Header{"Origin": {"https://ci.example"}},
		})
	})
	t.Run("a logout ends the session on the server", func(t *testing.T) {
		resp := send(t, 303, "GET", "/auth/logout", nil, nil)
		if !strings.Contains(resp.Header.Get("Set-Cookie"), "Max-Age=0") {
			t.Errorf("Set-Cookie %q", resp.Header.Get("Set-Cookie"))
		}
		send(t, 401, "GET", "/api/me", nil, nil)
	})
}

// TestProduction: without --dev there is no login of others and no test user.
func TestProduction(t *testing.T) {
	s := platformtest.Start(t, platformtest.Production())
	s.Anonymous().Must(404, "GET", "/api/dummylogin/admin", nil)
	s.Anonymous().Must(404, "GET", "/api/dummylogin/alice", nil)
	var me struct{ User struct{ Username string } }
	s.Admin().Must(200, "GET", "/api/me", nil).JSON(&me)
	if me.User.Username != "admin" {
		t.Errorf("the first user is %q", me.User.Username)
	}
	s.Admin().Must(404, "GET", "/api/channels/channel0", nil)
}
