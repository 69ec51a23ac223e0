package attacktest

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

// climbs are names that mean another place to somebody: to a file system, a URL parser, a proxy, or a decoder that
// decodes once more. None is a name of ours.
var climbs = []string{
	"..", "../", "../..", "../../../../../../../../" + moo, "/" + moo, "//" + moo, "/etc/" + moo, "./", "./../" + moo, "a/../../" + moo, "a/b/" + moo,
	"..\\", "..\\..\\" + moo, "\\" + moo, "\\\\host\\share\\" + moo, "C:\\" + moo, "C:" + moo, "c:/" + moo, "file:///" + moo, "~/" + moo, "~root/" + moo,
	"%2e%2e", "%2e%2e%2f" + moo, "..%2f" + moo, "%2e%2e/" + moo, "..%5c" + moo, "%252e%252e%252f" + moo, "%25252e%25252e/" + moo, "%c0%ae%c0%ae/" + moo, "%uff0e%uff0e/" + moo,
	"\x00" + moo, moo + "\x00.conda", "a\x00b", "\r\n" + moo, moo + "\nx", moo + "\rx", "\t" + moo, "\x7f" + moo, "\x1b[31m" + moo, "\u0085" + moo, "\u2028" + moo,
	"\uff0e\uff0e\uff0f" + moo, "\u2025/" + moo, "\u2024\u2024/" + moo, "\u2215" + moo, "\u2044" + moo, "\uff3c" + moo, ".\u200b./" + moo, "\ufeff" + moo, "\u202e" + moo, "\u0430dm\u0456n",
	"\xc0\xae\xc0\xae/" + moo, "\xc0\xaf" + moo, "\xe0\x80\xaf" + moo, "\xc1\x9c" + moo, "\xff" + moo, "\xfe\xff" + moo, "\xed\xa0\x80" + moo,
	";" + moo, "..;/" + moo, moo + ";x", "$(" + moo + ")", "`" + moo + "`", "|" + moo, "&" + moo, "<" + moo + ">", "'" + moo, "\"" + moo, "*" + moo, "?" + moo, "#" + moo,
	" " + moo, moo + " ", ". .", "...", "....//" + moo, ".", "", "-" + moo + "/..", "nul/" + moo, "con/" + moo, "aux:" + moo,
	strings.Repeat("m", 256), strings.Repeat("é", 128), strings.Repeat("../", 60) + moo, strings.Repeat("m/", 200) + moo, strings.Repeat("m", 5000),
}

// TestNamesOfUploads: a file name in a URL or a form becomes no path.
func TestNamesOfUploads(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin().In(t)
	before := disk(t, s)
	good := conda("demo-1.0-0", index(nil), nil, nil)
	vectors := 0
	for _, bad := range climbs {
		for _, name := range []string{bad + "-1.0-0.conda", "demo-" + bad + "-0.conda", "demo-1.0-" + bad + ".conda", "demo-1.0-0.conda" + bad, bad + "/demo-1.0-0.conda"} {
			if _, err := dist.ParseFilename(name); err == nil || (bad == "" && name == "demo-1.0-0.conda") {
				continue // an ordinary name after all; TestMetadata… says that the archive must agree with it
			}
			vectors++
			enc := strings.NewReplacer("+", "%20").Replace(url.QueryEscape(name))
			switch vectors % 3 {
			case 0:
				refused(t, fmt.Sprintf("upload %.80q", name), admin.Do("POST", "/api/channels/channel0/upload/"+enc+"?sha256=", good))
				continue
			case 1:
				refused(t, fmt.Sprintf("native upload %.80q", name), admin.Do("PUT", "/entrepot/v1/channels/channel0/uploads/"+enc, good))
				continue
			}
			body, ct := form(name, good)
			resp := admin.Send(0, platformtest.Request{Method: "POST", Path: "/api/channels/channel0/files", Body: body, Header: map[string][]string{"Content-Type": {ct}}})
			// A form's file name may be cut down to its last element by the reader of forms; what is left must be a name.
			if resp.Status/100 == 2 && strings.HasSuffix(strings.ReplaceAll(name, "\\", "/"), "/demo-1.0-0.conda") {
				admin.Do("DELETE", "/entrepot/v1/channels/channel0/files/noarch/demo-1.0-0.conda", nil)
				continue
			}
			refused(t, fmt.Sprintf("form %.80q", name), resp)
		}
	}
	onlyBlobs(t, s, before)
	t.Logf("%d vectors", vectors)
	if vectors < 300 {
		t.Error("that are too few")
	}
}

