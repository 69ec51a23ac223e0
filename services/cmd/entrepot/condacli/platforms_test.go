package condacli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// handmade writes an index by hand.
func handmade(t *testing.T, dir, subdir, info string, records ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, subdir), 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"info":{"subdir":"` + subdir + `"` + info + `},"packages":{},"packages.conda":{` + strings.Join(records, ",") + `}}`
	if err := os.WriteFile(filepath.Join(dir, subdir, "repodata.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rec(name, version string, depends ...string) string {
	list, _ := json.Marshal(append([]string{}, depends...))
	return `"` + name + "-" + version + `-0.conda":{"name":"` + name + `","version":"` + version + `","build":"0","build_number":0,"depends":` + string(list) + `}`
}

func TestSeveralPlatformsAreSolvedInOneCall(t *testing.T) {
	dir := t.TempDir()
	handmade(t, dir, "linux-64", "", rec("lib", "2"), rec("only", "1"))
	handmade(t, dir, "osx-arm64", "", rec("lib", "1"))
	handmade(t, dir, "noarch", "", rec("app", "1", "lib"))
	args := []string{"solve", "-c", dir, "--platform", "osx-arm64", "--platform", "linux-64", "--json"}
	versions := func(out string) map[string]string {
		t.Helper()
		var all answers
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		got := map[string]string{}
		for platform, ans := range all.Platforms {
			got[platform] = ans.Status
			for _, r := range ans.Records {
				got[platform] += " " + r.Name + " " + r.Version
			}
		}
		return got
	}
	out, errs, code := run(t, "", append(args, "app")...)
	if diff := cmp.Diff(map[string]string{"linux-64": "solved app 1 lib 2", "osx-arm64": "solved app 1 lib 1"}, versions(out)); diff != "" || code != 0 {
		t.Errorf("code %d, %s (-want +got):\n%s", code, errs, diff)
	}
	out, _, code = run(t, "", append(args, "only")...)
	if diff := cmp.Diff(map[string]string{"linux-64": "solved only 1", "osx-arm64": "unsolvable"}, versions(out)); diff != "" || code != 1 {
		t.Errorf("code %d (-want +got):\n%s", code, diff)
	}
	out, errs, code = run(t, `{"specs":["app"]}`+"\n", append(args[:len(args)-1:len(args)-1], "--batch")...)
	if got := versions(out); got["osx-arm64"] != "solved app 1 lib 1" || got["linux-64"] != "solved app 1 lib 2" || code != 0 {
		t.Errorf("code %d, %s: %v", code, errs, got)
	}
	out, errs, code = run(t, "", append(args[:len(args)-1:len(args)-1], "only")...)
	if code != 1 || !strings.Contains(out, "linux-64:\nNAME") || !strings.Contains(errs, "osx-arm64:\nthe request cannot be met") {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
}

func TestRelatedChannelsAreReadUnlessTheUserSaysNo(t *testing.T) {
	root := t.TempDir()
	handmade(t, filepath.Join(root, "forge"), "noarch", "", rec("lib", "1"), rec("both", "1"))
	handmade(t, filepath.Join(root, "bio"), "noarch", `,"channel_relations":{"base":"../forge"}`, rec("app", "1", "lib"), rec("both", "2"))
	server := httptest.NewServer(http.FileServer(http.Dir(root)))
	defer server.Close()
	for _, channel := range []string{server.URL + "/bio", filepath.Join(root, "bio")} {
		args := []string{"solve", "-c", channel, "--platform", "linux-64", "app", "both"}
		out, errs, code := run(t, "", args...)
		if code != 0 || !strings.Contains(errs, "forge is read, too") || strings.Contains(out, "both  2") {
			t.Errorf("%s: code %d: %s%s", channel, code, out, errs)
		}
		_, errs, code = run(t, "", append(args, "--no-relations")...)
		if code != 1 || !strings.Contains(errs, "lib, which nothing provides") {
			t.Errorf("%s, without relations: code %d: %s", channel, code, errs)
		}
	}
	lock := filepath.Join(t.TempDir(), "pixi.lock")
	if _, errs, code := run(t, "", "lock", "-c", server.URL+"/bio", "--platform", "linux-64", "-o", lock, "app"); code != 0 {
		t.Fatalf("lock: %d: %s", code, errs)
	}
	text, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "- url: "+server.URL+"/forge") || !strings.Contains(string(text), "- url: "+server.URL+"/bio") || !strings.Contains(string(text), "/forge/noarch/lib-1-0.conda") {
		t.Errorf("the lock file should name the given channel only, and where packages are:\n%s", text)
	}
}
