package stack_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/entrepot-dev/entrepot/pkg/fetch/fetchtest"
	"github.com/entrepot-dev/entrepot/services/cmd/entrepot/platform/platformtest"
	"github.com/entrepot-dev/entrepot/services/sync/synctest"
)

func bzip(t *testing.T, data []byte, times int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := bzip2.NewWriter(&buf, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range times {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// bomb is a JSON string without end, 256 MB of it in a few kilobytes.
func bomb(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, `{"packages.conda":{},"x":"`)
	zeros := bytes.Repeat([]byte("0"), 1<<20)
	for range 256 {
		_, _ = w.Write(zeros)
	}
	fmt.Fprint(w, `"}`)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Every subdir of one channel has another broken index. Those that have a whole one in another format are read from
// that; the others keep what the mirror has, also where it removes what upstream dropped; each is named, and so is why.
func TestBadIndexesConcernTheirSubdir(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	m := &mirror{t: t, stack: s, name: "indexes", ch: synctest.NewChannel(), up: fetchtest.New(t)}
	m.up.Fallback(m.ch)
	m.admin().Must(200, "POST", "/entrepot/v1/channels", map[string]any{
		"name": m.name, "private": false, "mirror": map[string]any{"url": m.up.URL, "removal_policy": "REMOVAL_POLICY_PRUNE"},
	})
	subdirs := []string{
		"noarch", "linux-64", "linux-32", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-ppc64", "linux-ppc64le", "linux-riscv32",
		"linux-riscv64", "linux-s390x", "osx-64", "osx-arm64", "win-32", "win-64", "win-arm64", "zos-z", "freebsd-64",
	}
	var old []string
	for i, subdir := range subdirs {
		old = append(old, m.ch.Add(subdir, "first", "1.0", content(i, 500)))
	}
	if r := m.sync(nil); r.Failed != 0 || r.Added != int64(len(subdirs)) {
		t.Fatalf("%+v", r)
	}
	for i, subdir := range subdirs {
		m.indexed(subdir, old[i])
	}
	m.watch(10*time.Second, "noarch", "linux-64", "win-64")

	var fresh []string
	for i, subdir := range subdirs { // upstream replaces first by second everywhere
		m.ch.Remove(subdir + "/first-1.0-0.conda")
		fresh = append(fresh, m.ch.Add(subdir, "second", "1.0", content(50+i, 500)))
	}
	plain := func(subdir string) []byte { return m.ch.Index(subdir) }
	both := func(subdir string, h http.HandlerFunc) {
		m.up.Script("/"+subdir+"/repodata.json", h)
		m.up.Script("/"+subdir+"/repodata.json.zst", h)
	}
	body := func(subdir, name string, data []byte) { m.up.Script("/"+subdir+"/"+name, fetchtest.File(data)) }
	want := map[string]string{}
	broken := func(subdir string) string { want[subdir+"/repodata.json"] = "INDEX_UNREADABLE"; return subdir }

	// Read in another format, or at the second try.
	body("linux-64", "repodata.json.zst", synctest.Zstd(plain("linux-64"))[:40])
	m.up.Script("/linux-32/repodata.json.zst", fetchtest.Status(500))
	body("linux-aarch64", "repodata.json.zst", []byte("this is no zstd"))
	m.up.Script("/linux-armv6l/repodata.json.zst", fetchtest.Status(503), m.ch.ServeHTTP)

	// Not to be read at all.
	both(broken("linux-armv7l"), fetchtest.Truncate(plain("linux-armv7l"), 60, fetchtest.WrongLength))
	both(broken("linux-ppc64"), fetchtest.Status(500))
	both(broken("linux-ppc64le"), fetchtest.Redirect(302, "repodata.json"))
	both(broken("linux-riscv32"), fetchtest.GzipBomb(1<<30))
	both(broken("linux-riscv64"), fetchtest.Endless([]byte(strings.Repeat(" ", 64<<10))))
	both(broken("linux-s390x"), fetchtest.Drip(plain("linux-s390x"), 1, 100*time.Millisecond))
	both(broken("osx-64"), fetchtest.Hang())
	body(broken("osx-arm64"), "repodata.json.zst", bomb(t))
	body("osx-arm64", "repodata.json", []byte(`{"packages.conda":`+strings.Repeat("[", 5<<20)))
	m.up.Script("/osx-arm64/repodata.json.bz2", fetchtest.File(bzip(t, bytes.Repeat([]byte(" "), 1<<20), 16)))
	both(broken("win-32"), fetchtest.File([]byte(`{"info":{"subdir":"win-64"},"packages.conda":{}}`)))
	body(broken("win-64"), "repodata.json.zst", append(synctest.Zstd(plain("win-64")), synctest.Zstd([]byte("{}"))...))
	body("win-64", "repodata.json", append(plain("win-64"), "{}"...))
	both(broken("win-arm64"), fetchtest.File([]byte(`{"packages.conda":{"x-1-0.conda":{"size":NaN}}}`)))
	both(broken("zos-z"), fetchtest.Status(404))
	m.ch.Info("freebsd-64", "base_url", "file:///etc/")
	want["freebsd-64/repodata.json.zst"] = "INDEX_UNREADABLE"

	r := m.sync(nil)
	if diff := cmp.Diff(want, r.failures()); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	for _, f := range r.Failures {
		t.Logf("%s: %s", f.Path, f.Error)
	}
	if r.Added != 5 || r.Removed != 5 || r.Failed != int64(len(want)) {
		t.Errorf("added %d, removed %d, failed %d", r.Added, r.Removed, r.Failed)
	}
	for i, subdir := range subdirs {
		_, a := want[subdir+"/repodata.json"]
		_, b := want[subdir+"/repodata.json.zst"]
		if a || b {
			m.indexed(subdir, old[i])
			m.admin().Must(200, "GET", "/get/indexes/"+old[i], nil)
			continue
		}
		m.indexed(subdir, fresh[i])
		m.good(fresh[i])
	}
}

// Nothing is removed because an upstream does not answer, and what it dropped goes as the policy says.
func TestRemovalsFollowThePolicy(t *testing.T) {
	s := platformtest.Start(t, platformtest.WithConfig(impatient))
	for _, policy := range []string{"KEEP", "PRUNE"} {
		t.Run(policy, func(t *testing.T) {
			m := &mirror{t: t, stack: s, name: "removals-" + strings.ToLower(policy), ch: synctest.NewChannel(), up: fetchtest.New(t)}
			m.up.Fallback(m.ch)
			m.admin().Must(200, "POST", "/entrepot/v1/channels", map[string]any{
				"name": m.name, "private": false, "mirror": map[string]any{"url": m.up.URL, "removal_policy": "REMOVAL_POLICY_" + policy},
			})
			a, b := m.ch.Add("noarch", "a", "1.0", content(1, 300)), m.ch.Add("noarch", "b", "1.0", content(2, 300))
			c := m.ch.Add("linux-64", "c", "1.0", content(3, 300))
			m.sync(nil)
			all := []string{c, a, b}

			// All of it is away at once: that is a broken server.
			m.up.Script("/noarch/repodata.json.zst", fetchtest.Status(404))
			m.up.Script("/noarch/repodata.json", fetchtest.Status(404))
			m.up.Script("/linux-64/repodata.json.zst", fetchtest.Status(404))
			m.up.Script("/linux-64/repodata.json", fetchtest.Status(404))
			j := m.wait(m.start(nil).ID, ended)
			if !strings.Contains(j.Error, "repodata.json") || !strings.Contains(j.Error, "404") {
				t.Errorf("the job's error: %q", j.Error)
			}
			m.admin().Do("POST", "/entrepot/v1/jobs/"+j.ID+":cancel", map[string]any{})
			m.wait(j.ID, func(j job) bool { return j.State == "JOB_STATE_CANCELLED" })
			if diff := cmp.Diff(all, m.listed()); diff != "" {
				t.Fatalf("listed (-want +got):\n%s", diff)
			}

			// One subdir is away, and nobody says that it was dropped.
			m.up.Script("/noarch/repodata.json.zst", m.ch.ServeHTTP)
			m.up.Script("/noarch/repodata.json", m.ch.ServeHTTP)
			if r := m.sync(nil); r.Removed != 0 || r.failures()["linux-64/repodata.json"] != "INDEX_UNREADABLE" {
				t.Errorf("a subdir that is away: %+v", r)
			}

			// channeldata.json says so, and a file was taken out.
			m.ch.Put("channeldata.json", []byte(`{"channeldata_version":1,"packages":{},"subdirs":["noarch"]}`))
			m.ch.Remove(b)
			r := m.sync(nil)
			want := []string{a}
			if policy == "KEEP" {
				want = all
			}
			if diff := cmp.Diff(want, m.listed()); diff != "" || r.Failed != 0 || r.Removed != int64(3-len(want)) {
				t.Errorf("%+v\nlisted (-want +got):\n%s", r, diff)
			}
			m.good(a)
		})
	}
}