func form(filename string, data []byte) (body []byte, contentType string) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	h := textproto.MIMEHeader{"Content-Disposition": {`form-data; name="files"; filename="` + strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "\r", "%0D", "\n", "%0A").Replace(filename) + `"`}}
	part, err := w.CreatePart(h)
	if err == nil {
		_, err = part.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return buf.Bytes(), w.FormDataContentType()
}

// onlyBlobs fails if the data directory has new files that are no blobs, or if a channel lists what it should not.
func onlyBlobs(t *testing.T, s *platformtest.Stack, before []string) {
	t.Helper()
	if diff := cmp.Diff(before, disk(t, s)); diff != "" {
		t.Errorf("the data directory has changed outside of blobs: %s", diff)
	}
	for _, text := range tables(t, s) {
		if strings.Contains(text, moo) {
			t.Errorf("the database lists a file that an attack named: %.300s", text)
		}
	}
	whole(t, s)
}

// TestMetadataOfUploads: what an archive says of itself becomes no path, and must be what its file name says.
func TestMetadataOfUploads(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin().In(t)
	before := disk(t, s)
	vectors := 0
	for _, bad := range climbs {
		for _, field := range []string{"name", "version", "build", "subdir", "platform", "arch", "noarch"} {
			if field == "platform" || field == "arch" {
				continue // nothing is made of them
			}
			vectors++
			data := conda("demo-1.0-0", index(map[string]any{field: bad}), nil, nil)
			path, method := "/api/channels/channel1/upload/demo-1.0-0.conda?sha256=", "POST"
			if vectors%2 == 0 {
				path, method = "/entrepot/v1/channels/channel1/uploads/demo-1.0-0.conda", "PUT"
			}
			resp := admin.Do(method, path, data)
			if field == "noarch" && resp.Status/100 == 2 { // not a path; index.json may say what it likes
				continue
			}
			if field == "subdir" && bad == "" { // the subdir may be missing where noarch says it
				continue
			}
			refused(t, fmt.Sprintf("%s %.60q", field, bad), resp)
		}
	}
	for _, ix := range []string{
		``, `[]`, `null`, `"x"`, `{`, `{"name": null}`, `{"name": {}}`, index(map[string]any{"name": []string{"demo"}}), index(map[string]any{"version": 1.0}),
		index(map[string]any{"build_number": "0"}), index(map[string]any{"name": "demo2"}), index(map[string]any{"version": "1.1"}), index(map[string]any{"build": "1"}),
		strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), `{"name":"demo","name":"` + moo + `","version":"1.0","build":"0","subdir":"noarch"}`,
	} {
		vectors++
		refused(t, fmt.Sprintf("index.json %.40q", ix), admin.Do("POST", "/api/channels/channel1/upload/demo-1.0-0.conda?sha256=", conda("demo-1.0-0", ix, nil, nil)))
	}
	onlyBlobs(t, s, before)
	t.Logf("%d vectors", vectors)
	if vectors < 300 {
		t.Error("that are too few")
	}
}

