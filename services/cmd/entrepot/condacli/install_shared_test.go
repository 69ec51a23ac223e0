package condacli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/install"
	"github.com/entrepot-dev/entrepot/pkg/fetch"
)

// serve serves a channel, after look has seen each request.
func serve(t *testing.T, handler http.Handler, look func(w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if look(w, r) {
			handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func TestTwoWhoAddToOneEnvironmentBothGetTheirs(t *testing.T) {
	dir, prefix := installable(t), filepath.Join(t.TempDir(), "env")
	// While the first one reads its channel, and so after it read the environment, the second one is done.
	var once sync.Once
	server := serve(t, http.FileServer(http.Dir(dir)), func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { installing(t, prefix, "-c", dir, "other") })
		return true
	})
	rep := installing(t, prefix, "-c", server.URL, "-c", dir, "--no-cache", "hello")
	if len(rep.Removed) > 0 || rep.Unchanged != 1 {
		t.Errorf("%+v", rep)
	}
	records, err := install.Read(prefix)
	if err != nil || len(records) != 3 {
		t.Errorf("%v, %d packages", err, len(records))
	}
}

// interrupted leaves a prefix as a process does that is killed right after it began.
func interrupted(t *testing.T, prefix string) {
	t.Helper()
	dir := filepath.Join(prefix, "conda-meta/.transaction")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal.json"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestADryRunKnowsNothingOfAnInterruptedEnvironment(t *testing.T) {
	dir, prefix := installable(t), filepath.Join(t.TempDir(), "env")
	installing(t, prefix, "-c", dir, "hello")
	interrupted(t, prefix)
	if !install.Interrupted(prefix) {
		t.Fatal("it does not look interrupted")
	}
	if _, errs, code := run(t, "", "install", "--dry-run", "--platform", "linux-64", "-p", prefix, "-c", dir, "other"); code == 0 || !strings.Contains(errs, "conda repair") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestChannelsWithCredentialsCanBeInstalledFrom(t *testing.T) {
	dir := installable(t)
	files := http.FileServer(http.Dir(dir))
	basic := serve(t, files, func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		if user != "me" || password != "SECRET" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		return user == "me" && password == "SECRET"
	})
	token := serve(t, http.StripPrefix("/t/SECRET/chan", files), func(w http.ResponseWriter, r *http.Request) bool {
		ok := strings.HasPrefix(r.URL.Path, "/t/SECRET/chan/")
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		return ok
	})
	for name, channel := range map[string]string{
		"basic": strings.Replace(basic.URL, "://", "://me:SECRET@", 1),
		"token": token.URL + "/t/SECRET/chan",
	} {
		t.Run(name, func(t *testing.T) {
			tmp := t.TempDir()
			prefix, cache := filepath.Join(tmp, "env"), filepath.Join(tmp, "cache")
			args := []string{"--package-cache", cache, "-c", channel}
			if rep := installing(t, prefix, append(args, "hello")...); strings.Contains(rep.Installed[0].URL+rep.Installed[0].Channel, "SECRET") {
				t.Errorf("%+v", rep)
			}
			if err := os.RemoveAll(cache); err != nil {
				t.Fatal(err)
			}
			lock := func(format string) string {
				file := filepath.Join(tmp, format)
				if _, errs, code := run(t, "", "lock", "-c", channel, "--platform", "linux-64", "--format", format, "-o", file, "hello"); code != 0 {
					t.Fatalf("%d %s", code, errs)
				}
				return file
			}
			for _, format := range []string{"pixi", "pixi6", "conda-lock", "explicit"} {
				file := lock(format)
				if err := os.RemoveAll(cache); err != nil {
					t.Fatal(err)
				}
				installing(t, filepath.Join(tmp, "from-"+format), append(args, "--lock", file)...)
			}
			if err := os.RemoveAll(cache); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(prefix, "share/greeting")); err != nil {
				t.Fatal(err)
			}
			if out, errs, code := run(t, "", append([]string{"repair", "-p", prefix, "--platform", "linux-64"}, args...)...); code != 0 {
				t.Errorf("repair: %d %s%s", code, out, errs)
			}
			if out, errs, code := run(t, "", append([]string{"pack", "--lock", filepath.Join(tmp, "pixi"), "--platform", "linux-64", "-o", filepath.Join(tmp, "env.tar"), "--segment-cache", filepath.Join(tmp, "segments")}, args...)...); code != 0 {
				t.Errorf("pack: %d %s%s", code, out, errs)
			}
			// What is left behind is for others to read.
			err := filepath.WalkDir(tmp, func(name string, e os.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				data, err := os.ReadFile(name)
				if bytes.Contains(data, []byte("SECRET")) {
					t.Errorf("%s has the secret", name)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAStrangersIndexNamesNoFilesOfThisMachine(t *testing.T) {
	dir, elsewhere := installable(t), t.TempDir()
	name := filepath.Join(dir, "noarch/repodata.json")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var index map[string]any
	if err := json.Unmarshal(data, &index); err != nil {
		t.Fatal(err)
	}
	index["info"] = map[string]any{"subdir": "noarch", "base_url": "file://" + dir + "/noarch/"}
	if data, err = json.Marshal(index); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"noarch", "linux-64"} {
		if err := os.MkdirAll(filepath.Join(elsewhere, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "noarch/repodata.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(elsewhere)))
	defer server.Close()
	if _, errs, code := run(t, "", "install", "-p", filepath.Join(t.TempDir(), "env"), "--platform", "linux-64", "-c", server.URL, "other"); code == 0 || !strings.Contains(errs, "this machine") {
		t.Errorf("%d %s", code, errs)
	}
	installing(t, filepath.Join(t.TempDir(), "env"), "-c", elsewhere, "other") // a channel here may
}

func TestLinkLocalAddressesAreAskedForOnly(t *testing.T) {
	for text, want := range map[string]bool{"http://169.254.1.2/x": false, "http://[fe80::1]/x": false, "http://169.254.169.254/x": false, "http://[::ffff:169.254.1.2]/x": false} {
		for _, allow := range [][]string{nil, {"169.254.0.0/16", "fe80::/10", "169.254.169.254/32"}} {
			client, err := newClient("test", allow)
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.Remote(fetch.RemoteConfig{Name: "x", Kind: "conda", BaseURL: text})
			if err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				r, rerr := client.Remote(fetch.RemoteConfig{Name: "x", Kind: "conda", BaseURL: text, Attempts: 1})
				if rerr != nil {
					t.Fatal(rerr)
				}
				if allow != nil {
					cancel() // nothing is to be sent to such an address by a test
				}
				_, err = r.Get(ctx, fetch.Request{Path: "y", MaxSize: 1})
				cancel()
			}
			refused := err != nil && strings.Contains(err.Error(), "--egress-allow")
			if refused != (allow == nil) || want {
				t.Errorf("%s, %v allowed: %v", text, allow, err)
			}
			client.Close()
		}
	}
	if _, errs, code := run(t, "", "search", "-c", "http://169.254.1.2/x", "y", "--egress-allow", "nowhere"); code != 2 || !strings.Contains(errs, "--egress-allow") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestPackagesWithoutADigestAreNotTakenSilently(t *testing.T) {
	dir := installable(t)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	tmp := t.TempDir()
	lock := func(base string) string {
		file := filepath.Join(tmp, "explicit.txt")
		if err := os.WriteFile(file, []byte("# platform: linux-64\n@EXPLICIT\n"+base+"/noarch/other-1-0.conda\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, c := range []struct {
		base, flag string
		ok         bool
	}{
		{"file://" + dir, "", true},
		{"file://" + dir, "--require-hashes", false},
		{server.URL, "", false},
		{server.URL, "--require-hashes=false", true},
		{server.URL, "--require-hashes=true", false},
	} {
		args := []string{"install", "--platform", "linux-64", "--package-cache", filepath.Join(tmp, "cache"), "-p", filepath.Join(tmp, "env"), "--lock", lock(c.base)}
		if c.flag != "" {
			args = append(args, c.flag)
		}
		_, errs, code := run(t, "", args...)
		if (code == 0) != c.ok || strings.Count(errs, "which digest it must have") != 1 || !strings.Contains(errs, "other-1-0.conda") {
			t.Errorf("%s %s: %d %s", c.base, c.flag, code, errs)
		}
	}
	out := filepath.Join(tmp, "env.tar")
	pack := []string{"pack", "--platform", "linux-64", "--package-cache", filepath.Join(tmp, "cache"), "--segment-cache", filepath.Join(tmp, "segments"), "--lock", lock(server.URL), "-o", out}
	if _, errs, code := run(t, "", pack...); code == 0 || !strings.Contains(errs, "which digest it must have") {
		t.Errorf("pack: %d %s", code, errs)
	}
	if _, errs, code := run(t, "", append(pack, "--require-hashes=perhaps")...); code != 2 || !strings.Contains(errs, "--require-hashes") {
		t.Errorf("pack: %d %s", code, errs)
	}
	if _, errs, code := run(t, "", append(pack, "--require-hashes=false")...); code != 0 || !strings.Contains(errs, "which digest it must have") {
		t.Errorf("pack: %d %s", code, errs)
	}
	records, err := install.Read(filepath.Join(tmp, "env"))
	if err != nil || len(records) != 1 || len(records[0].SHA256) != 64 {
		t.Errorf("%v %+v", err, records)
	}
}

func TestSpecsAreWrittenDownWithoutSecrets(t *testing.T) {
	for text, want := range map[string]string{
		"numpy >=1": "numpy >=1",
		"https://me:word@host.invalid/t/token/chan::numpy >=1":       "https://host.invalid/chan::numpy >=1",
		"numpy[channel='https://me:word@host.invalid/chan',build=x]": "numpy[channel='https://host.invalid/chan',build=x]",
		"numpy[channel=\"https://host.invalid/t/token/chan?a=b\"]":   "numpy[channel=\"https://host.invalid/chan\"]",
	} {
		if got := openly([]string{text})[0]; got != want {
			t.Errorf("%s is written down as %s", text, got)
		}
	}
}

func TestTheAnswerNoIsPrintedAsASolveDoes(t *testing.T) {
	dir, prefix := installable(t), filepath.Join(t.TempDir(), "env")
	out, _, code := run(t, "", "install", "--json", "--platform", "linux-64", "-p", prefix, "-c", dir, "greeting >5")
	var ans answer
	if err := json.Unmarshal([]byte(out), &ans); err != nil || code != 1 || ans.Status != unsolvable || ans.Records == nil || !strings.Contains(ans.Explanation, "greeting") {
		t.Errorf("%d %v %s", code, err, out)
	}
}

func TestALockThatMentionsExplicitListsIsNone(t *testing.T) {
	dir, tmp := installable(t), t.TempDir()
	file := filepath.Join(tmp, "conda-lock.yml")
	if _, errs, code := run(t, "", "lock", "-c", dir, "--platform", "linux-64", "--format", "conda-lock", "-o", file, "hello"); code != 0 {
		t.Fatal(errs)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append([]byte("# this is no @EXPLICIT list\n"), data...), 0o644); err != nil {
		t.Fatal(err)
	}
	if rep := installing(t, filepath.Join(tmp, "env"), "--lock", file); len(rep.Installed) != 2 {
		t.Errorf("%+v", rep)
	}
}
