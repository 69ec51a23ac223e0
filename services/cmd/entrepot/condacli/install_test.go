package condacli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/entrepot-dev/entrepot/pkg/conda/archive"
	"github.com/entrepot-dev/entrepot/pkg/conda/dist"
	"github.com/entrepot-dev/entrepot/pkg/conda/install"
)

// installable makes a channel of packages with files: hello needs greeting, of which there are two versions.
func installable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	placeholder := ("/opt/" + strings.Repeat("placehold_", 30))[:255]
	for _, p := range []struct {
		index archive.Index
		files []archive.Input
	}{
		{archive.Index{Name: "hello", Version: "1", Build: "0", Subdir: "linux-64", Depends: []string{"greeting"}}, []archive.Input{
			{Path: "bin/hello", Mode: 0o755, Data: []byte("#!/bin/sh\ncat " + placeholder + "/share/greeting\necho \"$GREETED\"\nexit ${1:-0}\n"), Placeholder: placeholder},
			{Path: "etc/conda/activate.d/hello.sh", Data: []byte("export GREETED=\"by $CONDA_PREFIX\"\n")},
		}},
		{archive.Index{Name: "greeting", Version: "1", Build: "0", Subdir: "noarch", Noarch: archive.NoarchGeneric}, []archive.Input{{Path: "share/greeting", Data: []byte("hello 1\n")}}},
		{archive.Index{Name: "greeting", Version: "2", Build: "0", Subdir: "noarch", Noarch: archive.NoarchGeneric}, []archive.Input{{Path: "share/greeting", Data: []byte("hello 2\n")}}},
		{archive.Index{Name: "other", Version: "1", Build: "0", Subdir: "noarch", Noarch: archive.NoarchGeneric}, []archive.Input{{Path: "share/other", Data: []byte("other\n")}}},
	} {
		var buf bytes.Buffer
		d, err := archive.Create(t.Context(), &buf, dist.Conda, archive.Meta{Index: p.index}, p.files)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, p.index.Subdir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p.index.Subdir, d.Filename()), buf.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, errs, code := run(t, "", "index", dir); code != 0 {
		t.Fatalf("index: %d\n%s%s", code, out, errs)
	}
	return dir
}

// installing runs install with --json and returns the report.
func installing(t *testing.T, prefix string, args ...string) installReport {
	t.Helper()
	out, errs, code := run(t, "", append([]string{"install", "--json", "--platform", "linux-64", "--prefix", prefix}, args...)...)
	var rep installReport
	if err := json.Unmarshal([]byte(out), &rep); err != nil || code != 0 {
		t.Fatalf("%d, %v\n%s%s", code, err, out, errs)
	}
	return rep
}

func TestInstallAddsToWhatIsThere(t *testing.T) {
	dir, prefix := installable(t), filepath.Join(t.TempDir(), "env")
	if rep := installing(t, prefix, "-c", dir, "--dry-run", "hello"); rep.Status != "dry-run" || len(rep.Installed) != 2 {
		t.Errorf("%+v", rep)
	}
	if _, err := os.Lstat(prefix); err == nil {
		t.Fatal("a dry run made the environment")
	}
	rep := installing(t, prefix, "-c", dir, "hello", "greeting <2")
	if rep.Status != "installed" || len(rep.Installed) != 2 || rep.Files.Rewritten != 1 || rep.Fetched == 0 {
		t.Errorf("%+v", rep)
	}
	if rep = installing(t, prefix, "-c", dir, "other"); len(rep.Installed) != 1 || rep.Unchanged != 2 || len(rep.Removed)+len(rep.Replaced) != 0 {
		t.Errorf("adding one changed others: %+v", rep)
	}
	if rep = installing(t, prefix, "-c", dir, "other"); rep.Status != "unchanged" || rep.Unchanged != 3 {
		t.Errorf("%+v", rep)
	}
	if rep = installing(t, prefix, "-c", dir, "greeting >=2"); len(rep.Replaced) != 1 || rep.Replaced[0].To.Version != "2" || rep.Unchanged != 2 {
		t.Errorf("%+v", rep)
	}
	records, err := install.Read(prefix)
	if err != nil || records[0].RequestedSpecs[0] != "greeting >=2" || records[1].RequestedSpecs[0] != "hello" || records[0].Channel != "file://"+dir+"/" {
		t.Errorf("%v %+v", err, records)
	}
	history, err := os.ReadFile(filepath.Join(prefix, "conda-meta/history"))
	if err != nil {
		t.Fatal(err)
	}
	if revisions := install.ParseHistory(history); len(revisions) != 3 || revisions[2].Requests[0].Specs[0] != "greeting >=2" || revisions[2].Tool != "entrepot version: test" {
		t.Errorf("%+v", revisions)
	}
	if _, errs, code := run(t, "", "install", "--platform", "linux-64", "-p", prefix, "-c", dir, "greeting >5"); code != 1 || !strings.Contains(errs, "greeting") {
		t.Errorf("%d %s", code, errs)
	}
}

func TestInstallFollowsLocksOfEveryKind(t *testing.T) {
	dir := installable(t)
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	for _, channel := range []string{dir, server.URL} {
		for _, format := range []string{"pixi", "pixi6", "conda-lock", "explicit"} {
			lockFile := filepath.Join(t.TempDir(), "lock")
			if _, errs, code := run(t, "", "lock", "-c", channel, "--platform", "linux-64", "--format", format, "-o", lockFile, "hello"); code != 0 {
				t.Fatalf("%s: %d %s", format, code, errs)
			}
			prefix := filepath.Join(t.TempDir(), "env")
			installing(t, prefix, "-c", channel, "other")
			rep := installing(t, prefix, "--lock", lockFile)
			if len(rep.Installed) != 2 || len(rep.Removed) != 1 {
				t.Errorf("%s: %+v", format, rep)
			}
			if rep := installing(t, prefix, "--lock", lockFile); rep.Status != "unchanged" {
				t.Errorf("%s: the second time: %+v", format, rep)
			}
			records, err := install.Read(prefix)
			if err != nil || records[0].Name != "greeting" || records[0].NoArch != "generic" || records[1].Depends[0] != "greeting" || records[1].URL == "" {
				t.Errorf("%s: %v %+v", format, err, records[0])
			}
			out, errs, code := run(t, "", "verify", "-p", prefix)
			if code != 0 {
				t.Errorf("%s: %s%s", format, out, errs)
			}
		}
	}
}

