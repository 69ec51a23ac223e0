package apitest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestQuetzPackages: making packages, copying files, package members, lists of versions; quetz.md §2.2.
func TestQuetzPackages(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	base := "/api/channels/" + ch.name
	bob, carol, dave := w.User("bob").In(t), w.User("carol").In(t), w.User("dave").In(t)
	all := packages(t)

	t.Run("a package is made before its files", func(t *testing.T) {
		if got := string(carol.In(t).Must(201, "POST", base+"/packages", `{"name":"planned","summary":"soon","description":"very soon",}`).Body); got != "null" {
			t.Errorf("%s", got)
		}
		want := `{"name":"planned","summary":"soon","description":"very soon","url":null,"platforms":null,"current_version":null,"latest_change":null}`
		if got := string(dave.In(t).Must(200, "GET", base+"/packages/planned", nil).Body); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
		if got := detail(t, carol.In(t).Must(409, "POST", base+"/packages/", map[string]any{"name": "planned"})); got != "Package "+ch.name+"/planned exists" {
			t.Errorf("%s", got)
		}
		for _, bad := range []string{"Planned", "a b", "../x", "a/b", ".", "..", ""} {
			resp := carol.In(t).Must(422, "POST", base+"/packages", map[string]any{"name": bad})
			if strings.ContainsAny(bad, "P /") && !strings.Contains(detail(t, resp), "String should match pattern") {
				t.Errorf("%q: %s", bad, resp.Body)
			}
		}
		if got := detail(t, carol.In(t).Must(422, "POST", base+"/packages", map[string]any{})); !strings.Contains(got, "Field required") {
			t.Errorf("%s", got)
		}
		members := string(dave.In(t).Must(200, "GET", base+"/packages/planned/members", nil).Body)
		if !strings.HasPrefix(members, `[{"role":"owner","user":{"id":"`) || !strings.Contains(members, `"username":"carol","profile":{"name":"Carol","avatar_url":"/avatar.jpg"}}}]`) {
			t.Errorf("%s", members) // who made it owns it
		}
	})
	t.Run("the first upload makes its uploader the owner", func(t *testing.T) {
		members := string(dave.In(t).Must(200, "GET", base+"/packages/"+ch.pkg.name+"/members", nil).Body)
		if !strings.Contains(members, `"role":"owner","user":{`) || !strings.Contains(members, `"username":"bob"`) || strings.Contains(members, "carol") {
			t.Errorf("%s", members)
		}
	})
	t.Run("package members", func(t *testing.T) {
		path := base + "/packages/" + ch.pkg.name + "/members"
		add := func(c *platformtest.Client, status int, user, role string) *platformtest.Response {
			t.Helper()
			return c.In(t).Must(status, "POST", path, map[string]any{"username": user, "role": role})
		}
		if got := string(add(bob, 201, "erin", "maintainer").Body); got != "null" {
			t.Errorf("%s", got)
		}
		if got := detail(t, add(bob, 409, "erin", "member")); got != "Member erin in "+ch.name+"/"+ch.pkg.name+" exists" {
			t.Errorf("%s", got)
		}
		if got := detail(t, add(bob, 404, "nobody", "member")); got != "user nobody not found" {
			t.Errorf("%s", got)
		}
		if got := detail(t, add(bob, 422, "erin", "boss")); !strings.Contains(got, "owner|maintainer|member") {
			t.Errorf("%s", got)
		}
		if got := detail(t, bob.In(t).Must(404, "POST", base+"/packages/none/members", map[string]any{"username": "erin", "role": "member"})); got != "Package "+ch.name+"/none not found" {
			t.Errorf("%s", got)
		}
		erin := w.User("erin").In(t)
		erin.Must(403, "GET", base, nil)
		erin.Must(200, "GET", base+"/packages/"+ch.pkg.name, nil)
		erin.Must(200, "GET", base+"/packages/"+ch.pkg.name+"/versions", nil)
		erin.Must(201, "POST", base+"/upload/"+all[1].filename+"?sha256=", all[1].data)
		if got := string(bob.In(t).Must(200, "DELETE", path+"?username=erin", nil).Body); got != "null" {
			t.Errorf("%s", got)
		}
		erin.Must(403, "GET", base+"/packages/"+ch.pkg.name, nil)
		if got := detail(t, bob.In(t).Must(404, "DELETE", path+"?username=erin", nil)); got != "user erin is not a member of package "+ch.name+"/"+ch.pkg.name {
			t.Errorf("%s", got)
		}
		if got := detail(t, bob.In(t).Must(404, "DELETE", path+"?username=nobody", nil)); got != "user nobody not found" {
			t.Errorf("%s", got)
		}
		bob.In(t).Must(422, "DELETE", path, nil)
	})
	t.Run("a copy is another reference to the same bytes", func(t *testing.T) {
		target := w.name()
		bob.In(t).Must(201, "POST", "/api/channels", map[string]any{"name": target})
		copyOf := func(c *platformtest.Client, status int, from, pkg, subdir, file string) *platformtest.Response {
			t.Helper()
			q := url.Values{"source_channel": {from}, "source_package": {pkg}, "subdir": {subdir}, "filename": {file}}
			return c.In(t).Must(status, "POST", "/api/channels/"+target+"/packages/copy?"+q.Encode(), nil)
		}
		p := ch.pkg
		if got := string(copyOf(bob, 201, ch.name, p.name, p.subdir, p.filename).Body); got != "null" {
			t.Errorf("%s", got)
		}
		if got := bob.In(t).Must(200, "GET", "/get/"+target+"/"+p.subdir+"/"+p.filename, nil).Body; string(got) != string(p.data) {
			t.Errorf("%d bytes", len(got))
		}
		var v struct {
			Info struct{ Sha256 string }
		}
		bob.In(t).Must(200, "GET", "/api/channels/"+target+"/packages/"+p.name+"/versions/"+p.subdir+"/"+p.filename, nil).JSON(&v)
		if v.Info.Sha256 != p.sha256 {
			t.Errorf("info: %+v", v)
		}
		indexed := soon(t, func() bool {
			resp := bob.In(t).Do("GET", "/get/"+target+"/"+p.subdir+"/repodata.json", nil)
			return resp.Status == 200 && strings.Contains(string(resp.Body), p.sha256)
		})
		if !indexed {
			t.Error("the copy is not in the index, whose subdir is new to the channel")
		}
		for name, c := range map[string]struct{ got, want string }{
			"again":       {detail(t, copyOf(bob, 409, ch.name, p.name, p.subdir, p.filename)), "Duplicate"},
			"no channel":  {detail(t, copyOf(bob, 404, "none", p.name, p.subdir, p.filename)), "Channel none not found"},
			"no package":  {detail(t, copyOf(bob, 404, ch.name, "none", p.subdir, p.filename)), "Package " + ch.name + "/none not found"},
			"no file":     {detail(t, copyOf(bob, 404, ch.name, p.name, p.subdir, p.name+"-99-0.conda")), "package version " + p.subdir + "/" + p.name + "-99-0.conda not found"},
			"other's":     {detail(t, copyOf(bob, 404, ch.name, p.name, p.subdir, all[5].filename)), "package version " + p.subdir + "/" + all[5].filename + " not found"},
			"up the tree": {detail(t, copyOf(bob, 404, ch.name, p.name, "../x", p.filename)), "package version ../x/" + p.filename + " not found"},
		} {
			if got := c.got; got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
		if got := detail(t, bob.In(t).Must(422, "POST", "/api/channels/"+target+"/packages/copy?source_channel=x", nil)); !strings.Contains(got, "Field required") {
			t.Errorf("%s", got)
		}
		// erin owns a channel, but may not read the source.
		erin := w.User("erin").In(t)
		own := w.name()
		erin.Must(201, "POST", "/api/channels", map[string]any{"name": own})
		q := url.Values{"source_channel": {ch.name}, "source_package": {p.name}, "subdir": {p.subdir}, "filename": {p.filename}}
		erin.Must(403, "POST", "/api/channels/"+own+"/packages/copy?"+q.Encode(), nil)
		w.Admin().In(t).Must(200, "PATCH", "/api/channels/"+target, map[string]any{"size_limit": len(p.data) + 1})
		if got := detail(t, copyOf(bob, 422, ch.name, all[1].name, all[1].subdir, all[1].filename)); got != fmt.Sprintf("%s is above quota of %d bytes", target, len(p.data)+1) {
			t.Errorf("%s", got)
		}
	})
	t.Run("versions: newest first, filtered, with who brought them", func(t *testing.T) {
		bob.In(t).Must(201, "POST", base+"/upload/"+all[2].filename+"?sha256=&force=false", all[2].data)
		type version struct {
			Version, Filename string
			Uploader          json.RawMessage
			TimeCreated       string `json:"time_created"`
		}
		list := func(query string) (out []version) {
			bob.In(t).Must(200, "GET", base+"/packages/"+ch.pkg.name+"/versions"+query, nil).JSON(&out)
			return out
		}
		versions := list("")
		if len(versions) < 2 {
			t.Fatalf("%v", versions)
		}
		for _, v := range versions {
			want := `{"name":"Bob","avatar_url":"/avatar.jpg"}`
			if v.Filename == all[1].filename {
				want = `{"name":"erin","avatar_url":""}`
			}
			if string(v.Uploader) != want {
				t.Errorf("%s: %s", v.Filename, v.Uploader)
			}
		}
		newest := versions[0].Version
		for query, want := range map[string]int{
			"?version_match_str=" + url.QueryEscape(">="+newest): 1, "?version_match_str=" + url.QueryEscape("<"+newest): len(versions) - 1, "?version_match_str=": len(versions),
			"?version_match_str=99": 0, "?time_created__ge=2001-01-01": len(versions), "?time_created__ge=" + time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05"): 0,
		} {
			if got := list(query); len(got) != want {
				t.Errorf("%s: %d versions, want %d", query, len(got), want)
			}
		}
		page := string(bob.In(t).Must(200, "GET", "/api/paginated/channels/"+ch.name+"/packages/"+ch.pkg.name+"/versions?limit=1&version_match_str="+url.QueryEscape("<"+newest), nil).Body)
		if want := fmt.Sprintf(`{"pagination":{"skip":0,"limit":1,"all_records_count":%d},"result":[{`, len(versions)-1); !strings.HasPrefix(page, want) {
			t.Errorf("%.200s, want %s", page, want)
		}
		for _, bad := range []string{"?version_match_str=%3E%3D", "?time_created__ge=soon"} {
			bob.In(t).Must(422, "GET", base+"/packages/"+ch.pkg.name+"/versions"+bad, nil)
		}
	})
	t.Run("PATCH: any kind of channel, nothing but what may change", func(t *testing.T) {
		admin := w.Admin().In(t)
		for _, mode := range []string{"proxy", "mirror"} {
			name := w.name()
			admin.Must(201, "POST", "/api/channels", map[string]any{"name": name, "mirror_mode": mode, "mirror_channel_url": "http://127.0.0.1:8999/get/x", "actions": []any{}})
			admin.Must(200, "PATCH", "/api/channels/"+name, `{"metadata":{"includelist":[],"excludelist":["a"],"proxylist":["b"]},"ttl":60,"private":false}`)
			var ch struct {
				Mirror struct{ Includelist, Excludelist, Proxylist []string }
				Ttl    int64
			}
			admin.Must(200, "GET", "/entrepot/v1/channels/"+name, nil).JSON(&ch)
			if diff := cmp.Diff([]string{"a"}, ch.Mirror.Excludelist); diff != "" || len(ch.Mirror.Proxylist) != 1 || ch.Ttl != 60 {
				t.Errorf("%s: %+v", mode, ch)
			}
			admin.Must(200, "PATCH", "/api/channels/"+name, `{"metadata":{"proxylist":[]}}`)
			admin.Must(200, "GET", "/entrepot/v1/channels/"+name, nil).JSON(&ch)
			if len(ch.Mirror.Excludelist) != 1 || len(ch.Mirror.Proxylist) != 0 { // merged key by key
				t.Errorf("%s: %+v", mode, ch)
			}
		}
		want := fmt.Sprintf(`{"name":%q,"description":null,"private":true,"size_limit":null,"ttl":36000,"mirror_channel_url":null,"mirror_mode":null}`, ch.name)
		for _, body := range []string{`{}`, `{"metadata":{"includelist":["x"]}}`, `{"metadata":{}}`} {
			if got := string(carol.In(t).Must(200, "PATCH", base, body).Body); got != want {
				t.Errorf("%s: %s", body, got)
			}
			dave.In(t).Must(403, "PATCH", base, body)
		}
		if got := detail(t, carol.In(t).Must(422, "PATCH", base, `{"name":"x"}`)); got != "attribute 'name' of channel can not be changed" {
			t.Errorf("%s", got)
		}
		if got := detail(t, carol.In(t).Must(403, "PATCH", base, `{"size_limit":5}`)); got != `["only server maintainer or owner can set channel size limit"]` {
			t.Errorf("%s", got)
		}
		if got := detail(t, admin.Must(422, "PATCH", base, `{"size_limit":-5}`)); got != "must be positive value" {
			t.Errorf("%s", got)
		}
	})
}

// soon asks for up to ten seconds.
func soon(t *testing.T, ready func() bool) bool {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ready() {
			return true
		}
	}
	return false
}
