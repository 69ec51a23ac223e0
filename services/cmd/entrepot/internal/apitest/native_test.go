package apitest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/entrepot-dev/entrepot/gateway"
	optionsv1 "github.com/entrepot-dev/entrepot/proto/entrepot/options/v1"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/internal/sample"
)

// rpcs returns every method of the services that the platform offers, by full name.
func rpcs(t *testing.T) map[string]*optionsv1.Access {
	t.Helper()
	out := map[string]*optionsv1.Access{}
	for _, name := range gateway.Services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			access, ok := proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
			if !ok || access == nil {
				t.Errorf("%s has no access option", m.FullName())
				continue
			}
			out[string(m.FullName())] = access
		}
	}
	return out
}

// TestNativeRoutes: what is not internal has one REST form, and what is internal none.
func TestNativeRoutes(t *testing.T) {
	var summaries []string
	for _, r := range routesOf(t, "native", false) {
		for _, s := range strings.Split(r.Summary, ", ") {
			name, _, _ := strings.Cut(s, " (:") // the verb of its path
			summaries = append(summaries, name)
		}
		if r.Kind == "proto" && !strings.HasPrefix(r.Pattern, "/entrepot/v1/") {
			t.Errorf("%s is outside /entrepot/v1", r.Pattern)
		}
	}
	for full, access := range rpcs(t) {
		name := full[strings.LastIndexByte(full, '.')+1:]
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(full))
		if err != nil {
			t.Fatal(err)
		}
		hasRule := proto.HasExtension(d.Options(), annotations.E_Http)
		switch {
		case access.GetInternal() && (hasRule || slices.Contains(summaries, name)):
			t.Errorf("%s is internal and has a REST form", full)
		case !access.GetInternal() && name != "WatchJob" && !slices.Contains(summaries, name): // whose form is the event stream
			t.Errorf("%s has no REST form", full)
		}
	}
}