// TestNamesInUpstreams: what an upstream's index calls its files, subdirs and places becomes no path here, and is not
// asked for there.
func TestNamesInUpstreams(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(quick))
	admin := s.Admin().In(t)
	before := disk(t, s)
	ch := synctest.NewChannel()
	good := ch.AddPackage(t, "noarch", "good", "1.0", dist.Conda)
	data, _ := synctest.Package(t, "noarch", "demo", "1.0", dist.Conda)
	vectors := 0
	record := func(change map[string]any) map[string]any {
		r := map[string]any{"name": "demo", "version": "1.0", "build": "0", "build_number": 0, "depends": []string{}, "subdir": "noarch", "size": len(data), "sha256": strings.Repeat("a", 64)}
		for k, v := range change {
			r[k] = v
		}
		return r
	}
	for i, bad := range climbs {
		for _, name := range []string{bad, bad + "-1.0-0.conda", "demo-" + bad + "-0.conda", bad + "/demo-1.0-0.conda", "demo-1.0-0.conda/" + bad} {
			if _, err := dist.ParseFilename(name); err == nil {
				continue
			}
			vectors++
			ch.List("noarch", name, record(nil))
		}
		// An ordinary file name whose record says otherwise.
		for j, field := range []string{"name", "version", "build", "subdir", "fn", "url", "channel"} {
			vectors++
			ch.List("noarch", fmt.Sprintf("r%d.%d-1.0-0.conda", i, j), record(map[string]any{"name": fmt.Sprintf("r%d.%d", i, j), field: bad}))
		}
	}
	up := fetchtest.New(t)
	up.Fallback(ch)
	mirror := func(name string, more map[string]any) {
		t.Helper()
		body := map[string]any{"name": name, "private": false, "mirror_channel_url": up.URL, "mirror_mode": "mirror", "actions": []string{}}
		for k, v := range more {
			body[k] = v
		}
		admin.Must(201, "POST", "/api/channels", body)
		syncEnds(t, s, name)
	}
	mirror("hostile", nil)
	if got := listed(t, s, "hostile"); !slices.Equal(got, []string{good}) {
		t.Errorf("the mirror lists %.500v", got)
	}
	for _, r := range up.Requests() {
		if strings.Contains(r.Path, moo) || strings.Contains(r.Path, "..") || strings.Contains(r.Path, "\\") || strings.ContainsRune(r.Path, 0) {
			t.Errorf("the upstream was asked for %q", r.Path)
		}
	}
	// base_url of the index: another place of the same server is one; no file system is.
	for i, base := range []string{"file:///etc/", "../../../" + moo, "/etc/", "//169.254.169.254/", "http://169.254.169.254/latest/", "http://10.0.0.1/", "ftp://" + moo + "/", "javascript:" + moo, "\\\\host\\" + moo, "http://[::ffff:169.254.169.254]/", "gopher://127.0.0.1:70/"} {
		vectors++
		other := synctest.NewChannel()
		other.AddPackage(t, "noarch", "based", "1.0", dist.Conda)
		other.Info("noarch", "base_url", base)
		up.Fallback(other)
		name := fmt.Sprintf("based%d", i)
		mirror(name, nil)
		for _, f := range listed(t, s, name) {
			if f != "noarch/based-1.0-0.conda" {
				t.Errorf("with base_url %q the mirror lists %s", base, f)
			}
		}
	}
	// Subdirs that the upstream, or the channel's own settings, name.
	for i, bad := range climbs {
		if i%4 != 0 || bad == "" {
			continue
		}
		vectors++
		resp := admin.Do("POST", "/entrepot/v1/channels", map[string]any{"name": fmt.Sprintf("sub%d", i), "kind": "CHANNEL_KIND_MIRROR", "mirror": map[string]any{"url": up.URL, "subdirs": []string{bad}}})
		refused(t, fmt.Sprintf("subdir %.60q", bad), resp)
	}
	if diff := cmp.Diff(before, disk(t, s)); diff != "" {
		t.Errorf("the data directory has changed outside of blobs: %s", diff)
	}
	whole(t, s)
	t.Logf("%d vectors", vectors)
	if vectors < 300 {
		t.Error("that are too few")
	}
}

