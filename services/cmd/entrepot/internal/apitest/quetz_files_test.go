package apitest

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
)

// listed waits until a channel's repodata.json lists a package.
func listed(t *testing.T, c *platformtest.Client, channel string, p *pkg) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if bytes.Contains(c.Do("GET", "/get/"+channel+"/"+p.subdir+"/repodata.json", nil).Body, []byte(p.filename)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is not in the index", p.filename)
		}
	}
}

// TestQuetzDeleted: who deletes a file or a package does not find it afterwards, by whichever API, although an index that
// still lists it may lag behind; quetz.md §2.2, R18.
func TestQuetzDeleted(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob := w.User("bob")
	base := "/api/channels/" + ch.name
	for i, p := range packages(t)[1:6] {
		bob.In(t).Must(201, "POST", base+"/upload/"+p.filename+"?sha256=", p.data)
		listed(t, bob, ch.name, p) // only what an index lists could be had for longer
		file := "/get/" + ch.name + "/" + p.subdir + "/" + p.filename
		bob.In(t).Must(200, "GET", file, nil) // and remembered
		native := "/entrepot/v1/channels/" + ch.name
		path := []string{
			base + "/packages/" + p.name + "/versions/" + p.subdir + "/" + p.filename, base + "/packages/" + p.name,
			native + "/files/" + p.subdir + "/" + p.filename, native + "/packages/" + p.name,
		}[i%4]
		bob.In(t).Must(200, "DELETE", path, nil)
		bob.In(t).Must(404, "GET", file, nil)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if !bytes.Contains(bob.In(t).Do("GET", "/get/"+ch.name+"/"+p.subdir+"/repodata.json", nil).Body, []byte(p.filename)) {
				break
			}
			bob.In(t).Must(404, "GET", file, nil)
			if time.Now().After(deadline) {
				t.Fatalf("%s is gone, but listed", p.filename)
			}
		}
		bob.In(t).Must(201, "POST", base+"/upload/"+p.filename+"?sha256=", p.data)
		bob.In(t).Must(200, "GET", file, nil)
	}
}

// TestQuetzRecords: the record of an upload says when it was written, in seconds, and its keys are sorted; quetz.md §11.
func TestQuetzRecords(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	bob := w.User("bob")
	version := "/api/channels/" + ch.name + "/packages/" + ch.pkg.name + "/versions/" + ch.pkg.subdir + "/" + ch.pkg.filename
	modified := func() int64 {
		var v struct {
			Info struct {
				TimeModified int64 `json:"time_modified"`
			}
		}
		bob.In(t).Must(200, "GET", version, nil).JSON(&v)
		return v.Info.TimeModified
	}
	first := modified()
	if age := time.Now().Unix() - first; age < 0 || age > 600 {
		t.Fatalf("time_modified is %d", first)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Unix() == first && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	bob.Must(201, "POST", "/api/channels/"+ch.name+"/upload/"+ch.pkg.filename+"?sha256=&force=true", ch.pkg.data)
	if now := modified(); now <= first {
		t.Errorf("time_modified is %d after a forced upload, and was %d", now, first)
	}
}

// TestQuetzProxylist: a mirror sends clients upstream for what is on its proxylist, before its first sync and from the moment
// at which a name comes on the list; quetz.md §6, §16.
func TestQuetzProxylist(t *testing.T) {
	w := newWorld(t)
	ch := w.newChannel(t)
	w.User("bob").Must(200, "PATCH", "/api/channels/"+ch.name, map[string]any{"private": false})
	listed(t, w.Anonymous(), ch.name, ch.pkg)
	upstream := w.URL + "/get/" + ch.name
	file := ch.pkg.subdir + "/" + ch.pkg.filename
	alice := w.Admin().In(t)
	for _, mode := range []string{"mirror", "proxy"} {
		alice.Must(201, "POST", "/api/channels", map[string]any{
			"name": "list-" + mode, "private": false, "mirror_channel_url": upstream, "mirror_mode": mode, "actions": []any{},
			"metadata": map[string]any{"proxylist": []any{ch.pkg.name}},
		})
		if to := w.Anonymous().In(t).Must(307, "GET", "/get/list-"+mode+"/"+file, nil).Header.Get("Location"); to != upstream+"/"+file {
			t.Errorf("%s: Location %s", mode, to)
		}
		w.Anonymous().In(t).Must(404, "GET", "/get/list-"+mode+"/"+ch.pkg.subdir+"/none-1-0.conda", nil)
	}
	alice.Must(201, "POST", "/api/channels", map[string]any{"name": "later", "private": false, "mirror_channel_url": upstream, "mirror_mode": "mirror"})
	for deadline := time.Now().Add(20 * time.Second); w.Anonymous().Do("GET", "/get/later/"+file, nil).Status != 200; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the mirror has no file")
		}
	}
	alice.Must(200, "PATCH", "/api/channels/later", map[string]any{"metadata": map[string]any{"proxylist": []any{ch.pkg.name}}})
	if to := w.Anonymous().In(t).Must(307, "GET", "/get/later/"+file, nil).Header.Get("Location"); to != upstream+"/"+file {
		t.Errorf("Location %s", to)
	}
	other := slices.IndexFunc(packages(t), func(p *pkg) bool { return p.name != ch.pkg.name })
	w.Anonymous().In(t).Must(404, "GET", "/get/later/"+packages(t)[other].subdir+"/"+packages(t)[other].filename, nil)
}