// TestNativeAPI walks through a life by REST: every RPC is called once with success.
func TestNativeAPI(t *testing.T) {
	w := newWorld(t)
	up := upstream(t)
	admin := w.Admin()
	called := map[string]bool{}
	call := func(rpc, method, path string, body any, status int) map[string]any {
		t.Helper()
		called[rpc] = true
		resp := admin.Must(status, method, "/entrepot/v1"+path, body)
		if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s: Content-Type %q", rpc, ct)
		}
		var out map[string]any
		resp.JSON(&out)
		return out
	}
	type obj = map[string]any
	p := packages(t)[0]

	// Identity.
	if got := call("GetMe", "GET", "/me", nil, 200); got["user"].(obj)["username"] != "alice" {
		t.Errorf("me: %v", got)
	}
	call("CreateUser", "POST", "/users", obj{"username": "frank", "name": "Frank"}, 200)
	if got := call("GetUser", "GET", "/users/frank", nil, 200); got["name"] != "Frank" {
		t.Errorf("user: %v", got)
	}
	if got := call("ListUsers", "GET", "/users?query=fra", nil, 200); got["total_size"] != 1.0 {
		t.Errorf("users: %v", got)
	}
	call("SetUserRole", "PUT", "/users/frank/role", obj{"role": "member"}, 200)
	call("ImportApiKey", "POST", "/users/frank/imported-keys", obj{"id": "abcdefghijkl", "sha256": strings.Repeat("ab", 32)}, 200)
	call("SetPassword", "PUT", "/users/frank/password", obj{"new_password": "a password of frank's"}, 200)
	call("SetUserDisabled", "PUT", "/users/frank/disabled", obj{"disabled": true}, 200)
	call("ListSessions", "GET", "/users/frank/sessions", nil, 200)
	call("RevokeSessions", "DELETE", "/users/frank/sessions", nil, 200)
	call("LinkLogin", "POST", "/users/frank/logins", obj{"provider": "github", "subject": "1"}, 200)
	if got := call("ListLinkedLogins", "GET", "/users/frank/logins", nil, 200); got["logins"].([]any)[0].(obj)["subject"] != "1" {
		t.Errorf("logins: %v", got)
	}
	call("CreateGroup", "POST", "/groups", obj{"name": "team"}, 200)
	call("AddGroupMember", "PUT", "/groups/team/members/frank", nil, 200)
	call("SetGroupRole", "POST", "/groups/team/roles", obj{"resource": "namespace/default", "role": "member"}, 200)
	if got := call("GetGroup", "GET", "/groups/team", nil, 200); len(got["members"].([]any)) != 1 || len(got["roles"].([]any)) != 1 {
		t.Errorf("group: %v", got)
	}
	call("ListGroups", "GET", "/groups?query=TEA", nil, 200)
	call("RemoveGroupMember", "DELETE", "/groups/team/members/frank", nil, 200)
	call("DeleteGroup", "DELETE", "/groups/team", nil, 200)
	call("DeleteUser", "DELETE", "/users/frank", nil, 200)
	made := call("CreateApiKey", "POST", "/api-keys", obj{"description": "n"}, 200)
	id := made["api_key"].(obj)["id"].(string)
	if secret := made["secret"].(string); !strings.HasPrefix(secret, id) || len(secret) <= len(id) {
		t.Errorf("key %q, secret of %d characters", id, len(secret))
	}
	call("ListApiKeys", "GET", "/api-keys", nil, 200)
	call("RevokeApiKey", "DELETE", "/api-keys/"+id, nil, 200)
	call("CreateNamespace", "POST", "/namespaces", obj{"name": "acme"}, 200)
	call("ListNamespaces", "GET", "/namespaces", nil, 200)

	// Channels.
	ch := call("CreateChannel", "POST", "/channels", obj{"name": "nat", "namespace": "acme", "size_limit": 1 << 40, "description": "d"}, 200)
	if ch["size_limit"] != float64(1<<40) || ch["ttl"] != 36000.0 || ch["kind"] != "CHANNEL_KIND_HOSTED" {
		t.Errorf("channel: %v", ch)
	}
	if got := call("SetNamespaceLimit", "PUT", "/namespaces/acme/limit", obj{"size_limit": 1 << 40}, 200); got["namespace"] != "acme" || got["size_limit"] != float64(1<<40) || got["channel_count"] != 1.0 {
		t.Errorf("limit: %v", got)
	}
	if got := call("ListNamespaceUsage", "GET", "/namespace-usage", nil, 200); len(got["usages"].([]any)) != 2 {
		t.Errorf("usage: %v", got)
	}
	call("GetChannel", "GET", "/channels/nat", nil, 200)
	call("ListChannels", "GET", "/channels?namespace=acme", nil, 200)
	if got := call("UpdateChannel", "PATCH", "/channels/nat", obj{"description": "new", "private": true}, 200); got["description"] != "new" || got["size_limit"] != float64(1<<40) {
		t.Errorf("updated: %v", got)
	}
	call("SetMember", "PUT", "/channels/nat/members/bob", obj{"role": "maintainer"}, 200)
	if got := call("ListMembers", "GET", "/channels/nat/members", nil, 200); len(got["members"].([]any)) != 2 {
		t.Errorf("members: %v", got)
	}
	call("RemoveMember", "DELETE", "/channels/nat/members/bob", nil, 200)
	admin.Must(201, "PUT", "/entrepot/v1/channels/nat/uploads/"+p.filename+"?sha256="+p.sha256, p.data)
	call("ListPackages", "GET", "/channels/nat/packages", nil, 200)
	call("GetPackage", "GET", "/channels/nat/packages/"+p.name, nil, 200)
	files := call("ListFiles", "GET", "/channels/nat/files?page_size=1", nil, 200)["files"].([]any)
	if f := files[0].(obj); f["path"] != p.subdir+"/"+p.filename || f["size"] != float64(len(p.data)) || f["added_revision"] == nil {
		t.Errorf("file: %v", f)
	}
	call("ListRevisions", "GET", "/channels/nat/revisions", nil, 200)
	call("CreatePackage", "POST", "/channels/nat/packages", obj{"name": "planned", "summary": "s"}, 200)
	call("AddPackageMember", "PUT", "/channels/nat/packages/planned/members/bob", obj{"role": "maintainer"}, 200)
	if got := call("ListPackageMembers", "GET", "/channels/nat/packages/planned/members", nil, 200); len(got["members"].([]any)) != 2 {
		t.Errorf("package members: %v", got)
	}
	if got := call("ListUserRoles", "GET", "/users/bob/roles?packages=true", nil, 200); got["total_size"] != 1.0 {
		t.Errorf("roles: %v", got)
	}
	call("RemovePackageMember", "DELETE", "/channels/nat/packages/planned/members/bob", nil, 200)
	call("CreateChannel", "POST", "/channels", obj{"name": "copy"}, 200)
	if got := call("CopyFile", "POST", "/channels/copy:copyFile", obj{"source_channel": "nat", "source_package": p.name, "subdir": p.subdir, "filename": p.filename}, 200); got["sha256"] != p.sha256 {
		t.Errorf("copy: %v", got)
	}
	call("CreateChannel", "POST", "/channels", obj{"name": "ofnat", "mirror": obj{"url": w.URL + "/get/nat"}}, 200)
	mirror := call("RegisterMirror", "POST", "/channels/nat/mirrors", obj{"url": w.URL + "/get/ofnat", "request_origin": w.URL}, 200)
	if mirror["confirmed"] != true {
		t.Errorf("mirror: %v", mirror)
	}
	call("ListMirrors", "GET", "/channels/nat/mirrors", nil, 200)
	pull := call("StartPull", "POST", "/channels/nat/metrics/pulls", obj{"repeat_every_seconds": 3600}, 200)
	if pull["action"] != "synchronize_metrics" || pull["repeat_every_seconds"] != 3600.0 {
		t.Errorf("pull: %v", pull)
	}
	var pulls []any
	for end := time.Now().Add(30 * time.Second); len(pulls) == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		pulls, _ = call("ListPulls", "GET", "/channels/nat/metrics/pulls", nil, 200)["pulls"].([]any)
	}
	if len(pulls) != 1 {
		t.Fatalf("pulls: %v", pulls)
	}
	call("DeletePull", "DELETE", "/channels/nat/metrics/pulls/"+mirror["id"].(string), nil, 200)
	call("DeleteMirror", "DELETE", "/channels/nat/mirrors/"+mirror["id"].(string), nil, 200)
	if got := call("GetChannelMetrics", "GET", "/channels/nat/metrics?top=3&interval=INTERVAL_MONTH", nil, 200); got["interval"] != "INTERVAL_MONTH" {
		t.Errorf("downloads: %v", got)
	}
	call("ListFileMetrics", "GET", "/channels/nat/metrics/files?subdir=noarch", nil, 200)
	if got := call("GetFileMetrics", "GET", "/channels/nat/metrics/files/"+p.subdir+"/"+p.filename, nil, 200); got["path"] != p.subdir+"/"+p.filename {
		t.Errorf("downloads of a file: %v", got)
	}
	call("GetDownloadCounts", "GET", "/channels/nat/metrics/counts?packages="+p.name, nil, 200)
	if got := call("StartAction", "POST", "/channels/nat:run", obj{"action": "cleanup_dry_run"}, 200); got["kind"] != "channels.cleanup" {
		t.Errorf("action: %v", got)
	}
	if got := call("StartBuiltinJob", "POST", "/jobs", obj{"action": "cleanup_dry_run", "items_spec": "*"}, 200); got["items_spec"] != "*" {
		t.Errorf("built-in: %v", got)
	}
	job := call("RebuildIndex", "POST", "/channels/nat:rebuildIndex", obj{}, 200)["job_id"].(string)
	call("DeleteFile", "DELETE", "/channels/nat/files/"+p.subdir+"/"+p.filename, nil, 200)
	call("DeletePackage", "DELETE", "/channels/nat/packages/"+p.name, nil, 200)

	// Jobs and sync.
	call("CreateChannel", "POST", "/channels", obj{"name": "mir", "private": false, "mirror": obj{"url": up.URL}}, 200)
	sync := call("StartSync", "POST", "/channels/mir:sync", obj{}, 200)
	if _, ok := sync["number"].(float64); !ok {
		t.Errorf("the job's number is %T", sync["number"])
	}
	last := follow(t, admin, sync["id"].(string), "")
	if state := last[len(last)-1].state(t); state != "JOB_STATE_SUCCEEDED" {
		t.Fatalf("the sync ended as %s", state)
	}
	if got := call("GetSyncStatus", "GET", "/channels/mir/sync", nil, 200); got["last"].(obj)["added"] != float64(len(up.Channel.Files)) {
		t.Errorf("sync status: %v", got)
	}
	if got := call("GetJob", "GET", "/jobs/"+job, nil, 200); got["kind"] != "channels.index" {
		t.Errorf("job: %v", got)
	}
	call("GetJob", "GET", fmt.Sprintf("/jobs/%.0f", sync["number"]), nil, 200)
	if got := call("ListJobs", "GET", "/jobs?kind=sync.channel&states=JOB_STATE_SUCCEEDED", nil, 200); got["total_size"] != 1.0 {
		t.Errorf("jobs: %v", got)
	}
	later := call("StartSync", "POST", "/channels/mir:sync", obj{"start_at": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)}, 200)["id"].(string)
	if got := call("CancelJob", "POST", "/jobs/"+later+":cancel", obj{}, 200); got["state"] != "JOB_STATE_CANCELLED" {
		t.Errorf("cancelled: %v", got)
	}
	if got := call("RetryJob", "POST", "/jobs/"+later+":retry", obj{}, 200); got["state"] == "JOB_STATE_CANCELLED" {
		t.Errorf("retried: %v", got)
	}
	follow(t, admin, later, "") // the upstream goes before the platform does, and a stop waits for jobs that still ask for it
	if got := call("GetUsage", "GET", "/storage/usage", nil, 200); got["blob_bytes"].(float64) < 1 {
		t.Errorf("usage: %v", got)
	}
	if got := call("UpdateRemote", "PATCH", "/channels/mir/remote?update_mask=username,password", obj{"username": "u", "password": "secret"}, 200); got["username"] != "u" {
		t.Errorf("remote: %v", got)
	}
	if got := fmt.Sprint(call("GetRemote", "GET", "/channels/mir/remote", nil, 200)); strings.Contains(got, "secret") {
		t.Errorf("the remote shows its password: %s", got)
	}
	hook := call("CreateWebhook", "POST", "/channels/nat/webhooks", obj{"url": "http://127.0.0.1:39999/hook"}, 200)["webhook"].(obj)["id"].(string)
	call("ListWebhooks", "GET", "/channels/nat/webhooks", nil, 200)
	call("UpdateWebhook", "PUT", "/channels/nat/webhooks/"+hook, obj{"url": "http://127.0.0.1:39999/hook", "disabled": true}, 200)
	call("ListDeliveries", "GET", "/channels/nat/webhooks/"+hook+"/deliveries", nil, 200)
	call("DeleteWebhook", "DELETE", "/channels/nat/webhooks/"+hook, nil, 200)
	if got := call("SetSchedule", "PUT", "/channels/mir/schedules/poll", obj{"repeat_every_seconds": 3600, "start_at": "2099-01-01T00:00:00Z"}, 200); got["action"] != "poll" || got["next_time"] != "2099-01-01T00:00:00Z" {
		t.Errorf("schedule: %v", got)
	}
	if got := call("ListSchedules", "GET", "/channels/mir/schedules", nil, 200); len(got["schedules"].([]any)) != 1 {
		t.Errorf("schedules: %v", got)
	}
	call("DeleteSchedule", "DELETE", "/channels/mir/schedules/poll", nil, 200)
	call("ImportCounts", "POST", "/channels/nat/metrics/imports", obj{"source_id": "6f1f9c2e-6a1c-4b7c-9d38-0d5a4a6f3a11", "source": "elsewhere", "files": []obj{{
		"path": p.subdir + "/" + p.filename, "interval": "INTERVAL_DAY", "series": []obj{{"time": "2025-01-02T00:00:00Z", "count": 3}},
	}}}, 200)
	call("RunGarbageCollection", "POST", "/storage/gc", obj{}, 200)
	call("RunScrub", "POST", "/storage/scrub", obj{}, 200)
	call("ListFindings", "GET", "/storage/findings", nil, 200)
	call("ListAuditEvents", "GET", "/audit?page_size=3", nil, 200)
	call("DeleteChannel", "DELETE", "/channels/nat", nil, 200)
	called["WatchJob"] = true // follow

	for full, access := range rpcs(t) {
		if name := full[strings.LastIndexByte(full, '.')+1:]; !access.GetInternal() && !called[name] {
			t.Errorf("%s was not called", full)
		}
	}
}