func TestOfflineTheCacheMustHaveThem(t *testing.T) {
	dir := installable(t)
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	defer server.Close()
	tmp := t.TempDir()
	lockFile, cache := filepath.Join(tmp, "pixi.lock"), filepath.Join(tmp, "cache")
	if _, errs, code := run(t, "", "lock", "-c", server.URL, "--platform", "linux-64", "-o", lockFile, "hello"); code != 0 {
		t.Fatal(errs)
	}
	args := []string{"install", "--platform", "linux-64", "--lock", lockFile, "--package-cache", cache, "-p"}
	if _, errs, code := run(t, "", append(args, filepath.Join(tmp, "a"), "--offline")...); code == 0 || !strings.Contains(errs, "--offline") {
		t.Errorf("%d %s", code, errs)
	}
	if _, errs, code := run(t, "", append(args, filepath.Join(tmp, "a"))...); code != 0 {
		t.Fatal(errs)
	}
	before := requests.Load()
	if _, errs, code := run(t, "", append(args, filepath.Join(tmp, "b"), "--offline")...); code != 0 || requests.Load() != before {
		t.Errorf("%d %s, %d requests", code, errs, requests.Load()-before)
	}
}

func TestCommandsRunInAnEnvironment(t *testing.T) {
	dir, prefix := installable(t), filepath.Join(t.TempDir(), "env")
	installing(t, prefix, "-c", dir, "hello")
	out, errs, code := run(t, "", "run", "-p", prefix, "hello", "7")
	if want := "hello 2\nby " + prefix + "\n"; out != want || code != 7 {
		t.Errorf("%d %q %s, want %q", code, out, errs, want)
	}
	if out, _, code = run(t, "", "run", "-p", prefix, "--no-scripts", "--", "hello"); out != "hello 2\n\n" || code != 0 {
		t.Errorf("%d %q", code, out)
	}
	if _, errs, code = run(t, "", "run", "-p", t.TempDir(), "hello"); code != 2 || !strings.Contains(errs, "no conda environment") {
		t.Errorf("%d %q", code, errs)
	}
	if out, _, code = run(t, "", "activate", "-p", prefix, "--shell", "bash"); code != 0 || !strings.Contains(out, "export CONDA_PREFIX="+prefix) || !strings.Contains(out, "activate.d/hello.sh") {
		t.Errorf("%d %q", code, out)
	}
	if _, errs, code = run(t, "", "activate", "-p", prefix, "--shell", "cmd.exe"); code != 2 || !strings.Contains(errs, "--shell") {
		t.Errorf("%d %q", code, errs)
	}
}

func TestDamageIsReportedAndRepaired(t *testing.T) {
	dir, tmp := installable(t), t.TempDir()
	prefix, cache := filepath.Join(tmp, "env"), filepath.Join(tmp, "cache")
	installing(t, prefix, "-c", dir, "--package-cache", cache, "hello")
	if err := os.Remove(filepath.Join(prefix, "share/greeting")); err != nil {
		t.Fatal(err)
	}
	out, errs, code := run(t, "", "verify", "-p", prefix)
	if code != 1 || !strings.Contains(out, "greeting: share/greeting: missing") {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if out, errs, code = run(t, "", "repair", "-p", prefix, "--platform", "linux-64", "--package-cache", cache, "--json"); code != 0 || !strings.Contains(out, `"repaired"`) {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if out, errs, code = run(t, "", "verify", "-p", prefix, "--json"); code != 0 || !strings.Contains(out, `"ok"`) {
		t.Errorf("%d %q %s", code, out, errs)
	}
	if err := os.WriteFile(filepath.Join(prefix, "conda-meta/frozen"), []byte(`{"message": "do not touch"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs, code = run(t, "", "install", "-p", prefix, "--platform", "linux-64", "-c", dir, "other"); code != 2 || !strings.Contains(errs, "do not touch") || !strings.Contains(errs, "--force-frozen") {
		t.Errorf("%d %q", code, errs)
	}
}

func TestBadInstallationsAreRefused(t *testing.T) {
	dir := installable(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	for flag, args := range map[string][]string{
		"--prefix":      {"-c", dir, "hello"},
		"directory":     {"-p", file, "-c", dir, "hello"},
		"SPEC":          {"-p", "env"},
		"--lock":        {"-p", "env", "--lock", file, "hello"},
		"line 1":        {"-p", "env", "--lock", file},
		"--compile-pyc": {"-p", file + "-env", "-c", dir, "--platform", "linux-64", "--compile-pyc", "yes", "hello"},
		"--sandbox":     {"-p", file + "-env", "-c", dir, "--platform", "linux-64", "--sandbox", "yes", "hello"},
		"platform":      {"-p", "env", "--platform", "noarch", "--lock", file},
		"absolute":      {"-p", "env", "-c", dir, "--target-prefix", "x", "hello"},
	} {
		if _, errs, code := run(t, "", append([]string{"install"}, args...)...); code != 2 || !strings.Contains(errs, flag) {
			t.Errorf("%v: %d %q", args, code, errs)
		}
	}
}