// TestNamesOfChannels: of channels, pins and files in URLs.
func TestNamesOfChannels(t *testing.T) {
	s := platformtest.Start(t)
	admin := s.Admin().In(t)
	before := disk(t, s)
	secrets := []string{}
	for _, name := range []string{"master-key", "admin-key"} {
		data, err := os.ReadFile(filepath.Join(s.DataDir, name))
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, strings.TrimSpace(string(data)))
	}
	vectors := 0
	get := func(target string) {
		t.Helper()
		vectors++
		status, answer := raw(t, addr(s), "GET "+target+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: "+s.AdminKey+"\r\n\r\n")
		if status < 400 || status >= 500 {
			t.Errorf("GET %.100q: %d %.200s", target, status, answer)
		}
		for _, secret := range secrets {
			if strings.Contains(answer, secret) {
				t.Errorf("GET %.100q gives a key away", target)
			}
		}
	}
	for _, bad := range climbs {
		if strings.HasSuffix(bad, " ") || bad == "" || len(bad) > 1000 {
			continue // a space ends a request line's target
		}
		vectors += 2
		refused(t, fmt.Sprintf("create %.60q", bad), admin.Do("POST", "/api/channels", map[string]any{"name": bad, "private": false}))
		refused(t, fmt.Sprintf("create %.60q", bad), admin.Do("POST", "/entrepot/v1/channels", map[string]any{"name": bad}))
		enc := strings.ReplaceAll(url.QueryEscape(bad), "+", "%20")
		get("/get/" + enc + "/noarch/repodata.json")
		get("/channels/channel0@" + enc + "/noarch/repodata.json")
		get("/entrepot/v1/channels/" + enc)
		get("/api/channels/" + enc + "/packages")
		get("/get/channel0/" + enc + "/repodata.json")
		get("/get/channel0/noarch/" + enc)
		get("/entrepot/v1/jobs/" + enc)
	}
	for _, to := range []string{"master-key", "admin-key", "nats/jetstream", "blobs", "../../../../../../etc/passwd"} {
		for _, up := range []string{"../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..\\", "..%5c", "..%00/", "..;/", "%252e%252e%252f", "..%c0%af", "%uff0e%uff0e/"} {
			for _, prefix := range []string{"/get/channel0/", "/channels/channel0/noarch/", "/channels/channel0@1/", "/"} {
				get(prefix + strings.Repeat(up, 6) + to)
			}
		}
	}
	onlyBlobs(t, s, before)
	t.Logf("%d vectors", vectors)
	if vectors < 300 {
		t.Error("that are too few")
	}
}

// syncEnds starts a sync and waits for its end, whatever it is.
func syncEnds(t *testing.T, s *platformtest.Stack, channel string) (state, text string) {
	t.Helper()
	admin := s.Admin().In(t)
	var job struct {
		ID, State, Error string
		Result           struct {
			Failures []struct{ Path, Error, Reason string }
			Warnings []string
		}
	}
	admin.Must(200, "POST", "/entrepot/v1/channels/"+channel+":sync", map[string]any{}).JSON(&job)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp := admin.Must(200, "GET", "/entrepot/v1/jobs/"+job.ID, nil)
		resp.JSON(&job)
		if job.State == "JOB_STATE_SUCCEEDED" || job.State == "JOB_STATE_DEAD" || job.State == "JOB_STATE_CANCELLED" || job.Error != "" {
			return job.State, string(resp.Body)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the sync of %s is still %s", channel, job.State)
		}
	}
}

// listed returns the paths of a channel's files.
func listed(t *testing.T, s *platformtest.Stack, channel string) (paths []string) {
	t.Helper()
	var list struct{ Files []struct{ Path string } }
	s.Admin().In(t).Must(200, "GET", "/entrepot/v1/channels/"+channel+"/files?page_size=1000", nil).JSON(&list)
	for _, f := range list.Files {
		paths = append(paths, f.Path)
	}
	return paths
}