// upstream serves a small channel for as long as the test runs.
func upstream(t *testing.T) *sample.Upstream {
	t.Helper()
	up, err := sample.Serve(t.TempDir(), sample.Options{Packages: 12, Tiny: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Close() })
	return up
}

// event is a server-sent event.
type event struct{ id, name, data string }

func (e event) state(t *testing.T) string {
	t.Helper()
	var body struct{ State struct{ State string } }
	if err := json.Unmarshal([]byte(e.data), &body); err != nil {
		t.Fatalf("%v: %s", err, e.data)
	}
	return body.State.State
}

// follow reads a job's event stream to its end.
func follow(t *testing.T, c *platformtest.Client, job, last string) []event {
	t.Helper()
	var h http.Header
	if last != "" {
		h = http.Header{"Last-Event-Id": {last}}
	}
	resp := c.In(t).Send(200, platformtest.Request{Method: "GET", Path: "/entrepot/v1/jobs/" + job + "/events", Header: h})
	if ct := resp.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Errorf("Content-Type %q", ct)
	}
	return parseEvents(t, bytes.NewReader(resp.Body))
}

func parseEvents(t *testing.T, r io.Reader) (all []event) {
	t.Helper()
	var e event
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			if e != (event{}) && value == "" {
				all = append(all, e)
			}
			e = event{}
		default:
			t.Fatalf("a line that is none of an event stream: %q", lines.Text())
		}
	}
	return all
}

