package apitest

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// TestSpoofedHeaders: nothing that a client says about itself, but for its key, changes who it is or what it may do.
// The corpus follows the holes that were found in others' gateways; platform.md §10.
func TestSpoofedHeaders(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	alice := userID(t, w.Stack, "alice")
	var fields []http.Header
	for _, name := range []string{
		"X-User", "X-User-Id", "X-Username", "X-Remote-User", "Remote-User", "X-Forwarded-User", "X-Authenticated-User", "X-Webauth-User", "X-Auth-Request-User",
		"X-Original-User", "X-Principal", "Principal", "Entrepot-User", "Entrepot-Principal", "X-Entrepot-Principal", "X-Ms-Client-Principal-Name", "X-Goog-Authenticated-User-Email",
		"Grpc-Metadata-User", "Grpc-Metadata-User-Id", "Grpc-Metadata-Entrepot-Target", "Grpc-Metadata-X-User-Id", "Grpcgateway-User", "Grpc-Metadata-User-Bin", "User-Bin",
	} {
		fields = append(fields, http.Header{name: {"alice"}}, http.Header{name: {alice}})
	}
	for _, name := range []string{
		"Entrepot-Token", "X-Entrepot-Token", "Entrepot-Target", "Grpc-Metadata-Entrepot-Token", "Grpc-Metadata-Authorization", "Grpcgateway-Authorization", "X_Api_Key", "X-Api_Key",
		"Http_x_api_key", "Proxy-Authorization", "X-Authorization", "Authentication", "Entrepot-Grant", "Api-Key", "X-Access-Token",
	} {
		fields = append(fields, http.Header{name: {w.AdminKey}}, http.Header{name: {"Bearer " + w.AdminKey}}, http.Header{name: {"all:" + w.AdminKey}})
	}
	fields = append(fields,
		http.Header{"X-Http-Method-Override": {"DELETE"}}, http.Header{"X-Original-Url": {"/api/channels/channel0"}}, http.Header{"X-Rewrite-Url": {"/api/channels/channel0"}},
		http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"localhost"}, "X-Forwarded-Proto": {"https"}, "Forwarded": {"for=127.0.0.1"}},
		http.Header{"X-Real-Ip": {"127.0.0.1"}}, http.Header{"Grpc-Timeout": {"1n"}}, http.Header{"Baggage": {"user=alice"}}, http.Header{"Traceparent": {"00-" + strings.Repeat("f", 32) + "-" + strings.Repeat("f", 16) + "-01"}},
		http.Header{"Cookie": {"entrepot_session=" + w.AdminKey}}, http.Header{"Cookie": {"entrepot_session=nonsense; entrepot_session=nonsense"}},
	)
	if len(fields) < 40 {
		t.Fatalf("only %d headers", len(fields))
	}
	erin := w.User("erin").In(t)
	// At the same time: a refusal waits for the next look at the roles, and all of them may wait for the same one.
	var asking sync.WaitGroup
	for _, h := range fields {
		asking.Go(func() {
			if resp := w.Anonymous().In(t).Send(0, platformtest.Request{Method: "GET", Path: "/api/me", Header: h}); resp.Status != 401 {
				t.Errorf("%v makes somebody of nobody: %d %s", h, resp.Status, resp.Body)
			}
			for path, want := range map[string]int{
				"/api/channels/" + ch.name: 403, "/entrepot/v1/channels/" + ch.name: 403, "/get/" + ch.name + "/noarch/repodata.json": 403, "/entrepot/v1/audit": 403,
				"/api/channels/channel0": 200,
			} {
				if resp := erin.Send(0, platformtest.Request{Method: "GET", Path: path, Header: h}); resp.Status != want {
					t.Errorf("%v on %s: %d, want %d: %s", h, path, resp.Status, want, resp.Body)
				}
			}
		})
	}
	asking.Wait()
	t.Run("two keys: the first header decides, never the better one", func(t *testing.T) {
		for _, h := range []http.Header{
			{"X-Api-Key": {erin.Key, w.AdminKey}}, {"X-Api-Key": {erin.Key}, "Authorization": {"Bearer " + w.AdminKey}}, {"X-Api-Key": {erin.Key}, "Cookie": {w.Login("alice")}},
		} {
			var me struct{ User struct{ Username string } }
			w.Anonymous().In(t).Send(200, platformtest.Request{Method: "GET", Path: "/api/me", Header: h}).JSON(&me)
			if me.User.Username != "erin" {
				t.Errorf("%d headers: %s", len(h), me.User.Username)
			}
		}
	})
	t.Run("a request's id is taken if it is harmless", func(t *testing.T) {
		for id, taken := range map[string]bool{"ci-4711.x_y": true, "": false, strings.Repeat("a", 65): false, "a b": false, "a\"b": false, "<script>": false} {
			resp := w.Anonymous().In(t).Send(200, platformtest.Request{Method: "GET", Path: "/api/channels", Header: http.Header{"X-Request-Id": {id}}})
			if got := resp.Header.Get("X-Request-Id"); (got == id) != taken || got == "" {
				t.Errorf("%q became %q", id, got)
			}
		}
	})
	t.Run("keys are in no answer and no log", func(t *testing.T) {
		w.Anonymous().In(t).Do("GET", "/t/"+w.AdminKey+"/get/channel0/noarch/none", nil)
		w.Anonymous().In(t).Do("GET", "/get/t/"+w.AdminKey+"/none/noarch/none", nil)
		resp := w.Admin().In(t).Do("DELETE", "/api/api-keys/"+strings.Repeat("z", len(w.AdminKey)), nil)
		if strings.Contains(string(resp.Body), strings.Repeat("z", 20)) {
			t.Errorf("the whole key comes back: %s", resp.Body)
		}
		if strings.Contains(w.Logs(), w.AdminKey) || strings.Contains(w.Logs(), erin.Key) {
			t.Error("a key is in the log")
		}
	})
}
