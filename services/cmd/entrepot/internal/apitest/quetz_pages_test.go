package apitest

import (
	"strings"
	"testing"
)

// TestQuetzPages: pages for people, and the routes beside the API; quetz.md §2.7, R11.
func TestQuetzPages(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob := w.User("bob").In(t)
	base := "/api/channels/" + ch.name
	bob.Must(201, "POST", base+"/packages", map[string]any{"name": "evil", "summary": `<script>alert("x")</script>`})

	for _, root := range []string{"/get/", "/channels/"} {
		for _, path := range []string{root + ch.name, root + ch.name + "/", root + ch.name + "/index.html"} {
			resp := bob.In(t).Must(200, "GET", path, nil)
			body := string(resp.Body)
			if ct := resp.Header.Get("Content-Type"); ct != "text/html; charset=utf-8" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("%s: %s", path, ct)
			}
			if strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") || !strings.Contains(body, ch.pkg.name) {
				t.Errorf("%s: %s", path, body)
			}
			if !strings.Contains(body, `href="`+root+ch.name+"/"+ch.pkg.subdir+`/"`) {
				t.Errorf("%s does not lead to %s: %s", path, ch.pkg.subdir, body)
			}
			if got := resp.Header.Get("Cache-Control"); got != "private, max-age=60" {
				t.Errorf("%s: %s", path, got)
			}
		}
		for _, path := range []string{"/", "", "/index.html"} {
			body := string(bob.In(t).Must(200, "GET", root+ch.name+"/"+ch.pkg.subdir+path, nil).Body)
			if !strings.Contains(body, `href="`+root+ch.name+"/"+ch.pkg.subdir+"/"+ch.pkg.filename+`"`) || !strings.Contains(body, ch.pkg.sha256) {
				t.Errorf("%s: %s", path, body)
			}
		}
	}
	t.Run("a private channel's pages are private", func(t *testing.T) {
		for _, path := range []string{"/get/" + ch.name, "/get/" + ch.name + "/", "/channels/" + ch.name + "/" + ch.pkg.subdir + "/"} {
			if got := detail(t, w.Anonymous().In(t).Must(401, "GET", path, nil)); got != "Not logged in" {
				t.Errorf("%s", got)
			}
			w.User("erin").In(t).Must(403, "GET", path, nil)
			w.Anonymous().In(t).Must(200, "GET", "/t/"+bob.Key+path, nil)
		}
	})
	t.Run("what is not there", func(t *testing.T) {
		if got := detail(t, w.Anonymous().In(t).Must(404, "GET", "/get/none", nil)); got != "Channel none not found" {
			t.Errorf("%s", got)
		}
		if got := detail(t, bob.In(t).Must(404, "GET", "/get/"+ch.name+"/win-64/", nil)); got != ch.name+"/win-64/index.html not found" {
			t.Errorf("%s", got)
		}
		bob.In(t).Must(404, "GET", "/get/"+ch.name+"/strange-subdir/", nil)
		bob.In(t).Must(422, "GET", "/get/"+ch.name+"/?skip=-1", nil)
	})
	t.Run("HEAD", func(t *testing.T) {
		if resp := bob.In(t).Must(200, "HEAD", "/get/"+ch.name+"/", nil); len(resp.Body) != 0 || resp.Header.Get("Content-Length") == "0" {
			t.Errorf("%v", resp.Header)
		}
	})
	t.Run("the API for people and for programs", func(t *testing.T) {
		for _, path := range []string{"/docs", "/redoc/"} {
			if body := string(w.Anonymous().In(t).Must(200, "GET", path, nil).Body); !strings.Contains(body, "/api/packages/search") || !strings.Contains(body, `href="/openapi.json"`) {
				t.Errorf("%s: %.300s", path, body)
			}
		}
		if body := string(w.Anonymous().In(t).Must(200, "GET", "/openapi.json", nil).Body); !strings.Contains(body, `"/api/users/{username}/role"`) {
			t.Error("openapi.json lacks the dialect's routes")
		}
	})
	t.Run("counters of the dialect's requests", func(t *testing.T) {
		bob.In(t).Must(200, "GET", "/get/"+ch.name+"/"+ch.pkg.subdir+"/"+ch.pkg.filename, nil)
		bob.In(t).Must(200, "HEAD", "/get/"+ch.name+"/"+ch.pkg.subdir+"/"+ch.pkg.filename, nil)
		resp := w.Anonymous().In(t).Must(200, "GET", "/metricsp", nil)
		body := string(resp.Body)
		for _, want := range []string{
			"\ndownload_count 1\n", "\nupload_count 1\n", "\nquetz_exceptions_total 0\n", "\ndatabase_pool_size ", "\ndatabase_connections_used ", `quetz_requests_total{method="POST",path_template="/api/channels/{channel}/packages"} 1`,
			`quetz_responses_total{method="GET",path_template="/get/{channel}",status_code="401"} 1`, `quetz_requests_processing_time_seconds_count{method="GET",path_template="/get/{channel}"}`,
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in %s", want, body)
			}
		}
		if strings.Contains(body, ch.name) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Errorf("%s %s", resp.Header, body)
		}
	})
	t.Run("login providers that are not configured", func(t *testing.T) {
		for _, path := range []string{"/auth/github/login", "/auth/github/enabled", "/auth/github/authorize", "/auth/github/revoke"} {
			if got := detail(t, w.Anonymous().In(t).Must(404, "GET", path, nil)); got != "login provider 'github' is not configured" {
				t.Errorf("%s: %s", path, got)
			}
		}
	})
}