// TestNativeEvents: the stream begins with the job's state, ends with its last one, and can be taken up again.
func TestNativeEvents(t *testing.T) {
	w := newWorld(t)
	admin := w.Admin()
	admin.Must(200, "POST", "/entrepot/v1/channels", map[string]any{"name": "mir", "mirror": map[string]any{"url": upstream(t).URL}})
	var job struct{ ID string }
	admin.Must(200, "POST", "/entrepot/v1/channels/mir:sync", map[string]any{}).JSON(&job)
	all := follow(t, admin, job.ID, "")
	if len(all) < 2 || all[0].name != "state" || all[len(all)-1].state(t) != "JOB_STATE_SUCCEEDED" {
		t.Fatalf("events: %+v", all)
	}
	id := regexp.MustCompile(`^[0-9A-Za-z]+-[0-9]+$`)
	for _, e := range all {
		if !id.MatchString(e.id) || (e.name != "state" && e.name != "progress" && e.name != "log") {
			t.Errorf("event %+v", e)
		}
	}
	t.Run("resumed after an event, nothing is repeated and the end comes", func(t *testing.T) {
		rest := follow(t, admin, job.ID, all[0].id)
		if len(rest) == 0 || rest[len(rest)-1].state(t) != "JOB_STATE_SUCCEEDED" {
			t.Fatalf("events: %+v", rest)
		}
		if len(all) > 3 && len(rest) >= len(all)+1 {
			t.Errorf("%d events after the first of %d", len(rest), len(all))
		}
	})
	t.Run("an unknown epoch gets the state anew", func(t *testing.T) {
		for _, last := range []string{"1-999999", "nonsense", "99999999999999999999-1", strings.Repeat("9", 4000)} {
			got := follow(t, admin, job.ID, last)
			if len(got) == 0 || got[len(got)-1].state(t) != "JOB_STATE_SUCCEEDED" {
				t.Errorf("%.20s: %+v", last, got)
			}
		}
	})
	t.Run("others' jobs and none are told before the stream begins", func(t *testing.T) {
		w.User("bob").In(t).Must(403, "GET", "/entrepot/v1/jobs/"+job.ID+"/events", nil)
		w.Anonymous().In(t).Must(401, "GET", "/entrepot/v1/jobs/"+job.ID+"/events", nil)
		admin.In(t).Must(404, "GET", "/entrepot/v1/jobs/00000000-0000-4000-8000-000000000000/events", nil)
		admin.In(t).Must(400, "GET", "/entrepot/v1/jobs/x/events", nil)
	})
	t.Run("a stream of a job that waits ends when the server stops", func(t *testing.T) {
		var later struct{ ID string }
		start := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		admin.In(t).Must(200, "POST", "/entrepot/v1/channels/mir:sync", map[string]any{"start_at": start}).JSON(&later)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", w.URL+"/entrepot/v1/jobs/"+later.ID+"/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-API-Key", w.AdminKey)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer http.DefaultClient.CloseIdleConnections()
		defer resp.Body.Close()
		line, err := bufio.NewReader(resp.Body).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "id: ") {
			t.Fatalf("first line %q, %v", line, err)
		}
		began := time.Now()
		w.Stop()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the stop took %s", took)
		}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Errorf("the stream was cut: %v", err)
		}
	})
}

// TestNativeProblems: errors are RFC 9457, with the reason and the fields that are wrong.
func TestNativeProblems(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	base := "/entrepot/v1/channels/" + ch.name
	type request = platformtest.Request
	for name, c := range map[string]struct {
		who    string
		req    request
		status int
		reason string
		field  string
	}{
		"no such channel":        {owner, request{Method: "GET", Path: "/entrepot/v1/channels/none"}, 404, "CHANNEL_NOT_FOUND", ""},
		"not logged in":          {anonymous, request{Method: "GET", Path: base}, 401, "", ""},
		"no right":               {stranger, request{Method: "GET", Path: base}, 403, "", ""},
		"exists":                 {owner, request{Method: "POST", Path: "/entrepot/v1/channels", Body: map[string]any{"name": ch.name}}, 409, "CHANNEL_EXISTS", ""},
		"a bad name":             {owner, request{Method: "POST", Path: "/entrepot/v1/channels", Body: map[string]any{"name": "a/b"}}, 400, "", "name"},
		"no JSON":                {owner, request{Method: "POST", Path: "/entrepot/v1/channels", Body: "{"}, 400, "", ""},
		"a wrong type":           {owner, request{Method: "POST", Path: "/entrepot/v1/channels", Body: map[string]any{"name": 5}}, 400, "", ""},
		"a bad page size":        {owner, request{Method: "GET", Path: "/entrepot/v1/channels?page_size=x"}, 400, "", ""},
		"a negative page size":   {owner, request{Method: "GET", Path: "/entrepot/v1/channels?page_size=-1"}, 400, "", ""},
		"a bad page token":       {owner, request{Method: "GET", Path: "/entrepot/v1/channels?page_token=%00x"}, 400, "", ""},
		"an expired key":         {expired, request{Method: "GET", Path: "/entrepot/v1/channels"}, 401, "", ""},
		"no such path":           {owner, request{Method: "GET", Path: "/entrepot/v1/nothing"}, 404, "", ""},
		"no such method":         {owner, request{Method: "DELETE", Path: "/entrepot/v1/me"}, 405, "", ""},
		"no such verb":           {owner, request{Method: "POST", Path: base + ":explode", Body: map[string]any{}}, 404, "", ""},
		"the wrong digest":       {owner, request{Method: "PUT", Path: base + "/uploads/" + packages(t)[1].filename + "?sha256=" + ch.pkg.sha256, Body: packages(t)[1].data}, 400, "DIGEST_MISMATCH", "sha256"},
		"an upload of junk":      {owner, request{Method: "PUT", Path: base + "/uploads/x-1-0.conda", Body: "junk"}, 400, "PACKAGE_INVALID", "filename"},
		"an upload with no name": {owner, request{Method: "PUT", Path: base + "/uploads/x", Body: "junk"}, 400, "FILENAME_INVALID", "filename"},
		"no JSON object":         {owner, request{Method: "POST", Path: "/entrepot/v1/channels", Body: "[]"}, 400, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			resp := w.as(t, c.who, ch).Send(0, c.req)
			if resp.Status != c.status {
				t.Fatalf("status %d, want %d: %s", resp.Status, c.status, resp.Body)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("Content-Type %q", ct)
			}
			var p struct {
				Type, Title, Detail, Reason string
				Status                      int
				RequestID                   string `json:"request_id"`
				Violations                  []struct{ Field, Description string }
			}
			resp.JSON(&p)
			if p.Status != c.status || p.Type != "about:blank" || p.Title != http.StatusText(c.status) || p.Detail == "" {
				t.Errorf("%s", resp.Body)
			}
			if p.Reason != c.reason {
				t.Errorf("reason %q, want %q", p.Reason, c.reason)
			}
			if p.RequestID == "" || p.RequestID != resp.Header.Get("X-Request-Id") {
				t.Errorf("request_id %q, X-Request-Id %q", p.RequestID, resp.Header.Get("X-Request-Id"))
			}
			if c.field != "" && (len(p.Violations) == 0 || p.Violations[0].Field != c.field) {
				t.Errorf("violations %v, want the field %s", p.Violations, c.field)
			}
			if strings.Contains(string(resp.Body), "\\u0000") || strings.Contains(p.Detail, "SQLSTATE") {
				t.Errorf("%s", resp.Body)
			}
		})
	}
}

// TestNativeUpload: sending the same bytes again is a success without effect.
func TestNativeUpload(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	p := packages(t)[1]
	path := "/entrepot/v1/channels/" + ch.name + "/uploads/" + p.filename
	bob := w.User("bob")
	var one, two map[string]any
	bob.Must(201, "PUT", path, p.data).JSON(&one)
	bob.Must(200, "PUT", path, p.data).JSON(&two)
	if diff := cmp.Diff(one, two); diff != "" {
		t.Errorf("the repeat tells of another file: %s", diff)
	}
	var revisions struct {
		Revisions []struct{ Number int }
	}
	bob.Must(200, "GET", "/entrepot/v1/channels/"+ch.name+"/revisions", nil).JSON(&revisions)
	if n := revisions.Revisions[0].Number; n != 3 { // made, one upload, this one
		t.Errorf("the channel is at revision %d", n)
	}
	if got := bob.Must(200, "GET", "/get/"+ch.name+"/"+p.subdir+"/"+p.filename, nil); !bytes.Equal(got.Body, p.data) {
		t.Error("other bytes come back")
	}

	t.Run("other bytes under the same name are a conflict", func(t *testing.T) {
		other := otherBytes(t, p)
		resp := bob.In(t).Must(409, "PUT", path, other)
		if !strings.Contains(string(resp.Body), `"DUPLICATE"`) {
			t.Errorf("%s", resp.Body)
		}
		bob.In(t).Must(201, "PUT", path+"?force=true", other)
		if got := bob.In(t).Must(200, "GET", "/get/"+ch.name+"/"+p.subdir+"/"+p.filename, nil); !bytes.Equal(got.Body, other) {
			t.Error("the replaced bytes come back")
		}
	})
	t.Run("a limit is told before the body, and holds for bodies of unknown length", func(t *testing.T) {
		w.Admin().In(t).Must(201, "POST", "/api/channels", map[string]any{"name": "small", "size_limit": 1000})
		for name, body := range map[string]func() any{
			"known":   func() any { return p.data },
			"chunked": func() any { return io.MultiReader(bytes.NewReader(p.data)) }, // whose length net/http cannot know
		} {
			quetz := w.Admin().In(t).Do("POST", "/api/channels/small/upload/"+p.filename+"?sha256=", body())
			native := w.Admin().In(t).Do("PUT", "/entrepot/v1/channels/small/uploads/"+p.filename, body())
			if quetz.Status != 422 || detail(t, quetz) != "small is above quota of 1000 bytes" {
				t.Errorf("%s: Quetz: %d %s", name, quetz.Status, quetz.Body)
			}
			if native.Status != 429 || !strings.Contains(string(native.Body), `"QUOTA"`) {
				t.Errorf("%s: native: %d %s", name, native.Status, native.Body)
			}
		}
	})
}

// otherBytes returns another package of the same file name.
func otherBytes(t *testing.T, p *pkg) []byte {
	t.Helper()
	ch, err := sample.Build(t.TempDir(), sample.Options{Packages: 24, Tiny: true, Seed: 99})
	if err != nil {
		t.Fatal(err)
	}
	return readFile(t, ch.Dir+"/"+p.subdir+"/"+p.filename)
}

// TestOpenAPI: what is served describes every native route.
func TestOpenAPI(t *testing.T) {
	s := platformtest.Start(t)
	var doc struct {
		Info  struct{ Title, Version string }
		Paths map[string]map[string]json.RawMessage
	}
	s.Anonymous().Must(200, "GET", "/entrepot/v1/openapi.json", nil).JSON(&doc)
	if doc.Info.Title != "Entrepot" || doc.Info.Version != "test" {
		t.Errorf("info %+v", doc.Info)
	}
	variable := regexp.MustCompile(`\{([a-z_]+)[^}]*\}`)
	described := map[string]bool{}
	for path, methods := range doc.Paths {
		if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '}') {
			path = path[:i]
		}
		for m := range methods {
			described[strings.ToUpper(m)+" "+variable.ReplaceAllString(path, "{}")] = true
		}
	}
	for _, d := range dialects(t, false) {
		for _, r := range d.Routes {
			key := r.Method + " " + variable.ReplaceAllString(strings.ReplaceAll(r.Pattern, "...}", "}"), "{}")
			skip := strings.HasSuffix(r.Pattern, "openapi.json") || r.Pattern == "/"
			if !described[key] && !skip && (d.Name == "native" || r.Kind == "proto") {
				t.Errorf("%s is not described", key)
			}
			delete(described, key)
		}
	}
	for key := range described {
		t.Errorf("%s is described, but is no route", key)
	}
	if got := s.Anonymous().Must(200, "GET", "/openapi.json", nil); len(got.Body) < 10_000 {
		t.Errorf("/openapi.json has %d bytes", len(got.Body))
	}
}
